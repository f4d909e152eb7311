//! Whatever stands on a page, in a log or in the schema: an error or some changes, after work that is
//! bounded by what is there; never a panic, never a loop.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cdc_core::SourceError;
use proptest::prelude::*;
use rusqlite::Connection;

use super::workload::{Random, Workload};
use super::workloads;
use crate::sqlite::decoder::Decoder;
use crate::sqlite::format::{Checksum, FRAME_HEADER, WAL_HEADER, WalHeader};
use crate::sqlite::log_file::{Scanned, Scanner, wal_header};
use crate::sqlite::pages::{Pages, Side};
use crate::sqlite::sink::{Nowhere, Row, Shape, Sink};
use crate::sqlite::view::LogView;

const PAGE: usize = 512;
/// Reads of a page that are enough for one transaction, or a begin, for each page there is: rows of
/// interior pages are come back to, and each table is passed over a few times.
const READS_MAX: u64 = 100;

/// Pages of a database, some of them damaged.
struct Damaged {
    old: Vec<Bytes>,
    new: Vec<Bytes>,
    reads: Cell<u64>,
}

impl Damaged {
    fn side(&self, side: Side) -> &[Bytes] {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }

    fn check_work(&self) {
        let pages = (self.old.len() + self.new.len()) as u64;
        let reads = self.reads.take();
        assert!(reads <= READS_MAX * pages, "{reads} reads of {pages} pages");
    }
}

impl Pages for Damaged {
    fn page(&self, side: Side, number: u32) -> Result<Bytes, SourceError> {
        self.reads.set(self.reads.get() + 1);
        Ok(self.side(side)[number as usize - 1].clone())
    }

    fn count(&self, side: Side) -> u32 {
        u32::try_from(self.side(side).len()).unwrap()
    }
}

fn pages(bytes: &[u8]) -> Vec<Bytes> {
    bytes.chunks(PAGE).map(Bytes::copy_from_slice).collect()
}

/// A database of small pages with tables of several kinds.
fn database(path: &Path, random: &mut Random) -> (Connection, Workload) {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA page_size = 512; PRAGMA synchronous = OFF")
        .unwrap();
    let mut workload = Workload::new(random.clone(), PAGE as u64);
    for _ in 0..4 {
        let create = workload.create();
        db.execute_batch(&create).unwrap();
    }
    for _ in 0..6 {
        workload.transaction(&db);
    }
    (db, workload)
}

#[test]
fn damaged_pages_are_an_error_or_other_rows_but_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (_, total) = workloads(400);
    for seed in 0..total.div_ceil(100) {
        let mut random = Random::new(seed);
        let path = dir.path().join(format!("{seed}.db"));
        let (db, mut workload) = database(&path, &mut random);
        let old = pages(&std::fs::read(&path).unwrap());
        for _ in 0..2 {
            workload.transaction(&db);
        }
        let new = pages(&std::fs::read(&path).unwrap());
        for _ in 0..100 {
            let with = |new: &[Bytes]| Damaged {
                old: old.clone(),
                new: new.to_vec(),
                reads: Cell::new(0),
            };
            let mut damaged = with(&new);
            let mut decoder = Decoder::open(&with(&old), true, None).unwrap();
            for _ in 0..1 + random.below(6) {
                let at = usize::try_from(random.below(damaged.new.len() as u64)).unwrap();
                let mut page = damaged.new[at].to_vec();
                for _ in 0..1 + random.below(4) {
                    // Most of what matters stands at the front.
                    let bound = if random.one_in(2) { 24 } else { PAGE as u64 };
                    let byte = usize::try_from(random.below(bound)).unwrap();
                    page[byte] = u8::try_from(random.below(256)).unwrap();
                }
                damaged.new[at] = page.into();
            }
            if random.one_in(4) {
                damaged.new.truncate(damaged.new.len() / 2 + 1);
            }
            let most = damaged.new.len().max(damaged.old.len());
            let changed: Vec<u32> = (1..=most)
                .filter(|n| damaged.old.get(n - 1) != damaged.new.get(n - 1))
                .map(|n| u32::try_from(n).unwrap())
                .collect();
            drop(decoder.transaction(&changed, &damaged, &mut Nowhere));
            damaged.check_work();
            drop(Decoder::open(&damaged, true, Some(&mut Nowhere)));
            damaged.check_work();
        }
    }
}

