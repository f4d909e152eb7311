//! Workers of a lane: each has one request in flight, and a queue of what comes after it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Mutex;

use super::window::Numbers;
use crate::{
    BoxEmitter, ChangeEvent, EmitError, Emitter, EventBatch, Position, Receipt, SourceInfo,
};

type Answer = Result<Receipt, EmitError>;

/// A call of [`Emitter::emit`].
enum Request {
    Sent(Pin<Box<dyn Future<Output = Answer> + Send>>),
    Answered(Answer),
}

/// Events for one worker that came together.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) source: Arc<SourceInfo>,
    pub(super) events: Vec<ChangeEvent>,
    /// The events before transforms, one an event, or empty if there are no transforms.
    pub(super) originals: Vec<ChangeEvent>,
    pub(super) numbers: Numbers,
    pub(super) end: Position,
    /// State of the parked keys when these events were looked at.
    pub(super) generation: u64,
    /// Goes out only when the other members of this fence have come to it.
    pub(super) fence: Option<u64>,
}

impl Pending {
    /// True unless others have not come to its fence; `fences` says of each how many have not.
    pub(super) fn may_go(&self, fences: &HashMap<u64, usize>) -> bool {
        self.fence.is_none_or(|id| fences.get(&id) == Some(&0))
    }
}

/// What stands in a worker's queue.
#[derive(Debug)]
pub(super) enum Item {
    Work(Pending),
    /// Wait here until the event of this fence, which another worker has, is done.
    Fence(u64),
}

/// What a worker is at: cut into slices, and those into halves while a culprit is looked for.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: EventBatch,
    pub(super) originals: Vec<ChangeEvent>,
    pub(super) numbers: Numbers,
    /// What is left, first on top.
    pub(super) ranges: Vec<Range<usize>>,
    /// Most events of one request.
    size: usize,
    /// While a culprit is looked for: the half that holds one if the half before it holds none.
    suspect: Option<Range<usize>>,
    /// Events that were parked meanwhile; empty if none.
    pub(super) gone: Vec<bool>,
    /// Events that were refused and go out again, because there was no room for their letters; empty if
    /// none.
    refused: Vec<bool>,
    pub(super) generation: u64,
    pub(super) fence: Option<u64>,
}

impl Job {
    pub(super) fn new(pending: Pending, size: usize) -> Self {
        let batch = EventBatch::new(pending.source, pending.events, pending.end);
        let size = size.clamp(1, batch.len().max(1));
        let ranges = (0..batch.len())
            .step_by(size)
            .map(|start| start..(start + size).min(batch.len()))
            .rev()
            .collect();
        Self {
            batch,
            originals: pending.originals,
            numbers: pending.numbers,
            ranges,
            size,
            suspect: None,
            gone: Vec::new(),
            refused: Vec::new(),
            generation: pending.generation,
            fence: pending.fence,
        }
    }

    /// The event as it was captured.
    pub(super) fn original(&self, index: usize) -> &ChangeEvent {
        self.originals
            .get(index)
            .unwrap_or(&self.batch.events()[index])
    }

    pub(super) fn is_gone(&self, index: usize) -> bool {
        self.gone.get(index).copied().unwrap_or(false)
    }

    /// These events were refused and go out again.
    pub(super) fn refuse_again(&mut self, indices: &[usize]) {
        self.refused.resize(self.batch.len(), false);
        for &index in indices {
            self.refused[index] = true;
        }
    }

    /// How many events of a slice have not been refused before.
    pub(super) fn not_refused(&self, slice: &Slice) -> usize {
        let indices = (0..slice.batch.len()).filter_map(|nth| slice.index(nth));
        indices.filter(|&index| !self.is_refused(index)).count()
    }

    fn is_refused(&self, index: usize) -> bool {
        self.refused.get(index).copied().unwrap_or(false)
    }

