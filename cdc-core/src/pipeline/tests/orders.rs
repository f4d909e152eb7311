//! Orders of an operator: pause, resume, seek, stop.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{Checkpoint, DurableMark, EmitError, Emitter, Receipt, SourceError, SourceErrorKind};

/// Runs a lane beside `orders`; the lane is stopped when they are done.
async fn with_lane<T>(
    rig: &Rig,
    orders: impl AsyncFnOnce(&LaneControl) -> T,
) -> (T, Result<LaneEnd, LaneError>) {
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane(&shutdown);
    let orders = async {
        let out = orders(&control).await;
        trigger.trigger();
        out
    };
    let (out, end) = tokio::join!(orders, lane);
    let counts = rig.metrics.counts();
    assert!(counts.adds_up(), "{counts:?}");
    (out, end)
}

async fn second() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_lane_delivers_nothing_until_it_is_resumed() {
    let rig = Rig::new();
    let ((), end) = with_lane(&rig, async |control| {
        rig.log.push(transaction(1, 1, 2));
        second().await;
        control.pause().await.unwrap();
        rig.log.push(transaction(2, 9, 2));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(rig.emitter.taken(), all(1..2, 2));
        assert_eq!(rig.metrics.counts().health, LaneHealth::Paused);
        let redrive = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!(redrive.stopped.as_deref(), Some("the lane is paused"));
        control.resume().await.unwrap();
        second().await;
        assert_eq!(rig.metrics.counts().health, LaneHealth::Running);
    })
    .await;
    end.unwrap();
    assert_eq!(rig.emitter.taken(), all(1..3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_lane_moved_back_delivers_again_and_one_moved_on_skips() {
    let rig = Rig::new();
    for commit in 1..5 {
        rig.log.push(transaction(commit, commit as i64 * 10, 2));
    }
    let ((), end) = with_lane(&rig, async |control| {
        second().await;
        let back = Position::end_of(Lsn(2));
        let from = control.seek(back).await.unwrap().unwrap();
        assert_eq!(from, Position::end_of(Lsn(4)));
        second().await;
        assert_eq!(rig.emitter.state().resumed, [None, Some(back)]);
        assert_eq!(rig.emitter.taken(), [all(1..5, 2), all(3..5, 2)].concat());
        let ahead = Position::end_of(Lsn(7));
        control.seek(ahead).await.unwrap().unwrap();
        assert_eq!(rig.stored(), ahead, "durable before the answer");
        for commit in 5..9 {
            rig.log.push(transaction(commit, commit as i64 * 10, 2));
        }
        second().await;
    })
    .await;
    end.unwrap();
    assert_eq!(rig.emitter.taken()[12..], all(8..9, 2));
    assert_eq!(rig.stored(), Position::end_of(Lsn(8)));
}

/// A journal that is full takes in nothing more before it hears that a lane needs less.
#[tokio::test(start_paused = true)]
async fn a_log_is_told_where_a_lane_was_moved_though_nothing_comes_behind() {
    let rig = Rig::new();
    rig.emitter
        .state()
        .script
        .extend(std::iter::repeat_n(DOWN, 100));
    rig.log.push(transaction(1, 1, 5));
    let end = Position::end_of(Lsn(1));
    let ((), stopped) = with_lane(&rig, async |control| {
        second().await;
        assert_eq!(rig.log.confirmed(), Position::ZERO);
        control.seek(end).await.unwrap().unwrap();
        second().await;
        assert_eq!(rig.log.confirmed(), end);
    })
    .await;
    stopped.unwrap();
}

/// Whoever redrives waits for the answer, and the lane hears no other order meanwhile.
#[tokio::test(start_paused = true)]
async fn a_redrive_ends_when_its_destination_asks_to_be_left_alone_for_long() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    rig.log.push(transaction(1, 1, 2));
    let ((), end) = with_lane(&rig, async |control| {
        second().await;
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
        let later = |seconds| EmitErrorKind::EndpointRetry {
            retry_after: Some(Duration::from_secs(seconds)),
        };
        rig.emitter.state().poison.clear();
        let long = Answer::Fail(later(3600), Some(429));
        rig.emitter.state().script.push_back(long);
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.failed), (0, 0));
        assert!(report.stopped.is_some(), "{report:?}");
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
        // A wish as short as the lane's own waits is waited for.
        let short = Answer::Fail(later(5), Some(429));
        rig.emitter.state().script.push_back(short);
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.stopped), (1, None));
    })
    .await;
    end.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lane_can_be_moved_past_what_its_destination_refuses() {
    let rig = Rig::new();
    rig.emitter.state().script.extend(std::iter::repeat_n(
        Answer::Fail(EmitErrorKind::EndpointStop, Some(404)),
        1000,
    ));
    rig.log.push(transaction(1, 1, 2));
    rig.log.push(transaction(2, 9, 2));
    let ((), end) = with_lane(&rig, async |control| {
        tokio::time::sleep(Duration::from_secs(600)).await;
        let redrive = control.redrive(RedriveRequest::default()).await.unwrap();
        assert!(redrive.stopped.is_some(), "it does not wait for ever");
        control
            .seek(Position::end_of(Lsn(1)))
            .await
            .unwrap()
            .unwrap();
        rig.emitter.state().script.clear();
        tokio::time::sleep(Duration::from_secs(600)).await;
    })
    .await;
    end.unwrap();
    assert_eq!(rig.emitter.taken(), all(2..3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_not_retained_is_refused_and_the_lane_stays() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 2));
    let (trigger, shutdown) = Shutdown::new();
    let (control, commands) = LaneControl::new();
    let log = rig.log.clone();
    let lane = Lane {
        config: LaneConfig::new("hook", source().lineage, Position::end_of(Lsn(0))),
        open: move |after| {
            if after < Position::end_of(Lsn(0)) {
                let kind = SourceErrorKind::Gap;
                return Err(SourceError::new(kind, "the oldest is 0/0:end"));
            }
            Ok(log.tail(after))
        },
        filter: Box::new(|_: &ChangeEvent| true),
        transforms: Vec::new(),
        emitter: BoxEmitter::new(rig.emitter.clone()),
        dlq: rig.dlq.clone(),
        checkpoints: rig.checkpoints.clone(),
        watermark: rig.watermark.register("hook", None),
        clock: Arc::new(SystemClock::new()),
        metrics: rig.metrics.clone(),
        control: commands,
        shutdown,
    };
    let orders = async {
        second().await;
        let refused = control.seek(Position::ZERO).await.unwrap().unwrap_err();
        assert_eq!(refused.kind, SourceErrorKind::Gap);
        rig.log.push(transaction(2, 9, 2));
        second().await;
        trigger.trigger();
    };
    let ((), end) = tokio::join!(orders, lane.run());
    end.unwrap();
    assert_eq!(rig.emitter.taken(), all(1..3, 2), "nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_lane_drains_and_ends_alone() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 2));
    let (_trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane(&shutdown);
    let orders = async {
        second().await;
        control.stop().await.unwrap();
    };
    let ((), end) = tokio::join!(orders, lane);
    assert_eq!(end.unwrap(), LaneEnd::Drained);
    assert!(!shutdown.is_asked(), "others go on");
    assert_eq!(rig.stored(), Position::end_of(Lsn(1)));
    assert_eq!(control.pause().await, None, "it has ended");
}

/// Takes one event at a time as long as it has room, which its consumer makes, who acknowledges nothing.
#[derive(Clone, Default)]
struct Shop(Arc<Mutex<(usize, Vec<Position>)>>);

impl Emitter for Shop {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        while self.0.lock().unwrap().0 < batch.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut shop = self.0.lock().unwrap();
        shop.0 -= batch.len();
        shop.1
            .extend(batch.events().iter().map(|event| event.position));
        Ok(Receipt::ACCEPTED)
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let has_some = !self.0.lock().unwrap().1.is_empty();
        if has_some {
            std::future::pending::<()>().await;
        }
        Ok(None)
    }

    fn waits_for_room(&self) -> bool {
        true
    }

    fn batch_size(&self) -> usize {
        1
    }
}

/// Runs a lane to a shop with room for so many beside `orders`.
async fn with_shop(rig: &Rig, room: usize, orders: impl AsyncFnOnce(&LaneControl, &Shop)) {
    let shop = Shop::default();
    shop.0.lock().unwrap().0 = room;
    let (trigger, shutdown) = Shutdown::new();
    let config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    let (lane, control) = rig.lane_to(BoxEmitter::new(shop.clone()), config, &shutdown);
    let orders = async {
        let hour = Duration::from_secs(3600);
        let done = tokio::time::timeout(hour, orders(&control, &shop)).await;
        trigger.trigger();
        done
    };
    let (done, end) = tokio::join!(orders, lane);
    end.unwrap();
    done.expect("orders are answered although nobody takes anything");
}

#[tokio::test(start_paused = true)]
async fn orders_do_not_wait_for_the_consumer_of_a_full_destination() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 3));
    with_shop(&rig, 1, async |control, shop| {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(shop.0.lock().unwrap().1, all(1..2, 1), "it is full");
        let counts = rig.metrics.counts();
        assert_eq!(counts.health, LaneHealth::Running);
        let waits = counts.waits_for.unwrap();
        assert!(waits.contains("room"), "{waits}");
        let redrive = control.redrive(RedriveRequest::default()).await.unwrap();
        let stopped = redrive.stopped.unwrap();
        assert!(stopped.contains("room"), "{stopped}");
        assert_eq!(control.discard(Vec::new()).await, Some(0));
        control.pause().await.unwrap();
        shop.0.lock().unwrap().0 = 1;
        second().await;
        assert_eq!(shop.0.lock().unwrap().1, all(1..2, 1), "it is paused");
        control.resume().await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(shop.0.lock().unwrap().1, all(1..2, 2), "nothing twice");
        assert_eq!(rig.metrics.counts().retries, 0);
        let to = Position::end_of(Lsn(1));
        control.seek(to).await.unwrap().unwrap();
        second().await;
        assert_eq!((rig.stored(), rig.metrics.counts().waits_for), (to, None));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_redrive_that_waits_for_its_consumer_makes_way_for_other_orders() {
    // One letter finds no room, the other is taken and never acknowledged.
    for room in [0, 1] {
        let mut rig = Rig::new();
        rig.transform = Some(|_| {
            Err(TransformError {
                message: "no".into(),
            })
        });
        rig.log.push(transaction(1, 1, 1));
        rig.run_for_a_second().await;
        rig.transform = None;
        let letter = rig.letters(LetterState::Pending);
        assert_eq!(letter, all(1..2, 1));
        with_shop(&rig, room, async |control, shop| {
            second().await;
            let redrive = control.redrive(RedriveRequest::default());
            let orders = async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                let waits = rig.metrics.counts().waits_for;
                assert!(
                    waits.is_some_and(|what| what.contains("consumer")),
                    "{waits:?}"
                );
                let other = control.redrive(RedriveRequest::default()).await.unwrap();
                assert!(other.stopped.unwrap().contains("another redrive"));
                control.pause().await.unwrap();
            };
            let (redrive, ()) = tokio::join!(redrive, orders);
            let redrive = redrive.unwrap();
            assert!(redrive.stopped.unwrap().contains("another order"));
            assert_eq!(
                (redrive.delivered, shop.0.lock().unwrap().1.len()),
                (0, room)
            );
            assert_eq!(rig.letters(LetterState::Pending), letter, "it stays open");
            second().await;
            assert_eq!(rig.metrics.counts().waits_for, None);
        })
        .await;
    }
}

/// Cannot be resumed as long as it is broken.
struct Broken {
    inner: ScriptedEmitter,
    is_broken: Arc<AtomicBool>,
}

impl Emitter for Broken {
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        if self.is_broken.load(Ordering::Relaxed) {
            let kind = EmitErrorKind::EndpointStop;
            return Err(EmitError::new(kind, "open the directory: denied"));
        }
        self.inner.resume(from).await
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        self.inner.emit(batch).await
    }
}

