//! Follows the log without any lock.
//!
//! Nothing keeps the application from beginning its log anew before all of it was read. So all that
//! is compared comes from files of our own, and where the log began anew it is counted whether every
//! commit was seen: the wal-index counts commits, over generations of the log. If one was not, the
//! whole database is compared with the last known state, and the change comes as one transaction
//! marked `merged`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::storage::Storage;
use cdc_core::{Lsn, Position, SourceError, SourceErrorKind, wall_micros};

use super::archive::{Archive, Head};
use super::begin::{Begun, Start, header};
use super::collect::Collector;
use super::config::SqliteConfig;
use super::decoder::Decoder;
use super::downstream::Downstream;
use super::earlier::Earlier;
use super::files::FileId;
use super::follow::Looked;
use super::format::{FRAME_HEADER, Salts, frame_offset};
use super::keep::Keep;
use super::kept::Kept;
use super::log_file::{Committed, Scanned, Written, io_error, read_up_to};
use super::looks::{Looks, Reading, Seen, Stamp};
use super::pages::Pages;
use super::settle::{Log, Padding, settle};
use super::shadow::{BESIDE, Replay, Shadow};
use super::state::{Known, StateDir, boot_id, commit_at, next_generation, parts, random_id};
use super::wal_index::WalIndex;

/// Where the pages of a merged transaction are gathered.
const GATHERED: &str = "merge.tmp";
/// How long a file may be empty while a copy is put in its place, and how often that is looked at.
const EMPTY_TIME: Duration = Duration::from_secs(2);
const EMPTY_LOOK: Duration = Duration::from_millis(5);
/// How often it is checked that the path still names the same file.
const IDENTITY_INTERVAL: Duration = Duration::from_millis(500);

/// How often a database that nobody seems to have open is compared while its files keep changing.
const CLOSED_INTERVAL: Duration = Duration::from_secs(1);

/// Whether all that was committed was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Followed {
    All,
    /// The log ran away.
    Overtaken,
    /// The consumer, or the archive, takes no more at the moment.
    Stopped,
}

/// Follows one database.
#[derive(Debug)]
pub(crate) struct Free {
    config: SqliteConfig,
    looks: Looks,
    keep: Keep,
    kept: Kept,
    page_size: u32,
    /// Number of the log's generation.
    generation: u32,
    /// Merging: the generation the log was in, if it is still that one.
    start: Start<Salts>,
    pub(crate) decoder: Option<Decoder>,
    log: Option<Log>,
    /// The wal-index as of the last processed frame.
    head: WalIndex,
    /// When that was read; `None` if it has no count of commits.
    counted: Option<Reading>,
    /// What the database file looked like before it was last compared, if that says anything.
    stamp: Option<Stamp>,
    last_identity: Instant,
    last_gap: Instant,
}

impl Free {
    /// Looks at the database and decides where to begin. What is kept goes to `storage`; `resume`
    /// is how far the consumer is known to have come.
    pub(crate) fn open(
        config: &SqliteConfig,
        storage: &Arc<dyn Storage>,
        downstream: &mut dyn Downstream,
    ) -> Result<(Self, Begun), SourceError> {
        let Some(dir) = &config.state_dir else {
            return Err(SourceError::new(
                SourceErrorKind::Configuration,
                "follow without a lock: it needs a state directory for a copy of the database; name one, or use the mode pinned",
            ));
        };
        // The descriptor is kept until `looks` shares it: closing it would drop locks of others here.
        let (_main, header) = header(config)?;
        let page_size = header.geometry.page_size;
        let dir = StateDir::open(storage, dir)?;
        let known = dir.load()?;
        let looks = Looks::open(config)?;
        let Some(known) = known else {
            return Self::fresh(config, dir, looks, page_size, (random_id(), 1));
        };
        let place = (looks.file, page_size);
        let (id, last) = (known.id, parts(known.position).0);
        match Earlier::open(config, &dir, known, place, downstream)? {
            Some(earlier) => Self::again(config, dir, looks, page_size, earlier),
            None => Self::fresh(config, dir, looks, page_size, (id, next_generation(last)?)),
        }
    }

