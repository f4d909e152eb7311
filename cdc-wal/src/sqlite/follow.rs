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

use cdc_core::{Lsn, Position, SourceError, SourceErrorKind};

use super::collect::Collector;
use super::config::{Assist, SqliteConfig};
use super::decoder::Decoder;
use super::files::FileId;
use super::format::{Checksum, DbHeader, FRAME_HEADER};
use super::log_file::{Break, Scanned, Scanner, io_error, read_up_to, wal_header};
use super::pages::{Pages as _, Side};
use super::pins::Pins;
use super::state::{Known, StateDir, boot_id, random_id};
use super::view::LogView;
use super::wal_index::WalIndex;

/// Attempts to read the wal-index while somebody writes it.
const INDEX_ATTEMPTS: u32 = 10_000;
/// How long nothing must happen before a pause is used.
const IDLE: Duration = Duration::from_millis(50);
/// How often it is checked that the path still names the same file.
const IDENTITY_INTERVAL: Duration = Duration::from_millis(500);
/// Shortest time between two attempts to help a checkpoint.
const ASSIST_INTERVAL: Duration = Duration::from_millis(100);
/// Shortest time between two marks that have to be noted in the state.
const TURN_INTERVAL: Duration = Duration::from_millis(500);
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

/// A new mark that was taken, while the old one is still held.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// The old mark may go when everything up to this frame is durable downstream.
    frame: u32,
    /// The new read transaction began when everything was in the database file.
    on_main: bool,
}

/// Where an earlier run's state leads.
enum Resume {
    Continue,
    /// A snapshot that was not finished: another one.
    Anew,
    /// Changes are gone, and why.
    Lost(String),
}

/// Follows one database.
#[derive(Debug)]
pub(crate) struct Follower {
    config: SqliteConfig,
    // The connections go before everything else that has a descriptor.
    pins: Pins,
    state: Option<StateDir>,
    known: Known,
    view: LogView,
    scanner: Option<Scanner>,
    decoder: Option<Decoder>,
    /// The wal-index as last processed.
    head: WalIndex,
    /// The held read transaction began when everything was in the database file.
    on_main: bool,
    turn: Option<Turn>,
    /// Commits behind `known` that were processed: frame, checksum, pages of the database.
    processed: VecDeque<(u32, Checksum, u32)>,
    last_change: Instant,
    last_turn: Instant,
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

/// Number of pages the database file itself names.
fn pages_in_file(pins: &Pins) -> Result<u32, SourceError> {
    let mut bytes = [0; 4];
    read_up_to(&pins.main, &mut bytes, 28).map_err(|e| io_error("read the database file", e))?;
    Ok(u32::from_be_bytes(bytes))
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
        let state = match &config.state_dir {
            Some(dir) => Some(StateDir::open(dir)?),
            None => None,
        };
        let remembered = match &state {
            Some(state) => state.load()?,
            None => None,
        };
        let pins = Pins::open(config)?;
        let head = index(&pins)?;
        let view = LogView::new(pins.main.clone(), header.geometry.page_size, head.count);
        let now = Instant::now();
        let mut follower = Self {
            known: Known {
                id: random_id(),
                file: pins.file,
                generation: 1,
                salts: head.salts,
                frame: 0,
                checksum: Checksum::default(),
                count: head.count,
                position: Lsn::ZERO,
                snapshot: false,
                boot: boot_id(),
            },
            config: config.clone(),
            pins,
            state,
            view,
            scanner: None,
            decoder: None,
            head,
            on_main: false,
            turn: None,
            processed: VecDeque::new(),
            last_change: now,
            last_turn: now,
            last_identity: now,
            last_assist: now,
        };
        let resumed = match &remembered {
            None => Resume::Anew,
            Some(known) => follower.resume(known, resume)?,
        };
        match (resumed, remembered) {
            (Resume::Continue, _) => {}
            (Resume::Lost(why), Some(known)) if config.accept_gap => {
                tracing::error!(database = %config.shown(), %why, "gap accepted: changes before now are lost");
                follower.fresh(Some(known))?;
            }
            (Resume::Lost(why), _) => return Err(gap(config, &why)),
            (Resume::Anew, remembered) => follower.fresh(remembered)?,
        }
        let known = &follower.known;
        let floor = if known.snapshot {
            Position::before(known.position)
        } else {
            Position::end_of(known.position)
        };
        let end = Position::end_of(known.commit(follower.head.last_frame));
        let begun = Begun {
            id: known.id,
            floor,
            end: end.max(floor),
        };
        Ok((follower, begun))
    }

    /// The last processed frame.
    fn at(&self) -> u32 {
        self.scanner.as_ref().map_or(0, Scanner::at)
    }

