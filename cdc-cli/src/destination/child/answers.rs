//! Reading what a child answers.

use cdc_core::{EventBatch, EventId, Rejection, ResumeToken};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Longest line a child may answer with, in bytes.
const LINE_MAX: usize = 64 * 1024;
/// Most characters of a reason that are kept.
const REASON_MAX: usize = 256;

/// The answers to one batch.
pub(super) struct Answers<'a> {
    batch: &'a EventBatch,
    /// The ids of the batch, in its order, which is theirs.
    ids: Vec<EventId>,
    /// Events from the first that are answered together.
    through: usize,
    rejected: Vec<Rejection>,
}

impl<'a> Answers<'a> {
    pub(super) fn new(batch: &'a EventBatch) -> Self {
        let lineage = &batch.source().lineage;
        let ids = batch.events().iter();
        Self {
            batch,
            ids: ids
                .map(|event| EventId::new(lineage, event.position))
                .collect(),
            through: 0,
            rejected: Vec::new(),
        }
    }

    /// True if every event is durable or rejected.
    fn is_complete(&self) -> bool {
        let rejected = |index| {
            self.rejected
                .binary_search_by_key(&index, |r| r.index)
                .is_ok()
        };
        (self.through..self.ids.len()).rev().all(rejected)
    }

    /// What was rejected, by index. An event that was rejected and acknowledged too is rejected.
    pub(super) fn rejected(self) -> Vec<Rejection> {
        self.rejected
    }

    /// Reads lines until every event has an answer.
    ///
    /// # Errors
    /// What the child did instead.
    pub(super) async fn read(
        &mut self,
        output: &mut BufReader<impl AsyncRead + Unpin>,
    ) -> Result<(), String> {
        let mut line = Vec::new();
        while !self.is_complete() {
            line.clear();
            let length = output
                .take(LINE_MAX as u64)
                .read_until(b'\n', &mut line)
                .await
                .map_err(|error| format!("its answer could not be read ({error})"))?;
            if line.pop() != Some(b'\n') {
                return Err(match length {
                    0 => "it ended before it answered the batch".to_owned(),
                    LINE_MAX => format!("an answer is longer than {LINE_MAX} bytes"),
                    _ => "it ended in the middle of an answer".to_owned(),
                });
            }
            let line =
                std::str::from_utf8(&line).map_err(|_| "its answer is not UTF-8".to_owned())?;
            self.take(line.trim())?;
        }
        Ok(())
    }

    /// Takes one line.
    fn take(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        if let Ok(id) = line.parse::<EventId>() {
            return self.through(id);
        }
        if line.starts_with("cdc1_") {
            let token: ResumeToken = line
                .parse()
                .map_err(|error| format!("its answer is not a resume token ({error})"))?;
            return self.through(EventId::new(token.lineage(), token.position()));
        }
        let document: serde_json::Value = serde_json::from_str(line).map_err(|_| {
            "it answered with something that is no event id, no resume token and no JSON; \
             write logs to standard error"
                .to_owned()
        })?;
        let text = |member: &str| document.get(member).and_then(serde_json::Value::as_str);
        let id = text("reject")
            .ok_or_else(|| "its answer has no member \"reject\" with an event id".to_owned())?;
        let index = id
            .parse::<EventId>()
            .ok()
            .and_then(|id| self.ids.binary_search(&id).ok())
            .ok_or_else(|| "it rejected an event that is not in the batch".to_owned())?;
        if let Err(at) = self.rejected.binary_search_by_key(&index, |r| r.index) {
            let reason = text("reason").unwrap_or("no reason given");
            // It is shown on terminals and in logs, line by line.
            let plain = |c: char| if c.is_control() { ' ' } else { c };
            let reason: String = reason.chars().take(REASON_MAX).map(plain).collect();
            self.rejected.insert(
                at,
                Rejection {
                    index,
                    message: format!("the child process rejected the event: {reason}"),
                    status: None,
                },
            );
        }
        Ok(())
    }

    /// Everything up to and including this is durable at the child.
    fn through(&mut self, id: EventId) -> Result<(), String> {
        let (Some(first), Some(last)) = (self.ids.first(), self.ids.last()) else {
            return Ok(());
        };
        if id.source() != first.source() {
            return Err("it answered with an id or a token of another source".to_owned());
        }
        if id > *last && id.position() > self.batch.end() {
            return Err("it answered an event that it was not given".to_owned());
        }
        // Before the first it is an answer to an earlier batch, given twice.
        let through = self.ids.partition_point(|known| *known <= id);
        self.through = self.through.max(through);
        Ok(())
    }
}
