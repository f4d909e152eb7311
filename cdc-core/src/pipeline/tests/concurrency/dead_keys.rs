//! Rows that fail beside rows that do not, with several workers.

use super::*;
use crate::DeadLetterQueue as _;

/// Ten thousand rows, one in a hundred poison, eight workers.
#[tokio::test(start_paused = true)]
async fn poison_rows_wait_alone_and_redrive_gives_their_history_in_order() {
    let rows = 10_000;
    let poison: HashSet<i64> = (0..rows).filter(|id| id % 100 == 50).collect();
    let clean = Bench::new(Server::with(|_| {}), 8);
    push(&clean, spread(100, 1000, rows));
    let begun = tokio::time::Instant::now();
    clean.finish().await.unwrap();
    let undisturbed = begun.elapsed();

    let bench = Bench::new(Server::with(|s| s.poison.clone_from(&poison)), 8);
    let all = push(&bench, spread(100, 1000, rows));
    let begun = tokio::time::Instant::now();
    bench.finish().await.unwrap();
    let disturbed = begun.elapsed();
    let expected: Vec<_> = all
        .iter()
        .filter(|(id, _)| !poison.contains(id))
        .map(|e| e.1)
        .collect();
    assert_eq!(sorted(bench.server.positions()), expected);
    assert!(bench.server.by_row().values().all(|row| is_ascending(row)));
    assert_eq!(bench.rig.letters(LetterState::Pending).len(), 100);
    assert_eq!(bench.rig.letters(LetterState::Parked).len(), 100 * 9);
    assert_eq!(bench.rig.stored(), Position::end_of(Lsn(100)));
    println!("undisturbed {undisturbed:?}, with poison {disturbed:?}");

    // The receiver is mended.
    bench.server.state().poison.clear();
    let bench = Bench {
        rig: Rig {
            log: MemoryLog::new(),
            metrics: Arc::default(),
            ..bench.rig
        },
        ..bench
    };
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = bench.lane(&shutdown);
    let orders = async {
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        bench.rig.log.push(EventBatch::new(
            source(),
            vec![insert(101, 0, 50), insert(101, 1, 51)],
            Position::end_of(Lsn(101)),
        ));
        tokio::time::sleep(Duration::from_secs(1)).await;
        trigger.trigger();
        report
    };
    let (report, end) = tokio::join!(orders, bench.watched(lane));
    end.unwrap();
    assert_eq!((report.delivered, report.failed), (1000, 0));
    let rows = bench.server.by_row();
    assert!(rows.values().all(|row| is_ascending(row)), "in order, once");
    assert_eq!(rows[&50].len(), 11);
    assert_eq!(
        bench.server.positions().len(),
        all.len() + 2,
        "the full history of every row"
    );
}

/// When the keys that fail are known, they cost the others next to nothing: what comes of them is
/// parked without being sent, and stored as groups. Twice as long a stream takes as many more
/// requests, and as much more time, as without poison; counted, not timed.
#[tokio::test(start_paused = true)]
async fn rows_that_are_known_to_fail_cost_the_others_nothing_more() {
    let rows = 2_000;
    let mut cost = Vec::new();
    for poisoned in [false, true] {
        for commits in [100, 200] {
            let server = Server::with(|s| {
                if poisoned {
                    s.poison = (0..rows).filter(|id| id % 100 == 50).collect();
                }
            });
            let mut bench = Bench::new(server, 8);
            bench.window_max = 4096;
            push(&bench, spread(commits, 500, rows));
            let begun = tokio::time::Instant::now();
            bench.finish().await.unwrap();
            let appends = bench.rig.dlq.lock().unwrap().appends;
            let requests = bench.server.state().requests;
            cost.push((begun.elapsed(), requests, appends));
        }
    }
    let more = |of: [usize; 2]| {
        let [from, to] = of.map(|at| cost[at]);
        (to.0 - from.0, to.1 - from.1, to.2 - from.2)
    };
    let (clean, poison) = (more([0, 1]), more([2, 3]));
    println!("a hundred transactions more: {clean:?}, with poison {poison:?}");
    assert!(poison.0 <= clean.0.mul_f64(1.05), "{poison:?} {clean:?}");
    assert!(poison.1 * 100 <= clean.1 * 105, "{poison:?} {clean:?}");
    // A thousand more letters in a second of virtual time.
    assert!(poison.2 <= 20, "{poison:?}: a sync a letter");
}

