//! Redrives in the middle of other things: letters that go ahead, lanes that wait for room, disks that
//! run full.

use super::bounds::{blocked_by, wait, with_lane};
use super::*;
use crate::{DurableMark, EmitError, Emitter, Receipt};

#[derive(Default)]
struct Consumed {
    given: Vec<Position>,
    acknowledged: usize,
    /// It acknowledges what it is given.
    by_itself: bool,
    /// These are refused; their place counts as acknowledged with the others.
    refuses: Vec<Position>,
    /// Marks have a state: how many were acknowledged.
    has_state: bool,
    batch_size: usize,
}

/// Takes one event a second; a consumer acknowledges them in the order in which they were given.
#[derive(Clone, Default)]
struct Consumer(Arc<Mutex<Consumed>>);

impl Consumer {
    fn now(&self) -> std::sync::MutexGuard<'_, Consumed> {
        self.0.lock().unwrap()
    }
}

impl Emitter for Consumer {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        wait(1).await;
        let mut now = self.now();
        let given = batch.events().iter().map(|event| event.position);
        now.given.extend(given);
        if now.by_itself {
            now.acknowledged = now.given.len();
        }
        Ok(Receipt {
            rejected: rejections(batch, &now.refuses),
            ..Receipt::ACCEPTED
        })
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let now = self.now();
        let acknowledged = now.given[..now.acknowledged].iter().max();
        let state = match now.has_state {
            true => vec![u8::try_from(now.acknowledged).unwrap()],
            false => Vec::new(),
        };
        Ok(Some(DurableMark {
            through: acknowledged.copied().unwrap_or(Position::ZERO),
            state: state.into(),
        }))
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let left = || {
            let now = self.now();
            now.given.len() - now.acknowledged
        };
        while left() > 0 {
            wait(1).await;
        }
        self.durable()
    }

    fn batch_size(&self) -> usize {
        self.now().batch_size.max(1)
    }
}

/// A lane to a consumer beside `orders`, until they are done.
async fn to_consumer(
    rig: &Rig,
    consumer: &Consumer,
    window_max: u64,
    orders: impl AsyncFnOnce(&LaneControl),
) {
    let mut config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    config.window_max = window_max;
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane_to(BoxEmitter::new(consumer.clone()), config, &shutdown);
    let orders = async {
        orders(&control).await;
        trigger.trigger();
    };
    let ((), end) = tokio::join!(orders, lane);
    assert_eq!(end.unwrap(), LaneEnd::Drained);
}

fn as_was() -> RedriveRequest {
    RedriveRequest {
        as_was: true,
        ..RedriveRequest::default()
    }
}

fn refuse(event: ChangeEvent) -> Result<Option<ChangeEvent>, TransformError> {
    match event.position.ordinal {
        0 | 5 => Err(TransformError {
            message: "no".into(),
        }),
        _ => Ok(Some(event)),
    }
}

/// A dead row, and another row's event that stays behind its third letter, for which there is no room.
fn blocked_rig() -> Rig {
    let rig = Rig {
        transform: Some(refuse),
        ..Rig::new()
    };
    rig.dlq.lock().unwrap().letters_max = Some(2);
    // Row 7 is dead from its first event on.
    let rows = [7, 1, 7, 2, 7, 7, 7];
    let events = rows.into_iter().zip(0..);
    let events = events.map(|(row, n)| insert(1, n, row)).collect();
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
    rig
}

/// While the first event is on its way, whoever asks has the letters stored: there is no room for the
/// third one, and the second event stays behind it.
async fn come_to_be_blocked(rig: &Rig, consumer: &Consumer, control: &LaneControl) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    control.resume().await.unwrap();
    wait(5).await;
    blocked_by(rig);
    assert_eq!(consumer.now().given, [at(1, 1)]);
}

/// A letter may go ahead of another row's event that waits for room. What the emitter says of the
/// letter then says nothing of that event, which it is given afterwards.
#[tokio::test(start_paused = true)]
async fn a_letter_redriven_ahead_does_not_speak_for_an_event_that_is_sent_after_it() {
    let rig = blocked_rig();
    let consumer = Consumer::default();
    consumer.now().by_itself = true;
    to_consumer(&rig, &consumer, 1000, async |control| {
        come_to_be_blocked(&rig, &consumer, control).await;
        for sent in [3, 5] {
            let report = control.redrive(as_was()).await.unwrap();
            assert_eq!((report.delivered, report.stopped), (2, None));
            assert_eq!(consumer.now().given.len(), sent);
        }
        consumer.now().by_itself = false;
        wait(5).await;
        let given = [1, 0, 2, 4, 5, 3].map(|n| at(1, n));
        assert_eq!(consumer.now().given, given);
        assert_eq!(rig.stored(), at(1, 2), "the last one is not acknowledged");
        consumer.now().acknowledged = given.len();
        wait(5).await;
        assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
    })
    .await;
}

