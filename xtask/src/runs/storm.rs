//! `crash`: a storm of kills and faults over every emitter at once, under load, judged by what
//! stands at the destinations and in the database.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Plan;
use super::capture::Capture;
use super::event::each_event;
use super::postgres::{Stage, Taken};
use super::random::Random;
use super::receiver::{HANG_UP, Receiver};
use super::repeats::Repeats;
use super::workload::{self, Writers};
use crate::command::{self, Running};
use crate::error::Context;
use crate::options::Options;
use crate::{Error, Result, ensure};

/// Room of the state's own disk: journal and checkpoints.
const DISK_BYTES: u64 = 512 << 20;
/// Longest a life waits for deliveries before it is killed all the same.
const LIFE: Duration = Duration::from_secs(20);
/// Longest a life waits to come to the point at which it is to die.
const POINT: Duration = Duration::from_secs(5);
/// Short waits between attempts.
const SETTINGS: &str = "\n[cdc.retry]\nbase = \"20ms\"\nmax = \"200ms\"\nprobe = \"200ms\"\n";
/// A child that writes down what it takes before it says so; a file a life, named by its begin.
const CONSUMER: &str = r#"import os, sys, time
file = open(f"child/{time.time_ns():020}.ndjson", "xb", buffering=0)
for line in sys.stdin.buffer:
    if not line.startswith(b'{"id":"'):
        sys.exit("a line that does not begin with its id")
    file.write(line)
    os.write(1, line[7:line.index(b'"', 7)] + b"\n")
"#;

/// How the first webhook's receiver is.
const WELL: u8 = 0;
const REFUSES: u8 = 1;
const HANGS_UP: u8 = 2;
const TAKES_AND_HANGS_UP: u8 = 3;

/// `cargo xtask crash [--minutes M] [--kills N] [--seed N] [--transactions N] [--cli PATH] [--keep]`.
///
/// # Errors
/// What did not hold.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let valued = ["--minutes", "--kills", "--seed", "--transactions", "--cli"];
    let options = Options::parse(args, &valued, &["--keep"])?;
    let cli = match options.text("--cli") {
        Some(path) => fs::canonicalize(path).context(|| format!("find the binary {path}"))?,
        None => build()?,
    };
    let mut plan = Plan::short(cli);
    plan.transactions = options.get("--transactions", plan.transactions)?;
    plan.seed = options.get("--seed", plan.seed)?;
    plan.kills = options.get("--kills", u32::MAX)?;
    plan.keep = options.flag("--keep");
    let minutes: f64 = options.get("--minutes", 10.0)?;
    let time = Duration::try_from_secs_f64(minutes * 60.0);
    let time = time.map_err(|error| Error::new(format!("--minutes: {error}")))?;
    let report = run(&plan, time)?;
    println!("crash: held: {report}");
    Ok(ExitCode::SUCCESS)
}

/// A few kills of it.
///
/// # Errors
/// What did not hold.
pub(super) fn short(plan: &Plan) -> Result<String> {
    let plan = Plan {
        cli: build()?,
        kills: 10,
        transactions: 1_000,
        ..plan.clone()
    };
    run(&plan, Duration::from_secs(60))
}

/// `cdc-cli` with the named points, aside from the ordinary build.
fn build() -> Result<PathBuf> {
    let args = [
        "build",
        "--package",
        "cdc-cli",
        "--features",
        "crash-points",
    ];
    command::check(&mut command::cargo(&args)).context(|| "build cdc-cli")?;
    let target = command::target_dir()?;
    let (built, kept) = (
        target.join("debug/cdc-cli"),
        target.join("cdc-cli-crash-points"),
    );
    fs::copy(&built, &kept).context(|| format!("copy {}", built.display()))?;
    Ok(kept)
}

/// What was done to the pipeline.
#[derive(Debug, Default)]
struct Done {
    kills: u32,
    at_points: u32,
    database: u32,
    child: u32,
    receiver: u32,
    full: u32,
    ended_full: u32,
}

/// A disk of its own, so that it can run full. Without the right to mount, a bound on the size of
/// every file stands in.
struct Disk {
    path: PathBuf,
    mounted: bool,
}

