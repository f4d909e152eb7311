//! The pipeline: what moves events from a log to destinations and keeps the promise.
//!
//! ```text
//! source ── Capture ──▶ journal ── tail ──▶ Lane: filter ▶ transform ▶ emit ▶ checkpoint
//!    ▲                                                                         │
//!    └───────────────── Watermark: minimum of the checkpoints ◀────────────────┘
//! ```
//!
//! [`Capture`] takes a foreign database's events into the journal. One [`Lane`] an emitter reads
//! the log (native or journal), filters, transforms, delivers, dead-letters and checkpoints.
//! [`Watermark`] is the minimum over all lanes: all that a source is ever told.
//!
//! Each of these is one `async fn run` that does its disk work inline: run each on a thread of its
//! own with a current-thread runtime (decision 0004). Nothing here spawns a task or reads a
//! clock but through [`Clock`](crate::Clock), so that a simulator can run all of it on one thread.

mod begin;
mod breaker;
mod capture;
mod control;
mod deliver;
mod dispatch;
mod lane;
mod latency;
mod letters;
mod metrics;
mod order;
mod parked;
mod redrive;
pub mod replay;
mod retry;
mod run;
mod session;
mod shutdown;
mod watermark;
mod window;
mod workers;

pub use breaker::{BreakerConfig, BreakerState};
pub use capture::{Capture, CaptureConfig, CaptureMetrics, ConfirmPolicy};
pub use control::{LaneCommand, LaneControl};
pub use lane::{Lane, LaneConfig, LaneEnd, LaneError, OnDeadKey};
pub use latency::{LatencyHistogram, LatencyReading};
pub use metrics::{LaneCounts, LaneHealth, LaneMetrics};
pub use order::OrderScope;
pub use redrive::{RedriveReport, RedriveRequest};
pub use replay::{Replay, ReplayFailure, ReplayReport};
pub use retry::{Backoff, RetryConfig};
pub use shutdown::{Shutdown, ShutdownTrigger};
pub use watermark::{Watermark, WatermarkHandle};

#[cfg(test)]
mod tests;
