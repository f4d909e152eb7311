//! What a start would find: the source compared with the journal and the checkpoints. Nothing is
//! changed, and nothing but the state directory is read.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use cdc_core::{Checkpoint, Lineage, Lsn, Position};
use cdc_wal::postgres::{Finding, Severity};

use super::start::{Extent, LogView};
use super::state::{StatePaths, is_there};
use crate::config::{Config, Source};
use crate::exit::Exit;
use crate::output::bytes_text;
use crate::report::CliError;

/// Something that was looked at, and the exit code of a `run` that would stumble over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) finding: Finding,
    pub(crate) exit: Exit,
}

impl Row {
    pub(crate) fn ok(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Severity::Ok, Exit::Done, subject, found, "")
    }

    pub(crate) fn new(
        severity: Severity,
        exit: Exit,
        subject: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            finding: Finding {
                severity,
                subject: subject.into(),
                found: found.into(),
                remedy: remedy.into(),
            },
            exit,
        }
    }

    /// A finding of a source's own check.
    pub(crate) const fn configured(finding: Finding) -> Self {
        let exit = match finding.severity {
            Severity::Error => Exit::Configuration,
            _ => Exit::Done,
        };
        Self { finding, exit }
    }
}

/// What the state directory holds.
#[derive(Debug)]
pub(crate) struct Held {
    /// The log lanes read: the journal, or an engine's own. `None` if there is none yet.
    pub(crate) log: Option<Extent>,
    /// Its size, if it is ours.
    pub(crate) log_bytes: u64,
    /// Checkpoints of configured emitters.
    pub(crate) checkpoints: Vec<(String, Checkpoint)>,
}

/// Where a database stands.
#[derive(Clone, Debug)]
pub(crate) struct SourceState {
    pub(crate) lineage: Lineage,
    /// It was told that everything before this is done; `None` if nothing there remembers us.
    pub(crate) confirmed: Option<Lsn>,
    /// Where its log ends.
    pub(crate) end: Lsn,
    /// It takes in a log that another server writes, or that was written before: it may reach further soon.
    pub(crate) standby: bool,
}

impl Held {
    /// Reads the state directory.
    ///
    /// # Errors
    /// Exit code 7 if the checkpoints or the journal are damaged.
    pub(crate) fn read(config: &Config, source: &Source) -> Result<Self, CliError> {
        let paths = StatePaths::new(&config.state_path);
        let mut checkpoints = crate::commands::position::checkpoints(&paths)?;
        checkpoints.retain(|(name, _)| config.emitter(name).is_some());
        let (dir, bytes) = match source {
            Source::Wal(dir) => (dir.clone(), 0),
            _ => (paths.journal(), directory_bytes(&paths.journal())),
        };
        let log = if is_there(&dir.join("control"))? {
            let extent = LogView::Directory(dir).extent();
            Some(extent.map_err(cdc_core::SourceError::from)?)
        } else {
            None
        };
        Ok(Self {
            log,
            log_bytes: bytes,
            checkpoints,
        })
    }

    /// Everything up to here needs no source any more.
    fn end(&self) -> Option<Position> {
        let journal = self.log.as_ref().map(|log| log.end);
        let slowest = self.checkpoints.iter().map(|(_, c)| c.position).min();
        journal.max(slowest)
    }

    /// Everything up to here was captured or delivered.
    fn furthest(&self) -> Option<Position> {
        let journal = self.log.as_ref().map(|log| log.end);
        let furthest = self.checkpoints.iter().map(|(_, c)| c.position).max();
        journal.max(furthest)
    }

    /// The checkpoint of an emitter.
    pub(crate) fn checkpoint(&self, name: &str) -> Option<&Checkpoint> {
        let found = self.checkpoints.iter().find(|(known, _)| known == name);
        found.map(|(_, checkpoint)| checkpoint)
    }
}

fn directory_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    // What they take: segments are made at their full length.
    let blocks = files.filter_map(|file| file.metadata().ok().map(|m| m.blocks()));
    blocks.sum::<u64>() * 512
}

