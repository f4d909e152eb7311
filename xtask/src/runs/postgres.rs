//! The runs over PostgreSQL: what is delivered, applied to an empty copy, gives the tables.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Plan;
use super::capture::{Capture, file_emitter};
use super::compare::{Compared, compare};
use super::event::{Event, each_event};
use super::mirror::Mirror;
use super::random::Random;
use super::receiver::Receiver;
use super::repeats::Repeats;
use super::workload::{self, KEYLESS, Writers};
use crate::error::Context;
use crate::guard::TempDir;
use crate::postgres::Postgres;
use crate::{Error, Result, command, ensure};

/// The schemas whose tables must be equal in the end.
const SCHEMAS: [&str; 2] = ["public", "torture"];

/// A database, a folder for the run, and a capture that has registered at the database.
pub(super) struct Stage {
    // Dropped in this order: processes that write into the folder first.
    pub(super) postgres: Postgres,
    pub(super) dir: TempDir,
}

impl Stage {
    pub(super) fn new(plan: &Plan, name: &str) -> Result<Self> {
        let postgres = Postgres::start()?;
        let mut dir = TempDir::new(name)?;
        if plan.keep {
            dir.keep();
            println!("{name}: keeping {}", dir.path().display());
        }
        println!("{name}: seed {}", plan.seed);
        Ok(Self { postgres, dir })
    }

    /// Reads the files, checks them event by event, and compares with the tables.
    pub(super) fn judge_files(&self) -> Result<String> {
        let mut mirror = Mirror::new(&KEYLESS);
        let count = each_event(&self.dir.join("events"), false, |event| mirror.apply(event))?;
        self.judge(&mirror, count)
    }

    pub(super) fn judge(&self, mirror: &Mirror, count: u64) -> Result<String> {
        mirror.end()?;
        for op in ["insert", "update", "delete", "truncate"] {
            ensure!(
                mirror.ops().contains_key(op),
                "no {op} was delivered: the run proves little"
            );
        }
        let Compared { tables, rows } = compare(&self.postgres, mirror, &SCHEMAS, &self.dir)?;
        Ok(format!(
            "{count} events of {} transactions give {rows} rows of {tables} tables",
            mirror.transactions()
        ))
    }
}

/// The main job, undisturbed.
///
/// # Errors
/// What did not hold.
pub(super) fn mirror(plan: &Plan) -> Result<String> {
    let stage = Stage::new(plan, "pg-mirror")?;
    let config = file_emitter(&stage.dir.join("events"));
    let capture = Capture::new(plan, &stage.postgres, &stage.dir, &config)?;
    // Registers at the database, so that capture begins before the first table.
    capture.catch_up()?;
    let running = capture.start()?;
    workload::create(&stage.postgres)?;
    Writers::start(&stage.postgres, &stage.dir, plan.seed, 0, plan.transactions)?.finish()?;
    capture.shut_down(running)?;
    capture.catch_up()?;
    let counters = capture.counters()?;
    Ok(format!("{}; {counters}", stage.judge_files()?))
}

/// Events of one transaction of the workload, about.
const EVENTS_OF_TRANSACTION: u64 = 6;
/// A kill that waits for deliveries waits no longer than this.
const DELIVERY_LIMIT: Duration = Duration::from_secs(20);

/// The events a receiver took, with repeats told apart and the copy they give.
pub(super) struct Taken {
    pub(super) repeats: Repeats,
    pub(super) mirror: Mirror,
}

impl Taken {
    pub(super) fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            repeats: Repeats::default(),
            mirror: Mirror::new(&KEYLESS),
        }))
    }

    pub(super) fn deliveries(&self) -> u64 {
        self.repeats.repeated + u64::try_from(self.repeats.unique()).unwrap_or(u64::MAX)
    }

    pub(super) fn take(&mut self, event: Event) -> Result<()> {
        if self.repeats.take(&event)? {
            self.mirror.apply(event)?;
        }
        Ok(())
    }
}

