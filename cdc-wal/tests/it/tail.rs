//! Tails beside a writer: woken, lingering, in another process's place, held and invalidated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cdc_core::storage::StdStorage;
use cdc_core::testing::{relation, row};
use cdc_core::{
    BatchLimit, ChangeEvent, Lsn, Position, SourceErrorKind, TokenRefusal, WalHook, WalSource,
};
use cdc_wal::{Log, LogConfig, LogErrorKind, OnLimit, StartAt, SyncPolicy, WalTail};

use crate::support::{clock, config, drain};

fn commit(log: &Log, id: u64, text: &str) -> Position {
    let mut tx = log.begin(id);
    tx.insert(&relation(), &row(1, text, "1")).expect("insert");
    tx.commit().expect("commit")
}

#[derive(Default)]
struct Ends(AtomicU64, AtomicU64);

impl WalHook for Ends {
    fn on_commit(&self, end: Lsn) {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.fetch_max(end.0, Ordering::SeqCst);
    }
}

#[test]
fn many_threads_commit_and_a_tail_on_its_own_thread_sees_all_in_order() {
    const THREADS: u64 = 8;
    const EACH: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        background: true,
        ..config(dir.path())
    })
    .unwrap();
    let hook = Arc::new(Ends::default());
    log.add_hook(hook.clone());
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let reader = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.expect("runtime").block_on(async move {
            let mut events: Vec<ChangeEvent> = Vec::new();
            while let Some(batch) = tail.next_batch(BatchLimit::default()).await.expect("batch") {
                events.extend_from_slice(batch.events());
            }
            events
        })
    });
    std::thread::scope(|scope| {
        for worker in 0..THREADS {
            let log = log.clone();
            scope.spawn(move || {
                for n in 0..EACH {
                    commit(&log, worker * EACH + n, &"x".repeat(700));
                }
            });
        }
    });
    let flushed = log.flushed_lsn().0;
    drop(log);
    // Whoever synced for others may have told the hook only after they had gone on.
    assert_eq!(hook.1.load(Ordering::SeqCst), flushed);
    assert!(hook.0.load(Ordering::SeqCst) <= THREADS * EACH);
    let events = reader.join().unwrap();
    assert_eq!(events.len() as u64, THREADS * EACH);
    assert!(events.windows(2).all(|w| w[0].position < w[1].position));
    for worker in 0..THREADS {
        let own = |e: &&ChangeEvent| e.transaction.id / EACH == worker;
        let ids: Vec<_> = events
            .iter()
            .filter(own)
            .map(|e| e.transaction.id)
            .collect();
        assert!(
            ids.is_sorted() && ids.len() as u64 == EACH,
            "order of one thread holds"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_tail_gives_its_end_after_the_linger_and_is_woken_by_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let end = commit(&log, 1, "a");
    let mut tail = log.tail(StartAt::Latest, clock()).unwrap();
    let hour = BatchLimit {
        linger: Duration::from_secs(3600),
        ..BatchLimit::default()
    };
    let idle = tail.next_batch(hour).await.unwrap().unwrap();
    assert!(idle.is_empty());
    assert_eq!(idle.end(), end);
    let day = BatchLimit {
        linger: Duration::from_secs(86_400),
        ..BatchLimit::default()
    };
    let start = tokio::time::Instant::now();
    let (batch, second) = tokio::join!(tail.next_batch(day), async {
        tokio::task::yield_now().await;
        commit(&log, 2, "b")
    });
    assert_eq!(batch.unwrap().unwrap().end(), second);
    assert!(
        start.elapsed() < Duration::from_secs(86_400),
        "it was woken, not timed out"
    );
    drop(log);
    assert!(
        tail.next_batch(day).await.unwrap().is_none(),
        "a closed log is finished"
    );
}

#[test]
fn a_tail_of_another_process_sees_only_what_is_flushed_and_follows_segments() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    commit(&log, 1, "first");
    let open = |start| WalTail::open(StdStorage::shared(), dir.path(), start, clock());
    let mut tail = open(StartAt::Earliest).unwrap();
    let mut seen = drain(&mut tail, BatchLimit::default()).unwrap();
    assert_eq!(seen.len(), 1);
    let mut tx = log.begin(2);
    tx.insert(&relation(), &row(1, "not durable yet", "1"))
        .unwrap();
    tx.commit_unsynced().unwrap();
    assert!(drain(&mut tail, BatchLimit::default()).unwrap().is_empty());
    log.flush().unwrap();
    for id in 3..200 {
        commit(&log, id, &"x".repeat(1000));
    }
    seen.extend(drain(&mut tail, BatchLimit::default()).unwrap());
    let ids: Vec<_> = seen.iter().map(|e| e.transaction.id).collect();
    assert_eq!(ids, (1..200).collect::<Vec<_>>());
    let mut rest = open(StartAt::After(seen[150].position)).unwrap();
    assert_eq!(
        drain(&mut rest, BatchLimit::default()).unwrap(),
        seen[151..]
    );
    assert!(
        drain(&mut open(StartAt::Latest).unwrap(), BatchLimit::default())
            .unwrap()
            .is_empty()
    );
    let ahead = open(StartAt::After(Position::end_of(Lsn(1 << 40)))).unwrap_err();
    assert!(matches!(
        ahead.kind,
        LogErrorKind::Refused(TokenRefusal::Ahead { .. })
    ));
}

