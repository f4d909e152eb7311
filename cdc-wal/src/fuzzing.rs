//! What the fuzz targets of `fuzz/` call, and the ordinary test that replays their corpora.
//!
//! Feature `fuzzing`; no part of the interface.

use std::sync::Arc;

use bytes::Bytes;
use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{BatchLimit, SystemClock};

use crate::format::frame::{self, FRAME_HEADER, Fragment, FrameKind};
use crate::format::header::SegmentHeader;
use crate::format::{HEADER_BYTES, SEGMENT_BYTES_MIN, change, relation};
use crate::inspect::Inspector;
use crate::{Log, LogConfig, Recovery, StartAt, WalTail};

/// A function that takes any bytes and panics if something does not hold.
pub type Target = fn(&[u8]);

/// All of them, by the names of the targets and of their corpora.
pub const TARGETS: [(&str, Target); 10] = [
    ("frame", frame),
    ("log", log),
    ("pgoutput", crate::postgres::fuzzing::pgoutput),
    ("pg-value", crate::postgres::fuzzing::value),
    ("sqlite-page", crate::sqlite::fuzzing::page),
    ("sqlite-wal", crate::sqlite::fuzzing::wal),
    ("sqlite-schema", crate::sqlite::fuzzing::schema),
    ("rocksdb-batch", crate::rocksdb::fuzzing::batch),
    ("rocksdb-log", crate::rocksdb::fuzzing::log),
    ("rocksdb-manifest", crate::rocksdb::fuzzing::manifest),
];

/// Runs one of them.
///
/// # Panics
/// If there is none of this name, or something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    target(data);
}

/// Frames and what is in them, decoded from any bytes.
pub fn frame(data: &[u8]) {
    let shared = Bytes::copy_from_slice(data);
    for verify in [false, true] {
        let _frame = frame::parse(data, 8, 7, 1 << 20, verify);
    }
    if let Ok(record) = frame::CommitRecord::decode(data) {
        let _again = frame::CommitRecord::decode(&record.encode()).expect("written by us");
    }
    let _heartbeat = frame::Heartbeat::decode(data);
    let _rollback = frame::Rollback::decode(data);
    if let Ok((_, definition)) = relation::decode(data)
        && let Ok(again) = relation::encode(&definition)
    {
        let again = [&9u32.to_le_bytes()[..], &again].concat();
        let (_, again) = relation::decode(&again).expect("written by us");
        assert!(again == definition, "not the same twice");
    }
    let _header = SegmentHeader::decode(data);
    let mut at = 0;
    while let Ok(record) = change::decode(&shared, at) {
        assert!(record.end <= shared.len() && record.end > at);
        for image in [record.before(&shared), record.after(&shared)] {
            let _valid = image.row().map(cdc_core::RowImage::validate);
        }
        let _meta = record.meta(&shared);
        at = record.end;
    }
}

const KINDS: [FrameKind; 8] = [
    FrameKind::Changes,
    FrameKind::Commit,
    FrameKind::Abort,
    FrameKind::Relation,
    FrameKind::Heartbeat,
    FrameKind::Restart,
    FrameKind::Rollback,
    FrameKind::Seal,
];

/// Frames with checksums that fit, of payloads and places from `data`: each has two bytes that say
/// what it is, its payload's length in two bytes, and the payload.
fn frames(data: &[u8], seed: u32, room: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut starts: Vec<u64> = vec![0];
    let mut rest = data;
    while let Some(([kind, how, low, high], after)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (payload, after) = after.split_at(length);
        rest = after;
        let lsn = HEADER_BYTES + out.len() as u64;
        let mut bytes = vec![0; FRAME_HEADER];
        bytes.extend_from_slice(payload);
        if out.len() + bytes.len() + 8 > room {
            break;
        }
        let fragment = match how & 3 {
            0 => Fragment::None,
            1 => Fragment::First,
            2 => Fragment::Middle,
            _ => Fragment::Last,
        };
        let tx = match how >> 2 & 3 {
            0 => 0,
            1 => lsn,
            2 => *starts.last().unwrap_or(&0),
            _ => starts[usize::from(how >> 4 & 7) % starts.len()],
        };
        if how >> 2 & 3 == 1 {
            starts.push(lsn);
        }
        let flushed = if how & 0x80 == 0 { lsn } else { HEADER_BYTES };
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        frame::finish(&mut bytes, kind, fragment, lsn, flushed, tx, seed);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        out.extend_from_slice(&bytes);
    }
    out
}

