//! Another tool beside us that holds the log and checkpoints by itself, as Litestream does: a long
//! read transaction of its own, tables of its own, and every kind of checkpoint.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use cdc_core::{ChangeEvent, Image, Op, Value, WalSource};
use cdc_wal::sqlite::{Assist, Mode, SqliteConfig, SqliteSource};

use super::support::{Application, Stage, batch, is_merged};

const TABLE: &str = "PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(id INTEGER PRIMARY KEY, x);";

/// The other tool: its own connection in its own process.
struct Other {
    shell: Application,
    seq: u64,
}

impl Other {
    fn open(stage: &Stage) -> Self {
        let mut shell = Application::open(&stage.path);
        shell.run(
            "PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
             CREATE TABLE IF NOT EXISTS _litestream_lock (id INTEGER);",
        );
        let mut other = Self { shell, seq: 0 };
        other.hold();
        other
    }

    /// A write of its own, so that its mark is not on the database file alone, and the mark.
    fn hold(&mut self) {
        self.seq += 1;
        let seq = self.seq;
        self.shell.run(&format!(
            "INSERT INTO _litestream_seq (id, seq) VALUES (1, {seq}) ON CONFLICT (id) DO UPDATE SET seq = seq + 1;
             BEGIN; SELECT count(*) FROM _litestream_seq;"
        ));
    }

    /// Lets go, checkpoints, and holds again.
    fn checkpoint(&mut self, kind: &str) {
        self.shell
            .run(&format!("ROLLBACK; PRAGMA wal_checkpoint({kind});"));
        self.hold();
    }
}

type Rows = BTreeMap<i64, String>;

fn apply(rows: &mut Rows, event: &ChangeEvent) {
    assert_eq!(
        &*event.relation.table, "t",
        "the tool's tables are left out"
    );
    let row = |image: &Image| match &image.row().unwrap().to_values().unwrap()[..] {
        [Value::Int(id), Value::Text(x)] => (*id, x.clone()),
        other => panic!("{} values", other.len()),
    };
    match event.op {
        Op::Insert => {
            let (id, x) = row(&event.after);
            assert_eq!(rows.insert(id, x), None, "{id} came twice");
        }
        Op::Update => {
            let ((id, before), (_, after)) = (row(&event.before), row(&event.after));
            assert_eq!(rows.insert(id, after), Some(before), "{id}: before");
        }
        Op::Delete => {
            let (id, before) = row(&event.before);
            assert_eq!(rows.remove(&id), Some(before), "{id}: before");
        }
        other => panic!("{other}"),
    }
}

async fn beside(mode: Mode, assist: Assist) {
    let mut stage = Stage::new(TABLE);
    let mut other = Other::open(&stage);
    let config = SqliteConfig {
        mode,
        assist,
        soft_frames: 20,
        hard_frames: 40,
        ..stage.config()
    };
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    let (mut rows, mut merged, mut transactions, mut changes) = (Rows::new(), 0u64, 0u64, 0u64);
    let mut take = |found: &[ChangeEvent], rows: &mut Rows| {
        for event in found {
            apply(rows, event);
            changes += 1;
            merged += u64::from(event.last && is_merged(event));
            transactions += u64::from(event.last);
        }
    };
    // Both wait for each other's marks as readers do; a busy checkpoint is nothing new to the tool.
    for (round, kind) in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]
        .iter()
        .cycle()
        .take(16)
        .enumerate()
    {
        if round == 0 {
            other.shell.run(".timeout 200");
        }
        for n in 0..12 {
            let id = round * 12 + n;
            stage.application.run(&format!(
                "INSERT INTO t VALUES ({id}, 'a{id}'); UPDATE t SET x = x || 'b' WHERE id = {id} / 2;"
            ));
        }
        stage
            .application
            .run(&format!("DELETE FROM t WHERE id = {};", round * 7));
        if round % 3 == 0 {
            other.checkpoint(kind);
        }
        let (found, _) = batch(&mut source).await.unwrap();
        take(&found, &mut rows);
        if round % 3 == 1 {
            other.checkpoint(kind);
        }
    }
    stage.application.run("INSERT INTO t VALUES (-1, 'end');");
    while !rows.contains_key(&-1) {
        let (found, end) = batch(&mut source).await.unwrap();
        take(&found, &mut rows);
        source.confirm(end).await.unwrap();
    }
    let printed = stage.application.run("SELECT id, x FROM t ORDER BY id;");
    let mine: String = rows.iter().map(|(id, x)| format!("{id}|{x}\n")).collect();
    assert_eq!(mine, printed);
    if mode == Mode::Pinned {
        // Each statement was a transaction of one row.
        assert_eq!((merged, transactions), (0, changes), "each comes alone");
    }
    source.close().await.unwrap();
}

#[tokio::test]
async fn each_helps_with_checkpoints() {
    beside(Mode::Pinned, Assist::Hard).await;
}

#[tokio::test]
async fn checkpoints_are_left_to_the_other() {
    beside(Mode::Pinned, Assist::Off).await;
}

#[tokio::test]
async fn nothing_of_ours_is_in_its_way() {
    beside(Mode::LockFree, Assist::Off).await;
}
