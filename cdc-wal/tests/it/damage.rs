//! Damage that a tail meets: everything in front of it is given, nothing behind it.

use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, EventBatch};
use cdc_wal::{Log, LogConfig, LogError, LogErrorKind, StartAt, WalTail};

use crate::support::{clock, config};

/// Everything a tail gives up to its first error.
fn until_error(tail: &mut WalTail, limit: BatchLimit) -> (Vec<u64>, Option<LogError>) {
    let mut ids = Vec::new();
    let add = |ids: &mut Vec<u64>, batch: EventBatch| {
        ids.extend(batch.events().iter().map(|event| event.transaction.id));
    };
    loop {
        match tail.poll_batch(&limit) {
            Ok(Some(batch)) => add(&mut ids, batch),
            Ok(None) => return (ids, None),
            Err(error) => return (ids, Some(error)),
        }
    }
}

#[test]
fn a_tail_gives_everything_in_front_of_damage_then_the_same_error_for_ever() {
    const COUNT: u64 = 40;
    let disk = SimStorage::new();
    let log = Log::open(LogConfig {
        storage: disk.shared(),
        ..config("/log".as_ref())
    })
    .unwrap();
    let mut begins = Vec::new();
    for id in 0..COUNT {
        begins.push(log.flushed_lsn().0);
        let mut tx = log.begin(id);
        // Some take several frames.
        for n in 0..if id % 5 == 0 { 40 } else { 1 } {
            tx.insert(&relation(), &row(n, &"x".repeat(500), "1"))
                .unwrap();
        }
        tx.commit().unwrap();
    }
    for damaged in [3, 17, 39] {
        let begin = begins[usize::try_from(damaged).unwrap()];
        let path = format!("/log/{:016x}.wal", begin & !0xffff);
        let at = (begin & 0xffff) + 60;
        disk.damage(path.as_ref(), at, |byte| byte ^ 1).unwrap();
        for events_max in [1, 7, 100_000] {
            let limit = BatchLimit {
                events_max,
                ..BatchLimit::default()
            };
            let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
            let (mut ids, error) = until_error(&mut tail, limit);
            ids.dedup();
            assert_eq!(ids, (0..damaged).collect::<Vec<_>>(), "{events_max}");
            let error = error.expect("damage is an error");
            assert_eq!(error.kind, LogErrorKind::Corrupt);
            let place = format!("at byte {}", begin & 0xffff);
            assert!(error.to_string().contains(&place), "{error}");
            for _ in 0..3 {
                let (ids, again) = until_error(&mut tail, limit);
                assert_eq!(
                    (ids, again.unwrap().to_string()),
                    (vec![], error.to_string())
                );
            }
        }
        disk.damage(path.as_ref(), at, |byte| byte ^ 1).unwrap();
    }
}
