//! Reading letters: by identity, in order, filtered, counted.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cdc_core::storage::{OpenMode, Storage, StorageFile, read_exact_at};
use cdc_core::{DeadLetter, DlqError, EventId, LetterState};
use tracing::warn;

use crate::filter::LetterFilter;
use crate::format::{
    FRAME_HEADER_LEN, FrameHeader, Place, SEGMENT_HEADER_LEN, parse_segment_name, segment_header,
    segment_name,
};
use crate::index::{At, Entry, Index, Key};
use crate::record::{self, Identity, Record};
use crate::sidecar::{self, Seal, sidecar_name};
use crate::walk::{self, End, Walked};

/// How often a reader looks again when the writer removed a segment, or wrote, meanwhile.
const RETRIES: usize = 16;

/// A segment and its file, kept open so that it can be read even after its removal.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Box<dyn StorageFile>,
    pub(crate) length: u64,
}

/// The open letters, as they were when it was opened. Takes no lock and changes nothing, so it
/// can be used beside the process that writes.
///
/// Memory is about 100 bytes an open letter; letters are read from the disk when asked for.
#[derive(Debug)]
pub struct DlqReader {
    pub(crate) path: PathBuf,
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) index: Index,
}

/// Numbers about a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DlqStats {
    /// Open letters.
    pub letters: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Bytes that open letters need; the rest is reclaimed in time.
    pub live_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Open letters by emitter, state and class, in this order.
    pub groups: Vec<DlqGroup>,
}

/// Open letters that have emitter, state and class in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DlqGroup {
    /// The emitter.
    pub emitter: String,
    /// What has become of them.
    pub state: LetterState,
    /// Class of the last failure.
    pub class: String,
    /// How many.
    pub letters: u64,
    /// Their earliest last failure, microseconds since 1970.
    pub oldest_micros: i64,
}

/// Open letters of an emitter in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DlqCount {
    /// The emitter.
    pub emitter: String,
    /// What has become of them.
    pub state: LetterState,
    /// How many.
    pub letters: u64,
}

/// A part of a listing.
#[derive(Debug, Default)]
pub struct DlqPage {
    /// Matching letters.
    pub letters: Vec<DeadLetter>,
    /// Where the next page begins; `None` if everything was looked at.
    pub next: Option<(String, EventId)>,
}

/// What a scan of the directory found at the end of the newest segment.
pub(crate) struct Loaded {
    pub(crate) reader: DlqReader,
    /// Where the newest segment is to be cut; 0 to write its header again.
    pub(crate) cut: Option<u64>,
    /// Begin and end of the newest segment's last append.
    pub(crate) last_append: Option<(u64, u64)>,
}

impl DlqReader {
    /// Opens the queue in a directory for reading. A directory that is not there, or empty, is a
    /// queue without letters.
    ///
    /// # Errors
    /// [`DlqError::Corrupt`] with file and offset, [`DlqError::Io`].
    pub fn open(storage: &dyn Storage, path: impl Into<PathBuf>) -> Result<Self, DlqError> {
        let path = path.into();
        Ok(Self::load(storage, path, false)?.reader)
    }

    /// Opens every segment, then reads them: what is removed meanwhile can still be read.
    pub(crate) fn load(
        storage: &dyn Storage,
        path: PathBuf,
        writer: bool,
    ) -> Result<Loaded, DlqError> {
        let mut tries = 0;
        let segments = loop {
            match open_segments(storage, &path, writer) {
                Err(DlqError::Io { cause, .. })
                    if cause.kind() == io::ErrorKind::NotFound && !writer && tries < RETRIES =>
                {
                    tries += 1;
                }
                other => break other?,
            }
        };
        let reader = Self {
            path,
            segments,
            index: Index::default(),
        };
        reader.replay(storage, writer)
    }

    fn replay(mut self, storage: &dyn Storage, writer: bool) -> Result<Loaded, DlqError> {
        let newest = self
            .segments
            .last_key_value()
            .map(|(&sequence, _)| sequence);
        let segments = std::mem::take(&mut self.segments);
        let (mut cut, mut last_append, mut previous) = (None, None, None);
        for (&sequence, segment) in &segments {
            if previous.is_some_and(|p: u64| p.checked_add(1) != Some(sequence)) {
                return Err(self.corrupt(sequence, 0, "the segment before it is missing"));
            }
            previous = Some(sequence);
            let is_newest = newest == Some(sequence);
            if !self.check_header(sequence, segment, is_newest)? {
                (cut, last_append) = (Some(0), None);
                break;
            }
            if !is_newest && self.take_index(storage, sequence, segment) {
                continue;
            }
            let mut tries = 0;
            let walked = loop {
                // Records say the same when read twice, so a second look needs no undoing.
                let walked = self.walk(sequence, segment, is_newest)?;
                let again = matches!(walked.end, End::Damaged(_)) && !writer && is_newest;
                if !again || tries >= RETRIES {
                    break walked;
                }
                tries += 1;
            };
            last_append = walked.last_append;
            match walked.end {
                End::Clean => {}
                End::Torn(offset) => cut = Some(offset),
                End::Damaged(offset) => {
                    return Err(self.corrupt(sequence, offset, "a frame is not whole"));
                }
            }
            if writer && !is_newest {
                // Only the next opening is slower without it.
                if let Err(error) = self.write_index(storage, sequence, segment) {
                    warn!(error = %error, "dead letter queue: no index beside an ended segment");
                }
            }
        }
        self.segments = segments;
        Ok(Loaded {
            reader: self,
            cut,
            last_append,
        })
    }

