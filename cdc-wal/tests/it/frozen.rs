//! Files of version 1, frozen: every later build reads them as they were read when they were written.
//!
//! With `CDC_WAL_WRITE_FIXTURES` set they are written anew, which only a new format version may need.

use std::path::Path;
use std::sync::Arc;

use cdc_core::storage::StdStorage;
use cdc_core::testing::{relation, row};
use cdc_core::{
    BatchLimit, Cause, ChangeEvent, EventBatch, Image, Journal, Lineage, Lsn, Meta, Op, Position,
    SourceInfo, SourceKind, Value,
};
use cdc_wal::inspect::Inspector;
use cdc_wal::repair::{RepairMode, repair};
use cdc_wal::{FileJournal, JournalConfig, Log, LogConfig, LogErrorKind, StartAt, WalTail};

use crate::support::{clock, config};

/// Everything a tail gives, those who accept each loss.
fn events(dir: &Path) -> (Vec<ChangeEvent>, Vec<Position>) {
    let mut start = StartAt::Earliest;
    let (mut events, mut losses) = (Vec::new(), Vec::new());
    loop {
        let mut tail = WalTail::open(StdStorage::shared(), dir, start, clock()).expect("tail");
        let error = loop {
            match tail.poll_batch(&BatchLimit::default()) {
                Ok(Some(batch)) => events.extend_from_slice(batch.events()),
                Ok(None) => return (events, losses),
                Err(error) => break error,
            }
        };
        let LogErrorKind::Lost { resume } = error.kind else {
            panic!("{error}")
        };
        losses.push(resume);
        start = StartAt::After(resume);
    }
}

fn commit(log: &Log, id: u64) {
    let mut tx = log.begin(id);
    tx.insert(&relation(), &row(1, "name", "1"))
        .expect("insert");
    tx.commit().expect("commit");
}

/// A native log: every frame kind but heartbeat and gap, in two segments.
pub(crate) fn frozen(dir: &Path) -> Vec<ChangeEvent> {
    let log = Log::open(LogConfig {
        name: Some("shop".into()),
        ..config(dir)
    })
    .expect("open");
    let mut large = log.begin(77);
    for n in 0..300 {
        large
            .insert(&relation(), &row(n, &"y".repeat(150), "1.50"))
            .expect("insert");
    }
    let savepoint = large.savepoint().expect("savepoint");
    for n in 300..400 {
        large
            .insert(&relation(), &row(n, &"u".repeat(150), "1.50"))
            .expect("insert");
    }
    large.rollback_to(&savepoint).expect("rollback");
    commit(&log, 78);
    let mut aborted = log.begin(79);
    aborted
        .insert(&relation(), &row(0, &"z".repeat(20_000), "0"))
        .expect("insert");
    aborted.abort().expect("abort");
    large
        .insert(&relation(), &row(0, &"w".repeat(20_000), "0"))
        .expect("insert");
    large.commit().expect("commit");
    let mut forms = log.begin(81);
    let meta = Meta(vec![("expires_at".into(), Value::Int(7))]);
    let images = [
        Image::Absent,
        Image::Full(row(1, "a", "1")),
        Image::Key(row(2, "b", "2")),
        Image::Partial(row(3, "c", "3")),
    ];
    for op in Op::ALL {
        for (at, cause) in Cause::ALL.into_iter().enumerate() {
            let (before, after) = (&images[at % 4], &images[(at + 1) % 4]);
            forms
                .change(op, &relation(), before, after, cause, Some(&meta))
                .expect("change");
        }
    }
    forms.commit().expect("commit");
    drop(log);
    // Again, for a restart frame.
    let log = Log::open(config(dir)).expect("open");
    commit(&log, 80);
    drop(log);
    events(dir).0
}

/// A journal: ordinals with holes, heartbeats.
fn journal(dir: &Path) {
    let lineage = Lineage::new(SourceKind::Postgres, [7; 16], 3);
    let source = Arc::new(SourceInfo::new("shop", "orders", lineage));
    let config = JournalConfig {
        segment_bytes: 64 << 10,
        background: false,
        ..JournalConfig::new(dir)
    };
    let mut journal = FileJournal::open(config, &source).expect("open");
    let event = |commit: u64, ordinal, last| ChangeEvent {
        position: Position::new(Lsn(commit), ordinal),
        relation: relation(),
        transaction: cdc_core::Transaction {
            id: commit + 1,
            commit_micros: 1_700_000_000_000_000,
        },
        last,
        op: Op::Insert,
        cause: Cause::Client,
        before: Image::Absent,
        after: Image::Full(row(1, "a", "1")),
        meta: None,
    };
    let batches = [
        (vec![event(100, 0, false), event(100, 4, true)], 100),
        (vec![], 200),
        (vec![event(300, 7, true)], 300),
        (vec![], 400),
    ];
    for (events, end) in batches {
        let end = Position::end_of(Lsn(end));
        let batch = EventBatch::new(source.clone(), events, end);
        journal.append(&batch).expect("append");
    }
    journal.flush().expect("flush");
}

