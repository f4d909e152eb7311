//! The half that the lane calls: batches into lines, lines into chunks for the writer.

use std::fmt;
use std::time::Duration;

use cdc_core::{Checkpoint, DurableMark, EmitError, Emitter, EventBatch, Position};
use cdc_core::{Receipt, Rejection};
use tracing::warn;

use crate::beside::Beside;
use crate::boundary::Boundary;
use crate::framing::Framing;
use crate::writer::{Chunk, Command, Failure, Loss, Writer};
use crate::{FileConfig, FileConfigError};

/// Encoded bytes are written at least this often, whatever the batch's size.
const BUFFER_MAX: usize = 4 << 20;
/// As [`BUFFER_MAX`], where another processor writes them: they are still in its neighbour's cache.
const BESIDE_MAX: usize = 256 << 10;

/// Writes events into the files of one directory.
///
/// # Cancel safety
/// No method waits at an `await`, so a future is never dropped half-way.
pub struct FileEmitter {
    config: FileConfig,
    framing: Framing,
    beside: Beside,
    /// The directory is ours.
    begun: bool,
    /// The open file, with what is on its way into it.
    ahead: Option<Ahead>,
    /// Where what is given to the writer ends.
    boundary: Boundary,
    /// Of a batch that failed for lack of room: its first events, which are given to the writer.
    half: Vec<Position>,
    /// A close that failed for lack of room is to be done first.
    close_due: bool,
    buffer: Vec<u8>,
}

/// What of the open file decides when it is closed.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    length: u64,
    /// On the clock that never goes back.
    opened_at: Duration,
}

/// What is encoded and not yet given to the writer.
#[derive(Default)]
struct Pending {
    first: Option<Position>,
    last: Option<Position>,
    events: u64,
    lines: u64,
    /// Events of the batch up to its last one.
    through: usize,
    /// Where it ends.
    boundary: Boundary,
}

impl Pending {
    /// Nothing, behind what is given.
    fn behind(boundary: Boundary) -> Self {
        Self {
            boundary,
            ..Self::default()
        }
    }
}

impl FileEmitter {
    /// An emitter that touches the disk first in [`resume`](Emitter::resume).
    ///
    /// # Errors
    /// [`FileConfigError`] if the settings cannot work.
    pub fn new(config: FileConfig) -> Result<Self, FileConfigError> {
        config.validate()?;
        Ok(Self {
            framing: Framing::of(config.encoder.format()),
            beside: Beside::new(Writer::new(config.clone())),
            config,
            begun: false,
            ahead: None,
            boundary: Boundary::default(),
            half: Vec::new(),
            close_due: false,
            buffer: Vec::new(),
        })
    }

    /// Waits until every closed file is compressed; false if one could not be (a full disk, say),
    /// which is tried again after the next start or the next closed file. For programs that end:
    /// a running emitter compresses by itself.
    pub fn finish_compression(&mut self) -> bool {
        let Ok(mut writer) = self.beside.settled() else {
            return false;
        };
        let FileConfig { storage, path, .. } = &self.config;
        writer.compressor.finish(storage, path)
    }

    fn restart(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        let mut writer = self.beside.halted();
        writer.restart(from)?;
        self.ahead = writer.out.open.as_ref().map(|open| Ahead {
            length: open.length,
            opened_at: open.opened_at,
        });
        drop(writer);
        self.beside.begin();
        self.begun = true;
        self.boundary = from.map_or_else(Boundary::default, |from| Boundary::behind(from.position));
        self.half.clear();
        self.close_due = false;
        Ok(())
    }

    /// Writes a batch; if its first events were written before it failed, the others.
    fn write_batch(&mut self, batch: &EventBatch) -> Result<Vec<Rejection>, Failure> {
        let positions = batch.events().iter().map(|event| event.position);
        let mut given = self.half.len();
        if !positions.clone().take(given).eq(self.half.iter().copied()) {
            // A letter that is redriven meanwhile, say: behind half a batch there is no place for it, and
            // no state to store that has the one and not the other.
            return Err(Failure::Lost(Loss {
                what: format!("finish a batch in {}", self.config.path.display()),
                cause: "something else came before its other half".to_owned(),
            }));
        }
        let written = self.write_from(batch, &mut given);
        self.half.clear();
        if written.is_err() {
            self.half.extend(positions.take(given));
        }
        written
    }