    /// False if the segment was being created and has no header yet.
    fn check_header(
        &self,
        sequence: u64,
        segment: &Segment,
        newest: bool,
    ) -> Result<bool, DlqError> {
        let mut header = [0; SEGMENT_HEADER_LEN];
        let have = usize::try_from(segment.length)
            .unwrap_or(usize::MAX)
            .min(SEGMENT_HEADER_LEN);
        read_exact_at(segment.file.as_ref(), &mut header[..have], 0)
            .map_err(|cause| self.io("read", sequence, cause))?;
        if header == segment_header(sequence) {
            return Ok(true);
        }
        if newest && segment.length <= SEGMENT_HEADER_LEN as u64 {
            return Ok(false);
        }
        Err(self.corrupt(
            sequence,
            0,
            "this is not a segment of version 1, or not this one",
        ))
    }

    /// Takes an ended segment in from the index beside it; false if there is none that fits, and
    /// the segment must be read. Letters are then checked when they are read, not now.
    fn take_index(&mut self, storage: &dyn Storage, sequence: u64, segment: &Segment) -> bool {
        let path = self.path.join(sidecar_name(sequence));
        let bytes = || -> io::Result<Option<Vec<u8>>> {
            let file = storage.open(&path, OpenMode::Read)?;
            let length = file.len()?;
            if length > sidecar::len_max(segment.length) {
                return Ok(None);
            }
            let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
            read_exact_at(file.as_ref(), &mut bytes, 0)?;
            Ok(Some(bytes))
        };
        let Ok(Some(bytes)) = bytes() else {
            return false;
        };
        let fits = |seal: &Seal| {
            seal.sequence == sequence
                && seal.length == segment.length
                && last_crc(segment, seal.last_at).is_ok_and(|crc| crc == seal.last_crc)
        };
        // What was taken in of one that turns out damaged is said again when the segment is read.
        let index = &mut self.index;
        let read = sidecar::read(&bytes, fits, |operation| {
            index.apply_operation(&operation, sequence);
        });
        read.is_some()
    }

