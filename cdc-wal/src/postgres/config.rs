//! What to connect to, and how.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use cdc_core::{Lineage, ResumeToken, SourceError, SourceErrorKind};

/// Whether the connection is encrypted; the words are libpq's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it; the certificate is not checked.
    #[default]
    Prefer,
    /// Always; the certificate is checked only if `sslrootcert` is given, as in libpq.
    Require,
    /// Always; the certificate must come from a known authority.
    VerifyCa,
    /// Always; the certificate must come from a known authority and name the host.
    VerifyFull,
}

impl SslMode {
    /// The name in connection strings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// How to reach a PostgreSQL server and what to capture there.
///
/// Made from a connection string by [`PostgresConfig::parse`]; every other field has a default.
/// `Debug` and [`PostgresConfig::address`] never show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// Host name, address, or (beginning with `/`) the directory of a Unix socket. Default
    /// `localhost`.
    pub host: String,
    /// Default 5432.
    pub port: u16,
    /// Default `postgres`.
    pub user: String,
    /// Sent only if the server asks for it.
    pub password: Option<String>,
    /// Default: the user's name.
    pub database: String,
    /// Default [`SslMode::Prefer`]; without the feature `tls` the stronger modes are refused.
    pub ssl_mode: SslMode,
    /// PEM file of certificate authorities instead of the operating system's.
    pub ssl_root_cert: Option<PathBuf>,
    /// Shown in `pg_stat_activity`. Default `weftkit-cdc`.
    pub application_name: String,
    /// The name events carry as their source. Default: the database's name.
    pub name: Option<String>,
    /// Replication slot. Default `weftkit_cdc`.
    pub slot: String,
    /// Publication. Default `weftkit_cdc`.
    pub publication: String,
    /// Tables of a publication this reader creates, `schema.table` or `table` (then `public`).
    pub tables: Vec<String>,
    /// Schemas of a publication this reader creates (PostgreSQL 15 or later). With neither tables
    /// nor schemas it is created for all tables, which takes a superuser.
    pub schemas: Vec<String>,
    /// Create the slot when absent. Default true.
    pub create_slot: bool,
    /// Create the publication when absent. Default true.
    pub create_publication: bool,
    /// Create it even if it has tables without replica identity (no primary key, or none set), of
    /// which the server then refuses every UPDATE and DELETE. Default false.
    pub accept_keyless: bool,
    /// Create it for all tables but those; neither they nor tables that are created later are
    /// captured then. Counts where neither tables nor schemas are named. Default false.
    pub without_keyless: bool,
    /// Use a slot that vanishes with the connection, and drop a publication this reader created
    /// when it is closed. Nothing is kept for a restart. Default false.
    pub temporary: bool,
    /// Start even if changes since the resume position are gone. Counts for the start alone: changes
    /// that are gone when a connection is built up again are a gap all the same. Default false.
    pub accept_gap: bool,
    /// The history of what was captured before, if anything was. Another source is then refused,
    /// and a slot that is gone is a gap: neither slot nor publication is created. Default `None`.
    pub captured: Option<Lineage>,
    /// How far what was captured before reaches, with the history it is of. A server of this history
    /// whose log ends before it was restored from an older backup: it gives the same positions to
    /// other changes, and is refused before anything is created. Nothing is skipped because of it.
    /// Default `None`.
    pub captured_to: Option<ResumeToken>,
    /// Longest time between status updates; a third of the server's `wal_sender_timeout` if that
    /// is less. Default 10 s.
    pub status_interval: Duration,
    /// Longest time one attempt to connect or one question to the server may take. Default 10 s.
    pub connect_timeout: Duration,
    /// How long to wait for a slot that is still active, perhaps for our own broken connection; when
    /// a connection is built up again, at least 10 s longer than the server's `wal_sender_timeout`.
    /// Default 5 s.
    pub slot_wait: Duration,
    /// First bound of the random wait before reconnecting; it doubles. Default 100 ms.
    pub backoff_min: Duration,
    /// Last bound of the random wait before reconnecting. Default 30 s.
    pub backoff_max: Duration,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 5432,
            user: "postgres".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            ssl_mode: SslMode::default(),
            ssl_root_cert: None,
            application_name: "weftkit-cdc".to_owned(),
            name: None,
            slot: "weftkit_cdc".to_owned(),
            publication: "weftkit_cdc".to_owned(),
            tables: Vec::new(),
            schemas: Vec::new(),
            create_slot: true,
            create_publication: true,
            accept_keyless: false,
            without_keyless: false,
            temporary: false,
            accept_gap: false,
            captured: None,
            captured_to: None,
            status_interval: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            slot_wait: Duration::from_secs(5),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("address", &self.address())
            .field("slot", &self.slot)
            .field("publication", &self.publication)
            .field("temporary", &self.temporary)
            .finish_non_exhaustive()
    }
}

