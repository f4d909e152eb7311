//! Replay beside a lane.

use super::*;
use crate::pipeline::{Replay, ReplayReport};

impl Rig {
    /// Replays `(after, through]` to another emitter of the same script.
    async fn replay(
        &self,
        emitter: &ScriptedEmitter,
        after: Position,
        through: Position,
    ) -> Result<ReplayReport, LaneError> {
        let (_trigger, shutdown) = Shutdown::new();
        let mut config = LaneConfig::new("hook", source().lineage, after);
        config.stop_at = Some(through);
        config.on_dead_key = self.on_dead_key;
        let log = self.log.clone();
        let replay = Replay {
            config,
            open: move |after| Ok(log.tail(after)),
            filter: Box::new(self.filter),
            transforms: self
                .transform
                .map(|t| Box::new(FnTransform(t)) as _)
                .into_iter()
                .collect(),
            emitter: BoxEmitter::new(emitter.clone()),
            clock: Arc::new(SystemClock::new()),
            metrics: Arc::default(),
            shutdown,
        };
        replay.run().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_is_delivered_again_and_nothing_of_the_lane_moves() {
    let rig = Rig::new();
    for commit in 1..6 {
        rig.log.push(transaction(commit, 100 * commit as i64, 3));
    }
    rig.finish().await.unwrap();
    let stored = rig.checkpoints.history.lock().unwrap().len();
    let again = ScriptedEmitter::default();
    let report = rig.replay(&again, at(2, 0), at(4, 1)).await.unwrap();
    assert_eq!(
        again.taken(),
        [all(2..3, 3)[1..].to_vec(), all(3..4, 3), all(4..5, 2)].concat()
    );
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(
        (report.end, report.through),
        (LaneEnd::Reached, at(4, 1)),
        "inclusive"
    );
    assert_eq!(report.delivered, 7);
    assert_eq!(rig.checkpoints.history.lock().unwrap().len(), stored);
    assert_eq!(rig.stored(), Position::end_of(Lsn(5)));
    let ids = |events: &[ChangeEvent]| -> Vec<_> {
        events
            .iter()
            .map(|e| EventId::new(&source().lineage, e.position))
            .collect()
    };
    let first = ids(&rig.emitter.state().events);
    let second = ids(&again.state().events);
    assert!(second.iter().all(|id| first.contains(id)), "the same ids");
}

#[tokio::test(start_paused = true)]
async fn what_a_replay_cannot_deliver_is_reported_and_never_a_letter_of_the_lane() {
    let rig = Rig::new();
    rig.log.push(EventBatch::new(
        source(),
        vec![insert(1, 0, 7), insert(1, 1, 8), insert(1, 2, 7)],
        Position::end_of(Lsn(1)),
    ));
    rig.finish().await.unwrap();
    let again = ScriptedEmitter::default();
    again.state().poison.push(at(1, 0));
    let report = rig
        .replay(&again, Position::ZERO, Position::end_of(Lsn(1)))
        .await
        .unwrap();
    assert_eq!(again.taken(), [at(1, 1)], "row 7 waits, row 8 goes");
    assert_eq!(
        (report.delivered, report.failed, report.held_back),
        (1, 1, 1)
    );
    assert!(!report.is_complete());
    assert_eq!(report.failures[0].position, at(1, 0));
    assert_eq!(report.failures[0].status, Some(400));
    assert!(rig.dlq.lock().unwrap().letters.is_empty());
    // Mended: the same range, whole.
    again.state().poison.clear();
    let report = rig
        .replay(&again, Position::ZERO, Position::end_of(Lsn(1)))
        .await
        .unwrap();
    assert!(report.is_complete());
}

/// The row waits behind an event that only the replay knows of: no queue tells it again.
#[tokio::test(start_paused = true)]
async fn what_waits_in_a_replay_waits_also_after_its_emitter_lost_something() {
    let rig = Rig::new();
    rig.log.push(EventBatch::new(
        source(),
        vec![insert(1, 0, 7)],
        Position::end_of(Lsn(1)),
    ));
    let again = ScriptedEmitter::default();
    again.state().poison.push(at(1, 0));
    again.state().accept_until = Some(Position::end_of(Lsn(1)));
    let later = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        again.state().lose = Some(EmitErrorKind::EndpointRetry { retry_after: None });
        rig.log.push(EventBatch::new(
            source(),
            vec![insert(2, 0, 7), insert(2, 1, 8)],
            Position::end_of(Lsn(2)),
        ));
        tokio::time::sleep(Duration::from_secs(60)).await;
        again.state().accept_until = Some(Position::MAX);
    };
    let end = Position::end_of(Lsn(2));
    let (report, ()) = tokio::join!(rig.replay(&again, Position::ZERO, end), later);
    let report = report.unwrap();
    assert_eq!(
        again.taken(),
        [at(2, 1), at(2, 1)],
        "row 8 comes again, row 7 waits"
    );
    assert_eq!((report.failed, report.held_back), (1, 1));
}

/// What is done is read again, too, when something before it is lost.
#[tokio::test(start_paused = true)]
async fn what_fails_in_a_replay_counts_once_though_it_is_read_again() {
    for on_dead_key in [OnDeadKey::Park, OnDeadKey::Pass] {
        let mut rig = Rig::new();
        rig.on_dead_key = on_dead_key;
        let end = Position::end_of(Lsn(1));
        let events = vec![insert(1, 0, 8), insert(1, 1, 7)];
        rig.log.push(EventBatch::new(source(), events, end));
        let again = ScriptedEmitter::default();
        again.state().poison.push(at(1, 1));
        again.state().accept_until = Some(Position::ZERO);
        let later = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            again.state().lose = Some(EmitErrorKind::EndpointRetry { retry_after: None });
            tokio::time::sleep(Duration::from_secs(60)).await;
            again.state().accept_until = Some(Position::MAX);
        };
        let (report, ()) = tokio::join!(rig.replay(&again, Position::ZERO, end), later);
        let report = report.unwrap();
        assert_eq!(again.taken(), [at(1, 0), at(1, 0)], "{on_dead_key:?}");
        let counts = (report.delivered, report.failed, report.held_back);
        assert_eq!(counts, (1, 1, 0), "{on_dead_key:?}");
    }
}

