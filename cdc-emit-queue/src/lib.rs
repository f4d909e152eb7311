//! The queue emitter: events for a consumer in the same process.
//!
//! [`QueueEmitter`] is an [`Emitter`](cdc_core::Emitter) whose destination is a bounded queue in
//! memory; [`QueueConsumer`] takes [`QueueBatch`]es from it, from async code or from a thread.
//! Taking is not delivery: the lane's checkpoint moves when the consumer has called
//! [`QueueBatch::ack`]. It is not a broker and keeps nothing on disk; after a crash the lane
//! delivers again what was not acknowledged.
//!
//! # Guarantees
//! - **Ordering.** Hand-overs come in position order. Events cut from one batch stay in order. A
//!   batch that is given back comes again before anything later. With several consumers
//!   each row stays in order: nobody gets an event of a row while another consumer has an earlier one
//!   of it and has not acknowledged that, not even after a consumer died. `truncate` and schema
//!   events wait for everything before them, and everything after for them.
//! - **Durability.** [`durable`](cdc_core::Emitter::durable) reports the end of the unbroken run of
//!   acknowledged batches. Acks may come in any order; the mark never passes an unacknowledged
//!   event.
//! - **Redelivery.** A batch dropped without ack is handed over again, first. A dropped consumer
//!   gives back everything it holds.
//! - **Bounds.** At most `capacity` events and `bytes_max` bytes are queued or handed over and not
//!   yet acknowledged; a single hand-over larger than the whole bound passes alone. At the bound
//!   `emit` waits: that is the backpressure.
//!
//! # Example
//! ```
//! use cdc_core::{Emitter, testing};
//! use cdc_emit_queue::{QueueConfig, QueueEmitter};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let mut emitter = QueueEmitter::new(QueueConfig::default()).unwrap();
//! let consumer = emitter.consumer();
//! emitter.emit(&testing::transaction(7, 1, 3)).await.unwrap();
//!
//! let batch = consumer.recv().await.expect("the emitter is open");
//! assert_eq!(batch.events().len(), 3);
//! batch.ack();
//! # let mark = emitter.durable().unwrap().unwrap();
//! # assert_eq!(mark.through, cdc_core::Position::end_of(cdc_core::Lsn(7)));
//! # });
//! ```

mod config;
mod consumer;
mod emitter;
mod size;
mod state;

pub use config::{QueueConfig, QueueConfigError};
pub use consumer::{QueueBatch, QueueConsumer, TryRecvError};
pub use emitter::{QueueEmitter, QueueHandle};
pub use state::QueueStats;
