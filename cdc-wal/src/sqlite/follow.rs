//! Follows the log while holding it, so that every transaction is seen whole.
//!
//! Invariant, with P the last processed frame: some read transaction is open, and either its mark
//! is at or before P, or it began when everything was in the database file and had been processed.
//! So frames behind P are never copied over an old page that is still to be compared, and a new
//! generation of the log begins only where the old one was processed to its end.
//!
//! The mark stands still while the log grows: then the application's own checkpoints find nothing to
//! do and cost it nothing. It is moved when the log is to be copied back (see `turnover`), and when
//! the application pauses, so that the application's own checkpoints can finish.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::storage::Storage;
use cdc_core::{Lsn, Position, SourceError, SourceErrorKind};

use super::archive;
use super::begin::{Begun, Start, header};
use super::collect::Collector;
use super::config::SqliteConfig;
use super::decoder::Decoder;
use super::downstream::Downstream;
use super::format::FRAME_HEADER;
use super::keep::Keep;
use super::log_file::{Break, Scanned, Scanner, wal_header};
use super::pages::{Pages, Side};
use super::pins::Pins;
use super::state::{StateDir, commit_at, next_generation, random_id};
use super::turnover::Turnover;
use super::view::LogView;
use super::wal_index::WalIndex;

/// Attempts to read the wal-index while somebody writes it.
const INDEX_ATTEMPTS: u32 = 10_000;
/// A pause of the application after which the mark is moved to the end.
const QUIET: Duration = Duration::from_millis(10);
/// A pause that is used for a checkpoint, or to let the log begin anew.
pub(crate) const IDLE: Duration = Duration::from_millis(50);
/// How often it is checked that the path still names the same file.
const IDENTITY_INTERVAL: Duration = Duration::from_millis(500);

/// What a look at the log came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    Still,
    Moved,
    /// Nothing was there, but it is to be looked again at once.
    Urgent,
    /// The log has grown past its limit: it is to be let go.
    TooLong,
}

/// Follows one database.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) config: SqliteConfig,
    // The connections go before everything else that has a descriptor.
    pub(crate) turnover: Turnover,
    pub(crate) pins: Pins,
    pub(crate) keep: Option<Keep>,
    pub(crate) id: [u8; 16],
    /// Number of the log's generation.
    pub(crate) generation: u32,
    pub(crate) start: Start<Lsn>,
    pub(crate) view: LogView,
    pub(crate) scanner: Option<Scanner>,
    pub(crate) decoder: Option<Decoder>,
    /// The wal-index as last processed.
    pub(crate) head: WalIndex,
    /// The held read transaction began when everything was in the database file.
    pub(crate) on_main: bool,
    /// Its mark: a frame of this generation.
    pub(crate) mark: u32,
    pub(crate) last_change: Instant,
    last_identity: Instant,
}

