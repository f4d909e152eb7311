//! The lane against scripted destinations, in virtual time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::testing::fakes::{Answer, MemoryCheckpoints, MemoryDlq, MemoryLog, ScriptedEmitter};
use crate::testing::{insert, source, transaction};
use crate::{
    BoxEmitter, ChangeEvent, CheckpointStore, EmitErrorKind, EventBatch, EventId, LetterState, Lsn,
    Position, SystemClock, Transform, TransformError,
};
use refused::{dead_letter, rejections};

/// A lane with everything around it that outlives a crash.
struct Rig {
    log: MemoryLog,
    emitter: ScriptedEmitter,
    checkpoints: Arc<MemoryCheckpoints>,
    dlq: Arc<Mutex<MemoryDlq>>,
    watermark: Watermark,
    metrics: Arc<LaneMetrics>,
    on_dead_key: OnDeadKey,
    parked_keys_max: usize,
    filter: fn(&ChangeEvent) -> bool,
    transform: Option<Change>,
    /// Its log begins with its first event wherever it is to begin, as a journal behind which a crash left less
    /// than the checkpoint says.
    gives_again: bool,
}

type Change = fn(ChangeEvent) -> Result<Option<ChangeEvent>, TransformError>;

struct FnTransform(Change);

impl Transform for FnTransform {
    fn apply(&self, event: ChangeEvent) -> Result<Option<ChangeEvent>, TransformError> {
        (self.0)(event)
    }
}

impl Rig {
    fn new() -> Self {
        Self {
            log: MemoryLog::new(),
            emitter: ScriptedEmitter::default(),
            checkpoints: Arc::default(),
            dlq: Arc::default(),
            watermark: Watermark::new(),
            metrics: Arc::default(),
            on_dead_key: OnDeadKey::default(),
            parked_keys_max: 65_536,
            filter: |_| true,
            transform: None,
            gives_again: false,
        }
    }

    fn lane(
        &self,
        shutdown: &Shutdown,
    ) -> (
        impl Future<Output = Result<LaneEnd, LaneError>> + use<>,
        LaneControl,
    ) {
        let mut config = LaneConfig::new("hook", source().lineage, Position::ZERO);
        config.on_dead_key = self.on_dead_key;
        config.parked_keys_max = self.parked_keys_max;
        self.lane_to(BoxEmitter::new(self.emitter.clone()), config, shutdown)
    }

    /// A lane to another emitter than the scripted one.
    fn lane_to(
        &self,
        emitter: BoxEmitter,
        config: LaneConfig,
        shutdown: &Shutdown,
    ) -> (
        impl Future<Output = Result<LaneEnd, LaneError>> + use<>,
        LaneControl,
    ) {
        let (control, commands) = LaneControl::new();
        let (log, gives_again) = (self.log.clone(), self.gives_again);
        let lane = Lane {
            open: move |after| {
                let after = if gives_again { Position::ZERO } else { after };
                Ok(log.tail(after))
            },
            filter: Box::new(self.filter),
            transforms: self
                .transform
                .map(|t| Box::new(FnTransform(t)) as _)
                .into_iter()
                .collect(),
            emitter,
            dlq: self.dlq.clone(),
            checkpoints: self.checkpoints.clone(),
            watermark: self.watermark.register("hook", None),
            clock: Arc::new(SystemClock::new()),
            metrics: self.metrics.clone(),
            control: commands,
            shutdown: shutdown.clone(),
            config,
        };
        (lane.run(), control)
    }

    /// Runs a lane until the closed log is finished.
    async fn finish(&self) -> Result<LaneEnd, LaneError> {
        self.log.close();
        let (_trigger, shutdown) = Shutdown::new();
        let (lane, _control) = self.lane(&shutdown);
        let end = lane.await;
        let counts = self.metrics.counts();
        assert!(counts.adds_up(), "{counts:?}");
        assert_eq!(self.metrics.latency().read().count, counts.delivered);
        end
    }

