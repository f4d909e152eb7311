//! Tails: committed transactions of a log, in commit order, as a [`WalSource`].

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use cdc_core::storage::{OpenMode, Storage, StorageFile};
use cdc_core::{
    BatchLimit, Clock, EventBatch, Position, SourceError, SourceInfo, TokenRefusal, WalSource,
};

use crate::control::{CONTROL, Control};
use crate::log::recent::Follower;
use crate::log::recover::catalog;
use crate::log::state::Shared;
use crate::log::{self, Visibility};
use crate::read::assemble::Assembler;
use crate::read::frames::{FrameReader, LogId};
use crate::read::locate::{self, locate};
use crate::{LogError, LogErrorKind, segment};

/// Bytes of open transactions a tail keeps in memory; beyond it their frames are read again at
/// the commit.
pub const TAIL_MEMORY_BYTES: usize = 16 << 20;
/// How often the tail of another process's log looks for more.
const POLL: Duration = Duration::from_millis(5);

/// Where a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// With the oldest retained transaction.
    Earliest,
    /// With the next transaction to commit.
    Latest,
    /// With what is strictly after a position.
    After(Position),
}

/// A cursor over a log's committed transactions.
///
/// Gives events whose rows are slices of the read they came with. In the writer's process these are
/// the very bytes that were written, without a read, up to 4 MiB back; a tail that is further behind
/// reads the files, and follows the writer again when it has caught up. An idle tail costs nothing: it
/// is woken by the log, or looks at the control file every few milliseconds if the log is another
/// process's.
#[derive(Debug)]
pub struct WalTail {
    view: View,
    source: Arc<SourceInfo>,
    clock: Arc<dyn Clock>,
    assembler: Assembler,
    cursor: Option<String>,
}

#[derive(Debug)]
enum View {
    Local {
        shared: Arc<Shared>,
        number: u64,
    },
    Remote {
        control: Box<dyn StorageFile>,
        path: PathBuf,
        id: LogId,
        last: u64,
    },
}

impl WalTail {
    pub(crate) fn local(
        shared: Arc<Shared>,
        start: StartAt,
        clock: Arc<dyn Clock>,
        cursor: Option<String>,
    ) -> Result<Self, LogError> {
        let (last, open, next, vanishes) = {
            let state = shared.lock();
            let vanishes = match start {
                StartAt::Earliest => false,
                StartAt::Latest => shared.config.visibility == Visibility::Flushed,
                StartAt::After(position) => log::may_vanish(&shared, &state, position),
            };
            (state.last, state.restart(state.next), state.next, vanishes)
        };
        if vanishes {
            // Its end is given out as covered, so it must not vanish in a crash.
            shared.flush_to(next)?;
        }
        let written = shared.drain()?;
        let (after, begin) = match start {
            StartAt::Latest => (last, open),
            StartAt::Earliest => {
                let oldest = log::oldest(&shared)?;
                (oldest, log::locate(&shared, oldest)?)
            }
            StartAt::After(position) => {
                // A journal may have lost in a crash what a lane had delivered already: the
                // source sends it again, and it is passed over here.
                let ahead = position > last && position.commit > last.commit;
                if ahead && shared.config.visibility == Visibility::Flushed {
                    return Err(TokenRefusal::Ahead {
                        token: position,
                        end: last,
                    }
                    .into());
                }
                (position, log::locate(&shared, position)?)
            }
        };
        let mut frames = FrameReader::new(shared.storage.clone(), &shared.dir, shared.id, true);
        frames.follow(Follower::new(&shared.recent));
        let assembler =
            Assembler::new(frames, begin, after, TAIL_MEMORY_BYTES, written.max(begin))?;
        let number = shared.notify.number();
        Ok(Self {
            source: shared.source.clone(),
            view: View::Local { shared, number },
            clock,
            assembler,
            cursor,
        })
    }

    /// A tail of a log that another process writes, or nobody. It holds nothing back: what the
    /// writer trims meanwhile ends it with an error of kind `Gap`.
    ///
    /// # Errors
    /// [`LogErrorKind::NotFound`] without a log, [`LogErrorKind::Refused`] for the position,
    /// [`LogErrorKind::Corrupt`] if the files contradict themselves.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: impl AsRef<Path>,
        start: StartAt,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LogError> {
        let dir = dir.as_ref();
        segment::untrimmed(move || Self::remote(&storage, dir, start, &clock))
    }

