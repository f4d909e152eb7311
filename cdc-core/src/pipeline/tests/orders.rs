//! Orders of an operator: pause, resume, seek, stop.

use super::*;
use crate::{SourceError, SourceErrorKind};

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