    /// Runs a lane over what is there, and lets it drain.
    async fn run_for_a_second(&self) {
        let (trigger, shutdown) = Shutdown::new();
        let (lane, _control) = self.lane(&shutdown);
        let ((), end) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                trigger.trigger();
            },
            lane
        );
        assert_eq!(end.unwrap(), LaneEnd::Drained);
    }

    fn stored(&self) -> Position {
        self.checkpoints
            .load("hook")
            .unwrap()
            .map_or(Position::ZERO, |c| c.position)
    }

    fn letters(&self, state: LetterState) -> Vec<Position> {
        let dlq = self.dlq.lock().unwrap();
        dlq.letters
            .iter()
            .filter(|l| l.state == state)
            .map(|l| l.event.position)
            .collect()
    }
}

fn at(commit: u64, ordinal: u32) -> Position {
    Position::new(Lsn(commit), ordinal)
}

fn all(commits: std::ops::Range<u64>, each: u32) -> Vec<Position> {
    commits
        .flat_map(|c| (0..each).map(move |o| at(c, o)))
        .collect()
}

const DOWN: Answer = Answer::Fail(
    EmitErrorKind::EndpointRetry { retry_after: None },
    Some(503),
);

#[tokio::test(start_paused = true)]
async fn delivers_in_order_and_checkpoints_the_end() {
    let rig = Rig::new();
    for commit in 1..6 {
        rig.log.push(transaction(commit, 100 * commit as i64, 3));
    }
    assert_eq!(rig.finish().await.unwrap(), LaneEnd::Finished);
    assert_eq!(rig.emitter.taken(), all(1..6, 3));
    assert_eq!(rig.stored(), Position::end_of(Lsn(5)));
    assert_eq!(rig.watermark.minimum(), Position::end_of(Lsn(5)));
    assert_eq!(rig.metrics.counts().delivered, 15);
}

#[tokio::test(start_paused = true)]
async fn resumes_strictly_behind_its_checkpoint() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 2));
    rig.run_for_a_second().await;
    rig.log.push(transaction(2, 9, 2));
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), all(1..3, 2), "nothing twice");
    assert_eq!(
        rig.emitter.state().resumed,
        [None, Some(Position::end_of(Lsn(1)))]
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_log_gives_again_is_not_delivered_again() {
    let mut rig = Rig::new();
    rig.log.push(transaction(1, 1, 2));
    rig.run_for_a_second().await;
    rig.log.push(transaction(2, 9, 2));
    rig.gives_again = true;
    rig.metrics = Arc::default();
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), all(1..3, 2), "nothing twice");
}

#[tokio::test(start_paused = true)]
async fn an_outage_waits_and_dead_letters_nothing() {
    let rig = Rig::new();
    rig.emitter
        .state()
        .script
        .extend(std::iter::repeat_n(DOWN, 100));
    rig.log.push(transaction(1, 1, 5));
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), all(1..2, 5));
    assert_eq!(rig.metrics.counts().retries, 100);
    assert!(rig.dlq.lock().unwrap().letters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_refuses_us_is_probed_not_dead_lettered() {
    let rig = Rig::new();
    let refuse = Answer::Fail(EmitErrorKind::EndpointStop, Some(401));
    rig.emitter
        .state()
        .script
        .extend(std::iter::repeat_n(refuse, 30));
    rig.log.push(transaction(1, 1, 5));
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), all(1..2, 5));
    assert!(rig.dlq.lock().unwrap().letters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn gone_ends_the_lane_before_the_event() {
    let rig = Rig::new();
    rig.emitter
        .state()
        .script
        .push_back(Answer::Fail(EmitErrorKind::EndpointStop, Some(410)));
    rig.log.push(transaction(1, 1, 5));
    assert!(matches!(rig.finish().await, Err(LaneError::Emit { .. })));
    assert_eq!(rig.stored(), Position::ZERO);
}

#[tokio::test(start_paused = true)]
async fn exactly_the_culprit_is_dead_lettered() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(2, 4));
    rig.log.push(transaction(1, 100, 7));
    rig.log.push(transaction(2, 200, 9));
    rig.log.push(transaction(3, 300, 7));
    rig.finish().await.unwrap();
    let mut expected = [all(1..2, 7), all(2..3, 9), all(3..4, 7)].concat();
    expected.retain(|p| *p != at(2, 4));
    assert_eq!(rig.emitter.taken(), expected);
    assert_eq!(rig.letters(LetterState::Pending), [at(2, 4)]);
    assert_eq!(rig.stored(), Position::end_of(Lsn(3)));
    let dlq = rig.dlq.lock().unwrap();
    assert_eq!(dlq.letters[0].failure.status, Some(400));
    assert_eq!(
        dlq.letters[0].event_id(),
        EventId::new(&source().lineage, at(2, 4))
    );
}