#[tokio::test(start_paused = true)]
async fn orders_are_heard_while_an_emitter_cannot_be_resumed() {
    let rig = Rig::new();
    rig.log.push(transaction(1, 1, 1));
    rig.log.push(transaction(2, 9, 1));
    let is_broken = Arc::new(AtomicBool::new(true));
    let emitter = Broken {
        inner: rig.emitter.clone(),
        is_broken: is_broken.clone(),
    };
    let (trigger, shutdown) = Shutdown::new();
    let mut config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    // Nothing tries again while orders are given.
    config.retry.probe_interval = Duration::from_secs(86_400);
    let (lane, control) = rig.lane_to(BoxEmitter::new(emitter), config, &shutdown);
    let orders = async {
        second().await;
        let health = rig.metrics.counts().health;
        assert!(
            matches!(
                health,
                LaneHealth::Refused { .. } | LaneHealth::Retrying { .. }
            ),
            "{health:?}"
        );
        let redrive = control.redrive(RedriveRequest::default()).await.unwrap();
        let stopped = redrive.stopped.unwrap();
        assert!(stopped.contains("denied"), "{stopped}");
        assert_eq!(control.discard(Vec::new()).await, Some(0));
        control.pause().await.unwrap();
        assert_eq!(rig.metrics.counts().health, LaneHealth::Paused);
        control.resume().await.unwrap();
        is_broken.store(false, Ordering::Relaxed);
        let to = Position::end_of(Lsn(1));
        let from = control.seek(to).await.unwrap().unwrap();
        assert_eq!((from, rig.stored()), (Position::ZERO, to));
        second().await;
        assert_eq!(rig.emitter.taken(), all(2..3, 1), "it goes on there");
        trigger.trigger();
    };
    let hour = Duration::from_secs(3600);
    let both = async { tokio::join!(orders, lane) };
    let ((), end) = tokio::time::timeout(hour, both)
        .await
        .expect("orders are answered");
    end.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_emitter_cannot_be_resumed_can_be_stopped() {
    let rig = Rig::new();
    let emitter = Broken {
        inner: rig.emitter.clone(),
        is_broken: Arc::new(AtomicBool::new(true)),
    };
    let (_trigger, shutdown) = Shutdown::new();
    let mut config = LaneConfig::new("hook", source().lineage, Position::ZERO);
    config.retry.probe_interval = Duration::from_secs(86_400);
    let (lane, control) = rig.lane_to(BoxEmitter::new(emitter), config, &shutdown);
    let orders = async {
        second().await;
        control.stop().await.unwrap();
    };
    let hour = Duration::from_secs(3600);
    let both = async { tokio::join!(orders, lane) };
    let ((), end) = tokio::time::timeout(hour, both)
        .await
        .expect("it is stopped");
    assert_eq!(end.unwrap(), LaneEnd::Drained);
}
