//! The file emitter: events as lines in append-only files.
//!
//! [`FileEmitter`] writes one stream of events into one directory: text formats as lines, the
//! compact form as frames with length and checksum. Files carry the position of their first event
//! in their name and sort by it, are called `*.part` until they are closed, are closed at the end
//! of a transaction, and are listed in a manifest whose lines are chained by hash;
//! [`verify()`] proves a directory complete and untouched. The layout is written down in
//! `docs/formats/file-emitter.md`.
//!
//! # Guarantees
//! - **Ordering.** Lines stand in the order in which events were given: read the files in the order
//!   of the manifest, then the open one. Without redriven dead letters and replays that is position
//!   order, and the order of the names; what is redriven stands where it was delivered, and a file
//!   that begins with a redriven letter sorts by that letter's position.
//! - **Durability.** Marks follow the sync ([`Fsync`]); every receipt is *accepted*, because the
//!   state that belongs to a position comes with its mark.
//! - **No repeats.** On restart everything behind the checkpoint is cut off before it is written
//!   again ([`OnRestart::Truncate`]). Only before the first checkpoint that carries the emitter's
//!   state there is nothing to cut back to: a crash in that moment repeats lines.
//! - **Failure.** A full disk is waited for: the torn write is cut off and the same batch is taken
//!   later. After any other failed write or sync nothing is known about what is on disk: the
//!   emitter reports the loss, and the lane goes back to its checkpoint. So it does if something else
//!   comes before the other half of a batch (a letter that is redriven): half a batch is in no checkpoint.
//! - **Bounds.** A file ends at the first end of a transaction past `rotate_bytes` or
//!   `rotate_age`. A transaction is never divided, so a file may be longer by one transaction.
//! - **Compression.** Closed files may be compressed by a thread beside the emitter
//!   ([`Compress::Gzip`]); the manifest speaks of what is inside, and [`verify()`] reads both forms.
//!
//! Small batches are written by the calling thread, which blocks for as long as the disk needs. Large ones
//! go to a thread beside it, which writes and hashes them while the next are encoded; at most 8 MiB are on
//! their way, then the caller waits. With [`Fsync::Interval`] syncs, and closing a file, run on threads beside
//! the writer, one at a time, and the mark follows when they are done; with [`Fsync::Batch`] the caller does
//! everything itself. A simulated storage is only ever called by the calling thread.
//!
//! # Example
//! ```
//! use cdc_core::{Emitter, testing};
//! use cdc_emit_file::{FileConfig, FileEmitter};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let dir = tempfile::tempdir().unwrap();
//! let mut emitter = FileEmitter::new(FileConfig::new(dir.path(), "shop")).unwrap();
//! emitter.resume(None).await.unwrap();
//! emitter.emit(&testing::transaction(7, 1, 3)).await.unwrap();
//! let mark = emitter.flush().await.unwrap().unwrap();
//! assert_eq!(mark.through, cdc_core::Position::end_of(cdc_core::Lsn(7)));
//!
//! let file = dir.path().join("shop-00000000000000000007-0000000000.ndjson.part");
//! assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 3);
//! # });
//! ```

mod begun;
mod beside;
mod boundary;
mod compress;
mod config;
mod emitter;
mod error;
mod framing;
mod manifest;
mod name;
mod restart;
mod state;
mod take_back;
mod take_over;
mod verify;
mod writer;

pub use config::{Compress, FileConfig, FileConfigError, Fsync, OnRestart};
pub use emitter::FileEmitter;
pub use verify::{Problem, Verified, VerifyError, verify, verify_against};

/// The manifest's name in the directory.
pub const MANIFEST: &str = "MANIFEST.jsonl";

/// The lock file's name in the directory.
pub const LOCK: &str = "LOCK";