#[tokio::test(start_paused = true)]
async fn later_events_of_a_dead_key_wait_behind_it_and_redrive_keeps_their_order() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 1));
    // Row 7 in every transaction, others in between; the second one of 7 is poison.
    for commit in 1..4 {
        let mut events = vec![insert(commit, 0, 50 + commit as i64), insert(commit, 1, 7)];
        events.push(insert(commit, 2, 7));
        events[2].last = true;
        rig.log.push(EventBatch::new(
            source(),
            events,
            Position::end_of(Lsn(commit)),
        ));
    }
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), [at(1, 0), at(2, 0), at(3, 0)]);
    assert_eq!(rig.letters(LetterState::Pending), [at(1, 1)]);
    let parked = [at(1, 2), at(2, 1), at(2, 2), at(3, 1), at(3, 2)];
    assert_eq!(rig.letters(LetterState::Parked), parked);

    // Mended: a redrive gives the key's history in order, and live events flow again. The parked
    // set is rebuilt from the queue, since this is a new lane.
    rig.emitter.state().poison.clear();
    let rig = Rig {
        log: MemoryLog::new(),
        metrics: Arc::default(),
        ..rig
    };
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane(&shutdown);
    let log = rig.log.clone();
    let orders = async {
        log.push(EventBatch::new(
            source(),
            vec![insert(4, 0, 7)],
            Position::end_of(Lsn(4)),
        ));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        log.push(EventBatch::new(
            source(),
            vec![insert(5, 0, 7)],
            Position::end_of(Lsn(5)),
        ));
        tokio::time::sleep(Duration::from_secs(1)).await;
        trigger.trigger();
        report
    };
    let (report, end) = tokio::join!(orders, lane);
    end.unwrap();
    assert_eq!((report.delivered, report.failed, report.skipped), (7, 0, 0));
    let mut expected = vec![at(1, 0), at(2, 0), at(3, 0), at(1, 1)];
    expected.extend(parked);
    expected.extend([at(4, 0), at(5, 0)]);
    assert_eq!(rig.emitter.taken(), expected);
    assert!(
        rig.dlq
            .lock()
            .unwrap()
            .letters
            .iter()
            .all(|l| l.state == LetterState::Delivered)
    );
}

#[tokio::test(start_paused = true)]
async fn a_redrive_that_fails_blocks_only_its_own_key() {
    let rig = Rig::new();
    rig.emitter.state().poison.extend([at(1, 0), at(1, 1)]);
    rig.log.push(EventBatch::new(
        source(),
        vec![insert(1, 0, 7), insert(1, 1, 8), insert(1, 2, 7)],
        Position::end_of(Lsn(1)),
    ));
    rig.finish().await.unwrap();
    rig.emitter.state().poison = vec![at(1, 0)];
    let rig = Rig {
        log: MemoryLog::new(),
        metrics: Arc::default(),
        ..rig
    };
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane(&shutdown);
    let orders = async {
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        trigger.trigger();
        report
    };
    let (report, end) = tokio::join!(orders, lane);
    end.unwrap();
    assert_eq!((report.delivered, report.failed, report.skipped), (1, 1, 1));
    assert_eq!(rig.emitter.taken(), [at(1, 1)]);
    let dlq = rig.dlq.lock().unwrap();
    assert_eq!(
        dlq.letters
            .iter()
            .find(|l| l.event.position == at(1, 0))
            .unwrap()
            .attempts,
        2
    );
}

