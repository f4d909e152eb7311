//! Looking at a log without being its writer: `cdc-cli wal info | dump | verify`.
//!
//! Everything here only reads, and may run beside a writer. Row contents appear nowhere but in
//! what [`Inspector::changes`] gives, which is asked for by name.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::storage::Storage;
use cdc_core::{Cause, Image, Lsn, Op, Position, Relation, SourceInfo};

use crate::control::Control;
use crate::format::frame::{COMMIT_RECORD, CommitRecord, FRAME_HEADER, Fragment, FrameKind};
use crate::format::{HEADER_BYTES, change, relation};
use crate::log::Cursor;
use crate::log::cursors::Cursors;
use crate::log::recover::catalog;
use crate::read::frames::{Frame, FrameReader, LogId};
use crate::read::locate::resume_point;
use crate::segment::{self, Segment, file_name};
use crate::{LogError, LogErrorKind};

/// What is mapped at a time, of segments that are durable to their end.
const WINDOW_BYTES: usize = 4 << 20;

/// A log's directory, opened for looking.
#[derive(Debug)]
pub struct Inspector {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    id: LogId,
    source: SourceInfo,
    bases: Vec<u64>,
    control: Option<Control>,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The file.
    pub path: PathBuf,
    /// LSN of its first byte.
    pub base: Lsn,
    /// LSN behind its last frame.
    pub end: Lsn,
    /// When it was created, microseconds since 1970-01-01T00:00:00Z.
    pub created_micros: i64,
    /// Its end was marked: nothing will be appended.
    pub sealed: bool,
    /// Position of the first commit or heartbeat in it.
    pub first: Option<Position>,
    /// Position of the last one.
    pub last: Option<Position>,
    /// Frames.
    pub frames: u64,
    /// Commits.
    pub commits: u64,
    /// Events of the transactions that commit in it.
    pub events: u64,
    /// Relations defined in it.
    pub relations: u64,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Where it stands.
    pub lsn: Lsn,
    /// The name of its file.
    pub file: String,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length of header and payload, in bytes.
    pub len: u32,
    /// What it holds.
    pub kind: FrameKind,
    /// Part of a record that is larger than a frame.
    pub fragment: Fragment,
    /// LSN of its transaction's first frame; `None` for frames of no transaction.
    pub tx: Option<Lsn>,
    /// The commit, of a commit frame.
    pub commit: Option<CommitRecord>,
    /// The position the log has reached with it, of a commit or heartbeat.
    pub position: Option<Position>,
    /// Change records in it; 0 in fragments.
    pub changes: u32,
    /// Id and shape of a relation frame.
    pub relation: Option<(u32, Arc<Relation>)>,
}

/// One change as it stands in a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeInfo {
    /// Offset of the record in the file, in bytes.
    pub offset: u64,
    /// Its length.
    pub len: usize,
    /// Its relation.
    pub relation: Arc<Relation>,
    /// What happened.
    pub op: Op,
    /// Why.
    pub cause: Cause,
    /// The row before.
    pub before: Image,
    /// The row after.
    pub after: Image,
}

/// The first damage of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// Where that is in the log.
    pub lsn: Lsn,
    /// It is behind everything known to be durable: the next open cuts it off as a torn tail.
    pub torn_tail: bool,
    /// What was found.
    pub what: String,
}

/// What a look at every byte found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Valid frames.
    pub frames: u64,
    /// Commits.
    pub commits: u64,
    /// Events of committed transactions.
    pub events: u64,
    /// Bytes of the log, segment headers included.
    pub bytes: u64,
    /// The first damage; nothing behind it was read.
    pub damage: Option<Damage>,
}

impl Inspector {
    /// Looks at the log in a directory.
    ///
    /// # Errors
    /// [`LogErrorKind::NotFound`] without one, [`LogErrorKind::Corrupt`] if segment headers are
    /// damaged or do not belong together.
    pub fn open(storage: Arc<dyn Storage>, dir: impl AsRef<Path>) -> Result<Self, LogError> {
        let dir = dir.as_ref();
        let (bases, (id, _, newest)) = segment::untrimmed(|| {
            let bases = segment::list(storage.as_ref(), dir)?;
            let found = catalog(storage.as_ref(), dir, &bases)?;
            Ok((bases, found))
        })?;
        let control = Control::load(storage.as_ref(), dir)?
            .filter(|control| control.uuid == id.uuid && control.epoch == id.epoch);
        Ok(Self {
            dir: dir.to_owned(),
            id,
            source: newest.header.source,
            bases,
            control,
            storage,
        })
    }