/// As above, with a letter that is refused once more.
#[tokio::test(start_paused = true)]
async fn nor_does_one_that_is_refused_again() {
    let rig = blocked_rig();
    let consumer = Consumer::default();
    consumer.now().by_itself = true;
    consumer.now().refuses.push(at(1, 4));
    to_consumer(&rig, &consumer, 1000, async |control| {
        come_to_be_blocked(&rig, &consumer, control).await;
        let report = control.redrive(as_was()).await.unwrap();
        assert_eq!((report.delivered, report.failed), (2, 0));
        wait(5).await;
        let report = control.redrive(as_was()).await.unwrap();
        assert_eq!((report.delivered, report.failed), (0, 1));
        consumer.now().by_itself = false;
        rig.dlq.lock().unwrap().letters_max = None;
        wait(300).await;
        let given = [1, 0, 2, 4, 3].map(|n| at(1, n));
        assert_eq!(consumer.now().given, given);
        assert_eq!(rig.stored(), at(1, 2), "the last one is not acknowledged");
        consumer.now().acknowledged = given.len();
        wait(5).await;
        assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
    })
    .await;
}

/// What the checkpoint covers is not read again: its letter is closed together with a state that has it.
/// A letter that goes ahead moves the emitter's mark, and while that is further than the lane no state
/// can be stored.
#[tokio::test(start_paused = true)]
async fn a_letter_that_goes_ahead_does_not_close_one_that_the_checkpoint_covers() {
    let rig = Rig {
        transform: Some(refuse),
        ..Rig::new()
    };
    rig.dlq.lock().unwrap().letters_max = Some(2);
    let (dead, other) = (insert(1, 0, 7), insert(2, 5, 1));
    rig.log.push(EventBatch::new(
        source(),
        vec![dead],
        Position::end_of(Lsn(1)),
    ));
    let consumer = Consumer::default();
    consumer.now().by_itself = true;
    consumer.now().has_state = true;
    let stored = || {
        let checkpoint = rig.checkpoints.load("hook").unwrap().unwrap();
        (checkpoint.position, checkpoint.state)
    };
    to_consumer(&rig, &consumer, 1000, async |control| {
        wait(5).await;
        assert_eq!(stored(), (Position::end_of(Lsn(1)), vec![0].into()));
        // The one waits behind the dead letter and finds no room, for the other has the last.
        let events = vec![insert(2, 1, 7), other];
        rig.log
            .push(EventBatch::new(source(), events, Position::end_of(Lsn(2))));
        wait(5).await;
        control.resume().await.unwrap();
        blocked_by(&rig);
        let report = control.redrive(as_was()).await.unwrap();
        assert_eq!((report.delivered, report.stopped), (2, None));
        assert_eq!(consumer.now().given, [at(1, 0), at(2, 5)]);
        assert!(rig.checkpoints.history.lock().unwrap().len() > 1);
        wait(5).await;
    })
    .await;
    assert_eq!(stored().1, vec![2]);
}

/// Its letters are read again with each loss: they were there before, and the row waits behind them.
#[tokio::test(start_paused = true)]
async fn a_dead_row_waits_also_after_a_second_loss() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 1));
    rig.emitter.state().accept_until = Some(Position::ZERO);
    let rows = [(0, 8), (1, 7), (2, 7)];
    let events = rows.map(|(n, row)| insert(1, n, row)).to_vec();
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
    with_lane(&rig, async |control| {
        wait(5).await;
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 1)]);
        // Mended since: nothing but the letter holds the row back.
        rig.emitter.state().poison.clear();
        for taken in [2, 3] {
            rig.emitter.state().lose = Some(EmitErrorKind::EndpointRetry { retry_after: None });
            wait(60).await;
            assert_eq!(rig.emitter.taken(), vec![at(1, 0); taken]);
        }
        rig.emitter.state().accept_until = Some(Position::MAX);
        wait(60).await;
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.stopped), (2, None));
    })
    .await;
    let end = [at(1, 0), at(1, 1), at(1, 2)];
    assert_eq!(rig.emitter.taken()[2..], end);
}

