//! RocksDB's log as events. The bytes were written by RocksDB 7.8.3 (`ldb`, `db_bench`), a file for
//! each command; nothing here needs RocksDB.

mod kill;
mod purged;

use std::path::Path;

use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{Image, Lsn, Op, Position, Value};
use cdc_wal::kinds::key_value::Family;
use cdc_wal::rocksdb::{Batch, Families, Record, WalDirectory};
use cdc_wal::{LogError, LogErrorKind};
use proptest::prelude::*;

/// `batchput k1 v1 k2 v2 k3 v3`, `put ada lovelace` in a second family, `delete k1`, `singledelete k2`,
/// `deleterange k2 k9`, `deleterange a b` in the second family: file number and content.
const FILES: [(u64, &str); 6] = [
    (
        4,
        "8cff7cef21000101000000000000000300000001026b3102763101026b3202763201026b33027633",
    ),
    (
        11,
        "ddb5d2b31b0001040000000000000001000000050103616461086c6f76656c616365",
    ),
    (16, "42a4bb8c10000105000000000000000100000000026b31"),
    (21, "1275256010000106000000000000000100000007026b32"),
    (26, "d36286f61300010700000000000000010000000f026b32026b39"),
    (31, "1d6cd5c51200010800000000000000010000000e0101610162"),
];

/// Two merges, two records of one file.
const MERGES: &str = "7db0b3231f000101000000000000000100000002080000000000000000085e7b56687a22212f77a6f3511f0001020000000000000001000000020800000000000000010825774d5a3b276120";

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hexadecimal")
        })
        .collect()
}

fn put(disk: &SimStorage, path: &str, content: &[u8]) {
    let path = Path::new(path);
    if disk.exists(path) {
        disk.remove(path).expect("a healthy disk");
    }
    let file = disk
        .open(path, OpenMode::CreateNew)
        .expect("a healthy disk");
    file.write_all_at(content, 0).expect("a healthy disk");
}

fn database() -> SimStorage {
    let disk = SimStorage::new();
    for (number, hex) in FILES {
        // Older ones are archived.
        let folder = if number < 20 { "/db/archive" } else { "/db" };
        put(&disk, &format!("{folder}/{number:06}.log"), &bytes(hex));
    }
    disk
}

fn after(disk: &SimStorage, sequence: u64) -> WalDirectory {
    WalDirectory::after(disk.shared(), "/db", sequence)
}

fn all(wal: &mut WalDirectory) -> Result<Vec<Vec<u8>>, LogError> {
    std::iter::from_fn(|| wal.next_batch().transpose()).collect()
}

fn families() -> Families {
    Families::new()
        .with(0, &Family::new("store", "default"), "uint64add")
        .with(1, &Family::new("store", "people"), "none")
}

#[test]
fn what_rocksdb_wrote_becomes_events() {
    let mut wal = after(&database(), 0);
    let batches = all(&mut wal).unwrap();
    assert_eq!(wal.next_sequence(), 9);
    let events: Vec<_> = batches
        .iter()
        .flat_map(|bytes| {
            families()
                .events(&Batch::decode(bytes).unwrap(), 42)
                .unwrap()
        })
        .collect();
    let seen: Vec<_> = events
        .iter()
        .map(|e| {
            (
                e.op,
                &*e.relation.table,
                e.position,
                e.last,
                e.transaction.id,
            )
        })
        .collect();
    let at = |sequence, ordinal| Position::new(Lsn(sequence), ordinal);
    assert_eq!(
        seen,
        [
            (Op::Update, "default", at(1, 0), false, 1),
            (Op::Update, "default", at(1, 1), false, 1),
            (Op::Update, "default", at(1, 2), true, 1),
            (Op::Update, "people", at(4, 0), true, 4),
            (Op::Delete, "default", at(5, 0), true, 5),
            (Op::Delete, "default", at(6, 0), true, 6),
            (Op::Delete, "default", at(7, 0), true, 7),
            (Op::Delete, "people", at(8, 0), true, 8),
        ]
    );
    let row = |image: &Image| image.row().unwrap().to_values().unwrap();
    let value = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    assert_eq!(
        row(&events[3].after),
        [value("ada"), value("lovelace"), Value::Null]
    );
    assert!(events[3].before.is_absent());
    assert!(
        matches!(&events[4].before, Image::Key(key) if key.to_values().unwrap()[0] == value("k1"))
    );
    let range = &events[6].meta.as_ref().unwrap().0[0];
    assert_eq!(&*range.0, "range");
    let ends = vec![
        ("start".to_owned(), value("k2")),
        ("end".to_owned(), value("k9")),
    ];
    assert_eq!(range.1, Value::Map(ends));
}