    /// Whose changes the log holds.
    pub const fn source(&self) -> &SourceInfo {
        &self.source
    }

    /// The log's own id.
    pub const fn uuid(&self) -> [u8; 16] {
        self.id.uuid
    }

    /// The log's epoch.
    pub const fn epoch(&self) -> u32 {
        self.id.epoch
    }

    /// Size of a segment.
    pub const fn segment_bytes(&self) -> u32 {
        self.id.segment_bytes
    }

    /// The cursors by name, as they stand on disk: further back than what was confirmed, perhaps.
    ///
    /// # Errors
    /// [`LogErrorKind::Corrupt`] if their file is damaged.
    pub fn cursors(&self) -> Result<BTreeMap<String, Cursor>, LogError> {
        Ok(Cursors::load(self.storage.as_ref(), &self.dir)?.entries)
    }

    /// What the writer last said is durable (exclusive).
    pub fn flushed_lsn(&self) -> Option<Lsn> {
        self.control.map(|control| Lsn(control.flushed))
    }

    /// What the writer last said is written (exclusive).
    pub fn written_lsn(&self) -> Option<Lsn> {
        self.control.map(|control| Lsn(control.written))
    }

    /// The segments, oldest first, every frame of them read.
    ///
    /// # Errors
    /// At the first damage; [`verify`](Self::verify) goes as far and reports it instead.
    pub fn segments(&self) -> Result<Vec<SegmentInfo>, LogError> {
        self.bases.iter().map(|&base| self.segment(base)).collect()
    }

    fn segment(&self, base: u64) -> Result<SegmentInfo, LogError> {
        let mode = cdc_core::storage::OpenMode::Read;
        let segment = Segment::open(self.storage.as_ref(), &self.dir, base, mode)?;
        let mut info = SegmentInfo {
            path: segment.path.clone(),
            base: Lsn(base),
            end: Lsn(segment.first()),
            created_micros: segment.header.created_micros,
            sealed: false,
            first: None,
            last: None,
            frames: 0,
            commits: 0,
            events: 0,
            relations: 0,
        };
        let mut frames = self.frames(Lsn(segment.first()));
        frames.stop = segment.end();
        for frame in frames {
            let frame = frame?;
            info.frames += 1;
            info.end = Lsn(frame.lsn.0 + crate::format::align(frame.len.into()));
            info.first = info.first.or(frame.position);
            info.last = frame.position.or(info.last);
            info.sealed = frame.kind == FrameKind::Seal;
            info.relations += u64::from(frame.relation.is_some());
            if let Some(commit) = frame.commit {
                info.commits += 1;
                info.events += u64::from(commit.events);
            }
        }
        Ok(info)
    }

    /// The frames from an LSN on, which must be a frame's, up to what the writer last wrote;
    /// begin with [`first_lsn`](Self::first_lsn). Ends after the first error.
    pub fn frames(&self, from: Lsn) -> Frames {
        Frames {
            reader: self.reader(),
            at: from.0,
            stop: self.end(),
            written: self.control.map_or(0, |control| control.written),
            tells_torn: false,
            given: None,
            shapes: Shapes::default(),
        }
    }

    fn reader(&self) -> FrameReader {
        let mut reader = FrameReader::new(self.storage.clone(), &self.dir, self.id, true);
        reader.set_flushed(
            self.control.map_or(0, |control| control.flushed),
            WINDOW_BYTES,
        );
        reader
    }

    /// LSN of the oldest retained frame.
    pub fn first_lsn(&self) -> Lsn {
        Lsn(self.bases.first().map_or(0, |base| base + HEADER_BYTES))
    }

