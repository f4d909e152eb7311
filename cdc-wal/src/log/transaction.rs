//! Transactions: changes gather in a buffer of their own and reach the log at commit.

use std::fmt;
use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, Image, Lsn, Meta, Op, Position, Relation, RowImage, wall_micros};

use super::Handle;
use super::registry::Known;
use super::retention;
use super::savepoint::{Mark, Savepoint, Savepoints};
use super::state::Place;
use crate::format::change::{self, ChangeHead, Part, Parts, Written};
use crate::format::frame::{
    COMMIT_RECORD, CommitRecord, FRAME_HEADER, Fragment, FrameKind, Rollback,
};
use crate::format::{RECORD_BYTES_MAX, align};
use crate::{LogError, LogErrorKind};

/// Room in front of the changes: a frame's header and a commit record.
const HEAD: usize = FRAME_HEADER + COMMIT_RECORD;

/// First capacity of a transaction's buffer: most are smaller, and growing copies.
const BUFFER_BYTES: usize = 4096;

/// Where a commit stands in its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitAt {
    /// The source's coordinate of the commit; `None` for the LSN of the commit frame.
    pub commit: Option<Lsn>,
    /// Commit time, microseconds since 1970-01-01T00:00:00Z.
    pub micros: i64,
}

/// An open transaction. Dropping it aborts it.
///
/// Of a transaction that fits a frame (at most 1 MiB), nothing is in the log before it commits.
/// Larger ones put full frames into the log early; tails keep them back until the commit.
pub struct Transaction {
    handle: Arc<Handle>,
    id: u64,
    buffer: Vec<u8>,
    /// Relations of the changes in the buffer.
    relations: Vec<Known>,
    /// The one looked up last: that of the newest record.
    newest: usize,
    /// Bytes of their definitions.
    definitions: usize,
    /// LSN of the first frame, once there is one.
    tx: Option<u64>,
    /// LSN of the newest frame of changes; 0 without one.
    last_frame: u64,
    savepoints: Savepoints,
    events: u32,
    in_buffer: u32,
    next_ordinal: u32,
    /// An append failed, or the caller's code panicked in a row half written: only aborting is left.
    failed: bool,
    /// Appends although the log is full: the journal holds its source back itself.
    pub(crate) unbounded: bool,
}

/// Prints counts only: row contents belong to destinations, not to logs.
impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("id", &self.id)
            .field("events", &self.events)
            .field("buffered_bytes", &self.buffer.len().saturating_sub(HEAD))
            .finish_non_exhaustive()
    }
}

impl Transaction {
    pub(crate) fn new(handle: Arc<Handle>, id: u64) -> Self {
        Self {
            handle,
            id,
            buffer: {
                let mut buffer = Vec::with_capacity(BUFFER_BYTES);
                buffer.resize(HEAD, 0);
                buffer
            },
            relations: Vec::new(),
            newest: 0,
            definitions: 0,
            tx: None,
            last_frame: 0,
            savepoints: Savepoints::default(),
            events: 0,
            in_buffer: 0,
            next_ordinal: 0,
            failed: false,
            unbounded: false,
        }
    }

    /// Events so far.
    pub const fn event_count(&self) -> u32 {
        self.events
    }

    /// A row appeared.
    ///
    /// # Errors
    /// As for [`change`](Self::change).
    pub fn insert(&mut self, relation: &Arc<Relation>, after: &RowImage) -> Result<(), LogError> {
        let after = Image::Full(after.clone());
        self.change(
            Op::Insert,
            relation,
            &Image::Absent,
            &after,
            Cause::Client,
            None,
        )
    }