#[test]
fn merges_carry_operator_and_operand() {
    let disk = SimStorage::new();
    put(&disk, "/db/000004.log", &bytes(MERGES));
    let batches = all(&mut after(&disk, 0)).unwrap();
    assert_eq!(batches.len(), 2);
    let events = families()
        .events(&Batch::decode(&batches[1]).unwrap(), 0)
        .unwrap();
    assert_eq!(events[0].op, Op::Merge);
    assert!(matches!(events[0].after, Image::Key(_)));
    let Value::Map(merge) = &events[0].meta.as_ref().unwrap().0[0].1 else {
        panic!("a map");
    };
    assert_eq!(merge[0].1, Value::from("uint64add"));
    assert_eq!(merge[1].1, Value::Bytes(bytes("25774d5a3b276120")));
}

#[test]
fn reading_goes_on_after_a_sequence_number_and_as_files_come() {
    let disk = database();
    for (from, next) in [(0, 1), (3, 4), (5, 6), (7, 8)] {
        let first = after(&disk, from).next_batch().unwrap().unwrap();
        assert_eq!(Batch::decode(&first).unwrap().sequence(), next);
    }
    // Inside a batch: the whole of it comes again.
    let first = after(&disk, 2).next_batch().unwrap().unwrap();
    assert_eq!(Batch::decode(&first).unwrap().sequence(), 1);
    let mut wal = after(&disk, 8);
    assert_eq!(wal.next_batch().unwrap(), None);
    // What was appended since the block was read is seen at once.
    let growing = SimStorage::new();
    put(
        &growing,
        "/db/000001.log",
        &record(1, None, &batch(1, &[b"x"])),
    );
    let mut wal = after(&growing, 0);
    assert!(wal.next_batch().unwrap().is_some());
    let file = growing
        .open(Path::new("/db/000001.log"), OpenMode::ReadWrite)
        .unwrap();
    file.write_all_at(&record(1, None, &batch(2, &[b"y"])), file.len().unwrap())
        .unwrap();
    assert!(wal.next_batch().unwrap().is_some());
    // The newest file grows, byte by byte, and then there is another one.
    let grown = [bytes(FILES[5].1), record(1, None, &batch(9, &[b"x"]))].concat();
    for length in FILES[5].1.len() / 2..grown.len() {
        put(&disk, "/db/000031.log", &grown[..length]);
        let mut wal = after(&disk, 8);
        assert_eq!(wal.next_batch().unwrap(), None, "{length} bytes");
    }
    put(&disk, "/db/000031.log", &grown);
    put(
        &disk,
        "/db/000032.log",
        &record(1, None, &batch(10, &[b"y"])),
    );
    let mut wal = after(&disk, 8);
    assert_eq!(all(&mut wal).unwrap().len(), 2);
    assert_eq!(wal.next_sequence(), 11);
}

#[test]
fn purged_files_are_a_gap_and_damage_is_damage() {
    let disk = database();
    disk.remove(Path::new("/db/archive/000011.log")).unwrap();
    let error = all(&mut after(&disk, 0)).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Trimmed);
    let message = error.to_string();
    assert!(message.contains("from sequence number 4 to 4"), "{message}");
    // What is behind the gap can be read.
    assert_eq!(all(&mut after(&disk, 4)).unwrap().len(), 4);

    let disk = database();
    disk.damage(Path::new("/db/000021.log"), 12, |byte| byte ^ 1)
        .unwrap();
    let error = all(&mut after(&disk, 0)).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("000021.log"), "{error}");
}

/// A database whose numbers 3 and 4 were given twice, in files 5 and 9.
fn twice(first: &[u64], second: &[u64]) -> SimStorage {
    let disk = SimStorage::new();
    for (number, sequences) in [(5, first), (9, second)] {
        let batches: Vec<_> = sequences
            .iter()
            .map(|sequence| batch(*sequence, &[&[u8::try_from(number).expect("small")]]))
            .collect();
        put(
            &disk,
            &format!("/db/{number:06}.log"),
            &file(None, &batches),
        );
    }
    disk
}

