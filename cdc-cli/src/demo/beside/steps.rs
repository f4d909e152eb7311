//! The demonstration beside an SQLite application, step by step.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::application::Application;
use super::tool::{Pipeline, Tool};
use crate::demo::configuration::configuration;
use crate::demo::narrator::{Narrator, wait};
use crate::demo::receiver::Receiver;
use crate::exit::Exit;
use crate::output::print;
use crate::report::CliError;

/// Orders that are there before capture begins.
const OLD_ORDERS: u64 = 20;
/// The key of the poisoned order's later events is parked behind it: this many statuses follow.
const STATUSES: [&str; 3] = ["paid", "packed", "shipped"];

/// The application's own view of what it did.
struct Shop {
    application: Application,
    orders: u64,
    /// Rows committed: in `orders`, and in both tables.
    order_events: u64,
    events: u64,
}

impl Shop {
    fn execute(&mut self, sql: &str) -> Result<(), CliError> {
        let what = self.application.what;
        self.application.execute(sql).map_err(|cause| {
            CliError::new(Exit::Runtime, format!("let {what} write the database")).with_cause(cause)
        })
    }

    /// An order: a row in each of two tables, in one transaction.
    fn place(&mut self, cents: u64, note: &str) -> Result<u64, CliError> {
        self.orders += 1;
        let id = self.orders;
        self.execute(&format!(
            "BEGIN; INSERT INTO orders VALUES({id}, '4929-0000-0000-{:04}', {cents}, 'new', '{note}'); \
             INSERT INTO audit(order_id, what) VALUES({id}, 'placed'); COMMIT;",
            id % 10_000
        ))?;
        self.order_events += 1;
        self.events += 2;
        Ok(id)
    }

    fn advance(&mut self, id: u64, status: &str) -> Result<(), CliError> {
        self.execute(&format!(
            "BEGIN; UPDATE orders SET status = '{status}' WHERE id = {id}; \
             INSERT INTO audit(order_id, what) VALUES({id}, '{status}'); COMMIT;"
        ))?;
        self.order_events += 1;
        self.events += 2;
        Ok(())
    }

    /// An order that is rolled back: nobody may ever see it.
    fn change_of_mind(&mut self) -> Result<(), CliError> {
        self.execute("BEGIN; INSERT INTO orders VALUES(-1, '', 1, 'never', ''); ROLLBACK;")
    }
}

/// Plays the demonstration in `dir`, which must be empty, with an application that writes
/// `dir/shop.db`.
///
/// # Errors
/// Exit code 1 if anything does not happen that is promised.
pub(crate) fn play(
    dir: &Path,
    application: Application,
    narrator: &Narrator,
) -> Result<Exit, CliError> {
    let receiver = Arc::new(Receiver::default());
    let address = receiver
        .start()
        .map_err(|cause| io_error("start the receiver", cause))?;
    let source = format!("sqlite:{}/shop.db", dir.display());
    let toml = configuration(dir, &source, "orders", &address.to_string());
    std::fs::write(dir.join("cdc.toml"), &toml)
        .map_err(|cause| io_error("write cdc.toml", cause))?;
    let tool = Tool::new(dir)?;
    let what = application.what;
    let mut shop = Shop {
        application,
        orders: 0,
        order_events: 0,
        events: 0,
    };
    let delivered = || receiver.seen().ids.len() as u64;

    narrator.step(
        1,
        "An application keeps its orders in SQLite; nothing in it is changed",
    )?;
    narrator.say(&format!(
        "It is {what}, in a process of its own. {OLD_ORDERS} orders are there already."
    ))?;
    shop.execute(
        "PRAGMA journal_mode = wal; CREATE TABLE orders(id INTEGER PRIMARY KEY, card TEXT, cents INTEGER, status TEXT, note TEXT); \
         CREATE TABLE audit(order_id INTEGER, what TEXT);",
    )?;
    for n in 0..OLD_ORDERS {
        shop.place(1990 + 7 * n, "")?;
    }
    narrator.say("Beside it: `cdc-cli run`, with a file that gets everything and a webhook that gets the orders, cards masked:")?;
    for line in toml.lines().filter(|line| !line.is_empty()) {
        print(&format!("     {line}\n"))?;
    }
    let mut pipeline = tool.run()?;
    wait("read the orders that are there", || {
        running(&mut pipeline, dir)?;
        Ok(delivered() == OLD_ORDERS)
    })?;
    for n in 0..100 {
        let id = shop.place(1990 + 7 * n, "")?;
        if n % 3 == 0 {
            shop.advance(id, "paid")?;
        }
        if n % 10 == 0 {
            shop.change_of_mind()?;
        }
    }
    wait(
        "deliver the orders",
        || Ok(delivered() == shop.order_events),
    )?;
    let journal = format!("wal:{}/state/journal", dir.display());
    let text = tool.text(&[
        "tail",
        &journal,
        "--earliest",
        "--where",
        "op == 'update'",
        "-n",
        "3",
    ])?;
    narrator.say("The journal, as `cdc-cli tail` shows it (only updates):")?;
    for line in text.lines() {
        print(&format!("     {line}\n"))?;
    }
    let card = receiver.seen().card.clone().unwrap_or_default();
    narrator.say(&format!(
        "The webhook has {} events of orders, with cards as {card:?}; what was rolled back is not among them.",
        delivered()
    ))?;

    narrator.step(
        2,
        "The receiver goes down: the webhook's lane waits, the file's goes on",
    )?;
    receiver.down.store(true, Ordering::Relaxed);
    for n in 0..50 {
        shop.place(500 + n, "")?;
    }
    wait("notice the outage", || {
        Ok(receiver.refused.load(Ordering::Relaxed) >= 3)
    })?;
    wait("go on with the file", || {
        Ok(tool.count("archive", "delivered")? == shop.events)
    })?;
    narrator.say(&format!(
        "{} requests answered with 503; the webhook is {:?}, dead letters {}; the file has all {} events.",
        receiver.refused.load(Ordering::Relaxed),
        tool.health("orders")?,
        tool.count("orders", "dead_lettered")?,
        shop.events
    ))?;
    receiver.down.store(false, Ordering::Relaxed);
    wait("catch up after the outage", || {
        Ok(delivered() == shop.order_events)
    })?;
    narrator.say("It is back, and everything that waited was delivered.")?;

    narrator.step(
        3,
        "One event is poison: it becomes a dead letter, its order waits, others go on",
    )?;
    receiver.dislikes_poison.store(true, Ordering::Relaxed);
    let poisoned = shop.place(6600, "poison")?;
    for status in STATUSES {
        shop.advance(poisoned, status)?;
        shop.place(100, "")?;
    }
    let behind = STATUSES.len() as u64;
    wait("isolate the poisoned event", || {
        Ok(delivered() + behind + 1 == shop.order_events
            && tool.count("orders", "parked")? == behind)
    })?;
    narrator.say("`cdc-cli dlq ls`:")?;
    for line in tool.text(&["dlq", "ls"])?.lines() {
        print(&format!("     {line}\n"))?;
    }

    narrator.step(
        4,
        "The receiver is mended; the dead letters are redriven, in order",
    )?;
    receiver.dislikes_poison.store(false, Ordering::Relaxed);
    let text = tool.text(&["dlq", "redrive"])?;
    let order = i64::try_from(poisoned).unwrap_or(i64::MAX);
    let history = receiver.seen().histories.get(&order).cloned();
    let history = history.unwrap_or_default();
    narrator.say(&format!("`cdc-cli dlq redrive`: {}", text.trim_end()))?;
    narrator.say(&format!(
        "the poisoned order's history at the receiver: {}",
        history.join(" -> ")
    ))?;

    narrator.step(
        5,
        "kill -9; the application goes on; the pipeline resumes from its checkpoints",
    )?;
    pipeline.kill()?;
    for n in 0..75 {
        shop.place(4200 + n, "")?;
    }
    let before = delivered();
    let pipeline = tool.run()?;
    wait("resume", || Ok(delivered() == shop.order_events))?;
    wait("resume the file", || Ok(archive(dir)?.1 == shop.events))?;
    narrator.say(&format!(
        "committed while nobody looked: 75 orders; delivered after the start: {}.",
        delivered() - before
    ))?;
    pipeline.stop()?;

    narrator.step(6, "The counts add up")?;
    finish(dir, &shop, &receiver, &history, narrator)
}

