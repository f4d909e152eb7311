//! Finding what is damaged: every byte of a log is looked at, and nothing is changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use cdc_core::storage::{OpenMode, Storage, open_if_there, read_exact_at};
use cdc_core::{Lsn, Position, SourceKind};

use super::{Loss, RepairMode, RepairReport, refuse};
use crate::control::Control;
use crate::format::frame::{
    self, COMMIT_RECORD, CommitRecord, FRAME_HEADER, Fragment, FrameHeader, FrameKind, Heartbeat,
    Parsed,
};
use crate::format::header::SegmentHeader;
use crate::format::{FormatError, HEADER_BYTES, change, frame_max, relation};
use crate::log::cursors::Cursors;
use crate::log::recover::search;
use crate::read::frames::LogId;
use crate::segment::{self, Segment, file_name};
use crate::{LogError, LogErrorKind};

/// Most segments that a repair makes for files that are missing.
const MISSING_MAX: u64 = 4096;

/// A range that is overwritten by a gap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edit {
    pub(super) lsn: u64,
    pub(super) bytes: u64,
    /// The transaction that is lost; 0 for everything that was open.
    pub(super) tx: u64,
}

/// What has to be done to one segment.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// A header in place of the damaged one.
    pub(super) header: Option<SegmentHeader>,
    /// The file is not there.
    pub(super) missing: bool,
    /// The file is taken away.
    pub(super) remove: bool,
    /// Everything from this LSN on is cut.
    pub(super) cut: Option<u64>,
    pub(super) edits: Vec<Edit>,
}

/// A look at a whole log.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) id: LogId,
    pub(super) report: RepairReport,
    /// By base.
    pub(super) changes: BTreeMap<u64, Changes>,
    /// Where the log ends, if it is cut in front of what was durable.
    pub(super) cut: Option<u64>,
}

/// What the walk knows where it is.
struct Walk<'a> {
    dir: &'a Path,
    id: LogId,
    /// LSN behind the last byte that any valid frame says was durable.
    flushed: u64,
    last: Position,
    /// Begin LSNs of open transactions that are whole so far.
    open: BTreeSet<u64>,
    defined: HashSet<u32>,
    first: u64,
    report: RepairReport,
    changes: BTreeMap<u64, Changes>,
    /// The edits that say what cannot be read, in log order, with their place in the report.
    ranges: Vec<(u64, usize)>,
}