    /// Writes what of a batch is not given to the writer yet, and counts what is.
    fn write_from(
        &mut self,
        batch: &EventBatch,
        given: &mut usize,
    ) -> Result<Vec<Rejection>, Failure> {
        let mut rejected = Vec::new();
        let skip = *given;
        let mut pending = Pending::behind(self.boundary);
        self.buffer.clear();
        for (index, event) in batch.events().iter().enumerate() {
            let position = event.position;
            let skipped = index < skip;
            let between = pending.boundary.is_before(batch, position.commit);
            if !skipped && between && self.is_due(&pending) {
                self.give(batch, &mut pending, given)?;
                self.close()?;
            }
            let start = self.buffer.len();
            self.framing.begin(&mut self.buffer);
            let framing = self.framing;
            let encoded = self.config.encoder.encode_each(
                batch.source(),
                event,
                &mut self.buffer,
                &mut |out| {
                    if framing == Framing::Lines {
                        out.push(b'\n');
                    }
                },
            );
            let lines = match encoded {
                Ok(lines) if framing == Framing::Lines => Ok(lines as u64),
                Ok(_) if framing.end(&mut self.buffer, start) => Ok(1),
                Ok(_) => Err("encode an event: it is larger than a frame can be, 4 GiB".to_owned()),
                Err(cause) => Err(cause.to_string()),
            };
            match lines {
                Ok(_) if skipped => self.buffer.truncate(start),
                Ok(lines) => {
                    pending.first = pending.first.or(Some(position));
                    pending.last = Some(position);
                    pending.events += 1;
                    pending.lines += lines;
                    pending.through = index + 1;
                    pending.boundary.pass(batch, position.commit, event.last);
                }
                Err(message) => {
                    self.buffer.truncate(start);
                    rejected.push(Rejection {
                        index,
                        message,
                        status: None,
                    });
                }
            }
            let beside = self.beside.is_beside();
            if self.buffer.len() >= if beside { BESIDE_MAX } else { BUFFER_MAX } {
                self.give(batch, &mut pending, given)?;
            }
        }
        self.give(batch, &mut pending, given)?;
        self.beside.give(Command::End(batch.end()))?;
        self.boundary.end(batch);
        Ok(rejected)
    }

    /// True if the open file, with what is to be written, is long or old enough.
    fn is_due(&self, pending: &Pending) -> bool {
        let length = self.ahead.map_or(0, |open| open.length);
        let long = length.saturating_add(self.buffer.len() as u64) >= self.config.rotate_bytes;
        let old = self.ahead.is_some_and(|open| {
            self.config.clock.elapsed().saturating_sub(open.opened_at) >= self.config.rotate_age
        });
        (long || old) && (self.ahead.is_some() || pending.last.is_some())
    }

    /// Gives what is encoded to the writer.
    fn give(
        &mut self,
        batch: &EventBatch,
        pending: &mut Pending,
        given: &mut usize,
    ) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (pending.first, pending.last) else {
            return Ok(());
        };
        let spare = self.beside.buffer();
        let length = self.buffer.len() as u64;
        self.beside.give(Command::Chunk(Chunk {
            bytes: std::mem::replace(&mut self.buffer, spare),
            lineage: batch.source().lineage,
            first,
            last,
            events: pending.events,
            lines: pending.lines,
        }))?;
        let clock = &self.config.clock;
        let ahead = self.ahead.get_or_insert_with(|| Ahead {
            length: 0,
            opened_at: clock.elapsed(),
        });
        ahead.length += length;
        *given = pending.through;
        // Only now: what is encoded and not given comes again.
        self.boundary = pending.boundary;
        *pending = Pending::behind(self.boundary);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Failure> {
        self.close_due = true;
        self.beside.give(Command::Close)?;
        self.close_due = false;
        self.ahead = None;
        Ok(())
    }