/// Letters that a start finds are as old as any.
#[tokio::test(start_paused = true)]
async fn a_dead_row_waits_also_after_the_first_loss_of_a_new_process() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 1));
    rig.emitter.state().accept_until = Some(Position::ZERO);
    let rows = [(0, 8), (1, 7)];
    let events = rows.map(|(n, row)| insert(1, n, row)).to_vec();
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
    with_lane(&rig, async |_| {
        wait(5).await;
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 1)]);
    })
    .await;
    rig.emitter.state().poison.clear();
    let before = rig.emitter.taken().len();
    with_lane(&rig, async |control| {
        wait(5).await;
        rig.emitter.state().lose = Some(EmitErrorKind::EndpointRetry { retry_after: None });
        wait(60).await;
        assert_eq!(rig.emitter.taken()[before..], [at(1, 0); 2]);
        rig.emitter.state().accept_until = Some(Position::MAX);
        wait(60).await;
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.stopped), (1, None));
    })
    .await;
    assert_eq!(rig.emitter.taken()[before + 2..], [at(1, 1)]);
}

/// Its first letter is closed and a later one is not: what stands between is read again, and waits for nobody.
#[tokio::test(start_paused = true)]
async fn what_is_read_again_does_not_wait_behind_a_letter_that_is_closed() {
    let rig = Rig::new();
    rig.emitter.state().poison.extend([at(1, 0), at(3, 0)]);
    rig.log.push(transaction(1, 7, 1));
    with_lane(&rig, async |control| {
        wait(5).await;
        rig.emitter.state().poison.retain(|dead| *dead != at(1, 0));
        rig.log.push(transaction(2, 7, 1));
        rig.log.push(transaction(3, 7, 1));
        wait(5).await;
        assert_eq!(rig.letters(LetterState::Parked), [at(2, 0), at(3, 0)]);
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.failed), (2, 1));
        let before = rig.emitter.taken().len();
        control
            .seek(Position::end_of(Lsn(1)))
            .await
            .unwrap()
            .unwrap();
        wait(5).await;
        assert_eq!(rig.emitter.taken()[before..], [at(2, 0)]);
        assert!(rig.letters(LetterState::Parked).is_empty());
    })
    .await;
}

/// Everything that was taken waits behind what was refused, and nothing is left to become durable.
#[tokio::test(start_paused = true)]
async fn a_request_of_which_all_is_parked_does_not_count_as_taken() {
    let rig = Rig::new();
    let events = vec![insert(1, 0, 7), insert(1, 1, 7)];
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(1))));
    let consumer = Consumer::default();
    consumer.now().batch_size = 2;
    consumer.now().refuses.push(at(1, 0));
    to_consumer(&rig, &consumer, 2, async |_| {
        wait(5).await;
        rig.log.push(transaction(2, 1, 2));
        wait(5).await;
        assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
        consumer.now().acknowledged = 4;
        wait(5).await;
        assert_eq!(rig.stored(), Position::end_of(Lsn(2)));
    })
    .await;
}

/// The disk of the dead letter queue is full, which is when an operator is told to redrive or discard.
#[tokio::test(start_paused = true)]
async fn letters_that_cannot_be_closed_for_lack_of_room_stay_open_and_the_lane_goes_on() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    rig.log.push(transaction(1, 1, 2));
    with_lane(&rig, async |control| {
        wait(5).await;
        rig.dlq.lock().unwrap().states_full = true;
        let ids = vec![EventId::new(&source().lineage, at(1, 0))];
        assert_eq!(control.discard(ids.clone()).await, Some(0));
        rig.emitter.state().poison.clear();
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        let stopped = report.stopped.unwrap();
        assert!(stopped.contains("not closed"), "{stopped}");
        assert_eq!((report.delivered, report.failed), (0, 0));
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
        rig.log.push(transaction(2, 9, 1));
        wait(5).await;
        rig.dlq.lock().unwrap().states_full = false;
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.stopped), (1, None));
    })
    .await;
    assert!(rig.letters(LetterState::Pending).is_empty());
    let taken = [at(1, 1), at(1, 0), at(2, 0), at(1, 0)];
    assert_eq!(rig.emitter.taken(), taken, "sent once more");
}

/// A redrive waits for a consumer that takes its time; what that has done is stored meanwhile.
#[tokio::test(start_paused = true)]
async fn what_a_slow_consumer_has_done_is_stored_while_a_redrive_waits_for_it() {
    let rig = Rig {
        transform: Some(refuse),
        ..Rig::new()
    };
    rig.log.push(transaction(1, 1, 4));
    let consumer = Consumer::default();
    to_consumer(&rig, &consumer, 1000, async |control| {
        wait(5).await;
        let redrive = control.redrive(as_was());
        let consumed = async {
            wait(5).await;
            assert_eq!(rig.stored(), Position::ZERO);
            consumer.now().acknowledged = 2;
            wait(5).await;
            assert_eq!(rig.stored(), at(1, 2), "while it waits");
            consumer.now().by_itself = true;
            consumer.now().acknowledged = 3;
        };
        let (report, ()) = tokio::join!(redrive, consumed);
        assert_eq!(report.unwrap().delivered, 1);
    })
    .await;
}

