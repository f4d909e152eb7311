//! Bounds that are reached block a lane: nothing is lost, nothing halts, and it goes on by itself
//! when there is room.

use super::*;
use crate::{DurableMark, EmitError, Emitter, Image, Op, Receipt};

/// Runs a lane beside `orders`, with the counters looked at all the while.
pub(super) async fn with_lane(rig: &Rig, orders: impl AsyncFnOnce(&LaneControl)) {
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane(&shutdown);
    let metrics = rig.metrics.clone();
    let lane = async {
        let mut lane = std::pin::pin!(lane);
        std::future::poll_fn(|cx| {
            let counts = metrics.counts();
            assert!(counts.adds_up(), "{counts:?}");
            lane.as_mut().poll(cx)
        })
        .await
    };
    let orders = async {
        orders(&control).await;
        trigger.trigger();
    };
    let ((), end) = tokio::join!(orders, lane);
    assert_eq!(end.unwrap(), LaneEnd::Drained);
    let counts = rig.metrics.counts();
    assert!(counts.adds_up(), "{counts:?}");
}

pub(super) async fn wait(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

pub(super) fn blocked_by(rig: &Rig) -> String {
    match rig.metrics.counts().health {
        LaneHealth::Blocked { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn full(rig: &Rig, full: bool) {
    rig.dlq.lock().unwrap().full = full;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_blocks_the_lane_and_a_discard_lets_it_go_on() {
    let rig = Rig::new();
    rig.emitter.state().poison.extend([at(1, 0), at(2, 0)]);
    for commit in 1..6 {
        rig.log.push(transaction(commit, commit as i64 * 10, 2));
    }
    with_lane(&rig, async |control| {
        wait(1).await;
        // The second poison came with the first; make the queue full before anything else comes.
        full(&rig, true);
        rig.emitter.state().poison.push(at(6, 0));
        rig.log.push(transaction(6, 60, 2));
        rig.log.push(transaction(7, 70, 2));
        wait(3000).await;
        assert!(blocked_by(&rig).contains("dlq_letters_max"));
        assert!(rig.stored() < at(6, 0), "before what has no letter");
        assert!(!rig.emitter.taken().contains(&at(7, 0)), "reads no further");
        full(&rig, false);
        let first = rig.dlq.lock().unwrap().letters[0].event_id();
        control.discard(vec![first]).await.unwrap();
        wait(1).await;
        assert_eq!(rig.metrics.counts().health, LaneHealth::Running);
    })
    .await;
    assert_eq!(rig.stored(), Position::end_of(Lsn(7)));
    assert_eq!(
        rig.letters(LetterState::Pending),
        [at(2, 0), at(6, 0)],
        "one is discarded, the blocked one has its letter"
    );
    let counts = rig.metrics.counts();
    assert_eq!((counts.dead_lettered, counts.delivered), (3, 11));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_looked_at_again_by_itself() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    full(&rig, true);
    rig.log.push(transaction(1, 1, 1));
    rig.log.push(transaction(2, 2, 1));
    with_lane(&rig, async |_| {
        wait(200).await;
        blocked_by(&rig);
        full(&rig, false);
        wait(100).await;
    })
    .await;
    assert_eq!(rig.emitter.taken(), [at(2, 0)]);
    assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_of_keys_the_lane_blocks_and_a_redrive_makes_room() {
    let rig = Rig {
        parked_keys_max: 2,
        ..Rig::new()
    };
    let poison = [at(1, 0), at(2, 0), at(3, 0)];
    rig.emitter.state().poison.extend(poison);
    for commit in 1..5 {
        let events = vec![insert(commit, 0, commit as i64), insert(commit, 1, 50)];
        rig.log.push(EventBatch::new(
            source(),
            events,
            Position::end_of(Lsn(commit)),
        ));
    }
    with_lane(&rig, async |control| {
        wait(3000).await;
        assert!(blocked_by(&rig).contains("dlq_keys_max"));
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 0), at(2, 0)]);
        assert!(rig.stored() < at(3, 0));
        rig.emitter.state().poison = vec![at(3, 0)];
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.stopped), (2, None));
        wait(1).await;
    })
    .await;
    assert_eq!(rig.letters(LetterState::Pending), [at(3, 0)]);
    let mut taken = rig.emitter.taken();
    taken.sort();
    let mut expected = all(1..5, 2);
    expected.retain(|position| *position != at(3, 0));
    assert_eq!(taken, expected, "each once");
}

/// Each takes the key that waits one further: with the last of the chain, every row waits.
#[tokio::test(start_paused = true)]
async fn changes_of_a_key_that_waits_do_not_pass_the_bound_of_keys() {
    let rig = Rig {
        parked_keys_max: 2,
        ..Rig::new()
    };
    rig.emitter.state().poison.push(at(1, 0));
    let mut events = vec![insert(1, 0, 1)];
    for ordinal in 1..6 {
        let from = i64::from(ordinal);
        let mut event = insert(1, ordinal, from + 1);
        event.op = Op::Update;
        event.before = Image::Full(crate::testing::row(from, "name", "1.50"));
        events.push(event);
    }
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
    with_lane(&rig, async |control| {
        wait(300).await;
        assert!(blocked_by(&rig).contains("dlq_keys_max"));
        assert_eq!(rig.letters(LetterState::Parked), [at(1, 1)], "rows 1 and 2");
        rig.emitter.state().poison.clear();
        for _ in 0..5 {
            control.redrive(RedriveRequest::default()).await.unwrap();
            wait(1).await;
        }
    })
    .await;
    assert_eq!(rig.emitter.taken(), all(1..2, 6), "each once, in order");
}

#[tokio::test(start_paused = true)]
async fn what_a_transform_refuses_waits_for_room_too_and_nothing_overtakes_it() {
    let rig = Rig {
        transform: Some(|event| match event.position.commit {
            Lsn(2) => Err(TransformError {
                message: "no".into(),
            }),
            Lsn(3) => Ok(None),
            _ => Ok(Some(event)),
        }),
        ..Rig::new()
    };
    full(&rig, true);
    // One read: delivered, refused, dropped, delivered; row 7 first and last.
    let events = vec![
        insert(1, 0, 1),
        insert(2, 0, 7),
        insert(3, 0, 3),
        insert(4, 0, 7),
    ];
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(4))));
    with_lane(&rig, async |_| {
        wait(300).await;
        blocked_by(&rig);
        assert_eq!(rig.emitter.taken(), [at(1, 0)], "what is before it");
        assert_eq!(rig.stored(), at(1, 0));
        full(&rig, false);
        wait(100).await;
    })
    .await;
    assert_eq!(rig.emitter.taken(), [at(1, 0)]);
    assert_eq!(rig.letters(LetterState::Pending), [at(2, 0)]);
    assert_eq!(rig.letters(LetterState::Parked), [at(4, 0)], "behind it");
    let counts = rig.metrics.counts();
    assert_eq!(
        (counts.read, counts.filtered, counts.dead_lettered),
        (4, 1, 1),
        "each counted once"
    );
}

