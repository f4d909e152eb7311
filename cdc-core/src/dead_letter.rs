//! Dead letters: events that one emitter could not deliver.

use std::fmt;
use std::sync::Arc;

use crate::{ChangeEvent, DlqError, EventId, Lineage, Position, SourceInfo};

/// Where on its way an event failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stage {
    /// In a filter.
    Filter = 0,
    /// In a transform.
    Transform = 1,
    /// While it was encoded.
    Encode = 2,
    /// At the destination.
    Deliver = 3,
}

impl Stage {
    /// The name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Transform => "transform",
            Self::Encode => "encode",
            Self::Deliver => "deliver",
        }
    }

    /// The stage with this format number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Filter),
            1 => Some(Self::Transform),
            2 => Some(Self::Encode),
            3 => Some(Self::Deliver),
            _ => None,
        }
    }
}

/// What has become of a letter. States only move forward, except redriving back to pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LetterState {
    /// Waits for a person.
    Pending = 0,
    /// Waits behind a pending letter of the same key.
    Parked = 1,
    /// Being delivered again; pending after a crash.
    Redriving = 2,
    /// Delivered by a redrive.
    Delivered = 3,
    /// Given up by an operator.
    Discarded = 4,
}

impl LetterState {
    /// The name in listings and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Parked => "parked",
            Self::Redriving => "redriving",
            Self::Delivered => "delivered",
            Self::Discarded => "discarded",
        }
    }

    /// The state with this format number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Pending),
            1 => Some(Self::Parked),
            2 => Some(Self::Redriving),
            3 => Some(Self::Delivered),
            4 => Some(Self::Discarded),
            _ => None,
        }
    }

    /// True if the letter still has to be dealt with.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Parked | Self::Redriving)
    }
}

/// Why an event failed. Never holds row contents, headers or secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// Class: the name of an [`EmitErrorKind`](crate::EmitErrorKind), `transform`, `encode`.
    pub class: Arc<str>,
    /// What was attempted and what went wrong.
    pub message: String,
    /// The destination's status.
    pub status: Option<u16>,
    /// At most 1 KiB of the destination's answer.
    pub response: Option<String>,
}

/// An event that one emitter could not deliver, as it was before transforms.
#[derive(Clone)]
pub struct DeadLetter {
    /// The emitter.
    pub emitter: Arc<str>,
    /// Where the event comes from.
    pub source: Arc<SourceInfo>,
    /// The original event.
    pub event: ChangeEvent,
    /// Why it failed, the last time.
    pub failure: Failure,
    /// How often it was tried.
    pub attempts: u32,
    /// First failure, microseconds since 1970.
    pub first_failed_micros: i64,
    /// Last failure, microseconds since 1970.
    pub last_failed_micros: i64,
    /// What has become of it.
    pub state: LetterState,
}

impl DeadLetter {
    /// The event's id; with the emitter's name it identifies the letter.
    pub fn event_id(&self) -> EventId {
        EventId::new(&self.source.lineage, self.event.position)
    }

    /// True if the letter's position says the same in the history of `lineage`, of which what follows `behind`
    /// is still to come. Of another timeline of the source that is so up to there: the histories may part
    /// behind it, and give one position, and with it one event id, to two different events.
    pub fn is_of(&self, lineage: &Lineage, behind: Position) -> bool {
        let own = &self.source.lineage;
        own == lineage || own.same_source(lineage) && self.event.position <= behind
    }
}

/// Names the event, not its contents.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("emitter", &self.emitter)
            .field("event_id", &self.event_id())
            .field("state", &self.state)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Takes dead letters; what a lane sees of the queue.
pub trait DeadLetterQueue: Send {
    /// Takes letters. On `Ok` they are durable. A letter of an emitter and event id that is
    /// already there is not stored twice, unless that one is closed (delivered or discarded).
    ///
    /// # Errors
    /// [`DlqError`]; nothing is dropped: the lane waits for room if it is [`DlqError::Full`], which must
    /// have stored nothing, or [`DlqError::NoSpace`], which may have stored the first of them, and halts otherwise. Blocking: call it off async workers.
    fn append(&mut self, letters: &[DeadLetter]) -> Result<(), DlqError>;

    /// Records what has become of a letter, durably.
    ///
    /// # Errors
    /// [`DlqError`].
    fn set_state(&mut self, emitter: &str, id: EventId, state: LetterState)
    -> Result<(), DlqError>;

    /// Records the same of many letters of one emitter, durably; a queue that can do it with one
    /// sync does. After an error a part may be recorded.
    ///
    /// # Errors
    /// [`DlqError`].
    fn set_states(
        &mut self,
        emitter: &str,
        ids: &[EventId],
        state: LetterState,
    ) -> Result<(), DlqError> {
        ids.iter()
            .try_for_each(|id| self.set_state(emitter, *id, state))
    }

    /// Open letters of an emitter in position order, at most `limit`, strictly after `after`.
    ///
    /// # Errors
    /// [`DlqError`].
    fn open_letters(
        &mut self,
        emitter: &str,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DlqError>;
}
