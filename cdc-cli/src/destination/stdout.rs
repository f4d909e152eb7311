//! The binary's own consumer of the queue: events as lines on standard output, or in the compact form one
//! after the other.
//!
//! An event that stands in a pipe is nowhere: a reader that goes away takes with it what it has not
//! read. So what goes to a pipe is acknowledged once the reader has taken it out. A socket does not tell
//! how much of it was taken: what goes there is acknowledged when it is written, and a warning says so.

use std::collections::VecDeque;
use std::io::{self, StdoutLock, Write};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use cdc_core::envelope::{Encoder, Format};
use cdc_core::{
    ChangeEvent, Checkpoint, DurableMark, EmitError, EmitErrorKind, Emitter, EventBatch, Op,
    Receipt,
};
use cdc_emit_queue::{QueueBatch, QueueConsumer, QueueEmitter, TryRecvError};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, OFlags};
use tokio::sync::watch;

/// Why printing ended before the queue was closed: kind and text of the writer's error.
type Failure = Option<(io::ErrorKind, String)>;

/// The queue, whose consumer prints. A consumer that cannot print any more stops the lane: without
/// it the queue would fill and wait for ever.
#[derive(Debug)]
pub(crate) struct PrintedQueue {
    queue: QueueEmitter,
    encoder: Encoder,
    failed: watch::Receiver<Failure>,
}

/// The thread that prints.
pub(crate) type Printer = JoinHandle<io::Result<()>>;

impl PrintedQueue {
    /// A queue, and what its consumer has to run on a thread of its own.
    pub(crate) fn new<S: Sink>(
        queue: QueueEmitter,
        encoder: Encoder,
        out: impl FnOnce() -> S + Send + 'static,
    ) -> (Self, impl FnOnce() -> io::Result<()> + Send + 'static) {
        let consumer = queue.consumer();
        let (tell, failed) = watch::channel(None);
        let printing = encoder.clone();
        let print = move || {
            let printed = print_queue(&consumer, &printing, out());
            if let Err(error) = &printed {
                tell.send_replace(Some((error.kind(), error.to_string())));
            }
            printed
        };
        let printed = Self {
            queue,
            encoder,
            failed,
        };
        (printed, print)
    }

    fn error((kind, text): (io::ErrorKind, String)) -> EmitError {
        let remedy = match kind {
            io::ErrorKind::BrokenPipe => "its reader went away; start again with one that stays",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "the disk is full; free some space and start again"
            }
            _ => "mend it and start again",
        };
        EmitError::new(
            EmitErrorKind::Fatal,
            format!("write events to standard output: {remedy}; nothing is lost"),
        )
        .with_cause(io::Error::new(kind, text))
    }

    /// Waits until printing fails; for ever if it goes well.
    async fn failure(failed: &mut watch::Receiver<Failure>) -> EmitError {
        let found = match failed.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone(),
            Err(_) => None,
        };
        match found {
            Some(failure) => Self::error(failure),
            // The printer has ended well: the queue was closed.
            None => std::future::pending().await,
        }
    }
}

impl PrintedQueue {
    /// What the format has no word for is refused before it is taken, and becomes a dead letter: behind the
    /// queue only an end is left, and the next start would come to the same event. Only what may be such is
    /// tried.
    fn check(&self, batch: &EventBatch) -> Result<(), EmitError> {
        if self.encoder.format() != Format::Debezium {
            return Ok(());
        }
        let doubtful =
            |event: &&ChangeEvent| matches!(event.op, Op::Delete | Op::Merge | Op::Message);
        let mut scratch = Vec::new();
        for event in batch.events().iter().filter(doubtful) {
            scratch.clear();
            let written = self.encoder.encode(batch.source(), event, &mut scratch);
            written.map_err(|cause| {
                EmitError::new(EmitErrorKind::Event, "encode an event for standard output")
                    .with_cause(cause)
            })?;
        }
        Ok(())
    }
}

impl Emitter for PrintedQueue {
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.queue.resume(from).await
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        self.check(batch)?;
        tokio::select! {
            biased;
            error = Self::failure(&mut self.failed) => Err(error),
            receipt = self.queue.emit(batch) => receipt,
        }
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let failure = self.failed.borrow().clone();
        match failure {
            Some(failure) => Err(Self::error(failure)),
            None => self.queue.durable(),
        }
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        tokio::select! {
            biased;
            mark = self.queue.flush() => mark,
            error = Self::failure(&mut self.failed) => Err(error),
        }
    }

    fn batch_size(&self) -> usize {
        self.queue.batch_size()
    }

    fn waits_for_room(&self) -> bool {
        self.queue.waits_for_room()
    }
}