    /// Does what is due between batches. Lack of room is no failure here: it is tried again.
    fn tend(&mut self, sync: bool) -> Result<(), Failure> {
        // Half a batch is written after a failure: the mark stays before it.
        let whole = self.half.is_empty();
        let between = self.boundary.is_behind();
        if self.ahead.is_some() && whole && between && self.is_due(&Pending::default()) {
            match self.close() {
                Ok(()) => {}
                Err(Failure::Again(error)) => {
                    warn!(%error, "a file stays open until there is room for the manifest");
                }
                Err(lost) => return Err(lost),
            }
        }
        if sync {
            return self.beside.settled()?.tend(true);
        }
        self.beside
            .idle()
            .map_or(Ok(()), |mut writer| writer.tend(false))
    }

    /// Notes a loss; gives what the lane can be told now.
    fn failed(&mut self, failure: Failure) -> Result<(), EmitError> {
        match failure {
            Failure::Again(error) => Err(error),
            Failure::Lost(loss) => {
                self.beside.halted().lose(loss);
                Ok(())
            }
        }
    }

    fn answer(&mut self, sync: bool) -> Result<Option<DurableMark>, EmitError> {
        // What was taken and finds no room is told, or nobody would hear of it while nothing more comes. The lane
        // goes back to its checkpoint, and gives it again until there is room.
        let done = self.beside.unstick().and_then(|()| self.tend(sync));
        done.or_else(|failure| self.failed(failure))?;
        let Some(mut writer) = self.beside.idle() else {
            return Ok(Some(self.beside.mark()));
        };
        if let Some(loss) = &writer.lost {
            return Err(loss.error());
        }
        let FileConfig { storage, path, .. } = &self.config;
        if sync && !writer.whole {
            // The mark stays before half a batch, and before all that was taken since the last sync: it would say
            // nothing of a letter among that, which is closed when this returns.
            let what = format!("finish a batch in {}", path.display());
            let cause = "its other half found no room".to_owned();
            let loss = Loss { what, cause };
            let error = loss.error();
            writer.lose(loss);
            return Err(error);
        }
        writer.compressor.tend(storage, path);
        Ok(Some(writer.mark.clone()))
    }
}

impl Emitter for FileEmitter {
    /// Takes the directory's lock, brings the files back to the checkpoint ([`crate::OnRestart`]) and
    /// finishes what a crash interrupted. Without a state in the checkpoint nothing is removed:
    /// what is there is closed as it is, and a new file begins.
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.restart(from)
    }

    /// Encodes the batch, writes it or gives it to the thread that does, and answers
    /// [`Receipt::ACCEPTED`], with events that cannot be encoded as rejected. After a loss it takes nothing
    /// more and leaves it to [`durable`](Self::durable) to say so.
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        if !self.begun {
            self.restart(None)?;
        }
        if self
            .beside
            .idle()
            .is_some_and(|writer| writer.lost.is_some())
        {
            return Ok(Receipt::ACCEPTED);
        }
        let written = if self.close_due { self.close() } else { Ok(()) };
        let written = written
            .and_then(|()| self.write_batch(batch))
            .and_then(|rejected| self.tend(false).map(|()| rejected));
        match written {
            Ok(rejected) => Ok(Receipt {
                rejected,
                ..Receipt::ACCEPTED
            }),
            Err(failure) => self.failed(failure).map(|()| Receipt::ACCEPTED),
        }
    }

    /// Syncs if it is due and no thread does it, which takes as long as the disk needs.
    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.answer(false)
    }

    /// Waits until everything taken is written, and syncs in every [`crate::Fsync`] mode. While half a batch
    /// waits for room there is no mark that has all that was taken: that counts as a loss.
    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.answer(true)
    }
}

impl fmt::Debug for FileEmitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEmitter")
            .field("path", &self.config.path)
            .field("stream", &self.config.stream)
            .field("through", &self.beside.mark().through)
            .finish_non_exhaustive()
    }
}
