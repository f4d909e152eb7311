//! A database that other processes write, followed through its log files.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cdc_core::storage::Storage;
use cdc_core::{
    BatchLimit, ChangeEvent, Clock, EventBatch, Lineage, Lsn, Position, SourceError, SourceInfo,
    SourceKind, TokenRefusal, WalSource,
};

use super::directory::Extent;
use super::entered::{Entered, Remembered};
use super::manifest::{Manifest, identity, manifest, options};
use super::{Batch, Families, Record, WalDirectory};
use crate::segment::LOOKS;
use crate::{LogError, LogErrorKind};

/// Where to begin without a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RocksDbStart {
    /// With what is written from now on.
    #[default]
    Now,
    /// With the oldest change a log file has.
    Oldest,
}

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct RocksDbConfig {
    /// The database's folder.
    pub path: PathBuf,
    /// The folder of its log files, if it is another one (`wal_dir`).
    pub wal_dir: Option<PathBuf>,
    /// Name in events; default the folder's name.
    pub name: Option<String>,
    /// Where to begin without a position; default [`RocksDbStart::Now`].
    pub start: RocksDbStart,
    /// Go on behind changes that no log file has any more; default false.
    pub accept_gap: bool,
    /// A folder of this reader's own, in which it keeps what a position does not say: which log files it
    /// read. Without it, a position whose sequence number RocksDB gave twice is refused.
    pub state_dir: Option<PathBuf>,
    /// Names of families that were dropped, by number, if the log still has changes of them and the
    /// database has forgotten them.
    pub dropped_families: Vec<(u32, String)>,
    /// How often the log is looked at; default 5 ms.
    pub poll_interval: Duration,
    /// How long bytes at the end of the newest file may be no record, since they may be half
    /// written, before they count as damaged; default 2 s.
    pub patience: Duration,
}

impl RocksDbConfig {
    /// Defaults for a database.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            wal_dir: None,
            name: None,
            start: RocksDbStart::default(),
            accept_gap: false,
            state_dir: None,
            dropped_families: Vec::new(),
            poll_interval: Duration::from_millis(5),
            patience: Duration::from_secs(2),
        }
    }

    fn source_name(&self) -> String {
        let folder = || self.path.file_name().map(|name| name.to_string_lossy());
        match &self.name {
            Some(name) => name.clone(),
            None => folder().unwrap_or_default().into_owned(),
        }
    }

    fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.path.clone())
    }
}

/// Reads the committed write batches of a RocksDB database, whoever writes it, without linking
/// RocksDB or taking its lock.
///
/// # Set-up
/// RocksDB deletes a log file as soon as its changes are in tables, and knows no readers. So it must keep
/// its log files longer than this may be away: `WAL_ttl_seconds`, `WAL_size_limit_MB`, or both. Without
/// them a flush may delete what was not read yet, which is an error of kind
/// [`SourceErrorKind::Gap`](cdc_core::SourceErrorKind::Gap), never silent.
///
/// # Positions
/// `commit` is the sequence number of the batch's first change, the ordinal the change's place in it. A
/// batch is one transaction. The commit time is when the batch was read: the log has none. Behind a restart
/// of the database at which it gave numbers a second time ([`WalDirectory`]), `commit` is larger than the
/// sequence number, so that positions rise.
///
/// # Durability
/// A batch is given when it is in the file, which may be before the database has synced it
/// (`WriteOptions::sync = false`). It survives the death of the writer, not of the machine: if the
/// database comes back without it, a position behind its end is refused as ahead, and if it was
/// written again since, as a gap.
///
/// # Confirmation
/// Does nothing: there is nobody to tell.
///
/// # Blocking
/// Reads files in the calling thread; waits only for the clock.
#[derive(Debug)]
pub struct RocksDbSource {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    config: RocksDbConfig,
    info: Arc<SourceInfo>,
    families: Families,
    /// A merge operator is not known: its options may not have been written when they were read.
    unnamed: bool,
    wal: WalDirectory,
    remembered: Remembered,
    /// Events up to here were given before this value was made.
    after: Position,
    start: Position,
    end_at_start: Position,
    pending: VecDeque<ChangeEvent>,
    /// Where what was read ends.
    read: Position,
    covered: Position,
    /// Since when there are bytes that are no record.
    doubtful: Option<Duration>,
}