pub(crate) fn index(pins: &Pins) -> Result<WalIndex, SourceError> {
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
    /// Opens the database, holds its log, and decides where to begin. What is kept for a restart
    /// goes to `storage`; `downstream` says how far the consumer has come.
    pub(crate) fn open(
        config: &SqliteConfig,
        storage: &Arc<dyn Storage>,
        downstream: &mut dyn Downstream,
    ) -> Result<(Self, Begun), SourceError> {
        // The descriptor is kept until `pins` shares it: closing it would drop locks of others here.
        let (_main, header) = header(config)?;
        let dir = match &config.state_dir {
            Some(dir) => Some(StateDir::open(storage, dir)?),
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
            turnover: Turnover::new(config, &pins)?,
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
            mark: head.last_frame,
            last_change: now,
            last_identity: now,
        };
        let floor = match (dir, known) {
            (None, _) => follower.fresh(None)?,
            (Some(dir), None) => follower.fresh(Some((dir, page_size)))?,
            (Some(dir), Some(known)) => follower.again(dir, known, page_size, downstream)?,
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
    pub(crate) fn at(&self) -> u32 {
        self.scanner.as_ref().map_or(0, Scanner::at)
    }

    pub(crate) fn wal(&self) -> Result<Arc<File>, SourceError> {
        self.view.wal().ok_or_else(|| {
            SourceError::new(
                SourceErrorKind::Corrupt,
                "read the -wal file: it is not there, although the wal-index names frames in it",
            )
        })
    }

    #[cold]
    pub(crate) fn torn(&self, frame: u32, why: Break) -> SourceError {
        SourceError::new(
            SourceErrorKind::Corrupt,
            format!(
                "read the -wal file of {}: frame {frame} is committed, but {}; restart, and take a new snapshot if that does not help",
                self.config.shown(),
                why.name()
            ),
        )
    }

    /// One look at the log; true if anything was there. `confirmed` is durable downstream.
    pub(crate) fn poll(
        &mut self,
        collector: &mut Collector,
        confirmed: Position,
    ) -> Result<Looked, SourceError> {
        let head = index(&self.pins)?;
        if collector.is_too_long(&head) {
            return Ok(Looked::TooLong);
        }
        if self.is_full() {
            self.confirmed(confirmed, false)?;
            return Ok(Looked::Still);
        }
        let anew = head.salts != self.head.salts;
        let moved = anew || head.change != self.head.change || head.last_frame > self.at();
        if !anew && head.last_frame < self.at() {
            return Err(self.torn(self.at(), Break::End));
        }
        if moved {
            self.last_change = Instant::now();
            if anew || self.on_main {
                // Off the database file, where every commit would look through the whole log in
                // vain for something to copy.
                self.cycle(collector)?;
            } else {
                self.head = head;
                self.process(collector, head.last_frame)?;
            }
        } else {
            let pause = self.last_change.elapsed();
            let copied = head.backfilled == head.last_frame;
            let behind = !self.on_main && self.mark < head.last_frame;
            if copied && !self.on_main && pause >= IDLE || behind && pause >= QUIET {
                // To a mark that lets the application's own checkpoints finish, and the log begin
                // anew.
                self.cycle(collector)?;
            }
        }
        self.turn(collector)?;
        self.confirmed(confirmed, false)?;
        if self.last_identity.elapsed() >= IDENTITY_INTERVAL {
            self.identity()?;
        }
        Ok(if moved {
            Looked::Moved
        } else if self.turnover.is_urgent() {
            Looked::Urgent
        } else {
            Looked::Still
        })
    }

    /// Whether the archive holds as much as it may.
    fn is_full(&self) -> bool {
        let max = self.config.archive_bytes_max;
        self.keep
            .as_ref()
            .is_some_and(|keep| keep.waiting_bytes() >= max)
    }

    /// Everything up to here is durable downstream: it need not be kept. Now and then, unless it
    /// is the last time.
    pub(crate) fn confirmed(&mut self, up_to: Position, last: bool) -> Result<(), SourceError> {
        match &mut self.keep {
            Some(keep) => keep.confirmed(up_to, last).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Takes a new mark, processes everything up to it, and lets the old one go.
    pub(crate) fn cycle(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        let before = index(&self.pins)?;
        if !self.pins.begin_next()? {
            return Ok(());
        }
        let head = index(&self.pins)?;
        if head.salts != self.head.salts {
            self.generation = next_generation(self.generation)?;
            self.head = head;
            // Everything before is in the database file, and was processed.
            self.open_log()?;
        }
        self.head = head;
        self.process(collector, head.last_frame)?;
        if self.at() < head.last_frame {
            // Only what was processed may be given up.
            return self.pins.end_next();
        }
        self.pins.end_last()?;
        // The mark was taken between the two looks.
        let same = before.salts == head.salts;
        self.mark = if same { before.last_frame } else { 0 };
        self.on_main =
            same && before.backfilled == before.last_frame && before.last_frame == head.last_frame;
        Ok(())
    }

    /// The paths must still name the files we have open.
    fn identity(&mut self) -> Result<(), SourceError> {
        self.last_identity = Instant::now();
        self.pins.place.check(&self.config)
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
        // Before the first commit of a log each writer begins it with a header of its own: the salts are
        // the same, what is counted in it and summed up is not.
        if scanner.at() == 0
            && let Some(header) = wal_header(&wal)?
            && header.salts == self.head.salts
        {
            scanner = Scanner::new(header);
        }
        loop {
            match scanner.next(&wal, limit)? {
                Scanned::Transaction(next) => {
                    let head = archive::Head::of(self.generation, self.head.salts, &next);
                    self.view.begin(next);
                    let changed = self.view.changed();
                    if let Some(keep) = &mut self.keep {
                        // Before anything of it is handed over.
                        let read = |page| self.view.page(Side::New, page);
                        let archived = keep.archive.append(head, &changed, read)?;
                        keep.add(archived);
                    }
                    collector.begin(head.commit, head.micros, false);
                    decoder.transaction(&changed, &self.view, collector)?;
                    collector.end();
                    self.view.finish();
                    let full = self
                        .keep
                        .as_ref()
                        .is_some_and(|keep| keep.waiting_bytes() >= self.config.archive_bytes_max);
                    if full || collector.is_stopped() {
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

    /// Bytes of log that are in use at this moment, read or not.
    pub(crate) fn log_bytes_now(&self) -> Result<u64, SourceError> {
        let page = u64::from(self.head.page_size) + FRAME_HEADER as u64;
        Ok(u64::from(index(&self.pins)?.last_frame) * page)
    }

    /// Bytes of log that are in use, as last seen.
    pub(crate) fn log_bytes(&self) -> u64 {
        let page = u64::from(self.head.page_size) + FRAME_HEADER as u64;
        u64::from(self.head.last_frame) * page
    }
}
