//! What the fuzz targets of `fuzz/` call, and the ordinary test that replays their corpora.
//!
//! Feature `fuzzing`; no part of the interface.

use std::sync::Arc;

use bytes::Bytes;

use crate::checkpoint;
use crate::envelope::{DebeziumOptions, Encoder, Format, compact};
use crate::{ChangeEvent, EventId, Image, Lsn, Position, ResumeToken, RowImage, SourceInfo};

/// A function that takes any bytes and panics if something does not hold.
pub type Target = fn(&[u8]);

/// All of them, by the names of the targets and of their corpora.
pub const TARGETS: [(&str, Target); 4] = [
    ("row", row),
    ("envelope", envelope),
    ("token", token),
    ("checkpoint", checkpoint_file),
];

/// Runs one of them.
///
/// # Panics
/// If there is none of this name, or something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    target(data);
}

/// Rows: any bytes are read or refused; what is valid can be read, and written again to the same.
pub fn row(data: &[u8]) {
    let row = RowImage::from_bytes(Bytes::copy_from_slice(data));
    let valid = row.validate().is_ok();
    let values = row.to_values();
    assert!(!valid || values.is_ok(), "a valid row that cannot be read");
    if let Ok(values) = values {
        let again = RowImage::from_values(&values);
        assert_eq!(again.column_count().ok(), Some(values.len()));
        let values = again.to_values().expect("written by us");
        assert!(
            RowImage::from_values(&values) == again,
            "not the same twice"
        );
    }
}

/// The compact envelope, and of every event it holds all the other envelopes.
pub fn envelope(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(length) = compact::encoded_len(data) {
        assert!(length > 0);
    }
    // Bare row bytes, too: the text envelopes must take whatever a source may hand over.
    let mut event = ChangeEvent::new(
        Position::new(Lsn(9), 1),
        crate::testing::relation(),
        crate::Transaction {
            id: 9,
            commit_micros: 1,
        },
        crate::Op::Insert,
    );
    event.after = Image::Full(RowImage::from_bytes(bytes.clone()));
    encode_all(&crate::testing::source(), &event);
    if let Ok((source, event)) = compact::decode(&bytes) {
        encode_all(&source, &event);
        let encoder = Encoder::new(Format::Bincode);
        let mut once = Vec::new();
        if encoder.encode(&source, &event, &mut once).is_ok() {
            let read = compact::decode(&Bytes::from(once.clone()));
            let (source, event) = read.expect("written by us");
            let mut twice = Vec::new();
            let written = encoder.encode(&source, &event, &mut twice);
            assert!(written.is_ok() && once == twice, "not the same twice");
        }
    }
}

fn encode_all(source: &Arc<SourceInfo>, event: &ChangeEvent) {
    let wrapped = DebeziumOptions {
        payload_wrapper: true,
    };
    for format in Format::ALL {
        for encoder in [
            Encoder::new(format),
            Encoder::new(format).with_debezium(wrapped),
        ] {
            let mut out = vec![b'#'];
            match encoder.encode(source, event, &mut out) {
                // A line feed would end a line of NDJSON in the middle of an event.
                Ok(()) if matches!(format, Format::Json | Format::CloudEvents) => {
                    assert!(!out.contains(&b'\n'), "a raw line feed in a document");
                    assert!(
                        std::str::from_utf8(&out).is_ok(),
                        "a document that is no text"
                    );
                }
                Ok(()) => {}
                Err(_) => assert_eq!(out, b"#", "a refused event left something behind"),
            }
        }
    }
}

/// Tokens, positions, LSNs and event ids as text.
pub fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(token) = text.parse::<ResumeToken>() {
        let again: ResumeToken = token.to_string().parse().expect("written by us");
        assert!(again == token, "another token than was written");
        assert!(ResumeToken::is_meant(&text));
    }
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string().parse(), Ok(position));
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    // As a token's text is base64, its bytes are tried under it, too.
    let extension = Bytes::copy_from_slice(data.get(..64).unwrap_or(data));
    let lineage = crate::testing::source().lineage;
    let token = ResumeToken::new(lineage, Position::end_of(Lsn(7))).with_extension(extension);
    let text = token.expect("a short extension").to_string();
    let cut = data
        .first()
        .map_or(0, |&n| usize::from(n) % (text.len() + 1));
    if let Some((head, tail)) = text.split_at_checked(cut) {
        let changed = format!("{head}{}", tail.get(1..).unwrap_or_default());
        assert!(
            changed == text || changed.parse::<ResumeToken>().is_err(),
            "a token with a letter less is taken"
        );
    }
}

/// A checkpoint file of any bytes: read, or refused.
pub fn checkpoint_file(data: &[u8]) {
    checkpoint::file::fuzz(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the corpora begin with: whole values of every kind.
    fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
        let mut seeds = Vec::new();
        let event = crate::testing::insert(9, 0, 7);
        let row = event.after.row().expect("a full row").clone();
        seeds.push(("row", "full".to_owned(), row.clone().into_bytes().to_vec()));
        seeds.push(("envelope", "row".to_owned(), row.into_bytes().to_vec()));
        let mut compact = Vec::new();
        Encoder::new(Format::Bincode)
            .encode(&crate::testing::source(), &event, &mut compact)
            .expect("a plain event");
        seeds.push(("envelope", "compact".to_owned(), compact));
        let token = ResumeToken::new(crate::testing::source().lineage, event.position);
        seeds.push(("token", "token".to_owned(), token.to_string().into_bytes()));
        for (n, text) in ["0/1A2B:3", "16/B374D848", "end:7", "0/0:0"]
            .iter()
            .enumerate()
        {
            seeds.push(("token", format!("text-{n}"), text.as_bytes().to_vec()));
        }
        seeds.push((
            "checkpoint",
            "two".to_owned(),
            checkpoint::file::fuzz_seed(),
        ));
        seeds
    }

    #[test]
    fn corpora_hold() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        crate::testing::corpus::replay(&dir, &TARGETS, &seeds());
    }
}
