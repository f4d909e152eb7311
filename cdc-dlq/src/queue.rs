//! The writer: append, change of state, recovery.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cdc_core::storage::{OpenMode, Storage, StorageFile, StorageLock, create_dir};
use cdc_core::{DeadLetter, DeadLetterQueue, DlqError, EventId, LetterState, Position};
use tracing::{info, warn};

use crate::filter::LetterFilter;
use crate::format::{Frames, LOCK_NAME, Place, SEGMENT_HEADER_LEN, segment_header, segment_name};
use crate::index::{At, Key};
use crate::reader::{DlqReader, Segment, event_id};
use crate::record::{self, EMITTER_MAX, Identity, Record};
use crate::sidecar::sidecar_name;

/// Bytes of records written and synced as one; a larger append is written in parts.
const PART_MAX: usize = 64 << 20;
/// Bytes of letters handed out at once; a page ends early beyond it.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// Changes of state written and synced as one.
const STATES_MAX: usize = 4096;

/// Bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DlqOptions {
    /// Most open letters. Default 1 000 000; each takes about 100 bytes of memory.
    pub letters_max: u64,
    /// Most bytes of segment files. Default 1 GiB.
    pub bytes_max: u64,
    /// Bytes at which a segment is ended. Default 16 MiB; kept between 1/256 and 1/4 of
    /// `bytes_max`, and at most 1 GiB.
    pub segment_bytes: u64,
}

impl Default for DlqOptions {
    fn default() -> Self {
        Self {
            letters_max: 1_000_000,
            bytes_max: 1 << 30,
            segment_bytes: 16 << 20,
        }
    }
}

impl DlqOptions {
    fn segment_bytes(&self) -> u64 {
        let (least, most) = (self.bytes_max / 256, self.bytes_max / 4);
        self.segment_bytes.max(least).min(most).min(1 << 30)
    }
}

/// Dead letters on a disk: the one writer of a directory.
///
/// # Durability
/// What [`append`](DeadLetterQueue::append) and [`set_state`](DeadLetterQueue::set_state)
/// acknowledged is synced. After any failed write or sync the handle is dead and says so
/// ([`DlqError::Dead`]); dropping and opening it again recovers what is on the disk. A write that a full
/// disk refuses ([`DlqError::NoSpace`]) leaves it alive: with room the same call works.
///
/// # Bounds
/// [`DlqOptions`]. An append beyond them is refused whole with [`DlqError::Full`] before anything
/// is written; the pipeline then holds its lane. Changes of state are always taken.
///
/// All calls block on the disk: keep them off async workers.
#[derive(Debug)]
pub struct FileDlq {
    storage: Arc<dyn Storage>,
    options: DlqOptions,
    letters: DlqReader,
    /// Sequence of the segment appends go to.
    active: u64,
    frames: Frames,
    /// The file of the next segment, for whose header there was no room. Until it has one, nothing goes to
    /// the active segment either: the end of one that is not the newest is no torn one.
    begun: Option<Box<dyn StorageFile>>,
    /// A full disk's part of an append was cut off the active segment, and nothing was synced since.
    cut: bool,
    dead: bool,
    _lock: Box<dyn StorageLock>,
}

impl FileDlq {
    /// Opens or creates the queue in a directory, recovers it, and locks it until dropped.
    ///
    /// Letters that were being redriven are pending again. On a full disk that is so for this handle alone,
    /// until an opening that has room writes it down.
    ///
    /// # Errors
    /// [`DlqError::InUse`] if another process holds the lock, [`DlqError::Corrupt`] with file and
    /// offset if something acknowledged is damaged, [`DlqError::Io`].
    pub fn open(
        storage: Arc<dyn Storage>,
        path: impl Into<PathBuf>,
        options: DlqOptions,
    ) -> Result<Self, DlqError> {
        let path = path.into();
        let io = |what, cause| DlqError::Io {
            what,
            path: path.display().to_string(),
            cause,
        };
        create_dir(storage.as_ref(), &path).map_err(|cause| io("create", cause))?;
        let lock = storage.lock(&path.join(LOCK_NAME)).map_err(|cause| {
            if cause.kind() == io::ErrorKind::WouldBlock {
                DlqError::InUse {
                    path: path.display().to_string(),
                }
            } else {
                io("lock", cause)
            }
        })?;
        let loaded = DlqReader::load(storage.as_ref(), path, true)?;
        let mut queue = Self {
            storage,
            options,
            active: 0,
            letters: loaded.reader,
            frames: Frames::default(),
            begun: None,
            cut: false,
            dead: false,
            _lock: lock,
        };
        queue.recover(loaded.cut, loaded.last_append)?;
        // Whoever redrove these is gone. Written down, so that readers beside us see it too.
        let filter = LetterFilter {
            state: Some(LetterState::Redriving),
            ..LetterFilter::default()
        };
        match queue.set_state_where(&filter, LetterState::Pending) {
            Err(error @ DlqError::NoSpace { .. }) => {
                let left = queue.letters.keys(&filter)?;
                warn!(
                    error = %error,
                    letters = left.len(),
                    "dead letter queue: no room to say that letters are no longer being redriven; they can be read and redriven"
                );
                for key in left {
                    queue.letters.index.apply_state(key, LetterState::Pending);
                }
            }
            written => {
                written?;
            }
        }
        Ok(queue)
    }