/// One worker's events are refused and there is no room for their letters: the others go on, with
/// what is read meanwhile, until the window is full.
#[tokio::test(start_paused = true)]
async fn a_worker_without_room_for_its_letters_holds_up_no_other() {
    let rows = 64;
    for window_max in [65_536, 512] {
        let mut bench = Bench::new(Server::with(|s| s.poison = HashSet::from([5])), 8);
        bench.window_max = window_max;
        bench.rig.dlq.lock().unwrap().full = true;
        let all = push(&bench, spread(40, 64, rows));
        let (trigger, shutdown) = Shutdown::new();
        let (lane, _control) = bench.lane(&shutdown);
        let orders = async {
            // Before the lane looks by itself whether there is room.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let counts = bench.rig.metrics.counts();
            assert!(
                matches!(counts.health, LaneHealth::Blocked { .. }),
                "{counts:?}"
            );
            let by_row = bench.server.by_row();
            let through = by_row.values().filter(|row| row.len() == 40).count();
            let arrived = bench.server.positions().len() as u64;
            if window_max > 2560 {
                // All rows but those of the one worker.
                assert!(through > 45 && through < 64, "{through} of 64 rows");
            } else {
                assert!(arrived > window_max / 2, "{arrived} arrived");
                assert!(counts.read <= window_max + 64, "{counts:?}");
            }
            // A request now and then, not a busy loop.
            assert!(bench.server.state().requests < 500);
            bench.rig.dlq.lock().unwrap().full = false;
            tokio::time::sleep(Duration::from_secs(120)).await;
            trigger.trigger();
        };
        let ((), end) = tokio::join!(orders, bench.watched(lane));
        end.unwrap();
        let of_others = all.iter().filter(|(id, _)| *id != 5).count();
        assert_eq!(bench.server.positions().len(), of_others, "each once");
        assert!(bench.server.by_row().values().all(|row| is_ascending(row)));
        assert_eq!(bench.rig.letters(LetterState::Pending).len(), 1);
        assert_eq!(bench.rig.letters(LetterState::Parked).len(), 39);
        assert_eq!(bench.rig.stored(), Position::end_of(Lsn(40)));
    }
}

/// The same, with an order to redrive that comes while others have requests in flight.
#[tokio::test(start_paused = true)]
async fn a_redrive_makes_room_while_others_go_on() {
    let bench = Bench::new(Server::with(|s| s.poison = HashSet::from([0, 5])), 8);
    bench.rig.dlq.lock().unwrap().letters_max = Some(1);
    // The first letter is of the first event of all: nothing is due before it.
    bench.rig.log.push(EventBatch::new(
        source(),
        vec![insert(1, 0, 0)],
        Position::end_of(Lsn(1)),
    ));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = bench.lane(&shutdown);
    let orders = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for commit in 2..802 {
            let events = (0..8)
                .map(|n| insert(commit, n, i64::from(n) + 1))
                .collect();
            bench.rig.log.push(EventBatch::new(
                source(),
                events,
                Position::end_of(Lsn(commit)),
            ));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(bench.rig.metrics.counts().in_flight > 1000);
        bench.server.state().poison.clear();
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.stopped), (1, None));
        tokio::time::sleep(Duration::from_secs(120)).await;
        trigger.trigger();
    };
    let ((), end) = tokio::join!(orders, bench.watched(lane));
    end.unwrap();
    assert!(bench.server.by_row().values().all(|row| is_ascending(row)));
    assert_eq!(bench.server.positions().len(), 1 + 800 * 8);
    assert_eq!(bench.open_letters(), 0);
}