/// `cdc-cli` killed at random moments. Its file has every event once; its webhook may repeat a
/// suffix.
///
/// # Errors
/// What did not hold.
pub(super) fn kill(plan: &Plan) -> Result<String> {
    let stage = Stage::new(plan, "pg-kill")?;
    let taken = Taken::new();
    let receiver = {
        let taken = Arc::clone(&taken);
        Receiver::start(Box::new(move |events| {
            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                taken.take(event).context(|| "the webhook")?;
            }
            Ok(200)
        }))?
    };
    let config = format!(
        "\n[[cdc.emitters]]\nname = \"files\"\nemitter = \"file\"\n[cdc.emitters.file]\npath = {:?}\n\
         \n[[cdc.emitters]]\nname = \"hook\"\nemitter = \"webhook\"\n[cdc.emitters.webhook]\n\
         url = {:?}\nallow_private = true\nbatch_size = 200\n",
        stage.dir.join("events"),
        receiver.url(),
    );
    let capture = Capture::new(plan, &stage.postgres, &stage.dir, &config)?;
    capture.catch_up()?;
    let mut running = capture.start()?;
    workload::create(&stage.postgres)?;
    let mut random = Random::new(plan.seed, 99);
    let mut round = 0;
    let mut writers = Writers::start(
        &stage.postgres,
        &stage.dir,
        plan.seed,
        round,
        plan.transactions,
    )?;
    let share = plan.transactions * EVENTS_OF_TRANSACTION / u64::from(plan.kills.max(1));
    for kill in 0..plan.kills {
        // In turn: at some moment of its start or of its idling, and in the middle of deliveries.
        let moment = Duration::from_millis(20 + random.below(1500));
        let delivered = || {
            taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .deliveries()
        };
        // All over the run: every second kill waits for up to a share of it.
        let target = delivered() + 1 + random.below(share.max(2000));
        let start = Instant::now();
        let due = |elapsed: Duration| match kill % 2 {
            0 => delivered() >= target || elapsed > DELIVERY_LIMIT,
            _ => elapsed >= moment,
        };
        while !due(start.elapsed()) {
            command::pause();
            let early = running.ended()?;
            ensure!(early.is_none(), "cdc-cli ended by itself{}", running.said());
        }
        running.kill()?;
        receiver.check()?;
        running = capture.start()?;
        if writers.ended()? {
            writers.finish()?;
            round += 1;
            writers = Writers::start(
                &stage.postgres,
                &stage.dir,
                plan.seed,
                round,
                plan.transactions / 4,
            )?;
        }
    }
    writers.finish()?;
    capture.shut_down(running)?;
    capture.catch_up()?;
    receiver.check()?;
    let counters = capture.counters()?;
    let files = stage.judge_files().context(|| "the files")?;
    let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
    let mut at = 0_usize;
    each_event(&stage.dir.join("events"), false, |event| {
        let other = taken.repeats.events().get(at);
        at += 1;
        ensure!(
            other == Some(&(event.position, event.id)),
            "the webhook and the file disagree about event {at}"
        );
        Ok(())
    })?;
    ensure!(
        taken.repeats.unique() == at,
        "the webhook got {} events, the file {at}",
        taken.repeats.unique()
    );
    stage.judge(
        &taken.mirror,
        taken.repeats.repeated + u64::try_from(at).unwrap_or(0),
    )?;
    ensure!(
        taken.repeats.rewinds <= u64::from(plan.kills),
        "{} repeats after {} kills",
        taken.repeats.rewinds,
        plan.kills
    );
    Ok(format!(
        "{} kills: {files}; the file repeats none, the webhook {} in {} re-runs with the same ids; {counters}",
        plan.kills, taken.repeats.repeated, taken.repeats.rewinds
    ))
}

