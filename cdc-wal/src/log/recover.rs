//! Opening what is there: finding the end, cutting a torn tail, refusing corruption.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use cdc_core::storage::{OpenMode, Storage, write_again};
use cdc_core::{Lsn, Position, Relation};

use super::cut;
use super::state::SegmentMeta;
use crate::control::Control;
use crate::format::frame::{self, FRAME_HEADER, FrameHeader, FrameKind, Parsed};
use crate::format::header::SegmentHeader;
use crate::format::{HEADER_BYTES, frame_max, relation};
use crate::read::frames::{FrameReader, LogId};
use crate::read::locate::resume_point;
use crate::segment::{Segment, file_name};
use crate::{LogError, LogErrorKind};

/// Bytes searched for valid frames at a time.
pub(super) const SEARCH_BYTES: usize = 1 << 20;

/// A log as it was found and, if need be, repaired.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The segment to go on in; sealed if `next` is `None`.
    pub(crate) current: Segment,
    /// Where the next frame goes; `None` if the current segment is sealed and the next one was
    /// never made.
    pub(crate) next: Option<u64>,
    pub(crate) last: Position,
    pub(crate) defined: HashMap<u32, Arc<Relation>>,
    pub(crate) segments: VecDeque<SegmentMeta>,
    /// Frames after the last restart: a transaction may have lost its writer.
    pub(crate) restart_needed: bool,
    /// Bytes of a torn tail that were cut.
    pub(crate) cut: u64,
}

/// Headers of all segments, which must belong together.
pub(crate) fn catalog(
    storage: &dyn Storage,
    dir: &Path,
    bases: &[u64],
) -> Result<(LogId, VecDeque<SegmentMeta>, Segment), LogError> {
    let mut metas = VecDeque::with_capacity(bases.len());
    let mut last: Option<Segment> = None;
    for &base in bases {
        let segment = Segment::open(storage, dir, base, OpenMode::Read)?;
        if let Some(before) = &last {
            if LogId::of(&before.header) != LogId::of(&segment.header) {
                return Err(LogError::corrupt(
                    &segment.path,
                    16,
                    "a segment of another log",
                ));
            }
            if before.end() != base {
                return Err(LogError::new(
                    LogErrorKind::Corrupt,
                    format!(
                        "open the log {}: segment {} is missing between {} and {}; restore it",
                        dir.display(),
                        file_name(before.end()),
                        file_name(before.base()),
                        file_name(base)
                    ),
                ));
            }
        }
        metas.push_back(SegmentMeta::of(&segment.header));
        last = Some(segment);
    }
    match last {
        Some(segment) => Ok((LogId::of(&segment.header), metas, segment)),
        None => Err(LogError::new(
            LogErrorKind::NotFound,
            format!("open the log {}: there is none", dir.display()),
        )),
    }
}

/// The segments up to the first whose header or name did not survive. Under
/// [`SyncPolicy::Never`](crate::SyncPolicy::Never) a segment's header is not synced when it is
/// made: without it, this and all later segments are a torn tail, unless something says that they
/// were durable.
fn whole_segments(
    storage: &dyn Storage,
    dir: &Path,
    bases: &[u64],
    control: Option<Control>,
    strict: bool,
) -> Result<Vec<u64>, LogError> {
    let mut first: Option<SegmentHeader> = None;
    let mut flushed = 0;
    let mut broken = None;
    let mut next = None;
    for (index, &base) in bases.iter().enumerate() {
        match Segment::open(storage, dir, base, OpenMode::Read) {
            Ok(segment) => {
                let end = segment.end();
                let own = LogId::of(&segment.header);
                let same = first.as_ref().is_none_or(|first| LogId::of(first) == own);
                if same {
                    flushed = flushed.max(segment.header.flushed);
                }
                if !same || next.is_some_and(|next| next != base) {
                    // Named by `catalog` if it is not cut below.
                    broken.get_or_insert((index, None));
                }
                first.get_or_insert(segment.header);
                next = Some(end);
            }
            Err(error) if error.kind == LogErrorKind::Corrupt => {
                broken.get_or_insert((index, Some(error)));
                next = None;
            }
            Err(error) => return Err(error),
        }
    }
    let Some((index, error)) = broken else {
        return Ok(bases.to_vec());
    };
    let (kept, torn) = bases.split_at(index);
    let (Some(first), Some(&last)) = (first, kept.last()) else {
        return error.map_or_else(|| Ok(bases.to_vec()), Err);
    };
    if let Some(control) = control
        && (control.uuid, control.epoch) == (first.uuid, first.epoch)
    {
        flushed = flushed.max(control.flushed);
    }
    let end = last + u64::from(first.segment_bytes);
    if flushed <= end {
        flushed = flushed.max(flushed_by_frames(storage, dir, torn, &first)?);
    }
    if flushed > end {
        return error.map_or_else(|| Ok(bases.to_vec()), Err);
    }
    if strict && let Some(base) = torn.first() {
        return Err(self::torn(&dir.join(file_name(*base)), 0));
    }
    for base in torn.iter().rev() {
        let path = dir.join(file_name(*base));
        storage
            .remove(&path)
            .and_then(|()| storage.sync_dir(dir))
            .map_err(|cause| LogError::io("remove the torn log segment", &path, cause))?;
    }
    Ok(kept.to_vec())
}