    /// Begins with what is committed now.
    fn fresh(
        config: &SqliteConfig,
        dir: StateDir,
        mut looks: Looks,
        page_size: u32,
        (id, generation): ([u8; 16], u32),
    ) -> Result<(Self, Begun), SourceError> {
        let (mut archive, _) = Archive::open(&dir.storage, &dir.dir, page_size)?;
        archive.clear()?;
        let shadow = Shadow::empty(dir.storage.as_ref(), &dir.dir, BESIDE, page_size)?;
        let stamp = looks.stamp()?;
        let settled = settle(&mut looks, page_size, None, &shadow)?;
        let shadow = shadow.install(dir.storage.as_ref(), &dir.dir, BESIDE)?;
        let head = settled.head;
        let position = commit_at(generation, head.last_frame);
        archive.comes_after(position);
        let known = Known {
            id,
            file: looks.file,
            page_size,
            position,
            salts: head.salts,
            checksum: head.checksum,
            count: head.count,
            folding: Lsn::ZERO,
            snapshot: config.snapshot,
            boot: boot_id(),
        };
        dir.saver.save(&known)?;
        let floor = if config.snapshot {
            Position::before(position)
        } else {
            Position::end_of(position)
        };
        let begun = Begun {
            id,
            floor,
            end: Position::end_of(position),
        };
        let kept = Kept::new(shadow.again(), page_size, head.count, &[]);
        let bytes_max = config.archive_bytes_max;
        let follower = Self {
            config: config.clone(),
            looks,
            keep: Keep::new(dir, known, shadow, archive, Vec::new(), bytes_max)?,
            kept,
            page_size,
            generation,
            start: Start::Now {
                snapshot: config.snapshot.then_some(position),
            },
            decoder: None,
            log: settled.log,
            head,
            counted: Some(settled.reading),
            stamp,
            last_identity: Instant::now(),
            last_gap: Instant::now(),
        };
        Ok((follower, begun))
    }

    /// Takes up where an earlier run stopped.
    fn again(
        config: &SqliteConfig,
        dir: StateDir,
        looks: Looks,
        page_size: u32,
        earlier: Earlier,
    ) -> Result<(Self, Begun), SourceError> {
        let floor = earlier.floor();
        let (generation, frame) = earlier.at;
        let mut log = None;
        if earlier.may_go_on
            && let Some(mut found) = Log::open(&looks, earlier.salts)?
            && found.pass(frame, |_| ())?.1
            && (frame == 0 || found.scanner.checksum() == earlier.checksum)
        {
            log = Some(found);
        }
        let now = match looks.index()? {
            Seen::Head(head) => (head.salts, head.last_frame),
            Seen::Absent | Seen::Unreadable => (earlier.salts, frame),
        };
        let Earlier {
            known,
            shadow,
            archive,
            archived,
            salts,
            checksum,
            count,
            newest,
            ..
        } = earlier;
        let (merge, generation, end) = if log.is_some() {
            let end = if now.0 == salts {
                now.1.max(frame)
            } else {
                frame
            };
            (None, generation, commit_at(generation, end))
        } else {
            let end = commit_at(next_generation(newest)?, now.1);
            (Some(now.0), newest, end)
        };
        let begun = Begun {
            id: known.id,
            floor,
            end: Position::end_of(end).max(floor),
        };
        let head = WalIndex {
            change: 0,
            page_size,
            last_frame: frame,
            count,
            checksum,
            salts,
            backfilled: 0,
            backfill_begun: 0,
        };
        let bytes_max = config.archive_bytes_max;
        let follower = Self {
            config: config.clone(),
            looks,
            kept: Kept::new(shadow.again(), page_size, known.count, &archived),
            page_size,
            generation,
            start: Start::Again {
                replay: Replay::new(&shadow, known.count, archived.clone()),
                snapshot: known.snapshot.then_some(known.position),
                merge,
            },
            keep: Keep::new(dir, known, shadow, archive, archived, bytes_max)?,
            decoder: None,
            log,
            head,
            counted: None,
            stamp: None,
            last_identity: Instant::now(),
            last_gap: Instant::now(),
        };
        Ok((follower, begun))
    }

