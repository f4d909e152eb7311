//! What `source` may say.

use std::fmt;
use std::path::PathBuf;

use super::document::redact_passwords;

/// What is captured.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A PostgreSQL database.
    Postgres(PostgresUrl),
    /// An SQLite database file.
    Sqlite(PathBuf),
    /// The directory of a RocksDB database.
    RocksDb(PathBuf),
    /// A log of an engine that embeds `cdc-wal`.
    Wal(PathBuf),
}

/// A PostgreSQL connection URL; `Display` and `Debug` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PostgresUrl(String);

impl PostgresUrl {
    /// The whole URL, password included. Only for the connection itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact_passwords(&self.0))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a source: what is wrong and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceRefusal {
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: String,
}

/// Lets the reader judge the URL, so that a bad one is found before anything starts.
fn check_postgres(url: &str) -> Result<(), SourceRefusal> {
    match cdc_wal::postgres::PostgresConfig::parse(url) {
        Ok(_) => Ok(()),
        Err(error) => Err(SourceRefusal {
            message: error.to_string(),
            help: "write postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full, with %XX for special characters".to_owned(),
        }),
    }
}

/// What sources look like, for help.
pub(crate) const SOURCE_HELP: &str = "write a source such as \"postgres://cdc@localhost/shop\", \"sqlite:/var/lib/app/shop.db\", \"rocksdb:/var/lib/app/store\" or \"wal:/var/lib/engine/wal\"";

impl Source {
    /// Reads what a user wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, SourceRefusal> {
        let refuse = |message: String, help: &str| {
            Err(SourceRefusal {
                message,
                help: help.to_owned(),
            })
        };
        let text = text.trim();
        if text.is_empty() {
            return refuse("the source is empty".into(), SOURCE_HELP);
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return refuse("the source has no scheme".into(), SOURCE_HELP);
        };
        match scheme.to_ascii_lowercase().as_str() {
            "postgres" | "postgresql" => {
                if rest.strip_prefix("//").is_none_or(str::is_empty) {
                    return refuse(
                        format!("the source after {scheme}: is not a URL"),
                        "write postgres://USER@HOST:PORT/DATABASE, such as \"postgres://cdc@localhost:5432/shop\"",
                    );
                }
                check_postgres(text)?;
                Ok(Self::Postgres(PostgresUrl(text.to_owned())))
            }
            "wal" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() {
                    return refuse(
                        "the source wal: names no directory".into(),
                        "name the directory of the log, such as \"wal:/var/lib/engine/wal\"",
                    );
                }
                Ok(Self::Wal(PathBuf::from(path)))
            }
            "sqlite" => match cdc_wal::sqlite::SqliteConfig::parse(rest) {
                Ok(_) => Ok(Self::Sqlite(PathBuf::from(
                    rest.strip_prefix("//").unwrap_or(rest),
                ))),
                Err(_) => refuse(
                    "the source sqlite: names no database file".into(),
                    "name the file, such as \"sqlite:/var/lib/app/shop.db\"",
                ),
            },
            "rocksdb" => match rest.strip_prefix("//").unwrap_or(rest) {
                "" => refuse(
                    "the source rocksdb: names no directory".into(),
                    "name the directory of the database, such as \"rocksdb:/var/lib/app/store\"",
                ),
                path => Ok(Self::RocksDb(PathBuf::from(path))),
            },
            other => {
                let known = ["postgres", "postgresql", "wal", "sqlite", "rocksdb"];
                let help = super::problem::nearest(other, known).map_or_else(
                    || SOURCE_HELP.to_owned(),
                    |near| format!("did you mean \"{near}:\"? {SOURCE_HELP}"),
                );
                Err(SourceRefusal {
                    message: format!("unknown kind of source {other:?}"),
                    help,
                })
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => fmt::Display::fmt(url, f),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::RocksDb(path) => write!(f, "rocksdb:{}", path.display()),
            Self::Wal(path) => write!(f, "wal:{}", path.display()),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        for (text, shown) in [
            (
                "postgres://cdc@localhost/shop",
                "postgres://cdc@localhost/shop",
            ),
            (
                "postgresql://u:pw@[::1]:5432/x",
                "postgresql://u:***@[::1]:5432/x",
            ),
            ("wal:/var/lib/engine/wal", "wal:/var/lib/engine/wal"),
            ("wal:relative", "wal:relative"),
            ("sqlite:///var/shop.db", "sqlite:/var/shop.db"),
            ("SQLITE:shop.db", "sqlite:shop.db"),
            ("rocksdb:///var/store", "rocksdb:/var/store"),
            ("wal:///var/wal", "wal:/var/wal"),
        ] {
            assert_eq!(Source::parse(text).unwrap().to_string(), shown);
            assert!(!format!("{:?}", Source::parse(text).unwrap()).contains("pw"));
        }
        for (text, message) in [
            ("", "the source is empty"),
            ("shop", "the source has no scheme"),
            ("postgres:", "the source after postgres: is not a URL"),
            ("wal:", "the source wal: names no directory"),
            ("sqlite:", "the source sqlite: names no database file"),
            ("rocksdb:", "the source rocksdb: names no directory"),
            (
                "sqlite::memory:",
                "the source sqlite: names no database file",
            ),
            ("mysql://h/db", "unknown kind of source \"mysql\""),
        ] {
            assert_eq!(Source::parse(text).unwrap_err().message, message);
        }
        assert!(
            Source::parse("postgre://h/db")
                .unwrap_err()
                .help
                .contains("did you mean \"postgres:\"")
        );
    }
}