    /// Cuts what was never acknowledged, and makes sure of what was.
    fn recover(&mut self, cut: Option<u64>, last: Option<(u64, u64)>) -> Result<(), DlqError> {
        let Some((&sequence, _)) = self.letters.segments.last_key_value() else {
            return self.create_segment(1);
        };
        self.active = sequence;
        self.drop_index(sequence)?;
        if cut == Some(0) {
            return self.begin_again(sequence);
        }
        let length = self.letters.segments.get(&sequence).map_or(0, |s| s.length);
        if let Some(offset) = cut {
            warn!(
                path = %self.letters.path.join(segment_name(sequence)).display(),
                offset,
                bytes = length - offset,
                "dead letter queue: cut off an append that was not acknowledged"
            );
        }
        let end = cut.unwrap_or(length);
        self.write(sequence, "recover", |file| {
            file.set_len(end)?;
            // Without this, the sync below would be worth nothing after a failed one: that may have been
            // of the header alone.
            file.write_all_at(&segment_header(sequence), 0)?;
            if let Some((from, to)) = last {
                cdc_core::storage::write_again(file, from, to)?;
            }
            file.sync_data()?;
            Ok(end)
        })?;
        self.sync_dir()
    }

    /// Writes the header of a segment that was being created. On a full disk that waits for the next append,
    /// if there are segments before it: their letters are of use without it.
    fn begin_again(&mut self, sequence: u64) -> Result<(), DlqError> {
        // Whatever stands there was never a letter's.
        self.write(sequence, "begin again", |file| file.set_len(0).map(|()| 0))?;
        let begun = self.letters.segments.remove(&sequence);
        self.begun = begun.map(|segment| segment.file);
        let before = self.letters.segments.last_key_value();
        let before = before.map(|(&before, _)| before);
        match self.create_segment(sequence) {
            Err(DlqError::NoSpace { .. }) if let Some(before) = before => {
                self.active = before;
                Ok(())
            }
            created => created,
        }
    }

    /// Removes the index of a segment that is appended to again: the process died between ending it
    /// and beginning the next. An index that is there says what the segment says, always.
    fn drop_index(&mut self, sequence: u64) -> Result<(), DlqError> {
        let index = self.letters.path.join(sidecar_name(sequence));
        if !self.storage.exists(&index) {
            return Ok(());
        }
        let removed = self.storage.remove(&index);
        removed.map_err(|cause| self.letters.io("remove the index of", sequence, cause))?;
        self.sync_dir()
    }

    /// The bounds it was opened with.
    pub const fn options(&self) -> &DlqOptions {
        &self.options
    }

    /// Reads letters: by id, filtered, counted, exported.
    pub const fn reader(&self) -> &DlqReader {
        &self.letters
    }

    /// Records one state for many letters, durably, a few thousand a sync; letters that are not
    /// open are passed over. Gives how many there were.
    ///
    /// # Errors
    /// [`DlqError`]; a part may then be recorded.
    pub fn set_states<'a>(
        &mut self,
        letters: impl IntoIterator<Item = (&'a str, EventId)>,
        state: LetterState,
    ) -> Result<u64, DlqError> {
        let keys = letters
            .into_iter()
            .filter_map(|(emitter, id)| {
                Some(self.letters.index.find(&Identity::new(emitter, id))?.0)
            })
            .collect::<Vec<_>>();
        self.set_keys(&keys, state)
    }