fn running(pipeline: &mut Pipeline, dir: &Path) -> Result<(), CliError> {
    if pipeline.is_running() {
        return Ok(());
    }
    let said = std::fs::read_to_string(dir.join("run.log")).unwrap_or_default();
    Err(CliError::new(
        Exit::Runtime,
        format!(
            "run the pipeline of the demonstration: it ended, saying: {}",
            said.trim_end()
        ),
    ))
}

/// Lines of the file emitter's files, and how many different events they hold.
fn archive(dir: &Path) -> Result<(u64, u64), CliError> {
    let (mut lines, mut ids) = (0, HashSet::new());
    let unread = |cause| io_error("read the archive", cause);
    let files = std::fs::read_dir(dir.join("archive")).map_err(unread)?;
    for file in files.flatten() {
        if !file.file_name().to_string_lossy().contains(".ndjson") {
            continue;
        }
        let text = std::fs::read_to_string(file.path()).map_err(unread)?;
        for line in text.lines() {
            lines += 1;
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            ids.insert(event["id"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok((lines, ids.len() as u64))
}

/// Compares what was committed with what arrived.
fn finish(
    dir: &Path,
    shop: &Shop,
    receiver: &Receiver,
    history: &[String],
    narrator: &Narrator,
) -> Result<Exit, CliError> {
    let (lines, ids) = archive(dir)?;
    let (hook_ids, hook_events) = {
        let seen = receiver.seen();
        (seen.ids.len() as u64, seen.ids.values().sum::<u64>())
    };
    let rows = [
        (
            "committed by the application",
            shop.events,
            "row changes, in both tables",
        ),
        (
            "  of these in orders",
            shop.order_events,
            "what the webhook's filter keeps",
        ),
        ("in the file", lines, "lines"),
        (
            "  different events",
            ids,
            "so nothing twice, nothing missing",
        ),
        ("at the webhook", hook_ids, "different events"),
        (
            "  repeated there",
            hook_events - hook_ids,
            "at-least-once allows repeats after kill -9, with the same id",
        ),
    ];
    let mut text = String::new();
    for (what, count, remark) in rows {
        let _ = writeln!(text, "     {what:<30} {count:>6}  {remark}");
    }
    print(&text)?;
    let whole = ["new"].iter().chain(&STATUSES).copied().collect::<Vec<_>>();
    let good = lines == shop.events
        && ids == shop.events
        && hook_ids == shop.order_events
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

fn io_error(what: &str, cause: io::Error) -> CliError {
    CliError::new(Exit::Runtime, format!("{what} of the demonstration")).with_cause(cause)
}