/// Where lines go, which knows what of them has arrived.
pub(crate) trait Sink: Write {
    /// Bytes that were written and nobody has taken yet.
    ///
    /// # Errors
    /// Nobody ever will.
    fn unread(&mut self) -> io::Result<u64>;
}

/// What stands behind a file descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pipe,
    Socket,
    /// A file or a terminal: what is written has arrived.
    Other,
}

impl Kind {
    fn of(out: impl AsFd) -> Self {
        let Ok(stat) = rustix::fs::fstat(out) else {
            return Self::Other;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo => Self::Pipe,
            FileType::Socket => Self::Socket,
            _ => Self::Other,
        }
    }

    /// Bytes that were written to it and nobody has taken yet, as far as it tells.
    fn unread(self, out: impl AsFd) -> io::Result<u64> {
        let (unread, gone) = match self {
            Self::Pipe => (rustix::io::ioctl_fionread(&out)?, PollFlags::ERR),
            Self::Socket => (0, PollFlags::ERR.union(PollFlags::HUP)),
            Self::Other => return Ok(0),
        };
        if unread == 0 && self == Self::Pipe {
            return Ok(0);
        }
        // One whose readers are gone says so without being asked for anything.
        let mut polled = [PollFd::new(&out, PollFlags::empty())];
        rustix::event::poll(&mut polled, Some(&Timespec::default()))?;
        if polled[0].revents().intersects(gone) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(unread)
    }
}

/// Standard output of this process, locked.
pub(crate) struct StandardOutput {
    lock: StdoutLock<'static>,
    kind: Kind,
}

impl StandardOutput {
    /// Takes the lock, which other threads then wait for.
    pub(crate) fn lock() -> Self {
        let lock = io::stdout().lock();
        let kind = Kind::of(&lock);
        if kind == Kind::Socket {
            tracing::warn!(
                "standard output is a socket: what stands in it when its reader goes away counts as delivered; give it a pipe or a file"
            );
        }
        Self { lock, kind }
    }

    /// True if the process was started without a standard output. Rust's runtime then opens the
    /// null device in its place, for reading and writing, as no redirection does.
    pub(crate) fn is_closed() -> bool {
        let out = io::stdout();
        let null = rustix::fs::stat("/dev/null");
        let (Ok(stat), Ok(null)) = (rustix::fs::fstat(&out), null) else {
            return false;
        };
        let is_null =
            FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == null.st_rdev;
        is_null
            && rustix::fs::fcntl_getfl(&out)
                .is_ok_and(|flags| flags.intersection(OFlags::ACCMODE) == OFlags::RDWR)
    }
}

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock.flush()
    }
}

impl Sink for StandardOutput {
    fn unread(&mut self) -> io::Result<u64> {
        self.kind.unread(&self.lock)
    }
}

/// Shortest and longest pause between two looks at what the reader has taken.
const LOOK_MIN: Duration = Duration::from_micros(200);
const LOOK_MAX: Duration = Duration::from_millis(20);

/// Batches that are written and wait for the reader, with the number of bytes written at the end of
/// each. No more than what a pipe holds, 64 KiB usually, and one batch.
struct Unread {
    written: u64,
    batches: VecDeque<(u64, QueueBatch)>,
}

impl Unread {
    /// Acknowledges what has been taken; true if nothing is left.
    fn settle(&mut self, out: &mut impl Sink) -> io::Result<bool> {
        if self.batches.is_empty() {
            return Ok(true);
        }
        let taken = self.written.saturating_sub(out.unread()?);
        while self.batches.front().is_some_and(|(end, _)| *end <= taken) {
            if let Some((_, batch)) = self.batches.pop_front() {
                batch.ack();
            }
        }
        Ok(self.batches.is_empty())
    }
}