    /// The changes in one frame, with their rows. Fragments of large records are not put
    /// together: they give none. For many frames see [`Frames::changes`].
    ///
    /// # Errors
    /// If there is no such frame, or it is damaged.
    pub fn changes(&self, lsn: Lsn) -> Result<Vec<ChangeInfo>, LogError> {
        let mut frames = self.frames(Lsn(self.id.base(lsn.0) + HEADER_BYTES));
        while frames.at < lsn.0 && frames.next().transpose()?.is_some() {}
        if frames.at == lsn.0 && frames.next().transpose()?.is_some() {
            return frames.changes();
        }
        Err(LogError::new(
            LogErrorKind::NotFound,
            format!(
                "read the log {}: no frame begins at {lsn}; list frames to see where they do",
                self.dir.display()
            ),
        ))
    }

    fn end(&self) -> u64 {
        let last = self.bases.last().copied().unwrap_or_default();
        last + u64::from(self.id.segment_bytes)
    }

    /// Reads every frame, its checksum and its records.
    ///
    /// # Errors
    /// If a file cannot be read; damage is not an error but in the report.
    pub fn verify(&self) -> Result<VerifyReport, LogError> {
        let mut report = VerifyReport {
            segments: self.bases.len() as u64,
            ..VerifyReport::default()
        };
        let mut frames = self.frames(self.first_lsn());
        frames.tells_torn = true;
        loop {
            let at = frames.at;
            let error = match frames.next() {
                None => break,
                Some(Err(error)) => error,
                Some(Ok(frame)) => {
                    report.frames += 1;
                    if let Some(commit) = frame.commit {
                        report.commits += 1;
                        report.events += u64::from(commit.events);
                    }
                    continue;
                }
            };
            if error.kind != LogErrorKind::Corrupt {
                return Err(error);
            }
            let base = self.id.base(at);
            report.damage = Some(Damage {
                path: self.dir.join(file_name(base)),
                offset: at - base,
                lsn: Lsn(at),
                torn_tail: self.control.is_some_and(|control| at >= control.flushed),
                what: error.to_string(),
            });
            break;
        }
        let first = self.bases.first().copied().unwrap_or_default();
        report.bytes = frames.at.saturating_sub(first);
        if report.damage.is_none() {
            report.damage = self.missing(frames.at)?;
        }
        Ok(report)
    }

    /// The segment behind the last one, if something in it was durable, and it is not there.
    fn missing(&self, at: u64) -> Result<Option<Damage>, LogError> {
        let flushed = self.control.map_or(0, |control| control.flushed);
        if at < self.end() || flushed <= at {
            return Ok(None);
        }
        let base = self.id.base(at);
        // A writer may have made it since this look began, and trimmed it, too.
        let bases = segment::list(self.storage.as_ref(), &self.dir)?;
        if bases.last().is_some_and(|newest| *newest >= base) {
            return Ok(None);
        }
        Ok(Some(Damage {
            path: self.dir.join(file_name(base)),
            offset: 0,
            lsn: Lsn(base),
            torn_tail: false,
            what: format!(
                "read the log segment {}: it is missing, the log was durable up to {}; restore it, or see what a repair would keep (`cdc-cli wal repair {}`)",
                self.dir.join(file_name(base)).display(),
                Lsn(flushed),
                self.dir.display()
            ),
        }))
    }
}

/// Frames in log order.
#[derive(Debug)]
pub struct Frames {
    reader: FrameReader,
    at: u64,
    stop: u64,
    written: u64,
    /// What cannot be read behind that is an error, not the end.
    tells_torn: bool,
    /// The frame that was given last.
    given: Option<Frame>,
    shapes: Shapes,
}

/// The relations that one segment has defined up to a place.
#[derive(Debug, Default)]
struct Shapes {
    /// The segment's first frame; 0 for no segment.
    first: u64,
    /// Where the next frame begins.
    to: u64,
    table: HashMap<u32, Arc<Relation>>,
}

impl Shapes {
    /// Notes what a frame defines, if it is the next one.
    fn pass(&mut self, reader: &FrameReader, frame: &Frame) -> Result<(), LogError> {
        let lsn = frame.header.lsn;
        let first = reader.id().base(lsn) + HEADER_BYTES;
        if self.first != first {
            *self = Self {
                first,
                to: first,
                table: HashMap::new(),
            };
        }
        if self.to != lsn {
            return Ok(());
        }
        if frame.header.kind == FrameKind::Relation {
            let (id, relation) =
                relation::decode(&frame.payload).map_err(|error| reader.corrupt(lsn, error))?;
            self.table.insert(id, Arc::new(relation));
        }
        self.to = reader.after(&frame.header);
        Ok(())
    }
}