/// One read of several transactions in which everything but the first and the last row fails.
fn push_failing(rig: &Rig) {
    let mut events: Vec<_> = (0..7).map(|n| insert(1, n, i64::from(n))).collect();
    events[6].last = true;
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
}

fn failing(event: ChangeEvent) -> Result<Option<ChangeEvent>, TransformError> {
    match event.position.ordinal {
        0 | 6 => Ok(Some(event)),
        _ => Err(TransformError {
            message: "no".into(),
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn letters_that_fit_are_there_before_the_lane_blocks_at_the_next() {
    for (keys, letters, key) in [
        (3, None, "dlq_keys_max"),
        (65_536, Some(3), "dlq_letters_max"),
    ] {
        let rig = Rig {
            parked_keys_max: keys,
            transform: Some(failing),
            ..Rig::new()
        };
        rig.dlq.lock().unwrap().letters_max = letters;
        push_failing(&rig);
        with_lane(&rig, async |control| {
            wait(3).await;
            let reason = blocked_by(&rig);
            assert!(reason.contains(key), "{reason}");
            assert_eq!(rig.letters(LetterState::Pending), all(1..2, 4)[1..]);
            assert_eq!(rig.emitter.taken(), [at(1, 0)]);
            assert_eq!(rig.stored(), at(1, 3), "they are dealt with");
            // As captured: the letters go, and those that did not fit have room.
            let request = RedriveRequest {
                as_was: true,
                ..RedriveRequest::default()
            };
            let report = control.redrive(request).await.unwrap();
            assert_eq!((report.delivered, report.stopped), (3, None));
            wait(1).await;
            assert_eq!(rig.metrics.counts().health, LaneHealth::Running);
        })
        .await;
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 4), at(1, 5)]);
        let taken = [&all(1..2, 4)[..], &[at(1, 6)]].concat();
        assert_eq!(rig.emitter.taken(), taken);
        let counts = rig.metrics.counts();
        assert_eq!((counts.read, counts.dead_lettered), (7, 5));
        assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn of_rows_that_are_rejected_together_those_that_fit_have_letters() {
    let rig = Rig {
        parked_keys_max: 2,
        ..Rig::new()
    };
    let culprits = all(1..2, 5)[1..].to_vec();
    rig.emitter.state().poison = culprits.clone();
    rig.emitter
        .state()
        .script
        .push_back(Answer::Reject(culprits));
    rig.log.push(transaction(1, 1, 5));
    with_lane(&rig, async |control| {
        wait(3).await;
        blocked_by(&rig);
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 1), at(1, 2)]);
        assert_eq!(rig.stored(), at(1, 2));
        rig.emitter.state().poison.clear();
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!(report.delivered, 2);
        wait(1).await;
    })
    .await;
    assert_eq!(rig.emitter.taken(), all(1..2, 5));
}

