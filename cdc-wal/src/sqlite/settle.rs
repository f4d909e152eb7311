//! One state of a database that is being written, read without a lock.
//!
//! Pages are copied while the log is followed; what was written meanwhile is copied again, and so
//! on, until nothing was. A page that a checkpoint overwrote while it was read was committed before,
//! so it is among those. Where the log began anew and it cannot be shown that all of it was seen, the
//! copy begins anew.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cdc_core::{SourceError, SourceErrorKind};

use super::format::{Checksum, FRAME_HEADER, Salts, frame_offset, stored_pages};
use super::log_file::{Committed, Scanned, Scanner, io_error, read_up_to, wal_header};
use super::looks::{Looks, Reading, Seen, Stamp};
use super::pages::{Pages, Side};
use super::shadow::Shadow;
use super::wal_index::WalIndex;

/// Pages that are read before the log is looked at again.
const STRIDE: usize = 256;
/// How long it is tried.
const TIME_MAX: Duration = Duration::from_secs(60);

/// One generation of the log, read to some frame.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) file: Arc<File>,
    pub(crate) scanner: Scanner,
}

impl Log {
    /// The generation with these salts, if it is there.
    pub(crate) fn open(looks: &Looks, salts: Salts) -> Result<Option<Self>, SourceError> {
        let Some(file) = looks.log()? else {
            return Ok(None);
        };
        let header = wal_header(&file)?.filter(|header| header.salts == salts);
        Ok(header.map(|header| Self {
            scanner: Scanner::new(header),
            file,
        }))
    }

    /// Passes over the transactions up to a frame. Gives how often something was committed, and
    /// whether all frames up to there are sound.
    pub(crate) fn pass(
        &mut self,
        limit: u32,
        mut each: impl FnMut(&Committed),
    ) -> Result<(u32, bool), SourceError> {
        let (mut commits, mut padding) = (0u32, Padding::default());
        self.scanner.forget_ahead();
        loop {
            match self.scanner.next(&self.file, limit)? {
                Scanned::Transaction(next) => {
                    commits += u32::from(!padding.is(&next));
                    each(&next);
                }
                Scanned::Nothing => return Ok((commits, self.scanner.at() == limit)),
                Scanned::Broken { .. } => return Ok((commits, false)),
            }
        }
    }
}

/// Tells copies of a commit frame, which SQLite may put behind it to fill a sector, from commits.
#[derive(Debug, Default)]
pub(crate) struct Padding {
    last: Option<(u32, Bytes)>,
}

impl Padding {
    pub(crate) fn is(&mut self, next: &Committed) -> bool {
        let last = next.pages.iter().max_by_key(|written| written.frame);
        let last = last.and_then(|last| Some((last.page, last.image.clone()?)));
        let padding = next.pages.len() == 1 && last.is_some() && last == self.last;
        self.last = last;
        padding
    }
}

/// What is committed now, as far as can be seen; `None` if that is not clear at the moment.
fn now(looks: &Looks) -> Result<Option<(WalIndex, Option<Log>)>, SourceError> {
    match looks.index()? {
        Seen::Unreadable => Ok(None),
        Seen::Head(head) if head.last_frame == 0 => Ok(Some((head, None))),
        Seen::Head(head) => Ok(Log::open(looks, head.salts)?.map(|log| (head, Some(log)))),
        // Nobody has it open. A log that is there was left by a crash: its whole transactions are
        // what SQLite would recover.
        Seen::Absent => {
            let mut head = WalIndex {
                change: 0,
                page_size: 0,
                last_frame: 0,
                count: 0,
                checksum: Checksum::default(),
                salts: Salts::default(),
                backfilled: 0,
                backfill_begun: 0,
            };
            let Some(file) = looks.log()? else {
                return Ok(Some((head, None)));
            };
            let Some(header) = wal_header(&file)? else {
                return Ok(Some((head, None)));
            };
            head.salts = header.salts;
            head.page_size = header.page_size;
            let mut log = Log {
                scanner: Scanner::new(header),
                file,
            };
            let scanned = &mut head;
            log.pass(u32::MAX, |next| {
                scanned.last_frame = next.last;
                scanned.count = next.count;
                scanned.checksum = next.checksum;
            })?;
            let log = Log {
                scanner: Scanner::new(header),
                ..log
            };
            Ok(Some((head, (head.last_frame > 0).then_some(log))))
        }
    }
}

/// A state of the database.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) head: WalIndex,
    /// When that was read.
    pub(crate) reading: Reading,
    /// Read up to the head's last frame.
    pub(crate) log: Option<Log>,
    /// The pages that differ from the old state, ascending, those that are gone included.
    pub(crate) changed: Vec<u32>,
}

