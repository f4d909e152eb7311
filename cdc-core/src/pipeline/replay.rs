//! Replay: a retained range of the log to one emitter once more, beside its lane.

mod tally;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::info;

use self::tally::{Counted, Tally};
use super::{Lane, LaneConfig, LaneControl, LaneEnd, LaneError, LaneMetrics, Shutdown, Watermark};
use crate::{
    BoxEmitter, Checkpoint, CheckpointError, CheckpointStore, Clock, DeadLetter, DeadLetterQueue,
    DlqError, EventId, Filter, LetterState, Position, SourceError, Transform, WalSource,
};

/// Most failures a [`ReplayReport`] names; all are counted.
pub const REPLAY_FAILURES_NAMED_MAX: usize = 1000;

/// Most events that may fail or be held back before a replay ends with an error: a range in which
/// that much fails is worth a look before it is sent again.
pub const REPLAY_FAILURES_MAX: usize = 1_000_000;

/// Delivers the events of a retained range to an emitter once more: same filter, same transforms,
/// same event ids, in order per key, with the lane's own retries and breaker.
///
/// # What it leaves alone
/// - The lane's **checkpoint**: a replay keeps its position in memory. It also holds back neither
///   source nor log; if the range is trimmed meanwhile, `open` says so.
/// - The lane's **dead letters**: an event that the destination refuses is in the report, not in
///   the queue. Its original is in the log, so nothing is lost, and the remedy is to replay it once
///   more. Were it a letter of the emitter, the live lane would park that key's new events behind
///   an event it delivered long ago.
///
/// [`LaneConfig::on_dead_key`] holds within the replay: with `park`, later events of that key in
/// the range are held back (counted as `held_back`), with `pass` they go, with `stop` the replay
/// ends at the first refusal.
///
/// # The emitter
/// It is given `resume(None)` and positions from the range. It must not be the live lane's: make
/// another one. An emitter whose marks carry a state (files) must be given a destination of its
/// own, such as a stream of another name, since the live lane's checkpoint describes the other one.
///
/// # Ordering
/// Per key as in a lane. Nothing orders a replay against the live lane: a consumer that is fed by
/// both sees old events between new ones, and tells them apart by event id.
pub struct Replay<O> {
    /// The lane's settings. `start` is where the replay begins: events strictly after it. `stop_at`
    /// is the last position to deliver, inclusive; without it, the replay goes on to the log's end
    /// and ends when the log does, which a live log never does.
    pub config: LaneConfig,
    /// Opens the log strictly behind a position.
    pub open: O,
    /// What to keep.
    pub filter: Box<dyn Filter>,
    /// What to change, in order.
    pub transforms: Vec<Box<dyn Transform>>,
    /// Where to.
    pub emitter: BoxEmitter,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters, for progress: `position` moves from `config.start` to `config.stop_at`.
    pub metrics: Arc<LaneMetrics>,
    /// When to stop early.
    pub shutdown: Shutdown,
}

impl<O> fmt::Debug for Replay<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// One event that a replay could not deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayFailure {
    /// The event.
    pub id: EventId,
    /// Where it stands.
    pub position: Position,
    /// Why, without row contents.
    pub message: String,
    /// The destination's status for it.
    pub status: Option<u16>,
}

/// What a replay did. Each event counts once, however often its destination lost it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayReport {
    /// [`LaneEnd::Reached`] at `stop_at`, [`LaneEnd::Finished`] at the log's end,
    /// [`LaneEnd::Drained`] if shutdown came first.
    pub end: LaneEnd,
    /// Everything up to this is dealt with; an interrupted replay goes on behind it.
    pub through: Position,
    /// Events read.
    pub read: u64,
    /// Events dropped by filter and transforms.
    pub filtered: u64,
    /// Events delivered, durably.
    pub delivered: u64,
    /// Events the destination or a transform refused.
    pub failed: u64,
    /// Events held back behind a failed one of their key.
    pub held_back: u64,
    /// The first failures, at most [`REPLAY_FAILURES_NAMED_MAX`].
    pub failures: Vec<ReplayFailure>,
}

impl ReplayReport {
    /// True if every kept event of the range was delivered.
    pub fn is_complete(&self) -> bool {
        self.end != LaneEnd::Drained && self.failed == 0 && self.held_back == 0
    }
}

