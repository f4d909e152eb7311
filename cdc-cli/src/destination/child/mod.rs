//! The custom emitter of the binary: a child process (`docs/specs/custom-child.md`).
//!
//! Events go to its standard input, one JSON document a line. On its standard output it answers,
//! one line each: the id of an event, or a resume token, which says that everything up to and
//! including that event is durable; or `{"reject": ID, "reason": TEXT}`, which says that this one
//! event cannot be taken (it becomes a dead letter). A batch is given only after the one before it
//! was answered, so a child that is killed sees at most one batch again.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use cdc_core::envelope::Encoder;
use cdc_core::{
    Checkpoint, Delivery, EmitError, EmitErrorKind, Emitter, EventBatch, EventId, Receipt,
    Rejection, ResumeToken,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Longest line a child may answer with, in bytes.
const LINE_MAX: usize = 64 * 1024;

/// Settings of a child process.
#[derive(Clone, Debug)]
pub(crate) struct ChildConfig {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Most events given between two answers.
    pub(crate) batch_size: usize,
    /// Longest wait for the answer to a batch; then the child is killed and started again.
    pub(crate) timeout: Duration,
    /// How events are written.
    pub(crate) encoder: Encoder,
}

/// Delivers to a child process and waits for its answers.
#[derive(Debug)]
pub(crate) struct ChildEmitter {
    config: ChildConfig,
    running: Option<Running>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
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
                "deliver a batch to the child process {}: {what}",
                self.program()
            ),
        )
    }

    fn start(&mut self) -> Result<(), EmitError> {
        if self.running.is_some() {
            return Ok(());
        }
        let Some((program, arguments)) = self.config.command.split_first() else {
            return Err(EmitError::new(
                EmitErrorKind::Fatal,
                "start the child process of the custom emitter: its command is empty",
            ));
        };
        let started = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = started.map_err(|cause| {
            EmitError::new(
                EmitErrorKind::EndpointRetry { retry_after: None },
                format!(
                    "start the child process {program}: check that it is installed and may be run"
                ),
            )
            .with_cause(cause)
        })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(self.unwell("its pipes could not be opened"));
        };
        self.running = Some(Running {
            child,
            input,
            output: BufReader::new(output),
        });
        Ok(())
    }

    /// Writes the batch and reads answers until its last event is answered.
    async fn exchange(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let lineage = batch.source().lineage;
        let mut open: HashMap<[u8; EventId::LEN], usize> = HashMap::with_capacity(batch.len());
        for (index, event) in batch.events().iter().enumerate() {
            open.insert(EventId::new(&lineage, event.position).to_bytes(), index);
        }
        let mut running = self
            .running
            .take()
            .ok_or_else(|| self.unwell("it is not running"))?;
        // Reading goes on while we write, so that a child that answers event by event cannot
        // fill its pipe and block both sides.
        let Running { input, output, .. } = &mut running;
        let buffer = &self.buffer;
        let write = async {
            input.write_all(buffer).await?;
            input.flush().await
        };
        let read = answers(output, batch, &mut open);
        let (written, rejected) = tokio::join!(write, read);
        match (written, rejected) {
            (Ok(()), Ok(rejected)) => {
                self.running = Some(running);
                Ok(Receipt {
                    delivery: Delivery::Durable,
                    rejected,
                })
            }
            (Err(cause), _) => {
                let status = running.child.try_wait().ok().flatten();
                let ended = status.map_or_else(String::new, |status| format!(" ({status})"));
                Err(self
                    .unwell(&format!("it closed its input{ended}"))
                    .with_cause(cause))
            }
            (Ok(()), Err(what)) => Err(self.unwell(&what)),
        }
    }
}

/// Reads answers until every event of the batch has one.
async fn answers(
    output: &mut BufReader<ChildStdout>,
    batch: &EventBatch,
    open: &mut HashMap<[u8; EventId::LEN], usize>,
) -> Result<Vec<Rejection>, String> {
    let mut rejected: Vec<Rejection> = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        let length = output
            .take(LINE_MAX as u64)
            .read_line(&mut line)
            .await
            .map_err(|error| format!("its answer could not be read ({error})"))?;
        if length == 0 {
            return Err("it ended before it answered the batch".to_owned());
        }
        if length == LINE_MAX {
            return Err(format!("an answer is longer than {LINE_MAX} bytes"));
        }
        match answer(line.trim(), batch, open)? {
            Answer::Nothing => {}
            Answer::Rejected(rejection) => {
                if rejected.iter().all(|known| known.index != rejection.index) {
                    rejected.push(rejection);
                }
            }
            Answer::Through(index) => {
                if index + 1 == batch.len() {
                    break;
                }
            }
        }
        // The last event may be rejected itself: then nothing behind it can be acknowledged.
        let last = batch.len() - 1;
        if rejected.iter().any(|known| known.index == last) {
            break;
        }
    }
    rejected.sort_by_key(|rejection| rejection.index);
    Ok(rejected)
}

enum Answer {
    Nothing,
    Through(usize),
    Rejected(Rejection),
}