/// A log of one segment: the first byte says whether the rest is what stands behind the header, or
/// frames to be sealed. Read beside it, recovered, repaired, read again.
pub fn log(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let disk = SimStorage::new();
    let config = LogConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        background: false,
        name: Some("log".into()),
        storage: disk.shared(),
        ..LogConfig::new("/log")
    };
    drop(Log::open(config.clone()).expect("a new log"));
    let path = std::path::Path::new("/log/0000000000000000.wal");
    let file = disk.open(path, OpenMode::ReadWrite).expect("its segment");
    let mut header = vec![0; usize::try_from(HEADER_BYTES).unwrap_or(0)];
    file.read_at(&mut header, 0).expect("its header");
    let header = SegmentHeader::decode(&header).expect("its header");
    let room = SEGMENT_BYTES_MIN as usize - header.encode().map_or(0, |bytes| bytes.len());
    let behind = match mode & 1 {
        0 => rest
            .get(..rest.len().min(room))
            .unwrap_or_default()
            .to_vec(),
        _ => frames(rest, header.seed(), room),
    };
    file.write_all_at(&behind, HEADER_BYTES).expect("room");
    file.sync_data().expect("a good disk");
    drop(file);
    let clock = Arc::new(SystemClock::new());
    if let Ok(inspector) = Inspector::open(disk.shared(), "/log") {
        let _report = inspector.verify();
    }
    if let Ok(mut tail) = WalTail::open(disk.shared(), "/log", StartAt::Earliest, clock.clone()) {
        read(&mut tail);
    }
    let recovery = match mode >> 1 & 3 {
        0 => Recovery::Strict,
        1 => Recovery::Tail,
        _ => Recovery::Salvage,
    };
    let Ok(log) = Log::open(LogConfig {
        recovery,
        ..config.clone()
    }) else {
        return;
    };
    if let Ok(mut tail) = log.tail(StartAt::Earliest, clock.clone()) {
        read(&mut tail);
    }
    // What was recovered takes more, and is found again.
    let mut tx = log.begin(77);
    let row = cdc_core::testing::row(1, "x", "1");
    tx.insert(&cdc_core::testing::relation(), &row)
        .expect("a row");
    let position = tx.commit().expect("a recovered log takes a transaction");
    drop(log);
    let log = Log::open(config).expect("a log that was closed opens");
    assert_eq!(log.end(), position, "a commit was not found again");
}

fn read(tail: &mut WalTail) {
    let mut last = None;
    while let Ok(Some(batch)) = tail.poll_batch(&BatchLimit::default()) {
        for event in batch.events() {
            assert!(
                last.is_none_or(|last| event.position > last),
                "out of order"
            );
            last = Some(event.position);
            let _valid = event.after.row().map(cdc_core::RowImage::validate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::Parsed;

    /// The frames of a real log, as the target `log` takes them.
    fn log_seed() -> Vec<u8> {
        let disk = SimStorage::new();
        let log = Log::open(LogConfig {
            segment_bytes: SEGMENT_BYTES_MIN,
            background: false,
            storage: disk.shared(),
            ..LogConfig::new("/log")
        })
        .expect("a new log");
        let relation = cdc_core::testing::relation();
        for id in 0..3 {
            let mut tx = log.begin(id);
            let row = cdc_core::testing::row(1, "name", "1.5");
            tx.insert(&relation, &row).expect("a row");
            if id == 1 {
                tx.abort().expect("an abort");
            } else {
                tx.commit().expect("a commit");
            }
        }
        drop(log);
        let file = disk.open("/log/0000000000000000.wal".as_ref(), OpenMode::Read);
        let mut bytes = vec![0; SEGMENT_BYTES_MIN as usize];
        file.and_then(|file| file.read_at(&mut bytes, 0))
            .expect("its bytes");
        let own = SegmentHeader::decode(&bytes[..4096])
            .expect("its header")
            .seed();
        let mut seed = vec![3];
        let mut lsn = HEADER_BYTES;
        loop {
            let at = usize::try_from(lsn).expect("small");
            let parsed = frame::parse(&bytes[at..], lsn, own, 1 << 16, true);
            let Ok(Parsed::Frame(header)) = parsed else {
                break;
            };
            lsn = header.end();
            let kind = KINDS.iter().position(|kind| *kind == header.kind);
            let Some(kind) = kind else { continue };
            let payload = &bytes[at + FRAME_HEADER..at + header.len as usize];
            let how = if header.tx == header.lsn { 1 << 2 } else { 0 };
            seed.push(u8::try_from(kind).expect("few"));
            seed.push(how);
            seed.extend(u16::try_from(payload.len()).expect("short").to_le_bytes());
            seed.extend_from_slice(payload);
        }
        seed
    }

    fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
        let mut seeds = vec![("log", "three".to_owned(), log_seed())];
        let relation = cdc_core::testing::relation();
        let mut definition = 9u32.to_le_bytes().to_vec();
        definition.extend(relation::encode(&relation).expect("small"));
        seeds.push(("frame", "definition".to_owned(), definition));
        seeds.push((
            "frame",
            "frames".to_owned(),
            frames(&log_seed()[1..], 7, 1 << 16),
        ));
        seeds.extend(crate::postgres::fuzzing::seeds());
        seeds.extend(crate::sqlite::fuzzing::seeds());
        seeds.extend(crate::rocksdb::fuzzing::seeds());
        seeds
    }

    #[test]
    fn corpora_hold() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        cdc_core::testing::corpus::replay(&dir, &TARGETS, &seeds());
    }
}
