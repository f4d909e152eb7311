//! Letters as lines of JSON, for people and other tools.

use std::io::Write;
use std::ops::ControlFlow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cdc_core::envelope::{EncodeError, Encoder, Format, json_string, rfc3339_micros};
use cdc_core::{DeadLetter, DlqError};

use crate::filter::LetterFilter;
use crate::reader::DlqReader;
use crate::record;

/// Appends one letter as one JSON object, without line feed behind it.
///
/// Members: `emitter`, `event_id`, `state`, `attempts`, `stage`, `class`, `message`, `status` and
/// `response` (null if there was none), `first_failed`, `last_failed` (RFC 3339), and `event`, the
/// original event as `json` version 1. An event that JSON cannot say is null, with the reason in
/// `event_error`.
pub fn letter_json(letter: &DeadLetter, out: &mut Vec<u8>) {
    let failure = &letter.failure;
    out.extend_from_slice(b"{\"emitter\":");
    json_string(out, &letter.emitter);
    out.extend_from_slice(b",\"event_id\":\"");
    out.extend_from_slice(&letter.event_id().to_bytes());
    out.extend_from_slice(b"\",\"state\":\"");
    out.extend_from_slice(letter.state.name().as_bytes());
    out.extend_from_slice(b"\",\"attempts\":");
    out.extend_from_slice(letter.attempts.to_string().as_bytes());
    out.extend_from_slice(b",\"stage\":\"");
    out.extend_from_slice(failure.stage.name().as_bytes());
    out.extend_from_slice(b"\",\"class\":");
    json_string(out, &failure.class);
    out.extend_from_slice(b",\"message\":");
    json_string(out, &failure.message);
    out.extend_from_slice(b",\"status\":");
    match failure.status {
        Some(status) => out.extend_from_slice(status.to_string().as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"response\":");
    match &failure.response {
        Some(response) => json_string(out, response),
        None => out.extend_from_slice(b"null"),
    }
    for (name, micros) in [
        ("first_failed", letter.first_failed_micros),
        ("last_failed", letter.last_failed_micros),
    ] {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":\"");
        rfc3339_micros(out, micros);
        out.push(b'"');
    }
    out.extend_from_slice(b",\"event\":");
    let encoder = Encoder::new(Format::Json);
    if let Err(error) = encoder.encode(&letter.source, &letter.event, out) {
        out.extend_from_slice(b"null,\"event_error\":");
        json_string(out, &error.to_string());
    }
    out.push(b'}');
}

/// Appends one letter as a line of an export, with its line feed: [`letter_json`] with one more
/// member, `record`, the letter itself for an import ([`crate::parse_line`]): the payload of its
/// record as in `docs/formats/dlq.md` and its CRC-32C (little-endian), in base64.
///
/// # Errors
/// The event cannot be encoded.
pub fn letter_line(letter: &DeadLetter, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut payload = Vec::new();
    record::letter(&mut payload, letter)?;
    let crc = crc32c::crc32c(&payload);
    payload.extend_from_slice(&crc.to_le_bytes());
    letter_json(letter, out);
    // The object goes on.
    out.pop();
    out.extend_from_slice(b",\"record\":\"");
    out.extend_from_slice(STANDARD.encode(&payload).as_bytes());
    out.extend_from_slice(b"\"}\n");
    Ok(())
}

impl DlqReader {
    /// Writes the matching open letters, a line each ([`letter_line`]); gives how many.
    ///
    /// # Errors
    /// [`DlqError::Corrupt`], [`DlqError::Io`]; also if `out` fails.
    pub fn export(&self, filter: &LetterFilter, out: &mut dyn Write) -> Result<u64, DlqError> {
        let (mut count, mut line, mut failed) = (0, Vec::new(), None);
        self.scan(filter, |letter| {
            line.clear();
            let written = letter_line(&letter, &mut line).map_err(std::io::Error::other);
            match written.and_then(|()| out.write_all(&line)) {
                Ok(()) => {
                    count += 1;
                    ControlFlow::Continue(())
                }
                Err(cause) => {
                    failed = Some(cause);
                    ControlFlow::Break(())
                }
            }
        })?;
        match failed {
            None => Ok(count),
            Some(cause) => Err(DlqError::Io {
                what: "write out letters",
                path: self.path.display().to_string(),
                cause,
            }),
        }
    }
}
