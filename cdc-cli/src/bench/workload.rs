//! What is committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::{Column, EngineKind, Relation};
use cdc_wal::Log;

use super::log_error;
use crate::report::CliError;

/// Columns of a row besides the text that fills it up: their encoded bytes.
const FIXED_BYTES: usize = 2 + 9 + 9 + 9 + 5;

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
        self.write(log, |_| {})
    }

    /// Commits each transaction when it is due, or late, never early.
    pub(crate) fn write_on_time(&self, log: &Log, schedule: &Schedule) -> Result<(), CliError> {
        self.write(log, |id| {
            let wait = schedule.due(id).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
        })
    }

    fn write(&self, log: &Log, before: impl Fn(u64)) -> Result<(), CliError> {
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
        let mut id = 0u64;
        while id < self.events {
            before(id);
            let mut transaction = log.begin(id);
            let end = (id + u64::from(self.transaction)).min(self.events);
            while id < end {
                transaction
                    .insert_with(&relation, |row| {
                        let key = id.checked_rem(self.keys).unwrap_or(id);
                        row.int(i64::try_from(key).unwrap_or(i64::MAX));
                        row.int(i64::try_from(id % 100_000).unwrap_or_default());
                        row.int(1_000_000);
                        row.text(&filler);
                    })
                    .map_err(log_error)?;
                id += 1;
            }
            transaction.commit().map_err(log_error)?;
        }
        Ok(())
    }
}
