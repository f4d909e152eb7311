//! Committed transactions, whole and in commit order, from interleaved frames.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cdc_core::storage::Storage;
use cdc_core::{BatchLimit, ChangeEvent, Position, Relation, Transaction};

use super::frames::{Frame, FrameReader};
use crate::format::frame::{
    COMMIT_RECORD, CommitRecord, Fragment, FrameHeader, FrameKind, Heartbeat, Rollback,
};
use crate::format::{FormatError, RECORD_BYTES_MAX, change, relation};
use crate::{LogError, LogErrorKind};

/// Most relations kept to give the same shape the same address in every segment.
const INTERNED_MAX: usize = 4096;
/// Most bytes of frames walked in one go without finding an event, so that an executor's thread
/// is not held by the frames of a large open transaction.
const WALK_BYTES: u64 = 16 << 20;

/// Relations of one segment by id, ascending.
#[derive(Clone, Debug, Default)]
struct Table(Vec<(u32, Arc<Relation>)>);

impl Table {
    #[inline]
    fn get(&self, id: u32) -> Option<&Arc<Relation>> {
        let at = self.0.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.0.get(at).map(|(_, relation)| relation)
    }

    fn set(&mut self, id: u32, relation: Arc<Relation>) {
        match self.0.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(at) => self.0[at].1 = relation,
            Err(at) => self.0.insert(at, (id, relation)),
        }
    }
}

/// A frame's changes, in memory or to be read again.
#[derive(Debug)]
struct Piece {
    lsn: u64,
    fragment: Fragment,
    payload: Option<Bytes>,
    /// Bytes of the payload that were not rolled back.
    limit: usize,
    table: Arc<Table>,
}

#[derive(Debug, Default)]
struct Open {
    pieces: VecDeque<Piece>,
    held: usize,
    spilled: bool,
}

impl Open {
    /// Undoes what a savepoint's rollback undoes; gives the bytes that are no longer held.
    fn roll_back(&mut self, to: Rollback) -> usize {
        let before = self.held;
        while let Some(piece) = self.pieces.back_mut()
            && piece.lsn >= to.lsn
        {
            if piece.lsn == to.lsn {
                piece.limit = piece.limit.min(to.bytes as usize);
                break;
            }
            self.held -= piece.payload.as_ref().map_or(0, Bytes::len);
            self.pieces.pop_back();
        }
        before - self.held
    }
}

/// A committed transaction on its way out.
#[derive(Debug)]
struct Delivering {
    commit: CommitRecord,
    lsn: u64,
    pieces: VecDeque<Piece>,
    bytes: Bytes,
    at: usize,
    table: Arc<Table>,
    done: u32,
    ordinal: u32,
}

/// Reads frames from one place on and gives events.
#[derive(Debug)]
pub(crate) struct Assembler {
    frames: FrameReader,
    /// Frames are read again through this one, so that the main cursor keeps its place.
    again: Option<FrameReader>,
    at: u64,
    begin: u64,
    after: Position,
    end: Position,
    table: Arc<Table>,
    interned: HashSet<Arc<Relation>>,
    open: BTreeMap<u64, Open>,
    held: usize,
    memory_max: usize,
    delivering: Option<Delivering>,
    /// Events of the last batch.
    expected: usize,
    /// A repair left a gap since the last commit.
    gap: bool,
    /// Damage was met: nothing behind it is given.
    broken: Option<LogError>,
}

impl Assembler {
    /// Begins reading at `begin` and gives what is after `after`. At most about `memory_max`
    /// bytes of open transactions are kept; frames beyond it are read again at their commit.
    pub(crate) fn new(
        mut frames: FrameReader,
        begin: u64,
        after: Position,
        memory_max: usize,
        end: u64,
    ) -> Result<Self, LogError> {
        let mut table = Table::default();
        let mut interned = HashSet::new();
        let mut at = frames.id().base(begin) + crate::format::HEADER_BYTES;
        // The definitions a frame needs stand in front of it in its segment.
        while at < begin
            && let Some(frame) = frames.frame(at, end)?
        {
            if frame.header.kind == FrameKind::Relation {
                define(&frames, &mut table, &mut interned, &frame)?;
            }
            at = frames.after(&frame.header);
        }
        // Where it should begin may be lost: the loss is in front of all that comes after `after`.
        let begin = begin.max(at);
        Ok(Self {
            frames,
            again: None,
            at: begin,
            begin,
            after,
            end: after,
            table: Arc::new(table),
            interned,
            open: BTreeMap::new(),
            held: 0,
            memory_max,
            delivering: None,
            expected: 0,
            gap: false,
            broken: None,
        })
    }

