//! Reading a segment from front to back, and telling a torn end from damage.

use std::io;

use cdc_core::storage::{StorageFile, read_exact_at};

use crate::format::{FRAME_HEADER_LEN, FrameHeader, Place, SEGMENT_HEADER_LEN};

/// Bytes read from the file at a time.
const WINDOW: usize = 256 * 1024;

/// A part of a file in memory, moved forward as it is read.
struct Window<'a> {
    file: &'a dyn StorageFile,
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    const fn new(file: &'a dyn StorageFile, end: u64) -> Self {
        Self {
            file,
            end,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// `length` bytes at `offset`; `None` if the file ends before. Never holds more than the file
    /// has, whatever length is asked for.
    fn get(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let Some(rest) = self.end.checked_sub(offset) else {
            return Ok(None);
        };
        if rest < length as u64 {
            return Ok(None);
        }
        let held =
            offset >= self.start && offset + length as u64 <= self.start + self.bytes.len() as u64;
        if !held {
            let rest = usize::try_from(rest).unwrap_or(usize::MAX);
            self.bytes.resize(WINDOW.max(length).min(rest), 0);
            // A failed read leaves nothing that could be taken for the file's bytes.
            self.start = u64::MAX;
            read_exact_at(self.file, &mut self.bytes, offset)?;
            self.start = offset;
        }
        let at = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(at..at + length))
    }
}

/// The end of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Every byte belongs to a whole frame.
    Clean,
    /// What begins here was never acknowledged.
    Torn(u64),
    /// Something that was acknowledged is damaged here.
    Damaged(u64),
}

/// What a walk saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    pub(crate) end: End,
    /// Where the append of the last whole frame began, and where that frame ends.
    pub(crate) last_append: Option<(u64, u64)>,
}

/// Calls `each` with offset and payload of every whole frame, and says how the file ends.
///
/// `newest` is the segment appends go to: only there an end may be torn.
pub(crate) fn frames<E: From<io::Error>>(
    file: &dyn StorageFile,
    length: u64,
    sequence: u64,
    newest: bool,
    mut each: impl FnMut(u32, &[u8]) -> Result<(), E>,
) -> Result<Walked, E> {
    let mut last_append = None;
    let end = loop_frames(file, length, sequence, newest, |header, at, payload| {
        let end = u64::from(at) + (FRAME_HEADER_LEN + payload.len()) as u64;
        last_append = Some((u64::from(header.append), end));
        each(at, payload)
    })?;
    Ok(Walked { end, last_append })
}

fn loop_frames<E: From<io::Error>>(
    file: &dyn StorageFile,
    length: u64,
    sequence: u64,
    newest: bool,
    mut each: impl FnMut(FrameHeader, u32, &[u8]) -> Result<(), E>,
) -> Result<End, E> {
    let mut window = Window::new(file, length);
    let mut offset = SEGMENT_HEADER_LEN as u64;
    while offset < length {
        let Some((header, payload)) = frame(&mut window, Place { sequence, offset })? else {
            if newest && !later_append(&mut window, sequence, offset)? {
                return Ok(End::Torn(offset));
            }
            return Ok(End::Damaged(offset));
        };
        let Ok(at) = u32::try_from(offset) else {
            return Ok(End::Damaged(offset));
        };
        let next = offset + (FRAME_HEADER_LEN + payload.len()) as u64;
        each(header, at, payload)?;
        offset = next;
    }
    Ok(End::Clean)
}

/// The frame at a place, if there is a whole one.
fn frame<'w>(
    window: &'w mut Window<'_>,
    place: Place,
) -> io::Result<Option<(FrameHeader, &'w [u8])>> {
    let Some(header) = window.get(place.offset, FRAME_HEADER_LEN)? else {
        return Ok(None);
    };
    let header = header
        .first_chunk()
        .and_then(|h| FrameHeader::read(h, place));
    let Some(header) = header else {
        return Ok(None);
    };
    let payload = window.get(
        place.offset + FRAME_HEADER_LEN as u64,
        header.length as usize,
    )?;
    Ok(payload.filter(|p| header.fits(p)).map(|p| (header, p)))
}

/// True if a whole frame behind `damage` belongs to an append that began behind it: that append
/// was only made after everything before it was synced, so the damage is no torn write.
fn later_append(window: &mut Window<'_>, sequence: u64, damage: u64) -> io::Result<bool> {
    let mut offset = damage + 1;
    while window.get(offset, FRAME_HEADER_LEN)?.is_some() {
        if let Some((header, _)) = frame(window, Place { sequence, offset })?
            && u64::from(header.append) > damage
        {
            return Ok(true);
        }
        offset += 1;
    }
    Ok(false)
}