fn answer(
    line: &str,
    batch: &EventBatch,
    open: &HashMap<[u8; EventId::LEN], usize>,
) -> Result<Answer, String> {
    let index_of = |id: &str| {
        <[u8; EventId::LEN]>::try_from(id.as_bytes())
            .ok()
            .and_then(|id| open.get(&id).copied())
    };
    if line.is_empty() {
        return Ok(Answer::Nothing);
    }
    if let Some(index) = index_of(line) {
        return Ok(Answer::Through(index));
    }
    if line.starts_with("cdc1_") {
        let token: ResumeToken = line
            .parse()
            .map_err(|error| format!("its answer is not a resume token ({error})"))?;
        let through = batch
            .events()
            .partition_point(|event| event.position <= token.position());
        return match through.checked_sub(1) {
            Some(index) if token.lineage().same_source(&batch.source().lineage) => {
                Ok(Answer::Through(index))
            }
            // An answer to an earlier batch, given twice.
            _ => Ok(Answer::Nothing),
        };
    }
    let document: serde_json::Value = serde_json::from_str(line).map_err(|_| {
        "it answered with something that is no event id of this batch, no resume token and no JSON; \
         write logs to standard error"
            .to_owned()
    })?;
    let id = document
        .get("reject")
        .and_then(serde_json::Value::as_str)
        .ok_or_else(|| "its answer has no member \"reject\" with an event id".to_owned())?;
    let index =
        index_of(id).ok_or_else(|| "it rejected an event that is not in the batch".to_owned())?;
    let reason = document
        .get("reason")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("no reason given");
    let reason: String = reason.chars().take(256).collect();
    Ok(Answer::Rejected(Rejection {
        index,
        message: format!("the child process rejected the event: {reason}"),
        status: None,
    }))
}

impl Emitter for ChildEmitter {
    async fn resume(&mut self, _from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.running = None;
        self.start()
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        self.buffer.clear();
        for event in batch.events() {
            let encoded = self
                .config
                .encoder
                .encode(batch.source(), event, &mut self.buffer);
            encoded.map_err(|cause| {
                EmitError::new(
                    EmitErrorKind::Event,
                    format!("encode an event for the child process {}", self.program()),
                )
                .with_cause(cause)
            })?;
            self.buffer.push(b'\n');
        }
        self.start()?;
        let timeout = self.config.timeout;
        match tokio::time::timeout(timeout, self.exchange(batch)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unwell(&format!(
                "it did not answer within {} s; it was killed and will be started again",
                timeout.as_secs_f32()
            ))),
        }
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::envelope::Format;

    fn child(script: &str, timeout: Duration) -> ChildEmitter {
        ChildEmitter::new(ChildConfig {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            batch_size: 100,
            timeout,
            encoder: Encoder::new(Format::Json),
        })
    }

    const LONG: Duration = Duration::from_secs(60);
    /// Answers each event with its id, the first member of every event.
    const ECHO: &str = r#"sed -u 's/^{"id":"\([^"]*\)".*/\1/'"#;

    fn batch(count: u32) -> EventBatch {
        cdc_core::testing::transaction(7, 1, count)
    }

    #[tokio::test]
    async fn a_child_that_answers_every_event_takes_them_all() {
        let mut emitter = child(ECHO, LONG);
        emitter.resume(None).await.unwrap();
        for _ in 0..3 {
            assert_eq!(emitter.emit(&batch(500)).await.unwrap(), Receipt::DURABLE);
        }
    }

    #[tokio::test]
    async fn a_rejected_event_is_named_and_the_rest_is_taken() {
        let script = r#"sed -u 's/^{"id":"\([^"]*00000001\)".*/{"reject":"\1","reason":"too big"}/; s/^{"id":"\([^"]*\)".*/\1/'"#;
        let receipt = child(script, LONG).emit(&batch(3)).await.unwrap();
        let indices: Vec<_> = receipt.rejected.iter().map(|r| r.index).collect();
        assert_eq!(indices, [1]);
        assert!(receipt.rejected[0].message.ends_with("too big"));
    }

    #[tokio::test]
    async fn a_child_that_dies_or_talks_nonsense_is_an_unwell_destination() {
        for script in [
            "exit 3",
            "head -n 1 >/dev/null",
            "echo hello; cat >/dev/null",
            "cat",
        ] {
            let mut emitter = child(script, LONG);
            let error = emitter.emit(&batch(3)).await.unwrap_err();
            assert_eq!(
                error.kind,
                EmitErrorKind::EndpointRetry { retry_after: None },
                "{script}"
            );
            assert!(
                emitter.running.is_none(),
                "{script}: started again by the next attempt"
            );
        }
    }

    #[tokio::test]
    async fn a_child_that_hangs_is_killed() {
        let mut emitter = child("cat >/dev/null", Duration::from_millis(20));
        let error = emitter.emit(&batch(1)).await.unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let mut emitter = child("", LONG);
        emitter.config.command = vec!["/no/such/program".into()];
        let error = emitter.emit(&batch(1)).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
