//! Letters back from lines of an export.

use std::collections::HashSet;
use std::io::{self, BufRead, Read as _, Seek, SeekFrom};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cdc_core::envelope::readable;
use cdc_core::{DeadLetter, DlqError, EventId, LetterState};
use serde_json::Value;

use crate::export::letter_json;
use crate::format::FRAME_HEADER_LEN;
use crate::queue::FileDlq;
use crate::record;

/// Longest line: a letter of the largest size, as JSON and in base64.
const LINE_MAX: u64 = 4 << 30;

/// What an import found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Letters in the lines.
    pub read: u64,
    /// Letters that are open now and were not.
    pub taken: u64,
    /// Letters that were open already, or stood in an earlier line; they stay as they were.
    pub known: u64,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A line is no letter as it was exported, or one that is not wanted.
    #[error("line {line}: {what}")]
    Line {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it; never contents.
        what: String,
    },
    /// The lines could not be read.
    #[error("read line {line}")]
    Read {
        /// The line, from 1.
        line: u64,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The queue does not take them.
    #[error(transparent)]
    Queue(#[from] DlqError),
}

/// Reads JSON whatever it holds: a row's own JSON may have numbers that a parser of 64-bit floats
/// refuses, and what earlier versions wrote half a surrogate pair. Those are replaced then.
pub(crate) fn read_json(text: &[u8]) -> Option<Value> {
    let read = serde_json::from_slice(text);
    read.or_else(|_| serde_json::from_slice(&readable(text)))
        .ok()
}

/// True if both are the same, or the line has JSON where the letter is now written with text: earlier
/// versions embedded half a surrogate pair as it was.
fn agrees(line: &Value, said: &Value) -> bool {
    match (line, said) {
        (Value::Object(line), Value::Object(said)) => {
            let agrees = |(name, value)| said.get(name).is_some_and(|said| agrees(value, said));
            line.len() == said.len() && line.iter().all(agrees)
        }
        (Value::Array(line), Value::Array(said)) => {
            line.len() == said.len() && line.iter().zip(said).all(|(line, said)| agrees(line, said))
        }
        (line, said) if line == said => true,
        (line, Value::String(text)) => read_json(text.as_bytes()).is_some_and(|v| v == *line),
        _ => false,
    }
}

/// Reads one line of an export ([`crate::letter_line`]).
///
/// The letter is what `record` holds. What the other members say must agree with it, so that an
/// edited line is noticed; members that are not known are left alone.
///
/// # Errors
/// What is wrong, without contents.
pub fn parse_line(line: &[u8]) -> Result<DeadLetter, String> {
    let Some(Value::Object(line)) = read_json(line) else {
        return Err("this is not one whole JSON object".to_owned());
    };
    let text = line.get("record").and_then(Value::as_str);
    let text = text.ok_or("it has no `record`: only lines of `dlq export` can be imported")?;
    let damaged = || "its `record` is damaged".to_owned();
    let bytes = Bytes::from(STANDARD.decode(text).map_err(|_| damaged())?);
    let (payload, crc) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
    if crc32c::crc32c(payload) != u32::from_le_bytes(*crc) {
        return Err(damaged());
    }
    let letter = record::read_whole(&bytes.slice(..payload.len()))
        .map_err(|what| format!("its `record` holds {what}"))?;
    let mut said = Vec::new();
    letter_json(&letter, &mut said);
    let Some(Value::Object(said)) = read_json(&said) else {
        return Err(damaged());
    };
    for name in ["emitter", "event_id"] {
        if !line.contains_key(name) {
            return Err(format!("it has no `{name}`"));
        }
    }
    match said
        .iter()
        .find(|(name, value)| line.get(*name).is_some_and(|v| !agrees(v, value)))
    {
        None => Ok(letter),
        Some((name, _)) => Err(format!(
            "`{name}` does not say what `record` says: letters are imported as they were exported, edit none"
        )),
    }
}

/// Calls `each` with every letter and its line.
fn each_letter(
    lines: &mut (impl BufRead + Seek),
    mut each: impl FnMut(u64, DeadLetter) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let read = |line, cause| ImportError::Read { line, cause };
    lines
        .seek(SeekFrom::Start(0))
        .map_err(|cause| read(1, cause))?;
    let mut text = Vec::new();
    let mut line = 0;
    loop {
        line += 1;
        text.clear();
        let mut limited = lines.by_ref().take(LINE_MAX);
        let length = limited.read_until(b'\n', &mut text);
        if length.map_err(|cause| read(line, cause))? == 0 {
            return Ok(());
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let letter = parse_line(&text).map_err(|what| ImportError::Line { line, what })?;
        each(line, letter)?;
    }
}

impl FileDlq {
    /// Takes letters from the lines of an export, in any order of lines. A letter that was being
    /// redriven is pending; everything else stays as it was exported: ids, states, times, attempts.
    /// Letters that are open already stay as they are.
    ///
    /// The lines are read twice: the first time nothing is written, so that one damaged line, or one
    /// that `accept` refuses, leaves everything as it was. With `dry_run` that is all.
    ///
    /// Letters that were closed since they were exported are open again: the queue does not remember
    /// them. Their events keep their ids.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is imported then, except when the disk fails while letters are
    /// written: the same import again completes it.
    pub fn import(
        &mut self,
        lines: &mut (impl BufRead + Seek),
        dry_run: bool,
        mut accept: impl FnMut(&DeadLetter) -> Result<(), String>,
    ) -> Result<Imported, ImportError> {
        let mut imported = Imported::default();
        let mut bytes = 0u64;
        let mut seen: HashSet<(Arc<str>, EventId)> = HashSet::new();
        each_letter(lines, |line, letter| {
            accept(&letter).map_err(|what| ImportError::Line { line, what })?;
            imported.read += 1;
            let id = letter.event_id();
            let open = self.reader().is_open(&letter.emitter, id);
            if open || !seen.insert((letter.emitter.clone(), id)) {
                imported.known += 1;
                return Ok(());
            }
            imported.taken += 1;
            let mut payload = Vec::new();
            record::letter(&mut payload, &letter).map_err(|error| ImportError::Line {
                line,
                what: error.to_string(),
            })?;
            bytes = bytes.saturating_add((payload.len() + FRAME_HEADER_LEN) as u64);
            Ok(self.room_for_letters(imported.taken)?)
        })?;
        if dry_run || imported.taken == 0 {
            return Ok(imported);
        }
        self.begin_import(bytes)?;
        seen.clear();
        each_letter(lines, |_, mut letter| {
            let id = letter.event_id();
            let known = self.reader().is_open(&letter.emitter, id);
            if known || !seen.insert((letter.emitter.clone(), id)) {
                return Ok(());
            }
            if letter.state == LetterState::Redriving {
                letter.state = LetterState::Pending;
            }
            Ok(self.import_one(&letter)?)
        })?;
        self.end_import()?;
        Ok(imported)
    }
}