/// Nobody fetches what was given: an operator moves the lane all the same.
#[tokio::test(start_paused = true)]
async fn a_lane_whose_consumer_is_away_can_be_moved() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 3));
    let consumer = Consumer::default();
    to_consumer(&rig, &consumer, 1000, async |control| {
        wait(5).await;
        let moved = tokio::time::timeout(Duration::from_secs(60), control.seek(at(1, 1)));
        let from = moved.await.expect("an answer").unwrap().unwrap();
        assert_eq!(from, Position::ZERO);
        assert_eq!(rig.stored(), at(1, 1));
        wait(5).await;
        let given = [0, 1, 2, 2].map(|n| at(1, n));
        assert_eq!(consumer.now().given, given);
        consumer.now().acknowledged = given.len();
        wait(5).await;
        assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
    })
    .await;
}

/// Its consumer is away and its window full: it waits, and hears what it is told all the same.
#[tokio::test(start_paused = true)]
async fn a_lane_whose_window_is_full_takes_orders() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 3));
    let consumer = Consumer::default();
    to_consumer(&rig, &consumer, 1, async |control| {
        wait(5).await;
        let paused = tokio::time::timeout(Duration::from_secs(60), control.pause());
        paused.await.expect("an answer").unwrap();
        let resumed = tokio::time::timeout(Duration::from_secs(60), control.resume());
        resumed.await.expect("an answer").unwrap();
        consumer.now().by_itself = true;
        consumer.now().acknowledged = 1;
        wait(10).await;
        assert_eq!(consumer.now().given, all(1..2, 3));
    })
    .await;
}

/// A run to a position waits for its consumer, and what that has done is stored meanwhile.
#[tokio::test(start_paused = true)]
async fn a_bounded_run_stores_what_its_consumer_has_done_and_takes_orders() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 3));
    rig.log.close();
    let consumer = Consumer::default();
    let config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    let (_trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane_to(BoxEmitter::new(consumer.clone()), config, &shutdown);
    let consumed = async {
        wait(10).await;
        assert_eq!(rig.stored(), Position::ZERO);
        consumer.now().acknowledged = 2;
        wait(5).await;
        assert_eq!(rig.stored(), at(1, 1), "while it waits");
        let answer = tokio::time::timeout(Duration::from_secs(60), control.discard(Vec::new()));
        assert_eq!(answer.await.expect("an answer"), Some(0));
        consumer.now().acknowledged = 3;
    };
    let (end, ()) = tokio::join!(lane, consumed);
    assert_eq!(end.unwrap(), LaneEnd::Finished);
    assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
}

/// An emitter that takes at once what it is given needs no clock between two requests.
#[tokio::test(start_paused = true)]
async fn many_small_requests_that_are_answered_at_once_go_out_at_once() {
    let rig = Rig::new();
    rig.emitter.state().batch_size = Some(1);
    rig.log.push(transaction(1, 1, 1000));
    rig.log.close();
    let begun = tokio::time::Instant::now();
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken().len(), 1000);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

/// Letters of a time when the lane parked hold their rows back also when it is to stop.
#[tokio::test(start_paused = true)]
async fn a_lane_that_stops_at_dead_events_knows_the_letters_of_before() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    rig.log.push(EventBatch::new(
        source(),
        vec![insert(1, 0, 7)],
        Position::end_of(Lsn(1)),
    ));
    rig.run_for_a_second().await;
    assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
    let rig = Rig {
        on_dead_key: OnDeadKey::Stop,
        metrics: Arc::default(),
        ..rig
    };
    rig.log.push(EventBatch::new(
        source(),
        vec![insert(2, 0, 7), insert(2, 1, 8)],
        Position::end_of(Lsn(2)),
    ));
    rig.run_for_a_second().await;
    assert_eq!(rig.emitter.taken(), [at(2, 1)], "row 7 waits");
    assert_eq!(rig.letters(LetterState::Parked), [at(2, 0)]);
}

/// What comes before a dead event that stops the lane is nobody's fault.
#[tokio::test(start_paused = true)]
async fn a_lane_that_stops_delivers_what_comes_before_the_dead_event() {
    let rig = Rig {
        on_dead_key: OnDeadKey::Stop,
        transform: Some(|event| match event.position.ordinal {
            3 => Err(TransformError {
                message: "no".into(),
            }),
            _ => Ok(Some(event)),
        }),
        ..Rig::new()
    };
    rig.log.push(transaction(1, 1, 5));
    rig.log.close();
    let (_trigger, shutdown) = Shutdown::new();
    let (lane, _control) = rig.lane(&shutdown);
    let end = lane.await;
    assert!(matches!(end, Err(LaneError::DeadKey { .. })), "{end:?}");
    assert_eq!(rig.emitter.taken(), all(1..2, 3));
}