#[tokio::test(start_paused = true)]
async fn a_discarded_letter_frees_its_key() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    rig.log.push(EventBatch::new(
        source(),
        vec![insert(1, 0, 7)],
        Position::end_of(Lsn(1)),
    ));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane(&shutdown);
    let orders = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let id = EventId::new(&source().lineage, at(1, 0));
        assert_eq!(control.discard(vec![id]).await, Some(1));
        assert_eq!(control.discard(vec![id]).await, Some(0));
        rig.log.push(EventBatch::new(
            source(),
            vec![insert(2, 0, 7)],
            Position::end_of(Lsn(2)),
        ));
        tokio::time::sleep(Duration::from_secs(1)).await;
        trigger.trigger();
    };
    let ((), end) = tokio::join!(orders, lane);
    end.unwrap();
    assert_eq!(rig.emitter.taken(), [at(2, 0)]);
    assert_eq!(rig.letters(LetterState::Discarded), [at(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn events_pass_a_dead_key_where_configured() {
    let rig = Rig {
        on_dead_key: OnDeadKey::Pass,
        ..Rig::new()
    };
    rig.emitter.state().poison.push(at(1, 0));
    rig.log.push(EventBatch::new(
        source(),
        vec![insert(1, 0, 7), insert(1, 1, 7)],
        Position::end_of(Lsn(1)),
    ));
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), [at(1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn on_dead_key_stop_halts_before_the_event() {
    let rig = Rig {
        on_dead_key: OnDeadKey::Stop,
        ..Rig::new()
    };
    rig.emitter.state().poison.push(at(2, 0));
    rig.log.push(transaction(1, 1, 1));
    rig.log.push(transaction(2, 2, 1));
    assert!(matches!(rig.finish().await, Err(LaneError::DeadKey { .. })));
    assert!(rig.dlq.lock().unwrap().letters.is_empty());
    assert!(rig.stored() < at(2, 0));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_refuses_every_event_stops_the_lane_with_few_letters() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 500));
    rig.emitter.state().poison = all(1..2, 500);
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = rig.lane(&shutdown);
    let metrics = rig.metrics.clone();
    let (health, end) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let health = metrics.counts().health;
            trigger.trigger();
            health
        },
        lane
    );
    assert_eq!(end.unwrap(), LaneEnd::Drained);
    assert!(matches!(health, LaneHealth::Refused { .. }), "{health:?}");
    assert_eq!(rig.letters(LetterState::Pending).len(), 9);
}

#[tokio::test(start_paused = true)]
async fn items_the_destination_names_become_letters_and_the_rest_is_delivered() {
    let rig = Rig::new();
    rig.emitter
        .state()
        .script
        .push_back(Answer::Reject(vec![at(1, 1), at(1, 3)]));
    rig.log.push(transaction(1, 1, 5));
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), [at(1, 0), at(1, 2), at(1, 4)]);
    assert_eq!(rig.letters(LetterState::Pending), [at(1, 1), at(1, 3)]);
    assert_eq!(rig.metrics.counts().delivered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_repeats_the_batch() {
    let rig = Rig::new();
    rig.emitter.state().script.push_back(Answer::TakeAndFail);
    rig.log.push(transaction(1, 1, 2));
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), [all(1..2, 2), all(1..2, 2)].concat());
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_never_passes_what_is_only_accepted() {
    let rig = Rig::new();
    rig.emitter.state().accept_until = Some(at(2, 1));
    for commit in 1..5 {
        rig.log.push(transaction(commit, commit as i64 * 10, 2));
    }
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = rig.lane(&shutdown);
    let ((), end) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            trigger.trigger();
        },
        lane
    );
    assert_eq!(end.unwrap(), LaneEnd::Drained);
    assert_eq!(rig.stored(), Position::end_of(Lsn(2)));
    let counts = rig.metrics.counts();
    assert_eq!((counts.delivered, counts.in_flight), (4, 4));
    assert!(counts.adds_up());
}