/// What a start would make of it. `source` is `None` if it keeps no log of its own, or does not
/// answer.
pub(crate) fn rows(config: &Config, held: &Held, source: Option<&SourceState>) -> Vec<Row> {
    let mut rows = Vec::new();
    let native = matches!(config.source, Some(Source::Wal(_)));
    let name = if native { "log" } else { "journal" };
    match &held.log {
        Some(log) => rows.push(Row::ok(
            name,
            format!(
                "holds what follows {} up to {}{}",
                log.oldest,
                log.end,
                if native {
                    String::new()
                } else {
                    format!(", {}", bytes_text(held.log_bytes))
                }
            ),
        )),
        None if held.checkpoints.is_empty() => {
            rows.push(Row::ok(name, "none yet: this would be a first start"));
        }
        None => rows.push(Row::new(
            Severity::Warning,
            Exit::Done,
            name,
            "there are checkpoints and no journal: it would be made anew, nothing before can be replayed",
            "",
        )),
    }
    for emitter in &config.emitters {
        rows.push(emitter_row(&emitter.name, held, source));
    }
    if let Some(source) = source {
        rows.push(source_row(held, source));
    }
    rows
}

/// True if what is held is of another source than this: a start would stumble over that first.
pub(crate) fn of_other(held: &Held, source: &SourceState) -> bool {
    let log = held.log.iter().map(|log| log.source.lineage);
    let checkpoints = held.checkpoints.iter().map(|(_, c)| c.lineage);
    log.chain(checkpoints)
        .any(|lineage| !lineage.same_source(&source.lineage))
}

fn emitter_row(name: &str, held: &Held, source: Option<&SourceState>) -> Row {
    let subject = format!("emitter {name}");
    let Some(checkpoint) = held.checkpoint(name) else {
        return Row::ok(
            subject,
            "no checkpoint: it would begin with the oldest event there is, or with `run --from`",
        );
    };
    let at = checkpoint.position;
    let refused = |found: String, remedy: &str| {
        Row::new(
            Severity::Error,
            Exit::Position,
            subject.clone(),
            found,
            remedy,
        )
    };
    let ours = source.map(|source| source.lineage);
    let ours = ours.or_else(|| held.log.as_ref().map(|log| log.source.lineage));
    if let Some(ours) = ours
        && !checkpoint.lineage.same_source(&ours)
    {
        return refused(
            format!(
                "its checkpoint belongs to source {}, this is {ours}",
                checkpoint.lineage
            ),
            "use another state_path for another source",
        );
    }
    let Some(log) = &held.log else {
        return Row::ok(subject, format!("at {at}"));
    };
    if at < log.oldest {
        return refused(
            format!(
                "at {at}, and what follows is no longer retained: the oldest position to resume from is {}",
                log.oldest
            ),
            "move it, giving up what is in between: `position set --yes`; and let retain_bytes keep more",
        );
    }
    let end = source.map_or(log.end, |source| log.end.max(Position::before(source.end)));
    if at > end {
        if let Some(source) = source.filter(|source| source.standby) {
            return Row::new(
                Severity::Warning,
                Exit::Done,
                subject,
                format!(
                    "at {at}, and the source is a standby that has come to {} of its primary's log so far",
                    source.end
                ),
                BEHIND,
            );
        }
        return refused(
            format!(
                "at {at}, ahead of the source, which ends at {end}: it was restored from an older copy"
            ),
            "find out what was lost, then move it: `position set`",
        );
    }
    match log.end.commit.0.saturating_sub(at.commit.0) {
        0 => Row::ok(
            subject,
            format!("at {at}, up to date with what is captured"),
        ),
        behind => Row::ok(
            subject,
            format!(
                "at {at}, {} of the source's log behind what is captured",
                bytes_text(behind)
            ),
        ),
    }
}

/// How far was captured or delivered, if that is further than the source's log.
pub(crate) fn reaches_beyond(held: &Held, source: &SourceState) -> Option<Position> {
    let beyond = |furthest: &Position| *furthest > Position::end_of(source.end);
    held.furthest()
        .filter(beyond)
        .filter(|_| !of_other(held, source))
}

/// What to do about a standby that has not come as far as was captured.
const BEHIND: &str = "wait, if it catches up; else see to it that it follows the server that was captured from, and not an older copy of it";