    /// The LSN of the next frame.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// Everything up to this was given.
    pub(crate) const fn end(&self) -> Position {
        self.end
    }

    /// True in the middle of a transaction.
    pub(crate) const fn is_delivering(&self) -> bool {
        self.delivering.is_some()
    }

    /// True between a gap that a repair left and the position that tells of it.
    pub(crate) const fn is_behind_gap(&self) -> bool {
        self.gap
    }

    /// Where the log is.
    pub(crate) fn place(&self) -> (Arc<dyn Storage>, PathBuf) {
        self.frames.place()
    }

    /// The oldest LSN this still has to read.
    pub(crate) fn needs(&self) -> u64 {
        let open = self.open.first_key_value().map_or(self.at, |(tx, _)| *tx);
        let delivering = self
            .delivering
            .as_ref()
            .and_then(|tx| tx.pieces.front())
            .map_or(self.at, |piece| piece.lsn);
        open.min(delivering).min(self.at)
    }

    /// Bytes of open transactions in memory.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// Events that may be read up to the LSN `visible`, until a limit is met. Without events,
    /// there may still be more to walk: see [`at`](Self::at).
    ///
    /// # Errors
    /// Damage, for ever from then on, after everything in front of it was given. Of other
    /// failures of the disk nothing is lost: the next call tries again.
    pub(crate) fn fill(
        &mut self,
        visible: u64,
        limit: &BatchLimit,
    ) -> Result<Vec<ChangeEvent>, LogError> {
        if let Some(error) = &self.broken {
            return Err(error.repeat());
        }
        let mut events = Vec::with_capacity(self.expected.min(limit.events_max));
        let filled = self.fill_into(&mut events, visible, limit);
        // The next batch is probably as large; growing step by step would copy it.
        self.expected = events.len();
        if let Some(last) = events.last() {
            self.end = self.end.max(last.position);
        }
        match filled {
            Err(error) => {
                if matches!(
                    error.kind,
                    LogErrorKind::Corrupt | LogErrorKind::Lost { .. }
                ) {
                    self.broken = Some(error.repeat());
                }
                if events.is_empty() {
                    return Err(error);
                }
                Ok(events)
            }
            Ok(()) => Ok(events),
        }
    }

