//! Transactions that are handed over and not confirmed yet, page by page, in files of our own.
//!
//! What the log of the database holds is the application's to overwrite; what is here can be
//! decoded again, to the same changes at the same positions. Together with a copy of the database
//! as of the last confirmation (the shadow) it replaces the log after a crash of ours.
//!
//! Byte layout: `docs/formats/sqlite-state.md`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cdc_core::{Lsn, SourceError, SourceErrorKind};

use super::format::{Checksum, Salts};
use super::log_file::{io_error, read_up_to};

const MAGIC: u32 = 0x4153_4b57;
/// Bytes before the pages.
const HEAD: usize = 60;
/// A segment that is larger is followed by another.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes written at once.
const BLOCK: usize = 1 << 20;

/// A transaction in the archive.
#[derive(Clone, Debug)]
pub(crate) struct Archived {
    pub(crate) commit: Lsn,
    pub(crate) salts: Salts,
    pub(crate) checksum: Checksum,
    /// Pages of the database afterwards.
    pub(crate) count: u32,
    pub(crate) micros: i64,
    pub(crate) merged: bool,
    segment: Arc<Segment>,
    /// Where each page stands, by page.
    pub(crate) pages: Arc<[(u32, u64)]>,
}

#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    path: PathBuf,
    number: u64,
}

/// What a transaction is, before its pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) commit: Lsn,
    pub(crate) salts: Salts,
    pub(crate) checksum: Checksum,
    pub(crate) count: u32,
    pub(crate) micros: i64,
    pub(crate) merged: bool,
}

/// The segments of one source.
#[derive(Debug)]
pub(crate) struct Archive {
    dir: PathBuf,
    page_size: u32,
    active: Option<Arc<Segment>>,
    end: u64,
    next: u64,
    /// Segments below this were given up.
    trimmed: u64,
}

fn failed(verb: &str, path: &Path, cause: std::io::Error) -> SourceError {
    SourceError::new(
        SourceErrorKind::Io,
        format!("{verb} {}: {cause}; check the disk", path.display()),
    )
    .with_cause(cause)
}

fn encode_head(head: &Head, pages: u32) -> [u8; HEAD] {
    let mut bytes = [0; HEAD];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + part.len()) {
            place.copy_from_slice(part);
        }
        at += part.len();
    };
    put(&MAGIC.to_le_bytes());
    put(&u32::from(head.merged).to_le_bytes());
    put(&head.commit.0.to_le_bytes());
    put(&head.salts);
    put(&head.checksum.0.to_le_bytes());
    put(&head.checksum.1.to_le_bytes());
    put(&head.count.to_le_bytes());
    put(&pages.to_le_bytes());
    put(&head.micros.to_le_bytes());
    // Eight bytes are free.
    let sum = crc32c::crc32c(&bytes[..HEAD - 4]);
    bytes[HEAD - 4..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode_head(bytes: &[u8; HEAD]) -> Option<(Head, u32)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if word(0)? != MAGIC || word(HEAD - 4)? != crc32c::crc32c(&bytes[..HEAD - 4]) {
        return None;
    }
    let head = Head {
        merged: word(4)? & 1 == 1,
        commit: Lsn(long(8)?),
        salts: bytes.get(16..24)?.try_into().ok()?,
        checksum: Checksum(word(24)?, word(28)?),
        count: word(32)?,
        micros: long(40)?.cast_signed(),
    };
    Some((head, word(36)?))
}

impl Segment {
    /// The page that stands at an offset.
    pub(crate) fn read(&self, offset: u64, page_size: u32) -> Result<Bytes, SourceError> {
        let mut page = vec![0; page_size as usize];
        let got = read_up_to(&self.file, &mut page, offset)
            .map_err(|cause| failed("read", &self.path, cause))?;
        if got < page.len() {
            return Err(SourceError::new(
                SourceErrorKind::Corrupt,
                format!("read {}: it was cut short", self.path.display()),
            ));
        }
        Ok(page.into())
    }
}