/// Prints every batch of the queue and acknowledges it once it has been taken, until the queue is
/// closed. Blocking; run it on a thread of its own.
///
/// # Errors
/// From the writer (a closed pipe, a full disk); what was not taken is not acknowledged.
fn print_queue(consumer: &QueueConsumer, encoder: &Encoder, mut out: impl Sink) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut unread = Unread {
        written: 0,
        batches: VecDeque::new(),
    };
    let mut pause = LOOK_MIN;
    loop {
        let batch = if unread.settle(&mut out)? {
            match consumer.recv_blocking() {
                Some(batch) => batch,
                None => return Ok(()),
            }
        } else {
            match consumer.try_recv() {
                Ok(batch) => batch,
                Err(TryRecvError::Empty) => {
                    // No event of the system tells when a reader takes something out of a pipe.
                    std::thread::park_timeout(pause);
                    pause = (pause * 2).min(LOOK_MAX);
                    continue;
                }
                // The lane has ended, and with it the wait for the reader.
                Err(TryRecvError::Closed) => return unread.settle(&mut out).map(drop),
            }
        };
        pause = LOOK_MIN;
        buffer.clear();
        for event in batch.events() {
            encoder
                .encode(batch.source(), event, &mut buffer)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // The compact form says its own length: one event follows the other.
            if encoder.format().is_text() {
                buffer.push(b'\n');
            }
        }
        out.write_all(&buffer)?;
        out.flush()?;
        unread.written += buffer.len() as u64;
        unread.batches.push_back((unread.written, batch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::envelope::compact;
    use cdc_core::testing;
    use cdc_emit_queue::QueueConfig;
    use std::os::unix::net::UnixStream;

    /// A reader that takes everything at once.
    struct Taken(std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Taken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.0.send(bytes.to_vec()));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Taken {
        fn unread(&mut self) -> io::Result<u64> {
            Ok(0)
        }
    }

    /// What comes out, and what emitting gave.
    async fn printed(
        format: Format,
        batches: Vec<EventBatch>,
    ) -> (Vec<u8>, Vec<Result<Receipt, EmitError>>) {
        let queue = QueueEmitter::new(QueueConfig::default()).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let (mut emitter, print) =
            PrintedQueue::new(queue, Encoder::new(format), move || Taken(tell));
        let printer = std::thread::spawn(print);
        emitter.resume(None).await.unwrap();
        let mut receipts = Vec::new();
        for batch in &batches {
            receipts.push(emitter.emit(batch).await);
        }
        drop(emitter.flush().await);
        drop(emitter);
        printer.join().unwrap().unwrap();
        (told.iter().flatten().collect(), receipts)
    }

    /// Nothing stands between two events that say their own length, or no reader finds the second.
    #[tokio::test]
    async fn compact_events_follow_each_other() {
        let (bytes, _) = printed(Format::Bincode, vec![testing::transaction(5, 1, 3)]).await;
        let mut rest = bytes::Bytes::from(bytes);
        let mut ordinals = Vec::new();
        while !rest.is_empty() {
            let event = rest.split_to(compact::encoded_len(&rest).unwrap());
            let (_, event) = compact::decode(&event).unwrap();
            ordinals.push(event.position.ordinal);
        }
        assert_eq!(ordinals, [0, 1, 2]);
        let (lines, _) = printed(Format::Json, vec![testing::transaction(5, 1, 3)]).await;
        assert_eq!(lines.iter().filter(|&&byte| byte == b'\n').count(), 3);
    }

    /// It becomes a dead letter, as with every other emitter; the printer would have ended over it.
    #[tokio::test]
    async fn what_the_format_cannot_say_is_refused_before_it_is_taken() {
        let mut merge = testing::insert(6, 0, 2);
        merge.op = Op::Merge;
        merge.after = merge
            .after
            .row()
            .cloned()
            .map(cdc_core::Image::Key)
            .unwrap();
        let end = merge.position;
        let merge = EventBatch::new(testing::source(), vec![merge], end);
        let batches = vec![
            testing::transaction(5, 1, 1),
            merge,
            testing::transaction(7, 3, 1),
        ];
        let (bytes, receipts) = printed(Format::Debezium, batches).await;
        assert!(receipts[0].is_ok() && receipts[2].is_ok());
        let error = receipts[1].as_ref().unwrap_err();
        assert_eq!(error.kind, EmitErrorKind::Event);
        assert_eq!(bytes.iter().filter(|&&byte| byte == b'\n').count(), 2);
    }

    #[test]
    fn a_pipe_tells_what_nobody_has_taken() {
        let (reader, mut writer) = io::pipe().unwrap();
        let kind = Kind::of(&writer);
        assert_eq!(kind, Kind::Pipe);
        assert_eq!(kind.unread(&writer).unwrap(), 0);
        writer.write_all(b"line\n").unwrap();
        assert_eq!(kind.unread(&writer).unwrap(), 5);
        drop(reader);
        let error = kind.unread(&writer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    /// A socket does not tell what was taken, but that its reader is gone: nothing more is acknowledged.
    #[test]
    fn a_socket_tells_that_its_reader_is_gone() {
        for unread in [&b""[..], b"line\n"] {
            let (mut out, reader) = UnixStream::pair().unwrap();
            let kind = Kind::of(&out);
            assert_eq!(kind, Kind::Socket);
            out.write_all(unread).unwrap();
            assert_eq!(kind.unread(&out).unwrap(), 0);
            drop(reader);
            let error = kind.unread(&out).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn what_goes_to_a_file_has_arrived() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"line\n").unwrap();
        let kind = Kind::of(&file);
        assert_eq!((kind, kind.unread(&file).unwrap()), (Kind::Other, 0));
    }
}