/// What is set up at a database, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksDbCheck {
    /// Names of its column families.
    pub families: Vec<String>,
    /// The first and last sequence number that its log files have; `None` if they have none.
    pub extent: Option<(u64, u64)>,
    /// `WAL_ttl_seconds` and `WAL_size_limit_MB`; `None` if it has no options file. Both 0: it deletes
    /// log files without regard to readers.
    pub kept: Option<[u64; 2]>,
}

impl RocksDbCheck {
    /// Looks at a database; changes nothing.
    ///
    /// # Errors
    /// Of kind `Configuration` without a database.
    pub fn read(storage: &Arc<dyn Storage>, config: &RocksDbConfig) -> Result<Self, SourceError> {
        let (found, _) = look(storage.as_ref(), config)?;
        identity(storage.as_ref(), &config.path)?;
        let wal = WalDirectory::after(storage.clone(), config.wal_dir(), 0);
        Ok(Self {
            families: found.families.into_values().collect(),
            extent: wal.extent()?.map(|extent| (extent.first, extent.last)),
            kept: options(storage.as_ref(), &config.path)?.kept,
        })
    }
}

impl RocksDbSource {
    /// Looks at the database and begins to follow it: strictly after `resume_from`, or where the
    /// configuration says.
    ///
    /// # Errors
    /// Of kind `Configuration` without a database, `Gap` if what follows the position is in no log file
    /// and that is not accepted, `Refused` if the position is ahead of the database.
    pub fn connect(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        config: RocksDbConfig,
        resume_from: Option<Position>,
    ) -> Result<Self, SourceError> {
        let name = config.source_name();
        let id = identity(storage.as_ref(), &config.path)?;
        let lineage = Lineage::new(SourceKind::RocksDb, id, 1);
        let info = Arc::new(SourceInfo::new(name.as_str(), name.as_str(), lineage));
        let remembered = Remembered::open(storage.clone(), config.state_dir.as_deref(), id)?;
        let wal = WalDirectory::after(storage.clone(), config.wal_dir(), 0);
        let mut looks = 1;
        let begin = loop {
            let files = wal.numbers()?;
            let begin = Begin::find(storage.as_ref(), &config, &remembered, &wal, resume_from);
            // RocksDB deletes files when it likes: one that was there for one look and gone for the
            // next makes neither a gap nor a position ahead.
            let doubtful = match &begin {
                Ok(begin) => begin.missing.is_some(),
                Err(error) => matches!(error.kind, LogErrorKind::Refused(_)),
            };
            if !doubtful || looks >= LOOKS || wal.numbers()? == files {
                break begin?;
            }
            looks += 1;
        };
        let Begin {
            families,
            place,
            mut end_at_start,
            missing,
            ..
        } = begin;
        let place = match missing {
            Some((error, _)) if !config.accept_gap => return Err(error.into()),
            Some((_, accepted)) => {
                // What is behind the gap may have other numbers in the stream than it had before it.
                end_at_start = accepted.end(&wal, begin.extent, begin.noted)?;
                accepted
            }
            None => place,
        };
        let after = place.after;
        Ok(Self {
            wal: WalDirectory::after(storage.clone(), config.wal_dir(), place.sequence())
                .beginning_in(place.file, place.shift),
            storage,
            clock,
            config,
            info,
            families,
            unnamed: true,
            remembered,
            after,
            start: after,
            end_at_start: end_at_start.max(after),
            pending: VecDeque::new(),
            read: after,
            covered: after,
            doubtful: None,
        })
    }

    /// Everything up to here is not part of the stream.
    pub const fn start(&self) -> Position {
        self.start
    }

    /// Where what was written when this value connected ends.
    pub const fn end_at_start(&self) -> Position {
        self.end_at_start
    }

