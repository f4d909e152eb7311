//! A private PostgreSQL: own data folder, own port, always stopped.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::command::{self, pause, shown};
use crate::error::Context;
use crate::guard::{self, TempDir};
use crate::{Error, Result, ensure};

/// The variable that tells tests where the database is.
pub const URL_VARIABLE: &str = "CDC_TEST_POSTGRES";

/// Of a server that only this machine reaches and that lives for minutes. There is one so that
/// what connects goes through SCRAM, as it does in production.
const PASSWORD: &str = "private";

/// The oldest version the reader supports.
const VERSION_MIN: u32 = 14;

/// How long a start or a stop may take: a crash recovery on a slow disk included.
const LIMIT: Duration = Duration::from_secs(120);

/// The folders Debian and others keep PostgreSQL's programs in, newest version first.
pub fn folders() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for base in [
        "/usr/lib/postgresql",
        "/usr/local/pgsql",
        "/opt/homebrew/opt",
    ] {
        for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name
                .trim_start_matches("postgresql@")
                .parse::<u32>()
                .unwrap_or(0);
            let bin = entry.path().join("bin");
            if version >= VERSION_MIN && bin.join("postgres").is_file() {
                found.push((version, bin));
            }
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// One of PostgreSQL's programs.
///
/// # Errors
/// It is not installed.
pub fn program(name: &str) -> Result<PathBuf> {
    command::find(name, &folders()).ok_or_else(|| {
        Error::new(format!(
            "find PostgreSQL's `{name}`: not installed; run `cargo xtask setup`"
        ))
    })
}

/// The user PostgreSQL runs as: itself refuses to be root.
#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

/// `None` if this process need not change user.
fn user() -> Result<Option<User>> {
    use std::os::unix::fs::MetadataExt;
    let own = std::fs::metadata("/proc/self")
        .context(|| "look up the own user")?
        .uid();
    if own != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").context(|| "read /etc/passwd")?;
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| find_user(&users, name))
        .map(Some)
        .ok_or_else(|| Error::new("find a user for PostgreSQL: neither postgres nor nobody exists"))
}

fn find_user(users: &str, name: &str) -> Option<User> {
    let mut fields = users
        .lines()
        .find(|line| line.split(':').next() == Some(name))?
        .split(':');
    let uid = fields.nth(2)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User { uid, gid })
}

/// A running private PostgreSQL with `wal_level = logical`.
#[derive(Debug)]
pub struct Postgres {
    // Dropped in this order: the process first, then its folder.
    process: Option<Child>,
    port: u16,
    user: Option<User>,
    dir: TempDir,
}

