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

mod capture;
mod deliver;
mod lane;
mod latency;
mod letters;
mod metrics;
mod parked;
mod progress;
mod redrive;
pub mod replay;
mod retry;
mod shutdown;
mod watermark;

pub use capture::{Capture, CaptureConfig, CaptureMetrics, ConfirmPolicy};
pub use lane::{Lane, LaneConfig, LaneEnd, LaneError, OnDeadKey};
pub use latency::{LatencyHistogram, LatencyReading};
pub use metrics::{LaneCounts, LaneHealth, LaneMetrics};
pub use redrive::{LaneCommand, LaneControl, RedriveReport, RedriveRequest};
pub use replay::{Replay, ReplayFailure, ReplayReport};
pub use retry::{Backoff, RetryConfig};
pub use shutdown::{Shutdown, ShutdownTrigger};
pub use watermark::{Watermark, WatermarkHandle};

#[cfg(test)]
mod tests;