impl Scan {
    pub(super) fn run(
        storage: &dyn Storage,
        dir: &Path,
        mode: RepairMode,
    ) -> Result<Self, LogError> {
        let bases = segment::list(storage, dir)?;
        let mut headers = BTreeMap::new();
        for &base in &bases {
            match Segment::open(storage, dir, base, OpenMode::Read) {
                Ok(segment) => {
                    headers.insert(base, segment.header);
                }
                Err(error) if error.kind == LogErrorKind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        let Some(newest) = headers.values().next_back().cloned() else {
            let (kind, what) = if bases.is_empty() {
                (LogErrorKind::NotFound, "there is none")
            } else {
                (
                    LogErrorKind::Corrupt,
                    "no segment has a header that can be read; restore one from a copy",
                )
            };
            return Err(refuse(dir, kind, what));
        };
        let id = LogId::of(&newest);
        if mode == RepairMode::Cut && newest.source.lineage.kind == SourceKind::Wal {
            return Err(refuse(
                dir,
                LogErrorKind::Configuration,
                "only a journal can be cut, since its source sends again what is lost; keep what is behind the damage",
            ));
        }
        // A file of another log says nothing.
        headers.retain(|_, header| LogId::of(header) == id);
        let first = headers.keys().next().copied().unwrap_or(newest.base);
        let control = Control::load(storage, dir)?
            .filter(|control| control.uuid == id.uuid && control.epoch == id.epoch);
        let flushed = control.map_or(0, |control| control.flushed);
        let mut walk = Walk {
            dir,
            id,
            flushed,
            last: headers.get(&first).map_or(Position::ZERO, |h| h.prev),
            open: BTreeSet::new(),
            defined: HashSet::new(),
            first,
            report: RepairReport::default(),
            changes: BTreeMap::new(),
            ranges: Vec::new(),
        };
        let cursors = Cursors::load(storage, dir);
        walk.report.cursors_lost = match cursors {
            Err(error) if error.kind == LogErrorKind::Corrupt => true,
            Err(error) => return Err(error),
            Ok(_) => false,
        };
        for &base in bases.iter().filter(|&&base| base < first) {
            // Without a header nothing says which position it begins at: as if it were trimmed.
            let bytes = u64::from(id.segment_bytes);
            walk.lose(
                base,
                bytes,
                "the oldest segment has no readable header".into(),
                None,
            );
            walk.change(base).remove = true;
        }
        let last = bases.last().copied().unwrap_or(first);
        let last = last.max(id.base(flushed.saturating_sub(1)));
        let size = u64::from(id.segment_bytes);
        let missing = ((last - first) / size + 1).saturating_sub(bases.len() as u64);
        if missing > MISSING_MAX {
            return Err(refuse(
                dir,
                LogErrorKind::Corrupt,
                &format!("{missing} segments are missing; restore them"),
            ));
        }
        let mut base = first;
        while base <= last {
            let header = headers.get(&base);
            walk.segment(storage, base, header, &newest, base == last)?;
            base += size;
        }
        Ok(walk.finish(mode))
    }
}

impl Walk<'_> {
    fn change(&mut self, lsn: u64) -> &mut Changes {
        self.changes.entry(self.id.base(lsn)).or_default()
    }

    fn lose(&mut self, lsn: u64, bytes: u64, what: String, commit: Option<Position>) {
        self.report.losses.push(Loss {
            path: self.id.file(self.dir, lsn),
            offset: lsn - self.id.base(lsn),
            lsn: Lsn(lsn),
            bytes,
            what,
            after: self.last,
            commit,
        });
    }

    /// Nothing can be read of `bytes` bytes from `lsn` on, of which `used` held something: everything that is open is lost.
    fn range(&mut self, lsn: u64, bytes: u64, used: u64, what: impl Into<String>) {
        self.ranges.push((lsn, self.report.losses.len()));
        self.lose(lsn, used.clamp(8, bytes), what.into(), None);
        let edit = Edit { lsn, bytes, tx: 0 };
        self.change(lsn).edits.push(edit);
        self.open.clear();
    }

    /// A frame that can be read makes no sense without what is lost.
    fn orphan(&mut self, header: &FrameHeader, what: &str, commit: Option<Position>) {
        self.lose(header.lsn, header.skip, what.to_owned(), commit);
        let edit = Edit {
            lsn: header.lsn,
            bytes: header.skip,
            tx: header.tx,
        };
        self.change(header.lsn).edits.push(edit);
        self.open.remove(&header.tx);
    }

    fn segment(
        &mut self,
        storage: &dyn Storage,
        base: u64,
        header: Option<&SegmentHeader>,
        newest: &SegmentHeader,
        is_last: bool,
    ) -> Result<(), LogError> {
        self.defined.clear();
        let path = self.dir.join(file_name(base));
        let first = base + HEADER_BYTES;
        let end = base + u64::from(self.id.segment_bytes);
        let header = match header {
            Some(header) => {
                self.flushed = self.flushed.max(header.flushed);
                header.clone()
            }
            None => {
                let rebuilt = SegmentHeader {
                    base,
                    prev: self.last,
                    restart: self.open.first().copied().unwrap_or(first),
                    flushed: base,
                    ..newest.clone()
                };
                self.change(base).header = Some(rebuilt.clone());
                rebuilt
            }
        };
        // One that cannot be looked at is not missing: an empty one would take its place.
        let opened = open_if_there(storage, &path, OpenMode::Read);
        let opened = opened.map_err(|cause| LogError::io("open the log segment", &path, cause))?;
        let Some(file) = opened else {
            self.change(base).missing = true;
            let used = self.flushed.min(end).saturating_sub(first);
            self.range(first, end - first, used, "the file is missing");
            return Ok(());
        };
        let segment = Segment {
            seed: header.seed(),
            header,
            path,
            file,
        };
        let mut at = first;
        while at < end {
            let what = match self.read(&segment, at)? {
                Ok(Some((header, payload))) => match self.take(&header, &payload) {
                    Ok(()) if header.kind == FrameKind::Seal => return Ok(()),
                    Ok(()) => {
                        at = header.end();
                        continue;
                    }
                    Err(error) => error.0,
                },
                Ok(None) => "nothing where a frame should be",
                Err(error) => error.0,
            };
            let mut next = None;
            let used = search(&segment, at + 8, |found| {
                next = Some(found.lsn);
                false
            })?;
            if next.is_none() && is_last && at >= self.flushed {
                // The end, or a torn tail that the next open cuts.
                return Ok(());
            }
            // Of what reaches to the end, the rest was never written.
            let used = next.unwrap_or_else(|| used.max(self.flushed.min(end)));
            let next = next.unwrap_or(end);
            self.range(at, next - at, used.saturating_sub(at), what);
            at = next;
        }
        Ok(())
    }

    /// The frame at an LSN; `None` where nothing was written.
    fn read(
        &self,
        segment: &Segment,
        at: u64,
    ) -> Result<Result<Option<(FrameHeader, bytes::Bytes)>, FormatError>, LogError> {
        let max = frame_max(self.id.segment_bytes);
        let room = usize::try_from(segment.end() - at).unwrap_or(usize::MAX);
        let mut bytes = vec![0; FRAME_HEADER.min(room)];
        loop {
            match read_exact_at(segment.file.as_ref(), &mut bytes, at - segment.base()) {
                Err(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Ok(Err(FormatError("the file is cut off")));
                }
                result => result
                    .map_err(|cause| LogError::io("read the log segment", &segment.path, cause))?,
            }
            match frame::parse(&bytes, at, segment.seed, max, true) {
                Ok(Parsed::NeedMore(more)) if more <= room => bytes.resize(more, 0),
                Ok(Parsed::NeedMore(_)) => {
                    return Ok(Err(FormatError("a frame that reaches past the segment")));
                }
                Ok(Parsed::Empty) => return Ok(Ok(None)),
                Ok(Parsed::Frame(header)) if header.end() > segment.end() => {
                    return Ok(Err(FormatError("a frame that reaches past the segment")));
                }
                Ok(Parsed::Frame(header)) => {
                    let payload = bytes::Bytes::from(bytes).slice(FRAME_HEADER..);
                    return Ok(Ok(Some((header, payload))));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn take(&mut self, header: &FrameHeader, payload: &bytes::Bytes) -> Result<(), FormatError> {
        self.flushed = self.flushed.max(header.flushed);
        let begun = self.open.contains(&header.tx) || header.tx < self.first;
        match header.kind {
            FrameKind::Relation => {
                self.defined.insert(relation::decode(payload)?.0);
            }
            FrameKind::Changes => {
                let known = match header.fragment {
                    Fragment::None => self.all_defined(payload, 0)?,
                    // The record begins behind its length.
                    Fragment::First => payload
                        .get(4..8)
                        .and_then(|id| id.try_into().ok())
                        .is_some_and(|id| self.defined.contains(&u32::from_le_bytes(id))),
                    Fragment::Middle | Fragment::Last => true,
                };
                if header.tx == header.lsn {
                    self.open.insert(header.tx);
                }
                if !known {
                    self.orphan(
                        header,
                        "changes of a relation whose definition is lost",
                        None,
                    );
                }
            }
            FrameKind::Commit => {
                let commit = CommitRecord::decode(payload)?;
                let known = self.all_defined(payload, COMMIT_RECORD)?;
                let position = Position::end_of(commit.commit);
                if header.tx != header.lsn && !begun {
                    let what = "the commit of a transaction that is not whole any more";
                    self.orphan(header, what, Some(position));
                } else if !known {
                    let what = "changes of a relation whose definition is lost";
                    self.orphan(header, what, Some(position));
                } else if header.tx >= self.first {
                    // Those that began in front of the log were out of reach before.
                    self.report.commits += 1;
                    self.report.events += u64::from(commit.events);
                }
                self.open.remove(&header.tx);
                self.last = self.last.max(position);
            }
            FrameKind::Heartbeat => {
                self.last = self.last.max(Heartbeat::decode(payload)?.end);
            }
            FrameKind::Abort => {
                self.open.remove(&header.tx);
            }
            FrameKind::Restart => self.open.clear(),
            FrameKind::Gap if header.tx == 0 => self.open.clear(),
            FrameKind::Gap => {
                self.open.remove(&header.tx);
            }
            FrameKind::Rollback | FrameKind::Seal => {}
        }
        Ok(())
    }

    fn all_defined(&self, payload: &bytes::Bytes, from: usize) -> Result<bool, FormatError> {
        let mut at = from;
        while at < payload.len() {
            let record = change::decode(payload, at)?;
            if !self.defined.contains(&record.relation) {
                return Ok(false);
            }
            at = record.end;
        }
        Ok(true)
    }

    fn finish(mut self, mode: RepairMode) -> Scan {
        // What cannot be read at or above what was durable is a torn tail: opening the log cuts it.
        let torn = self.ranges.iter().find(|(lsn, _)| *lsn >= self.flushed);
        if let Some(&(lsn, losses)) = torn {
            self.report.losses.truncate(losses);
            self.forget_from(lsn);
        }
        let mut cut = None;
        if mode == RepairMode::Cut
            && let Some(loss) = self
                .report
                .losses
                .iter()
                .find(|loss| loss.lsn.0 >= self.first)
        {
            let (at, after) = (loss.lsn.0, loss.after);
            cut = Some(at);
            self.forget_from(at);
            self.change(at).cut = Some(at);
            let what = "cut: the source has to send again what follows".to_owned();
            self.report.losses.retain(|loss| loss.lsn.0 < at);
            self.last = after;
            self.lose(at, self.flushed.saturating_sub(at), what, None);
        }
        self.changes.retain(|_, changes| {
            changes.remove
                || changes.header.is_some()
                || changes.cut.is_some()
                || !changes.edits.is_empty()
        });
        self.report.headers = self
            .changes
            .iter()
            .filter(|(_, changes)| changes.header.is_some())
            .map(|(base, _)| self.dir.join(file_name(*base)))
            .collect();
        Scan {
            id: self.id,
            report: self.report,
            changes: self.changes,
            cut,
        }
    }

    /// Leaves what stands at `lsn` and behind it as it is.
    fn forget_from(&mut self, lsn: u64) {
        let base = self.id.base(lsn);
        self.changes.retain(|&other, _| other <= base);
        if let Some(changes) = self.changes.get_mut(&base) {
            changes.edits.retain(|edit| edit.lsn < lsn);
        }
    }
}