    fn remote(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        start: StartAt,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, LogError> {
        let bases = segment::list(storage.as_ref(), dir)?;
        let (id, segments, newest) = catalog(storage.as_ref(), dir, &bases)?;
        let path = dir.join(CONTROL);
        let control = storage
            .open(&path, OpenMode::Read)
            .map_err(|cause| LogError::io("open the log's control file", &path, cause))?;
        said(control.as_ref(), &path)?;
        let mut view = View::Remote {
            control,
            path,
            id,
            last: 0,
        };
        let visible = view.visible()?;
        let segments = Vec::from(segments);
        let mut frames = FrameReader::new(storage.clone(), dir, id, false);
        let end = end_position(&mut frames, &segments, visible)?;
        let (after, begin) = match start {
            StartAt::Earliest => {
                let oldest = locate::oldest(&mut frames, &segments, visible)?;
                (oldest, locate(&mut frames, &segments, oldest, visible)?)
            }
            StartAt::Latest => (end, locate(&mut frames, &segments, end, visible)?),
            StartAt::After(position) => {
                if position > end && position.commit > end.commit {
                    return Err(TokenRefusal::Ahead {
                        token: position,
                        end,
                    }
                    .into());
                }
                (position, locate(&mut frames, &segments, position, visible)?)
            }
        };
        let frames = FrameReader::new(storage.clone(), dir, id, true);
        let assembler =
            Assembler::new(frames, begin, after, TAIL_MEMORY_BYTES, visible.max(begin))?;
        Ok(Self {
            source: Arc::new(newest.header.source),
            view,
            clock: clock.clone(),
            assembler,
            cursor: None,
        })
    }

    /// Everything up to this was given.
    pub const fn end(&self) -> Position {
        self.assembler.end()
    }

    /// Bytes of the log between what was read and what may be read.
    ///
    /// # Errors
    /// If the control file of another process's log cannot be read.
    pub fn lag_bytes(&mut self) -> Result<u64, LogError> {
        Ok(self.view.visible()?.saturating_sub(self.assembler.at()))
    }

    /// Bytes of open transactions that are kept in memory, at most about [`TAIL_MEMORY_BYTES`]: the
    /// frames of what is larger are read again at the commit.
    pub const fn held_bytes(&self) -> usize {
        self.assembler.held()
    }

    /// Oldest LSN this tail still has to read.
    pub fn restart_lsn(&self) -> cdc_core::Lsn {
        cdc_core::Lsn(self.assembler.needs())
    }

    /// What there is now, without waiting; `None` if there is nothing new. For engines and tools
    /// without an executor.
    ///
    /// # Errors
    /// From the log.
    pub fn poll_batch(&mut self, limit: &BatchLimit) -> Result<Option<EventBatch>, LogError> {
        loop {
            let visible = self.view.visible()?;
            let before = self.assembler.end();
            let events = self.fill(visible, limit)?;
            let end = self.assembler.end();
            if !events.is_empty() || (end > before && self.assembler.at() >= visible) {
                return Ok(Some(EventBatch::new(self.source.clone(), events, end)));
            }
            if self.assembler.at() >= visible {
                self.view.write_out()?;
                if self.view.visible()? == visible {
                    return Ok(None);
                }
            }
        }
    }

    fn fill(
        &mut self,
        visible: u64,
        limit: &BatchLimit,
    ) -> Result<Vec<cdc_core::ChangeEvent>, LogError> {
        match self.assembler.fill(visible, limit) {
            Err(error)
                if error.kind == LogErrorKind::Trimmed && !self.assembler.is_behind_gap() =>
            {
                // Say why it was trimmed, if the cursor was invalidated.
                self.check_cursor()?;
                self.resume(error)?;
                self.assembler.fill(visible, limit)
            }
            filled => filled,
        }
    }

    /// Goes on behind segments that were trimmed ahead of this tail, if everything that was committed
    /// in them was given: what filled them was aborted.
    fn resume(&mut self, trimmed: LogError) -> Result<(), LogError> {
        let start = StartAt::After(self.end());
        let (clock, cursor) = (&self.clock, &self.cursor);
        let resumed = match &self.view {
            View::Local { shared, .. } => segment::untrimmed(|| {
                Self::local(shared.clone(), start, clock.clone(), cursor.clone())
            }),
            View::Remote { .. } => {
                let (storage, dir) = self.assembler.place();
                Self::open(storage, dir, start, clock.clone())
            }
        };
        match resumed {
            Ok(tail) => {
                *self = tail;
                Ok(())
            }
            Err(error) if matches!(error.kind, LogErrorKind::Refused(_)) => Err(trimmed),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn check_cursor(&mut self) -> Result<(), LogError> {
        match (&self.view, &self.cursor) {
            (View::Local { shared, .. }, Some(name)) => log::check_cursor(shared, name),
            _ => Ok(()),
        }
    }

    async fn next(&mut self, limit: BatchLimit) -> Result<Option<EventBatch>, LogError> {
        let mut linger: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        loop {
            // In this order: what is visible after the writer has closed is all there will be.
            let finished = self.view.finished();
            let visible = self.view.visible()?;
            let events = self.fill(visible, &limit)?;
            if !events.is_empty() {
                let end = self.assembler.end();
                return Ok(Some(EventBatch::new(self.source.clone(), events, end)));
            }
            if self.assembler.at() < visible || self.assembler.is_delivering() {
                yield_now().await;
                continue;
            }
            self.view.alive()?;
            if finished {
                return Ok(None);
            }
            let timer = linger.get_or_insert_with(|| self.clock.sleep(limit.linger));
            if !self.view.wait(visible, timer, self.clock.as_ref()).await? {
                let end = self.assembler.end();
                return Ok(Some(EventBatch::heartbeat(self.source.clone(), end)));
            }
        }
    }
}

/// Refuses a control file that says nothing valid, whenever it is looked at: without it a log looks
/// as if nothing were in it, and its oldest position like one that was trimmed. That of a log that is
/// being created is empty.
fn said(control: &dyn StorageFile, path: &Path) -> Result<(), LogError> {
    let io = |cause| LogError::io("read the log's control file", path, cause);
    for _ in 0..segment::LOOKS {
        if Control::read(control).map_err(io)?.is_some() || control.is_empty().map_err(io)? {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Err(LogError::new(
        LogErrorKind::Corrupt,
        format!(
            "read the log's control file {}: it says nothing valid, since its writer was stopped while it wrote it; open the log once for writing (start the program), which mends it",
            path.display()
        ),
    ))
}

impl Drop for WalTail {
    fn drop(&mut self) {
        if let View::Local { shared, number } = &self.view {
            shared.notify.remove(*number);
        }
    }
}

impl View {
    /// Up to where may be read now.
    fn visible(&mut self) -> Result<u64, LogError> {
        match self {
            Self::Local { shared, .. } => Ok(shared.visible()),
            Self::Remote {
                control,
                path,
                id,
                last,
            } => {
                let io = |cause| LogError::io("read the log's control file", path, cause);
                if let Some(found) = Control::read(control.as_ref()).map_err(io)? {
                    if found.uuid != id.uuid || found.epoch != id.epoch {
                        return Err(LogError::new(
                            LogErrorKind::Corrupt,
                            format!(
                                "read the log's control file {}: it belongs to another log; open the tail again",
                                path.display()
                            ),
                        ));
                    }
                    *last = found.visible();
                }
                Ok(*last)
            }
        }
    }

    /// True when the writer has closed the log; looked at before reading, so that what it wrote
    /// last is not missed.
    fn finished(&self) -> bool {
        match self {
            Self::Local { shared, .. } => shared.closed.load(Ordering::SeqCst),
            Self::Remote { .. } => false,
        }
    }

    fn alive(&self) -> Result<(), LogError> {
        match self {
            Self::Local { shared, .. } if shared.failed.load(Ordering::SeqCst) => {
                shared.alive(&shared.lock())
            }
            Self::Local { .. } | Self::Remote { .. } => Ok(()),
        }
    }

    /// Has the log's buffer written, if what is written may be read.
    fn write_out(&self) -> Result<(), LogError> {
        match self {
            Self::Local { shared, .. } if shared.config.visibility == Visibility::Written => {
                shared.write_out()
            }
            _ => Ok(()),
        }
    }

    /// Waits until more than `seen` may be read (true) or the timer ends (false).
    async fn wait(
        &mut self,
        seen: u64,
        timer: &mut Pin<Box<dyn Future<Output = ()> + Send>>,
        clock: &dyn Clock,
    ) -> Result<bool, LogError> {
        self.write_out()?;
        match self {
            Self::Local { shared, number } => {
                let changed = std::future::poll_fn(|context| {
                    shared.notify.register(*number, context.waker());
                    let closed = shared.closed.load(Ordering::SeqCst);
                    let dead = shared.failed.load(Ordering::SeqCst);
                    if shared.visible() != seen || closed || dead {
                        return Poll::Ready(true);
                    }
                    timer.as_mut().poll(context).map(|()| false)
                });
                Ok(changed.await)
            }
            Self::Remote { .. } => {
                let mut poll = clock.sleep(POLL);
                let look = std::future::poll_fn(|context| {
                    if timer.as_mut().poll(context).is_ready() {
                        return Poll::Ready(false);
                    }
                    poll.as_mut().poll(context).map(|()| true)
                });
                Ok(look.await)
            }
        }
    }
}

/// Lets other tasks of the executor run.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The last position in the readable part of a log.
fn end_position(
    frames: &mut FrameReader,
    segments: &[log::state::SegmentMeta],
    visible: u64,
) -> Result<Position, LogError> {
    let readable = segments.iter().rev().find(|s| s.base < visible);
    let Some(newest) = readable else {
        return Ok(segments.first().map_or(Position::ZERO, |s| s.prev));
    };
    let mut end = newest.prev;
    let mut at = newest.base + crate::format::HEADER_BYTES;
    while let Some(frame) = frames.frame(at, visible)? {
        let point = locate::resume_point(&frame.header, &frame.payload)
            .map_err(|error| frames.corrupt(at, error))?;
        if let Some((position, _)) = point {
            end = position;
        }
        at = frames.after(&frame.header);
    }
    Ok(end)
}

impl WalSource for WalTail {
    fn source(&self) -> &Arc<SourceInfo> {
        &self.source
    }

    async fn next_batch(&mut self, limit: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        Ok(self.next(limit).await?)
    }

    async fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
        if let (View::Local { shared, .. }, Some(name)) = (&self.view, &self.cursor) {
            log::confirm(shared, name, up_to)?;
        }
        Ok(())
    }
}