/// Row 3 is filtered out, a transform drops row 4, row 5 is refused and holds back what follows of it.
#[tokio::test(start_paused = true)]
async fn what_a_destination_lost_and_took_again_counts_once() {
    let row = |event: &ChangeEvent| event.position.ordinal;
    let rig = Rig {
        filter: |event| event.position.ordinal != 3,
        transform: Some(|event| Ok(Some(event).filter(|event| event.position.ordinal != 4))),
        ..Rig::new()
    };
    let events = (0..6).map(|n| insert(1, n, n.into())).collect();
    rig.log.push(EventBatch::new(source(), events, at(1, 5)));
    let again = ScriptedEmitter::default();
    again.state().poison.push(at(1, 5));
    // Of what it takes, the first is safe before the rest is lost.
    again.state().accept_until = Some(at(1, 0));
    let later = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut last = insert(1, 6, 5);
        last.last = true;
        let end = Position::end_of(Lsn(1));
        rig.log.push(EventBatch::new(source(), vec![last], end));
        again.state().lose = Some(EmitErrorKind::EndpointRetry { retry_after: None });
        tokio::time::sleep(Duration::from_secs(60)).await;
        again.state().accept_until = Some(Position::MAX);
    };
    let end = Position::end_of(Lsn(1));
    let (report, ()) = tokio::join!(rig.replay(&again, Position::ZERO, end), later);
    let report = report.unwrap();
    let taken = again.state().events.iter().map(row).collect::<Vec<_>>();
    assert!(taken.iter().filter(|n| **n == 1).count() > 1, "{taken:?}");
    assert_eq!((report.read, report.filtered), (7, 2));
    assert_eq!(
        (report.delivered, report.failed, report.held_back),
        (3, 1, 1)
    );
}