    /// Reads at least one batch with something new, if there is one.
    fn read(&mut self) -> Result<bool, LogError> {
        loop {
            let bytes = match self.wal.next_batch() {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    self.doubtful = None;
                    return Ok(false);
                }
                Err(error) if error.kind == LogErrorKind::Corrupt => {
                    // The writer may be in the middle of it.
                    let now = self.clock.elapsed();
                    let since = *self.doubtful.get_or_insert(now);
                    if now.saturating_sub(since) >= self.config.patience {
                        return Err(error);
                    }
                    self.wal.look_again();
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            self.doubtful = None;
            let batch = Batch::decode(&bytes)
                .map_err(|error| LogError::new(LogErrorKind::Corrupt, error.to_string()))?;
            let shift = self.wal.shift();
            let events = self.events(&batch, batch.sequence().saturating_add(shift))?;
            // Before anything of it is given: a position in it must be found again.
            if let Some(file) = self.wal.entered() {
                self.remembered.enter(file)?;
            }
            // All its sequence numbers: what comes next follows the last one.
            let last = batch.next_sequence().saturating_sub(1);
            self.read = end_of(last.saturating_add(shift)).max(self.read);
            let after = self.after;
            self.pending
                .extend(events.into_iter().filter(|event| event.position > after));
            if !self.pending.is_empty() {
                return Ok(true);
            }
        }
    }

    /// The events of a batch. Looks at the database's own files again for a family that was added
    /// since, and once for the operator of a merge.
    fn events(&mut self, batch: &Batch<'_>, at: u64) -> Result<Vec<ChangeEvent>, LogError> {
        let micros = self.clock.wall_micros();
        let merges = || {
            let mut records = batch.records();
            records.any(|record| matches!(record, Ok(Record::Merge { .. })))
        };
        let mut fresh = self.unnamed && merges();
        if fresh {
            // What is in the log was written after the options were.
            self.unnamed = false;
            self.families = look(self.storage.as_ref(), &self.config)?.1;
        }
        loop {
            match self.families.events_at(batch, at, micros) {
                Err(error) if error.kind == LogErrorKind::NotFound && !fresh => {
                    fresh = true;
                    self.unnamed = true;
                    self.families = look(self.storage.as_ref(), &self.config)?.1;
                }
                events => return events,
            }
        }
    }

    /// As much of what is pending as the limit allows.
    fn take(&mut self, limit: &BatchLimit) -> EventBatch {
        let (mut bytes, mut count) = (0, 0);
        for event in self.pending.iter().take(limit.events_max.max(1)) {
            bytes += event.encoded_len();
            if count > 0 && bytes > limit.bytes_max {
                break;
            }
            count += 1;
        }
        let events: Vec<ChangeEvent> = self.pending.drain(..count).collect();
        let end = match events.last() {
            Some(last) if !self.pending.is_empty() && last.last => {
                Position::end_of(last.position.commit)
            }
            Some(last) if !self.pending.is_empty() => last.position,
            _ => self.read,
        };
        self.covered = self.covered.max(end);
        EventBatch::new(self.info.clone(), events, self.covered)
    }
}

impl WalSource for RocksDbSource {
    fn source(&self) -> &Arc<SourceInfo> {
        &self.info
    }

    async fn next_batch(&mut self, limit: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        let begin = self.clock.elapsed();
        loop {
            while self.pending.len() < limit.events_max && self.read()? {
                let bytes: usize = self.pending.iter().map(ChangeEvent::encoded_len).sum();
                if bytes >= limit.bytes_max {
                    break;
                }
            }
            let waited = self.clock.elapsed().saturating_sub(begin);
            if !self.pending.is_empty() || waited >= limit.linger {
                return Ok(Some(self.take(&limit)));
            }
            let left = limit.linger.saturating_sub(waited);
            self.clock.sleep(self.config.poll_interval.min(left)).await;
        }
    }

    async fn confirm(&mut self, _up_to: Position) -> Result<(), SourceError> {
        Ok(())
    }
}

/// Where a source begins, as far as one look at files tells that come and go meanwhile.
struct Begin {
    families: Families,
    extent: Option<Extent>,
    /// The last sequence number that the database has noted.
    noted: u64,
    place: Place,
    end_at_start: Position,
    /// See [`Place::missing`].
    missing: Option<(LogError, Place)>,
}

impl Begin {
    fn find(
        storage: &dyn Storage,
        config: &RocksDbConfig,
        remembered: &Remembered,
        wal: &WalDirectory,
        resume_from: Option<Position>,
    ) -> Result<Self, LogError> {
        // The log first: what is flushed in between is in both.
        let extent = wal.extent()?;
        let (found, families) = look(storage, config)?;
        let noted = found.last_sequence;
        let place = match (resume_from, config.start) {
            (Some(position), _) => Place::find(remembered, wal, position)?,
            (None, RocksDbStart::Now) => match extent {
                Some(extent) if extent.last >= noted => {
                    Place::new(end_of(extent.last), Some(extent.newest), 0)
                }
                _ => Place::new(end_of(noted), None, 0),
            },
            (None, RocksDbStart::Oldest) => {
                let before = extent.map_or(noted, |extent| extent.first.saturating_sub(1));
                Place::new(end_of(before), extent.map(|extent| extent.oldest), 0)
            }
        };
        let end_at_start = place.end(wal, extent, noted)?;
        if place.after.commit > end_at_start.commit {
            return Err(TokenRefusal::Ahead {
                token: place.after,
                end: end_at_start,
            }
            .into());
        }
        let missing = place.missing(wal, &config.wal_dir(), noted)?;
        Ok(Self {
            families,
            extent,
            noted,
            place,
            end_at_start,
            missing,
        })
    }
}

/// Where in the files to go on.
#[derive(Clone, Copy, Debug)]
struct Place {
    after: Position,
    /// The file that has the last change before, if it is known.
    file: Option<u64>,
    /// What is added to its sequence numbers.
    shift: u64,
}

impl Place {
    const fn new(after: Position, file: Option<u64>, shift: u64) -> Self {
        Self { after, file, shift }
    }

