//! Frames: header, checksum, and the payloads of fixed shape.

use cdc_core::{Lsn, Position};

use super::{FormatError, align, take_u32, take_u64};

/// Length of a frame's header.
pub const FRAME_HEADER: usize = 32;
/// Length of a commit record.
pub const COMMIT_RECORD: usize = 40;
/// Room kept at a segment's end for its seal.
pub const SEAL_ROOM: u64 = 64;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A relation's definition.
    Relation = 1,
    /// Changes of a transaction that is still open.
    Changes = 2,
    /// A commit and the last changes of its transaction.
    Commit = 3,
    /// A transaction's end without effect.
    Abort = 4,
    /// A position without a transaction.
    Heartbeat = 5,
    /// The writer was opened: open transactions are aborted.
    Restart = 6,
    /// The segment's end.
    Seal = 7,
    /// Changes of an open transaction are undone back to a savepoint.
    Rollback = 8,
    /// Written by a repair: what stood here is lost.
    Gap = 9,
}

impl FrameKind {
    const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Relation,
            2 => Self::Changes,
            3 => Self::Commit,
            4 => Self::Abort,
            5 => Self::Heartbeat,
            6 => Self::Restart,
            7 => Self::Seal,
            8 => Self::Rollback,
            9 => Self::Gap,
            _ => return None,
        })
    }

    /// The name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relation => "relation",
            Self::Changes => "changes",
            Self::Commit => "commit",
            Self::Abort => "abort",
            Self::Heartbeat => "heartbeat",
            Self::Restart => "restart",
            Self::Seal => "seal",
            Self::Rollback => "rollback",
            Self::Gap => "gap",
        }
    }
}

/// Which part of a record that is larger than a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// Whole records.
    None = 0,
    /// The first part, behind the record's whole length.
    First = 1,
    /// A part.
    Middle = 2,
    /// The last part.
    Last = 3,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Length of header and payload.
    pub len: u32,
    /// Where the frame stands.
    pub lsn: u64,
    /// What it holds.
    pub kind: FrameKind,
    /// Part of a large record.
    pub fragment: Fragment,
    /// Everything below was durable when it was appended; 0 for a gap.
    pub flushed: u64,
    /// Bytes from its LSN to the next frame's: its own length and padding, of a gap all that it
    /// stands for.
    pub skip: u64,
    /// Its transaction: the LSN of the transaction's first frame; 0 for none.
    pub tx: u64,
}

impl FrameHeader {
    /// LSN behind the frame and its padding, or behind what a gap stands for.
    pub const fn end(&self) -> u64 {
        self.lsn.saturating_add(self.skip)
    }
}

/// What stands at an LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Nothing has been written here.
    Empty,
    /// The bytes end before the frame does; it needs this many.
    NeedMore(usize),
    /// A valid frame.
    Frame(FrameHeader),
}

/// Reads the frame at the start of `bytes`, which are the log's bytes from `lsn` on.
///
/// # Errors
/// If the bytes are no frame of this segment (`seed`) at this LSN, or damaged.
#[inline]
pub fn parse(
    bytes: &[u8],
    lsn: u64,
    seed: u32,
    frame_max: usize,
    verify: bool,
) -> Result<Parsed, FormatError> {
    let Some(head) = bytes.first_chunk::<FRAME_HEADER>() else {
        return Ok(Parsed::NeedMore(FRAME_HEADER));
    };
    let u32_at =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let len = u32_at(4);
    if len == 0 {
        return if head.iter().all(|&b| b == 0) {
            Ok(Parsed::Empty)
        } else {
            Err(FormatError("a frame without length"))
        };
    }
    let length = len as usize;
    if !(FRAME_HEADER..=frame_max).contains(&length) {
        return Err(FormatError("a frame length out of bounds"));
    }
    if u64_at(8) != lsn {
        return Err(FormatError("a frame that belongs elsewhere"));
    }
    let Some(whole) = bytes.get(..length) else {
        return Ok(Parsed::NeedMore(length));
    };
    if verify && crc32c::crc32c_append(seed, &whole[4..]) != u32_at(0) {
        return Err(FormatError("a frame whose checksum does not match"));
    }
    let kind = FrameKind::from_u8(head[16]).ok_or(FormatError("a frame of unknown kind"))?;
    let fragment = match head[17] {
        0 => Fragment::None,
        1 => Fragment::First,
        2 => Fragment::Middle,
        3 => Fragment::Last,
        _ => return Err(FormatError("a frame with unknown flags")),
    };
    let own = align(u64::from(len));
    let words = u64::from(u32_at(20)) * 8;
    let (unflushed, skip) = match (kind, u32_at(20)) {
        (FrameKind::Gap, _) => (u64::MAX, words),
        (_, u32::MAX) => (u64::MAX, own),
        _ => (words, own),
    };
    let tx = u64_at(24);
    if head[18] != 0 || head[19] != 0 || tx > lsn || skip < own {
        return Err(FormatError("a frame whose fields do not fit together"));
    }
    Ok(Parsed::Frame(FrameHeader {
        len,
        lsn,
        kind,
        fragment,
        flushed: lsn.saturating_sub(unflushed),
        skip,
        tx,
    }))
}