/// That each of them is refused once more when it goes out again says nothing about the destination.
#[tokio::test(start_paused = true)]
async fn many_rows_that_are_rejected_together_have_letters_when_there_is_room() {
    let rig = Rig::new();
    let culprits: Vec<_> = all(1..2, 30).into_iter().skip(1).step_by(2).collect();
    assert!(culprits.len() > 10);
    rig.emitter.state().poison = culprits.clone();
    rig.emitter
        .state()
        .script
        .push_back(Answer::Reject(culprits.clone()));
    full(&rig, true);
    rig.log.push(transaction(1, 1, 30));
    with_lane(&rig, async |_| {
        wait(3).await;
        blocked_by(&rig);
        full(&rig, false);
        wait(100).await;
        assert_eq!(rig.metrics.counts().health, LaneHealth::Running);
    })
    .await;
    assert_eq!(rig.letters(LetterState::Pending), culprits);
    assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
}

/// What waits is stored in groups; a group may be larger than the whole queue.
#[tokio::test(start_paused = true)]
async fn of_events_that_wait_together_those_that_fit_have_letters() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    rig.dlq.lock().unwrap().letters_max = Some(3);
    let events: Vec<_> = (0..9).map(|n| insert(1, n, 7)).collect();
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
    with_lane(&rig, async |control| {
        wait(3).await;
        blocked_by(&rig);
        assert_eq!(rig.letters(LetterState::Parked), [at(1, 1), at(1, 2)]);
        rig.emitter.state().poison.clear();
        for left in [6, 3, 0] {
            let report = control.redrive(RedriveRequest::default()).await.unwrap();
            assert_eq!((report.delivered, report.stopped), (3, None), "{left}");
            wait(1).await;
        }
        assert_eq!(rig.metrics.counts().health, LaneHealth::Running);
    })
    .await;
    assert_eq!(rig.emitter.taken(), all(1..2, 9));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_lane_shuts_down_and_the_next_start_blocks_again() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    full(&rig, true);
    rig.log.push(transaction(1, 1, 2));
    with_lane(&rig, async |_| wait(10).await).await;
    assert!(rig.stored() < at(1, 0));
    let rig = Rig {
        metrics: Arc::default(),
        ..rig
    };
    with_lane(&rig, async |_| {
        wait(10).await;
        blocked_by(&rig);
        full(&rig, false);
        wait(100).await;
    })
    .await;
    assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
    assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
}