    /// Records one state for all matching open letters, durably; gives how many there were. To
    /// discard letters for good, or to mark a selection.
    ///
    /// # Errors
    /// [`DlqError`]; a part may then be recorded.
    pub fn set_state_where(
        &mut self,
        filter: &LetterFilter,
        state: LetterState,
    ) -> Result<u64, DlqError> {
        let keys = self.letters.keys(filter)?;
        self.set_keys(&keys, state)
    }

    fn set_keys(&mut self, keys: &[Key], state: LetterState) -> Result<u64, DlqError> {
        self.alive()?;
        for part in keys.chunks(STATES_MAX) {
            self.frames.clear();
            for &key in part {
                let emitter = self.letters.index.emitter(key);
                let identity = Identity::new(emitter, event_id(key));
                let _always = self.frames.push(|out| {
                    record::state(out, &identity, state);
                    Ok::<_, std::convert::Infallible>(())
                });
            }
            self.commit()?;
            self.reclaim()?;
        }
        Ok(keys.len() as u64)
    }

    fn alive(&self) -> Result<(), DlqError> {
        if self.dead {
            return Err(DlqError::Dead {
                path: self.letters.path.display().to_string(),
            });
        }
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes()
    }

    /// Runs a change of a segment's file that gives its new length; a failure kills the handle.
    fn write(
        &mut self,
        sequence: u64,
        what: &'static str,
        change: impl FnOnce(&dyn StorageFile) -> io::Result<u64>,
    ) -> Result<(), DlqError> {
        let Some(segment) = self.letters.segments.get_mut(&sequence) else {
            return Err(self.letters.corrupt(sequence, 0, "the segment is missing"));
        };
        match change(segment.file.as_ref()) {
            Ok(length) => {
                segment.length = length;
                Ok(())
            }
            Err(cause) => {
                self.dead = true;
                Err(self.letters.io(what, sequence, cause))
            }
        }
    }

    fn sync_dir(&mut self) -> Result<(), DlqError> {
        self.storage.sync_dir(&self.letters.path).map_err(|cause| {
            self.dead = true;
            self.letters.io("sync the directory of", self.active, cause)
        })
    }

    /// Creates a segment and makes it the active one. Without room for it the one before stays that, and the
    /// next try goes on with what is there.
    fn create_segment(&mut self, sequence: u64) -> Result<(), DlqError> {
        let file = match self.begun.take() {
            Some(file) => file,
            None => {
                let path = self.letters.path.join(segment_name(sequence));
                let created = self.storage.open(&path, OpenMode::CreateNew);
                created.map_err(|cause| self.not_created(sequence, cause))?
            }
        };
        if let Err(cause) = file.write_all_at(&segment_header(sequence), 0) {
            self.begun = Some(file);
            return Err(self.not_created(sequence, cause));
        }
        self.letters
            .segments
            .insert(sequence, Segment { file, length: 0 });
        self.write(sequence, "create", |file| {
            file.sync_data()?;
            Ok(SEGMENT_HEADER_LEN as u64)
        })?;
        self.active = sequence;
        self.sync_dir()
    }

    fn not_created(&mut self, sequence: u64, cause: io::Error) -> DlqError {
        if is_no_space(&cause) {
            return self.no_space(cause);
        }
        self.dead = true;
        self.letters.io("create", sequence, cause)
    }

    fn no_space(&self, cause: io::Error) -> DlqError {
        DlqError::NoSpace {
            path: self.letters.path.display().to_string(),
            cause,
        }
    }

    /// Ends the active segment and begins the next, then writes the index beside the ended one: should there
    /// be no room for the next, the active one is appended to again, and has none.
    fn rotate(&mut self) -> Result<(), DlqError> {
        let ended = self.active;
        if self.cut {
            // The end of a segment that is not the newest is no torn one: what was cut must not be back
            // after a loss of power.
            let length = self.active_length();
            self.write(ended, "end", |file| file.sync_data().map(|()| length))?;
            self.cut = false;
        }
        self.create_segment(ended.saturating_add(1))?;
        let Some(segment) = self.letters.segments.get(&ended) else {
            return Ok(());
        };
        let storage = self.storage.as_ref();
        match self.letters.write_index(storage, ended, segment) {
            Err(DlqError::Io { cause, .. }) if is_no_space(&cause) => {
                // Only the next opening is slower without it, and writes it.
                warn!(
                    path = %self.letters.path.join(sidecar_name(ended)).display(),
                    "dead letter queue: no room for the index beside an ended segment"
                );
                Ok(())
            }
            written => written.inspect_err(|_| self.dead = true),
        }
    }