impl Archived {
    /// The page as this transaction left it.
    pub(crate) fn read(&self, offset: u64, page_size: u32) -> Result<Bytes, SourceError> {
        self.segment.read(offset, page_size)
    }

    /// Where its pages are.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Bytes of its pages.
    pub(crate) fn bytes(&self, page_size: u32) -> u64 {
        self.pages.len() as u64 * u64::from(page_size)
    }

    /// Which segment it is in.
    pub(crate) fn segment_number(&self) -> u64 {
        self.segment.number
    }

    /// Makes what is in its segment durable.
    pub(crate) fn sync(&self) -> Result<(), SourceError> {
        let synced = self.segment.file.sync_data();
        synced.map_err(|cause| failed("sync", &self.segment.path, cause))
    }
}

impl Archive {
    /// Opens the archive in a directory and gives its transactions, oldest first. What a crash cut
    /// off at the end is left out, and written over.
    pub(crate) fn open(dir: &Path, page_size: u32) -> Result<(Self, Vec<Archived>), SourceError> {
        let mut archive = Self {
            dir: dir.to_path_buf(),
            page_size,
            active: None,
            end: 0,
            next: 1,
            trimmed: 0,
        };
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(|cause| failed("list", dir, cause))? {
            let name = entry
                .map_err(|cause| failed("list", dir, cause))?
                .file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("archive-"));
            if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
                segments.insert(number, dir.join(&name));
            }
        }
        let mut found: Vec<Archived> = Vec::new();
        let mut torn = false;
        for (number, path) in segments {
            archive.next = number + 1;
            if torn {
                // Written after what is cut off: nothing can be made of it.
                fs::remove_file(&path).map_err(|cause| failed("remove", &path, cause))?;
                continue;
            }
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.map_err(|cause| failed("open", &path, cause))?;
            let segment = Arc::new(Segment { file, path, number });
            let end = archive.index(&segment, &mut found)?;
            let length = segment.file.metadata().map(|data| data.len());
            torn = length.map_err(|cause| failed("look at", &segment.path, cause))? > end;
            archive.active = Some(segment);
            archive.end = end;
        }
        Ok((archive, found))
    }

    /// Reads one segment up to where it makes sense.
    fn index(&self, segment: &Arc<Segment>, found: &mut Vec<Archived>) -> Result<u64, SourceError> {
        let io = |cause| io_error("read the archive of the source", cause);
        let each = 4 + self.page_size as usize;
        let mut at = 0u64;
        let mut buffer = vec![0; each];
        loop {
            let mut bytes = [0; HEAD];
            if read_up_to(&segment.file, &mut bytes, at).map_err(io)? < HEAD {
                return Ok(at);
            }
            let Some((head, pages)) = decode_head(&bytes) else {
                return Ok(at);
            };
            let mut place = at + HEAD as u64;
            let mut list = Vec::new();
            let mut sum = 0;
            for _ in 0..pages {
                if read_up_to(&segment.file, &mut buffer, place).map_err(io)? < each {
                    return Ok(at);
                }
                sum = crc32c::crc32c_append(sum, &buffer);
                let number = buffer
                    .first_chunk::<4>()
                    .map_or(0, |b| u32::from_le_bytes(*b));
                list.push((number, place + 4));
                place += each as u64;
            }
            let mut stored = [0; 4];
            if read_up_to(&segment.file, &mut stored, place).map_err(io)? < 4
                || u32::from_le_bytes(stored) != sum
                || found.last().is_some_and(|last| last.commit >= head.commit)
            {
                return Ok(at);
            }
            at = place + 4;
            found.push(Archived {
                commit: head.commit,
                salts: head.salts,
                checksum: head.checksum,
                count: head.count,
                micros: head.micros,
                merged: head.merged,
                segment: segment.clone(),
                pages: list.into(),
            });
        }
    }

    /// Appends one transaction; it survives a crash of ours as soon as this returns. `pages` come
    /// in order, each once.
    pub(crate) fn append(
        &mut self,
        head: Head,
        numbers: &[u32],
        mut page: impl FnMut(u32) -> Result<Bytes, SourceError>,
    ) -> Result<Archived, SourceError> {
        let segment = self.segment()?;
        let start = self.end;
        let count = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        let mut buffer = Vec::with_capacity(BLOCK.min(HEAD + numbers.len() * 4096));
        buffer.extend_from_slice(&encode_head(&head, count));
        let (mut at, mut sum) = (start, 0);
        let mut pages = Vec::with_capacity(numbers.len());
        let write = |buffer: &mut Vec<u8>, at: &mut u64| {
            let written = segment.file.write_all_at(buffer, *at);
            written.map_err(|cause| failed("write", &segment.path, cause))?;
            *at += buffer.len() as u64;
            buffer.clear();
            Ok::<(), SourceError>(())
        };
        for &number in numbers {
            let data = page(number)?;
            let place = at + buffer.len() as u64 + 4;
            pages.push((number, place));
            let number = number.to_le_bytes();
            sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, &number), &data);
            buffer.extend_from_slice(&number);
            buffer.extend_from_slice(&data);
            if buffer.len() >= BLOCK {
                write(&mut buffer, &mut at)?;
            }
        }
        buffer.extend_from_slice(&sum.to_le_bytes());
        write(&mut buffer, &mut at)?;
        self.end = at;
        Ok(Archived {
            commit: head.commit,
            salts: head.salts,
            checksum: head.checksum,
            count: head.count,
            micros: head.micros,
            merged: head.merged,
            segment,
            pages: pages.into(),
        })
    }

    /// Takes the last transaction back; the next is written over it.
    pub(crate) fn undo(&mut self, archived: &Archived) {
        let first = archived.pages.first();
        // The first page comes behind the head and its own number.
        let start = first.map(|(_, offset)| offset - 4 - HEAD as u64);
        if let Some(start) = start
            && self
                .active
                .as_ref()
                .is_some_and(|active| Arc::ptr_eq(active, &archived.segment))
        {
            self.end = start;
        }
    }

    fn segment(&mut self) -> Result<Arc<Segment>, SourceError> {
        if let Some(active) = &self.active
            && self.end < SEGMENT_BYTES
        {
            return Ok(active.clone());
        }
        let path = self.dir.join(format!("archive-{:010}", self.next));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(|cause| failed("create", &path, cause))?;
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(|cause| failed("sync", &self.dir, cause))?;
        let segment = Arc::new(Segment {
            file,
            path,
            number: self.next,
        });
        self.next += 1;
        self.end = 0;
        self.active = Some(segment.clone());
        Ok(segment)
    }

    /// The number below which segments hold nothing but what was confirmed, if there may be any;
    /// `oldest` is the oldest transaction that was not.
    pub(crate) fn not_needed_below(&mut self, oldest: Option<&Archived>) -> Option<u64> {
        let below = match oldest {
            Some(oldest) => oldest.segment.number,
            // Nothing is needed: the active one is given up too once it is worth it.
            None if self.end < BLOCK as u64 => {
                self.active.as_ref().map_or(0, |active| active.number)
            }
            None => {
                self.active = None;
                self.next
            }
        };
        let more = below > self.trimmed;
        self.trimmed = below;
        more.then_some(below)
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self) -> Result<(), SourceError> {
        self.active = None;
        self.end = 0;
        remove_below(&self.dir, self.next)
    }
}

/// Removes the segments below a number.
pub(crate) fn remove_below(dir: &Path, below: u64) -> Result<(), SourceError> {
    for entry in fs::read_dir(dir).map_err(|cause| failed("list", dir, cause))? {
        let name = entry
            .map_err(|cause| failed("list", dir, cause))?
            .file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("archive-")?.parse::<u64>().ok());
        if number.is_some_and(|number| number < below) {
            let path = dir.join(&name);
            fs::remove_file(&path).map_err(|cause| failed("remove", &path, cause))?;
        }
    }
    Ok(())
}