/// Copies the pages that differ from an old state, or all, and gives the state they are of.
pub(crate) fn settle(
    looks: &mut Looks,
    page_size: u32,
    old: Option<&dyn Pages>,
    into: &Shadow,
) -> Result<Settled, SourceError> {
    let begun = Instant::now();
    while begun.elapsed() < TIME_MAX {
        if looks.is_replaced() {
            looks.reopen()?;
        }
        let reading = looks.reading()?;
        if let Some((head, log)) = now(looks)? {
            let begun = (head, reading, log);
            if let Some(settled) = Copy::new(looks, page_size, old, into, begun).run()? {
                return Ok(settled);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(SourceError::new(
        SourceErrorKind::Transient,
        "read the database without a lock: it was written faster than it could be read for a minute; try again in a pause, or hold the log (mode pinned)",
    ))
}

struct Copy<'a> {
    looks: &'a Looks,
    page_size: u32,
    old: Option<&'a dyn Pages>,
    into: &'a Shadow,
    head: WalIndex,
    reading: Reading,
    log: Option<Log>,
    /// Newest frame of each page in this generation.
    frames: HashMap<u32, u32>,
    /// Written since they were copied.
    touched: BTreeSet<u32>,
    /// Copied since the log was looked at.
    since: Vec<u32>,
    differing: BTreeSet<u32>,
    /// Nobody had the database open, or somebody alone: what the files looked like before.
    alone: Option<Stamp>,
}

impl<'a> Copy<'a> {
    fn new(
        looks: &'a Looks,
        page_size: u32,
        old: Option<&'a dyn Pages>,
        into: &'a Shadow,
        (head, reading, log): (WalIndex, Reading, Option<Log>),
    ) -> Self {
        Self {
            looks,
            page_size,
            old,
            into,
            head,
            reading,
            log,
            frames: HashMap::new(),
            touched: BTreeSet::new(),
            since: Vec::new(),
            differing: BTreeSet::new(),
            alone: None,
        }
    }

    /// `None` if the log ran away.
    fn run(mut self) -> Result<Option<Settled>, SourceError> {
        if self.looks.is_closed() {
            self.alone = self.looks.stamp()?;
            if self.alone.is_none() {
                return Ok(None);
            }
        }
        if !self.take(self.head.last_frame)?.1 {
            return Ok(None);
        }
        self.touched.clear();
        let mut count = self.head.pages(&self.looks.main, self.page_size)?;
        if !self.copy_all(stored_pages(self.page_size, count))? {
            return Ok(None);
        }
        loop {
            if self.head.last_frame > 0 {
                count = self.head.count;
            }
            if self.touched.is_empty() {
                break;
            }
            let touched = std::mem::take(&mut self.touched).into_iter();
            if !self.copy_all(touched.take_while(|page| *page <= count))? {
                return Ok(None);
            }
        }
        // Nothing else tells that somebody wrote who holds the database alone.
        if self.alone.is_some() && self.alone != self.looks.stamp()? {
            return Ok(None);
        }
        self.head.count = count;
        let mut changed: Vec<u32> = self.differing.range(..=count).copied().collect();
        // Pages that are no longer there belong to nothing, but did.
        let before = self.old.map_or(0, |old| old.count(Side::New));
        changed.extend(count.saturating_add(1)..=before);
        Ok(Some(Settled {
            head: self.head,
            reading: self.reading,
            log: self.log,
            changed,
        }))
    }

    /// Copies pages, and looks at the log now and then; false if it ran away, or one is not there.
    fn copy_all(&mut self, pages: impl Iterator<Item = u32>) -> Result<bool, SourceError> {
        let mut copied = 0;
        for page in pages {
            if !self.copy(page)? {
                return Ok(false);
            }
            copied += 1;
            if copied % STRIDE == 0 && !self.advance()? {
                return Ok(false);
            }
        }
        self.advance()
    }

    /// Takes what was committed up to a frame of this generation.
    fn take(&mut self, limit: u32) -> Result<(u32, bool), SourceError> {
        let (frames, touched) = (&mut self.frames, &mut self.touched);
        let each = |next: &Committed| {
            for written in &next.pages {
                frames.insert(written.page, written.frame);
                touched.insert(written.page);
            }
        };
        match &mut self.log {
            Some(log) => log.pass(limit, each),
            None => Ok((0, limit == 0)),
        }
    }

    /// Takes what was committed since the last look; false if some of it cannot be seen.
    fn advance(&mut self) -> Result<bool, SourceError> {
        if self.looks.is_replaced() {
            return Ok(false);
        }
        let reading = self.looks.reading()?;
        let head = match self.looks.index()? {
            Seen::Head(head) => head,
            Seen::Absent => {
                self.since.clear();
                return Ok(true);
            }
            Seen::Unreadable => return Ok(false),
        };
        if head.salts == self.head.salts {
            if head.last_frame > 0 && self.log.is_none() {
                self.log = Log::open(self.looks, head.salts)?;
            }
            let (_, whole) = self.take(head.last_frame)?;
            (self.head, self.reading) = (head, reading);
            self.since.clear();
            return Ok(whole);
        }
        let counted = self.looks.counts_on(&self.reading, self.head.change)?;
        let (rest, _) = self.take(u32::MAX)?;
        // Their frames may have been written over while they were read.
        self.touched.extend(self.since.drain(..));
        self.frames.clear();
        self.log = if head.last_frame > 0 {
            Log::open(self.looks, head.salts)?
        } else {
            None
        };
        let (new, whole) = self.take(head.last_frame)?;
        let all = rest.wrapping_add(new).wrapping_add(self.head.change) == head.change;
        (self.head, self.reading) = (head, reading);
        Ok(whole && all && counted)
    }

    /// Copies a page as it is now; false if it is not there.
    fn copy(&mut self, page: u32) -> Result<bool, SourceError> {
        let mut bytes = vec![0; self.page_size as usize];
        let got = match (self.frames.get(&page), &self.log) {
            (Some(frame), Some(log)) => {
                let offset = frame_offset(*frame, self.page_size) + FRAME_HEADER as u64;
                read_up_to(&log.file, &mut bytes, offset)
            }
            _ => {
                let offset = u64::from(page - 1) * u64::from(self.page_size);
                read_up_to(&self.looks.main, &mut bytes, offset)
            }
        };
        if got.map_err(|cause| io_error("read the database", cause))? < bytes.len() {
            return Ok(false);
        }
        self.since.push(page);
        let same = match self.old {
            Some(old) => page <= old.count(Side::New) && old.page(Side::New, page)? == bytes,
            None => false,
        };
        if same {
            self.differing.remove(&page);
        } else {
            self.into.write(page, &bytes)?;
            self.differing.insert(page);
        }
        Ok(true)
    }
}