    fn active_length(&self) -> u64 {
        let active = self.letters.segments.get(&self.active);
        active.map_or(0, |segment| segment.length)
    }

    /// Writes the collected frames at the end of the active segment, syncs, and takes them into
    /// the index.
    fn commit(&mut self) -> Result<(), DlqError> {
        if self.frames.is_empty() {
            return Ok(());
        }
        let ended = self.active_length() >= self.segment_bytes()
            && self.active_length() > SEGMENT_HEADER_LEN as u64;
        if ended || self.begun.is_some() {
            self.rotate()?;
        }
        let (sequence, offset) = (self.active, self.active_length());
        let mut frames = std::mem::take(&mut self.frames);
        let place = Place { sequence, offset };
        let written = match frames.seal(place) {
            Some(bytes) => self.write_frames(sequence, offset, bytes),
            // Segments and parts are bounded far below what the format's offsets reach.
            None => Err(self
                .letters
                .corrupt(sequence, offset, "the segment is too long")),
        };
        let applied = written.and_then(|()| self.apply(&frames, sequence, offset));
        frames.clear();
        self.frames = frames;
        applied
    }

    /// Writes at the end of a segment and syncs. What a full disk took of it is cut off again, so that the
    /// handle stays of use.
    fn write_frames(&mut self, sequence: u64, offset: u64, bytes: &[u8]) -> Result<(), DlqError> {
        let mut full = None;
        self.write(sequence, "append to", |file| {
            match file.write_all_at(bytes, offset) {
                Err(cause) if is_no_space(&cause) => {
                    file.set_len(offset)?;
                    full = Some(cause);
                    Ok(offset)
                }
                written => {
                    written?;
                    file.sync_data()?;
                    Ok(offset + bytes.len() as u64)
                }
            }
        })?;
        self.cut = full.is_some();
        full.map_or(Ok(()), |cause| Err(self.no_space(cause)))
    }

    fn apply(&mut self, frames: &Frames, sequence: u64, offset: u64) -> Result<(), DlqError> {
        for (start, length, payload) in frames.payloads() {
            let at = At {
                segment: sequence,
                offset: u32::try_from(offset + start as u64).unwrap_or(u32::MAX),
                length: u32::try_from(length).unwrap_or(u32::MAX),
            };
            match record::read(payload) {
                Ok(Record::Letter(record)) => self.letters.index.apply_letter(&record, at),
                Ok(Record::State(identity, state)) => {
                    if let Some(key) = self.letters.index.key(&identity) {
                        self.letters.index.apply_state(key, state);
                    }
                }
                Err(what) => return Err(self.letters.corrupt(sequence, at.offset.into(), what)),
            }
        }
        Ok(())
    }

    fn full(&self, used: u64, max: u64, unit: &'static str, key: &'static str) -> DlqError {
        DlqError::Full {
            path: self.letters.path.display().to_string(),
            used,
            max,
            unit,
            key,
        }
    }

    /// Removes segments without open letters, and copies what is open forward when more than
    /// half of everything is of closed letters. At most one segment is copied a call.
    ///
    /// On a full disk there is no copy, and that is no error: what it was called behind is stored, and
    /// what is closed goes when there is room to copy the rest.
    fn reclaim(&mut self) -> Result<(), DlqError> {
        self.remove_finished()?;
        let (bytes, live) = (self.letters.bytes(), self.letters.index.live_bytes());
        if self.letters.segments.len() <= 2 || bytes / 2 <= live {
            return Ok(());
        }
        match self.copy_oldest() {
            Err(DlqError::NoSpace { .. }) => Ok(()),
            copied => copied,
        }
    }