#[tokio::test(start_paused = true)]
async fn an_idle_emitters_state_is_stored_at_start_and_when_it_changes() {
    let rig = Rig::new();
    rig.emitter.state().accept_until = Some(Position::ZERO);
    rig.emitter.state().mark_state = b"begun";
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = rig.lane(&shutdown);
    let state = || rig.checkpoints.load("hook").unwrap().unwrap().state;
    let ((), end) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(state(), b"begun"[..], "before the first interval is over");
            rig.emitter.state().mark_state = b"closed";
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(state(), b"closed"[..]);
            trigger.trigger();
        },
        lane
    );
    end.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_emitter_lost_is_given_again_from_the_checkpoint() {
    let rig = Rig::new();
    {
        let mut state = rig.emitter.state();
        state.accept_until = Some(Position::ZERO);
        state.lose = Some(EmitErrorKind::EndpointRetry { retry_after: None });
    }
    rig.log.push(transaction(1, 1, 2));
    rig.log.push(transaction(2, 5, 2));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = rig.lane(&shutdown);
    let emitter = rig.emitter.clone();
    let ((), end) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            emitter.state().accept_until = Some(Position::MAX);
            tokio::time::sleep(Duration::from_secs(5)).await;
            trigger.trigger();
        },
        lane
    );
    end.unwrap();
    assert_eq!(rig.emitter.taken(), [all(1..2, 2), all(1..3, 2)].concat());
    let counts = rig.metrics.counts();
    assert_eq!((counts.rewound, counts.delivered), (2, 4));
    assert!(counts.adds_up(), "{counts:?}");
    assert_eq!(rig.stored(), Position::end_of(Lsn(2)));
}

#[tokio::test(start_paused = true)]
async fn a_fully_filtered_stream_still_moves() {
    let rig = Rig {
        filter: |event| event.position.commit.0.is_multiple_of(2),
        ..Rig::new()
    };
    for commit in 1..10 {
        rig.log.push(transaction(commit, 1, 3));
    }
    rig.finish().await.unwrap();
    assert_eq!(
        rig.emitter.taken(),
        [all(2..3, 3), all(4..5, 3), all(6..7, 3), all(8..9, 3)].concat()
    );
    assert_eq!(rig.stored(), Position::end_of(Lsn(9)));
    assert_eq!(rig.metrics.counts().filtered, 15);
}

#[tokio::test(start_paused = true)]
async fn a_failing_transform_dead_letters_the_original_and_goes_on() {
    let rig = Rig {
        transform: Some(|mut event| {
            if event.position == at(1, 1) {
                return Err(TransformError {
                    message: "mask public.orders.name: not text".into(),
                });
            }
            event.transaction.id = 77;
            Ok(Some(event))
        }),
        ..Rig::new()
    };
    rig.log.push(transaction(1, 1, 3));
    rig.emitter.state().poison.push(at(1, 2));
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), [at(1, 0)]);
    assert_eq!(rig.emitter.state().events[0].transaction.id, 77);
    let dlq = rig.dlq.lock().unwrap();
    let letters: Vec<_> = dlq
        .letters
        .iter()
        .map(|l| {
            (
                l.event.position,
                l.failure.stage.name(),
                l.event.transaction.id,
            )
        })
        .collect();
    assert_eq!(
        letters,
        [(at(1, 1), "transform", 1), (at(1, 2), "deliver", 1)],
        "before transforms"
    );
}

#[tokio::test(start_paused = true)]
async fn stop_at_cuts_inside_a_transaction() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 5));
    let (_trigger, shutdown) = Shutdown::new();
    let mut config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    config.stop_at = Some(at(1, 2));
    let log = rig.log.clone();
    let lane = Lane {
        config,
        open: move |after| Ok(log.tail(after)),
        filter: Box::new(|_: &ChangeEvent| true),
        transforms: Vec::new(),
        emitter: BoxEmitter::new(rig.emitter.clone()),
        dlq: rig.dlq.clone(),
        checkpoints: rig.checkpoints.clone(),
        watermark: rig.watermark.register("hook", None),
        clock: Arc::new(SystemClock::new()),
        metrics: rig.metrics.clone(),
        control: LaneControl::new().1,
        shutdown,
    };
    assert_eq!(lane.run().await.unwrap(), LaneEnd::Reached);
    assert_eq!(rig.emitter.taken(), all(1..2, 3));
    assert_eq!(rig.stored(), at(1, 2));
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_ever_for_a_hanging_destination() {
    let rig = Rig::new();
    rig.emitter.state().script.push_back(Answer::Hang);
    rig.log.push(transaction(1, 1, 1));
    rig.run_for_a_second().await;
    assert_eq!(rig.stored(), Position::ZERO);
}

mod barriers;
mod bounds;
mod cadence;
mod concurrency;
mod history;
#[cfg(feature = "model")]
mod model;
mod moves;
mod orders;
mod partial;
mod redrive;
mod refused;
mod replay;
mod tables;

