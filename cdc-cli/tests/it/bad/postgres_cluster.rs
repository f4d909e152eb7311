//! What takes a server of its own: settings that need a restart or would harm other tests.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use cdc_wal::postgres::{PostgresConfig, SqlSession};

use super::postgres::{Db, sql};
use super::shop::{Running, delivered, refused, until};

/// A private cluster, stopped and removed with this.
pub(super) struct Cluster {
    dir: tempfile::TempDir,
    server: Option<Child>,
    port: u16,
}

/// The newest PostgreSQL that is installed.
fn programs() -> PathBuf {
    let found = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut found: Vec<(u32, PathBuf)> = found
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .collect();
    found.sort();
    let newest = found.pop();
    newest.map_or_else(PathBuf::new, |(_, path)| path)
}

/// The user the server runs as if this is root, which it refuses to be.
fn server_user() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = ["postgres:", "nobody:"]
        .iter()
        .find_map(|name| users.lines().find(|line| line.starts_with(name)))
        .expect("a user for PostgreSQL");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

impl Cluster {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some((user, group)) = server_user() {
            std::os::unix::fs::chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let cluster = Self {
            dir,
            server: None,
            port: 0,
        };
        let made = cluster
            .program("initdb")
            .arg("-D")
            .arg(cluster.dir.path().join("data"))
            .args(["-U", "postgres", "-A", "trust", "-N", "--wal-segsize=1"])
            .output()
            .expect("initdb is installed: cargo xtask setup");
        assert!(made.status.success(), "{made:?}");
        cluster
    }

    fn program(&self, name: &str) -> Command {
        let installed = programs().join(name);
        let mut command = Command::new(if installed.is_file() {
            installed
        } else {
            PathBuf::from(name)
        });
        command.current_dir(self.dir.path());
        if let Some((user, group)) = server_user() {
            command.uid(user).gid(group);
        }
        command
    }

    /// Starts it, after stopping it if it runs; returns when it answers.
    pub(super) fn restart(&mut self, settings: &[&str]) {
        self.stop();
        // Somebody else may take the port between this look and the server's.
        until("the server starts", || {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            self.port = free.local_addr().unwrap().port();
            drop(free);
            self.start(settings);
            until("the server answers or ends", || {
                if self.server.as_mut()?.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                self.answers().then_some(true)
            })
            .then_some(())
        });
    }

    /// Starts it at this port, which it had.
    pub(super) fn restart_at(&mut self, port: u16, settings: &[&str]) {
        self.port = port;
        self.start(settings);
        until("the server answers", || self.answers().then_some(()));
    }