/// How far the frames of segments, of which the header or the one in front did not survive, say that
/// the log was durable. A frame is known by the log it is of and its place alone.
fn flushed_by_frames(
    storage: &dyn Storage,
    dir: &Path,
    bases: &[u64],
    of: &SegmentHeader,
) -> Result<u64, LogError> {
    let mut flushed = 0;
    for &base in bases {
        if base.checked_add(u64::from(of.segment_bytes)).is_none() {
            // No segment of any log is called so.
            continue;
        }
        let path = dir.join(file_name(base));
        let file = storage
            .open(&path, OpenMode::Read)
            .map_err(|cause| LogError::io("open the log segment", &path, cause))?;
        let header = SegmentHeader { base, ..of.clone() };
        let segment = Segment {
            seed: header.seed(),
            header,
            path,
            file,
        };
        search(&segment, segment.first(), |frame| {
            flushed = flushed.max(frame.flushed);
            true
        })?;
    }
    Ok(flushed)
}

/// Recovers the log in a directory whose lock the caller holds.
pub(crate) fn recover(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    bases: &[u64],
    control: Option<Control>,
    strict: bool,
) -> Result<Recovered, LogError> {
    let bases = whole_segments(storage.as_ref(), dir, bases, control, strict)?;
    let (id, mut segments, newest) = catalog(storage.as_ref(), dir, &bases)?;
    let mut flushed = newest.header.flushed;
    if let Some(control) = control
        && control.uuid == id.uuid
        && control.epoch == id.epoch
    {
        flushed = flushed.max(control.flushed);
    }
    let first = segments
        .partition_point(|segment| segment.base <= flushed)
        .max(1)
        - 1;
    let meta = segments[first];
    let end = newest.end();
    let mut walk = Walk {
        frames: FrameReader::new(storage.clone(), dir, id, true),
        last: meta.prev,
        defined: HashMap::new(),
        restart_needed: false,
    };
    let mut at = meta.base + HEADER_BYTES;
    let mut sealed = false;
    let damage = loop {
        if at >= end {
            // The newest segment is sealed and its successor was never made.
            sealed = true;
            break None;
        }
        match walk
            .frames
            .frame(at, id.base(at) + u64::from(id.segment_bytes))
        {
            Ok(Some(frame)) => {
                walk.take(&frame.header, &frame.payload)?;
                at = walk.frames.after(&frame.header);
            }
            Ok(None) => break None,
            Err(error) if error.kind == LogErrorKind::Corrupt => break Some(error),
            Err(error) => return Err(error),
        }
    };
    let mut cut = 0;
    let mut begun = cut::is_begun(storage.as_ref(), dir)?;
    if let Some(error) = damage {
        // Valid frames behind the damage tell whether it was durable when they were written.
        let mut tails = Vec::new();
        let place = id.base(at);
        for meta in segments.iter().filter(|meta| meta.base >= place) {
            let segment = Segment::open(storage.as_ref(), dir, meta.base, OpenMode::ReadWrite)?;
            let from = if meta.base == place {
                at
            } else {
                segment.first()
            };
            if meta.base > place {
                flushed = flushed.max(segment.header.flushed);
            }
            let used = search(&segment, from, |header| {
                flushed = flushed.max(header.flushed);
                true
            })?;
            tails.push((segment, from, used));
        }
        if at < flushed {
            return Err(error);
        }
        if strict && (begun || tails.iter().any(|(_, from, used)| used > from)) {
            return Err(torn(&id.file(dir, at), at - place));
        }
        for (segment, from, used) in tails.into_iter().rev() {
            if segment.base() > place {
                cut += used.saturating_sub(from);
                let io = |cause| LogError::io("remove the torn log segment", &segment.path, cause);
                storage.remove(&segment.path).map_err(io)?;
                storage.sync_dir(dir).map_err(io)?;
            } else if begun {
                cut += used - from;
                cut::zero(&segment, from, segment.end())?;
            } else if used > from {
                cut += used - from;
                begun = true;
                cut::begin(storage.as_ref(), dir)?;
                cut::zero(&segment, from, used)?;
            }
        }
        segments.retain(|meta| meta.base <= place);
    } else if flushed > at {
        // Nothing is damaged, but files are gone, and LSNs that were handed out with them.
        return Err(LogError::new(
            LogErrorKind::Corrupt,
            format!(
                "open the log {}: segment {} is missing, the log was durable up to {}; restore it, or see what a repair would keep (`cdc-cli wal repair {}`)",
                dir.display(),
                file_name(end),
                Lsn(flushed),
                dir.display()
            ),
        ));
    }
    let newest = segments.back().map_or(meta.base, |meta| meta.base);
    // What was found valid may still be in the operating system's memory only.
    let mut current = None;
    for meta in segments.iter().skip(first) {
        let segment = Segment::open(storage.as_ref(), dir, meta.base, OpenMode::ReadWrite)?;
        let end = if meta.base == newest {
            at.min(segment.end())
        } else {
            segment.end()
        };
        lay_out(&segment)?;
        // Only what is not known to be durable.
        let from = flushed.clamp(meta.base, end) - meta.base;
        write_again(segment.file.as_ref(), from, end - meta.base)
            .map_err(|cause| LogError::io("write again the end of", &segment.path, cause))?;
        segment
            .file
            .sync_data()
            .map_err(|cause| LogError::io("sync the log segment", &segment.path, cause))?;
        if meta.base == newest {
            current = Some(segment);
        }
    }
    if begun {
        cut::end(storage.as_ref(), dir)?;
    }
    // So may their names: what is promised durable from here on must not vanish with one.
    storage
        .sync_dir(dir)
        .map_err(|cause| LogError::io("sync the log directory", dir, cause))?;
    let Some(current) = current else {
        return Err(walk.frames.corrupt(at, "no segment"));
    };
    Ok(Recovered {
        current,
        next: (!sealed).then_some(at),
        last: walk.last,
        defined: walk.defined,
        segments,
        restart_needed: walk.restart_needed,
        cut,
    })
}