impl<O, S> Replay<O>
where
    O: FnMut(Position) -> Result<S, SourceError> + Send,
    S: WalSource,
{
    /// Runs until the range is delivered or shutdown is asked for.
    ///
    /// # Errors
    /// [`LaneError`] as for [`Lane::run`]; a range that is no longer retained is
    /// [`LaneError::Source`] and names the oldest position. What was delivered stays delivered.
    ///
    /// # Cancel safety
    /// Dropping the future ends the replay; nothing remembers it.
    pub async fn run(self) -> Result<ReplayReport, LaneError> {
        let refused = Arc::new(Mutex::new(Refused::default()));
        let name = self.config.name.clone();
        let start = self.config.start;
        let watermark = Watermark::new();
        let (_control, commands) = LaneControl::new();
        self.metrics.reach(start, None);
        let read = Tally::behind(start);
        let changed: Vec<_> = self
            .transforms
            .into_iter()
            .map(|transform| (Tally::behind(start), transform))
            .collect();
        let tallies: Vec<_> = changed.iter().map(|(tally, _)| tally.clone()).collect();
        let transforms = changed
            .into_iter()
            .map(|(tally, transform)| Box::new(Counted(transform, tally)) as _);
        let lane = Lane {
            config: self.config,
            open: self.open,
            filter: Box::new(Counted(self.filter, read.clone())),
            transforms: transforms.collect(),
            emitter: self.emitter,
            dlq: refused.clone(),
            checkpoints: Arc::new(InMemory::default()),
            watermark: watermark.register(name.clone(), Some(start)),
            clock: self.clock,
            metrics: self.metrics.clone(),
            control: commands,
            shutdown: self.shutdown,
        };
        let end = lane.run().await?;
        let counts = self.metrics.counts();
        let (failures, failed, held_back) = {
            let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
            let failures = std::mem::take(&mut refused.named);
            (failures, refused.failed, refused.held_back)
        };
        let (read, dropped) = read.counts();
        let changed = tallies.iter().map(|tally| tally.counts().1);
        let filtered = dropped + changed.sum::<u64>();
        // What was delivered, lost by its destination and delivered again is in the lane's count twice. Without what
        // it did not come to, as when it ended early, the other bound is too high.
        let kept = read.saturating_sub(filtered + failed + held_back);
        let delivered = counts.delivered.min(kept);
        info!(emitter = %name, delivered, failed, held_back, "replay ended");
        Ok(ReplayReport {
            end,
            through: counts.position,
            read,
            filtered,
            delivered,
            failed,
            held_back,
            failures,
        })
    }
}

/// Stands in for the dead letter queue: remembers that events failed, never the events.
#[derive(Debug, Default)]
struct Refused {
    /// Each counts once, as what it was first: after a loss of the emitter's they are read again.
    seen: HashSet<EventId>,
    failed: u64,
    held_back: u64,
    named: Vec<ReplayFailure>,
}

impl DeadLetterQueue for Refused {
    fn append(&mut self, letters: &[DeadLetter]) -> Result<(), DlqError> {
        for letter in letters {
            let id = letter.event_id();
            if self.seen.contains(&id) {
                continue;
            }
            if self.seen.len() >= REPLAY_FAILURES_MAX {
                return Err(DlqError::TooMany {
                    emitter: letter.emitter.to_string(),
                    max: REPLAY_FAILURES_MAX as u64,
                });
            }
            self.seen.insert(id);
            let is_pending = letter.state == LetterState::Pending;
            self.failed += u64::from(is_pending);
            self.held_back += u64::from(!is_pending);
            if is_pending && self.named.len() < REPLAY_FAILURES_NAMED_MAX {
                self.named.push(ReplayFailure {
                    id,
                    position: letter.event.position,
                    message: letter.failure.message.clone(),
                    status: letter.failure.status,
                });
            }
        }
        Ok(())
    }

    fn set_state(&mut self, _: &str, _: EventId, _: LetterState) -> Result<(), DlqError> {
        Ok(())
    }

    fn open_letters(
        &mut self,
        _: &str,
        _: Option<Position>,
        _: usize,
    ) -> Result<Vec<DeadLetter>, DlqError> {
        // The keys behind live letters are the live lane's business.
        Ok(Vec::new())
    }
}

/// A position in memory: what an emitter that loses something is taken back to.
#[derive(Debug, Default)]
struct InMemory(Mutex<Option<Checkpoint>>);

impl CheckpointStore for InMemory {
    fn load(&self, _: &str) -> Result<Option<Checkpoint>, CheckpointError> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn advance(&self, name: &str, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        self.reset(name, Some(checkpoint))
    }

    fn reset(&self, _: &str, checkpoint: Option<&Checkpoint>) -> Result<(), CheckpointError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = checkpoint.cloned();
        Ok(())
    }

    fn list(&self) -> Result<Vec<(String, Checkpoint)>, CheckpointError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::super::letters::is_full;
    use super::*;
    use crate::testing::{insert, source};

    /// A full queue blocks its lane until somebody makes room. Here nobody can.
    #[test]
    fn a_replay_in_which_too_much_fails_ends() {
        let letter = |commit| DeadLetter {
            emitter: "hook".into(),
            source: source(),
            event: insert(commit, 0, 7),
            failure: crate::Failure {
                stage: crate::Stage::Deliver,
                class: "event".into(),
                message: "no".into(),
                status: None,
                response: None,
            },
            attempts: 1,
            first_failed_micros: 0,
            last_failed_micros: 0,
            state: LetterState::Parked,
        };
        let lineage = source().lineage;
        let known = (1..=REPLAY_FAILURES_MAX as u64).map(crate::Lsn);
        let known = known.map(|commit| EventId::new(&lineage, Position::new(commit, 0)));
        let mut refused = Refused {
            seen: known.collect(),
            ..Refused::default()
        };
        refused.append(&[letter(1)]).unwrap();
        let cause = refused.append(&[letter(1_000_001)]).unwrap_err();
        assert!(cause.to_string().contains("1000000 events"), "{cause}");
        let error = LaneError::Dlq {
            emitter: "hook".into(),
            cause,
        };
        assert!(!is_full(&error), "{error}");
    }
}