    /// Begins with what is committed now, as a new generation of what was known.
    fn fresh(&mut self, before: Option<Known>) -> Result<(), SourceError> {
        if let Some(before) = before
            && before.file == self.known.file
        {
            self.known.id = before.id;
            self.known.generation = self.next_generation(before.generation)?;
        }
        let head = self.head;
        self.on_main = head.backfilled == head.last_frame;
        self.open_log()?;
        self.catch_up_silently(head.last_frame)?;
        self.known = Known {
            salts: head.salts,
            frame: head.last_frame,
            checksum: head.checksum,
            count: head.count,
            position: self.known.commit(head.last_frame),
            snapshot: self.config.snapshot,
            ..self.known
        };
        self.view.set_count(head.count);
        self.save()
    }

    fn next_generation(&self, last: u32) -> Result<u32, SourceError> {
        last.checked_add(1).ok_or_else(|| {
            SourceError::new(
                SourceErrorKind::Unsupported,
                "count the generations of the log: there were more than 4294967295",
            )
        })
    }

    /// Takes up where an earlier run stopped, if nothing is missing.
    fn resume(&mut self, known: &Known, resume: Option<Position>) -> Result<Resume, SourceError> {
        let lost = |why: &str| Ok(Resume::Lost(why.to_owned()));
        if known.file != self.known.file {
            return lost(
                "the file is not the one that was followed: it was replaced, or restored from a copy",
            );
        }
        let durable = Position::end_of(known.position);
        if known.snapshot && resume.is_none_or(|resume| resume < durable) {
            return if self.config.snapshot {
                Ok(Resume::Anew)
            } else {
                lost("its snapshot was not finished, and now none is asked for")
            };
        }
        if resume.is_some_and(|resume| resume < durable) {
            return lost(
                "the source was told that more is durable than there is: an old copy of the journal is in use",
            );
        }
        let head = self.head;
        if known.salts != head.salts {
            return lost(
                "the log began anew while nobody followed it, and what it held before is gone",
            );
        }
        if known.frame > head.last_frame {
            return lost(
                "the log ends before the last known change: the machine lost what was not synced",
            );
        }
        if head.backfill_begun.max(head.backfilled) > known.frame {
            return lost(
                "changes were copied into the database while nobody followed, so that the rows before them are gone",
            );
        }
        if known.boot != self.known.boot && resume.is_some_and(|resume| resume > durable) {
            return lost(
                "the machine was started anew, and the log may hold other changes than those that were streamed",
            );
        }
        self.known = Known {
            boot: self.known.boot,
            snapshot: false,
            ..*known
        };
        self.open_log()?;
        if !self.catch_up_to(known.frame, known.checksum)? {
            return lost(
                "the log holds other changes than were read from it: it was lost and written anew",
            );
        }
        let count = if known.frame == 0 {
            pages_in_file(&self.pins)?
        } else {
            known.count
        };
        self.view.set_count(count);
        self.save()?;
        Ok(Resume::Continue)
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

    fn save(&self) -> Result<(), SourceError> {
        match &self.state {
            Some(state) => state.save(&self.known),
            None => Ok(()),
        }
    }

    /// Reads the database where following begins; gives the snapshot if there is to be one.
    pub(crate) fn load(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        let shadows = self.config.include_shadow_tables;
        let decoder = if self.known.snapshot {
            collector.begin(self.known.position, false);
            let decoder = Decoder::open(&self.view, shadows, Some(collector))?;
            collector.end();
            collector.flush()?;
            decoder
        } else {
            Decoder::open(&self.view, shadows, None)?
        };
        self.decoder = Some(decoder);
        Ok(())
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
            self.see(head, collector)?;
            self.last_change = Instant::now();
        }
        // Without a state nothing is ever resumed: what was handed over is done.
        let confirmed = if self.state.is_some() {
            confirmed
        } else {
            Position::end_of(self.known.commit(self.at()))
        };
        self.settle(confirmed)?;
        if self.turn.is_none() && self.wants_turn(&head) {
            self.begin_turn(collector)?;
            self.settle(confirmed)?;
        }
        if self.turn.is_none() {
            self.assist(&head, collector, confirmed)?;
        }
        if self.last_identity.elapsed() >= IDENTITY_INTERVAL {
            self.identity()?;
        }
        Ok(moved)
    }

    /// Whether a new mark is worth taking: the log has grown, or a mark on the database file alone
    /// would let the application's checkpoints begin the log anew.
    fn wants_turn(&self, head: &WalIndex) -> bool {
        let copied = head.backfilled == head.last_frame && !self.on_main;
        let idle = self.last_change.elapsed() >= IDLE;
        let grown = !self.processed.is_empty()
            && (self.state.is_none() || self.last_turn.elapsed() >= TURN_INTERVAL);
        grown || copied && idle
    }

    /// Processes what was committed, under the mark that is held.
    fn see(&mut self, head: WalIndex, collector: &mut Collector) -> Result<(), SourceError> {
        if head.salts != self.head.salts {
            self.new_generation(head)?;
        }
        self.head = head;
        self.process(collector, head.last_frame)
    }

