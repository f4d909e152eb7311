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
use cdc_core::{Lsn, SourceError, SourceErrorKind};

use super::format::{Checksum, Salts};

const MAGIC: u32 = 0x4153_4b57;
/// Bytes before the pages.
const HEAD: usize = 60;
/// A segment that is larger is followed by another; in tests, so that there are several.
const SEGMENT_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 64 << 20 };
/// The pages the copy of the database is being brought forward by.
const FOLD: &str = "fold";
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
    /// The commit archived before it; zero if that is not known.
    pub(crate) before: Lsn,
    segment: Arc<Segment>,
    /// Where each page stands, by page.
    pub(crate) pages: Arc<[(u32, u64)]>,
}

#[derive(Debug)]
pub(crate) struct Segment {
    file: Box<dyn StorageFile>,
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
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    page_size: u32,
    active: Option<Arc<Segment>>,
    end: u64,
    next: u64,
    /// The newest commit archived.
    last: Lsn,
    /// Segments below this were given up.
    trimmed: u64,
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
            next: 1,
            last: Lsn::ZERO,
            trimmed: 0,
        };
        let mut found: Vec<Archived> = Vec::new();
        let mut torn = false;
        for (number, path) in segments(storage.as_ref(), dir)? {
            archive.next = number + 1;
            if torn {
                // Written after what is cut off: nothing can be made of it.
                let removed = storage.remove(&path);
                removed.map_err(|cause| failed("remove", &path, cause))?;
                continue;
            }
            let file = storage.open(&path, OpenMode::ReadWrite);
            let file = file.map_err(|cause| failed("open", &path, cause))?;
            let segment = Arc::new(Segment { file, path, number });
            let end = archive.index(&segment, &mut found)?;
            let length = segment.file.len();
            torn = length.map_err(|cause| failed("look at", &segment.path, cause))? > end;
            if torn {
                let cut = segment.file.set_len(end);
                let cut = cut.and_then(|()| segment.file.sync_data());
                cut.map_err(|cause| failed("cut", &segment.path, cause))?;
            }
            archive.active = Some(segment);
            archive.end = end;
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
        self.end = start;
        self.last = archived.before;
        Ok(())
    }

    fn segment(&mut self) -> Result<Arc<Segment>, SourceError> {
        if let Some(active) = &self.active
            && self.end < SEGMENT_BYTES
        {
            return Ok(active.clone());
        }
        let path = self.dir.join(format!("archive-{:010}", self.next));
        let file = self.storage.open(&path, OpenMode::CreateNew);
        let file = file.map_err(|cause| failed("create", &path, cause))?;
        // Its name is not made durable: that would wait for the disk, and neither is what it holds.
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

    /// Removes everything, with what the copy was being brought forward by.
    pub(crate) fn clear(&mut self) -> Result<(), SourceError> {
        self.active = None;
        self.end = 0;
        let fold = self.dir.join(FOLD);
        if self.storage.exists(&fold) {
            let removed = self.storage.remove(&fold);
            removed.map_err(|cause| failed("remove", &fold, cause))?;
        }
        remove_below(self.storage.as_ref(), &self.dir, self.next)
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
        file,
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
        file,
        path,
        number: 0,
    });
    Ok(read_record(&segment, 0, page_size)?.map(|(fold, _)| fold))
}

/// The segments in a directory, by number.
fn segments(storage: &dyn Storage, dir: &Path) -> Result<BTreeMap<u64, PathBuf>, SourceError> {
    let names = storage.list(dir);
    let names = names.map_err(|cause| failed("list", dir, cause))?;
    let number = |name: &String| name.strip_prefix("archive-")?.parse::<u64>().ok();
    let segment = |name: String| Some((number(&name)?, dir.join(name)));
    Ok(names.into_iter().filter_map(segment).collect())
}

/// Removes the segments below a number.
pub(crate) fn remove_below(
    storage: &dyn Storage,
    dir: &Path,
    below: u64,
) -> Result<(), SourceError> {
    for (_, path) in segments(storage, dir)?.range(..below) {
        let removed = storage.remove(path);
        removed.map_err(|cause| failed("remove", path, cause))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::testing::sim_storage::SimStorage;

    const PAGE: u32 = 512;

    fn append(archive: &mut Archive, commit: u64, pages: u32) -> Archived {
        let head = Head {
            commit: Lsn(commit),
            salts: Salts::default(),
            checksum: Checksum::default(),
            count: pages,
            micros: 0,
            merged: false,
        };
        let numbers: Vec<u32> = (1..=pages).collect();
        let page = |_| Ok(vec![7; PAGE as usize].into());
        archive.append(head, &numbers, page).unwrap()
    }

    /// What is taken back was longer than what comes next, and that is in segments behind it.
    #[test]
    fn what_was_taken_back_hides_nothing_behind_it() {
        let (storage, dir) = (SimStorage::new().shared(), Path::new("/state"));
        let (mut archive, _) = Archive::open(&storage, dir, PAGE).unwrap();
        append(&mut archive, 1, 2);
        let long = append(&mut archive, 2, 90);
        archive.undo(&long).unwrap();
        for commit in 3..8 {
            append(&mut archive, commit, 14);
        }
        assert!(archive.next > 2, "there are several segments");
        let (_, found) = Archive::open(&storage, dir, PAGE).unwrap();
        let commits: Vec<u64> = found.iter().map(|one| one.commit.0).collect();
        assert_eq!(commits, [1, 3, 4, 5, 6, 7]);
    }

    /// The middle of the archive is lost with its name: what is behind it is not used.
    #[test]
    fn a_segment_that_is_gone_is_the_end() {
        let (storage, dir) = (SimStorage::new().shared(), Path::new("/state"));
        let (mut archive, _) = Archive::open(&storage, dir, PAGE).unwrap();
        for commit in 1..12 {
            append(&mut archive, commit, 14);
        }
        assert!(archive.next > 3, "there are several segments");
        storage.remove(&dir.join("archive-0000000002")).unwrap();
        let (_, found) = Archive::open(&storage, dir, PAGE).unwrap();
        let commits: Vec<u64> = found.iter().map(|one| one.commit.0).collect();
        assert!(!commits.is_empty() && commits.len() < 11, "{commits:?}");
        assert!(
            commits.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "{commits:?}"
        );
    }
}