    /// A row appeared; its columns are written straight into the transaction's buffer.
    ///
    /// # Errors
    /// As for [`change`](Self::change).
    pub fn insert_with(
        &mut self,
        relation: &Arc<Relation>,
        write: impl FnOnce(&mut RowWriter<'_>),
    ) -> Result<(), LogError> {
        let head = self.head(Op::Insert, relation, Cause::Client, None)?;
        let start = self.buffer.len();
        // The caller's code may panic, and be caught: half a record must not be committed.
        self.failed = true;
        let values = change::encode_with(&mut self.buffer, head, true, write);
        self.failed = false;
        if let Err(error) = fits(relation, values as usize) {
            self.take_back(start);
            return Err(error);
        }
        self.added(start)
    }

    /// A row changed.
    ///
    /// # Errors
    /// As for [`change`](Self::change).
    pub fn update(
        &mut self,
        relation: &Arc<Relation>,
        before: &Image,
        after: &RowImage,
    ) -> Result<(), LogError> {
        let after = Image::Full(after.clone());
        self.change(Op::Update, relation, before, &after, Cause::Client, None)
    }

    /// A row went away.
    ///
    /// # Errors
    /// As for [`change`](Self::change).
    pub fn delete(&mut self, relation: &Arc<Relation>, before: &Image) -> Result<(), LogError> {
        self.change(
            Op::Delete,
            relation,
            before,
            &Image::Absent,
            Cause::Client,
            None,
        )
    }

    /// A table was emptied.
    ///
    /// # Errors
    /// As for [`change`](Self::change).
    pub fn truncate(&mut self, relation: &Arc<Relation>) -> Result<(), LogError> {
        self.change(
            Op::Truncate,
            relation,
            &Image::Absent,
            &Image::Absent,
            Cause::Client,
            None,
        )
    }

    /// Any change. See [`ChangeEvent`](cdc_core::ChangeEvent) for which images an op has.
    ///
    /// # Errors
    /// [`LogErrorKind::TooLarge`] for a record over its bound, [`LogErrorKind::Invalid`] for a row that
    /// has not one value a column of its table: the transaction is then as it was.
    /// [`LogErrorKind::Io`] or [`LogErrorKind::Dead`] if a full frame could not be appended:
    /// only aborting is left. [`LogErrorKind::Full`] if the log is full: likewise.
    pub fn change(
        &mut self,
        op: Op,
        relation: &Arc<Relation>,
        before: &Image,
        after: &Image,
        cause: Cause,
        meta: Option<&Meta>,
    ) -> Result<(), LogError> {
        for row in [before.row(), after.row()].into_iter().flatten() {
            // Bytes that are no row have no values.
            fits(relation, row.column_count().unwrap_or(0))?;
        }
        self.change_at(None, op, relation, before, after, cause, meta)
    }

    /// As [`change`](Self::change), with the source's own ordinal.
    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one record, crate-internal"
    )]
    pub(crate) fn change_at(
        &mut self,
        ordinal: Option<u32>,
        op: Op,
        relation: &Arc<Relation>,
        before: &Image,
        after: &Image,
        cause: Cause,
        meta: Option<&Meta>,
    ) -> Result<(), LogError> {
        let meta = match meta {
            None => None,
            Some(meta) => Some(change::encode_meta(meta).ok_or_else(|| {
                LogError::new(
                    LogErrorKind::TooLarge,
                    format!(
                        "append a change of {}: its meta has more than 256 entries",
                        relation.qualified_name()
                    ),
                )
            })?),
        };
        let meta_len = meta.as_ref().map_or(0, RowImage::len);
        let bound = change::encoded_bound(before, after, meta_len);
        if bound > RECORD_BYTES_MAX {
            return Err(too_large(relation, bound));
        }
        let head = self.head(op, relation, cause, ordinal)?;
        let start = self.buffer.len();
        change::encode(&mut self.buffer, head, before, after, meta.as_ref());
        self.added(start)
    }

    /// A change whose parts are written straight into the transaction's buffer: `write` is called
    /// for each part that is there, and writes one value a column, or names and values by turns.
    /// The forms of the rows follow from the columns that are unavailable.
    ///
    /// Rows that do not fit the relation are refused, and the transaction is as it was.
    pub(crate) fn record(
        &mut self,
        (op, cause): (Op, Cause),
        relation: &Arc<Relation>,
        parts: Parts,
        write: impl FnMut(Part, &mut RowWriter<'_>),
    ) -> Result<(), LogError> {
        let head = self.head(op, relation, cause, None)?;
        let start = self.buffer.len();
        // As in `insert_with`.
        self.failed = true;
        let [before, after, _] = change::encode_parts(&mut self.buffer, head, parts, write);
        self.failed = false;
        let forms = form(relation, parts.before, before).and_then(|before| {
            let after = form(relation, parts.after, after)?;
            if before > 1 && relation.key.is_empty() {
                return Err(LogError::new(
                    LogErrorKind::Invalid,
                    format!(
                        "append a change of {}: it has no key, so the old row must be whole",
                        relation.qualified_name()
                    ),
                ));
            }
            // An update's new row is never a key image: what is not known of it is unavailable.
            let after = if op == Op::Update && after == 2 {
                3
            } else {
                after
            };
            Ok((before, after))
        });
        match forms {
            Ok((before, after)) => {
                change::set_forms(&mut self.buffer, start, before, after);
                self.added(start)
            }
            Err(error) => {
                self.take_back(start);
                Err(error)
            }
        }
    }

    /// Forgets the record that was begun last, at `start`.
    fn take_back(&mut self, start: usize) {
        self.buffer.truncate(start);
        self.next_ordinal -= 1;
    }

    #[inline]
    fn head(
        &mut self,
        op: Op,
        relation: &Arc<Relation>,
        cause: Cause,
        ordinal: Option<u32>,
    ) -> Result<ChangeHead, LogError> {
        if self.failed {
            return Err(LogError::new(
                LogErrorKind::Dead,
                "append to a transaction: an earlier append of it failed or panicked; abort it",
            ));
        }
        let explicit = ordinal.filter(|&ordinal| ordinal != self.next_ordinal);
        let place = ordinal.unwrap_or(self.next_ordinal);
        if place < self.next_ordinal || place >= u32::MAX - 1 {
            return Err(LogError::new(
                LogErrorKind::TooLarge,
                format!("append to a transaction: event {place} is out of order or out of bounds"),
            ));
        }
        let relation = self.relation_id(relation)?;
        self.next_ordinal = place + 1;
        Ok(ChangeHead {
            relation,
            op,
            cause,
            ordinal: explicit,
        })
    }

    #[inline]
    fn relation_id(&mut self, relation: &Arc<Relation>) -> Result<u32, LogError> {
        if let Some(known) = self.relations.get(self.newest)
            && Arc::ptr_eq(&known.relation, relation)
        {
            return Ok(known.id);
        }
        let mut recent = self.relations.iter().take(16);
        if let Some(index) = recent.position(|known| Arc::ptr_eq(&known.relation, relation)) {
            self.newest = index;
            return Ok(self.relations[index].id);
        }
        let shared = &self.handle.shared;
        let max = shared.frame_max - FRAME_HEADER - 4;
        let known = {
            let mut registry = shared
                .registry
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            registry.get(relation, max)?
        };
        if let Some(index) = self.relations.iter().position(|k| k.id == known.id) {
            self.newest = index;
        } else {
            let definition = FRAME_HEADER + 4 + known.definition.len() + 8;
            // A frame and the definitions it may have to bring must fit one segment.
            if self.definitions + definition > 2 * shared.frame_max {
                self.flush_buffer(self.buffer.len())?;
            }
            self.definitions += definition;
            self.newest = self.relations.len();
            self.relations.push(known.clone());
        }
        Ok(known.id)
    }

    /// A record was added at `start`: puts full frames into the log.
    fn added(&mut self, start: usize) -> Result<(), LogError> {
        let max = self.handle.shared.frame_max;
        let record = self.buffer.len() - start;
        if record > RECORD_BYTES_MAX {
            self.take_back(start);
            return Err(LogError::new(
                LogErrorKind::TooLarge,
                format!(
                    "append a change: its record has {record} bytes, at most {RECORD_BYTES_MAX} fit"
                ),
            ));
        }
        self.events += 1;
        if self.buffer.len() > max {
            if start > HEAD {
                self.flush_buffer(start)?;
            }
            if record + FRAME_HEADER > max {
                return self.flush_fragments();
            }
            // It fits a frame of its own, but not one with a commit record in front of it. Parts
            // of it would be one part, which has no last one.
            if self.buffer.len() > max {
                return self.flush_buffer(self.buffer.len());
            }
        }
        self.in_buffer += 1;
        Ok(())
    }

    /// Appends the changes in front of `end` as a frame of an open transaction; what is behind
    /// `end` stays in the buffer.
    fn flush_buffer(&mut self, end: usize) -> Result<(), LogError> {
        if end > HEAD {
            let previous = self.last_frame;
            let mut buffer = std::mem::take(&mut self.buffer);
            let appended = self.append(&mut buffer[HEAD - FRAME_HEADER..end], Fragment::None);
            // Every savepoint is at or in front of the newest record, so in front of `end`.
            if appended.is_ok() {
                self.savepoints.flushed(HEAD, previous, self.last_frame);
            }
            // The buffer stays: what is behind the frame moves to its front.
            buffer.copy_within(end.., HEAD);
            buffer.truncate(HEAD + buffer.len() - end);
            self.buffer = buffer;
            appended?;
            if self.buffer.len() == HEAD {
                self.relations.clear();
                self.definitions = 0;
            } else {
                // One record is left.
                let newest = self.relations.swap_remove(self.newest);
                self.definitions = newest.definition.len() + FRAME_HEADER + 12;
                self.relations.clear();
                self.relations.push(newest);
                self.newest = 0;
            }
        }
        self.in_buffer = 0;
        Ok(())
    }

    /// Appends the one record in the buffer, which is larger than a frame, in parts.
    fn flush_fragments(&mut self) -> Result<(), LogError> {
        let buffer = std::mem::replace(&mut self.buffer, vec![0; HEAD]);
        let record = &buffer[HEAD..];
        let max = self.handle.shared.frame_max - FRAME_HEADER;
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        let mut at = 0;
        // Savepoints still in the buffer are in front of this record.
        self.savepoints
            .flushed(HEAD, self.last_frame, self.last_frame);
        let mut frame = Vec::with_capacity(self.handle.shared.frame_max);
        while at < record.len() {
            frame.clear();
            frame.resize(FRAME_HEADER, 0);
            if at == 0 {
                frame.extend_from_slice(&length.to_le_bytes());
            }
            let room = max + FRAME_HEADER - frame.len();
            let end = (at + room).min(record.len());
            let fragment = match (at, end == record.len()) {
                (0, _) => Fragment::First,
                (_, false) => Fragment::Middle,
                (_, true) => Fragment::Last,
            };
            frame.extend_from_slice(&record[at..end]);
            self.append(&mut frame, fragment)?;
            at = end;
        }
        self.relations.clear();
        self.definitions = 0;
        self.in_buffer = 0;
        Ok(())
    }

    fn append(&mut self, frame: &mut [u8], fragment: Fragment) -> Result<(), LogError> {
        let shared = &self.handle.shared;
        let state = shared.lock();
        let full = !self.unbounded && retention::is_full(shared, &state);
        let result = if full {
            Err(is_full(shared))
        } else {
            shared.append(
                state,
                frame,
                Place {
                    kind: FrameKind::Changes,
                    fragment,
                    tx: self.tx,
                },
                &self.relations,
                |_, _, _| {},
            )
        };
        match result {
            Ok((mut state, lsn)) => {
                if self.tx.is_none() {
                    state.open.insert(lsn);
                    self.tx = Some(lsn);
                }
                self.last_frame = lsn;
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    /// Marks this place, to undo what follows it. Costs no I/O.
    ///
    /// # Errors
    /// [`LogErrorKind::TooLarge`] beyond 65 536 savepoints at once: release some.
    pub fn savepoint(&mut self) -> Result<Savepoint, LogError> {
        self.savepoints.add(Mark::InBuffer {
            at: self.buffer.len(),
            events: self.events,
            in_buffer: self.in_buffer,
            ordinal: self.next_ordinal,
        })
    }

    /// Undoes what was changed since a savepoint, which stays; later ones are gone. No tail ever
    /// shows what was undone, and the ordinals of what follows go on as if it had not been.
    ///
    /// # Errors
    /// [`LogErrorKind::NotFound`] for a savepoint that was released or rolled past, or of another
    /// transaction. [`LogErrorKind::Io`] or [`LogErrorKind::Dead`] if the rollback of what is in
    /// the log already could not be appended: only aborting is left.
    pub fn rollback_to(&mut self, savepoint: &Savepoint) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::new(
                LogErrorKind::Dead,
                "roll a transaction back: an earlier append of it failed or panicked; abort it",
            ));
        }
        let mark = self.savepoints.return_to(savepoint)?;
        match mark {
            Mark::InBuffer { at, in_buffer, .. } => {
                self.buffer.truncate(at);
                self.in_buffer = in_buffer;
            }
            Mark::InLog { frame, bytes, .. } => {
                let in_log = self.events - self.in_buffer;
                self.buffer.truncate(HEAD);
                self.relations.clear();
                (self.newest, self.definitions, self.in_buffer) = (0, 0, 0);
                if in_log > mark.events() {
                    self.append_rollback(frame, bytes)?;
                }
            }
        }
        self.events = mark.events();
        self.next_ordinal = mark.ordinal();
        Ok(())
    }

    /// Forgets a savepoint and all later ones; what was changed since stays.
    ///
    /// # Errors
    /// [`LogErrorKind::NotFound`] as for [`rollback_to`](Self::rollback_to).
    pub fn release(&mut self, savepoint: &Savepoint) -> Result<(), LogError> {
        self.savepoints.release(savepoint)
    }

    /// Says in the log that of this transaction only what stands up to `bytes` into the payload of
    /// the frame at `lsn` is left.
    fn append_rollback(&mut self, lsn: u64, bytes: u32) -> Result<(), LogError> {
        let Some(tx) = self.tx else {
            return Ok(());
        };
        let shared = &self.handle.shared;
        let mut frame = [0; FRAME_HEADER + 12];
        frame[FRAME_HEADER..].copy_from_slice(&Rollback { lsn, bytes }.encode());
        let state = shared.lock();
        let place = Place::new(FrameKind::Rollback, Some(tx));
        let appended = shared.append(state, &mut frame, place, &[], |_, _, _| {});
        self.failed = appended.is_err();
        appended.map(drop)
    }

    /// Commits, and waits as the [`SyncPolicy`](crate::SyncPolicy) says. A transaction without
    /// events writes nothing and gives the log's end.
    ///
    /// # Errors
    /// [`LogErrorKind::Full`]: nothing was committed. [`LogErrorKind::Io`] or
    /// [`LogErrorKind::Dead`]: whether the commit survives is known after opening the log again.
    pub fn commit(self) -> Result<Position, LogError> {
        let handle = self.handle.clone();
        let (position, end) = self.commit_at(CommitAt {
            commit: None,
            micros: wall_micros(),
        })?;
        if handle.shared.config.sync == super::SyncPolicy::Always {
            handle.shared.flush_to(end)?;
        }
        Ok(position)
    }

    /// Commits without waiting for a sync, whatever the policy; [`Log::flush`](crate::Log::flush)
    /// makes it durable.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit).
    pub fn commit_unsynced(self) -> Result<Position, LogError> {
        let at = CommitAt {
            commit: None,
            micros: wall_micros(),
        };
        self.commit_at(at).map(|(position, _)| position)
    }

    /// Commits with the given coordinate; gives the position and the LSN behind the commit.
    pub(crate) fn commit_at(mut self, at: CommitAt) -> Result<(Position, u64), LogError> {
        let handle = self.handle.clone();
        let shared = &handle.shared;
        if self.failed {
            return Err(LogError::new(
                LogErrorKind::Dead,
                "commit a transaction: an append of it failed or panicked; it is aborted",
            ));
        }
        if self.events == 0 {
            // Everything may have been rolled back: what is in the log of it ends here.
            self.end_open()?;
        }
        let state = shared.lock();
        if self.events == 0 {
            return Ok((state.last, state.next));
        }
        if !self.unbounded && retention::is_full(shared, &state) {
            return Err(is_full(shared));
        }
        let (id, events, changes, tx) = (self.id, self.events, self.in_buffer, self.tx);
        let mut position = state.last;
        let appended = shared.append(
            state,
            &mut self.buffer,
            Place::new(FrameKind::Commit, tx),
            &self.relations,
            |state, frame, lsn| {
                if let Some(tx) = tx {
                    state.open.remove(&tx);
                }
                let commit = at.commit.unwrap_or(Lsn(lsn));
                let record = CommitRecord {
                    commit,
                    id,
                    micros: at.micros,
                    restart: state.restart(lsn + align(frame.len() as u64)),
                    events,
                    changes,
                };
                frame[FRAME_HEADER..HEAD].copy_from_slice(&record.encode());
                position = Position::end_of(commit);
                state.last = position;
            },
        );
        match appended {
            Ok((state, _)) => {
                self.tx = None;
                let end = state.next;
                let trim = state.trim_due && !shared.config.background;
                drop(state);
                if trim && let Err(error) = retention::trim(shared) {
                    // The commit is in the log; what could not be trimmed is tried again.
                    tracing::warn!(%error, "log not trimmed");
                }
                Ok((position, end))
            }
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    /// Aborts.
    ///
    /// # Errors
    /// If the abort of a transaction that is partly in the log could not be written; it is
    /// aborted all the same.
    pub fn abort(mut self) -> Result<(), LogError> {
        self.end_open()
    }

    fn end_open(&mut self) -> Result<(), LogError> {
        let Some(tx) = self.tx.take() else {
            return Ok(());
        };
        let shared = &self.handle.shared;
        let state = shared.lock();
        let mut frame = [0; FRAME_HEADER];
        let appended = shared.append(
            state,
            &mut frame,
            Place::new(FrameKind::Abort, Some(tx)),
            &[],
            |state, _, _| {
                state.open.remove(&tx);
            },
        );
        appended.map(drop)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Err(error) = self.end_open()
            && error.kind != LogErrorKind::Dead
        {
            tracing::warn!(%error, "abort of a dropped transaction not written");
        }
    }
}

/// Refuses a row that has not one value a column.
fn fits(relation: &Relation, values: usize) -> Result<(), LogError> {
    let columns = relation.columns.len();
    if values == columns {
        return Ok(());
    }
    Err(LogError::new(
        LogErrorKind::Invalid,
        format!(
            "append a change of {}: a row of {values} values was written, the table has {columns} columns",
            relation.qualified_name()
        ),
    ))
}

/// The form of a row by what is missing of it.
fn form(relation: &Relation, there: bool, row: Written) -> Result<u8, LogError> {
    let columns = relation.columns.len();
    let gaps = row.gaps as usize;
    if there {
        fits(relation, row.values as usize)?;
    }
    let key = relation.key.len();
    Ok(match gaps {
        _ if !there => 0,
        0 => 1,
        _ if key > 0 && gaps == columns - key => 2,
        _ => 3,
    })
}

fn is_full(shared: &super::state::Shared) -> LogError {
    LogError::new(
        LogErrorKind::Full,
        format!(
            "append to the log {}: it is at retain_bytes_max and a cursor or open transaction holds it; let the cursor confirm, remove it, or raise retain_bytes_max",
            shared.dir.display()
        ),
    )
}

fn too_large(relation: &Relation, bytes: usize) -> LogError {
    LogError::new(
        LogErrorKind::TooLarge,
        format!(
            "append a change of {}: its record has up to {bytes} bytes, at most {RECORD_BYTES_MAX} fit",
            relation.qualified_name()
        ),
    )
}
