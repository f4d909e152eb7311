//! Transactions that are handed over and not confirmed yet, page by page, in files of our own.
//!
//! What the log of the database holds is the application's to overwrite; what is here can be
//! decoded again, to the same changes at the same positions. Together with a copy of the database
//! as of the last confirmation (the shadow) it replaces the log after a crash of ours.
//!
//! Byte layout: `docs/formats/sqlite-state.md`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cdc_core::storage::{OpenMode, Storage, StorageFile, read_exact_at};
use cdc_core::{Lsn, SourceError, SourceErrorKind, wall_micros};

use super::format::{Checksum, Salts};
use super::log_file::Committed;
use super::state::commit_at;

const MAGIC: u32 = 0x4153_4b57;
/// Bytes before the pages.
const HEAD: usize = 60;
/// A segment that is larger is followed by another; in tests, so that there are several.
const SEGMENT_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 64 << 20 };
/// Names of segments, before their number.
const ARCHIVE: &str = "archive-";
const SPARE: &str = "spare-";
/// The pages the copy of the database is being brought forward by.
const FOLD: &str = "fold";
/// Bytes written at once.
const BLOCK: usize = 1 << 20;
/// Segments that hold nothing more that is needed and are kept to be written over: of a new file the
/// system makes, and later gives back, every page anew, which costs as much as all of decoding. As many
/// as fill up between two advances of the copy.
const SPARES_MAX: usize = 4;

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
    /// The commit archived before it; zero if that is not known.
    pub(crate) before: Lsn,
    segment: Arc<Segment>,
    /// Where each page stands, by page.
    pub(crate) pages: Arc<[(u32, u64)]>,
}