    fn at(&self) -> u32 {
        self.log.as_ref().map_or(0, |log| log.scanner.at())
    }

    /// Bytes of log behind the last processed frame, as last seen.
    pub(crate) fn lag(&self) -> u64 {
        let page = u64::from(self.page_size) + FRAME_HEADER as u64;
        u64::from(self.head.last_frame.saturating_sub(self.at())) * page
    }

    /// Reads the database where following begins; see [`Start::load`].
    pub(crate) fn load(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        if let Some(loaded) = self.start.load(&self.kept, &self.config, collector)? {
            self.decoder = Some(loaded.decoder);
            if let Some(salts) = loaded.merge {
                self.gap(collector, Some(salts))?;
            }
        }
        Ok(())
    }

    /// One look at the log. `confirmed` is durable downstream.
    pub(crate) fn poll(
        &mut self,
        collector: &mut Collector,
        confirmed: Position,
    ) -> Result<Looked, SourceError> {
        self.confirmed(confirmed, false)?;
        if self.is_full() {
            return Ok(Looked::Still);
        }
        let reading = self.looks.reading()?;
        let followed = match self.looks.index()? {
            Seen::Head(head) if head.salts != self.head.salts => {
                self.turned(head, reading, collector)?
            }
            Seen::Head(head) if head.last_frame < self.at() => Followed::Overtaken,
            Seen::Head(head) if head.last_frame > self.at() => {
                self.follow(head, reading, collector)?
            }
            Seen::Head(head) => {
                self.head = head;
                self.counted = Some(reading);
                return self.still(collector);
            }
            Seen::Absent | Seen::Unreadable => return self.still(collector),
        };
        if followed == Followed::Overtaken {
            self.gap(collector, None)?;
        }
        collector.flush()?;
        Ok(Looked::Moved)
    }

    /// Nothing happened in the files that are open: others may have their names.
    fn still(&mut self, collector: &mut Collector) -> Result<Looked, SourceError> {
        if self.last_identity.elapsed() >= IDENTITY_INTERVAL {
            self.last_identity = Instant::now();
            if FileId::of(&self.config.path).ok() != Some(self.looks.file) {
                return Err(super::begin::replaced(&self.config));
            }
        }
        if !self.looks.is_replaced() {
            // Somebody may have opened the database, written, and closed it between two looks.
            if self.looks.is_closed() {
                let stamp = self.looks.stamp()?;
                // Somebody who never pauses leaves nothing that can be told.
                let busy = stamp.is_none() && self.last_gap.elapsed() >= CLOSED_INTERVAL;
                if stamp != self.stamp || busy {
                    self.gap(collector, None)?;
                    return Ok(Looked::Moved);
                }
            }
            return Ok(Looked::Still);
        }
        // Nobody had the database open for a moment: what happened since cannot be counted. The
        // last one to close it may have committed after the look.
        let reading = self.looks.reading()?;
        if let Seen::Head(head) = self.looks.index()?
            && head.salts == self.head.salts
            && head.last_frame > self.at()
            && self.log.is_some()
        {
            self.follow(head, reading, collector)?;
            collector.flush()?;
            return Ok(Looked::Moved);
        }
        self.looks.reopen()?;
        self.gap(collector, None)?;
        Ok(Looked::Moved)
    }

    fn is_full(&self) -> bool {
        self.keep.waiting_bytes() >= self.config.archive_bytes_max
    }

    /// Everything up to here is durable downstream.
    pub(crate) fn confirmed(&mut self, up_to: Position, last: bool) -> Result<(), SourceError> {
        if let Some(folded) = self.keep.confirmed(up_to, last)? {
            self.kept.folded(folded);
        }
        Ok(())
    }

