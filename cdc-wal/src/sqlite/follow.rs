//! Follows the log while holding it, so that every transaction is seen whole.
//!
//! Invariant, with P the last processed frame: some read transaction is open, and either its mark
//! is at or before P, or it began when everything was in the database file and had been processed.
//! So frames behind P are never copied over an old page that is still to be compared, and a new
//! generation of the log begins only where the old one was processed to its end.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::{Lsn, Position, SourceError, SourceErrorKind, wall_micros};

use super::archive::{self, Archive, Archived};
use super::collect::Collector;
use super::config::{Assist, SqliteConfig};
use super::decoder::Decoder;
use super::files::FileId;
use super::format::{Checksum, DbHeader, FRAME_HEADER};
use super::keep::{Keep, apply};
use super::log_file::{Break, Scanned, Scanner, io_error, read_up_to, wal_header};
use super::pages::{Pages, Side};
use super::pins::Pins;
use super::shadow::{Between, Replay, Shadow};
use super::state::{Known, StateDir, boot_id, commit_at, parts, random_id};
use super::view::LogView;
use super::wal_index::WalIndex;

fn next_generation(last: u32) -> Result<u32, SourceError> {
    last.checked_add(1).ok_or_else(|| {
        SourceError::new(
            SourceErrorKind::Unsupported,
            "count the generations of the log: there were more than 4294967295",
        )
    })
}

/// Attempts to read the wal-index while somebody writes it.
const INDEX_ATTEMPTS: u32 = 10_000;
/// How long nothing must happen before a pause is used.
const IDLE: Duration = Duration::from_millis(50);
/// How often it is checked that the path still names the same file.
const IDENTITY_INTERVAL: Duration = Duration::from_millis(500);
/// Shortest time between two attempts to help a checkpoint.
const ASSIST_INTERVAL: Duration = Duration::from_millis(100);
/// Shortest time between two advances of the shadow.
const FOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Archived pages that are worth an advance before that.
const FOLD_PAGES: usize = 16_384;
/// Most frames that are processed while the application is kept from writing.
const LOCKED_FRAMES_MAX: u32 = 1000;

/// What the consumer learns when following begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) id: [u8; 16],
    /// Everything up to here is not part of the stream.
    pub(crate) floor: Position,
    /// What was committed when it began ends here.
    pub(crate) end: Position,
}

/// Where following begins.
#[derive(Debug)]
enum Start {
    /// With what is committed now.
    Now {
        snapshot: Option<Lsn>,
    },
    /// With what an earlier run has not confirmed.
    Again {
        replay: Replay,
        snapshot: Option<Lsn>,
        /// The log does not go on where that ends: what lies between is one transaction.
        merge: Option<Lsn>,
    },
    Begun,
}

/// Follows one database.
#[derive(Debug)]
pub(crate) struct Follower {
    config: SqliteConfig,
    // The connections go before everything else that has a descriptor.
    pins: Pins,
    keep: Option<Keep>,
    id: [u8; 16],
    /// Number of the log's generation.
    generation: u32,
    start: Start,
    view: LogView,
    scanner: Option<Scanner>,
    decoder: Option<Decoder>,
    /// The wal-index as last processed.
    head: WalIndex,
    /// The held read transaction began when everything was in the database file.
    on_main: bool,
    last_change: Instant,
    last_identity: Instant,
    last_assist: Instant,
}

fn gap(config: &SqliteConfig, what: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::Gap,
        format!(
            "resume {}: {what}; a new snapshot is required: start with accept-gap and a snapshot",
            config.shown()
        ),
    )
}

