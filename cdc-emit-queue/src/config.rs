//! What an operator sets.

/// Bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Most events queued or handed over and not yet acknowledged; also the most hand-overs that
    /// may wait behind an unacknowledged one. Default 65 536.
    pub capacity: usize,
    /// Most bytes of those events: row images, engine extras and a fixed part an event. A
    /// hand-over that is larger than this passes alone. Default 64 MiB.
    pub bytes_max: usize,
    /// Most events of one hand-over. Default 100.
    pub batch_size: usize,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            capacity: 65_536,
            bytes_max: 64 << 20,
            batch_size: 100,
        }
    }
}

/// A bound that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueConfigError {
    /// A bound of zero would let nothing through.
    #[error("open a queue: {key} is 0, which would let nothing through; set it to at least 1")]
    Zero {
        /// The configuration key.
        key: &'static str,
    },
    /// More than can be counted or held.
    #[error("open a queue: queue_capacity is {capacity}; set it to at most {max}")]
    TooLarge {
        /// What was asked for.
        capacity: usize,
        /// The bound.
        max: usize,
    },
}

impl QueueConfig {
    /// Largest `capacity`.
    pub const CAPACITY_MAX: usize = 1 << 30;

    /// Checks the bounds.
    ///
    /// # Errors
    /// [`QueueConfigError`].
    pub const fn validate(&self) -> Result<(), QueueConfigError> {
        if self.capacity == 0 {
            return Err(QueueConfigError::Zero {
                key: "queue_capacity",
            });
        }
        if self.bytes_max == 0 {
            return Err(QueueConfigError::Zero {
                key: "queue_bytes_max",
            });
        }
        if self.batch_size == 0 {
            return Err(QueueConfigError::Zero { key: "batch_size" });
        }
        if self.capacity > Self::CAPACITY_MAX {
            return Err(QueueConfigError::TooLarge {
                capacity: self.capacity,
                max: Self::CAPACITY_MAX,
            });
        }
        Ok(())
    }
}