    /// What is to go out next. Of a half that must hold a culprit, for the half before it held none, its
    /// own first half at once; and what is left behind a culprit goes out together again. An event that was
    /// refused goes out alone: while there is no room for its letter, what comes behind it would be taken
    /// each time.
    pub(super) fn next_range(&mut self) -> Option<Range<usize>> {
        let mut range = self.ranges.pop()?;
        match self.suspect.take() {
            Some(suspect) if suspect == range => {
                if range.len() > 1 {
                    let middle = range.start + range.len() / 2;
                    let rest = middle..range.end;
                    self.ranges.push(rest.clone());
                    self.suspect = Some(rest);
                    range.end = middle;
                }
            }
            // What is before it: it stays.
            Some(suspect) if suspect.start >= range.end => self.suspect = Some(suspect),
            _ => {
                while let Some(next) = self.ranges.last()
                    && next.start == range.end
                    && next.end - range.start <= self.size
                    && !self.is_refused(range.start)
                {
                    range.end = next.end;
                    self.ranges.pop();
                }
            }
        }
        Some(range)
    }

    /// A slice was refused as a whole: one of its halves holds a culprit.
    pub(super) fn split(&mut self, slice: &Slice) {
        let [second, first] = slice.halves();
        self.suspect = Some(second.clone());
        self.ranges.extend([second, first]);
    }

    /// What of a range is still to go; `None` if nothing is.
    pub(super) fn slice(&self, range: Range<usize>) -> Option<Slice> {
        let whole = self.batch.slice(range.clone());
        if !range.clone().any(|index| self.is_gone(index)) {
            return Some(Slice {
                batch: whole,
                range,
                alive: None,
            });
        }
        let alive: Vec<usize> = range
            .clone()
            .filter(|&index| !self.is_gone(index))
            .collect();
        let events: Vec<_> = alive
            .iter()
            .map(|&index| self.batch.events()[index].clone())
            .collect();
        if events.is_empty() {
            return None;
        }
        Some(Slice {
            batch: EventBatch::new(whole.source().clone(), events, whole.end()),
            range,
            alive: Some(alive),
        })
    }
}

/// What goes out in one request.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) batch: EventBatch,
    /// Which part of the job.
    pub(super) range: Range<usize>,
    /// Which events of that part, if not all.
    alive: Option<Vec<usize>>,
}

impl Slice {
    /// Index in the job of the n-th event.
    pub(super) fn index(&self, nth: usize) -> Option<usize> {
        match &self.alive {
            None => Some(self.range.start + nth).filter(|index| self.range.contains(index)),
            Some(alive) => alive.get(nth).copied(),
        }
    }

    pub(super) fn numbers(&self, job: &Job) -> Numbers {
        match &self.alive {
            None => job.numbers.slice(self.range.clone()),
            Some(alive) => Numbers::List(alive.iter().map(|&at| job.numbers.at(at)).collect()),
        }
    }

    /// Both halves as ranges of the job, second first.
    fn halves(&self) -> [Range<usize>; 2] {
        let middle = self
            .index(self.batch.len() / 2)
            .unwrap_or(self.range.end)
            .max(self.range.start);
        [middle..self.range.end, self.range.start..middle]
    }
}

/// Events the emitter took and that are not yet durable.
#[derive(Debug)]
pub(super) struct Accepted {
    /// The last of them; they are durable when the emitter is through this.
    pub(super) last: Position,
    /// When it was committed.
    pub(super) commit_micros: i64,
    pub(super) numbers: Numbers,
}