#[test]
fn nothing_is_trimmed_below_a_cursor_an_open_transaction_or_the_retained_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig {
        retain_bytes: 100 << 10,
        ..config(dir.path())
    };
    let log = Log::open(config.clone()).unwrap();
    let first = commit(&log, 0, "first");
    log.register_cursor("slow", first).unwrap();
    let mut open = log.begin(1000);
    let mut positions = Vec::new();
    for id in 1..400 {
        positions.push(commit(&log, id, &"x".repeat(1000)));
        open.insert(&relation(), &row(1, "x", "1")).unwrap();
        if id == 200 {
            open.insert(&relation(), &row(1, &"y".repeat(20_000), "1"))
                .unwrap();
        }
    }
    assert_eq!(
        log.oldest().unwrap(),
        Position::ZERO,
        "the cursor holds all"
    );
    log.confirm("slow", positions[390]).unwrap();
    assert_eq!(log.confirmed(), Some(positions[390]));
    let held = log.oldest().unwrap();
    assert!(
        held > first && held < positions[200],
        "the open transaction holds its begin"
    );
    let end = open.commit().unwrap();
    log.confirm("slow", positions[0]).unwrap();
    assert_eq!(
        log.confirmed(),
        Some(positions[390]),
        "a cursor never goes back by confirming"
    );
    log.confirm("slow", end).unwrap();
    log.trim().unwrap();
    assert!(
        log.oldest().unwrap() < positions[390],
        "what is retained can be replayed"
    );
    let mut last = end;
    for id in 400..600 {
        last = commit(&log, id, &"x".repeat(1000));
    }
    log.confirm("slow", last).unwrap();
    log.trim().unwrap();
    assert!(log.retained_bytes() > 100 << 10 && log.retained_bytes() < 300 << 10);
    let oldest = log.oldest().unwrap();
    let refused = log.tail(StartAt::After(first), clock()).unwrap_err();
    assert!(
        matches!(refused.kind, LogErrorKind::Refused(TokenRefusal::Expired { oldest: o, .. }) if o == oldest)
    );
    let mut tail = log.tail(StartAt::After(oldest), clock()).unwrap();
    let rest = drain(&mut tail, BatchLimit::default()).unwrap();
    assert!(rest.iter().all(|e| e.position > oldest));
    assert_eq!(rest.last().unwrap().position.commit, last.commit);
    assert!(rest.len() >= 80, "100 KiB of about a kilobyte each");
    drop((tail, log));
    let log = Log::open(config).unwrap();
    assert_eq!(log.oldest().unwrap(), oldest);
    assert!(log.cursors().contains_key("slow"), "cursors survive");
}

#[tokio::test]
async fn a_cursor_over_the_limit_holds_the_writer_or_is_invalidated_as_configured() {
    for on_limit in [OnLimit::Hold, OnLimit::Invalidate] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(LogConfig {
            retain_bytes: 0,
            retain_bytes_max: Some(256 << 10),
            on_limit,
            ..config(dir.path())
        })
        .unwrap();
        let mut tail = log.tail_cursor("slow", StartAt::Earliest, clock()).unwrap();
        let mut refused = None;
        let mut last = Position::ZERO;
        for id in 0..800 {
            let mut tx = log.begin(id);
            tx.insert(&relation(), &row(1, &"x".repeat(1000), "1"))
                .unwrap();
            match tx.commit() {
                Ok(position) => last = position,
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
            if on_limit == OnLimit::Invalidate {
                log.trim().unwrap();
            }
        }
        if on_limit == OnLimit::Hold {
            assert_eq!(refused.unwrap().kind, LogErrorKind::Full);
            assert!(log.is_full());
            let events = drain(&mut tail, BatchLimit::default()).unwrap();
            assert_eq!(events.last().unwrap().position.commit, last.commit);
            tail.confirm(last).await.unwrap();
            assert!(!log.is_full());
            commit(&log, 9999, "it goes on");
        } else {
            assert!(refused.is_none() && !log.is_full());
            assert!(log.cursors()["slow"].invalidated);
            let error = drain(&mut tail, BatchLimit::default()).unwrap_err();
            assert_eq!(error.kind, LogErrorKind::Invalidated);
            let error = tail.confirm(last).await.unwrap_err();
            assert_eq!(error.kind, SourceErrorKind::Gap);
        }
    }
}