mod capture {
    use super::*;
    use crate::{BatchLimit, EventBatch, Journal, SourceError, SourceInfo, WalSource};

    /// Gives batches, then waits; records what it is told.
    struct Source {
        info: Arc<SourceInfo>,
        batches: Vec<EventBatch>,
        told: Arc<Mutex<Vec<Position>>>,
    }

    impl WalSource for Source {
        fn source(&self) -> &Arc<SourceInfo> {
            &self.info
        }
        async fn next_batch(&mut self, _: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
            if self.batches.is_empty() {
                std::future::pending::<()>().await;
            }
            Ok(Some(self.batches.remove(0)))
        }
        async fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
            self.told.lock().unwrap().push(up_to);
            Ok(())
        }
    }

    #[derive(Default)]
    struct Kept {
        end: Position,
        flushed: Position,
        confirmed: Vec<Position>,
        full_at: Option<Position>,
    }

    struct Fake(Arc<Mutex<Kept>>);

    impl Journal for Fake {
        fn append(&mut self, batch: &EventBatch) -> Result<(), SourceError> {
            self.0.lock().unwrap().end = batch.end();
            Ok(())
        }
        fn end(&self) -> Position {
            self.0.lock().unwrap().end
        }
        fn flush(&mut self) -> Result<Position, SourceError> {
            let mut kept = self.0.lock().unwrap();
            kept.flushed = kept.end;
            Ok(kept.flushed)
        }
        fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
            self.0.lock().unwrap().confirmed.push(up_to);
            Ok(())
        }
        fn is_full(&self) -> bool {
            let kept = self.0.lock().unwrap();
            kept.full_at.is_some_and(|at| kept.end >= at)
        }
    }

    async fn run(
        confirm: ConfirmPolicy,
        full_at: Option<u64>,
    ) -> (Vec<Position>, Position, Watermark) {
        let told = Arc::<Mutex<Vec<_>>>::default();
        let kept = Arc::new(Mutex::new(Kept {
            full_at: full_at.map(|n| Position::end_of(Lsn(n))),
            ..Kept::default()
        }));
        let watermark = Watermark::new();
        let lane = watermark.register("a", Some(Position::ZERO));
        let (trigger, shutdown) = Shutdown::new();
        let mut capture = Capture {
            source: Source {
                info: source(),
                batches: (1..6).map(|c| transaction(c, 1, 2)).collect(),
                told: told.clone(),
            },
            journal: Fake(kept.clone()),
            config: CaptureConfig {
                confirm,
                ..CaptureConfig::default()
            },
            watermark: watermark.clone(),
            clock: Arc::new(SystemClock::new()),
            metrics: Arc::default(),
            shutdown,
        };
        let (end, ()) = tokio::join!(capture.run(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            lane.advance(Position::end_of(Lsn(2)));
            tokio::time::sleep(Duration::from_secs(1)).await;
            trigger.trigger();
        });
        end.unwrap();
        let told = told.lock().unwrap().clone();
        let kept = kept.lock().unwrap();
        let all_have = [Position::end_of(Lsn(2))];
        assert_eq!(kept.confirmed, all_have, "it keeps what a lane lacks");
        (told, kept.end, watermark)
    }

    #[tokio::test(start_paused = true)]
    async fn delivered_tells_the_source_only_the_minimum_of_the_checkpoints() {
        let (told, end, _) = run(ConfirmPolicy::Delivered, None).await;
        assert_eq!(end, Position::end_of(Lsn(5)));
        assert_eq!(told, [Position::end_of(Lsn(2))]);
    }

    #[tokio::test(start_paused = true)]
    async fn journaled_tells_the_source_what_is_flushed() {
        let (told, ..) = run(ConfirmPolicy::Journaled, None).await;
        assert_eq!(told.last(), Some(&Position::end_of(Lsn(5))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_journal_holds_the_source_back() {
        let (_, end, _) = run(ConfirmPolicy::Delivered, Some(3)).await;
        assert_eq!(
            end,
            Position::end_of(Lsn(3)),
            "nothing is taken while the journal is full"
        );
    }
}
