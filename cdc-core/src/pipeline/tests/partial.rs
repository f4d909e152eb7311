//! A destination that takes a part of a request: what it took behind an event of the same key that it
//! rejected is not in order there, and comes once more behind that one.

use super::*;
use crate::{Checkpoint, Delivery, DurableMark, EmitError, Emitter, Image, Op, Receipt};

/// Row 7, row 8, row 7, row 9, row 7 becomes row 9, row 8.
fn push(rig: &Rig) {
    let mut events: Vec<_> = [7, 8, 7, 9, 9, 8]
        .into_iter()
        .zip(0..)
        .map(|(id, ordinal)| insert(1, ordinal, id))
        .collect();
    events[4].op = Op::Update;
    events[4].before = Image::Full(crate::testing::row(7, "name", "1.50"));
    events[5].last = true;
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
}

/// What a lane does that is asked to redrive once it has nothing else to do.
async fn redrive(rig: &Rig) -> RedriveReport {
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane(&shutdown);
    let orders = async {
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        trigger.trigger();
        report
    };
    let (report, end) = tokio::join!(orders, lane);
    end.unwrap();
    report
}

fn reject(rig: &Rig, ordinals: &[u32]) {
    let positions = ordinals.iter().map(|ordinal| at(1, *ordinal)).collect();
    let answer = Answer::Reject(positions);
    rig.emitter.state().script.push_back(answer);
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_behind_a_rejected_event_of_its_key_is_delivered_again_in_order() {
    let rig = Rig::new();
    reject(&rig, &[0]);
    push(&rig);
    rig.finish().await.unwrap();
    assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
    // Row 7 again, and what changes its key.
    assert_eq!(rig.letters(LetterState::Parked), [at(1, 2), at(1, 4)]);
    let counts = rig.metrics.counts();
    let fates = (counts.delivered, counts.dead_lettered, counts.parked);
    assert_eq!(fates, (3, 1, 2), "row 8 twice, row 9 before the change");
    assert_eq!(rig.stored(), Position::end_of(Lsn(1)));

    rig.emitter.state().taken.clear();
    let rig = Rig {
        log: MemoryLog::new(),
        metrics: Arc::default(),
        ..rig
    };
    let report = redrive(&rig).await;
    assert_eq!((report.delivered, report.stopped), (3, None));
    assert_eq!(
        rig.emitter.taken(),
        [at(1, 0), at(1, 2), at(1, 4)],
        "the key's history, in order"
    );
}

#[tokio::test(start_paused = true)]
async fn without_room_for_the_letter_it_goes_out_again_behind_the_rejected_one() {
    let rig = Rig::new();
    rig.dlq.lock().unwrap().full = true;
    reject(&rig, &[0]);
    push(&rig);
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = rig.lane(&shutdown);
    let watch = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let counts = rig.metrics.counts();
        assert!(matches!(counts.health, LaneHealth::Blocked { .. }));
        assert_eq!((counts.delivered, counts.in_flight), (3, 3));
        assert!(counts.adds_up(), "{counts:?}");
        assert!(rig.stored() < at(1, 0));
        rig.emitter.state().taken.clear();
        rig.dlq.lock().unwrap().full = false;
        tokio::time::sleep(Duration::from_secs(1000)).await;
        trigger.trigger();
    };
    let ((), end) = tokio::join!(watch, lane);
    end.unwrap();
    // It is well by now.
    assert_eq!(rig.emitter.taken(), [at(1, 0), at(1, 2), at(1, 4)]);
    assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
    assert!(rig.dlq.lock().unwrap().letters.is_empty());
    assert_eq!(rig.metrics.counts().delivered, 6);
}

/// One stream whose mark is where it was given something last, as a file's.
struct Stream {
    refuses: Position,
    end: Position,
}

impl Emitter for Stream {
    async fn resume(&mut self, _: Option<&Checkpoint>) -> Result<(), EmitError> {
        Ok(())
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        self.end = batch.end();
        Ok(Receipt {
            delivery: Delivery::Accepted,
            rejected: rejections(batch, &[self.refuses]),
        })
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        Ok(Some(DurableMark {
            through: self.end,
            state: bytes::Bytes::from_static(b"state"),
        }))
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.durable()
    }
}

/// The refused one goes out again behind what was taken with it, and the mark stands at it then. A barrier
/// tells of all that was taken.
#[tokio::test(start_paused = true)]
async fn what_was_taken_before_the_refused_one_came_again_is_durable_after_a_barrier() {
    let rig = Rig::new();
    rig.dlq.lock().unwrap().full = true;
    let events = (0..4).map(|row| insert(1, row, row.into())).collect();
    rig.log.push(EventBatch::new(source(), events, at(1, 3)));
    let (trigger, shutdown) = Shutdown::new();
    let mut config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    // There is room before anybody asks how far the stream is safe.
    config.checkpoint_interval = Duration::from_secs(100);
    config.retry.probe_interval = Duration::from_secs(10);
    let stream = Stream {
        refuses: at(1, 1),
        end: Position::ZERO,
    };
    let (lane, _control) = rig.lane_to(BoxEmitter::new(stream), config, &shutdown);
    let watch = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(matches!(
            rig.metrics.counts().health,
            LaneHealth::Blocked { .. }
        ));
        rig.dlq.lock().unwrap().full = false;
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 1)]);
        let counts = rig.metrics.counts();
        assert_eq!((counts.delivered, counts.in_flight), (3, 0));
        assert_eq!(rig.stored(), at(1, 3));
        trigger.trigger();
    };
    let ((), end) = tokio::join!(watch, lane);
    end.unwrap();
}

/// A blocked lane looks again and again: what was taken too early must not come each time.
#[tokio::test(start_paused = true)]
async fn while_there_is_no_room_nothing_is_sent_again_behind_the_rejected_one() {
    let rig = Rig::new();
    rig.dlq.lock().unwrap().full = true;
    // For ever, as one that no encoder can read.
    for _ in 0..1000 {
        reject(&rig, &[0]);
    }
    let events = (0..3).map(|ordinal| insert(1, ordinal, 7)).collect();
    let end = Position::end_of(Lsn(1));
    rig.log.push(EventBatch::new(source(), events, end));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, _control) = rig.lane(&shutdown);
    let watch = async {
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let counts = rig.metrics.counts();
        assert!(matches!(counts.health, LaneHealth::Blocked { .. }));
        assert_eq!(rig.emitter.taken(), [at(1, 1), at(1, 2)], "once");
        rig.dlq.lock().unwrap().full = false;
        tokio::time::sleep(Duration::from_secs(1000)).await;
        trigger.trigger();
    };
    let ((), end) = tokio::join!(watch, lane);
    end.unwrap();
    assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
    assert_eq!(rig.letters(LetterState::Parked), [at(1, 1), at(1, 2)]);
    assert_eq!(rig.emitter.taken(), [at(1, 1), at(1, 2)], "once");
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_lets_pass_what_is_behind_a_dead_letter_has_it_delivered() {
    let rig = Rig {
        on_dead_key: OnDeadKey::Pass,
        ..Rig::new()
    };
    // In any order, and one twice.
    reject(&rig, &[3, 0, 3]);
    push(&rig);
    rig.finish().await.unwrap();
    assert_eq!(
        rig.letters(LetterState::Pending),
        [at(1, 0), at(1, 3)],
        "nothing else"
    );
    assert_eq!(rig.metrics.counts().delivered, 4);
}