fn source_row(held: &Held, source: &SourceState) -> Row {
    const SUBJECT: &str = "resume";
    // Positions of two sources cannot be compared.
    if let Some(log) = &held.log
        && !log.source.lineage.same_source(&source.lineage)
    {
        return Row::new(
            Severity::Error,
            Exit::Position,
            SUBJECT,
            format!(
                "what was captured before belongs to source {}, this is {}",
                log.source.lineage, source.lineage
            ),
            "use another state_path for another source",
        );
    }
    let Some(end) = held.end() else {
        let where_from = match source.confirmed {
            Some(confirmed) => format!("with what the slot holds, behind {confirmed}"),
            None => "where the source stands at the first start".to_owned(),
        };
        return Row::ok(
            SUBJECT,
            format!("nothing was captured yet: capture begins {where_from}"),
        );
    };
    // A start opens the journal first.
    let journaled = held
        .log
        .iter()
        .map(|log| (log.source.lineage, Exit::Configuration));
    let delivered = held
        .checkpoints
        .iter()
        .map(|(_, c)| (c.lineage, Exit::Position));
    let timeline = source.lineage.timeline;
    if let Some((other, exit)) = journaled
        .chain(delivered)
        .find(|(held, _)| held.same_source(&source.lineage) && held.timeline != timeline)
    {
        return Row::new(
            Severity::Error,
            exit,
            SUBJECT,
            format!(
                "what was captured is of timeline {}, the server is on timeline {timeline}: a standby took over, or it was restored to a point in time, and its positions may mean other changes",
                other.timeline
            ),
            "drop the slot, copy the tables anew, and begin anew with another state_path",
        );
    }
    if let Some(furthest) = reaches_beyond(held, source) {
        if source.standby {
            // As a start does: it waits.
            return Row::new(
                Severity::Warning,
                Exit::Done,
                SUBJECT,
                format!(
                    "what was captured reaches to {furthest}, this standby has come to {} of its primary's log so far: a start tries again until it has come that far",
                    source.end
                ),
                BEHIND,
            );
        }
        return Row::new(
            Severity::Error,
            Exit::Position,
            SUBJECT,
            format!(
                "what was captured reaches to {furthest}, the source's log ends at {}: it was restored from an older backup, or a failover lost its end, and what it writes from here on would be taken for captured",
                source.end
            ),
            "drop the slot, copy the tables anew, and begin anew with another state_path; if one emitter's checkpoint alone is that far, move it (`position set`)",
        );
    }
    let Some(confirmed) = source.confirmed else {
        return Row::new(
            Severity::Error,
            Exit::Position,
            SUBJECT,
            format!("gap: the slot is gone, and with it what was committed after {end}"),
            "take the loss with `run --accept-gap`, or begin anew with another state_path",
        );
    };
    if end.confirmable() < confirmed {
        return Row::new(
            Severity::Error,
            Exit::Position,
            SUBJECT,
            format!(
                "gap: events after {end} up to {confirmed} are gone at the source: it was confirmed further than this state directory knows"
            ),
            "restore the newest state directory; or take the loss with `run --accept-gap`",
        );
    }
    let again = end.confirmable().0.saturating_sub(confirmed.0);
    let new = source.end.0.saturating_sub(end.confirmable().0);
    Row::ok(
        SUBJECT,
        format!(
            "no gap: the source sends what follows {confirmed}; of its log {} are captured already and are skipped, {} are new",
            bytes_text(again),
            bytes_text(new)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Layers};
    use cdc_core::{SourceInfo, SourceKind};
    use std::sync::Arc;

    fn lineage(id: u8) -> Lineage {
        Lineage::new(SourceKind::Postgres, [id; 16], 1)
    }

    fn end(lsn: u64) -> Position {
        Position::end_of(Lsn(lsn))
    }

    fn held(log: Option<(u64, u64)>, checkpoint: Option<(u8, u64)>) -> Held {
        let log = log.map(|(oldest, newest)| Extent {
            source: Arc::new(SourceInfo::new("shop", "shop", lineage(1))),
            oldest: end(oldest),
            end: end(newest),
        });
        let checkpoint = checkpoint.map(|(id, at)| {
            let checkpoint = Checkpoint {
                lineage: lineage(id),
                position: end(at),
                state: bytes::Bytes::new(),
                stored_micros: 0,
            };
            ("queue".to_owned(), checkpoint)
        });
        Held {
            log,
            log_bytes: 1 << 20,
            checkpoints: checkpoint.into_iter().collect(),
        }
    }

    /// What is held, what the source was told, and what is said about it.
    #[test]
    fn what_a_start_would_stumble_over_is_named() {
        let layers = Layers {
            file: None,
            environment: Environment::default(),
            source: Some("postgres://cdc@localhost/shop".into()),
            sets: Vec::new(),
        };
        let config = crate::config::load(&layers).unwrap();
        let source = |confirmed: Option<u64>| {
            Some(SourceState {
                lineage: lineage(1),
                confirmed: confirmed.map(Lsn),
                end: Lsn(1000),
                standby: false,
            })
        };
        let standby = source(Some(401)).map(|source| SourceState {
            standby: true,
            ..source
        });
        let promoted = source(Some(401)).map(|source| SourceState {
            lineage: Lineage {
                timeline: 2,
                ..source.lineage
            },
            ..source
        });
        let other = source(Some(9000)).map(|source| SourceState {
            lineage: lineage(3),
            ..source
        });
        for (log, checkpoint, source, exit, words) in [
            (
                None,
                None,
                source(None),
                0,
                "capture begins where the source stands",
            ),
            (
                None,
                None,
                source(Some(100)),
                0,
                "capture begins with what the slot holds, behind 0/64",
            ),
            (
                Some((0, 500)),
                Some((1, 500)),
                source(Some(501)),
                0,
                "no gap: the source sends what follows 0/1F5; of its log 0 bytes are captured already and are skipped, 499 bytes are new",
            ),
            (
                Some((0, 500)),
                Some((1, 400)),
                source(Some(401)),
                0,
                "100 bytes of the source's log behind",
            ),
            (
                Some((0, 500)),
                Some((1, 400)),
                source(Some(401)),
                0,
                "of its log 100 bytes are captured already",
            ),
            (
                Some((0, 500)),
                Some((1, 400)),
                source(Some(502)),
                5,
                "gap: events after 0/1F4",
            ),
            (
                Some((0, 500)),
                Some((1, 400)),
                source(None),
                5,
                "gap: the slot is gone",
            ),
            (
                Some((0, 500)),
                None,
                source(None),
                5,
                "gap: the slot is gone",
            ),
            (
                None,
                Some((1, 400)),
                source(Some(401)),
                0,
                "there are checkpoints and no journal",
            ),
            (
                None,
                Some((1, 400)),
                source(Some(402)),
                5,
                "gap: events after 0/190",
            ),
            (
                Some((0, 500)),
                Some((2, 400)),
                source(Some(401)),
                5,
                "belongs to source",
            ),
            (Some((0, 500)), Some((2, 400)), None, 5, "belongs to source"),
            (
                Some((0, 5000)),
                Some((1, 5000)),
                other.clone(),
                5,
                "what was captured before belongs to source",
            ),
            (
                Some((300, 500)),
                Some((1, 200)),
                source(Some(201)),
                5,
                "no longer retained: the oldest position to resume from is 0/12C",
            ),
            (
                Some((0, 500)),
                Some((1, 2000)),
                source(Some(201)),
                5,
                "ahead of the source, which ends at 0/3E7",
            ),
            (
                Some((0, 500)),
                Some((1, 600)),
                source(Some(201)),
                0,
                "up to date",
            ),
            // A keepalive may have told of the very end, and no more than that.
            (
                Some((0, 1000)),
                Some((1, 400)),
                source(Some(401)),
                0,
                "no gap: the source sends what follows 0/191; of its log 600 bytes are captured already and are skipped, 0 bytes are new",
            ),
            (
                Some((0, 1001)),
                Some((1, 400)),
                source(Some(401)),
                5,
                "what was captured reaches to 0/3E9:end, the source's log ends at 0/3E8",
            ),
            (
                Some((0, 5000)),
                None,
                source(None),
                5,
                "what was captured reaches to 0/1388:end",
            ),
            // It takes in again what it had: nothing says that it was restored.
            (
                Some((0, 5000)),
                Some((1, 400)),
                standby.clone(),
                0,
                "this standby has come to 0/3E8 of its primary's log so far: a start tries again",
            ),
            (
                Some((0, 500)),
                Some((1, 2000)),
                standby.clone(),
                0,
                "at 0/7D0:end, and the source is a standby that has come to 0/3E8",
            ),
            (
                Some((0, 500)),
                Some((1, 400)),
                standby.clone(),
                0,
                "no gap: the source sends what follows 0/191",
            ),
            (
                Some((0, 5000)),
                Some((1, 400)),
                promoted.clone(),
                3,
                "what was captured is of timeline 1, the server is on timeline 2",
            ),
            (
                Some((0, 500)),
                Some((1, 500)),
                None,
                0,
                "holds what follows 0/0",
            ),
        ] {
            let held = held(log, checkpoint);
            let rows = rows(&config, &held, source.as_ref());
            let worst = rows.iter().map(|row| row.exit.code()).max().unwrap();
            let said: Vec<_> = rows.iter().map(|row| row.finding.found.as_str()).collect();
            let said = said.join("\n");
            assert_eq!(worst, exit, "{log:?} {checkpoint:?} {source:?}:\n{said}");
            assert!(
                said.contains(words),
                "{log:?} {checkpoint:?} {source:?}: no {words:?} in\n{said}"
            );
        }
    }
}
