//! A consumer for `emitter = "custom"`: keeps events in a file, each once, and answers what is
//! safely there (`docs/specs/custom-child.md`).
//!
//! ```toml
//! [cdc]
//! emitter = "custom"
//! [cdc.custom]
//! command = ["consumer", "/var/lib/shop/events.ndjson"]
//! ```
//!
//! It needs nothing of this project: events are JSON, one a line. It may be killed at any moment:
//! what it has not answered comes again, with the same ids, so whatever has an id that is in the file
//! is there already. The highest id alone would not tell: a dead letter that is sent again has a lower
//! one than what came before it. All ids are kept in memory; a consumer of more than some millions of
//! events looks them up in a database, as `consumer.py` does.
#![expect(
    clippy::print_stderr,
    reason = "standard error is where the logs of a consumer belong"
)]

use std::collections::HashSet;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: consumer FILE");
        return ExitCode::from(2);
    };
    let kept = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path);
    let outcome = kept
        .map_err(Into::into)
        .and_then(|kept| consume(BufReader::new(io::stdin()), kept, io::stdout().lock()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("consumer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn consume(
    mut events: BufReader<impl Read>,
    mut kept: File,
    mut answers: impl Write,
) -> Result<(), Box<dyn Error>> {
    let mut known = recover(&mut kept)?;
    let (mut line, mut lines) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        // A line without its end is half an event: whoever wrote it has died, and it comes again.
        if events.read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
            return Ok(());
        }
        let id = id_of(&line)?;
        if known.insert(id.clone()) {
            lines.extend_from_slice(&line);
        }
        // Another whole line is here already: one sync for both.
        if events.buffer().contains(&b'\n') {
            continue;
        }
        kept.write_all(&lines)?;
        kept.sync_data()?;
        lines.clear();
        // Everything up to and including this event is safe.
        writeln!(answers, "{id}")?;
        answers.flush()?;
    }
}

/// The ids in the file; a torn last line is cut off.
fn recover(kept: &mut File) -> Result<HashSet<String>, Box<dyn Error>> {
    let mut known = HashSet::new();
    let mut whole = 0;
    let mut reader = BufReader::new(&mut *kept);
    reader.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        whole += line.len() as u64;
        known.insert(id_of(&line)?);
    }
    kept.set_len(whole)?;
    Ok(known)
}

fn id_of(line: &[u8]) -> Result<String, Box<dyn Error>> {
    let event: serde_json::Value = serde_json::from_slice(line)?;
    let id = event.get("id").and_then(serde_json::Value::as_str);
    Ok(id.ok_or("an event has no id")?.to_owned())
}