#[derive(Debug)]
pub(crate) struct Segment {
    file: Arc<dyn StorageFile>,
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

impl Head {
    /// Of a transaction as it stands in a generation of the log.
    pub(crate) fn of(generation: u32, salts: Salts, next: &Committed) -> Self {
        Self {
            commit: commit_at(generation, next.last),
            salts,
            checksum: next.checksum,
            count: next.count,
            micros: wall_micros(),
            merged: false,
        }
    }
}

/// The segments of one source.
#[derive(Debug)]
pub(crate) struct Archive {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    page_size: u32,
    active: Option<Arc<Segment>>,
    end: u64,
    /// Bytes of the active segment's file: behind the end, those of a former use.
    length: u64,
    /// Full ones that are needed still, oldest first.
    sealed: Vec<Arc<Segment>>,
    spares: Vec<Arc<Segment>>,
    next: u64,
    /// The newest commit archived.
    last: Lsn,
}

fn failed(verb: &str, path: &Path, cause: io::Error) -> SourceError {
    SourceError::new(
        SourceErrorKind::Io,
        format!("{verb} {}: {cause}; check the disk", path.display()),
    )
    .with_cause(cause)
}

fn encode_head(head: &Head, before: Lsn, pages: u32) -> [u8; HEAD] {
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
    put(&before.0.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..HEAD - 4]);
    bytes[HEAD - 4..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode_head(bytes: &[u8; HEAD]) -> Option<(Head, Lsn, u32)> {
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
    Some((head, Lsn(long(48)?), word(36)?))
}

impl Segment {
    /// The page that stands at an offset.
    pub(crate) fn read(&self, offset: u64, page_size: u32) -> Result<Bytes, SourceError> {
        let mut page = vec![0; page_size as usize];
        if self.fill(&mut page, offset)? {
            return Ok(page.into());
        }
        Err(SourceError::new(
            SourceErrorKind::Corrupt,
            format!("read {}: it was cut short", self.path.display()),
        ))
    }

    /// Fills the buffer; false if the file ends before.
    fn fill(&self, buffer: &mut [u8], offset: u64) -> Result<bool, SourceError> {
        match read_exact_at(self.file.as_ref(), buffer, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(failed("read", &self.path, error)),
        }
    }
}

impl Archived {
    fn new(head: &Head, before: Lsn, segment: &Arc<Segment>, pages: Vec<(u32, u64)>) -> Self {
        Self {
            commit: head.commit,
            salts: head.salts,
            checksum: head.checksum,
            count: head.count,
            micros: head.micros,
            merged: head.merged,
            before,
            segment: segment.clone(),
            pages: pages.into(),
        }
    }

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

    /// Makes what is in its segment durable.
    fn sync(&self) -> Result<(), SourceError> {
        let synced = self.segment.file.sync_data();
        synced.map_err(|cause| failed("sync", &self.segment.path, cause))
    }
}

impl Archive {
    /// Opens the archive in a directory and gives its transactions, oldest first. What a crash cut
    /// off at the end is removed: it may not come to stand behind what is written next.
    pub(crate) fn open(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        page_size: u32,
    ) -> Result<(Self, Vec<Archived>), SourceError> {
        let mut archive = Self {
            storage: storage.clone(),
            dir: dir.to_path_buf(),
            page_size,
            active: None,
            end: 0,
            length: 0,
            sealed: Vec::new(),
            spares: Vec::new(),
            next: 1,
            last: Lsn::ZERO,
        };
        remove_all(storage.as_ref(), &numbered(storage.as_ref(), dir, SPARE)?)?;
        let mut found: Vec<Archived> = Vec::new();
        let mut torn = false;
        for (number, path) in numbered(storage.as_ref(), dir, ARCHIVE)? {
            archive.next = number + 1;
            if torn {
                // Written after what is cut off: nothing can be made of it.
                remove_all(storage.as_ref(), &BTreeMap::from([(number, path)]))?;
                continue;
            }
            let file = storage.open(&path, OpenMode::ReadWrite);
            let file = file.map_err(|cause| failed("open", &path, cause))?.into();
            let segment = Arc::new(Segment { file, path, number });
            let end = archive.index(&segment, &mut found)?;
            let length = segment.file.len();
            torn = length.map_err(|cause| failed("look at", &segment.path, cause))? > end;
            if torn {
                let cut = segment.file.set_len(end);
                let cut = cut.and_then(|()| segment.file.sync_data());
                cut.map_err(|cause| failed("cut", &segment.path, cause))?;
            }
            archive.sealed.extend(archive.active.replace(segment));
            (archive.end, archive.length) = (end, end);
        }
        archive.last = found.last().map_or(Lsn::ZERO, |last| last.commit);
        Ok((archive, found))
    }

    /// What is appended next comes after this commit.
    pub(crate) fn comes_after(&mut self, commit: Lsn) {
        self.last = commit;
    }

    /// Reads one segment up to where it makes sense: the first transaction that is not whole, or does
    /// not follow the one before.
    fn index(&self, segment: &Arc<Segment>, found: &mut Vec<Archived>) -> Result<u64, SourceError> {
        let mut at = 0;
        while let Some((next, end)) = read_record(segment, at, self.page_size)? {
            let follows = found.last().is_none_or(|last| {
                next.commit > last.commit && [last.commit, Lsn::ZERO].contains(&next.before)
            });
            if !follows {
                break;
            }
            at = end;
            found.push(next);
        }
        Ok(at)
    }

    /// Appends one transaction; it survives a crash of ours as soon as this returns. `pages` come
    /// in order, each once.
    pub(crate) fn append(
        &mut self,
        head: Head,
        numbers: &[u32],
        page: impl FnMut(u32) -> Result<Bytes, SourceError>,
    ) -> Result<Archived, SourceError> {
        let segment = self.segment()?;
        let (archived, end) = write_record(&segment, self.end, &head, self.last, numbers, page)?;
        self.end = end;
        self.length = self.length.max(end);
        self.last = head.commit;
        Ok(archived)
    }

    /// Takes the last transaction back. It is cut off: what is left of a longer one behind the next
    /// would be taken for the end of all there is.
    pub(crate) fn undo(&mut self, archived: &Archived) -> Result<(), SourceError> {
        let Some((_, offset)) = archived.pages.first() else {
            return Ok(());
        };
        // The first page comes behind the head and its own number.
        let start = offset - 4 - HEAD as u64;
        let segment = &archived.segment;
        let cut = segment.file.set_len(start);
        cut.map_err(|cause| failed("cut", &segment.path, cause))?;
        (self.end, self.length) = (start, start);
        self.last = archived.before;
        Ok(())
    }

    fn segment(&mut self) -> Result<Arc<Segment>, SourceError> {
        if let Some(active) = &self.active
            && self.end < SEGMENT_BYTES
        {
            return Ok(active.clone());
        }
        if let Some(full) = self.active.take() {
            // What is left of a former use would be taken for the end of all there is.
            if self.length > self.end {
                let cut = full.file.set_len(self.end);
                cut.map_err(|cause| failed("cut", &full.path, cause))?;
            }
            self.sealed.push(full);
        }
        let path = self.dir.join(format!("{ARCHIVE}{:010}", self.next));
        // Nobody reads any more what it held.
        let free = |spare: &Arc<Segment>| Arc::strong_count(&spare.file) == 1;
        let (file, length) = match self.spares.iter().position(free) {
            Some(at) => {
                let spare = self.spares.swap_remove(at);
                let taken = self.storage.rename(&spare.path, &path);
                taken.map_err(|cause| failed("rename", &spare.path, cause))?;
                let length = spare.file.len();
                let length = length.map_err(|cause| failed("look at", &path, cause))?;
                (spare.file.clone(), length)
            }
            None => {
                let file = self.storage.open(&path, OpenMode::CreateNew);
                (
                    file.map_err(|cause| failed("create", &path, cause))?.into(),
                    0,
                )
            }
        };
        // Its name is not made durable: that would wait for the disk, and neither is what it holds.
        let segment = Arc::new(Segment {
            file,
            path,
            number: self.next,
        });
        self.next += 1;
        (self.end, self.length) = (0, length);
        self.active = Some(segment.clone());
        Ok(segment)
    }

    /// Gives up the segments that hold nothing but what was confirmed; `oldest` is the oldest
    /// transaction that was not. Some are kept to be written over, the others are to be removed.
    pub(crate) fn give_up(
        &mut self,
        oldest: Option<&Archived>,
    ) -> Result<BTreeMap<u64, PathBuf>, SourceError> {
        let below = oldest.map_or(self.next, |oldest| oldest.segment.number);
        // The active one is given up too once it is worth it.
        if oldest.is_none() && self.end >= BLOCK as u64 {
            self.sealed.extend(self.active.take());
        }
        let needed = self.sealed.iter().position(|full| full.number >= below);
        let count = needed.unwrap_or(self.sealed.len());
        let mut removed = BTreeMap::new();
        for full in self.sealed.drain(..count) {
            if self.spares.len() >= SPARES_MAX {
                removed.insert(full.number, full.path.clone());
                continue;
            }
            let path = self.dir.join(format!("{SPARE}{:010}", full.number));
            let renamed = self.storage.rename(&full.path, &path);
            renamed.map_err(|cause| failed("rename", &full.path, cause))?;
            self.spares.push(Arc::new(Segment {
                file: full.file.clone(),
                path,
                number: full.number,
            }));
        }
        Ok(removed)
    }

    /// Removes everything, with what the copy was being brought forward by.
    pub(crate) fn clear(&mut self) -> Result<(), SourceError> {
        self.active = None;
        self.sealed.clear();
        self.spares.clear();
        (self.end, self.length) = (0, 0);
        let fold = self.dir.join(FOLD);
        if self.storage.exists(&fold) {
            let removed = self.storage.remove(&fold);
            removed.map_err(|cause| failed("remove", &fold, cause))?;
        }
        let storage = self.storage.as_ref();
        for name in [ARCHIVE, SPARE] {
            remove_all(storage, &numbered(storage, &self.dir, name)?)?;
        }
        Ok(())
    }
}

/// Writes one transaction at an offset; gives what it is and where it ends.
fn write_record(
    segment: &Arc<Segment>,
    start: u64,
    head: &Head,
    before: Lsn,
    numbers: &[u32],
    mut page: impl FnMut(u32) -> Result<Bytes, SourceError>,
) -> Result<(Archived, u64), SourceError> {
    let count = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
    let mut buffer = Vec::with_capacity(BLOCK.min(HEAD + numbers.len() * 4200));
    buffer.extend_from_slice(&encode_head(head, before, count));
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
    let archived = Archived::new(head, before, segment, pages);
    Ok((archived, at))
}

/// The transaction at an offset, and where it ends; `None` if none is whole there.
fn read_record(
    segment: &Arc<Segment>,
    at: u64,
    page_size: u32,
) -> Result<Option<(Archived, u64)>, SourceError> {
    let mut bytes = [0; HEAD];
    if !segment.fill(&mut bytes, at)? {
        return Ok(None);
    }
    let Some((head, before, pages)) = decode_head(&bytes) else {
        return Ok(None);
    };
    let each = 4 + page_size as usize;
    let mut buffer = vec![0; each];
    let mut place = at + HEAD as u64;
    let (mut list, mut sum) = (Vec::new(), 0);
    for _ in 0..pages {
        if !segment.fill(&mut buffer, place)? {
            return Ok(None);
        }
        sum = crc32c::crc32c_append(sum, &buffer);
        let number = buffer
            .first_chunk::<4>()
            .map_or(0, |b| u32::from_le_bytes(*b));
        list.push((number, place + 4));
        place += each as u64;
    }
    let mut stored = [0; 4];
    if !segment.fill(&mut stored, place)? || u32::from_le_bytes(stored) != sum {
        return Ok(None);
    }
    let archived = Archived::new(&head, before, segment, list);
    Ok(Some((archived, place + 4)))
}

/// The pages some transactions leave, each once and as the last of them left it, written durably
/// beside the copy of the database: from there the copy can be brought forward again, whatever of it
/// was written when power was lost. In place, so that little but the pages is waited for.
pub(crate) fn write_fold(
    storage: &dyn Storage,
    dir: &Path,
    page_size: u32,
    folded: &[Archived],
) -> Result<Option<Archived>, SourceError> {
    let Some(last) = folded.last() else {
        return Ok(None);
    };
    let mut newest: BTreeMap<u32, (&Archived, u64)> = BTreeMap::new();
    for transaction in folded {
        for &(page, offset) in transaction.pages.iter() {
            newest.insert(page, (transaction, offset));
        }
    }
    let path = dir.join(FOLD);
    let file = if storage.exists(&path) {
        storage.open(&path, OpenMode::ReadWrite)
    } else {
        let made = storage.open(&path, OpenMode::CreateNew);
        made.and_then(|file| storage.sync_dir(dir).map(|()| file))
    };
    let file = file.map_err(|cause| failed("open", &path, cause))?;
    let segment = Arc::new(Segment {
        file: file.into(),
        path,
        number: 0,
    });
    let head = Head {
        commit: last.commit,
        salts: last.salts,
        checksum: last.checksum,
        count: last.count,
        micros: last.micros,
        merged: false,
    };
    let numbers: Vec<u32> = newest.keys().copied().collect();
    let page = |number: u32| match newest.get(&number) {
        Some((transaction, offset)) => transaction.read(*offset, page_size),
        None => Ok(Bytes::new()),
    };
    let before = folded.first().map_or(Lsn::ZERO, |first| first.before);
    let (fold, _) = write_record(&segment, 0, &head, before, &numbers, page)?;
    fold.sync()?;
    Ok(Some(fold))
}

/// What [`write_fold`] has written last, if it is whole.
pub(crate) fn read_fold(
    storage: &dyn Storage,
    dir: &Path,
    page_size: u32,
) -> Result<Option<Archived>, SourceError> {
    let path = dir.join(FOLD);
    if !storage.exists(&path) {
        return Ok(None);
    }
    let file = storage.open(&path, OpenMode::Read);
    let file = file.map_err(|cause| failed("open", &path, cause))?;
    let segment = Arc::new(Segment {
        file: file.into(),
        path,
        number: 0,
    });
    Ok(read_record(&segment, 0, page_size)?.map(|(fold, _)| fold))
}

/// The files of a directory whose name is this one and a number, by number.
fn numbered(
    storage: &dyn Storage,
    dir: &Path,
    name: &str,
) -> Result<BTreeMap<u64, PathBuf>, SourceError> {
    let names = storage.list(dir);
    let names = names.map_err(|cause| failed("list", dir, cause))?;
    let number = |file: &String| file.strip_prefix(name)?.parse::<u64>().ok();
    let path = |file: String| Some((number(&file)?, dir.join(file)));
    Ok(names.into_iter().filter_map(path).collect())
}

/// Removes some files.
pub(crate) fn remove_all(
    storage: &dyn Storage,
    files: &BTreeMap<u64, PathBuf>,
) -> Result<(), SourceError> {
    for path in files.values() {
        let removed = storage.remove(path);
        removed.map_err(|cause| failed("remove", path, cause))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