/// The database killed and started again while it is captured.
///
/// # Errors
/// What did not hold.
pub(super) fn crash(plan: &Plan) -> Result<String> {
    let mut stage = Stage::new(plan, "pg-crash")?;
    let config = file_emitter(&stage.dir.join("events")) + RETRY;
    let capture = Capture::new(plan, &stage.postgres, &stage.dir, &config)?;
    capture.catch_up()?;
    let mut running = capture.start()?;
    workload::create(&stage.postgres)?;
    let mut random = Random::new(plan.seed, 98);
    let part = plan.transactions / u64::from(plan.crashes + 1);
    for round in 0..plan.crashes {
        let mut writers =
            Writers::start(&stage.postgres, &stage.dir, plan.seed, round.into(), part)?;
        let moment = Duration::from_millis(200 + random.below(1500));
        let start = Instant::now();
        while start.elapsed() < moment && !writers.ended()? {
            command::pause();
        }
        stage.postgres.stop("immediate")?;
        // The writers lose their connections and end.
        drop(writers);
        stage.postgres.resume()?;
        let early = running.ended()?;
        ensure!(
            early.is_none(),
            "cdc-cli did not survive the crash{}",
            running.said()
        );
    }
    // The crashes cut their writers short: the whole work is done behind them.
    Writers::start(
        &stage.postgres,
        &stage.dir,
        plan.seed,
        plan.crashes.into(),
        plan.transactions,
    )?
    .finish()?;
    capture.shut_down(running)?;
    capture.catch_up()?;
    let counters = capture.counters()?;
    Ok(format!(
        "{} crashes: {}; {counters}",
        plan.crashes,
        stage.judge_files()?
    ))
}

/// Short waits between attempts, so that a run does not sit out the default ones.
const RETRY: &str = "\n[cdc.retry]\nbase = \"20ms\"\nmax = \"200ms\"\nprobe = \"200ms\"\n";

/// The folder of state lost: capture starts over from the slot.
///
/// # Errors
/// What did not hold.
pub(super) fn state(plan: &Plan) -> Result<String> {
    let stage = Stage::new(plan, "pg-state")?;
    let first = stage.dir.join("events-1");
    let second = stage.dir.join("events-2");
    let capture = Capture::new(plan, &stage.postgres, &stage.dir, &file_emitter(&first))?;
    capture.catch_up()?;
    let mut running = capture.start()?;
    workload::create(&stage.postgres)?;
    let writers = Writers::start(
        &stage.postgres,
        &stage.dir,
        plan.seed,
        0,
        plan.transactions / 2,
    )?;
    let mut random = Random::new(plan.seed, 97);
    let start = Instant::now();
    let moment = Duration::from_millis(300 + random.below(1500));
    while start.elapsed() < moment {
        command::pause();
        let early = running.ended()?;
        ensure!(early.is_none(), "cdc-cli ended by itself{}", running.said());
    }
    // The worst moment: nothing was drained.
    running.kill()?;
    std::fs::remove_dir_all(capture.state()).context(|| "remove the state")?;
    capture.configure(&file_emitter(&second))?;
    let running = capture.start()?;
    writers.finish()?;
    Writers::start(
        &stage.postgres,
        &stage.dir,
        plan.seed,
        1,
        plan.transactions / 2,
    )?
    .finish()?;
    capture.shut_down(running)?;
    capture.catch_up()?;
    let mut repeats = Repeats::default();
    let mut mirror = Mirror::new(&KEYLESS);
    let mut count = 0;
    for (folder, torn) in [(&first, true), (&second, false)] {
        count += each_event(folder, torn, |event| {
            if repeats.take(&event)? {
                mirror.apply(event)?;
            }
            Ok(())
        })
        .context(|| format!("{}", folder.display()))?;
    }
    ensure!(
        repeats.rewinds <= 1,
        "{} repeats after one loss",
        repeats.rewinds
    );
    let judged = stage.judge(&mirror, count)?;
    Ok(format!(
        "state lost: {judged}; {} repeated with the same ids",
        repeats.repeated
    ))
}

