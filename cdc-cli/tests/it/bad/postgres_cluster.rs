//! What takes a server of its own: settings that need a restart or would harm other tests.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use cdc_wal::postgres::{PostgresConfig, SqlSession};

use super::postgres::{Db, sql};
use super::shop::{refused, until};

/// A private cluster, stopped and removed with this.
struct Cluster {
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
    fn new() -> Self {
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
    fn restart(&mut self, settings: &[&str]) {
        self.stop();
        // Somebody else may take the port between this look and the server's.
        until("the server starts", || {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            self.port = free.local_addr().unwrap().port();
            drop(free);
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
            until("the server answers or ends", || {
                if self.server.as_mut()?.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                self.answers().then_some(true)
            })
            .then_some(())
        });
    }

    fn answers(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(SqlSession::open(&self.config())).is_ok()
    }

    fn config(&self) -> PostgresConfig {
        let url = format!(
            "postgres://postgres:unused@127.0.0.1:{}/postgres",
            self.port
        );
        PostgresConfig::parse(&url).unwrap()
    }

    fn stop(&mut self) {
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
