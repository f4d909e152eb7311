//! Pages of the main file and of the log, as of a transaction.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use cdc_core::{SourceError, SourceErrorKind};

use super::format::{FRAME_HEADER, frame_offset};
use super::log_file::{Committed, io_error, read_up_to};
use super::pages::{Pages, Side};
use super::shadow::Replay;

/// Bytes of pages kept from one transaction for the next: what was new is what is old then.
const RECENT_MAX: usize = 8 << 20;

/// The database as of the last processed transaction, and the next transaction over it.
#[derive(Debug)]
pub(crate) struct LogView {
    main: Arc<File>,
    /// Stands for the main file, which may be ahead of where we are, until the log begins anew.
    instead: Option<Replay>,
    wal: Option<Arc<File>>,
    page_size: u32,
    /// Newest frame of each page in this generation, up to the last processed transaction.
    frames: HashMap<u32, u32>,
    count: u32,
    next: Committed,
    recent: RefCell<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    pages: HashMap<u32, Bytes>,
    bytes: usize,
}

impl LogView {
    /// The main file alone, which has `count` pages.
    pub(crate) fn new(main: Arc<File>, page_size: u32, count: u32) -> Self {
        Self {
            main,
            instead: None,
            wal: None,
            page_size,
            frames: HashMap::new(),
            count,
            next: Committed {
                count,
                ..Committed::default()
            },
            recent: RefCell::default(),
        }
    }

    /// A new generation of the log begins: everything before is in the main file.
    pub(crate) fn restart(&mut self, wal: Option<Arc<File>>) {
        self.wal = wal;
        self.instead = None;
        self.frames = HashMap::new();
    }

    /// What was read so far is of another state than the one that is to be read now.
    pub(crate) fn forget(&mut self) {
        *self.recent.get_mut() = Recent::default();
    }

    /// Bytes of a page.
    pub(crate) const fn page_size(&self) -> u32 {
        self.page_size
    }

    /// The log that is read.
    pub(crate) fn wal(&self) -> Option<Arc<File>> {
        self.wal.clone()
    }

    /// Uses another source for the pages that are not in the log, until the log begins anew.
    pub(crate) fn use_instead(&mut self, replay: Replay) {
        self.instead = Some(replay);
    }

    /// The database has this many pages.
    pub(crate) fn set_count(&mut self, count: u32) {
        self.count = count;
        self.next.count = count;
    }

    /// Lays the next transaction over what is there.
    pub(crate) fn begin(&mut self, next: Committed) {
        self.next = next;
    }

    /// The pages of the next transaction.
    pub(crate) fn changed(&self) -> Vec<u32> {
        self.next.pages.iter().map(|written| written.page).collect()
    }

    /// The next transaction becomes part of what is there.
    pub(crate) fn finish(&mut self) {
        let next = std::mem::take(&mut self.next);
        let recent = self.recent.get_mut();
        for written in &next.pages {
            self.frames.insert(written.page, written.frame);
            if let Some(old) = recent.pages.remove(&written.page) {
                recent.bytes -= old.len();
            }
        }
        if recent.bytes > RECENT_MAX / 2 {
            *recent = Recent::default();
        }
        for written in next.pages {
            if let Some(image) = written.image
                && recent.bytes < RECENT_MAX
            {
                recent.bytes += image.len();
                recent.pages.insert(written.page, image);
            }
        }
        self.count = next.count;
        self.next.count = next.count;
    }

    fn read(&self, file: &File, what: &str, offset: u64) -> Result<Bytes, SourceError> {
        let mut page = vec![0; self.page_size as usize];
        let got = read_up_to(file, &mut page, offset).map_err(|e| io_error(what, e))?;
        if got < page.len() {
            return Err(SourceError::new(
                SourceErrorKind::Corrupt,
                format!("{what} at byte {offset}: it ends there; it was cut short or replaced"),
            ));
        }
        Ok(page.into())
    }

    fn frame(&self, frame: u32) -> Result<Bytes, SourceError> {
        let Some(wal) = &self.wal else {
            return Err(SourceError::new(
                SourceErrorKind::Corrupt,
                "read the -wal file: it is not open",
            ));
        };
        let offset = frame_offset(frame, self.page_size) + FRAME_HEADER as u64;
        self.read(wal, "read the -wal file", offset)
    }

    fn old(&self, number: u32) -> Result<Bytes, SourceError> {
        if let Some(page) = self.recent.borrow().pages.get(&number) {
            return Ok(page.clone());
        }
        match self.frames.get(&number) {
            Some(frame) => self.frame(*frame),
            None => {
                if let Some(replay) = &self.instead {
                    return replay.page(Side::New, number);
                }
                let offset = u64::from(number.saturating_sub(1)) * u64::from(self.page_size);
                self.read(&self.main, "read the database file", offset)
            }
        }
    }
}

impl Pages for LogView {
    fn page(&self, side: Side, number: u32) -> Result<Bytes, SourceError> {
        if side == Side::New {
            let found = self.next.pages.binary_search_by_key(&number, |w| w.page);
            if let Some(written) = found.ok().and_then(|at| self.next.pages.get(at)) {
                return match &written.image {
                    Some(image) => Ok(image.clone()),
                    None => self.frame(written.frame),
                };
            }
        }
        self.old(number)
    }

    fn count(&self, side: Side) -> u32 {
        match side {
            Side::Old => self.count,
            Side::New => self.next.count,
        }
    }
}
