//! What is wrong with a database, found before anything is captured.

use cdc_core::storage::StdStorage;
use cdc_core::{SourceError, SourceErrorKind};

use super::begin::header;
use super::config::SqliteConfig;
use super::decoder::Decoder;
use super::files::FileId;
use super::log_file::{Scanned, Scanner, wal_header};
use super::pins::Pins;
use super::state;
use super::view::LogView;
use super::wal_index::WalIndex;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Capture works, but not as one may expect.
    Warning,
    /// Capture does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at, such as `journal mode` or `table orders`.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing.
    pub remedy: String,
}

fn finding(severity: Severity, subject: &str, found: impl Into<String>, remedy: &str) -> Finding {
    Finding {
        severity,
        subject: subject.to_owned(),
        found: found.into(),
        remedy: remedy.to_owned(),
    }
}

/// Looks at everything capture depends on: the file, its journal mode, its locks, each table's
/// definition. Changes nothing; reads the whole database once. Blocking work is done on a thread of
/// its own.
///
/// # Errors
/// Only if the file cannot be opened; what is wrong with it is a finding.
pub async fn check(config: &SqliteConfig) -> Result<Vec<Finding>, SourceError> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || look(&config))
        .await
        .unwrap_or_else(|_| {
            Err(SourceError::new(
                SourceErrorKind::Io,
                "look at the database: the thread was stopped",
            ))
        })
}

fn look(config: &SqliteConfig) -> Result<Vec<Finding>, SourceError> {
    let mut findings = Vec::new();
    let refused = |subject: &str, error: &SourceError| {
        finding(
            Severity::Error,
            subject,
            error.to_string(),
            "see what was found",
        )
    };
    // The descriptor is kept to the end: closing it would drop locks of others in this process.
    let (_main, header) = match header(config) {
        Ok(found) => found,
        Err(error) if error.kind == SourceErrorKind::Unreachable => return Err(error),
        Err(error) => return Ok(vec![refused("database", &error)]),
    };
    let geometry = header.geometry;
    findings.push(finding(Severity::Ok, "journal mode", "WAL", ""));
    findings.push(finding(
        Severity::Ok,
        "pages",
        format!(
            "{} bytes, text in {}",
            geometry.page_size,
            geometry.encoding.name()
        ),
        "",
    ));
    findings.extend(resume(config, geometry.page_size));
    let pins = match Pins::open(config) {
        Ok(pins) => pins,
        Err(error) => {
            findings.push(refused("locks", &error));
            return Ok(findings);
        }
    };
    findings.push(finding(Severity::Ok, "locks", "the log can be held", ""));
    match decode(&pins, geometry.page_size) {
        Ok(Some(decoder)) => {
            for (table, reason) in decoder.left_out() {
                findings.push(finding(
                    Severity::Warning,
                    &format!("table {table}"),
                    format!("it is not captured: {reason}"),
                    "",
                ));
            }
            findings.push(finding(
                Severity::Ok,
                "tables",
                decoder.names().join(", "),
                "",
            ));
        }
        Ok(None) => findings.push(finding(
            Severity::Warning,
            "tables",
            "the log was written while it was looked at",
            "ask again",
        )),
        Err(error) => findings.push(refused("tables", &error)),
    }
    Ok(findings)
}

/// The subject of a finding about what was captured before: with an error, capture would end with
/// [`SourceErrorKind::Gap`].
pub const RESUME: &str = "resume";

/// The subject of a finding about what is remembered itself: with an error it cannot be read.
pub const STATE: &str = "state";

/// Whether this is the file that the state remembers.
fn resume(config: &SqliteConfig, page_size: u32) -> Option<Finding> {
    let dir = config.state_dir.as_ref()?;
    let known = match state::remembered(StdStorage::shared().as_ref(), dir) {
        Ok(known) => known?,
        Err(error) => {
            let remedy = "see what was found";
            return Some(finding(Severity::Error, STATE, error.to_string(), remedy));
        }
    };
    let file = FileId::of(&config.path).ok()?;
    if known.file == file && known.page_size == page_size {
        return Some(finding(
            Severity::Ok,
            RESUME,
            "it is the file that was followed before",
            "",
        ));
    }
    Some(finding(
        Severity::Error,
        RESUME,
        "gap: it is not the file that was followed before: it was replaced, or restored from a copy, or is another database",
        "give every database a state_path of its own; for a restored copy, take what changed as one merged transaction with `run --accept-gap`",
    ))
}

/// Maps the database as it is now, held by `pins`; `None` if it could not be read at rest.
fn decode(pins: &Pins, page_size: u32) -> Result<Option<Decoder>, SourceError> {
    let Some(head) = WalIndex::read(&pins.index)? else {
        return Ok(None);
    };
    let mut view = LogView::new(
        pins.main.clone(),
        page_size,
        head.pages(&pins.main, page_size)?,
    );
    if head.backfilled < head.last_frame {
        let Some(wal) = pins.log()? else {
            return Ok(None);
        };
        let Some(header) = wal_header(&wal)?.filter(|header| header.salts == head.salts) else {
            return Ok(None);
        };
        view.restart(Some(wal.clone()));
        let mut scanner = Scanner::new(header);
        while let Scanned::Transaction(next) = scanner.next(&wal, head.last_frame)? {
            view.begin(next);
            view.finish();
        }
        if scanner.at() != head.last_frame {
            return Ok(None);
        }
    }
    Decoder::open(&view, false, None).map(Some)
}