    /// The sequence number of what was read last.
    const fn sequence(&self) -> u64 {
        self.after.commit.0.saturating_sub(self.shift)
    }

    /// Where what is written ends, in the stream that goes on here.
    fn end(
        &self,
        wal: &WalDirectory,
        extent: Option<Extent>,
        noted: u64,
    ) -> Result<Position, LogError> {
        let from = self.file.or(extent.map(|extent| extent.oldest));
        let end = from
            .map(|file| wal.end_from(file, self.shift))
            .transpose()?;
        let noted = noted.saturating_add(self.shift);
        Ok(end_of(end.flatten().map_or(noted, |end| end.max(noted))))
    }

    /// Where a position is, by what is remembered.
    fn find(
        remembered: &Remembered,
        wal: &WalDirectory,
        position: Position,
    ) -> Result<Self, LogError> {
        let at = position.commit.0;
        let begins_next = |file: &Entered| file.first == at.saturating_add(1);
        let file = match remembered.find(at) {
            // Read to its end, and deleted since.
            Some((file, Some(next)))
                if begins_next(&next) && wal.bounds(file.number)?.is_none() =>
            {
                Some(next)
            }
            Some((file, _)) => Some(file),
            None => remembered
                .oldest()
                .filter(|file| begins_next(file) || file.shift > 0),
        };
        Ok(file.map_or(Self::new(position, None, 0), |file| {
            Self::new(position, Some(file.number), file.shift)
        }))
    }

    /// What is in no file although it would have to be read, as an error, and where to go on without
    /// it.
    fn missing(
        &self,
        wal: &WalDirectory,
        dir: &Path,
        noted: u64,
    ) -> Result<Option<(LogError, Self)>, LogError> {
        let next = self.sequence().saturating_add(1);
        let there = match self.file {
            Some(file) => wal.bounds(file)?,
            None => None,
        };
        if there.is_some_and(|(_, last)| next <= last.saturating_add(1)) {
            return Ok(None);
        }
        let (file, first) = match wal.behind_file(self.file)? {
            Some((file, first)) if first > next || (self.file.is_some() && first < next) => {
                (Some(file), first)
            }
            // All of it is in tables, and no file is left.
            None if there.is_none() && next <= noted => (None, noted.saturating_add(1)),
            _ => return Ok(None),
        };
        if first > next {
            let before = end_of(first.saturating_add(self.shift).saturating_sub(1));
            let error = super::gap(dir, next, first.saturating_sub(1));
            return Ok(Some((error, Self::new(before, file, self.shift))));
        }
        // One number of the stream stands for what is missing.
        let after = end_of(self.after.commit.0.saturating_add(1));
        let shift = after.commit.0.saturating_add(1).saturating_sub(first);
        let error = super::undone(dir, file.unwrap_or(0), first, next);
        Ok(Some((error, Self::new(after, file, shift))))
    }
}

/// Everything up to and with a sequence number.
fn end_of(sequence: u64) -> Position {
    if sequence == 0 {
        return Position::ZERO;
    }
    Position::end_of(Lsn(sequence))
}

fn look(storage: &dyn Storage, config: &RocksDbConfig) -> Result<(Manifest, Families), LogError> {
    let mut found = manifest(storage, &config.path)?;
    for (number, name) in &config.dropped_families {
        found
            .families
            .entry(*number)
            .or_insert_with(|| name.clone());
    }
    let options = options(storage, &config.path)?;
    let families = found.families(&config.source_name(), &options.operators);
    Ok((found, families))
}