/// Nothing would be free without the cursor either.
#[tokio::test]
async fn a_cursor_that_has_everything_is_not_invalidated_for_an_open_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        retain_bytes: 0,
        retain_bytes_max: Some(256 << 10),
        on_limit: OnLimit::Invalidate,
        ..config(dir.path())
    })
    .unwrap();
    let mut tail = log.tail_cursor("fast", StartAt::Earliest, clock()).unwrap();
    let mut open = log.begin(1);
    for _ in 0..100 {
        let large = row(1, &"x".repeat(1000), "1");
        open.insert(&relation(), &large).unwrap();
    }
    for id in 2..600 {
        let last = commit(&log, id, &"x".repeat(1000));
        let events = drain(&mut tail, BatchLimit::default()).unwrap();
        assert_eq!(events.last().unwrap().position.commit, last.commit);
        tail.confirm(last).await.unwrap();
        log.trim().unwrap();
    }
    assert!(log.retained_bytes() > 512 << 10, "it is held");
    assert!(!log.cursors()["fast"].invalidated);
    open.abort().unwrap();
    log.trim().unwrap();
    assert!(log.retained_bytes() <= 128 << 10, "for that one alone");
}

#[tokio::test]
async fn on_an_interval_what_is_committed_becomes_durable_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        sync: SyncPolicy::Group(Duration::from_millis(1)),
        background: true,
        ..config(dir.path())
    })
    .unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let position = commit(&log, 1, "a");
    let limit = BatchLimit {
        linger: Duration::from_secs(3600),
        ..BatchLimit::default()
    };
    let batch = tail.next_batch(limit).await.unwrap().unwrap();
    assert_eq!((batch.len(), batch.end()), (1, position));
    assert!(log.flushed_lsn() > position.commit);
}

#[test]
fn a_log_without_cursors_keeps_the_retained_bytes() {
    for background in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(LogConfig {
            retain_bytes: 100 << 10,
            background,
            ..config(dir.path())
        })
        .unwrap();
        for id in 0..400 {
            commit(&log, id, &"x".repeat(1000));
        }
        if background {
            log.trim().unwrap();
        }
        assert!(log.retained_bytes() < 300 << 10, "{}", log.retained_bytes());
    }
}

#[test]
fn what_is_young_is_kept_up_to_the_maximum() {
    let dir = tempfile::tempdir().unwrap();
    let retained = |retain_age, retain_bytes_max| {
        let log = Log::open(LogConfig {
            retain_bytes: 0,
            retain_age,
            retain_bytes_max,
            ..config(dir.path())
        })
        .unwrap();
        for id in 0..400 {
            commit(&log, id, &"x".repeat(1000));
        }
        log.trim().unwrap();
        log.retained_bytes()
    };
    let hour = Some(Duration::from_secs(3600));
    assert!(retained(hour, None) > 400 << 10, "all of it is young");
    let bounded = retained(hour, Some(256 << 10));
    assert!((128 << 10..=256 << 10).contains(&bounded), "{bounded}");
    let old = retained(Some(Duration::from_nanos(1)), None);
    assert!(
        old <= 128 << 10,
        "nothing but the newest is that young: {old}"
    );
}

#[test]
fn an_open_transaction_keeps_its_begin_though_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        retain_bytes: 0,
        ..config(dir.path())
    })
    .unwrap();
    let mut open = log.begin(1000);
    for _ in 0..300 {
        open.insert(&relation(), &row(1, &"y".repeat(200), "1"))
            .unwrap();
    }
    let mut before = Position::ZERO;
    for id in 0..400 {
        before = commit(&log, id, &"x".repeat(1000));
    }
    log.trim().unwrap();
    open.commit().unwrap();
    let mut tail = log.tail(StartAt::After(before), clock()).unwrap();
    let events = drain(&mut tail, BatchLimit::default()).unwrap();
    assert_eq!(events.len(), 300);
    drop(tail);
    log.trim().unwrap();
    assert!(
        log.retained_bytes() <= 128 << 10,
        "and lets go when it is over"
    );
}