    fn remove_finished(&mut self) -> Result<(), DlqError> {
        while let Some((&oldest, _)) = self.letters.segments.first_key_value()
            && oldest != self.active
            && self.letters.index.live(oldest).letters == 0
        {
            let path = self.letters.path.join(segment_name(oldest));
            self.storage.remove(&path).map_err(|cause| {
                self.dead = true;
                self.letters.io("remove", oldest, cause)
            })?;
            let index = self.letters.path.join(sidecar_name(oldest));
            if self.storage.exists(&index) {
                self.storage.remove(&index).map_err(|cause| {
                    self.dead = true;
                    self.letters.io("remove the index of", oldest, cause)
                })?;
            }
            // One at a time: were a newer removal durable and this one not, letters that the
            // newer segment closed would be open again.
            self.sync_dir()?;
            self.letters.segments.remove(&oldest);
            self.letters.index.forget_segment(oldest);
            info!(path = %path.display(), "dead letter queue: removed a finished segment");
        }
        Ok(())
    }

    /// Copies the open letters of the oldest segment to the active one and removes it.
    fn copy_oldest(&mut self) -> Result<(), DlqError> {
        let Some((&oldest, _)) = self.letters.segments.first_key_value() else {
            return Ok(());
        };
        if oldest == self.active {
            self.rotate()?;
        }
        let in_oldest = self.letters.index.iter();
        let entries: Vec<_> = in_oldest
            .filter(|(_, entry)| entry.at.segment == oldest)
            .map(|(_, entry)| entry)
            .collect();
        // The frames under way, if any, wait: a copy is an append of its own.
        let waiting = std::mem::take(&mut self.frames);
        let copied = entries.iter().try_for_each(|entry| {
            let letter = self.letters.read(entry)?;
            self.push_letter(&letter)?;
            if self.frames.len() >= PART_MAX {
                self.commit()?;
            }
            Ok(())
        });
        let copied = copied.and_then(|()| self.commit());
        self.frames = waiting;
        copied?;
        self.remove_finished()
    }

    /// Makes room for `needed` bytes, if there is any to be made.
    fn make_room(&mut self, needed: u64) -> Result<(), DlqError> {
        // Copying every segment once makes all the room there is.
        let mut copies = self.letters.segments.len();
        loop {
            self.remove_finished()?;
            let bytes = self.letters.bytes();
            if bytes.saturating_add(needed) <= self.options.bytes_max {
                return Ok(());
            }
            // Below an eighth it would be much copying for little room, again and again.
            let dead = bytes.saturating_sub(self.letters.index.live_bytes());
            if copies == 0 || dead < self.options.bytes_max / 8 {
                return Err(self.full(bytes, self.options.bytes_max, "bytes", "dlq_bytes_max"));
            }
            self.copy_oldest()?;
            copies -= 1;
        }
    }

    fn push_letter(&mut self, letter: &DeadLetter) -> Result<(), DlqError> {
        let unstorable = |what, cause| DlqError::Unstorable {
            path: self.letters.path.display().to_string(),
            event_id: letter.event_id().to_string(),
            what,
            cause,
        };
        if letter.emitter.len() > EMITTER_MAX {
            return Err(unstorable(
                "the emitter's name is longer than 200 bytes",
                None,
            ));
        }
        match self.frames.push(|out| record::letter(out, letter)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(unstorable("it is larger than 1 GiB", None)),
            Err(cause) => Err(unstorable(
                "its event cannot be encoded",
                Some(Box::new(cause)),
            )),
        }
    }

    /// What is to be written for a letter: `None` if nothing, since it is there already.
    fn as_stored(&self, letter: &DeadLetter) -> Result<Option<DeadLetter>, DlqError> {
        let identity = Identity::new(&letter.emitter, letter.event_id());
        let Some((_, entry)) = self.letters.index.find(&identity) else {
            return Ok(Some(letter.clone()));
        };
        if letter.state == LetterState::Parked {
            return Ok(None);
        }
        let known = self.letters.read(&entry)?;
        Ok(Some(DeadLetter {
            first_failed_micros: known.first_failed_micros.min(letter.first_failed_micros),
            attempts: letter.attempts.max(known.attempts.saturating_add(1)),
            ..letter.clone()
        }))
    }

    fn append_part(&mut self) -> Result<(), DlqError> {
        let frames = std::mem::take(&mut self.frames);
        let room = self.make_room(frames.len() as u64);
        self.frames = frames;
        room?;
        self.commit()
    }

    /// Refuses more letters than there may be.
    pub(crate) fn room_for_letters(&self, fresh: u64) -> Result<(), DlqError> {
        let (open, max) = (self.letters.len() as u64, self.options.letters_max);
        if open.saturating_add(fresh) > max {
            return Err(self.full(open, max, "letters", "dlq_letters_max"));
        }
        Ok(())
    }

