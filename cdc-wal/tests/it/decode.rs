//! Any bytes given to the decoders: a value or an error, never a panic, never unbounded memory.

use bytes::Bytes;
use cdc_core::BatchLimit;
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::testing::{relation, row};
use cdc_wal::format::{change, frame, header, relation as definition};
use cdc_wal::inspect::Inspector;
use cdc_wal::{Log, LogConfig, StartAt, WalTail};
use proptest::prelude::*;

use crate::support::{clock, config, drain};

/// A valid segment, to be damaged: small, large and fragmented transactions.
fn healthy() -> (SimStorage, u64) {
    let disk = SimStorage::new();
    let log = Log::open(LogConfig {
        storage: disk.shared(),
        ..config("/log".as_ref())
    })
    .expect("open");
    let mut large = log.begin(1);
    for n in 0..20 {
        large
            .insert(&relation(), &row(n, &"x".repeat(2000), "1"))
            .expect("insert");
        let mut small = log.begin(2);
        small
            .insert(&relation(), &row(n, "s", "1"))
            .expect("insert");
        small.commit().expect("commit");
    }
    large
        .insert(&relation(), &row(0, &"x".repeat(18_000), "1"))
        .expect("insert");
    large.commit().expect("commit");
    let end = log.flushed_lsn().0;
    drop(log);
    (disk, end)
}

fn read_all(disk: &SimStorage) -> Result<usize, cdc_wal::LogError> {
    let mut tail = WalTail::open(disk.shared(), "/log", StartAt::Earliest, clock())?;
    Ok(drain(&mut tail, BatchLimit::default())?.len())
}

#[test]
fn a_healthy_log_is_read_whole() {
    assert_eq!(read_all(&healthy().0).unwrap(), 41);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..300), lsn in any::<u64>()) {
        let shared = Bytes::from(bytes.clone());
        let _ = frame::parse(&bytes, lsn & !7, 7, 1 << 20, true);
        let _ = frame::parse(&bytes, lsn & !7, 7, 1 << 20, false);
        let _ = frame::CommitRecord::decode(&bytes);
        let _ = frame::Heartbeat::decode(&bytes);
        let _ = definition::decode(&bytes);
        let _ = header::SegmentHeader::decode(&bytes);
        for at in 0..=bytes.len() + 1 {
            if let Ok(record) = change::decode(&shared, at) {
                prop_assert!(record.end <= shared.len() && record.end > at);
                let _ = (record.before(&shared), record.after(&shared), record.meta(&shared));
            }
        }
    }

    #[test]
    fn a_damaged_definition_is_safe(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = 9u32.to_le_bytes().to_vec();
        bytes.extend(definition::encode(&relation()).unwrap());
        prop_assert_eq!(definition::decode(&bytes).unwrap(), (9, cdc_core::Relation::clone(&relation())));
        for end in 0..bytes.len() {
            prop_assert!(definition::decode(&bytes[..end]).is_err());
        }
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = definition::decode(&bytes);
    }

    #[test]
    fn a_damaged_log_is_refused_or_read_as_it_was(
        at in any::<prop::sample::Index>(), change in 1u8..=255, length in 1usize..40,
    ) {
        let (disk, end) = healthy();
        let from = at.index(usize::try_from(end).unwrap());
        for offset in from..from + length {
            disk.damage("/log/0000000000000000.wal".as_ref(), offset as u64, |byte| byte ^ change).unwrap();
        }
        // Padding and what is behind the end carry nothing; all else is noticed.
        if let Ok(count) = read_all(&disk) {
            prop_assert_eq!(count, 41);
        }
        if let Ok(inspector) = Inspector::open(disk.shared(), "/log") {
            let report = inspector.verify().unwrap();
            prop_assert!(report.damage.is_some() || report.events == 41);
            let _ = inspector.segments();
        }
        let reopened = Log::open(LogConfig { storage: disk.shared(), ..config("/log".as_ref()) });
        if let Ok(log) = reopened {
            let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
            prop_assert_eq!(drain(&mut tail, BatchLimit::default()).unwrap().len(), 41);
        }
    }
}