/// Looks at the file itself, before SQLite does: what it refuses is refused by name.
pub(crate) fn header(config: &SqliteConfig) -> Result<(Arc<File>, DbHeader), SourceError> {
    let shown = config.shown();
    let (_, main) = super::files::open(&config.path).map_err(|cause| {
        SourceError::new(
            SourceErrorKind::Unreachable,
            format!("open the database {shown}: {cause}; check the path"),
        )
        .with_cause(cause)
    })?;
    let mut bytes = [0; 100];
    let got = read_up_to(&main, &mut bytes, 0)
        .map_err(|cause| io_error(&format!("read the database {shown}"), cause))?;
    let wal_remedy = format!("run once: sqlite3 {shown} 'PRAGMA journal_mode = WAL'");
    if got == 0 {
        return Err(SourceError::new(
            SourceErrorKind::Configuration,
            format!(
                "follow {shown}: the file is empty, nothing was written to it yet; {wal_remedy}"
            ),
        ));
    }
    let header = DbHeader::parse(&bytes).map_err(|error| {
        SourceError::new(
            SourceErrorKind::Unsupported,
            format!("follow {shown}: {error}; only plain SQLite databases can be followed"),
        )
    })?;
    if !header.is_wal() {
        return Err(SourceError::new(
            SourceErrorKind::Configuration,
            match header.versions {
                (1, 1) => format!(
                    "follow {shown}: it is in rollback-journal mode, which keeps no log to follow; {wal_remedy}"
                ),
                (write, read) => format!(
                    "follow {shown}: its journal mode is of version {write}/{read}, only WAL (2/2) can be followed; {wal_remedy}"
                ),
            },
        ));
    }
    Ok((main, header))
}