/// A page all of whose rows are the same bytes, and rows that share one long chain of overflow pages:
/// what would be more rows than the bytes are worth is refused.
#[test]
fn rows_that_lie_over_each_other_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA page_size = 512; CREATE TABLE t(x); \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) \
         INSERT INTO t SELECT zeroblob(101635) FROM n;",
    )
    .unwrap();
    let sound = pages(&std::fs::read(&path).unwrap());
    let mut opened = Damaged {
        old: Vec::new(),
        new: sound.clone(),
        reads: Cell::new(0),
    };
    Decoder::open(&opened, true, Some(&mut Nowhere)).unwrap();
    // Each row's chain leads to the first row's. The second page of the file is the table's leaf; of
    // so many bytes it holds 39 of each row, which leaves room for three.
    let mut leaf = sound[1].to_vec();
    let cell =
        |leaf: &[u8], n: usize| usize::from(u16::from_be_bytes([leaf[8 + 2 * n], leaf[9 + 2 * n]]));
    let length = cell(&leaf, 0) - cell(&leaf, 1);
    let first = cell(&leaf, 0) + length - 4;
    let chain: [u8; 4] = leaf[first..first + 4].try_into().unwrap();
    for n in 1..3 {
        let at = cell(&leaf, n) + length - 4;
        leaf[at..at + 4].copy_from_slice(&chain);
    }
    opened.new[1] = leaf.into();
    let error = Decoder::open(&opened, true, Some(&mut Nowhere)).unwrap_err();
    assert!(error.to_string().contains("two places"), "{error}");
    // A chain that leads back to itself.
    opened.new = sound;
    let next = u32::from_be_bytes(chain);
    let mut page = opened.new[next as usize + 6].to_vec();
    page[..4].copy_from_slice(&chain);
    opened.new[next as usize + 6] = page.into();
    let error = Decoder::open(&opened, true, Some(&mut Nowhere)).unwrap_err();
    assert!(error.to_string().contains("no end"), "{error}");
    opened.check_work();
}

/// A database and its log with some transactions, as bytes.
struct Recorded {
    main: Vec<u8>,
    log: Vec<u8>,
}

/// Some of them, made once.
fn recorded(which: usize) -> &'static Recorded {
    static ALL: OnceLock<Vec<Recorded>> = OnceLock::new();
    let make = |seed: u64| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let (db, mut workload) = database(&path, &mut Random::new(seed));
        db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
            .unwrap();
        let main = std::fs::read(&path).unwrap();
        for _ in 0..12 {
            workload.transaction(&db);
        }
        let log = std::fs::read(dir.path().join("a.db-wal")).unwrap();
        Recorded { main, log }
    };
    let all = ALL.get_or_init(|| (0..6).map(make).collect());
    &all[which % all.len()]
}

const FRAME: usize = FRAME_HEADER + PAGE;

/// What is done to a log. Places are taken modulo what there is.
#[derive(Clone, Debug)]
enum Harm {
    Byte {
        at: usize,
        byte: u8,
    },
    /// A byte at the front of some frame's page.
    Front {
        frame: usize,
        at: usize,
        byte: u8,
    },
    Page {
        frame: usize,
        number: u32,
    },
    Commit {
        frame: usize,
        count: u32,
    },
    Swap {
        one: usize,
        two: usize,
    },
    Repeat {
        frame: usize,
        times: usize,
    },
    Cut {
        at: usize,
    },
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..80, any::<u32>(), Just(0), Just(1), Just(u32::MAX)]
}

fn harm() -> impl Strategy<Value = Harm> {
    let any_place = any::<usize>();
    prop_oneof![
        2 => (any_place, any::<u8>()).prop_map(|(at, byte)| Harm::Byte { at, byte }),
        6 => (any_place, 0usize..40, any::<u8>())
            .prop_map(|(frame, at, byte)| Harm::Front { frame, at, byte }),
        2 => (any_place, number()).prop_map(|(frame, number)| Harm::Page { frame, number }),
        2 => (any_place, number()).prop_map(|(frame, count)| Harm::Commit { frame, count }),
        1 => (any_place, any_place).prop_map(|(one, two)| Harm::Swap { one, two }),
        1 => (any_place, 1usize..9).prop_map(|(frame, times)| Harm::Repeat { frame, times }),
        1 => any_place.prop_map(|at| Harm::Cut { at }),
        1 => (any_place, proptest::collection::vec(any::<u8>(), 0..1200))
            .prop_map(|(at, bytes)| Harm::Insert { at, bytes }),
    ]
}

