//! Reader of PostgreSQL's logical replication stream (PostgreSQL 13 or later).
//!
//! [`PostgresSource`] is a [`WalSource`](cdc_core::WalSource) over a replication slot with the
//! output plugin `pgoutput`. It is set up by a [`PostgresConfig`]; [`check()`] names what is wrong
//! at the server before anything is captured, [`drop_slot_and_publication`] removes what was
//! created.
//!
//! ```no_run
//! use cdc_core::{BatchLimit, WalSource};
//! use cdc_wal::postgres::{PostgresConfig, PostgresSource};
//!
//! # async fn example() -> Result<(), cdc_core::SourceError> {
//! let config = PostgresConfig::parse("postgres://cdc@localhost/shop")?;
//! let mut source = PostgresSource::connect(config, None).await?;
//! while let Some(batch) = source.next_batch(BatchLimit::default()).await? {
//!     for event in batch.events() {
//!         println!("{} {} {}", event.position, event.op, event.relation.qualified_name());
//!     }
//!     // Only when it is durable elsewhere: the server forgets what is confirmed.
//!     source.confirm(batch.end()).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Layers, from bytes upwards: `buffer` cuts messages, `decode` reads them, `relation`, `types`,
//! `value`, `array` and `time` turn text into encoded rows, `assemble` makes events and positions;
//! none of these do I/O. `connection`, `tls`, `setup`, `slot`, `publication`, `catalog`, `pump` and
//! `feedback` speak with the server, `source` ties all together.

mod ahead;
mod array;
mod assemble;
mod backoff;
mod buffer;
mod catalog;
mod check;
mod config;
mod connection;
mod decode;
mod error;
mod feedback;
#[cfg(any(
    feature = "fuzzing",
    all(test, feature = "postgres", feature = "rocksdb", feature = "sqlite")
))]
pub(crate) mod fuzzing;
mod key;
mod keyless;
mod pace;
mod publication;
mod pump;
mod relation;
mod remove;
mod session;
mod setup;
mod slot;
mod source;
mod sql;
mod time;
#[cfg(feature = "tls")]
mod tls;
mod types;
mod value;

pub use check::{Finding, ServerState, Severity, check, look};
pub use config::{PostgresConfig, SslMode};
pub use remove::{Dropped, drop_slot_and_publication};
pub use session::SqlSession;
pub use slot::SlotState;
pub use source::PostgresSource;