/// One emitter, and what it is to do.
pub(super) struct Worker {
    /// Locked by the request while one is in flight; dropping that gives it back.
    pub(super) emitter: Arc<Mutex<BoxEmitter>>,
    /// What is in flight.
    request: Option<Request>,
    /// What went out with it.
    sent: Option<Slice>,
    /// When it went out.
    pub(super) sent_at: Duration,
    /// What failed and goes out again, the same bytes.
    pub(super) retry: Option<Slice>,
    /// Why `retry` is tried again ([`EmitErrorKind::class`](crate::EmitErrorKind::class)); `None` if it was
    /// taken back before there was an answer.
    pub(super) retry_class: Option<usize>,
    /// Not before then.
    pub(super) retry_at: Duration,
    /// Failures of `retry` in a row.
    pub(super) failures: u32,
    pub(super) job: Option<Job>,
    pub(super) queue: VecDeque<Item>,
    /// There is no room for letters of what it has: it sends nothing until there is.
    pub(super) blocked: bool,
    /// It stands before the fence at the head of its queue and has been counted there.
    pub(super) arrived: bool,
    pub(super) accepted: VecDeque<Accepted>,
    /// The furthest letter that was redriven ahead of events that are still to be sent: a mark up to it
    /// says nothing of those.
    pub(super) ahead: Position,
    /// The emitter says that it lost what it had accepted; the session is to go back.
    pub(super) lost: Option<EmitError>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("busy", &self.request.is_some())
            .field("queue", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn new(emitter: BoxEmitter) -> Self {
        Self {
            emitter: Arc::new(Mutex::new(emitter)),
            request: None,
            sent: None,
            sent_at: Duration::ZERO,
            retry: None,
            retry_class: None,
            retry_at: Duration::ZERO,
            failures: 0,
            job: None,
            queue: VecDeque::new(),
            blocked: false,
            arrived: false,
            accepted: VecDeque::new(),
            ahead: Position::ZERO,
            lost: None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.request.is_some()
    }

    /// Asks the request in flight; true if it is answered, and [`answer`](Self::answer) has it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(request) = &mut self.request else {
            return false;
        };
        if let Request::Sent(sent) = request
            && let Poll::Ready(answer) = sent.as_mut().poll(cx)
        {
            *request = Request::Answered(answer);
        }
        matches!(request, Request::Answered(_))
    }

    /// What was sent, and the answer to it, if there is one.
    pub(super) fn answer(&mut self) -> Option<(Slice, Answer)> {
        match self.request.take() {
            Some(Request::Answered(answer)) => Some((self.sent.take()?, answer)),
            other => {
                self.request = other;
                None
            }
        }
    }

    /// Does not wait for the answer any longer; its outcome is unknown.
    pub(super) fn drop_request(&mut self) {
        self.request = None;
        self.sent = None;
    }

    /// True if nothing is in flight and nothing is left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.request.is_none()
            && self.retry.is_none()
            && self.queue.is_empty()
            && self.job.as_ref().is_none_or(|job| job.ranges.is_empty())
    }

    /// Number of the oldest event that may go out. What stands at a fence may not: those it waits for may
    /// wait for room.
    pub(super) fn oldest(&self, fences: &HashMap<u64, usize>) -> Option<u64> {
        if self.blocked {
            return None;
        }
        if let Some(job) = &self.job {
            let index = match &self.retry {
                Some(slice) => slice.index(0),
                None => job.ranges.last().map(|range| range.start),
            };
            if let Some(index) = index {
                return Some(job.numbers.at(index));
            }
        }
        match self.queue.front() {
            Some(Item::Work(pending)) if pending.may_go(fences) => Some(pending.numbers.at(0)),
            _ => None,
        }
    }

    /// Takes a request back that is not answered: the same goes out again, later.
    pub(super) fn take_back(&mut self) {
        if let Some(Request::Sent(_)) = &self.request {
            self.retry = self.sent.take();
            self.retry_class = None;
            self.request = None;
        }
    }

    /// Sends.
    pub(super) fn start(&mut self, slice: Slice, now: Duration) {
        let emitter = self.emitter.clone();
        let batch = slice.batch.clone();
        let request = async move { emitter.lock().await.emit(&batch).await };
        self.request = Some(Request::Sent(Box::pin(request)));
        self.sent = Some(slice);
        self.sent_at = now;
    }

    /// Forgets everything but its emitter; a request in flight is dropped.
    pub(super) fn clear(&mut self) {
        self.drop_request();
        self.retry = None;
        self.retry_at = Duration::ZERO;
        self.failures = 0;
        self.job = None;
        self.queue.clear();
        self.blocked = false;
        self.arrived = false;
        self.accepted.clear();
        self.ahead = Position::ZERO;
        self.lost = None;
    }

    /// Events the emitter took that are not durable.
    pub(super) fn accepted_events(&self) -> u64 {
        self.accepted
            .iter()
            .map(|accepted| accepted.numbers.len() as u64)
            .sum()
    }
}