/// A receiver that is away, then refuses one event for good, then is mended.
///
/// # Errors
/// What did not hold.
pub(super) fn webhook_poison(plan: &Plan) -> Result<String> {
    const ROWS: u64 = 300;
    const AWAY: u64 = 6;
    #[derive(Default)]
    struct State {
        refused: u64,
        mended: bool,
        poison: Option<String>,
        taken: Vec<String>,
    }
    let stage = Stage::new(plan, "webhook-poison")?;
    let poisoned = Random::new(plan.seed, 96).below(ROWS);
    let state = Arc::new(Mutex::new(State::default()));
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let receiver = {
        let state = Arc::clone(&state);
        Receiver::start(Box::new(move |events| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.refused < AWAY {
                state.refused += 1;
                return Ok(503);
            }
            let poison = events.iter().find(|event| {
                let row = event.after.as_ref();
                row.and_then(|row| row.get("v"))
                    .and_then(crate::json::Json::as_str)
                    == Some("poison")
            });
            if let Some(event) = poison
                && !state.mended
            {
                state.poison = Some(event.id.clone());
                return Ok(400);
            }
            state.taken.extend(events.into_iter().map(|event| event.id));
            Ok(200)
        }))?
    };
    let config = format!(
        "emitter = \"webhook\"\n\n[cdc.webhook]\nurl = {:?}\nallow_private = true\nbatch_size = 20\n\
         {RETRY}",
        receiver.url()
    );
    let capture = Capture::new(plan, &stage.postgres, &stage.dir, &config)?;
    capture.catch_up()?;
    stage
        .postgres
        .psql("create table t (id int primary key, v text)")?;
    stage.postgres.script(
        &(0..ROWS)
            .map(|id| {
                let v = if id == poisoned { "poison" } else { "fine" };
                format!("insert into t values ({id}, '{v}');\n")
            })
            .collect::<String>(),
    )?;
    let running = capture.start()?;
    let start = Instant::now();
    let all_but_one = usize::try_from(ROWS - 1).unwrap_or(0);
    while lock().taken.len() < all_but_one {
        receiver.check()?;
        ensure!(
            start.elapsed() < Duration::from_secs(120),
            "{} of {all_but_one} events were delivered",
            lock().taken.len()
        );
        command::pause();
    }
    capture.shut_down(running)?;
    let poison = lock()
        .poison
        .clone()
        .ok_or_else(|| Error::new("the poison never arrived"))?;
    let letters = dead_letters(&capture)?;
    ensure!(
        letters.len() == 1,
        "{} dead letters instead of one",
        letters.len()
    );
    ensure!(
        letters.iter().all(|letter| letter.text().contains(&poison)),
        "the dead letter is not the event that was refused"
    );
    lock().mended = true;
    capture.command(&["dlq", "redrive"])?;
    // A redrive may leave the delivery to the next run.
    if lock().taken.len() == all_but_one {
        capture.catch_up()?;
    }
    receiver.check()?;
    let state = lock();
    ensure!(
        state.taken.last() == Some(&poison),
        "the redrive did not deliver the dead letter with its id"
    );
    let mut ids = state.taken.clone();
    ids.sort();
    ids.dedup();
    ensure!(
        ids.len() == all_but_one + 1 && state.taken.len() == ids.len(),
        "{} deliveries of {} events instead of {ROWS} of {ROWS}",
        state.taken.len(),
        ids.len()
    );
    drop(state);
    let pending = dead_letters(&capture)?;
    ensure!(
        pending.is_empty(),
        "{} dead letters are left after the redrive",
        pending.len()
    );
    let counters = capture.counters()?;
    Ok(format!(
        "{ROWS} events behind {AWAY} refusals and one poison: one dead letter, redriven with its id; {counters}"
    ))
}

/// `dlq ls -o json`: an array, an object that holds one, or a record a line.
fn dead_letters(capture: &Capture) -> Result<Vec<crate::json::Json>> {
    use crate::json::Json;
    let text = capture.command(&["dlq", "ls", "-o", "json"])?;
    let records = match Json::parse(&text) {
        Ok(Json::Array(items)) => items,
        Ok(Json::Object(members)) => {
            let list = members
                .iter()
                .find(|(_, value)| matches!(value, Json::Array(_)));
            match list {
                Some((_, list)) => list.items().to_vec(),
                None => vec![Json::Object(members)],
            }
        }
        _ => text.lines().map(Json::parse).collect::<Result<_>>()?,
    };
    let open = |record: &Json| {
        let state = record
            .get("state")
            .and_then(Json::as_str)
            .unwrap_or("pending");
        !["delivered", "discarded"].contains(&state)
    };
    Ok(records.into_iter().filter(open).collect())
}
