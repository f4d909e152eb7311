//! The workload, clocks, and the collected results.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::row::RowWriter;
use cdc_core::{
    BatchLimit, Clock, Column, EngineKind, EventBatch, Relation, SystemClock, ValueRef,
};
use cdc_wal::{Log, LogError, WalTail};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Rows of a transaction.
pub(crate) const ROWS: u64 = 10;
/// Integers of a row.
pub(crate) const INTEGERS: u64 = 2;

/// Numbers by name, in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Measures(Vec<(String, f64)>);

impl Measures {
    pub(crate) fn add(&mut self, name: &str, value: f64) {
        eprintln_progress(name, value);
        self.0.push((name.to_owned(), value));
    }

    pub(crate) fn json(&self) -> String {
        let members = self
            .0
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value:.4}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }
}

#[expect(
    clippy::print_stderr,
    reason = "it takes minutes, so it says how far it is"
)]
fn eprintln_progress(name: &str, value: f64) {
    eprintln!("{name:<44} {value:>12.3}");
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// An ordinary table: rows take about 180 bytes.
pub(crate) fn relation() -> Arc<Relation> {
    shape(&["id", "account", "total", "filler", "at"])
}

pub(crate) fn shape(names: &[&str]) -> Arc<Relation> {
    let columns = names
        .iter()
        .map(|name| Column::new(*name, "int8"))
        .collect();
    let engine = EngineKind::Relational;
    Arc::new(Relation::new(engine, "public", "orders", columns, vec![0]))
}

pub(crate) fn write_row(row: &mut RowWriter<'_>, n: u64) {
    row.int(n.cast_signed());
    row.int(1);
    row.decimal("1234.50");
    row.text("a filler of a hundred and twenty bytes, give or take, as an ordinary row of an ordinary table has it, and some more on top");
    row.timestamp_tz(1_795_352_707_123_456);
}

/// A transaction, not synced.
pub(crate) fn append(log: &Log, relation: &Arc<Relation>, id: u64) -> Result<(), LogError> {
    let mut tx = log.begin(id);
    for n in 0..ROWS {
        tx.insert_with(relation, |row| write_row(row, n))?;
    }
    tx.commit_unsynced().map(drop)
}

/// Reads every column of every event; gives how many integers there were.
pub(crate) fn read_columns(batch: &EventBatch) -> Result<u64, Failure> {
    let mut integers = 0;
    for event in batch.events() {
        let Some(row) = event.after.row() else {
            continue;
        };
        for value in row.columns()? {
            integers += u64::from(matches!(value?, ValueRef::Int(_)));
        }
    }
    Ok(integers)
}

/// Reads a tail to its present end; gives events and, if asked to read them, columns.
pub(crate) fn drain(tail: &mut WalTail, columns: bool) -> Result<(u64, u64), Failure> {
    let (mut events, mut integers) = (0, 0);
    while let Some(batch) = tail.poll_batch(&BatchLimit::default())? {
        events += batch.len() as u64;
        if columns {
            integers += read_columns(&batch)?;
        }
    }
    Ok((events, integers))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive count below 2^53"
)]
pub(crate) fn scaled(count: u64, scale: f64) -> u64 {
    ((number(count) * scale) as u64).max(100)
}

/// Millions a second.
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    number(count) / time.as_secs_f64() / 1e6
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Wall clock and this thread's processor time, which a busy machine distorts less.
pub(crate) struct Start(Instant, u64, [u64; 2]);

impl Start {
    pub(crate) fn now() -> Self {
        Self(Instant::now(), cpu_nanos(), cpu_ticks())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Processor nanoseconds of this thread for each of `count`.
    pub(crate) fn cpu_each(&self, count: u64) -> f64 {
        number(cpu_nanos() - self.1) / number(count.max(1))
    }

    /// The same, of our own code and of the kernel apart: its sum is exact, the parts are as the
    /// kernel estimates them.
    pub(crate) fn parts_each(&self, count: u64) -> [f64; 2] {
        let [user, kernel] = cpu_ticks();
        let (user, kernel) = (user - self.2[0], kernel - self.2[1]);
        let all = self.cpu_each(count);
        [user, kernel].map(|part| all * number(part) / number((user + kernel).max(1)))
    }
}

fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|n| n.parse().ok());
    first.unwrap_or_default()
}

/// Ticks in our own code, and in the kernel.
fn cpu_ticks() -> [u64; 2] {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    // The name is in parentheses and may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |at| {
        rest.split_whitespace()
            .nth(at)
            .and_then(|n: &str| n.parse().ok())
    };
    [11, 12].map(|at| field(at).unwrap_or_default())
}
