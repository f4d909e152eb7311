//! The past of a database, from the journal: ranges and new emitters that begin at a token or a time, with
//! the database switched off; and when it is back, everybody goes on.

use super::postgres::Db;
use super::postgres_cluster::Cluster;
use super::shop::{add_emitter, delivered, file_config, lines, refused};
use crate::sqlite::sqlite3;
use crate::tool::Tool;

/// A database that can be switched off.
trait Database {
    fn tool(&self) -> &Tool;
    fn insert(&mut self, ids: std::ops::RangeInclusive<i64>);
    fn switch(&mut self, on: bool);
}

struct Postgres {
    cluster: Cluster,
    db: Db,
}

impl Database for Postgres {
    fn tool(&self) -> &Tool {
        &self.db.tool
    }

    fn insert(&mut self, ids: std::ops::RangeInclusive<i64>) {
        self.db.insert(ids.count().try_into().unwrap());
    }

    fn switch(&mut self, on: bool) {
        if on {
            let port = self.db.config.port;
            self.cluster.restart_at(port, &["wal_level=logical"]);
        } else {
            self.cluster.stop();
        }
    }
}

impl Database for Tool {
    fn tool(&self) -> &Tool {
        self
    }

    fn insert(&mut self, ids: std::ops::RangeInclusive<i64>) {
        for id in ids {
            sqlite3(self, "app.db", &format!("INSERT INTO t VALUES({id});"));
        }
    }

    fn switch(&mut self, on: bool) {
        let (from, to) = if on {
            ("off", "app.db")
        } else {
            ("app.db", "off")
        };
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }
}

#[test]
fn the_past_of_postgresql_by_token_and_time_while_it_is_off() {
    let mut cluster = Cluster::new();
    cluster.restart(&["wal_level=logical"]);
    let db = Db::at(cluster.config(), "past");
    past(&mut Postgres { cluster, db });
}

#[test]
fn the_past_of_sqlite_by_token_and_time_while_it_is_off() {
    let mut tool = Tool::with_config(&file_config("sqlite:app.db"));
    sqlite3(
        &tool,
        "app.db",
        "PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY);",
    );
    past(&mut tool);
}

fn past(database: &mut impl Database) {
    let once = |tool: &Tool, more: &[&str]| tool.run(&[&["-q", "run", "--once"], more].concat());
    let ids = |tool: &Tool, dir: &str| delivered(&tool.path(dir));
    let run = once(database.tool(), &[]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    database.insert(1..=3);
    assert_eq!(once(database.tool(), &[]).code, 0);
    let shown = database.tool().answer(&["position", "show", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let token = shown["checkpoints"][0]["token"]
        .as_str()
        .unwrap()
        .to_owned();
    database.insert(4..=6);
    assert_eq!(once(database.tool(), &[]).code, 0);
    assert_eq!(ids(database.tool(), "out"), [1, 2, 3, 4, 5, 6]);
    let fourth = &lines(&database.tool().path("out"))[3];
    let fourth: serde_json::Value = serde_json::from_str(fourth).unwrap();
    let time = format!("time:{}", fourth["ts"].as_str().unwrap());

    database.switch(false);
    let tool = database.tool();
    for (from, to, wanted) in [
        (&*token, "latest", &[4, 5, 6][..]),
        (&time, "latest", &[4, 5, 6]),
        ("time:-1h", &token, &[1, 2, 3]),
    ] {
        let _before = std::fs::remove_dir_all(tool.path("again"));
        let replay = ["-q", "replay", "--emitter", "file", "--path", "again"];
        let run = tool.run(&[&replay[..], &["--from", from, "--to", to]].concat());
        assert_eq!(run.code, 0, "{from} {to}: {}", run.err);
        assert_eq!(ids(tool, "again"), wanted, "{from} {to}");
    }
    // Emitters that are new.
    for (name, from) in [("by-token", &token), ("by-time", &time)] {
        add_emitter(tool, name);
        let run = once(tool, &["--from", from]);
        refused(&run, 4, &["what the journal holds", "is delivered"]);
        assert_eq!(ids(tool, name), [4, 5, 6]);
    }
    assert_eq!(ids(tool, "out"), [1, 2, 3, 4, 5, 6], "nothing moved");

    database.switch(true);
    database.insert(7..=7);
    let tool = database.tool();
    let run = once(tool, &[]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert_eq!(ids(tool, "out"), [1, 2, 3, 4, 5, 6, 7]);
    for name in ["by-token", "by-time"] {
        assert_eq!(ids(tool, name), [4, 5, 6, 7], "{name}");
    }
}
