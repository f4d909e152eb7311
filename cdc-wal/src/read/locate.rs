//! From a position to the LSN where reading must begin.

use cdc_core::{Position, TokenRefusal};

use super::frames::{Frame, FrameReader};
use crate::format::HEADER_BYTES;
use crate::format::frame::{CommitRecord, FrameHeader, FrameKind, Heartbeat};
use crate::log::state::SegmentMeta;
use crate::{LogError, LogErrorKind};

/// The position a frame brings the log to, and where to begin reading to resume there.
pub(crate) fn resume_point(
    header: &FrameHeader,
    payload: &[u8],
) -> Result<Option<(Position, u64)>, crate::format::FormatError> {
    Ok(match header.kind {
        FrameKind::Commit => {
            let commit = CommitRecord::decode(payload)?;
            Some((Position::end_of(commit.commit), commit.restart))
        }
        FrameKind::Heartbeat => {
            let heartbeat = Heartbeat::decode(payload)?;
            Some((heartbeat.end, heartbeat.restart))
        }
        _ => None,
    })
}

/// Where to begin reading so that every transaction after `after` is seen whole.
///
/// `frames` should not verify checksums: only headers and commit records are looked at.
///
/// # Errors
/// `Refused(Expired)` if what follows `after` is not retained.
pub(crate) fn locate(
    frames: &mut FrameReader,
    segments: &[SegmentMeta],
    after: Position,
    end: u64,
) -> Result<u64, LogError> {
    // Inside a transaction, the transaction itself is read again.
    let target = if after.is_transaction_end() {
        after
    } else {
        Position::before(after.commit)
    };
    let Some(first) = segments.first() else {
        return Err(frames.corrupt(0, "no segment"));
    };
    let index = segments.partition_point(|segment| segment.prev <= target);
    let refuse = |oldest| {
        LogError::from(TokenRefusal::Expired {
            token: after,
            oldest,
        })
    };
    let Some(segment) = index.checked_sub(1).and_then(|i| segments.get(i)) else {
        return Err(refuse(oldest(frames, segments, end)?));
    };
    let mut begin = segment.restart;
    let mut at = segment.base + HEADER_BYTES;
    let stop = segments.get(index).map_or(end, |next| next.base).min(end);
    while let Some(frame) = frames.frame(at, stop)? {
        let point = resume_point(&frame.header, &frame.payload)
            .map_err(|error| frames.corrupt(at, error))?;
        match point {
            Some((position, _)) if position > target => break,
            Some((_, restart)) => begin = restart,
            // What was open here has lost its writer.
            None if frame.header.kind == FrameKind::Restart => begin = at,
            None => {}
        }
        at = frames.after(&frame.header);
    }
    if begin < first.base {
        // What was open there and began in a trimmed segment may have been aborted since.
        let oldest = oldest(frames, segments, end)?;
        if target < oldest {
            return Err(refuse(oldest));
        }
        begin = first.base + HEADER_BYTES;
    }
    Ok(begin)
}

/// The oldest position after which everything is retained whole: that of the last commit whose
/// transaction began in a trimmed segment.
///
/// Frames behind `end` count where they are whole. The control file of a log that lost its writer may
/// say less than the segments do, and what opens the log next takes what they say.
///
/// # Errors
/// If a segment cannot be read, or contradicts itself before `end`.
pub(crate) fn oldest(
    frames: &mut FrameReader,
    segments: &[SegmentMeta],
    end: u64,
) -> Result<Position, LogError> {
    let (Some(first), Some(newest)) = (segments.first(), segments.last()) else {
        return Ok(Position::ZERO);
    };
    let mut last = first.prev;
    if first.restart >= first.base {
        return Ok(last);
    }
    let mut at = first.base + HEADER_BYTES;
    while let Some(frame) = frames.frame(at, end)? {
        match decides(frames, first, &frame, &mut last)? {
            true => return Ok(last),
            false => at = frames.after(&frame.header),
        }
    }
    let mut ahead = frames.verifying();
    let stop = newest.base + u64::from(frames.id().segment_bytes);
    loop {
        match ahead.frame(at, stop) {
            Ok(Some(frame)) if !decides(&ahead, first, &frame, &mut last)? => {
                at = ahead.after(&frame.header);
            }
            Err(error) if error.kind == LogErrorKind::Io => return Err(error),
            // Nothing was written here, or not all of it.
            Ok(_) | Err(_) => return Ok(last),
        }
    }
}

/// Takes one frame's word on what the oldest position is; true if no later one can change it.
fn decides(
    frames: &FrameReader,
    first: &SegmentMeta,
    frame: &Frame,
    last: &mut Position,
) -> Result<bool, LogError> {
    let header = &frame.header;
    let point =
        resume_point(header, &frame.payload).map_err(|error| frames.corrupt(header.lsn, error))?;
    let Some((position, restart)) = point else {
        return Ok(header.kind == FrameKind::Restart);
    };
    if header.kind == FrameKind::Commit && header.tx < first.base {
        *last = position;
    }
    Ok(restart >= first.base)
}