impl Harm {
    fn apply(&self, log: &mut Vec<u8>) {
        let frames = log.len().saturating_sub(WAL_HEADER) / FRAME;
        let place = |frame: usize| WAL_HEADER + frame.checked_rem(frames).unwrap_or(0) * FRAME;
        let within = |at: usize| at % log.len().max(1);
        let put = |log: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            if let Some(part) = log.get_mut(at..at + bytes.len()) {
                part.copy_from_slice(bytes);
            }
        };
        match *self {
            Self::Byte { at, byte } => {
                let at = within(at);
                put(log, at, &[byte]);
            }
            Self::Front { frame, at, byte } => {
                put(log, place(frame) + FRAME_HEADER + at, &[byte]);
            }
            Self::Page { frame, number } => put(log, place(frame), &number.to_be_bytes()),
            Self::Commit { frame, count } => put(log, place(frame) + 4, &count.to_be_bytes()),
            Self::Swap { one, two } => {
                let (one, two) = (place(one), place(two));
                for byte in 0..FRAME {
                    if one + byte < log.len() && two + byte < log.len() {
                        log.swap(one + byte, two + byte);
                    }
                }
            }
            Self::Repeat { frame, times } => {
                let at = place(frame);
                if let Some(frame) = log.get(at..at + FRAME).map(<[u8]>::to_vec) {
                    for _ in 0..times {
                        log.splice(at..at, frame.iter().copied());
                    }
                }
            }
            Self::Cut { at } => log.truncate(within(at)),
            Self::Insert { at, ref bytes } => {
                let at = within(at);
                log.splice(at..at, bytes.iter().copied());
            }
        }
    }
}

/// Makes the checksums and salts of all frames right again.
fn seal(log: &mut [u8]) {
    let Some((header, frames)) = log.split_at_mut_checked(WAL_HEADER) else {
        return;
    };
    let big = header[3] & 1 == 1;
    let mut sum = Checksum::default().over(&header[..24], big);
    let put = |place: &mut [u8], sum: Checksum| {
        place[..4].copy_from_slice(&sum.0.to_be_bytes());
        place[4..8].copy_from_slice(&sum.1.to_be_bytes());
    };
    put(&mut header[24..], sum);
    for frame in frames.chunks_exact_mut(FRAME) {
        frame[8..16].copy_from_slice(&header[16..24]);
        sum = sum.over(&frame[..8], big).over(&frame[FRAME_HEADER..], big);
        put(&mut frame[16..24], sum);
    }
}

/// Counts reads of pages.
struct Counted<'a> {
    view: &'a LogView,
    reads: Cell<u64>,
}

impl Pages for Counted<'_> {
    fn page(&self, side: Side, number: u32) -> Result<Bytes, SourceError> {
        self.reads.set(self.reads.get() + 1);
        self.view.page(side, number)
    }

    fn count(&self, side: Side) -> u32 {
        self.view.count(side)
    }
}

/// Counts what comes.
#[derive(Default)]
struct Taken {
    rows: u64,
    bytes: u64,
}

impl Sink for Taken {
    fn schema(&mut self, _: Shape<'_>) -> Result<(), SourceError> {
        Ok(())
    }

    fn row(&mut self, row: Row<'_>) -> Result<(), SourceError> {
        self.rows += 1;
        let len = |image: Option<&[u8]>| image.map_or(0, |image| image.len() as u64);
        self.bytes += len(row.before) + len(row.after);
        Ok(())
    }
}