/// A failed request behind which everything came to be parked: with nothing left to send, nothing
/// but the redrive can find out that the destination is well again.
#[tokio::test(start_paused = true)]
async fn a_redrive_goes_though_the_last_request_failed_if_nothing_is_left_to_send() {
    let rig = Rig::new();
    // Two events of one row in one request. The first is refused alone; then the destination goes
    // down and the second is parked before it is sent again.
    rig.emitter.state().script.extend([
        Answer::Fail(EmitErrorKind::Event, Some(400)),
        DOWN,
        Answer::Fail(EmitErrorKind::Event, Some(400)),
        DOWN,
    ]);
    let mut events = vec![insert(1, 0, 7), insert(1, 1, 7)];
    events[1].last = true;
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
    with_lane(&rig, async |control| {
        wait(600).await;
        let health = rig.metrics.counts().health;
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.stopped), (2, None), "{health:?}");
    })
    .await;
    assert_eq!(rig.emitter.taken(), all(1..2, 2));
}

/// Takes events that nobody fetches; full after so many.
struct Away {
    drains: bool,
    room: usize,
}

impl Emitter for Away {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        if batch.len() > self.room {
            std::future::pending::<()>().await;
        }
        self.room -= batch.len();
        Ok(Receipt::ACCEPTED)
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        std::future::pending().await
    }

    fn drains(&self) -> bool {
        self.drains
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_consumer_that_fetches_when_it_likes() {
    for (drains, room, seconds) in [(true, 9, 11), (false, 9, 1), (false, 0, 1)] {
        let rig = Rig::new();
        rig.log.push(transaction(1, 1, 2));
        let (trigger, shutdown) = Shutdown::new();
        let log = rig.log.clone();
        let lane = Lane {
            config: LaneConfig::new("hook", source().lineage, Position::ZERO),
            open: move |after| Ok(log.tail(after)),
            filter: Box::new(|_: &ChangeEvent| true),
            transforms: Vec::new(),
            emitter: BoxEmitter::new(Away { drains, room }),
            dlq: rig.dlq.clone(),
            checkpoints: rig.checkpoints.clone(),
            watermark: rig.watermark.register("hook", None),
            clock: Arc::new(SystemClock::new()),
            metrics: rig.metrics.clone(),
            control: LaneControl::new().1,
            shutdown,
        };
        let begun = tokio::time::Instant::now();
        let orders = async {
            wait(1).await;
            trigger.trigger();
        };
        let ((), end) = tokio::join!(orders, lane.run());
        assert_eq!(end.unwrap(), LaneEnd::Drained);
        assert_eq!(begun.elapsed().as_secs(), seconds, "{drains} {room}");
        let counts = rig.metrics.counts();
        assert!(counts.adds_up(), "{counts:?}");
        assert_eq!(rig.stored(), Position::ZERO);
    }
}

/// A supervisor starts it again and again.
#[tokio::test(start_paused = true)]
async fn a_lane_that_halts_stores_what_it_has_done() {
    let rig = Rig {
        on_dead_key: OnDeadKey::Stop,
        ..Rig::new()
    };
    rig.log.push(transaction(1, 1, 5));
    rig.emitter.state().poison.push(at(1, 3));
    for _ in 0..3 {
        let end = rig.finish().await;
        assert!(matches!(end, Err(LaneError::DeadKey { .. })), "{end:?}");
        assert_eq!(rig.stored(), at(1, 2));
    }
    assert_eq!(rig.emitter.taken(), all(1..2, 3), "nothing comes again");
}