fn refuse(what: impl fmt::Display) -> SourceError {
    SourceError::new(
        SourceErrorKind::Configuration,
        format!("read the PostgreSQL connection string: {what}"),
    )
}

/// The settings a connection string may carry.
const SETTINGS: &str = "host, port, user, password, dbname, sslmode, sslrootcert, \
    application_name, connect_timeout, slot, publication";

impl PostgresConfig {
    /// Reads `postgres://user:password@host:port/database?sslmode=...`, or libpq's
    /// `key=value key='a value'`. A Unix socket is `postgres:///shop?host=/run/postgresql` or
    /// `host=/run/postgresql dbname=shop`. Environment variables are not read.
    ///
    /// # Errors
    /// [`SourceErrorKind::Configuration`], naming the setting; never its value if that may be a
    /// secret.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let text = text.trim();
        let pairs = match ["postgres://", "postgresql://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
        {
            Some(rest) => url_pairs(rest)?,
            None => keyword_pairs(text)?,
        };
        let mut config = Self::default();
        let mut database = None;
        for (key, value) in pairs {
            if key == "dbname" {
                database = Some(value);
            } else {
                config.set(&key, value)?;
            }
        }
        config.database = match database {
            Some(name) if !name.is_empty() => name,
            _ => config.user.clone(),
        };
        Ok(config)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), SourceError> {
        match key {
            "host" | "hostaddr" => self.host = value,
            "port" => {
                self.port = value
                    .parse()
                    .map_err(|_| refuse("port must be a number from 1 to 65535"))?;
            }
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "sslmode" => {
                self.ssl_mode = match value.as_str() {
                    "disable" => SslMode::Disable,
                    "allow" | "prefer" => SslMode::Prefer,
                    "require" => SslMode::Require,
                    "verify-ca" => SslMode::VerifyCa,
                    "verify-full" => SslMode::VerifyFull,
                    _ => {
                        return Err(refuse(
                            "sslmode must be disable, prefer, require, verify-ca or verify-full",
                        ));
                    }
                }
            }
            "sslrootcert" => self.ssl_root_cert = (value != "system").then(|| value.into()),
            "application_name" => self.application_name = value,
            "connect_timeout" => {
                let seconds: u32 = value
                    .parse()
                    .map_err(|_| refuse("connect_timeout must be a number of seconds"))?;
                // 0 means no limit to libpq; here every wait has one.
                if seconds > 0 {
                    self.connect_timeout = Duration::from_secs(seconds.into());
                }
            }
            "slot" => self.slot = value,
            "publication" => self.publication = value,
            _ => {
                return Err(refuse(format_args!(
                    "unknown setting {key:?}; known are {SETTINGS}"
                )));
            }
        }
        Ok(())
    }

    /// Where it points, without the password: `postgres://user@host:port/database`.
    pub fn address(&self) -> String {
        let Self {
            user,
            host,
            port,
            database,
            ..
        } = self;
        if host.starts_with('/') {
            format!("postgres://{user}@/{database}?host={host}&port={port}")
        } else if host.contains(':') {
            format!("postgres://{user}@[{host}]:{port}/{database}")
        } else {
            format!("postgres://{user}@{host}:{port}/{database}")
        }
    }

    /// Refuses what cannot work, before anything is connected.
    pub(crate) fn validate(&self) -> Result<(), SourceError> {
        let refuse = |what: String| SourceError::new(SourceErrorKind::Configuration, what);
        let plain = |name: &str| {
            !name.is_empty()
                && name.len() <= 63
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !plain(&self.slot) {
            return Err(refuse(format!(
                "use replication slot {:?}: a name holds 1 to 63 of a-z, 0-9 and _; change slot",
                self.slot
            )));
        }
        if self.publication.is_empty() || self.publication.len() > 63 {
            return Err(refuse(
                "use a publication: its name must have 1 to 63 bytes; change publication".into(),
            ));
        }
        let fields = [&self.user, &self.database, &self.application_name];
        if fields.iter().any(|text| text.contains('\0')) {
            return Err(refuse(
                "connect to PostgreSQL: user, database and application_name must not hold a zero byte".into(),
            ));
        }
        if cfg!(not(feature = "tls"))
            && !matches!(self.ssl_mode, SslMode::Disable | SslMode::Prefer)
        {
            return Err(refuse(format!(
                "connect to {} with sslmode={}: this build has no TLS; build with the feature tls, or use sslmode=disable",
                self.address(),
                self.ssl_mode.name()
            )));
        }
        Ok(())
    }
}

fn url_pairs(rest: &str) -> Result<Vec<(String, String)>, SourceError> {
    let mut pairs = Vec::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut add = |key: &str, text: &str| -> Result<(), SourceError> {
        if !text.is_empty() {
            pairs.push((key.to_owned(), unescape(key, text)?));
        }
        Ok(())
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    add("user", user)?;
    add("password", password)?;
    if place.contains(',') {
        return Err(refuse("several hosts are not supported; name the primary"));
    }
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6
                .split_once(']')
                .ok_or_else(|| refuse("the host's closing ] is missing"))?;
            (host, after.strip_prefix(':').unwrap_or(after))
        }
        None => place.rsplit_once(':').unwrap_or((place, "")),
    };
    add("host", host)?;
    add("port", port)?;
    add("dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            refuse("every setting after the question mark must be written name=value")
        })?;
        add(key, value)?;
    }
    Ok(pairs)
}