    /// Processes what was committed in this generation.
    fn follow(
        &mut self,
        head: WalIndex,
        reading: Reading,
        collector: &mut Collector,
    ) -> Result<Followed, SourceError> {
        if self.log.is_none() {
            self.log = Log::open(&self.looks, head.salts)?;
        }
        let outcome = self.process(head.last_frame, u32::MAX, collector)?;
        if self.at() == head.last_frame {
            self.head = head;
            self.counted = Some(reading);
        } else if outcome == Followed::All {
            return Ok(Followed::Overtaken);
        }
        Ok(outcome)
    }

    /// The log has begun anew. What of the former generation is left is processed if it can be
    /// shown that it is all there was.
    fn turned(
        &mut self,
        head: WalIndex,
        reading: Reading,
        collector: &mut Collector,
    ) -> Result<Followed, SourceError> {
        let Some(counted) = self.counted else {
            return Ok(Followed::Overtaken);
        };
        if !self.looks.counts_on(&counted, self.head.change)? {
            return Ok(Followed::Overtaken);
        }
        let mut rest = 0;
        if let Some(log) = &self.log {
            let mut ahead = Log {
                file: log.file.clone(),
                scanner: log.scanner.again(),
            };
            rest = ahead.pass(u32::MAX, |_| ())?.0;
        }
        let mut new = 0;
        if head.last_frame > 0 {
            let Some(mut log) = Log::open(&self.looks, head.salts)? else {
                return Ok(Followed::Overtaken);
            };
            let whole;
            (new, whole) = log.pass(head.last_frame, |_| ())?;
            if !whole {
                return Ok(Followed::Overtaken);
            }
        }
        if self.head.change.wrapping_add(rest).wrapping_add(new) != head.change {
            return Ok(Followed::Overtaken);
        }
        let outcome = self.process(u32::MAX, rest, collector)?;
        if outcome != Followed::All {
            return Ok(outcome);
        }
        self.generation = next_generation(self.generation)?;
        self.log = None;
        self.head = WalIndex {
            last_frame: 0,
            change: self.head.change,
            ..head
        };
        self.counted = Some(reading);
        if head.last_frame == 0 {
            return Ok(Followed::All);
        }
        self.follow(head, reading, collector)
    }

    /// Processes transactions up to a frame, and no more than so many commits.
    fn process(
        &mut self,
        limit: u32,
        commits: u32,
        collector: &mut Collector,
    ) -> Result<Followed, SourceError> {
        let Some(mut log) = self.log.take() else {
            return Ok(if commits == 0 || limit == 0 {
                Followed::All
            } else {
                Followed::Overtaken
            });
        };
        log.scanner.forget_ahead();
        let mut padding = Padding::default();
        let mut done = 0;
        let outcome = loop {
            if done == commits {
                break Followed::All;
            }
            match log.scanner.next(&log.file, limit)? {
                Scanned::Transaction(next) => {
                    let commit = u32::from(!padding.is(&next));
                    done += commit;
                    self.head.change = self.head.change.wrapping_add(commit);
                    if !self.transaction(&log, next, collector)? {
                        break Followed::Overtaken;
                    }
                    if collector.is_stopped() || self.is_full() {
                        break Followed::Stopped;
                    }
                }
                Scanned::Nothing => break Followed::All,
                Scanned::Broken { .. } => break Followed::Overtaken,
            }
        };
        self.log = Some(log);
        Ok(outcome)
    }

