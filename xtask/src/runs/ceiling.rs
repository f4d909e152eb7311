//! `memory-ceiling`: one transaction larger than the memory there is, to a destination that is dead
//! at first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Plan;
use super::capture::Capture;
use super::event::{Event, each_event};
use super::limit::{Ceiling, status_kib};
use super::postgres::Stage;
use super::receiver::{HANG_UP, Receiver};
use crate::command::{self, Running};
use crate::error::Context;
use crate::json::Json;
use crate::{Error, Result, ensure};

/// The ceiling.
const MEMORY_BYTES: u64 = 256 << 20;
/// Text of one wide row; its transaction has as many as give the asked size.
const ROW_BYTES: u64 = 64 << 10;
/// Of every so many rows, one is this wide.
const WIDE_EVERY: u64 = 500;
const WIDE_BYTES: u64 = 8 << 20;
/// Longest wait for a step.
const LIMIT: Duration = Duration::from_secs(3600);

/// What came, in order.
#[derive(Default)]
struct Taken {
    /// The next row that has not come yet.
    next: u64,
    repeated: u64,
}

impl Taken {
    /// Rows come in their order; after a failed attempt some come again.
    fn take(&mut self, event: &Event) -> Result<()> {
        let row = event
            .after
            .as_ref()
            .ok_or_else(|| Error::new("an insert without a row"))?;
        let number = |name: &str| row.get(name).and_then(Json::as_u64);
        let (Some(id), Some(length)) = (number("id"), number("length")) else {
            return Err(Error::new("an event of another table"));
        };
        let text = row.get("v").and_then(Json::as_str);
        let text = text.map_or(0, |text| text.len() as u64);
        ensure!(
            text == length,
            "row {id} came with {text} bytes, not {length}"
        );
        ensure!(
            id <= self.next,
            "row {id} came in front of row {}",
            self.next
        );
        if id == self.next {
            self.next += 1;
        } else {
            self.repeated += 1;
        }
        Ok(())
    }
}

/// One transaction of `plan.mib` MiB through a process of 256 MiB.
///
/// # Errors
/// What did not hold.
pub(super) fn run(plan: &Plan) -> Result<String> {
    let stage = Stage::new(plan, "memory-ceiling")?;
    let rows = ((plan.mib << 20) / ROW_BYTES).max(2);
    let dead = Arc::new(AtomicBool::new(true));
    let taken = Arc::new(Mutex::new(Taken::default()));
    let receiver = {
        let (dead, taken) = (Arc::clone(&dead), Arc::clone(&taken));
        Receiver::start(Box::new(move |events| {
            if dead.load(Ordering::SeqCst) {
                return Ok(HANG_UP);
            }
            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            events.iter().try_for_each(|event| taken.take(event))?;
            Ok(200)
        }))?
    };
    let config = format!(
        "\n[cdc.retry]\nbase = \"100ms\"\nmax = \"1s\"\nprobe = \"1s\"\n\
         \n[[cdc.emitters]]\nname = \"files\"\nemitter = \"file\"\n[cdc.emitters.file]\npath = {:?}\n\
         \n[[cdc.emitters]]\nname = \"hook\"\nemitter = \"webhook\"\n[cdc.emitters.webhook]\n\
         url = {:?}\nallow_private = true\nbatch_size = 100\n",
        stage.dir.join("events"),
        receiver.url(),
    );
    let capture = Capture::new(plan, &stage.postgres, &stage.dir, &config)?;
    capture.catch_up()?;
    stage.postgres.script(
        "create table wide (id bigint primary key, length int not null, v text not null);",
    )?;
    let ceiling = Ceiling::new(MEMORY_BYTES);
    let mut command = ceiling.over(&capture.run_command());
    let mut running = Running::start(&mut command, "cdc-cli run", Some(&capture.log()))?;
    // Repeats compress well, so the database's own log stays small; the stream has them whole.
    stage.postgres.script(&format!(
        "insert into wide select n, l, repeat('x', l) from (select n, case when n % {WIDE_EVERY} = {} \
         then {WIDE_BYTES} else {ROW_BYTES} end::int as l from generate_series(0, {} - 1) n) s order by n;",
        WIDE_EVERY / 2,
        rows,
    ))?;
    // As many bytes as the rows have stand in the files while the other destination is still dead.
    let events = stage.dir.join("events");
    let written = || -> u64 {
        let files = super::event::files(&events).unwrap_or_default();
        files
            .iter()
            .filter_map(|file| Some(file.metadata().ok()?.len()))
            .sum()
    };
    let size = stage
        .postgres
        .psql("select sum(length::bigint) from wide")?;
    let size: u64 = size.trim().parse().context(|| "read the sum of the rows")?;
    let mut peak = 0;
    let start = Instant::now();
    let step = |running: &mut Running, peak: &mut u64, what: &str| -> Result<()> {
        *peak = (*peak).max(status_kib(running.pid(), "VmHWM"));
        if let Some(status) = running.ended()? {
            let kills = ceiling.kills()?;
            return Err(Error::new(format!(
                "cdc-cli ended while {what}: {status}, killed for memory {kills} times{}",
                running.said()
            )));
        }
        ensure!(start.elapsed() < LIMIT, "{what} takes longer than an hour");
        command::pause();
        Ok(())
    };
    while written() < size {
        step(&mut running, &mut peak, "it wrote files")?;
    }
    let filed = start.elapsed();
    dead.store(false, Ordering::SeqCst);
    let came = || taken.lock().unwrap_or_else(PoisonError::into_inner).next;
    while came() < rows {
        receiver.check()?;
        step(&mut running, &mut peak, "it sent webhooks")?;
    }
    let sent = start.elapsed();
    capture.shut_down(running)?;
    receiver.check()?;
    let mut filing = Taken::default();
    each_event(&events, false, |event| filing.take(&event))?;
    ensure!(
        filing.next == rows && filing.repeated == 0,
        "the files hold {} of {rows} rows, {} of them twice",
        filing.next,
        filing.repeated
    );
    let kills = ceiling.kills()?;
    ensure!(kills == 0, "killed for memory {kills} times");
    let repeated = taken
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .repeated;
    Ok(format!(
        "{}: one transaction of {} MiB in {rows} rows of up to {} MiB, in order, complete, in files ({:.0} s) and, from a destination that came back, by webhook ({:.0} s, {repeated} repeats); peak resident {} MiB, never killed",
        ceiling.name(),
        size >> 20,
        WIDE_BYTES >> 20,
        filed.as_secs_f64(),
        sent.as_secs_f64(),
        peak >> 10,
    ))
}