/// Follows a log over a database to its end or to an error.
fn follow(main: &[u8], log: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Arc::new(File::open(path).unwrap())
    };
    let (main, wal) = (file("main", main), file("wal", log));
    let count = u32::try_from(main.metadata().unwrap().len() / PAGE as u64).unwrap();
    let page_size = u32::try_from(PAGE).unwrap();
    let mut view = LogView::new(main, page_size, count);
    let Ok(mut decoder) = Decoder::open(&view, true, None) else {
        panic!("the database is sound");
    };
    let Some(header) = wal_header(&wal).unwrap() else {
        return;
    };
    if header.page_size != page_size {
        // Refused before anything is read.
        return;
    }
    view.restart(Some(wal.clone()));
    let mut scanner = Scanner::new(header);
    let mut written: BTreeSet<u32> = BTreeSet::new();
    while let Ok(Scanned::Transaction(next)) = scanner.next(&wal, u32::MAX - 1) {
        view.begin(next);
        let changed = view.changed();
        written.extend(&changed);
        let counted = Counted {
            view: &view,
            reads: Cell::new(0),
        };
        let mut taken = Taken::default();
        let outcome = decoder.transaction(&changed, &counted, &mut taken);
        // Those that can be read on either side: of the database, and of the log.
        let there = 2 * (u64::from(count) + written.len() as u64);
        let reads = counted.reads.get();
        assert!(reads <= READS_MAX * there, "{reads} reads of {there} pages");
        let most = READS_MAX * there * PAGE as u64;
        assert!(
            taken.bytes <= most,
            "{} rows of {} bytes",
            taken.rows,
            taken.bytes
        );
        if outcome.is_err() {
            return;
        }
        view.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_log_is_followed_to_its_end_or_to_an_error(
        which in 0usize..6,
        harms in proptest::collection::vec(harm(), 1..8),
        sealed in proptest::bool::weighted(0.8),
    ) {
        let recorded = recorded(which);
        let mut log = recorded.log.clone();
        for harm in &harms {
            harm.apply(&mut log);
        }
        if sealed {
            seal(&mut log);
        }
        follow(&recorded.main, &log);
    }

    #[test]
    fn any_bytes_behind_a_header_are_a_log_or_none(
        which in 0usize..6,
        mut bytes in proptest::collection::vec(any::<u8>(), 0..6 * FRAME),
        numbers in proptest::collection::vec((number(), number()), 6),
        sealed in any::<bool>(),
    ) {
        let recorded = recorded(which);
        for (frame, (page, commit)) in bytes.chunks_exact_mut(FRAME).zip(numbers) {
            frame[..4].copy_from_slice(&page.to_be_bytes());
            frame[4..8].copy_from_slice(&commit.to_be_bytes());
        }
        let mut log = recorded.log[..WAL_HEADER].to_vec();
        log.extend(bytes);
        if sealed {
            seal(&mut log);
        }
        follow(&recorded.main, &log);
    }

    #[test]
    fn any_header_is_a_log_s_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _ = WalHeader::parse(&bytes);
    }

    #[test]
    fn any_text_in_the_schema_is_a_table_left_out_or_an_error(
        (which, texts) in (0u64..8, proptest::collection::vec(definition(), 1..4)),
        (name, root) in (prop_oneof![Just("t1".to_owned()), "\\PC{0,8}"], 0u32..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let (db, _) = database(&path, &mut Random::new(which));
        let read = || pages(&std::fs::read(&path).unwrap());
        let old = read();
        // SQLite itself reads the schema when it is opened, and not again.
        db.execute_batch("PRAGMA writable_schema = ON").unwrap();
        for (n, text) in texts.iter().enumerate() {
            let set = db.execute(
                "UPDATE sqlite_schema SET sql = ?1 WHERE rowid % ?2 = 0",
                rusqlite::params![text, i64::try_from(n).unwrap() + 1],
            );
            set.unwrap();
        }
        db.execute(
            "INSERT INTO sqlite_schema VALUES ('table', ?1, ?1, ?2, ?3)",
            rusqlite::params![name, root, texts[0]],
        ).unwrap();
        let damaged = Damaged { old: old.clone(), new: read(), reads: Cell::new(0) };
        drop(Decoder::open(&damaged, true, Some(&mut Nowhere)));
        damaged.check_work();
        let sound = Damaged { old: Vec::new(), new: old, reads: Cell::new(0) };
        let mut decoder = Decoder::open(&sound, true, None).unwrap();
        let most = damaged.old.len().max(damaged.new.len());
        let changed: Vec<u32> = (1..=most)
            .filter(|n| damaged.old.get(n - 1) != damaged.new.get(n - 1))
            .map(|n| u32::try_from(n).unwrap())
            .collect();
        drop(decoder.transaction(&changed, &damaged, &mut Nowhere));
        damaged.check_work();
    }
}

/// Definitions that may be of a table, with words of SQL in places that are not theirs.
fn definition() -> impl Strategy<Value = String> {
    const WORDS: [&str; 34] = [
        "a",
        "b",
        "c",
        "d",
        "id",
        "rowid",
        "(",
        ")",
        ",",
        "INTEGER",
        "PRIMARY",
        "KEY",
        "DESC",
        "TEXT",
        "REAL",
        "DEFAULT",
        "-",
        "1",
        "'x'",
        "x'00'",
        "NOT",
        "NULL",
        "UNIQUE",
        "COLLATE",
        "NOCASE",
        "AS",
        "STORED",
        "VIRTUAL",
        "GENERATED",
        "ALWAYS",
        "CHECK",
        "\"",
        "/*",
        "é",
    ];
    let words = proptest::collection::vec(prop::sample::select(WORDS.to_vec()), 0..24);
    let end = prop::sample::select(vec![
        "",
        " WITHOUT ROWID",
        " STRICT",
        " WITHOUT ROWID, STRICT",
        ";",
        " --",
    ]);
    prop_oneof![
        4 => (words, end.clone()).prop_map(|(words, end)| format!("CREATE TABLE t({}){end}", words.join(" "))),
        1 => ("\\PC{0,60}", end).prop_map(|(text, end)| format!("CREATE TABLE t({text}){end}")),
        1 => "\\PC{0,40}",
        2 => prop::sample::select(vec![
            "CREATE TABLE t(a, b, c, d)".to_owned(),
            "CREATE TABLE t(a PRIMARY KEY, b, c, d) WITHOUT ROWID".to_owned(),
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (a), c, d)".to_owned(),
            "CREATE TABLE t(a TEXT, b REAL, c BLOB, d, e DEFAULT (random()))".to_owned(),
            "CREATE VIRTUAL TABLE t USING fts5(a)".to_owned(),
        ]),
    ]
}