    fn fill_into(
        &mut self,
        events: &mut Vec<ChangeEvent>,
        visible: u64,
        limit: &BatchLimit,
    ) -> Result<(), LogError> {
        let mut bytes = 0;
        let walk_end = self.at.saturating_add(WALK_BYTES);
        loop {
            if self.delivering.is_some() {
                if !self.deliver(events, &mut bytes, limit)? {
                    break;
                }
                if events.len() >= limit.events_max || bytes >= limit.bytes_max {
                    break;
                }
            }
            if self.at >= walk_end {
                break;
            }
            let Some(frame) = self.frames.frame(self.at, visible)? else {
                break;
            };
            self.take(frame)?;
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<(), LogError> {
        let header = frame.header;
        self.at = self.frames.after(&header);
        match header.kind {
            FrameKind::Relation => {
                let table = Arc::make_mut(&mut self.table);
                define(&self.frames, table, &mut self.interned, &frame)?;
            }
            FrameKind::Changes => self.hold(&header, frame.payload),
            FrameKind::Commit => self.commit(&header, &frame.payload)?,
            FrameKind::Abort => self.forget(header.tx),
            FrameKind::Heartbeat => {
                let heartbeat = Heartbeat::decode(&frame.payload)
                    .map_err(|error| self.frames.corrupt(header.lsn, error))?;
                self.check_gap(heartbeat.end, heartbeat.end)?;
                self.end = self.end.max(heartbeat.end);
            }
            FrameKind::Rollback => {
                let rollback = Rollback::decode(&frame.payload)
                    .map_err(|error| self.frames.corrupt(header.lsn, error))?;
                if let Some(open) = self.open.get_mut(&header.tx) {
                    self.held -= open.roll_back(rollback);
                }
            }
            FrameKind::Gap => {
                self.gap = true;
                if header.tx != 0 {
                    self.forget(header.tx);
                } else {
                    self.open.clear();
                    self.held = 0;
                }
                if self.frames.ends_segment(&header) {
                    self.table = Arc::default();
                }
            }
            FrameKind::Restart => {
                self.open.clear();
                self.held = 0;
            }
            FrameKind::Seal => self.table = Arc::default(),
        }
        Ok(())
    }

    fn forget(&mut self, tx: u64) {
        if let Some(open) = self.open.remove(&tx) {
            self.held -= open.held;
        }
    }

    /// At the first position `end` behind a gap: refuses to go on, unless the reader began at
    /// `resume` or behind it, and so knows.
    fn check_gap(&mut self, end: Position, resume: Position) -> Result<(), LogError> {
        if !std::mem::take(&mut self.gap) || self.after >= resume || self.after >= end {
            return Ok(());
        }
        Err(LogError::new(
            LogErrorKind::Lost { resume },
            format!(
                "read the log after {}: what follows was lost to damage that a repair removed; account for the loss and go on at {resume}",
                self.end
            ),
        ))
    }

    fn hold(&mut self, header: &FrameHeader, payload: Bytes) {
        if header.tx < self.begin {
            return;
        }
        let open = self.open.entry(header.tx).or_default();
        let payload = if open.spilled {
            None
        } else {
            // A small frame would keep the whole read it came with alive.
            let payload = if payload.len() < self.frames.chunk_len() / 4 {
                Bytes::copy_from_slice(&payload)
            } else {
                payload
            };
            open.held += payload.len();
            self.held += payload.len();
            Some(payload)
        };
        open.pieces.push_back(Piece {
            lsn: header.lsn,
            fragment: header.fragment,
            payload,
            limit: usize::MAX,
            table: self.table.clone(),
        });
        while self.held > self.memory_max {
            let Some(largest) = self.open.values_mut().max_by_key(|open| open.held) else {
                break;
            };
            self.held -= std::mem::take(&mut largest.held);
            largest.spilled = true;
            for piece in &mut largest.pieces {
                piece.payload = None;
            }
        }
    }

    fn commit(&mut self, header: &FrameHeader, payload: &Bytes) -> Result<(), LogError> {
        let corrupt = |frames: &FrameReader, error| frames.corrupt(header.lsn, error);
        let commit = CommitRecord::decode(payload).map_err(|error| corrupt(&self.frames, error))?;
        let open = if header.tx == header.lsn {
            None
        } else {
            self.open.remove(&header.tx)
        };
        if let Some(open) = &open {
            self.held -= open.held;
        }
        let end = Position::end_of(commit.commit);
        self.check_gap(end, Position::before(commit.commit))?;
        if end <= self.after {
            self.end = self.end.max(end);
            return Ok(());
        }
        if end <= self.end {
            let error = FormatError("a commit whose position is not above the one before it");
            return Err(corrupt(&self.frames, error));
        }
        self.delivering = Some(Delivering {
            commit,
            lsn: header.lsn,
            pieces: open.map(|open| open.pieces).unwrap_or_default(),
            bytes: Bytes::new(),
            at: 0,
            table: self.table.clone(),
            done: 0,
            ordinal: 0,
        });
        let own = Piece {
            lsn: header.lsn,
            fragment: Fragment::None,
            payload: Some(payload.slice(COMMIT_RECORD.min(payload.len())..)),
            limit: usize::MAX,
            table: self.table.clone(),
        };
        if let Some(tx) = &mut self.delivering {
            if tx.pieces.is_empty() {
                // The common case: one frame is the whole transaction.
                tx.bytes = own.payload.unwrap_or_default();
            } else {
                tx.pieces.push_back(own);
            }
        }
        Ok(())
    }

    /// Moves events out; true when the transaction is done.
    fn deliver(
        &mut self,
        events: &mut Vec<ChangeEvent>,
        bytes: &mut usize,
        limit: &BatchLimit,
    ) -> Result<bool, LogError> {
        let Some(tx) = &mut self.delivering else {
            return Ok(true);
        };
        loop {
            let moved = tx.move_out(events, bytes, limit, self.after);
            if !moved.map_err(|error| self.frames.corrupt(tx.lsn, error))? {
                return Ok(false);
            }
            if tx.pieces.is_empty() {
                break;
            }
            let again = self.again.get_or_insert_with(|| self.frames.again());
            next_bytes(tx, again)?;
        }
        if tx.done != tx.commit.events {
            return Err(self.frames.corrupt(
                tx.lsn,
                FormatError("a commit that counts other events than there are"),
            ));
        }
        self.end = self.end.max(Position::end_of(tx.commit.commit));
        self.delivering = None;
        // What was read again is over; its buffer need not be kept until the next large one.
        self.again = None;
        Ok(true)
    }
}

impl Delivering {
    /// Moves the events of the current bytes out; false if a limit was met before their end.
    ///
    /// Kept apart, and its counters in locals: this is where a tail spends its own time.
    #[inline(never)]
    fn move_out(
        &mut self,
        events: &mut Vec<ChangeEvent>,
        bytes: &mut usize,
        limit: &BatchLimit,
        after: Position,
    ) -> Result<bool, FormatError> {
        const MISFIT: FormatError = FormatError("a change that does not fit its transaction");
        let buffer = &self.bytes;
        let CommitRecord {
            commit,
            id,
            micros: commit_micros,
            events: count,
            ..
        } = self.commit;
        let (mut at, mut done, mut next) = (self.at, self.done, self.ordinal);
        let mut used_up = true;
        let mut known: Option<(u32, &Arc<Relation>)> = None;
        // Only a transaction that holds the position it began after has events to pass over.
        let partly = commit <= after.commit;
        while at < buffer.len() {
            if events.len() >= limit.events_max {
                used_up = false;
                break;
            }
            // Here, so that the event is built in its place: growing behind it would copy it.
            if events.len() == events.capacity() {
                events.reserve(1);
                continue;
            }
            let record = change::decode(buffer, at)?;
            let size = record.row_bytes();
            if !events.is_empty() && *bytes + size > limit.bytes_max {
                used_up = false;
                break;
            }
            let ordinal = record.ordinal.unwrap_or(next);
            if ordinal < next || done >= count || ordinal == u32::MAX {
                return Err(MISFIT);
            }
            let relation = match known {
                Some((id, relation)) if id == record.relation => relation,
                _ => {
                    let relation = self.table.get(record.relation).ok_or(MISFIT)?;
                    known = Some((record.relation, relation));
                    relation
                }
            };
            let position = Position::new(commit, ordinal);
            at = record.end;
            done += 1;
            next = ordinal + 1;
            if partly && position <= after {
                continue;
            }
            *bytes += size;
            let before = record.before(buffer);
            let now = record.after(buffer);
            let meta = record.meta(buffer)?;
            events.push(ChangeEvent {
                position,
                relation: relation.clone(),
                transaction: Transaction { id, commit_micros },
                last: done == count,
                op: record.op,
                cause: record.cause,
                before,
                after: now,
                meta,
            });
        }
        (self.at, self.done, self.ordinal) = (at, done, next);
        Ok(used_up)
    }
}

/// Makes the next piece of a transaction the current bytes, putting fragments together. A read that
/// fails leaves everything as it was.
fn next_bytes(tx: &mut Delivering, again: &mut FrameReader) -> Result<(), LogError> {
    let mut parts: Option<(Vec<u8>, usize)> = None;
    for used in 0..tx.pieces.len() {
        let piece = &tx.pieces[used];
        let whole = match &piece.payload {
            Some(payload) => payload.clone(),
            None => match again.frame(piece.lsn, u64::MAX)? {
                Some(frame) => frame.payload,
                None => return Err(again.corrupt(piece.lsn, "no frame")),
            },
        };
        let payload = whole.slice(..piece.limit.min(whole.len()));
        let bad = |what| again.corrupt(piece.lsn, FormatError(what));
        let bytes = match (piece.fragment, &mut parts) {
            (Fragment::None, None) => payload,
            (Fragment::First, None) => {
                let Some((length, rest)) = payload.split_first_chunk::<4>() else {
                    return Err(bad("a fragment that is cut off"));
                };
                let length = u32::from_le_bytes(*length) as usize;
                if length > RECORD_BYTES_MAX {
                    return Err(bad("a record larger than any may be"));
                }
                parts = Some((rest.to_vec(), length));
                continue;
            }
            (Fragment::Middle | Fragment::Last, Some((bytes, length))) => {
                if bytes.len() + payload.len() > *length {
                    return Err(bad("fragments longer than their record"));
                }
                bytes.extend_from_slice(&payload);
                if piece.fragment == Fragment::Middle {
                    continue;
                }
                if bytes.len() != *length {
                    return Err(bad("fragments shorter than their record"));
                }
                Bytes::from(std::mem::take(bytes))
            }
            _ => return Err(bad("fragments out of order")),
        };
        tx.table = piece.table.clone();
        tx.bytes = bytes;
        tx.at = 0;
        tx.pieces.drain(..=used);
        return Ok(());
    }
    match parts {
        None => Ok(()),
        Some(_) => Err(again.corrupt(tx.lsn, FormatError("a record without its last fragment"))),
    }
}

fn define(
    frames: &FrameReader,
    table: &mut Table,
    interned: &mut HashSet<Arc<Relation>>,
    frame: &Frame,
) -> Result<(), LogError> {
    let (id, relation) = relation::decode(&frame.payload)
        .map_err(|error| frames.corrupt(frame.header.lsn, error))?;
    let relation = match interned.get(&relation) {
        Some(known) => known.clone(),
        None => {
            if interned.len() >= INTERNED_MAX {
                interned.clear();
            }
            let relation = Arc::new(relation);
            interned.insert(relation.clone());
            relation
        }
    };
    table.set(id, relation);
    Ok(())
}
