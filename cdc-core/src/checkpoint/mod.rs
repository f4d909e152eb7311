//! Checkpoints: how far each emitter is, durably.

pub(crate) mod file;

use std::fmt::Debug;

use bytes::Bytes;

use crate::{CheckpointError, Lineage, Position};

pub use file::FileCheckpoints;

/// The stored, durable position of one emitter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The history `position` belongs to.
    pub lineage: Lineage,
    /// Everything up to and including this is delivered, dead-lettered or filtered out.
    pub position: Position,
    /// The emitter's own state at that position, at most [`Checkpoint::STATE_MAX`] bytes.
    pub state: Bytes,
    /// When it was stored, microseconds since 1970; for people.
    pub stored_micros: i64,
}

impl Checkpoint {
    /// Most bytes of emitter state.
    pub const STATE_MAX: usize = 4096;
}

/// Keeps one checkpoint an emitter. Blocking: call it off async workers.
pub trait CheckpointStore: Send + Sync + Debug {
    /// The stored checkpoint of an emitter.
    ///
    /// # Errors
    /// [`CheckpointError`].
    fn load(&self, emitter: &str) -> Result<Option<Checkpoint>, CheckpointError>;

    /// Stores a checkpoint; durable on `Ok`. Never goes back and never changes lineage.
    ///
    /// # Errors
    /// [`CheckpointError::Backwards`] and [`CheckpointError::OtherLineage`] store nothing; after
    /// an I/O error the store is dead.
    fn advance(&self, emitter: &str, checkpoint: &Checkpoint) -> Result<(), CheckpointError>;

    /// Stores a checkpoint an operator asked for, which may go back or to another lineage.
    ///
    /// # Errors
    /// As for [`advance`](Self::advance), but for the direction.
    fn reset(&self, emitter: &str, checkpoint: Option<&Checkpoint>) -> Result<(), CheckpointError>;

    /// All emitters with their checkpoints, by name.
    ///
    /// # Errors
    /// [`CheckpointError`].
    fn list(&self) -> Result<Vec<(String, Checkpoint)>, CheckpointError>;
}