    /// Makes room for everything an import is going to write, or refuses it before it begins.
    pub(crate) fn begin_import(&mut self, bytes: u64) -> Result<(), DlqError> {
        self.alive()?;
        self.frames.clear();
        self.make_room(bytes)
    }

    /// Writes a letter that is not open; synced with those after it, at [`FileDlq::end_import`] at
    /// the latest.
    pub(crate) fn import_one(&mut self, letter: &DeadLetter) -> Result<(), DlqError> {
        self.push_letter(letter)?;
        if self.frames.len() >= PART_MAX {
            self.append_part()?;
        }
        Ok(())
    }

    /// Makes an import durable.
    pub(crate) fn end_import(&mut self) -> Result<(), DlqError> {
        if !self.frames.is_empty() {
            self.append_part()?;
        }
        self.reclaim()
    }

    fn append_all(&mut self, letters: &[DeadLetter]) -> Result<(), DlqError> {
        let mut fresh = HashSet::new();
        for letter in letters {
            let identity = Identity::new(&letter.emitter, letter.event_id());
            if letter.state.is_open() && self.letters.index.find(&identity).is_none() {
                fresh.insert((&*letter.emitter, letter.event_id()));
            }
        }
        if !fresh.is_empty() {
            self.room_for_letters(fresh.len() as u64)?;
        }
        for letter in letters.iter().filter(|letter| letter.state.is_open()) {
            if let Some(letter) = self.as_stored(letter)? {
                self.push_letter(&letter)?;
            }
            if self.frames.len() >= PART_MAX {
                self.append_part()?;
            }
        }
        if !self.frames.is_empty() {
            self.append_part()?;
        }
        let closed = letters.iter().filter(|letter| !letter.state.is_open());
        for letter in closed {
            self.set_state(&letter.emitter, letter.event_id(), letter.state)?;
        }
        self.reclaim()
    }
}

/// True where a write failed for lack of room alone.
fn is_no_space(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl DeadLetterQueue for FileDlq {
    /// See [`DeadLetterQueue::append`]; one sync a call (one for each 64 MiB of letters).
    ///
    /// A letter that is open already keeps its first failure; its attempts grow by at least one,
    /// its last failure and state become the new ones. If it comes again as parked, nothing is
    /// written: it was replayed behind its own key.
    fn append(&mut self, letters: &[DeadLetter]) -> Result<(), DlqError> {
        self.alive()?;
        self.frames.clear();
        let appended = self.append_all(letters);
        self.frames.clear();
        appended
    }

    /// See [`DeadLetterQueue::set_state`]. A letter that is not open is passed over, so that
    /// closing twice is no error.
    fn set_state(
        &mut self,
        emitter: &str,
        id: EventId,
        state: LetterState,
    ) -> Result<(), DlqError> {
        self.alive()?;
        match self.letters.index.find(&Identity::new(emitter, id)) {
            Some((_, entry)) if entry.state == state => Ok(()),
            Some((key, _)) => self.set_keys(&[key], state).map(|_| ()),
            None => Ok(()),
        }
    }

    /// See [`DeadLetterQueue::set_states`]: one sync for a few thousand.
    fn set_states(
        &mut self,
        emitter: &str,
        ids: &[EventId],
        state: LetterState,
    ) -> Result<(), DlqError> {
        let letters = ids.iter().map(|id| (emitter, *id));
        Self::set_states(self, letters, state).map(|_| ())
    }

    /// See [`DeadLetterQueue::open_letters`]. A page ends early at 64 MiB, never empty while there
    /// are letters; it holds more than `limit` only where sources share a position.
    fn open_letters(
        &mut self,
        emitter: &str,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DlqError> {
        let mut page: Vec<DeadLetter> = Vec::new();
        let mut bytes = 0;
        for (key, entry) in self.letters.index.after(emitter, after) {
            let full = page.len() >= limit || bytes >= PAGE_BYTES_MAX;
            let same = page.last().map(|letter| letter.event.position) == Some(key.position);
            if full && !same {
                break;
            }
            bytes += u64::from(entry.at.length);
            page.push(self.letters.read(&entry)?);
        }
        Ok(page)
    }
}
