//! The demonstration, step by step.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use cdc_core::pipeline::{LaneCounts, RedriveRequest, Shutdown, ShutdownTrigger, Watermark};
use cdc_core::{CheckpointStore, DeadLetterQueue, Position, SystemClock, WalSource};
use cdc_dlq::FileDlq;
use cdc_wal::{Log, LogConfig, StartAt};
use tokio::sync::mpsc;

use super::store::Store;
use crate::assemble::lanes::{self, Range, Shared, Started};
use crate::assemble::state::State;
use crate::assemble::{dead_letters, runner};
use crate::config::{self, Config, Environment, Layers};
use crate::demo::configuration::configuration;
use crate::demo::narrator::{Narrator, wait};
use crate::demo::receiver::Receiver;
use crate::exit::Exit;
use crate::output::print;
use crate::pretty::Pretty;
use crate::report::CliError;

/// The key of the poisoned order's later events is parked behind it: this many statuses follow.
const STATUSES: [&str; 3] = ["paid", "packed", "shipped"];

/// One run of the pipeline over the store's log.
struct Running {
    lanes: Vec<Started>,
    trigger: ShutdownTrigger,
    dlq: Arc<Mutex<FileDlq>>,
    state: State,
}

/// Plays the demonstration in `dir`, which must be empty.
///
/// # Errors
/// Exit code 1 if anything does not happen that is promised.
pub(crate) fn play(dir: &Path, narrator: &Narrator) -> Result<Exit, CliError> {
    let failed = |what: &'static str| move |cause| io_error(what, cause);
    let receiver = Arc::new(Receiver::default());
    let address = receiver.start().map_err(failed("start the receiver"))?;
    let source = format!("wal:{}/wal", dir.display());
    let toml = configuration(dir, &source, "shop.orders", &address.to_string());
    std::fs::write(dir.join("cdc.toml"), &toml).map_err(failed("write cdc.toml"))?;
    let config = config::load(&Layers {
        file: Some(dir.join("cdc.toml")),
        environment: Environment::default(),
        source: None,
        sets: Vec::new(),
    })?;
    let mut log_config = LogConfig::new(dir.join("wal"));
    log_config.segment_bytes = 4 << 20;
    log_config.name = Some("shop".into());
    let log = Log::open(log_config).map_err(log_error)?;
    let mut store = Store::new(log.clone());

    narrator.step(
        1,
        "An order store writes to its own log; two emitters tail it",
    )?;
    narrator
        .say("Each order is a transaction of two rows (orders, audit), committed and synced.")?;
    narrator.say("The configuration: a file that gets everything, a webhook that gets the orders, cards masked:")?;
    for line in toml.lines().filter(|line| !line.is_empty()) {
        print(&format!("     {line}\n"))?;
    }
    let mut running = start(&config, &log)?;
    for n in 0..100 {
        let id = store.place(1990 + 7 * n, "").map_err(log_error)?;
        if n % 3 == 0 {
            store.advance(id, "paid").map_err(log_error)?;
        }
        if n % 10 == 0 {
            store.change_of_mind().map_err(log_error)?;
        }
    }
    wait("deliver the first orders", || {
        Ok(delivered(&receiver) == store.order_events)
    })?;
    show_some(&log, narrator)?;
    let card = receiver.seen().card.clone().unwrap_or_default();
    narrator.say(&format!(
        "The webhook has {} events of orders, with cards as {card:?}.",
        delivered(&receiver)
    ))?;

    narrator.step(
        2,
        "The receiver goes down: the webhook's lane waits, the file's goes on",
    )?;
    receiver.down.store(true, Ordering::Relaxed);
    for n in 0..50 {
        store.place(500 + n, "").map_err(log_error)?;
    }
    wait("notice the outage", || {
        Ok(receiver.refused.load(Ordering::Relaxed) >= 3)
    })?;
    wait("go on with the file", || {
        Ok(counts(&running, "archive").delivered == store.events)
    })?;
    let hook = counts(&running, "orders");
    narrator.say(&format!(
        "{} requests answered with 503; webhook is {:?}, dead letters {}; the file has all {} events.",
        receiver.refused.load(Ordering::Relaxed),
        hook.health.name(),
        hook.dead_lettered,
        store.events
    ))?;
    receiver.down.store(false, Ordering::Relaxed);
    wait("catch up after the outage", || {
        Ok(delivered(&receiver) == store.order_events)
    })?;
    narrator.say("It is back, and everything that waited was delivered.")?;

    narrator.step(
        3,
        "One event is poison: it becomes a dead letter, its order waits, others go on",
    )?;
    receiver.dislikes_poison.store(true, Ordering::Relaxed);
    let poisoned = store.place(6600, "poison").map_err(log_error)?;
    for status in STATUSES {
        store.advance(poisoned, status).map_err(log_error)?;
        store.place(100, "").map_err(log_error)?;
    }
    let behind = STATUSES.len() as u64;
    wait("isolate the poisoned event", || {
        Ok(counts(&running, "orders").parked == behind
            && delivered(&receiver) + behind + 1 == store.order_events)
    })?;
    show_letters(&running, narrator)?;

    narrator.step(
        4,
        "The receiver is mended; the dead letters are redriven, in order",
    )?;
    receiver.dislikes_poison.store(false, Ordering::Relaxed);
    let control = lane(&running, "orders").controlled.control.clone();
    let report = crate::commands::block_on(control.redrive(RedriveRequest::default()))?;
    let report = report.unwrap_or_default();
    let history = receiver
        .seen()
        .histories
        .get(&poisoned)
        .cloned()
        .unwrap_or_default();
    narrator.say(&format!(
        "redriven: {} delivered, {} failed; the poisoned order's history at the receiver: {}",
        report.delivered,
        report.failed,
        history.join(" -> ")
    ))?;

    narrator.step(
        5,
        "The pipeline is stopped, the store goes on, the pipeline resumes from its checkpoints",
    )?;
    let stopped_at = counts(&running, "orders").position;
    stop(running)?;
    for n in 0..75 {
        store.place(4200 + n, "").map_err(log_error)?;
    }
    let before = delivered(&receiver);
    running = start(&config, &log)?;
    wait("resume", || Ok(delivered(&receiver) == store.order_events))?;
    wait("resume the file", || {
        Ok(counts(&running, "archive").delivered == 150)
    })?;
    narrator.say(&format!(
        "stopped at {stopped_at}; committed meanwhile: 75 orders; delivered after the start: {}.",
        delivered(&receiver) - before
    ))?;
    stop(running)?;

    narrator.step(6, "The counts add up")?;
    finish(dir, &store, &receiver, &history, narrator)
}