fn index(pins: &Pins) -> Result<WalIndex, SourceError> {
    for attempt in 0..INDEX_ATTEMPTS {
        if let Some(index) = WalIndex::read(&pins.index)? {
            return Ok(index);
        }
        if attempt > 10 {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    Err(SourceError::new(
        SourceErrorKind::Corrupt,
        "read the wal-index: it stays unreadable; restart, so that SQLite builds it anew",
    ))
}

impl Follower {
    /// Opens the database, holds its log, and decides where to begin. `resume` is how far the
    /// consumer is known to have come.
    pub(crate) fn open(
        config: &SqliteConfig,
        resume: Option<Position>,
    ) -> Result<(Self, Begun), SourceError> {
        // The descriptor is kept until `pins` shares it: closing it would drop locks of others here.
        let (_main, header) = header(config)?;
        let dir = match &config.state_dir {
            Some(dir) => Some(StateDir::open(dir)?),
            None => None,
        };
        let known = match &dir {
            Some(dir) => dir.load()?,
            None => None,
        };
        let pins = Pins::open(config)?;
        let page_size = header.geometry.page_size;
        let mut head = index(&pins)?;
        head.count = head.pages(&pins.main, page_size)?;
        let now = Instant::now();
        let mut follower = Self {
            config: config.clone(),
            id: random_id(),
            generation: 1,
            start: Start::Begun,
            view: LogView::new(pins.main.clone(), page_size, head.count),
            pins,
            keep: None,
            scanner: None,
            decoder: None,
            head,
            on_main: false,
            last_change: now,
            last_identity: now,
            last_assist: now,
        };
        let floor = match (dir, known) {
            (None, _) => follower.fresh(None)?,
            (Some(dir), None) => follower.fresh(Some((dir, page_size)))?,
            (Some(dir), Some(known)) => follower.again(dir, known, page_size, resume)?,
        };
        let end = match follower.start {
            Start::Again {
                merge: Some(merge), ..
            } => merge,
            _ => commit_at(follower.generation, follower.head.last_frame),
        };
        let begun = Begun {
            id: follower.id,
            floor,
            end: Position::end_of(end).max(floor),
        };
        Ok((follower, begun))
    }

    /// The last processed frame.
    fn at(&self) -> u32 {
        self.scanner.as_ref().map_or(0, Scanner::at)
    }

    /// Takes what is committed now into the view.
    fn take_now(&mut self) -> Result<(), SourceError> {
        let head = self.head;
        self.on_main = head.backfilled == head.last_frame;
        self.open_log()?;
        self.catch_up_silently(head.last_frame)?;
        self.view.set_count(head.count);
        Ok(())
    }

    /// Begins with what is committed now; gives the position before it.
    fn fresh(&mut self, dir: Option<(StateDir, u32)>) -> Result<Position, SourceError> {
        self.take_now()?;
        let position = commit_at(self.generation, self.head.last_frame);
        let snapshot = self.config.snapshot;
        if let Some((dir, page_size)) = dir {
            let (mut archive, _) = Archive::open(&dir.dir, page_size)?;
            archive.clear()?;
            let shadow = Shadow::create(&dir.dir, page_size, &self.view)?;
            let known = Known {
                id: self.id,
                file: self.pins.file,
                page_size,
                position,
                salts: self.head.salts,
                checksum: self.head.checksum,
                count: self.head.count,
                folding: Lsn::ZERO,
                snapshot,
                boot: boot_id(),
            };
            // Durable before any position is given out: the same commit has the same position
            // after any crash.
            dir.save(&known)?;
            self.keep = Some(Keep {
                dir,
                known,
                shadow,
                archive,
                waiting: VecDeque::new(),
                last_fold: Instant::now(),
            });
        }
        self.start = Start::Now {
            snapshot: snapshot.then_some(position),
        };
        Ok(if snapshot {
            Position::before(position)
        } else {
            Position::end_of(position)
        })
    }

    /// Takes up where an earlier run stopped; gives the position before what comes.
    fn again(
        &mut self,
        dir: StateDir,
        mut known: Known,
        page_size: u32,
        resume: Option<Position>,
    ) -> Result<Position, SourceError> {
        let accept = |why: &str| {
            if !self.config.accept_gap {
                return Err(gap(&self.config, why));
            }
            tracing::error!(database = %self.config.shown(), %why, "gap accepted");
            Ok(())
        };
        if known.file != self.pins.file {
            accept(
                "the file is not the one that was followed: it was replaced, or restored from a copy",
            )?;
        }
        if known.page_size != page_size {
            accept("its pages have another size: the file was replaced by another")?;
            self.id = known.id;
            self.generation = next_generation(parts(known.position).0)?;
            return self.fresh(Some((dir, page_size)));
        }
        let durable = Position::end_of(known.position);
        if !known.snapshot && resume.is_some_and(|resume| resume < durable) {
            accept(
                "the source was told that more is durable than there is: an old copy of the journal or of a checkpoint is in use",
            )?;
        }
        // The snapshot is whole downstream, only we were not told any more.
        known.snapshot &= resume.is_none_or(|resume| resume < durable);
        let shadow = Shadow::open(&dir.dir, page_size)?;
        let (archive, mut archived) = Archive::open(&dir.dir, page_size)?;
        archived.retain(|transaction| transaction.commit > known.position);
        if known.folding > known.position {
            let meant = archived.partition_point(|one| one.commit <= known.folding);
            let folded: Vec<Archived> = archived.drain(..meant).collect();
            if folded.last().map(|one| one.commit) != Some(known.folding) {
                return Err(SourceError::new(
                    SourceErrorKind::Corrupt,
                    "read the archive of the source: what its copy of the database was to be brought to is gone; begin anew with an empty state and a snapshot",
                ));
            }
            known = apply(&shadow, &known, &folded)?;
        }
        let (last, salts, checksum, count) = match archived.last() {
            Some(last) => (last.commit, last.salts, last.checksum, last.count),
            None => (known.position, known.salts, known.checksum, known.count),
        };
        let (generation, frame) = parts(last);
        self.id = known.id;
        self.generation = generation;
        let file_changed = known.file != self.pins.file;
        // Only after a loss of power can more have been taken downstream than is archived here.
        let ahead = resume.is_some_and(|resume| resume > Position::end_of(last));
        let goes_on = !file_changed
            && !ahead
            && salts == self.head.salts
            && frame <= self.head.last_frame
            && self.goes_on(frame, checksum, count)?;
        let replay = Replay::new(&shadow, known.count, archived.clone());
        let mut merge = None;
        if !goes_on {
            let seen = resume.map_or(0, |resume| parts(resume.commit).0);
            self.generation = next_generation(generation.max(seen))?;
            self.take_now()?;
            merge = Some(commit_at(self.generation, self.head.last_frame));
        }
        known.file = self.pins.file;
        known.boot = boot_id();
        dir.save(&known)?;
        self.start = Start::Again {
            replay,
            snapshot: known.snapshot.then_some(known.position),
            merge,
        };
        let floor = if known.snapshot {
            Position::before(known.position)
        } else {
            Position::end_of(known.position)
        };
        self.keep = Some(Keep {
            dir,
            known,
            shadow,
            archive,
            waiting: archived.into(),
            last_fold: Instant::now(),
        });
        Ok(floor)
    }

    /// Whether the log holds what was read from it up to this frame, and goes on behind it.
    fn goes_on(&mut self, frame: u32, checksum: Checksum, count: u32) -> Result<bool, SourceError> {
        self.open_log()?;
        let same = self.catch_up_to(frame, checksum)?;
        self.view.set_count(count);
        Ok(same)
    }

    /// Opens the generation the wal-index names.
    fn open_log(&mut self) -> Result<(), SourceError> {
        let wal = self.pins.log()?;
        self.scanner = None;
        if let Some(file) = &wal
            && let Some(header) = wal_header(file)?
            && header.salts == self.head.salts
        {
            if header.page_size != self.head.page_size {
                return Err(SourceError::new(
                    SourceErrorKind::Corrupt,
                    "read the -wal file: its page size is not the database's",
                ));
            }
            self.scanner = Some(Scanner::new(header));
        }
        self.view.restart(wal);
        Ok(())
    }

    fn wal(&self) -> Result<Arc<File>, SourceError> {
        self.view.wal().ok_or_else(|| {
            SourceError::new(
                SourceErrorKind::Corrupt,
                "read the -wal file: it is not there, although the wal-index names frames in it",
            )
        })
    }

    /// Takes the frames up to the limit into the view without decoding them. With everything in
    /// the database file the log may begin anew under us: then its frames are passed over only.
    fn catch_up_silently(&mut self, limit: u32) -> Result<(), SourceError> {
        if limit == 0 || self.on_main && self.scanner.is_none() {
            return Ok(());
        }
        let wal = self.wal()?;
        let on_main = self.on_main;
        let Some(scanner) = &mut self.scanner else {
            return Err(self.torn(1, Break::Salts));
        };
        loop {
            match scanner.next(&wal, limit, true)? {
                Scanned::Transaction(next) => {
                    if !on_main {
                        self.view.begin(next);
                        self.view.finish();
                    }
                }
                Scanned::Nothing => return Ok(()),
                Scanned::Broken { frame, .. } if on_main => {
                    tracing::debug!(frame, "the log began anew while it was passed over");
                    return Ok(());
                }
                Scanned::Broken { frame, why } => return Err(self.torn(frame, why)),
            }
        }
    }

    /// As above, up to a frame; false if that frame is not there or has another checksum.
    fn catch_up_to(&mut self, limit: u32, checksum: Checksum) -> Result<bool, SourceError> {
        if limit == 0 {
            return Ok(true);
        }
        let wal = self.wal()?;
        let Some(scanner) = &mut self.scanner else {
            return Ok(false);
        };
        loop {
            match scanner.next(&wal, limit, true)? {
                Scanned::Transaction(next) => {
                    self.view.begin(next);
                    self.view.finish();
                }
                Scanned::Nothing => {
                    return Ok(scanner.at() == limit && scanner.checksum() == checksum);
                }
                Scanned::Broken { .. } => return Ok(false),
            }
        }
    }

    #[cold]
    fn torn(&self, frame: u32, why: Break) -> SourceError {
        SourceError::new(
            SourceErrorKind::Corrupt,
            format!(
                "read the -wal file of {}: frame {frame} is committed, but {}; restart, and take a new snapshot if that does not help",
                self.config.shown(),
                why.name()
            ),
        )
    }

    /// Reads the database where following begins, gives the snapshot if there is to be one, and
    /// what an earlier run has left.
    pub(crate) fn load(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        let shadows = self.config.include_shadow_tables;
        let open = |pages: &dyn Pages, snapshot: Option<Lsn>, collector: &mut Collector| {
            let Some(commit) = snapshot else {
                return Decoder::open(pages, shadows, None);
            };
            collector.begin(commit, wall_micros(), false);
            let decoder = Decoder::open(pages, shadows, Some(collector))?;
            collector.end();
            collector.flush()?;
            Ok(decoder)
        };
        match std::mem::replace(&mut self.start, Start::Begun) {
            Start::Begun => {}
            Start::Now { snapshot } => {
                self.decoder = Some(open(&self.view, snapshot, collector)?);
            }
            Start::Again {
                mut replay,
                snapshot,
                merge,
            } => {
                let mut decoder = open(&replay, snapshot, collector)?;
                for index in 0..replay.transactions().len() {
                    replay.begin(index);
                    if let Some(one) = replay.transactions().get(index) {
                        let changed: Vec<u32> = one.pages.iter().map(|(page, _)| *page).collect();
                        collector.begin(one.commit, one.micros, one.merged);
                        decoder.transaction(&changed, &replay, collector)?;
                        collector.end();
                    }
                    replay.finish();
                }
                collector.flush()?;
                match merge {
                    Some(commit) => self.merge(commit, &replay, &mut decoder, collector)?,
                    None => self.view.use_instead(replay),
                }
                self.decoder = Some(decoder);
            }
        }
        Ok(())
    }

    /// What lies between the last known state and now, as one transaction.
    fn merge(
        &mut self,
        commit: Lsn,
        replay: &Replay,
        decoder: &mut Decoder,
        collector: &mut Collector,
    ) -> Result<(), SourceError> {
        let between = Between {
            old: replay,
            new: &self.view,
        };
        let changed = between.changed()?;
        let micros = wall_micros();
        if !changed.is_empty() {
            tracing::warn!(
                database = %self.config.shown(),
                position = %commit,
                pages = changed.len(),
                "the log began anew or was lost while nobody followed: the changes since then come as one transaction, marked merged"
            );
            if let Some(keep) = &mut self.keep {
                let there = changed.partition_point(|page| *page <= self.head.count);
                let head = archive::Head {
                    commit,
                    salts: self.head.salts,
                    checksum: self.head.checksum,
                    count: self.head.count,
                    micros,
                    merged: true,
                };
                let pages = changed.get(..there).unwrap_or_default();
                let read = |page| self.view.page(Side::New, page);
                let archived = keep.archive.append(head, pages, read)?;
                keep.waiting.push_back(archived);
            }
        }
        collector.begin(commit, micros, true);
        decoder.transaction(&changed, &between, collector)?;
        collector.end();
        collector.flush()
    }

    /// One look at the log; true if anything was there. `confirmed` is durable downstream.
    pub(crate) fn poll(
        &mut self,
        collector: &mut Collector,
        confirmed: Position,
    ) -> Result<bool, SourceError> {
        let head = index(&self.pins)?;
        let moved = head.change != self.head.change
            || head.salts != self.head.salts
            || head.last_frame > self.at();
        if moved {
            self.cycle(collector)?;
            self.last_change = Instant::now();
        } else if self.last_change.elapsed() >= IDLE
            && head.backfilled == head.last_frame
            && !self.on_main
        {
            // To a mark that lets the application's own checkpoints begin the log anew.
            self.cycle(collector)?;
        }
        self.assist(collector)?;
        self.confirmed(confirmed, false)?;
        if self.last_identity.elapsed() >= IDENTITY_INTERVAL {
            self.identity()?;
        }
        Ok(moved)
    }

    /// Everything up to here is durable downstream: it need not be kept. Now and then, unless it
    /// is the last time.
    pub(crate) fn confirmed(&mut self, up_to: Position, last: bool) -> Result<(), SourceError> {
        let Some(keep) = &mut self.keep else {
            return Ok(());
        };
        let due = keep.last_fold.elapsed() >= FOLD_INTERVAL
            || last
            || keep.waiting_pages() > FOLD_PAGES && keep.last_fold.elapsed() >= IDLE;
        if !due {
            return Ok(());
        }
        keep.last_fold = Instant::now();
        if keep.known.snapshot && up_to >= Position::end_of(keep.known.position) {
            keep.known.snapshot = false;
            keep.dir.save(&keep.known)?;
        }
        keep.fold(up_to)
    }

    /// Takes a new mark, processes everything up to it, and lets the old one go.
    fn cycle(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        let before = index(&self.pins)?;
        self.pins.begin_next()?;
        let head = index(&self.pins)?;
        if head.salts != self.head.salts {
            self.generation = next_generation(self.generation)?;
            self.head = head;
            // Everything before is in the database file, and was processed.
            self.open_log()?;
        }
        self.head = head;
        self.process(collector, head.last_frame)?;
        self.pins.end_last()?;
        self.on_main = before.backfilled == before.last_frame
            && before.last_frame == head.last_frame
            && before.salts == head.salts;
        Ok(())
    }

    fn may_assist(&mut self) -> bool {
        let may = self.last_assist.elapsed() >= ASSIST_INTERVAL;
        if may {
            self.last_assist = Instant::now();
        }
        may
    }

    /// Helps the application's checkpoints, which cannot pass our mark.
    fn assist(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        let assist = self.config.assist;
        if assist == Assist::Off || self.head.last_frame <= self.config.soft_frames {
            return Ok(());
        }
        let head = index(&self.pins)?;
        let copied = head.backfilled == head.last_frame;
        let hard = assist == Assist::Hard && head.last_frame > self.config.hard_frames;
        let idle = self.last_change.elapsed() >= IDLE;
        if copied || !(idle || hard) || !self.may_assist() {
            return Ok(());
        }
        // Most of the work, while nobody waits.
        self.pins.checkpoint()?;
        self.cycle(collector)?;
        let left = index(&self.pins)?.last_frame.saturating_sub(self.at());
        // Under the lock nobody is waited for but the disk: only a short rest may be left.
        if !hard || left > LOCKED_FRAMES_MAX || !self.pins.lock_writer()? {
            return Ok(());
        }
        collector.hold(true);
        let outcome = self.copied_whole(collector);
        collector.hold(false);
        let unlocked = self.pins.unlock_writer();
        outcome?;
        unlocked?;
        collector.flush()
    }

    /// With the application kept from writing: everything is processed, copied back, and marked.
    fn copied_whole(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        let deadline = Instant::now() + self.config.hard_time_max;
        let left = index(&self.pins)?.last_frame.saturating_sub(self.at());
        if left > LOCKED_FRAMES_MAX {
            return Ok(());
        }
        self.cycle(collector)?;
        if self.pins.checkpoint_until(deadline)? {
            self.cycle(collector)?;
        }
        Ok(())
    }

    /// The path must still name the file we have open.
    fn identity(&mut self) -> Result<(), SourceError> {
        self.last_identity = Instant::now();
        let now = FileId::of(&self.config.path);
        if now.as_ref().ok() == Some(&self.pins.file) {
            return Ok(());
        }
        let what = match now {
            Ok(_) => "the path names another file now: the database was replaced",
            Err(_) => "the file is gone: the database was deleted or moved",
        };
        Err(SourceError::new(
            SourceErrorKind::Gap,
            format!(
                "follow {}: {what}; start again with an empty state and a snapshot, to follow the new one",
                self.config.shown()
            ),
        ))
    }

    fn process(&mut self, collector: &mut Collector, limit: u32) -> Result<(), SourceError> {
        if self.scanner.is_none() && limit > 0 {
            self.open_log()?;
        }
        if limit == 0 || self.at() >= limit {
            return Ok(());
        }
        let wal = self.wal()?;
        let (Some(mut scanner), Some(decoder)) = (self.scanner.take(), self.decoder.as_mut())
        else {
            return Err(self.torn(1, Break::Salts));
        };
        scanner.forget_ahead();
        loop {
            match scanner.next(&wal, limit, true)? {
                Scanned::Transaction(next) => {
                    let head = archive::Head {
                        commit: commit_at(self.generation, next.last),
                        salts: self.head.salts,
                        checksum: next.checksum,
                        count: next.count,
                        micros: wall_micros(),
                        merged: false,
                    };
                    self.view.begin(next);
                    let changed = self.view.changed();
                    if let Some(keep) = &mut self.keep {
                        // Before anything of it is handed over.
                        let read = |page| self.view.page(Side::New, page);
                        let archived = keep.archive.append(head, &changed, read)?;
                        keep.waiting.push_back(archived);
                    }
                    collector.begin(head.commit, head.micros, false);
                    decoder.transaction(&changed, &self.view, collector)?;
                    collector.end();
                    self.view.finish();
                    if collector.is_stopped() {
                        break;
                    }
                }
                Scanned::Nothing => break,
                Scanned::Broken { frame, why } => return Err(self.torn(frame, why)),
            }
        }
        self.scanner = Some(scanner);
        collector.flush()
    }

    /// Bytes of log behind the last processed frame.
    pub(crate) fn lag(&self) -> u64 {
        let page = u64::from(self.head.page_size) + FRAME_HEADER as u64;
        u64::from(self.head.last_frame.saturating_sub(self.at())) * page
    }
}