/// The queue is full of letters of one worker, all of them behind the event at which another one is
/// blocked. They can go: nothing of their keys is due before them. A letter from before a crash stays
/// while an earlier event of its key is due.
#[tokio::test(start_paused = true)]
async fn a_redrive_makes_room_with_letters_ahead_of_the_blocked_worker() {
    let worker = |id| {
        let hashes = insert(1, 0, id).key_hashes().unwrap().unwrap();
        hashes.1 % 2
    };
    let slow = 1;
    let mut others = (2..).filter(|&id| worker(id) != worker(slow));
    let quick = [others.next().unwrap(), others.next().unwrap()];
    let server = Server::with(|s| {
        s.batch_size = 1;
        s.slow.insert(slow, Duration::from_secs(5));
        s.poison = HashSet::from([slow, quick[0], quick[1]]);
    });
    let bench = Bench::new(server, 2);
    let events = vec![
        insert(1, 0, slow),
        insert(1, 1, quick[0]),
        insert(1, 2, quick[1]),
        insert(1, 3, slow),
    ];
    let letter = dead_letter(source(), events[3].clone());
    {
        let mut dlq = bench.rig.dlq.lock().unwrap();
        dlq.append(&[letter]).unwrap();
        dlq.letters_max = Some(3);
    }
    let end = Position::end_of(Lsn(1));
    bench.rig.log.push(EventBatch::new(source(), events, end));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = bench.lane(&shutdown);
    let orders = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let health = bench.rig.metrics.counts().health;
        assert!(matches!(health, LaneHealth::Blocked { .. }), "{health:?}");
        assert_eq!(
            bench.rig.stored(),
            Position::ZERO,
            "it waits for the slow row"
        );
        bench.server.state().poison = HashSet::from([slow]);
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.skipped), (2, 1), "{report:?}");
        // There is room: the blocked event has its letter, and everything is done.
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(bench.rig.metrics.counts().health, LaneHealth::Running);
        assert_eq!(bench.rig.stored(), end);
        bench.server.state().poison.clear();
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.skipped), (2, 0), "{report:?}");
        trigger.trigger();
    };
    let ((), end) = tokio::join!(orders, bench.watched(lane));
    assert_eq!(end.unwrap(), LaneEnd::Drained);
    let rows = bench.server.by_row();
    assert!(rows.values().all(|row| is_ascending(row)), "{rows:?}");
    assert_eq!(bench.server.positions().len(), 4, "each once");
}

/// The oldest event stands behind a change of key whose worker waits for room: it cannot go, so the next
/// one finds out that the destination is well again.
#[tokio::test(start_paused = true)]
async fn the_probe_goes_to_a_worker_that_may_send() {
    const DOWN: u64 = 60;
    let row_of = |worker: u64, nth: usize| {
        let mut rows = (1..).filter(|&id| {
            let hashes = insert(1, 0, id).key_hashes().unwrap().unwrap();
            hashes.1 % 3 == worker
        });
        rows.nth(nth).unwrap()
    };
    let dead = row_of(0, 0);
    let mut bench = Bench::new(Server::with(|s| s.poison = HashSet::from([dead])), 3);
    bench.rig.parked_keys_max = 1;
    let events = vec![
        insert(1, 0, dead),
        // Waits behind it, and there is no room for another key.
        moved(1, 1, dead, row_of(0, 1)),
        // Goes out when worker 0 has come to it, and worker 1 waits for that.
        moved(1, 2, row_of(1, 0), row_of(0, 2)),
        insert(1, 3, row_of(1, 1)),
    ];
    let end = Position::end_of(Lsn(1));
    bench.rig.log.push(EventBatch::new(source(), events, end));
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = bench.lane(&shutdown);
    let orders = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let health = bench.rig.metrics.counts().health;
        assert!(matches!(health, LaneHealth::Blocked { .. }), "{health:?}");
        bench.server.state().down = Some((
            EmitErrorKind::EndpointRetry { retry_after: None },
            Some(503),
            tokio::time::Instant::now() + Duration::from_secs(DOWN),
        ));
        let events = vec![insert(2, 0, row_of(2, 0))];
        let end = Position::end_of(Lsn(2));
        bench.rig.log.push(EventBatch::new(source(), events, end));
        tokio::time::sleep(Duration::from_secs(20)).await;
        let breaker = bench.rig.metrics.counts().breaker;
        assert_ne!(breaker, BreakerState::Closed);
        tokio::time::sleep(Duration::from_secs(DOWN + 600)).await;
        assert_eq!(bench.server.positions(), [at(2, 0)], "without a redrive");
        bench.server.state().poison.clear();
        for _ in 0..2 {
            control.redrive(RedriveRequest::default()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        trigger.trigger();
    };
    let ((), ended) = tokio::join!(orders, bench.watched(lane));
    assert_eq!(ended.unwrap(), LaneEnd::Drained);
    let expected = [at(2, 0), at(1, 0), at(1, 1), at(1, 2), at(1, 3)];
    assert_eq!(bench.server.positions(), expected);
}
