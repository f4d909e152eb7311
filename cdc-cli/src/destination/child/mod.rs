//! The custom emitter of the binary: a child process (`docs/specs/custom-child.md`).
//!
//! Events go to its standard input, one JSON document a line. On its standard output it answers,
//! one line each: the id of an event, or a resume token, which says that everything up to and
//! including that event is durable; or `{"reject": ID, "reason": TEXT}`, which says that this one
//! event cannot be taken (it becomes a dead letter). A batch is given only after the one before it
//! was answered, so a child that is killed sees at most one batch again.

mod answers;
mod process;
#[cfg(test)]
mod tests;

use std::time::Duration;

use cdc_core::envelope::Encoder;
use cdc_core::{Checkpoint, Delivery, EmitError, EmitErrorKind, Emitter, EventBatch, Receipt};
use tokio::io::AsyncWriteExt;

use self::answers::Answers;
use self::process::Process;

/// Settings of a child process.
#[derive(Clone, Debug)]
pub(crate) struct ChildConfig {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Most events given between two answers.
    pub(crate) batch_size: usize,
    /// Longest wait for the answer to a batch; then the child is ended and started again.
    pub(crate) timeout: Duration,
    /// Longest wait for its end after its input was closed, and again after SIGTERM.
    pub(crate) stop_timeout: Duration,
    /// How events are written.
    pub(crate) encoder: Encoder,
}

/// Delivers to a child process and waits for its answers.
///
/// # Cancel safety
/// A dropped `emit` leaves a child that has not answered: the next call ends it, waits until it is
/// gone and starts another, which gets the batch again. Two never run at once.
#[derive(Debug)]
pub(crate) struct ChildEmitter {
    config: ChildConfig,
    running: Option<Process>,
    buffer: Vec<u8>,
}

impl ChildEmitter {
    pub(crate) const fn new(config: ChildConfig) -> Self {
        Self {
            config,
            running: None,
            buffer: Vec::new(),
        }
    }

    fn program(&self) -> &str {
        self.config.command.first().map_or("", String::as_str)
    }

    fn unwell(&self, what: &str) -> EmitError {
        EmitError::new(
            EmitErrorKind::EndpointRetry { retry_after: None },
            format!(
                "deliver a batch to the child process {}: {what}; it is started again",
                self.program()
            ),
        )
    }

    /// Starts it unless it runs and waits for events. Waits between two starts are the lane's, as
    /// for every destination.
    async fn start(&mut self) -> Result<(), EmitError> {
        if let Some(running) = &mut self.running
            && (!running.idle || running.status().is_some())
        {
            self.end().await;
        }
        if self.running.is_some() {
            return Ok(());
        }
        let Some((program, arguments)) = self.config.command.split_first() else {
            return Err(EmitError::new(
                EmitErrorKind::Fatal,
                "start the child process of the custom emitter: its command is empty",
            ));
        };
        let started = Process::start(program, arguments, self.config.stop_timeout);
        let started = started.map_err(|cause| {
            EmitError::new(
                EmitErrorKind::EndpointRetry { retry_after: None },
                format!(
                    "start the child process {program}: check that it is installed and may be run"
                ),
            )
            .with_cause(cause)
        })?;
        let Some(process) = started else {
            return Err(self.unwell("its pipes could not be opened"));
        };
        self.running = Some(process);
        Ok(())
    }

    /// Ends it if it runs; it is gone then.
    async fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.end().await;
        }
    }

    /// Writes the batch and reads answers until every event has one.
    async fn exchange(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let Some(running) = &mut self.running else {
            return Err(self.unwell("it is not running"));
        };
        running.idle = false;
        let Process { input, output, .. } = running;
        // Reading goes on while we write, so that a child that answers event by event cannot
        // fill its pipe and block both sides.
        let buffer = &self.buffer;
        let write = async {
            match input {
                Some(input) => {
                    input.write_all(buffer).await?;
                    input.flush().await
                }
                None => Err(std::io::ErrorKind::BrokenPipe.into()),
            }
        };
        let mut answers = Answers::new(batch);
        let read = answers.read(output);
        // What it says about itself comes before what its closed pipe says.
        let (written, outcome) = tokio::join!(write, read);
        let failure = match (written, outcome) {
            (Ok(()), Ok(())) => {
                running.idle = true;
                return Ok(Receipt {
                    delivery: Delivery::Durable,
                    rejected: answers.rejected(),
                });
            }
            (_, Err(what)) => what,
            (Err(cause), Ok(())) => {
                format!("it answered events that it had not been given yet ({cause})")
            }
        };
        let ended = running
            .status()
            .map_or_else(String::new, |status| format!(" ({status})"));
        Err(self.unwell(&format!("{failure}{ended}")))
    }

    fn encode(&mut self, batch: &EventBatch) -> Result<(), EmitError> {
        self.buffer.clear();
        for event in batch.events() {
            let encoder = &self.config.encoder;
            encoder
                .encode(batch.source(), event, &mut self.buffer)
                .map_err(|cause| {
                    EmitError::new(
                        EmitErrorKind::Event,
                        format!("encode an event for the child process {}", self.program()),
                    )
                    .with_cause(cause)
                })?;
            self.buffer.push(b'\n');
        }
        Ok(())
    }
}

impl Emitter for ChildEmitter {
    async fn resume(&mut self, _from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.end().await;
        self.start().await
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        if batch.is_empty() {
            return Ok(Receipt::DURABLE);
        }
        self.encode(batch)?;
        self.start().await?;
        let timeout = self.config.timeout;
        let answer = match tokio::time::timeout(timeout, self.exchange(batch)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unwell(&format!(
                "it did not answer within {} s",
                timeout.as_secs_f32()
            ))),
        };
        if answer.is_err() {
            self.end().await;
        }
        answer
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }
}
