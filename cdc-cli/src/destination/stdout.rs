//! The binary's own consumer of the queue: events as lines on standard output.

use std::io::{self, Write};
use std::thread::JoinHandle;

use cdc_core::envelope::Encoder;
use cdc_core::{Checkpoint, DurableMark, EmitError, EmitErrorKind, Emitter, EventBatch, Receipt};
use cdc_emit_queue::{QueueConsumer, QueueEmitter};
use tokio::sync::watch;

/// Why printing ended before the queue was closed: kind and text of the writer's error.
type Failure = Option<(io::ErrorKind, String)>;

/// The queue, whose consumer prints. A consumer that cannot print any more stops the lane: without
/// it the queue would fill and wait for ever.
#[derive(Debug)]
pub(crate) struct PrintedQueue {
    queue: QueueEmitter,
    failed: watch::Receiver<Failure>,
}

/// The thread that prints.
pub(crate) type Printer = JoinHandle<io::Result<()>>;

impl PrintedQueue {
    /// A queue, and what its consumer has to run on a thread of its own.
    pub(crate) fn new<W: Write>(
        queue: QueueEmitter,
        encoder: Encoder,
        out: impl FnOnce() -> W + Send + 'static,
    ) -> (Self, impl FnOnce() -> io::Result<()> + Send + 'static) {
        let consumer = queue.consumer();
        let (tell, failed) = watch::channel(None);
        let print = move || {
            let printed = print_queue(&consumer, &encoder, out());
            if let Err(error) = &printed {
                tell.send_replace(Some((error.kind(), error.to_string())));
            }
            printed
        };
        (Self { queue, failed }, print)
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

impl Emitter for PrintedQueue {
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.queue.resume(from).await
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
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
}

/// Prints every batch of the queue and acknowledges it once it is written, until the queue is
/// closed. Blocking; run it on a thread of its own.
///
/// # Errors
/// From the writer (a closed pipe, a full disk); what was not written is not acknowledged.
fn print_queue(consumer: &QueueConsumer, encoder: &Encoder, mut out: impl Write) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(batch) = consumer.recv_blocking() {
        buffer.clear();
        for event in batch.events() {
            encoder
                .encode(batch.source(), event, &mut buffer)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            buffer.push(b'\n');
        }
        out.write_all(&buffer)?;
        out.flush()?;
        batch.ack();
    }
    Ok(())
}