fn unescape(key: &str, text: &str) -> Result<String, SourceError> {
    let refuse = || refuse(format_args!("{key} holds a wrong %-escape; write % as %25"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_first_chunk::<2>().ok_or_else(refuse)?;
        let digits = std::str::from_utf8(digits).map_err(|_| refuse())?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| refuse())?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| refuse())
}

/// `key=value`, values optionally in single quotes with backslash escapes.
fn keyword_pairs(text: &str) -> Result<Vec<(String, String)>, SourceError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| {
            refuse("expected postgres://user@host/database or key=value settings")
        })?;
        let mut characters = after.trim_start().char_indices();
        let body = after.trim_start();
        let quoted = body.starts_with('\'');
        if quoted {
            characters.next();
        }
        let mut value = String::new();
        let mut end = if quoted { None } else { Some(body.len()) };
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                '\'' if quoted => {
                    end = Some(at + 1);
                    break;
                }
                c if !quoted && c.is_whitespace() => {
                    end = Some(at);
                    break;
                }
                c => value.push(c),
            }
        }
        let end =
            end.ok_or_else(|| refuse(format_args!("{} lacks its closing quote", key.trim())))?;
        pairs.push((key.trim().to_owned(), value));
        rest = body.get(end..).unwrap_or_default().trim_start();
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_and_keywords_are_read() {
        let config = PostgresConfig::parse(
            "postgres://cdc:p%40ss%3aw@db.example:6000/shop?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=3&slot=s1",
        )
        .unwrap();
        assert_eq!(
            (
                config.user.as_str(),
                config.password.as_deref(),
                config.host.as_str(),
                config.port
            ),
            ("cdc", Some("p@ss:w"), "db.example", 6000)
        );
        assert_eq!(
            (config.database.as_str(), config.ssl_mode),
            ("shop", SslMode::VerifyFull)
        );
        assert_eq!(config.connect_timeout, Duration::from_secs(3));
        assert_eq!(config.slot, "s1");

        let same = PostgresConfig::parse(
            "host=db.example port=6000 user=cdc password='p@ss:w' dbname=shop sslmode=verify-full sslrootcert=/ca.pem connect_timeout=3 slot = s1",
        )
        .unwrap();
        assert_eq!(config, same);

        for (text, address) in [
            ("postgres://", "postgres://postgres@localhost:5432/postgres"),
            ("postgresql://ann@h", "postgres://ann@h:5432/ann"),
            ("postgres://[::1]:77/d", "postgres://postgres@[::1]:77/d"),
            (
                "postgres://u@/d?host=/run/pg",
                "postgres://u@/d?host=/run/pg&port=5432",
            ),
            (
                "postgres://u@%2Frun%2Fpg/d",
                "postgres://u@/d?host=/run/pg&port=5432",
            ),
            (
                "dbname='a b\\'c'",
                "postgres://postgres@localhost:5432/a b'c",
            ),
        ] {
            assert_eq!(
                PostgresConfig::parse(text).unwrap().address(),
                address,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_secrets_are_not() {
        for (text, named) in [
            ("postgres://u:secret@h:x/d", "port"),
            ("postgres://u:sec%zzret@h/d", "password"),
            ("postgres://h/d?sslmode=maybe", "sslmode"),
            ("postgres://h/d?colour=red", "colour"),
            ("postgres://h1,h2/d", "several hosts"),
            ("host=h password='secret", "password"),
            ("secret", "key=value"),
        ] {
            let error = PostgresConfig::parse(text).unwrap_err();
            assert_eq!(error.kind, SourceErrorKind::Configuration);
            assert!(error.to_string().contains(named), "{text}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let config = PostgresConfig::parse("postgres://u:secret@h/d").unwrap();
        assert!(!format!("{config:?} {}", config.address()).contains("secret"));
    }

    #[test]
    fn names_that_cannot_be_slots_are_refused() {
        for slot in ["", "Upper", "with-dash", &"x".repeat(64)] {
            let config = PostgresConfig {
                slot: slot.to_owned(),
                ..PostgresConfig::default()
            };
            assert!(
                config.validate().unwrap_err().to_string().contains("slot"),
                "{slot}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = PostgresConfig::parse(&text);
            let _ = PostgresConfig::parse(&format!("postgres://{text}"));
            let _ = PostgresConfig::parse(&format!("host={text}"));
        }
    }
}
