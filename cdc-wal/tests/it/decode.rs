//! Any bytes given to the decoders: a value or an error, never a panic, never unbounded memory.

use bytes::Bytes;
use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, RowImage};
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

/// Set in the process that has little memory.
const LITTLE: &str = "CDC_TEST_LITTLE_MEMORY";
/// Address space of that process: its code, stacks and a few buffers. One length that is believed
/// takes more.
const LITTLE_KIB: u32 = 700 << 10;

/// Frames of one transaction in place of what a log begins with.
fn hostile(frames: &[(frame::FrameKind, u8, &[u8])]) -> SimStorage {
    let (disk, _) = healthy();
    let path = "/log/0000000000000000.wal".as_ref();
    let file = disk.open(path, OpenMode::ReadWrite).expect("open");
    let mut head = vec![0; 4096];
    file.read_at(&mut head, 0).expect("read");
    let seed = header::SegmentHeader::decode(&head)
        .expect("a header")
        .seed();
    file.write_all_at(&[0; (64 << 10) - 4096], 4096)
        .expect("write");
    let mut lsn = 4096u64;
    for (kind, flags, payload) in frames {
        let mut bytes = vec![0; 32];
        let length = u32::try_from(32 + payload.len()).expect("short");
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..16].copy_from_slice(&lsn.to_le_bytes());
        bytes[16] = *kind as u8;
        bytes[17] = *flags;
        bytes[24..32].copy_from_slice(&4096u64.to_le_bytes());
        bytes.extend_from_slice(payload);
        let crc = crc32c::crc32c_append(seed, &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        file.write_all_at(&bytes, lsn).expect("write");
        lsn += bytes.len() as u64;
    }
    // And nothing behind them.
    let control = "/log/control".as_ref();
    let control = disk.open(control, OpenMode::ReadWrite).expect("open");
    let mut bytes = vec![0; 64];
    control.read_at(&mut bytes, 0).expect("read");
    bytes[32..40].copy_from_slice(&lsn.to_le_bytes());
    bytes[40..48].copy_from_slice(&lsn.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    control.write_all_at(&bytes, 0).expect("write");
    disk
}

/// Reads everything that says it is as long as it can be, wherever a length stands.
fn read_hostile() {
    let longest = (1u32 << 30) + (64 << 10);
    let max = u32::MAX.to_le_bytes();
    let mut change = vec![0; 24];
    change[8..12].fill(0x11);
    change[12..24].fill(0xff);
    let mut first = longest.to_le_bytes().to_vec();
    first.extend(vec![7; 8000]);
    let mut commit = vec![0xff; 40];
    commit[8..36].fill(0);
    commit[32..36].copy_from_slice(&max);
    let mut definition = 9u32.to_le_bytes().to_vec();
    definition.extend([1, 0, 0, 0, 0, 0, 0, 0, 0]);
    definition.extend([0xff; 8]);
    let mut end = vec![0; 40];
    end[..8].copy_from_slice(&4096u64.to_le_bytes());
    end[24..32].copy_from_slice(&4096u64.to_le_bytes());
    end[32..36].copy_from_slice(&1u32.to_le_bytes());
    let end = (frame::FrameKind::Commit, 0, end.as_slice());
    for frames in [
        &[(frame::FrameKind::Changes, 0, change.as_slice()), end][..],
        &[(frame::FrameKind::Changes, 1, &first), end],
        &[(frame::FrameKind::Commit, 0, &commit)],
        &[(frame::FrameKind::Relation, 0, &definition)],
    ] {
        let disk = hostile(frames);
        assert!(read_all(&disk).is_err(), "a lie is believed");
        if let Ok(inspector) = Inspector::open(disk.shared(), "/log") {
            let _report = inspector.verify();
        }
        let _log = Log::open(LogConfig {
            storage: disk.shared(),
            ..config("/log".as_ref())
        });
    }
    // Rows: any count of columns, any length of a value.
    for start in 0..=255u8 {
        let row = RowImage::from_bytes(Bytes::from([&[start][..], &[0xff; 40]].concat()));
        let _values = row.to_values();
    }
}

#[test]
fn lengths_that_lie_take_no_memory() {
    if std::env::var_os(LITTLE).is_some() {
        return read_hostile();
    }
    let own = std::env::current_exe().expect("this binary");
    let run = |little: u32| {
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &format!("ulimit -v {little} && exec \"$0\" --exact decode::lengths_that_lie_take_no_memory --test-threads 1")])
            .arg(&own)
            .env(LITTLE, "1");
        shell.output().expect("sh")
    };
    let output = run(LITTLE_KIB);
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{}: {said}{why}",
        output.status
    );
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