    /// Takes a new mark and processes everything up to it; the old one stays.
    fn begin_turn(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        let before = index(&self.pins)?;
        self.pins.begin_next()?;
        self.last_turn = Instant::now();
        let head = index(&self.pins)?;
        self.see(head, collector)?;
        let unmoved = before.last_frame == head.last_frame && before.salts == head.salts;
        self.turn = Some(Turn {
            frame: head.last_frame,
            on_main: unmoved && before.backfilled == before.last_frame,
        });
        Ok(())
    }

    /// Notes what is durable downstream, and lets the old mark go if everything up to the new one
    /// is.
    fn settle(&mut self, confirmed: Position) -> Result<(), SourceError> {
        if self.known.snapshot && confirmed >= Position::end_of(self.known.position) {
            self.known.snapshot = false;
            self.save()?;
        }
        let Some(turn) = self.turn else {
            return Ok(());
        };
        let target = self.known.commit(turn.frame).max(self.known.position);
        if confirmed < Position::end_of(target) || self.known.snapshot {
            return Ok(());
        }
        let mut reached = None;
        while let Some(first) = self.processed.front().filter(|(at, ..)| *at <= turn.frame) {
            reached = Some(*first);
            self.processed.pop_front();
        }
        if let Some((frame, checksum, count)) = reached {
            self.known = Known {
                frame,
                checksum,
                count,
                position: self.known.commit(frame),
                ..self.known
            };
            self.save()?;
        }
        self.pins.end_last()?;
        self.on_main = turn.on_main;
        self.turn = None;
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
    fn assist(
        &mut self,
        head: &WalIndex,
        collector: &mut Collector,
        confirmed: Position,
    ) -> Result<(), SourceError> {
        let copied = head.backfilled == head.last_frame;
        let assist = self.config.assist;
        if assist == Assist::Off || copied || head.last_frame <= self.config.soft_frames {
            return Ok(());
        }
        let hard = assist == Assist::Hard && head.last_frame > self.config.hard_frames;
        let idle = self.last_change.elapsed() >= IDLE;
        if !(idle || hard) || !self.may_assist() {
            return Ok(());
        }
        // Most of the work, while nobody waits.
        let all = self.pins.checkpoint()?;
        if all || !hard {
            return Ok(());
        }
        let now = index(&self.pins)?;
        let behind = now.last_frame.saturating_sub(self.at());
        let settled = confirmed >= Position::end_of(self.known.commit(self.at()));
        // Under the lock nobody is waited for but the disk: only a short rest may be left.
        if self.state.is_some() && !settled || behind > LOCKED_FRAMES_MAX {
            return Ok(());
        }
        if !self.pins.lock_writer()? {
            return Ok(());
        }
        collector.hold(true);
        let outcome = self.copied_whole(collector, confirmed);
        collector.hold(false);
        let unlocked = self.pins.unlock_writer();
        outcome?;
        unlocked?;
        collector.flush()
    }

    /// With the application kept from writing: everything is processed, copied back, and marked.
    fn copied_whole(
        &mut self,
        collector: &mut Collector,
        confirmed: Position,
    ) -> Result<(), SourceError> {
        let deadline = Instant::now() + self.config.hard_time_max;
        let head = index(&self.pins)?;
        if head.last_frame.saturating_sub(self.at()) > LOCKED_FRAMES_MAX {
            return Ok(());
        }
        self.begin_turn(collector)?;
        let confirmed = match self.state {
            None => Position::end_of(self.known.commit(self.at())),
            Some(_) => confirmed,
        };
        self.settle(confirmed)?;
        if self.turn.is_none() && self.pins.checkpoint_until(deadline)? {
            self.begin_turn(collector)?;
            self.settle(confirmed)?;
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

    /// The log begins anew: everything before is in the database file, and was processed.
    fn new_generation(&mut self, head: WalIndex) -> Result<(), SourceError> {
        let last = self.processed.back().copied();
        if last.is_some() && self.state.is_some() {
            return Err(SourceError::new(
                SourceErrorKind::Gap,
                format!(
                    "follow {}: the log began anew although we hold it; was it replaced by hand? start again with a new snapshot",
                    self.config.shown()
                ),
            ));
        }
        self.processed.clear();
        if let Some((frame, ..)) = last {
            self.known.position = self.known.commit(frame);
        }
        self.known = Known {
            generation: self.next_generation(self.known.generation)?,
            salts: head.salts,
            frame: 0,
            checksum: Checksum::default(),
            count: self.view.count(Side::New),
            ..self.known
        };
        // Durable before any position of it is given out: the same commit has the same position
        // after any crash.
        self.save()?;
        self.head = head;
        self.open_log()
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
                    let commit = self.known.commit(next.last);
                    self.processed
                        .push_back((next.last, next.checksum, next.count));
                    self.view.begin(next);
                    collector.begin(commit, false);
                    decoder.transaction(&self.view.changed(), &self.view, collector)?;
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