    fn start(&mut self, settings: &[&str]) {
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.dir.path().join("data"));
        command.args(["-p", &self.port.to_string()]);
        let fixed = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
        ];
        for setting in fixed.iter().chain(settings) {
            command.args(["-c", setting]);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(command.spawn().unwrap());
    }

    fn answers(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(SqlSession::open(&self.config())).is_ok()
    }

    pub(super) fn config(&self) -> PostgresConfig {
        let url = format!(
            "postgres://postgres:unused@127.0.0.1:{}/postgres",
            self.port
        );
        PostgresConfig::parse(&url).unwrap()
    }

    pub(super) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let mut kill = Command::new("kill");
            drop(kill.args(["-QUIT", &server.id().to_string()]).status());
            drop(server.wait());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn a_server_without_logical_log_and_a_lost_slot_are_named() {
    let mut cluster = Cluster::new();
    cluster.restart(&["wal_level=replica"]);
    let mut db = Db::at(cluster.config(), "cluster");
    refused(
        &db.once(&[]),
        3,
        &[
            "wal_level is \"replica\"",
            "set wal_level = logical",
            "restart the server",
        ],
    );
    assert_eq!(db.slots(), 0);

    cluster.restart(&["wal_level=logical", "max_slot_wal_keep_size=1MB"]);
    db.moved(&cluster.config());
    db.goes_on();
    db.insert(2);
    db.goes_on();
    db.insert(1);
    until("the server removes what the slot needs", || {
        for _ in 0..4 {
            sql(
                &db.config,
                "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))",
            );
        }
        sql(&db.config, "CHECKPOINT");
        let lost = "SELECT 1 FROM pg_replication_slots WHERE wal_status = 'lost'";
        (!sql(&db.config, lost).is_empty()).then_some(())
    });
    for _ in 0..2 {
        refused(
            &db.once(&[]),
            5,
            &[
                &db.config.slot,
                "has removed the log it needs",
                "max_slot_wal_keep_size",
            ],
        );
        assert_eq!(
            db.slots(),
            1,
            "the slot is evidence, and a person's to drop"
        );
    }
    let run = db.once(&["--accept-gap"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains("gap accepted"), "{}", run.err);
    db.insert(1);
    assert_eq!(db.once(&[]).code, 0);
    assert_eq!(db.delivered(), [1, 2, 4]);
}

/// The database is switched off: what the journal holds is delivered, also to an emitter that is new
/// and begins in the past; and when the database is back, it goes on.
#[test]
fn the_journal_is_delivered_while_the_database_is_off() {
    let mut cluster = Cluster::new();
    cluster.restart(&["wal_level=logical"]);
    let port = cluster.port;
    let mut db = Db::at(cluster.config(), "off");
    // A look changes nothing.
    let look = db.tool.run(&["run", "--dry-run", "-o", "json"]);
    assert_eq!(look.code, 0, "{}{}", look.out, look.err);
    let look: serde_json::Value = serde_json::from_str(&look.out).unwrap();
    assert_eq!(look["emitters"][0]["tables"][0], "public.t", "{look}");
    assert_eq!(db.slots(), 0);
    assert!(sql(&db.config, "SELECT 1 FROM pg_publication").is_empty());
    assert!(!db.tool.path("state").exists() && !db.tool.path("out").exists());
    // Nothing captured yet, nothing to deliver: it says so at once.
    cluster.stop();
    let check = db.tool.run(&["check"]);
    assert_eq!(check.code, 4, "{}", check.out);
    assert!(
        !check.out.contains("what the journal holds"),
        "{}",
        check.out
    );
    refused(&db.once(&[]), 4, &["127.0.0.1"]);
    cluster.restart_at(port, &["wal_level=logical"]);
    db.goes_on();
    db.insert(5);
    db.goes_on();
    let check = db.tool.answer(&["check"]);
    assert!(
        check.contains("no gap: the source sends what follows"),
        "{check}"
    );
    cluster.stop();
    let check = db.tool.run(&["check"]);
    assert_eq!(check.code, 4, "{}", check.out);
    assert!(
        check
            .out
            .contains("`run` would deliver what the journal holds"),
        "{}",
        check.out
    );

    // A bounded run delivers what there is, and says what it could not ask for.
    db.add_emitter("audit");
    let run = db.once(&["--from", "earliest"]);
    refused(
        &run,
        4,
        &["reach the source", "what the journal holds", "is delivered"],
    );
    let audit = db.tool.path("audit");
    assert_eq!(delivered(&audit), [1, 2, 3, 4, 5]);
    assert_eq!(db.delivered(), [1, 2, 3, 4, 5]);

    // So does `replay`, which never asks the database.
    let again = db.tool.run(&[
        "-q",
        "replay",
        "--emitter",
        "file",
        "--from",
        "earliest",
        "--path",
        "again",
    ]);
    assert_eq!(again.code, 0, "{}", again.err);
    assert_eq!(delivered(&db.tool.path("again")), [1, 2, 3, 4, 5]);

    // Another one, while a pipeline stays: from a position, and the state is there to see.
    let third = std::fs::read_to_string(audit.join(first_file(&audit))).unwrap();
    let third: serde_json::Value = serde_json::from_str(third.lines().nth(2).unwrap()).unwrap();
    let from = format!("position:{}", third["position"].as_str().unwrap());
    db.add_emitter("late");
    let mut run = Running::start(db.tool.command(&["run", "--from", &from]));
    let reason = run.until_status("it is connecting", |status| {
        let late = status["lanes"]
            .as_array()?
            .iter()
            .any(|lane| lane["name"] == "late");
        (late && status["source_state"] == "connecting" && status["source_attempts"].as_u64()? > 1)
            .then(|| {
                status["source_reason"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
    });
    assert!(reason.contains("127.0.0.1"), "{reason}");
    // A position inside of a transaction: what follows in it.
    let late = db.tool.path("late");
    until("the new emitter has the rest", || {
        (delivered(&late) == [4, 5]).then_some(())
    });
    let text = db.tool.answer(&["status"]);
    assert!(text.contains("source connecting for"), "{text}");

    // Back: capture goes on where it was, for everybody.
    cluster.restart_at(port, &["wal_level=logical"]);
    run.until_status("it is connected", |status| {
        (status["source_state"] == "connected").then_some(())
    });
    db.insert(2);
    until("everybody goes on", || {
        (delivered(&late) == [4, 5, 6, 7] && db.delivered() == [1, 2, 3, 4, 5, 6, 7]).then_some(())
    });
    // Away while it runs: seen as well.
    cluster.stop();
    run.until_status("it is connecting again", |status| {
        (status["source_state"] == "connecting").then_some(())
    });
    run.ask_to_stop();
    let end = run.end();
    assert_eq!(end.code, 0, "{}", end.err);
}

/// The name of the only file of a file emitter.
fn first_file(dir: &std::path::Path) -> String {
    let names = std::fs::read_dir(dir).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.find(|name| name.contains(".ndjson")).unwrap()
}