struct Walk {
    frames: FrameReader,
    last: Position,
    defined: HashMap<u32, Arc<Relation>>,
    restart_needed: bool,
}

impl Walk {
    fn take(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), LogError> {
        let bad = |error| self.frames.corrupt(header.lsn, error);
        self.restart_needed = header.kind != FrameKind::Restart;
        match header.kind {
            FrameKind::Relation => {
                let (id, relation) = relation::decode(payload).map_err(bad)?;
                self.defined.insert(id, Arc::new(relation));
            }
            FrameKind::Seal => self.defined.clear(),
            FrameKind::Gap if self.frames.ends_segment(header) => self.defined.clear(),
            _ => {
                if let Some((position, _)) = resume_point(header, payload).map_err(bad)? {
                    self.last = position;
                }
            }
        }
        Ok(())
    }
}

/// A block of space that was laid out and not written.
const ZEROS: [u8; 4096] = [0; 4096];

/// Looks at every multiple of 8 from `from` on for valid frames, until `each` says to stop; gives
/// the LSN behind the last byte that is not zero, of those it looked at.
pub(crate) fn search(
    segment: &Segment,
    from: u64,
    mut each: impl FnMut(&FrameHeader) -> bool,
) -> Result<u64, LogError> {
    let max = frame_max(segment.header.segment_bytes);
    let mut used = from;
    let mut buffer = vec![0; SEARCH_BYTES + max];
    let mut at = from;
    while at < segment.end() {
        let want = usize::try_from(segment.end() - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let mut filled = 0;
        while filled < want {
            let offset = at - segment.base() + filled as u64;
            let n = segment
                .file
                .read_at(&mut buffer[filled..want], offset)
                .map_err(|cause| LogError::io("read the log segment", &segment.path, cause))?;
            if n == 0 {
                break;
            }
            filled += n;
        }
        let bytes = &buffer[..filled];
        // Most of a segment is laid out and not written: that costs no more than to read it.
        if bytes
            .chunks(ZEROS.len())
            .all(|part| part == &ZEROS[..part.len()])
        {
            at += SEARCH_BYTES as u64;
            continue;
        }
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            used = used.max(at + last as u64 + 1);
        }
        for (index, words) in bytes.chunks_exact(8).enumerate().take(SEARCH_BYTES / 8) {
            // A frame's LSN is its second word: look there before paying for a checksum.
            let lsn = at + index as u64 * 8;
            let second = bytes.get(index * 8 + 8..index * 8 + 16);
            if words[4..] == [0; 4] || second != Some(&lsn.to_le_bytes()[..]) {
                continue;
            }
            let rest = &bytes[index * 8..];
            if rest.len() >= FRAME_HEADER
                && let Ok(Parsed::Frame(header)) = frame::parse(rest, lsn, segment.seed, max, true)
                && !each(&header)
            {
                return Ok(used);
            }
        }
        at += SEARCH_BYTES as u64;
    }
    Ok(used)
}

/// The refusal of [`Recovery::Strict`](crate::Recovery::Strict).
fn torn(path: &Path, offset: u64) -> LogError {
    LogError::new(
        LogErrorKind::Corrupt,
        format!(
            "open the log segment {}: a torn tail begins at byte {offset}, and recovery is strict; open it with recovery `tail` to cut it",
            path.display()
        ),
    )
}

/// A loss of power may leave the name and the frames of a segment that was never synced, and not its
/// length. Whoever reads it counts on the length later.
fn lay_out(segment: &Segment) -> Result<(), LogError> {
    let io = |cause| LogError::io("lay out again", &segment.path, cause);
    let length = u64::from(segment.header.segment_bytes);
    if segment.file.len().map_err(io)? < length {
        segment.file.set_len(length).map_err(io)?;
    }
    Ok(())
}
