//! The database as it was last seen, from files of our own alone: the shadow, and over it the pages
//! of the transactions archived since. What becomes of the application's files does not matter to it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cdc_core::{Lsn, SourceError};

use super::archive::{Archived, Segment};
use super::log_file::Written;
use super::pages::{Pages, Side};
use super::shadow::Shadow;

/// Bytes of pages kept from one transaction for the next: what was new is what is old then.
const RECENT_MAX: usize = 8 << 20;

#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    offset: u64,
    commit: Lsn,
}

#[derive(Debug)]
struct Next {
    archived: Archived,
    /// The pages again, those that memory allowed to keep.
    images: Vec<Written>,
}

/// The last known state, and the next transaction over it.
#[derive(Debug)]
pub(crate) struct Kept {
    shadow: Shadow,
    page_size: u32,
    /// Pages that are newer than the shadow.
    pages: HashMap<u32, Place>,
    count: u32,
    next: Option<Next>,
    recent: HashMap<u32, Bytes>,
    recent_bytes: usize,
}

impl Kept {
    /// The shadow, whose database has `count` pages, and what was archived since, in order.
    pub(crate) fn new(shadow: Shadow, page_size: u32, count: u32, since: &[Archived]) -> Self {
        let mut kept = Self {
            shadow,
            page_size,
            pages: HashMap::new(),
            count,
            next: None,
            recent: HashMap::new(),
            recent_bytes: 0,
        };
        for archived in since {
            kept.begin(archived.clone(), Vec::new());
            kept.finish();
        }
        kept
    }

    /// Lays a transaction over what is there.
    pub(crate) fn begin(&mut self, archived: Archived, images: Vec<Written>) {
        self.next = Some(Next { archived, images });
    }

    /// It becomes part of what is there.
    pub(crate) fn finish(&mut self) {
        let Some(Next { archived, images }) = self.next.take() else {
            return;
        };
        if self.recent_bytes > RECENT_MAX {
            self.recent = HashMap::new();
            self.recent_bytes = 0;
        }
        for &(page, offset) in archived.pages.iter() {
            let place = Place {
                segment: archived.segment().clone(),
                offset,
                commit: archived.commit,
            };
            self.pages.insert(page, place);
            if let Some(old) = self.recent.remove(&page) {
                self.recent_bytes -= old.len();
            }
        }
        for written in images {
            if let Some(image) = written.image
                && self.recent_bytes <= RECENT_MAX
            {
                self.recent_bytes += image.len();
                self.recent.insert(written.page, image);
            }
        }
        self.count = archived.count;
    }

    /// The shadow has come to this commit.
    pub(crate) fn folded(&mut self, commit: Lsn) {
        self.pages.retain(|_, place| place.commit > commit);
    }
}

impl Pages for Kept {
    fn page(&self, side: Side, number: u32) -> Result<Bytes, SourceError> {
        if let Some(next) = self.next.as_ref().filter(|_| side == Side::New) {
            let image = next.images.binary_search_by_key(&number, |w| w.page);
            let image = image.ok().and_then(|at| next.images.get(at)?.image.clone());
            if let Some(image) = image {
                return Ok(image);
            }
            let pages = &next.archived.pages;
            if let Ok(at) = pages.binary_search_by_key(&number, |(page, _)| *page)
                && let Some((_, offset)) = pages.get(at)
            {
                return next.archived.read(*offset, self.page_size);
            }
        }
        if let Some(page) = self.recent.get(&number) {
            return Ok(page.clone());
        }
        match self.pages.get(&number) {
            Some(place) => place.segment.read(place.offset, self.page_size),
            None => self.shadow.read(number),
        }
    }

    fn count(&self, side: Side) -> u32 {
        match &self.next {
            Some(next) if side == Side::New => next.archived.count,
            _ => self.count,
        }
    }
}