/// The native log, damaged and repaired: gaps of a transaction and of all.
fn repaired(dir: &Path) {
    let _ = frozen(dir);
    let path = dir.join("0000000000000000.wal");
    let mut bytes = std::fs::read(&path).expect("a segment");
    bytes[30_000..30_100].fill(0x55);
    std::fs::write(&path, bytes).expect("write");
    let report = repair(&StdStorage::shared(), dir, RepairMode::Keep).expect("repair");
    assert_eq!(report.losses.len(), 2, "{report}");
}

fn described(events: &[ChangeEvent], losses: &[Position]) -> String {
    let image = |image: &Image| {
        let crc = image.row().map(|row| crc32c::crc32c(row.as_bytes()));
        format!("{} {crc:?}", image.kind_name())
    };
    let lines = events.iter().map(|e| {
        format!(
            "{} {} {:?} {} {} {} {} {} {:?}\n",
            e.position,
            e.op,
            e.cause,
            e.relation.qualified_name(),
            e.transaction.id,
            e.last,
            image(&e.before),
            image(&e.after),
            e.meta.as_deref().map(|meta| meta.0.len())
        )
    });
    let losses = losses.iter().map(|position| format!("lost: {position}\n"));
    lines.chain(losses).collect()
}

/// Writes a log's files and what they give into a directory of fixtures.
fn write(fixtures: &Path, dir: &Path) {
    std::fs::create_dir_all(fixtures).expect("create");
    for entry in std::fs::read_dir(dir).expect("list") {
        let path = entry.expect("list").path();
        let name = path.file_name().expect("a name").to_owned();
        if name == "control" || path.extension().is_some_and(|e| e == "wal") {
            // What is not written reads as zero, so the zeros at the end need not be kept.
            let mut bytes = std::fs::read(&path).expect("read");
            let used = bytes.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
            bytes.truncate(used);
            std::fs::write(fixtures.join(name), bytes).expect("write");
        }
    }
    let (events, losses) = events(dir);
    std::fs::write(fixtures.join("events"), described(&events, &losses)).expect("write");
}

/// Writes a log into a directory.
type Maker = fn(&Path);

#[test]
fn files_of_version_1_are_read() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut kinds = std::collections::BTreeSet::new();
    let makers: [(&str, Maker); 3] = [
        ("v1", |dir| drop(frozen(dir))),
        ("v1-journal", journal),
        ("v1-repaired", repaired),
    ];
    for (name, make) in makers {
        let fixtures = all.join(name);
        if std::env::var_os("CDC_WAL_WRITE_FIXTURES").is_some() {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path());
            write(&fixtures, dir.path());
        }
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&fixtures).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            if name != "events" {
                std::fs::copy(&path, dir.path().join(name)).unwrap();
            }
        }
        let expected = std::fs::read_to_string(fixtures.join("events")).unwrap();
        let (events, losses) = events(dir.path());
        assert_eq!(described(&events, &losses), expected, "{name}");
        let inspector = Inspector::open(StdStorage::shared(), dir.path()).unwrap();
        assert_eq!(inspector.verify().unwrap().damage, None, "{name}");
        for frame in inspector.frames(inspector.first_lsn()) {
            kinds.insert(frame.unwrap().kind.name());
        }
        if name == "v1" {
            assert_eq!(&*inspector.source().name, "shop");
            // And written to.
            let log = Log::open(config(dir.path())).unwrap();
            commit(&log, 1);
        }
    }
    let known = [
        "abort",
        "changes",
        "commit",
        "gap",
        "heartbeat",
        "relation",
        "restart",
        "rollback",
        "seal",
    ];
    assert!(
        kinds.iter().eq(known.iter()),
        "every kind is frozen: {kinds:?}"
    );
}