impl Frames {
    /// The changes in the frame that was given last, with their rows; none before the first.
    /// Fragments of large records are not put together: they give none.
    ///
    /// # Errors
    /// If the segment is damaged in front of the frame, where its relations are defined.
    pub fn changes(&mut self) -> Result<Vec<ChangeInfo>, LogError> {
        let Some(frame) = &self.given else {
            return Ok(Vec::new());
        };
        let lsn = frame.header.lsn;
        let base = self.reader.id().base(lsn);
        let mut at = match frame.header.kind {
            FrameKind::Commit => COMMIT_RECORD,
            FrameKind::Changes if frame.header.fragment == Fragment::None => 0,
            _ => return Ok(Vec::new()),
        };
        // The first of a walk that did not begin with its segment.
        while self.shapes.to <= lsn {
            let Some(before) = self.reader.frame(self.shapes.to, self.stop)? else {
                break;
            };
            self.shapes.pass(&self.reader, &before)?;
        }
        let mut changes = Vec::new();
        while at < frame.payload.len() {
            let record = change::decode(&frame.payload, at)
                .map_err(|error| self.reader.corrupt(lsn, error))?;
            let Some(relation) = self.shapes.table.get(&record.relation) else {
                return Err(self
                    .reader
                    .corrupt(lsn, "a change of an undefined relation"));
            };
            changes.push(ChangeInfo {
                offset: lsn - base + (FRAME_HEADER + at) as u64,
                len: record.end - at,
                relation: relation.clone(),
                op: record.op,
                cause: record.cause,
                before: record.before(&frame.payload),
                after: record.after(&frame.payload),
            });
            at = record.end;
        }
        Ok(changes)
    }

    fn info(&self, frame: &Frame) -> Result<FrameInfo, LogError> {
        let header = &frame.header;
        let bad = |error| self.reader.corrupt(header.lsn, error);
        let base = self.reader.id().base(header.lsn);
        let mut info = FrameInfo {
            lsn: Lsn(header.lsn),
            file: file_name(base),
            offset: header.lsn - base,
            len: header.len,
            kind: header.kind,
            fragment: header.fragment,
            tx: (header.tx != 0).then_some(Lsn(header.tx)),
            commit: None,
            position: resume_point(header, &frame.payload)
                .map_err(bad)?
                .map(|(position, _)| position),
            changes: 0,
            relation: None,
        };
        let mut at = 0;
        match header.kind {
            FrameKind::Relation => {
                let (id, relation) = relation::decode(&frame.payload).map_err(bad)?;
                info.relation = Some((id, Arc::new(relation)));
                return Ok(info);
            }
            FrameKind::Commit => {
                info.commit = Some(CommitRecord::decode(&frame.payload).map_err(bad)?);
                at = COMMIT_RECORD;
            }
            FrameKind::Changes if header.fragment == Fragment::None => {}
            _ => return Ok(info),
        }
        while at < frame.payload.len() {
            at = change::decode(&frame.payload, at).map_err(bad)?.end;
            info.changes += 1;
        }
        Ok(info)
    }
}

impl Iterator for Frames {
    type Item = Result<FrameInfo, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.at_end(self.at, self.stop, self.written) {
            Ok(true) => return None,
            Ok(false) => {}
            Err(error) => {
                self.stop = self.at;
                return Some(Err(error));
            }
        }
        let result = match self.reader.frame(self.at, self.stop) {
            Ok(None) => return None,
            Ok(Some(frame)) => self
                .info(&frame)
                .and_then(|info| self.shapes.pass(&self.reader, &frame).map(|()| info))
                .map(|info| (info, frame)),
            Err(error) => Err(error),
        };
        Some(match result {
            Ok((info, frame)) => {
                self.at = self.reader.after(&frame.header);
                self.given = Some(frame);
                Ok(info)
            }
            // Behind what the writer said is written it may be writing now, or have been torn off:
            // the log ends there, as it does for a reader of events; `verify` tells of it.
            Err(error)
                if error.kind == LogErrorKind::Corrupt
                    && !self.tells_torn
                    && self.written > 0
                    && self.at >= self.written =>
            {
                self.stop = self.at;
                return None;
            }
            Err(error) => {
                self.stop = self.at;
                Err(error)
            }
        })
    }
}
