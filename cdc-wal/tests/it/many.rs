//! Sixty-four tails at once, each waiting for the next commit and for nothing else: a wake-up that is
//! lost leaves one waiting for ever.

use std::sync::mpsc;
use std::time::Duration;

use cdc_core::storage::StdStorage;
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, WalSource as _};
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy, WalTail};

use crate::support::{clock, config};

const TAILS: usize = 64;
/// Of them, tails as another process has them.
const FOREIGN: usize = 8;
const COMMITTERS: u64 = 6;
const EACH: u64 = 3;
const ROUNDS: u64 = 25;
/// Longest wait for a tail; only one that was not woken comes near it.
const PATIENCE: Duration = Duration::from_secs(60);

/// One tail from the start, until the log is closed; says how many transactions it has seen.
async fn follow(mut tail: WalTail, number: usize, said: mpsc::Sender<(usize, u64)>) {
    let mut seen: Vec<u64> = Vec::new();
    let mut last = cdc_core::Position::ZERO;
    loop {
        // Only a commit ends the wait.
        let limit = BatchLimit {
            linger: Duration::from_secs(86_400),
            events_max: 1 + number * 7,
            ..BatchLimit::default()
        };
        let Some(batch) = tail.next_batch(limit).await.expect("a tail of a whole log") else {
            return;
        };
        for event in batch.events() {
            assert!(event.position > last, "tail {number}: in order, none twice");
            last = event.position;
            seen.push(event.transaction.id);
        }
        let mut ids = seen.clone();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), seen.len(), "tail {number}: none twice");
        if said.send((number, seen.len() as u64)).is_err() {
            return;
        }
        if seen.len() as u64 == ROUNDS * COMMITTERS * EACH {
            return;
        }
    }
}

#[test]
fn sixty_four_tails_that_wait_are_woken_by_every_commit() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        background: true,
        sync: SyncPolicy::Always,
        ..config(dir.path())
    })
    .unwrap();
    let (said, heard) = mpsc::channel();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let tails: Vec<_> = (0..TAILS)
                .filter(|number| number % 4 == thread)
                .map(|number| {
                    let tail = if number < FOREIGN {
                        WalTail::open(StdStorage::shared(), dir.path(), StartAt::Earliest, clock())
                    } else {
                        log.tail(StartAt::Earliest, clock())
                    };
                    (number, tail.expect("a tail"))
                })
                .collect();
            let said = said.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build();
                runtime.expect("runtime").block_on(async move {
                    let mut all = tokio::task::JoinSet::new();
                    for (number, tail) in tails {
                        all.spawn(follow(tail, number, said.clone()));
                    }
                    while let Some(ended) = all.join_next().await {
                        ended.expect("a tail that holds");
                    }
                });
            })
        })
        .collect();
    drop(said);
    let mut seen = [0; TAILS];
    for round in 0..ROUNDS {
        std::thread::scope(|scope| {
            for committer in 0..COMMITTERS {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let mut tx = log.begin((round * COMMITTERS + committer) * EACH + n);
                        let text = "x".repeat(usize::try_from(committer * 300).expect("small"));
                        tx.insert(&relation(), &row(1, &text, "1")).expect("insert");
                        let position = tx.commit().expect("commit");
                        assert!(log.flushed_lsn() > position.commit, "told too early");
                    }
                });
            }
        });
        // Nothing more is committed until everybody has heard of the last one.
        let committed = (round + 1) * COMMITTERS * EACH;
        while let Some(late) = seen.iter().position(|count| *count < committed) {
            let (number, count) = heard.recv_timeout(PATIENCE).unwrap_or_else(|error| {
                panic!("round {round}: tail {late} was not woken: {error}")
            });
            seen[number] = count;
        }
    }
    drop(log);
    for thread in threads {
        thread.join().expect("tails that hold");
    }
}