impl Postgres {
    /// Makes a cluster in a new temporary folder and starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start; the message holds the end of its log.
    pub fn start() -> Result<Self> {
        let user = user()?;
        let dir = TempDir::new("pg")?;
        if let Some(user) = user {
            std::os::unix::fs::chown(dir.path(), Some(user.uid), Some(user.gid))
                .context(|| format!("give {} to user {}", dir.path().display(), user.uid))?;
        }
        let mut postgres = Self {
            process: None,
            port: 0,
            user,
            dir,
        };
        let mut initdb = postgres.as_user(&program("initdb")?);
        initdb.arg("-D").arg(postgres.data());
        let password_file = postgres.dir.join("password");
        std::fs::write(&password_file, PASSWORD).context(|| "write the password's file")?;
        initdb.args([
            "-U",
            "postgres",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
        ]);
        initdb.arg("--pwfile").arg(&password_file);
        initdb.args(["-E", "UTF8", "--locale=C.UTF-8", "-N"]);
        command::output(&mut initdb)?;
        // Between our look for a free port and PostgreSQL's bind another process may take it.
        let mut outcome = Ok(());
        for _ in 0..5 {
            postgres.port = free_port()?;
            outcome = postgres.resume();
            if outcome.is_ok() {
                return Ok(postgres);
            }
        }
        outcome.map(|()| postgres)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The address of another database in it.
    pub fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// Its address by its Unix socket.
    pub fn socket_url(&self) -> String {
        format!(
            "postgres://postgres@/postgres?host={}&port={}",
            self.socket_folder().display(),
            self.port
        )
    }

    /// The folder its Unix socket is in.
    pub fn socket_folder(&self) -> &Path {
        self.dir.path()
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn as_user(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir.path())
            .env_remove("PGDATA")
            .env_remove("PGPORT");
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Starts it on its port, after a stop or a crash. Returns when it answers queries.
    ///
    /// # Errors
    /// It is running already, or does not come up.
    pub fn resume(&mut self) -> Result<()> {
        ensure!(
            self.process.is_none(),
            "start PostgreSQL: it is running already"
        );
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .context(|| "open PostgreSQL's log")?;
        let again = log.try_clone().context(|| "open PostgreSQL's log")?;
        let mut command = self.as_user(&program("postgres")?);
        command.arg("-D").arg(self.data());
        command.args(["-p", &self.port.to_string()]);
        let sockets = format!("unix_socket_directories={}", self.dir.path().display());
        for setting in [
            "listen_addresses=127.0.0.1",
            &sockets,
            "wal_level=logical",
            "max_replication_slots=50",
            "max_wal_senders=50",
            "max_connections=100",
            "max_wal_size=4GB",
            "log_checkpoints=off",
        ] {
            command.args(["-c", setting]);
        }
        // Its own process group: a ctrl-c at the terminal is ours to handle.
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .process_group(0)
            .spawn()
            .context(|| format!("start `{}`", shown(&command)))?;
        guard::quit_at_exit(child.id());
        self.process = Some(child);
        let start = Instant::now();
        while self.psql("select 1").is_err() {
            let gone = match self.process.as_mut() {
                Some(child) => child
                    .try_wait()
                    .context(|| "wait for PostgreSQL")?
                    .is_some(),
                None => true,
            };
            if gone || start.elapsed() > LIMIT {
                let _stopped = self.stop("immediate");
                return Err(Error::new(format!("start PostgreSQL: {}", self.log_end())));
            }
            pause();
        }
        Ok(())
    }

    /// Stops it: `fast` as an administrator would, `immediate` like a crash. Returns when the
    /// process has ended.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&mut self, mode: &str) -> Result<()> {
        let Some(mut child) = self.process.take() else {
            return Ok(());
        };
        let signal = if mode == "immediate" { "QUIT" } else { "INT" };
        let pid = child.id();
        if child
            .try_wait()
            .context(|| "wait for PostgreSQL")?
            .is_none()
        {
            command::signal(signal, pid)?;
        }
        let start = Instant::now();
        while child
            .try_wait()
            .context(|| "wait for PostgreSQL")?
            .is_none()
        {
            if start.elapsed() > LIMIT {
                child.kill().context(|| "kill PostgreSQL")?;
                child.wait().context(|| "wait for PostgreSQL")?;
                guard::forget(pid);
                return Err(Error::new(format!("stop PostgreSQL: {}", self.log_end())));
            }
            pause();
        }
        guard::forget(pid);
        Ok(())
    }

    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(12)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// `psql` on one of its databases, stopping at the first error, without decoration.
    ///
    /// # Errors
    /// `psql` is not installed.
    pub fn psql_command(&self, database: &str) -> Result<Command> {
        let mut command = Command::new(program("psql")?);
        command.env("PGPASSWORD", PASSWORD);
        command.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
        ]);
        command.args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-d",
            database,
        ]);
        Ok(command)
    }

    /// Runs SQL as the superuser and returns what it printed, a row a line, `|` between columns.
    ///
    /// # Errors
    /// The database is away or refuses the statement.
    pub fn psql(&self, sql: &str) -> Result<String> {
        let mut command = self.psql_command("postgres")?;
        command.args(["-c", sql]);
        Ok(command::output(&mut command)?
            .trim_end_matches('\n')
            .to_owned())
    }

    /// Runs a script, which may be of any length and hold `\`-commands.
    ///
    /// # Errors
    /// As [`Postgres::psql`].
    pub fn script(&self, sql: &str) -> Result<String> {
        let file = self.dir.join("script.sql");
        std::fs::write(&file, sql).context(|| "write an SQL script")?;
        let mut command = self.psql_command("postgres")?;
        command.arg("-f").arg(&file);
        command::output(&mut command)
    }

    /// One of PostgreSQL's clients (`pgbench`, `pg_recvlogical`, ...), told where to connect.
    ///
    /// # Errors
    /// It is not installed.
    pub fn client(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(program(name)?);
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string());
        command
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", "postgres");
        command.current_dir(self.dir.path());
        Ok(command)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = self.stop("immediate") {
            eprintln!("xtask: {error}");
        }
    }
}

/// A TCP port of 127.0.0.1 nobody listens on at this moment.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context(|| "find a free port")?;
    Ok(listener.local_addr().context(|| "find a free port")?.port())
}

/// `cargo xtask pg [-- CMD…]`.
///
/// # Errors
/// PostgreSQL or the command cannot be started.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let words = match args.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => args,
    };
    let mut postgres = Postgres::start()?;
    let Some((program, rest)) = words.split_first() else {
        println!("{}", postgres.url());
        std::io::stdout().flush().context(|| "print the address")?;
        eprintln!("xtask: PostgreSQL runs until ctrl-c or the end of standard input");
        let mut ignored = Vec::new();
        std::io::stdin()
            .read_to_end(&mut ignored)
            .context(|| "read standard input")?;
        postgres.stop("fast")?;
        return Ok(ExitCode::SUCCESS);
    };
    let status = command::status(
        Command::new(program)
            .args(rest)
            .env(URL_VARIABLE, postgres.url()),
    )?;
    postgres.stop("fast")?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:105:113:PG:/var:/bin/sh\n";
        let user = find_user(users, "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (105, 113));
        assert!(find_user(users, "post").is_none());
    }
}
