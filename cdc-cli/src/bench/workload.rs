//! What is committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::{Column, EngineKind, Relation};
use cdc_wal::Log;

use super::log_error;
use crate::report::CliError;

/// Columns of a row besides the text that fills it up: their encoded bytes.
const FIXED_BYTES: usize = 2 + 9 + 9 + 9 + 5;

/// Threads that commit when latency is measured.
const WRITERS: u64 = 16;

/// Inserts of equal rows in equal transactions.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) events: u64,
    /// Encoded bytes of a row.
    pub(crate) row_bytes: usize,
    /// Events of a transaction.
    pub(crate) transaction: u32,
    /// Rows that are written again and again; every event is of a row of its own if 0.
    pub(crate) keys: u64,
}

/// When each transaction is due.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start: Instant,
    interval: Duration,
    transaction: u64,
}

impl Schedule {
    /// When the event with this id was due to be committed.
    pub(crate) fn due(&self, id: u64) -> Instant {
        let number = u32::try_from(id / self.transaction).unwrap_or(u32::MAX);
        self.start + self.interval.saturating_mul(number)
    }
}

impl Workload {
    pub(crate) fn schedule(&self, rate: u64) -> Schedule {
        let transactions = (rate / u64::from(self.transaction)).max(1);
        Schedule {
            // Time for the lane to be there.
            start: Instant::now() + Duration::from_millis(200),
            interval: Duration::from_secs(1) / u32::try_from(transactions).unwrap_or(u32::MAX),
            transaction: u64::from(self.transaction),
        }
    }

    /// Commits everything as fast as it goes.
    pub(crate) fn write_all(&self, log: &Log) -> Result<(), CliError> {
        self.write(log, 0, 1, |_| {})
    }

    /// Commits each transaction when it is due, or late, never early, from [`WRITERS`] threads in turn,
    /// as an engine under load does: their commits share syncs.
    pub(crate) fn write_on_time(&self, log: &Log, schedule: &Schedule) -> Result<(), CliError> {
        let on_time = |id| {
            let wait = schedule.due(id).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..WRITERS)
                .map(|nth| scope.spawn(move || self.write(log, nth, WRITERS, on_time)))
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(super::panicked("writer")))
            })
        })
    }

    /// Writes every `of`-th transaction, beginning with the `nth`.
    fn write(&self, log: &Log, nth: u64, of: u64, before: impl Fn(u64)) -> Result<(), CliError> {
        let columns = [
            ("id", "int8"),
            ("account", "int8"),
            ("balance", "int8"),
            ("filler", "text"),
        ];
        let columns = columns.map(|(name, kind)| Column::new(name, kind)).to_vec();
        let relation = Relation::new(EngineKind::Relational, "public", "bench", columns, vec![0]);
        let relation = Arc::new(relation);
        let filler = "x".repeat(self.row_bytes.saturating_sub(FIXED_BYTES));
        let length = u64::from(self.transaction);
        let mut first = nth * length;
        while first < self.events {
            before(first);
            let mut transaction = log.begin(first);
            for id in first..(first + length).min(self.events) {
                transaction
                    .insert_with(&relation, |row| {
                        let key = id.checked_rem(self.keys).unwrap_or(id);
                        row.int(i64::try_from(key).unwrap_or(i64::MAX));
                        row.int(i64::try_from(id % 100_000).unwrap_or_default());
                        row.int(1_000_000);
                        row.text(&filler);
                    })
                    .map_err(log_error)?;
            }
            transaction.commit().map_err(log_error)?;
            first += of * length;
        }
        Ok(())
    }
}