    /// Archives and decodes one transaction; false if the log began anew while it was read.
    fn transaction(
        &mut self,
        log: &Log,
        next: Committed,
        collector: &mut Collector,
    ) -> Result<bool, SourceError> {
        let head = Head::of(self.generation, self.head.salts, &next);
        let numbers: Vec<u32> = next.pages.iter().map(|written| written.page).collect();
        let mut images = next.pages.iter();
        let page_size = self.page_size;
        let archived = self.keep.archive.append(head, &numbers, |_| {
            let written: Option<&Written> = images.next();
            match written.map(|written| (written.frame, written.image.clone())) {
                Some((_, Some(image))) => Ok(image),
                Some((frame, None)) => {
                    let mut page = vec![0; page_size as usize];
                    let offset = frame_offset(frame, page_size) + FRAME_HEADER as u64;
                    read_up_to(&log.file, &mut page, offset)
                        .map_err(|cause| io_error("read the -wal file", cause))?;
                    Ok(page.into())
                }
                None => Ok(bytes::Bytes::new()),
            }
        })?;
        // What memory did not keep was read a second time.
        if next.pages.iter().any(|written| written.image.is_none())
            && !matches!(self.looks.index()?, Seen::Head(now) if now.salts == head.salts)
        {
            self.keep.archive.undo(&archived)?;
            return Ok(false);
        }
        self.keep.add(archived.clone());
        self.kept.begin(archived, next.pages);
        let Some(decoder) = &mut self.decoder else {
            return Ok(false);
        };
        collector.begin(head.commit, head.micros, false);
        decoder.transaction(&numbers, &self.kept, collector)?;
        collector.end();
        self.kept.finish();
        Ok(true)
    }

    /// Compares the database with the last known state; the difference is one transaction. Its
    /// position is in a new generation: `expected` has the salts of the one that was promised.
    fn gap(
        &mut self,
        collector: &mut Collector,
        expected: Option<Salts>,
    ) -> Result<(), SourceError> {
        // It may be another kind of file by now; a copy that is put in its place begins empty.
        let begun = Instant::now();
        while std::fs::metadata(&self.config.path).is_ok_and(|file| file.len() == 0)
            && begun.elapsed() < EMPTY_TIME
        {
            std::thread::sleep(EMPTY_LOOK);
        }
        header(&self.config)?;
        let stamp = self.looks.stamp()?;
        let (dir, storage) = (self.keep.dir.dir.clone(), self.keep.dir.storage.clone());
        let gathered = Shadow::empty(storage.as_ref(), &dir, GATHERED, self.page_size)?;
        let settled = settle(
            &mut self.looks,
            self.page_size,
            Some(&self.kept as &dyn Pages),
            &gathered,
        )?;
        self.generation = next_generation(self.generation)?;
        if expected.is_some_and(|salts| salts != settled.head.salts) {
            self.generation = next_generation(self.generation)?;
        }
        let (now, changed) = (settled.head, settled.changed);
        let commit = commit_at(self.generation, now.last_frame);
        let micros = wall_micros();
        collector.begin(commit, micros, true);
        if !changed.is_empty() {
            tracing::debug!(
                database = %self.config.shown(),
                position = %commit,
                pages = changed.len(),
                "the log began anew before all of it was read: the changes since then come as one transaction, marked merged"
            );
        }
        // Also if nothing changed: the consumer learns of the position.
        let there = changed.partition_point(|page| *page <= now.count);
        let head = Head {
            commit,
            salts: now.salts,
            checksum: now.checksum,
            count: now.count,
            micros,
            merged: true,
        };
        let pages = changed.get(..there).unwrap_or_default();
        let archived = self
            .keep
            .archive
            .append(head, pages, |page| gathered.read(page))?;
        self.keep.add(archived.clone());
        self.kept.begin(archived, Vec::new());
        if let Some(decoder) = &mut self.decoder {
            decoder.transaction(&changed, &self.kept, collector)?;
        }
        self.kept.finish();
        collector.end();
        drop(gathered);
        storage
            .remove(&dir.join(GATHERED))
            .map_err(|cause| io_error("remove a temporary file of the source", cause))?;
        self.head = now;
        self.log = settled.log;
        self.counted = Some(settled.reading);
        self.stamp = stamp;
        self.last_gap = Instant::now();
        collector.flush()
    }
}