#[test]
fn numbers_that_were_given_twice_are_read_twice_and_rise_in_the_stream() {
    let disk = twice(&[1, 2, 3, 4], &[3, 4, 5]);
    let mut wal = after(&disk, 0);
    let mut seen = Vec::new();
    while let Some(bytes) = wal.next_batch().unwrap() {
        seen.push(Batch::decode(&bytes).unwrap().sequence() + wal.shift());
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
    // Behind a torn end, too.
    let torn = [
        file(None, &[1, 2, 3, 4].map(|sequence| batch(sequence, &[b"x"]))),
        vec![1; 40],
    ];
    put(&disk, "/db/000005.log", &torn.concat());
    let mut wal = after(&disk, 0);
    assert_eq!(all(&mut wal).unwrap().len(), 7);
    assert_eq!(wal.shift(), 2);
}

fn append(disk: &SimStorage, path: &str, content: &[u8]) {
    let file = disk
        .open(Path::new(path), OpenMode::ReadWrite)
        .expect("a healthy disk");
    let end = file.len().expect("a healthy disk");
    file.write_all_at(content, end).expect("a healthy disk");
}

/// With `manual_wal_flush` RocksDB makes the next file, and then writes to the one before what it
/// held back of it.
#[test]
fn what_is_written_to_a_file_when_the_next_one_is_there_is_read() {
    for read in [2, 0] {
        let disk = SimStorage::new();
        let one = |sequence| record(1, None, &batch(sequence, &[b"x"]));
        put(
            &disk,
            "/db/000005.log",
            &[one(1), one(2)].concat()[..read * one(1).len()],
        );
        put(&disk, "/db/000009.log", b"");
        put(&disk, "/db/000010.log", b"");
        let mut wal = after(&disk, 0);
        assert_eq!(all(&mut wal).unwrap().len(), read);
        let rest = vec![one(1), one(2), one(3), one(4)].split_off(read);
        append(&disk, "/db/000005.log", &rest.concat());
        append(&disk, "/db/000010.log", &one(5));
        assert_eq!(all(&mut wal).unwrap().len(), 5 - read);
        assert_eq!((wal.next_sequence(), wal.shift()), (6, 0));
        // A gap is one still.
        append(&disk, "/db/000010.log", &one(7));
        let error = all(&mut wal).unwrap_err();
        assert_eq!(error.kind, LogErrorKind::Trimmed, "{error}");
    }
}

#[test]
fn changes_that_were_read_and_are_gone_are_refused() {
    for first in [&[1, 2, 3][..], &[]] {
        // The machine failed: the file is shorter than what was read of it.
        let disk = twice(&[1, 2, 3, 4], &[]);
        disk.remove(Path::new("/db/000009.log")).unwrap();
        let mut wal = after(&disk, 0);
        assert_eq!(all(&mut wal).unwrap().len(), 4);
        let lost = twice(first, &[4, 5]);
        for path in ["/db/000005.log", "/db/000009.log"].map(Path::new) {
            let file = lost.open(path, OpenMode::Read).unwrap();
            let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            file.read_at(&mut content, 0).unwrap();
            put(&disk, &path.display().to_string(), &content);
        }
        let error = all(&mut wal).unwrap_err();
        assert_eq!(error.kind, LogErrorKind::Trimmed, "{error}");
        assert!(
            error
                .to_string()
                .contains("000009.log begins with sequence number 4"),
            "{error}"
        );
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let read = |bytes: &[u8]| {
        families()
            .events(&Batch::decode(bytes).unwrap(), 0)
            .unwrap_err()
    };
    let with = |count: u32, records: &[u8]| {
        [&7u64.to_le_bytes(), count.to_le_bytes().as_slice(), records].concat()
    };
    for (bytes, kind, what) in [
        (
            with(1, b"\x05\x09\x01k\x01v"),
            LogErrorKind::NotFound,
            "family with number 9",
        ),
        (
            with(0, b"\x0b\x01x"),
            LogErrorKind::Unsupported,
            "prepared transaction",
        ),
        (
            with(1, b"\x11\x01k\x01v"),
            LogErrorKind::Unsupported,
            "a blob index",
        ),
        (
            with(2, b"\x00\x01k"),
            LogErrorKind::Corrupt,
            "fewer changes",
        ),
    ] {
        let error = read(&bytes);
        assert_eq!(error.kind, kind);
        assert!(error.to_string().contains(what), "{error}");
    }
    let disk = SimStorage::new();
    put(&disk, "/db/000001.log", &record(9, None, b"zstd"));
    let error = after(&disk, 0).next_batch().unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Unsupported, "{error}");
}

/// A batch that puts values under the key `k`.
fn batch(sequence: u64, values: &[&[u8]]) -> Vec<u8> {
    let mut bytes = sequence.to_le_bytes().to_vec();
    bytes.extend(u32::try_from(values.len()).expect("few").to_le_bytes());
    for value in values {
        bytes.extend(b"\x01\x01k");
        let mut length = value.len();
        while length >= 0x80 {
            bytes.push(u8::try_from(length & 0x7f).expect("7 bits") | 0x80);
            length >>= 7;
        }
        bytes.push(u8::try_from(length).expect("7 bits"));
        bytes.extend(*value);
    }
    bytes
}

/// One physical record, with the file's number if it is a recycled one.
fn record(kind: u8, number: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let mut covered = vec![kind];
    covered.extend(number.into_iter().flat_map(u32::to_le_bytes));
    covered.extend(payload);
    let crc = crc32c(&covered).rotate_right(15).wrapping_add(0xa282_ead8);
    let length = u16::try_from(payload.len()).expect("within a block");
    [
        &crc.to_le_bytes(),
        length.to_le_bytes().as_slice(),
        &covered,
    ]
    .concat()
}

/// Bit by bit, independent of the library.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Payloads as RocksDB lays them out in a file.
fn file(number: Option<u32>, payloads: &[Vec<u8>]) -> Vec<u8> {
    const BLOCK: usize = 32 << 10;
    let head = if number.is_some() { 11 } else { 7 };
    let mut out = Vec::new();
    for payload in payloads {
        let mut rest = payload.as_slice();
        let mut first = true;
        loop {
            let left = BLOCK - out.len() % BLOCK;
            if left < head {
                out.resize(out.len() + left, 0);
                continue;
            }
            let (part, more) = rest.split_at(rest.len().min(left - head));
            rest = more;
            let kind = match (first, rest.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let kind = if number.is_some() { kind + 4 } else { kind };
            out.extend(record(kind, number, part));
            first = false;
            if rest.is_empty() {
                break;
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn records_over_blocks_are_put_together(
        lengths in proptest::collection::vec(prop_oneof![4 => 0usize..200, 1 => 32_700usize..32_780, 1 => 60_000usize..120_000], 1..8),
        recycled in any::<bool>(),
        cut in 0usize..400,
    ) {
        let payloads: Vec<_> = lengths.iter().zip(1..).map(|(n, sequence)| batch(sequence, &[&vec![7; *n]])).collect();
        let mut content = file(recycled.then_some(5), &payloads);
        let disk = SimStorage::new();
        put(&disk, "/db/000005.log", &content);
        prop_assert_eq!(&all(&mut after(&disk, 0)).unwrap(), &payloads);
        // Cut off anywhere: a prefix, and no error.
        content.truncate(content.len().saturating_sub(cut));
        put(&disk, "/db/000005.log", &content);
        let found = all(&mut after(&disk, 0)).unwrap();
        prop_assert_eq!(found.as_slice(), &payloads[..found.len()]);
    }

    #[test]
    fn any_file_is_read_or_refused(content in proptest::collection::vec(any::<u8>(), 0..300), zeros in 0usize..40) {
        let disk = SimStorage::new();
        put(&disk, "/db/000005.log", &[vec![0; zeros], content].concat());
        let _read = all(&mut after(&disk, 0));
    }
}

#[test]
fn the_zeros_at_the_end_of_a_block_are_passed_over() {
    // Ten bytes are left, for which a recycled file has no header and another one would.
    for (recycled, length) in [
        (true, 32_729),
        (true, 32_731),
        (false, 32_738),
        (false, 32_733),
    ] {
        let payloads = [batch(1, &[&vec![7; length]]), batch(2, &[b""])];
        let disk = SimStorage::new();
        let content = file(recycled.then_some(5), &payloads);
        put(&disk, "/db/000005.log", &content);
        let found = all(&mut after(&disk, 0)).unwrap();
        assert!(
            found == payloads,
            "{recycled} {length}: {} found",
            found.len()
        );
    }
}

#[test]
fn what_an_older_file_left_behind_is_not_read() {
    let disk = SimStorage::new();
    let new = file(Some(5), &[batch(1, &[b"new"])]);
    let old = file(Some(4), &[batch(2, &[b"old"])]);
    put(&disk, "/db/000005.log", &[new, old].concat());
    assert_eq!(all(&mut after(&disk, 0)).unwrap().len(), 1);
}

#[test]
fn debug_shows_no_contents() {
    let content = batch(1, &[b"canary"]);
    let read = Batch::decode(&content).unwrap();
    let records: Vec<Record<'_>> = read.records().map(Result::unwrap).collect();
    assert_eq!(
        format!("{read:?} {records:?}"),
        "Batch(1 changes from 1) [put]"
    );
}