fn start(config: &Config, log: &Log) -> Result<Running, CliError> {
    let state = State::open(&config.state_path)?;
    let dlq = Arc::new(Mutex::new(dead_letters::open(config)?));
    let watermark = Watermark::new();
    let (trigger, shutdown) = Shutdown::new();
    let (ended, _nobody) = mpsc::unbounded_channel();
    let shared = Shared {
        source: log.source().clone(),
        checkpoints: state.checkpoints.clone(),
        dlq: dlq.clone(),
        shutdown,
        ended,
    };
    let range = Range {
        start: log.oldest().map_err(log_error)?,
        stop_at: None,
    };
    let mut lanes = Vec::new();
    for emitter in &config.emitters {
        let at = state
            .checkpoints
            .load(&emitter.name)?
            .map(|checkpoint| checkpoint.position);
        let handle = watermark.register(emitter.name.as_str(), at);
        let log = log.clone();
        let open = move |after: Position| {
            Ok(log.tail(StartAt::After(after), Arc::new(SystemClock::new()))?)
        };
        lanes.push(lanes::start(
            config,
            emitter,
            shared.clone(),
            handle,
            range,
            open,
        )?);
    }
    Ok(Running {
        lanes,
        trigger,
        dlq,
        state,
    })
}

fn stop(running: Running) -> Result<(), CliError> {
    let Running {
        lanes,
        trigger,
        dlq,
        state,
    } = running;
    trigger.trigger();
    for lane in lanes {
        match lane.thread.join() {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(runner::lane_error(error)),
            Err(_) => {
                return Err(CliError::new(
                    Exit::Runtime,
                    "run a lane: its thread panicked",
                ));
            }
        }
    }
    drop((dlq, state));
    Ok(())
}

fn lane<'a>(running: &'a Running, name: &str) -> &'a Started {
    let named = running
        .lanes
        .iter()
        .find(|lane| &*lane.controlled.reading.name == name);
    named.unwrap_or(&running.lanes[0])
}