    /// Writes the index beside an ended segment. A crash may lose or tear it: then it is no index.
    pub(crate) fn write_index(
        &self,
        storage: &dyn Storage,
        sequence: u64,
        segment: &Segment,
    ) -> Result<(), DlqError> {
        let path = self.path.join(sidecar_name(sequence));
        let mut builder = sidecar::Builder::default();
        let mut last_at = 0;
        let write = || -> io::Result<()> {
            let walked = walk::frames(
                segment.file.as_ref(),
                segment.length,
                sequence,
                false,
                |offset, payload| -> Result<(), io::Error> {
                    last_at = offset;
                    let length = u32::try_from(FRAME_HEADER_LEN + payload.len());
                    match record::read(payload) {
                        Ok(Record::Letter(record)) => {
                            builder.letter(&record, offset, length.unwrap_or(u32::MAX));
                        }
                        Ok(Record::State(identity, state)) => builder.state(&identity, state),
                        Err(_) => return Err(io::ErrorKind::InvalidData.into()),
                    }
                    Ok(())
                },
            )?;
            if walked.end != End::Clean {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let seal = Seal {
                sequence,
                length: segment.length,
                last_at,
                last_crc: last_crc(segment, last_at)?,
            };
            let Some(bytes) = builder.finish(seal) else {
                return Ok(());
            };
            if storage.exists(&path) {
                storage.remove(&path)?;
            }
            let file = storage.open(&path, OpenMode::CreateNew)?;
            file.write_all_at(&bytes, 0).inspect_err(|_| {
                // A part of one is none, and takes room.
                let _ = storage.remove(&path);
            })
        };
        write().map_err(|cause| DlqError::Io {
            what: "write the index",
            path: path.display().to_string(),
            cause,
        })
    }

    fn walk(&mut self, sequence: u64, segment: &Segment, newest: bool) -> Result<Walked, DlqError> {
        let mut bad = None;
        let index = &mut self.index;
        let walked = walk::frames(
            segment.file.as_ref(),
            segment.length,
            sequence,
            newest,
            |offset, payload| -> Result<(), io::Error> {
                let at = At {
                    segment: sequence,
                    offset,
                    length: u32::try_from(FRAME_HEADER_LEN + payload.len()).unwrap_or(u32::MAX),
                };
                match record::read(payload) {
                    Ok(Record::Letter(record)) => index.apply_letter(&record, at),
                    Ok(Record::State(identity, state)) => {
                        if let Some(key) = index.key(&identity) {
                            index.apply_state(key, state);
                        }
                    }
                    Err(what) => {
                        bad = Some((offset, what));
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
                Ok(())
            },
        );
        match (walked, bad) {
            (_, Some((offset, what))) => Err(self.corrupt(sequence, offset.into(), what)),
            (Ok(walked), None) => Ok(walked),
            (Err(cause), None) => Err(self.io("read", sequence, cause)),
        }
    }

    fn file_name(&self, sequence: u64) -> String {
        self.path.join(segment_name(sequence)).display().to_string()
    }

    pub(crate) fn io(&self, what: &'static str, sequence: u64, cause: io::Error) -> DlqError {
        DlqError::Io {
            what,
            path: self.file_name(sequence),
            cause,
        }
    }

    pub(crate) fn corrupt(&self, sequence: u64, offset: u64, what: &str) -> DlqError {
        DlqError::Corrupt {
            path: self.file_name(sequence),
            offset,
            what: what.to_owned(),
        }
    }

    /// Open letters.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True without open letters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.length).sum()
    }

    /// The open letter of this emitter and event.
    ///
    /// # Errors
    /// [`DlqError::Corrupt`] if it was damaged since, [`DlqError::Io`].
    pub fn get(&self, emitter: &str, id: EventId) -> Result<Option<DeadLetter>, DlqError> {
        match self.index.find(&Identity::new(emitter, id)) {
            Some((_, entry)) => Ok(Some(self.read(&entry)?)),
            None => Ok(None),
        }
    }

    /// True if the letter of this emitter and event is open.
    pub(crate) fn is_open(&self, emitter: &str, id: EventId) -> bool {
        self.index.find(&Identity::new(emitter, id)).is_some()
    }

    /// Calls `each` with the matching open letters, by emitter and then in position order, until
    /// it breaks off. One letter at a time is in memory.
    ///
    /// # Errors
    /// [`DlqError::Corrupt`], [`DlqError::Io`].
    pub fn scan(
        &self,
        filter: &LetterFilter,
        mut each: impl FnMut(DeadLetter) -> ControlFlow<()>,
    ) -> Result<(), DlqError> {
        for (_, entry) in self.matching(filter) {
            let letter = self.read(&entry)?;
            if filter.matches_letter(&letter) && each(letter).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Emitter and event id of every matching open letter, in the order of [`DlqReader::scan`].
    ///
    /// # Errors
    /// As for [`DlqReader::scan`]; letters are read only if the filter names a table.
    pub fn ids(&self, filter: &LetterFilter) -> Result<Vec<(String, EventId)>, DlqError> {
        let keys = self.keys(filter)?;
        let id = |key: &Key| (self.index.emitter(*key).to_owned(), event_id(*key));
        Ok(keys.iter().map(id).collect())
    }

    pub(crate) fn keys(&self, filter: &LetterFilter) -> Result<Vec<Key>, DlqError> {
        let mut keys = Vec::new();
        for (key, entry) in self.matching(filter) {
            if !filter.needs_letter() || filter.matches_letter(&self.read(&entry)?) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// Matching letters in the order of [`DlqReader::scan`], behind one of them: at most
    /// `letters_max`, and no more than `looks_max` letters are looked at. For those who share the
    /// reader with a writer and must not keep it for long.
    ///
    /// # Errors
    /// As for [`DlqReader::scan`].
    pub fn page(
        &self,
        filter: &LetterFilter,
        behind: Option<&(String, EventId)>,
        letters_max: usize,
        looks_max: usize,
    ) -> Result<DlqPage, DlqError> {
        let key = behind.and_then(|(name, id)| self.index.key(&Identity::new(name, *id)));
        let mut page = DlqPage::default();
        let mut last = None;
        for (looks, (key, entry)) in self.index.behind(key).enumerate() {
            if looks >= looks_max || page.letters.len() >= letters_max {
                page.next = last;
                return Ok(page);
            }
            last = Some((self.index.emitter(key).to_owned(), event_id(key)));
            if self.matches(filter, key, &entry) {
                let letter = self.read(&entry)?;
                if filter.matches_letter(&letter) {
                    page.letters.push(letter);
                }
            }
        }
        Ok(page)
    }

    /// Open letters by emitter and state, without looking at any: cheap at any size.
    pub fn counts(&self) -> Vec<DlqCount> {
        let counts = self.index.counts();
        counts
            .map(|(emitter, state, letters)| DlqCount {
                emitter: emitter.to_owned(),
                state,
                letters,
            })
            .collect()
    }

    fn matches(&self, filter: &LetterFilter, key: Key, entry: &Entry) -> bool {
        filter.matches_entry(
            self.index.emitter(key),
            self.index.class(entry),
            entry.state,
            entry.last_failed_micros,
            || event_id(key).to_bytes(),
        )
    }

    fn matching<'a>(&'a self, filter: &'a LetterFilter) -> impl Iterator<Item = (Key, Entry)> + 'a {
        self.index
            .iter()
            .filter(|(key, entry)| self.matches(filter, *key, entry))
    }

    /// Counts; reads no letter.
    pub fn stats(&self) -> DlqStats {
        let mut groups: BTreeMap<(&str, u8, &str), DlqGroup> = BTreeMap::new();
        for (key, entry) in self.index.iter() {
            let (emitter, class) = (self.index.emitter(key), self.index.class(&entry));
            let group = groups
                .entry((emitter, entry.state as u8, class))
                .or_insert_with(|| DlqGroup {
                    emitter: emitter.to_owned(),
                    state: entry.state,
                    class: class.to_owned(),
                    letters: 0,
                    oldest_micros: i64::MAX,
                });
            group.letters += 1;
            group.oldest_micros = group.oldest_micros.min(entry.last_failed_micros);
        }
        DlqStats {
            letters: self.len() as u64,
            bytes: self.bytes(),
            live_bytes: self.index.live_bytes(),
            segments: self.segments.len() as u64,
            groups: groups.into_values().collect(),
        }
    }

    /// Reads a letter, checksum and all.
    pub(crate) fn read(&self, entry: &Entry) -> Result<DeadLetter, DlqError> {
        let At {
            segment: sequence,
            offset,
            length,
        } = entry.at;
        let corrupt = |what: &str| self.corrupt(sequence, offset.into(), what);
        let segment = self.segments.get(&sequence);
        let segment = segment.ok_or_else(|| corrupt("the segment is missing"))?;
        let mut frame = vec![0; length as usize];
        read_exact_at(segment.file.as_ref(), &mut frame, offset.into())
            .map_err(|cause| self.io("read", sequence, cause))?;
        let place = Place {
            sequence,
            offset: offset.into(),
        };
        let frame = Bytes::from(frame);
        let header = frame
            .first_chunk()
            .and_then(|h| FrameHeader::read(h, place));
        let payload = frame.slice(FRAME_HEADER_LEN.min(frame.len())..);
        if !header.is_some_and(|header| header.fits(&payload)) {
            return Err(corrupt("a frame is not whole"));
        }
        let mut letter = record::read_whole(&payload).map_err(corrupt)?;
        letter.state = entry.state;
        Ok(letter)
    }
}

/// The checksum in the header of the frame there; 0 for none.
fn last_crc(segment: &Segment, at: u32) -> io::Result<u32> {
    if at == 0 {
        return Ok(0);
    }
    let mut crc = [0; 4];
    let at = u64::from(at) + FRAME_HEADER_LEN as u64 - 4;
    read_exact_at(segment.file.as_ref(), &mut crc, at)?;
    Ok(u32::from_le_bytes(crc))
}

/// The event id of a key.
pub(crate) fn event_id(key: Key) -> EventId {
    EventId::from_parts(key.source, key.position)
}

fn open_segments(
    storage: &dyn Storage,
    path: &Path,
    writer: bool,
) -> Result<BTreeMap<u64, Segment>, DlqError> {
    let io = |what, path: &Path, cause| DlqError::Io {
        what,
        path: path.display().to_string(),
        cause,
    };
    let names = match storage.list(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound && !writer => Vec::new(),
        names => names.map_err(|cause| io("list segments", path, cause))?,
    };
    let mut segments = BTreeMap::new();
    let sequences: Vec<u64> = names.iter().filter_map(|n| parse_segment_name(n)).collect();
    for &sequence in &sequences {
        let mode = if writer && sequences.last() == Some(&sequence) {
            OpenMode::ReadWrite
        } else {
            OpenMode::Read
        };
        let file_path = path.join(segment_name(sequence));
        let file = storage
            .open(&file_path, mode)
            .map_err(|cause| io("open", &file_path, cause))?;
        let length = file
            .len()
            .map_err(|cause| io("measure", &file_path, cause))?;
        segments.insert(sequence, Segment { file, length });
    }
    Ok(segments)
}
