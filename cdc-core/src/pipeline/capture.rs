//! From a foreign database's log into the journal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Shutdown, Watermark};
use crate::crash;
use crate::{BatchLimit, Clock, Journal, Position, SourceError, WalSource};

/// When a source may forget a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfirmPolicy {
    /// When every emitter has it durably, or the dead letter queue has: losing the local disk
    /// then loses nothing.
    #[default]
    Delivered,
    /// When the journal has it on disk: protects the database's disk while an emitter is down.
    Journaled,
}

/// Settings of a capture.
#[derive(Clone, Copy, Debug)]
pub struct CaptureConfig {
    /// When the source is told.
    pub confirm: ConfirmPolicy,
    /// Size of what is taken from the source at once.
    pub limit: BatchLimit,
    /// How often a sync of the journal begins; default 200 ms. What it made durable is noticed at the
    /// next one.
    pub flush_interval: Duration,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            confirm: ConfirmPolicy::Delivered,
            limit: BatchLimit::default(),
            flush_interval: Duration::from_millis(200),
        }
    }
}

/// What a capture counts.
#[derive(Debug, Default)]
pub struct CaptureMetrics {
    events: AtomicU64,
    held_back: AtomicU64,
    detail: Mutex<(Position, Position)>,
}

impl CaptureMetrics {
    /// Events taken from the source.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// How often the source was held back because the journal was full.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Everything up to this is in the journal.
    pub fn captured(&self) -> Position {
        self.detail.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Everything up to this was confirmed to the source.
    pub fn confirmed(&self) -> Position {
        self.detail.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// Moves batches from a source into the journal, and confirmations back.
///
/// Order is law: a source is never told more than the journal's flushed end, and with `delivered`
/// not more than the minimum of the durable checkpoints either. So what the journal loses by a
/// power cut, delivered or not, is sent again, and can be replayed.
#[derive(Debug)]
pub struct Capture<S, J> {
    /// Where events come from.
    pub source: S,
    /// Where they go.
    pub journal: J,
    /// Settings.
    pub config: CaptureConfig,
    /// The minimum of all lanes.
    pub watermark: Watermark,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<CaptureMetrics>,
    /// When to stop.
    pub shutdown: Shutdown,
}

impl<S: WalSource, J: Journal> Capture<S, J> {
    /// Runs until shutdown, the source's end, or an error. Shutdown confirms what can be confirmed;
    /// closing the source, so that the last confirmation gets there, is the caller's.
    ///
    /// Transient source errors are retried by the source itself, inside `next_batch`.
    ///
    /// # Errors
    /// The source's or the journal's. Nothing is lost: what was not confirmed is sent again.
    pub async fn run(&mut self) -> Result<(), SourceError> {
        let mut minimum = self.watermark.subscribe();
        let mut told = Position::ZERO;
        let mut flushed = Position::ZERO;
        let mut trimmed = Position::ZERO;
        let mut due = self.clock.elapsed() + self.config.flush_interval;
        self.note(self.journal.end(), told);
        loop {
            let full = self.journal.is_full();
            if full {
                self.metrics.held_back.fetch_add(1, Ordering::Relaxed);
            }
            let wait = due.saturating_sub(self.clock.elapsed());
            let tick = self.clock.sleep(wait);
            let mut finished = false;
            tokio::select! {
                biased;
                () = self.shutdown.asked() => finished = true,
                // An error would mean that the watermark is gone, and this holds one.
                _ = minimum.changed() => {}
                batch = self.source.next_batch(self.config.limit), if !full => match batch? {
                    Some(batch) => {
                        self.journal.append(&batch)?;
                        if !batch.is_empty() {
                            crash::point("captured");
                        }
                        self.metrics.events.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    }
                    None => finished = true,
                },
                () = tick => {}
            }
            let done = *minimum.borrow_and_update();
            if finished || self.clock.elapsed() >= due {
                let before = flushed;
                flushed = if finished {
                    self.journal.flush()?
                } else {
                    self.journal.flush_beside()?
                };
                if flushed > before {
                    crash::point("journaled");
                }
                due = self.clock.elapsed() + self.config.flush_interval;
            }
            if done > trimmed {
                self.journal.confirm(done)?;
                trimmed = done;
            }
            let safe = match self.config.confirm {
                ConfirmPolicy::Delivered => done.min(flushed),
                ConfirmPolicy::Journaled => flushed,
            };
            if safe > told {
                self.source.confirm(safe).await?;
                told = safe;
            }
            self.note(self.journal.end(), told);
            if finished {
                return Ok(());
            }
        }
    }

    fn note(&self, captured: Position, confirmed: Position) {
        *self
            .metrics
            .detail
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = (captured, confirmed);
    }
}