fn counts(running: &Running, name: &str) -> LaneCounts {
    lane(running, name).controlled.reading.metrics.counts()
}

/// Different events of orders that the receiver has taken.
fn delivered(receiver: &Receiver) -> u64 {
    receiver.seen().ids.len() as u64
}

/// Shows the first transactions of the log, as `tail` does.
fn show_some(log: &Log, narrator: &Narrator) -> Result<(), CliError> {
    let clock = Arc::new(SystemClock::new());
    let mut tail = log.tail(StartAt::Earliest, clock).map_err(log_error)?;
    let batch = crate::commands::block_on(tail.next_batch(cdc_core::BatchLimit::default()))??;
    let Some(batch) = batch else { return Ok(()) };
    let mut pretty = Pretty::new(narrator.colour());
    let mut text = String::new();
    for event in batch.events().iter().take(4) {
        let shown = pretty.event(batch.source(), event, &mut text);
        shown.map_err(|error| CliError::from_error(Exit::Runtime, error))?;
    }
    print("   The log, as a consumer sees it:\n")?;
    for line in text.lines() {
        print(&format!("     {line}\n"))?;
    }
    Ok(())
}

fn show_letters(running: &Running, narrator: &Narrator) -> Result<(), CliError> {
    let letters = {
        let mut dlq = running
            .dlq
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        dlq.open_letters("orders", None, 10)?
    };
    let mut text = String::new();
    for letter in &letters {
        let _ = writeln!(
            text,
            "     {}  {:<7}  {} {}  {}",
            letter.event_id(),
            letter.state.name(),
            letter.event.op,
            letter.event.relation.qualified_name(),
            letter.failure.message
        );
    }
    narrator.say("The dead letter queue (`cdc-cli dlq ls`):")?;
    print(&text)
}

/// Compares what was committed with what arrived.
fn finish(
    dir: &Path,
    store: &Store,
    receiver: &Receiver,
    history: &[String],
    narrator: &Narrator,
) -> Result<Exit, CliError> {
    let (mut lines, mut ids) = (0u64, std::collections::HashSet::new());
    let archive = dir.join("archive");
    let files = std::fs::read_dir(&archive).map_err(|cause| io_error("read the archive", cause))?;
    for file in files.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if !name.contains(".ndjson") {
            continue;
        }
        let text = std::fs::read_to_string(file.path())
            .map_err(|cause| io_error("read the archive", cause))?;
        for line in text.lines() {
            lines += 1;
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            ids.insert(event["id"].as_str().unwrap_or_default().to_owned());
        }
    }
    let (hook_ids, hook_events) = {
        let seen = receiver.seen();
        (seen.ids.len() as u64, seen.ids.values().sum::<u64>())
    };
    let rows = [
        (
            "committed by the store",
            store.events,
            "rows, in both tables",
        ),
        (
            "  of these in orders",
            store.order_events,
            "rows, what the webhook's filter keeps",
        ),
        ("in the file", lines, "lines"),
        (
            "  different events",
            ids.len() as u64,
            "so nothing twice, nothing missing",
        ),
        ("at the webhook", hook_ids, "different events"),
        (
            "  repeated there",
            hook_events - hook_ids,
            "at-least-once allows repeats, with the same id",
        ),
    ];
    let mut text = String::new();
    for (what, count, remark) in rows {
        let _ = writeln!(text, "     {what:<24} {count:>6}  {remark}");
    }
    print(&text)?;
    let whole = ["new"].iter().chain(&STATUSES).copied().collect::<Vec<_>>();
    let good = lines == store.events
        && ids.len() as u64 == store.events
        && hook_ids == store.order_events
        && history == whole;
    if good {
        narrator.say("Nothing is missing, and each order's history arrived in order.")?;
        return Ok(Exit::Done);
    }
    Err(CliError::new(
        Exit::Runtime,
        "compare what was committed with what arrived: the counts do not add up",
    ))
}

fn io_error(what: &str, cause: std::io::Error) -> CliError {
    CliError::new(Exit::Runtime, format!("{what} of the demonstration")).with_cause(cause)
}

fn log_error(error: cdc_wal::LogError) -> CliError {
    cdc_core::SourceError::from(error).into()
}