impl Disk {
    fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).context(|| format!("create {}", path.display()))?;
        let size = format!("size={DISK_BYTES}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path);
        mount.stdout(Stdio::null()).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        Ok(Self { path, mounted })
    }

    /// Takes all the room there is until the guard is dropped.
    fn fill(&self) -> Result<Filler> {
        let path = self.path.join("filler");
        let chunk = vec![7_u8; 1 << 20];
        let mut file = fs::File::create(&path).context(|| format!("create {}", path.display()))?;
        for size in [chunk.len(), 4096, 1] {
            while std::io::Write::write_all(&mut file, &chunk[..size]).is_ok() {}
        }
        Ok(Filler(path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _removed = fs::remove_file(&self.0);
    }
}

struct Storm<'a> {
    plan: &'a Plan,
    // Dropped first: the folder below it goes after.
    disk: Disk,
    stage: Stage,
    capture: Capture,
    random: Random,
    hook: Arc<Mutex<Taken>>,
    mood: Arc<AtomicU8>,
    lives: u32,
    round: u64,
    writers: Option<Writers>,
    done: Done,
}

fn run(plan: &Plan, time: Duration) -> Result<String> {
    let stage = Stage::new(plan, "crash")?;
    let (hook, mood) = (Taken::new(), Arc::new(AtomicU8::new(WELL)));
    let receiver = {
        let (hook, mood) = (Arc::clone(&hook), Arc::clone(&mood));
        Receiver::start(Box::new(move |events| {
            let now = mood.load(Ordering::SeqCst);
            if now == REFUSES || now == HANGS_UP {
                return Ok(if now == REFUSES { 503 } else { HANG_UP });
            }
            let mut hook = hook.lock().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                hook.take(event).context(|| "the webhook")?;
            }
            Ok(if now == WELL { 200 } else { HANG_UP })
        }))?
    };
    let spread_ids: Arc<Mutex<HashSet<String>>> = Arc::default();
    let spread = {
        let ids = Arc::clone(&spread_ids);
        Receiver::start(Box::new(move |events| {
            let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
            ids.extend(events.into_iter().map(|event| event.id));
            Ok(200)
        }))?
    };
    let disk = Disk::new(stage.dir.join("disk"))?;
    let folder = |name: &str| {
        let path = stage.dir.join(name);
        fs::create_dir_all(&path).context(|| format!("create {}", path.display()))
    };
    for name in ["queue", "child"] {
        folder(name)?;
    }
    let script = stage.dir.join("consumer.py");
    fs::write(&script, CONSUMER).context(|| format!("write {}", script.display()))?;
    // The state lives on the disk that runs full.
    fs::create_dir_all(disk.path.join("state")).context(|| "create the state's folder")?;
    std::os::unix::fs::symlink(disk.path.join("state"), stage.dir.join("state"))
        .context(|| "link the state")?;
    let config = config(&stage.dir.join("events"), &receiver.url(), &spread.url());
    let capture = Capture::new(plan, &stage.postgres, &stage.dir, &config)?;
    let mut storm = Storm {
        random: Random::new(plan.seed, 95),
        plan,
        disk,
        stage,
        capture,
        hook,
        mood,
        lives: 0,
        round: 0,
        writers: None,
        done: Done::default(),
    };
    let report = storm.whole(time, [&receiver, &spread], &spread_ids);
    if report.is_err() {
        storm.keep();
    }
    report
}

/// Every emitter at once.
fn config(files: &Path, hook: &str, spread: &str) -> String {
    let emitter = |name: &str, kind: &str, settings: String| {
        format!(
            "\n[[cdc.emitters]]\nname = \"{name}\"\nemitter = \"{kind}\"\n[cdc.emitters.{kind}]\n{settings}"
        )
    };
    let webhook = |url: &str, concurrency: u32| {
        format!(
            "url = {url:?}\nallow_private = true\nbatch_size = 50\nconcurrency = {concurrency}\n"
        )
    };
    [
        // What a consumer lags must not fill the state's disk for good.
        "checkpoint_interval = \"50ms\"\nwindow_events = 5000\nretain_bytes = \"32MiB\"\nretain_bytes_max = \"256MiB\"\n".to_owned(),
        SETTINGS.to_owned(),
        emitter("files", "file", format!("path = {files:?}\n")),
        emitter("hook", "webhook", webhook(hook, 1)),
        emitter("spread", "webhook", webhook(spread, 4)),
        emitter(
            "child",
            "custom",
            "command = [\"python3\", \"consumer.py\"]\n".to_owned(),
        ),
        "\n[[cdc.emitters]]\nname = \"queue\"\nemitter = \"queue\"\n".to_owned(),
    ]
    .concat()
}