/// Fills in the header of `frame`, whose first [`FRAME_HEADER`] bytes are room for it.
pub(crate) fn finish(
    frame: &mut [u8],
    kind: FrameKind,
    fragment: Fragment,
    lsn: u64,
    flushed: u64,
    tx: u64,
    seed: u32,
) {
    let unflushed = u32::try_from(lsn.saturating_sub(flushed).div_ceil(8)).unwrap_or(u32::MAX);
    write(frame, kind, fragment, lsn, unflushed, tx, seed);
}

/// A gap frame that stands for `bytes`, a multiple of 8 from [`FRAME_HEADER`] on: of the
/// transaction `tx`, or of anything if 0.
pub(crate) fn gap(lsn: u64, bytes: u64, tx: u64, seed: u32) -> [u8; FRAME_HEADER] {
    let mut frame = [0; FRAME_HEADER];
    let words = u32::try_from(bytes / 8).unwrap_or(u32::MAX);
    write(
        &mut frame,
        FrameKind::Gap,
        Fragment::None,
        lsn,
        words,
        tx,
        seed,
    );
    frame
}

fn write(
    frame: &mut [u8],
    kind: FrameKind,
    fragment: Fragment,
    lsn: u64,
    words: u32,
    tx: u64,
    seed: u32,
) {
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    frame[4..8].copy_from_slice(&len.to_le_bytes());
    frame[8..16].copy_from_slice(&lsn.to_le_bytes());
    frame[16] = kind as u8;
    frame[17] = fragment as u8;
    frame[18..20].fill(0);
    frame[20..24].copy_from_slice(&words.to_le_bytes());
    frame[24..32].copy_from_slice(&tx.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &frame[4..]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

/// A commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitRecord {
    /// Commit coordinate of the transaction's positions.
    pub commit: Lsn,
    /// The transaction id of the engine or source.
    pub id: u64,
    /// Commit time, microseconds since 1970-01-01T00:00:00Z.
    pub micros: i64,
    /// Where to begin reading to see whole every transaction that commits later.
    pub restart: u64,
    /// Events of the whole transaction.
    pub events: u32,
    /// Change records in the commit's own frame.
    pub changes: u32,
}

impl CommitRecord {
    pub(crate) fn encode(&self) -> [u8; COMMIT_RECORD] {
        let mut bytes = [0; COMMIT_RECORD];
        bytes[..8].copy_from_slice(&self.commit.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.micros.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.restart.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.events.to_le_bytes());
        bytes[36..].copy_from_slice(&self.changes.to_le_bytes());
        bytes
    }

    /// Reads a commit record from the start of a commit frame's payload.
    ///
    /// # Errors
    /// If the payload is too short.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut rest = payload;
        (|| {
            Some(Self {
                commit: Lsn(take_u64(&mut rest)?),
                id: take_u64(&mut rest)?,
                micros: take_u64(&mut rest)?.cast_signed(),
                restart: take_u64(&mut rest)?,
                events: take_u32(&mut rest)?,
                changes: take_u32(&mut rest)?,
            })
        })()
        .ok_or(FormatError("a commit record that is cut off"))
    }
}

/// A heartbeat: a position and where to begin reading to resume at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Everything up to this is in the log.
    pub end: Position,
    /// As in a commit record.
    pub restart: u64,
}

impl Heartbeat {
    pub(crate) fn encode(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.end.commit.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.end.ordinal.to_le_bytes());
        bytes[12..].copy_from_slice(&self.restart.to_le_bytes());
        bytes
    }

    /// Reads a heartbeat's payload.
    ///
    /// # Errors
    /// If the payload is too short.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut rest = payload;
        (|| {
            Some(Self {
                end: Position::new(Lsn(take_u64(&mut rest)?), take_u32(&mut rest)?),
                restart: take_u64(&mut rest)?,
            })
        })()
        .ok_or(FormatError("a heartbeat that is cut off"))
    }
}

/// A rollback: which frames of the transaction stay, and how much of the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// LSN of the last frame of the transaction that stays; 0 if none does.
    pub lsn: u64,
    /// Bytes of its payload that stay.
    pub bytes: u32,
}

impl Rollback {
    pub(crate) fn encode(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.lsn.to_le_bytes());
        bytes[8..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// Reads a rollback's payload.
    ///
    /// # Errors
    /// If the payload is too short.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut rest = payload;
        (|| {
            Some(Self {
                lsn: take_u64(&mut rest)?,
                bytes: take_u32(&mut rest)?,
            })
        })()
        .ok_or(FormatError("a rollback that is cut off"))
    }
}