impl Storm<'_> {
    fn whole(
        &mut self,
        time: Duration,
        receivers: [&Receiver; 2],
        spread: &Mutex<HashSet<String>>,
    ) -> Result<String> {
        self.catch_up()?;
        workload::create(&self.stage.postgres)?;
        let begin = Instant::now();
        while begin.elapsed() < time && self.kills() < self.plan.kills {
            self.one()?;
            receivers.iter().try_for_each(|receiver| receiver.check())?;
            if self.lives.is_multiple_of(25) {
                println!("crash: {} s: {:?}", begin.elapsed().as_secs(), self.done);
            }
        }
        let writers = self.writers.take();
        writers.map_or(Ok(()), Writers::finish)?;
        println!("crash: {} s: catching up", begin.elapsed().as_secs());
        // A last whole round, so that every kind of change is there.
        let (postgres, dir) = (&self.stage.postgres, &self.stage.dir);
        let (seed, transactions) = (self.plan.seed, self.plan.transactions);
        Writers::start(postgres, dir, seed, self.round + 1, transactions)?.finish()?;
        self.catch_up()?;
        receivers.iter().try_for_each(|receiver| receiver.check())?;
        let counters = self.capture.counters()?;
        let spread = spread.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(format!("{}; {counters}", self.judge(&spread)?))
    }

    /// What failed must be seen: the folder stays, and the state's disk in it.
    fn keep(&mut self) {
        self.stage.dir.keep();
        println!("crash: keeping {}", self.stage.dir.path().display());
        if self.disk.mounted {
            let disk = self.disk.path.display();
            println!("crash: the state's disk stays, too; to let it go: umount {disk}");
            self.disk.mounted = false;
        }
    }

    fn kills(&self) -> u32 {
        let done = &self.done;
        done.kills + done.at_points + done.database + done.child
    }

    fn deliveries(&self) -> u64 {
        self.hook
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .deliveries()
    }

    /// Starts a life; what it writes to standard output is the queue's destination.
    fn start(&mut self, point: Option<&str>, once: bool) -> Result<Running> {
        self.lives += 1;
        let name = format!("queue/{:08}.ndjson", self.lives);
        let path = self.stage.dir.join(&name);
        let out = fs::File::create(&path).context(|| format!("create {}", path.display()))?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.capture.log())
            .context(|| "open the log of cdc-cli")?;
        let mut command = self.capture.run_command();
        if once {
            command.arg("--once");
        }
        if let Some(point) = point {
            command.env("WEFTKIT_CRASH_AT", point);
        }
        command.stdout(out).stderr(log);
        Running::start(&mut command, "cdc-cli run", None)
    }

    /// Everything there is, undisturbed.
    fn catch_up(&mut self) -> Result<()> {
        self.mood.store(WELL, Ordering::SeqCst);
        let mut running = self.start(None, true)?;
        let status = running.wait(Duration::from_secs(1800))?;
        ensure!(
            status.success(),
            "cdc-cli run --once: {status}; see {}",
            self.capture.log().display()
        );
        Ok(())
    }

    /// Load that never ends: the next round begins when one is over.
    fn load(&mut self) -> Result<()> {
        if let Some(writers) = &mut self.writers {
            if !writers.ended()? {
                return Ok(());
            }
            self.writers = None;
        }
        self.round += 1;
        self.writers = Some(Writers::start(
            &self.stage.postgres,
            &self.stage.dir,
            self.plan.seed,
            self.round,
            self.plan.transactions,
        )?);
        Ok(())
    }

    /// One life of the process, with what happens in it.
    fn one(&mut self) -> Result<()> {
        self.load()?;
        self.mood.store(WELL, Ordering::SeqCst);
        let point = if self.random.below(4) == 0 {
            let points = ["read", "sent", "acknowledged", "checkpoint", "confirmed"];
            let point = points[usize::try_from(self.random.below(5)).unwrap_or(0)];
            Some(format!("{point}:{}", 1 + self.random.below(60)))
        } else {
            None
        };
        let mut running = self.start(point.as_deref(), false)?;
        let trouble = self.random.below(10);
        if trouble == 0 {
            self.kill_database(&mut running, point.is_some())?;
        }
        let filler = if trouble == 1 && self.disk.mounted {
            self.wait(&mut running, false)?;
            self.done.full += 1;
            Some(self.disk.fill()?)
        } else {
            None
        };
        if trouble == 2 {
            self.wait(&mut running, false)?;
            self.kill_child(&running)?;
        }
        if (3..6).contains(&trouble) {
            self.done.receiver += 1;
            let mood =
                [REFUSES, HANGS_UP, TAKES_AND_HANGS_UP][usize::try_from(trouble - 3).unwrap_or(0)];
            self.mood.store(mood, Ordering::SeqCst);
        }
        let delivers = self.mood.load(Ordering::SeqCst) == WELL && filler.is_none();
        self.wait(&mut running, delivers)?;
        let start = Instant::now();
        while point.is_some() && running.ended()?.is_none() && start.elapsed() < POINT {
            command::pause();
        }
        match running.ended()? {
            None => {
                running.kill()?;
                self.done.kills += 1;
            }
            Some(_) if point.is_some() => self.done.at_points += 1,
            Some(_) if filler.is_some() => self.done.ended_full += 1,
            Some(status) => {
                return Err(Error::new(format!(
                    "cdc-cli ended by itself: {status}; see {}",
                    self.capture.log().display()
                )));
            }
        }
        drop(filler);
        Ok(())
    }

    /// Some of the process's life, or until it has ended.
    fn wait(&mut self, running: &mut Running, delivers: bool) -> Result<()> {
        let moment = Duration::from_millis(20 + self.random.below(1500));
        let target = self.deliveries() + 1 + self.random.below(1500);
        let by_deliveries = delivers && self.random.below(2) == 0;
        let start = Instant::now();
        loop {
            let elapsed = start.elapsed();
            let due = if by_deliveries {
                self.deliveries() >= target || elapsed > LIFE
            } else {
                elapsed >= moment
            };
            if due || running.ended()?.is_some() {
                return Ok(());
            }
            command::pause();
        }
    }

    fn kill_database(&mut self, running: &mut Running, may_end: bool) -> Result<()> {
        self.wait(running, false)?;
        self.stage.postgres.stop("immediate")?;
        self.done.database += 1;
        // The writers lose their connections and end.
        self.writers = None;
        self.stage.postgres.resume()?;
        let early = running.ended()?;
        ensure!(
            early.is_none() || may_end,
            "cdc-cli did not survive a crash of the database; see {}",
            self.capture.log().display()
        );
        self.load()
    }

    fn kill_child(&mut self, running: &Running) -> Result<()> {
        let pid = running.pid().to_string();
        let processes = fs::read_dir("/proc").context(|| "list the processes")?;
        let children = processes.flatten().filter_map(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            // The parent stands second behind the name, which may hold anything.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            if parent != pid {
                return None;
            }
            process.file_name().to_str()?.parse::<u32>().ok()
        });
        for child in children {
            // It may have ended meanwhile.
            if command::signal("KILL", child).is_ok() {
                self.done.child += 1;
            }
        }
        Ok(())
    }

    fn judge(&self, spread: &HashSet<String>) -> Result<String> {
        let files = self.stage.judge_files().context(|| "the files")?;
        let mut all = Vec::new();
        each_event(&self.stage.dir.join("events"), false, |event| {
            all.push((event.position, event.id));
            Ok(())
        })?;
        let same = |name: &str, repeats: &Repeats| {
            let differs = repeats.events().iter().zip(&all).position(|(a, b)| a != b);
            ensure!(
                repeats.events().len() == all.len() && differs.is_none(),
                "{name} got {} events, the files {}; they differ first at {differs:?}",
                repeats.events().len(),
                all.len()
            );
            Ok(repeats.repeated)
        };
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
        let mut repeated = vec![("hook", same("the webhook", &hook.repeats)?)];
        self.stage
            .judge(&hook.mirror, hook.deliveries())
            .context(|| "the webhook")?;
        for name in ["queue", "child"] {
            let mut repeats = Repeats::default();
            each_event(&self.stage.dir.join(name), true, |event| {
                repeats.take(&event).map(drop)
            })
            .context(|| name)?;
            repeated.push((name, same(name, &repeats)?));
        }
        let missing = all.iter().filter(|(_, id)| !spread.contains(id)).count();
        ensure!(missing == 0, "the spread webhook lacks {missing} events");
        let full = if self.disk.mounted {
            format!(
                "{} times a full disk ({} ended by it)",
                self.done.full, self.done.ended_full
            )
        } else {
            "no right to mount a disk that runs full".to_owned()
        };
        Ok(format!(
            "{} kills ({} of cdc-cli at any moment, {} at named points, {} of the database, {} of the child), {} times an unwell receiver, {full}; {files}; all five destinations have the same events; repeats: {repeated:?}",
            self.kills(),
            self.done.kills,
            self.done.at_points,
            self.done.database,
            self.done.child,
            self.done.receiver,
        ))
    }
}
