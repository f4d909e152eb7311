//! What the fuzz targets of `fuzz/` call, and the ordinary test that replays their corpora.
//!
//! Feature `fuzzing`; no part of the interface.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::SimStorage;

use crate::format::{Frames, Place, SEGMENT_HEADER_LEN, segment_header, segment_name};
use crate::sidecar::sidecar_name;
use crate::{DlqOptions, DlqReader, FileDlq, LetterFilter, record, sidecar};

/// A function that takes any bytes and panics if something does not hold.
pub type Target = fn(&[u8]);

/// All of them, by the names of the targets and of their corpora.
pub const TARGETS: [(&str, Target); 3] = [("scan", scan), ("letter", letter), ("import", import)];

/// Runs one of them.
///
/// # Panics
/// If there is none of this name, or something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    target(data);
}

const PATH: &str = "/dlq";

fn put(disk: &SimStorage, name: &str, bytes: &[u8]) {
    let path = Path::new(PATH).join(name);
    let file = disk.open(&path, OpenMode::CreateNew).expect("a new file");
    file.write_all_at(bytes, 0).expect("room on the disk");
}

/// One segment: a list of payloads, each in front of its length in two bytes. Odd lengths (by the
/// top bit) damage the frame's last byte. Opened, read through, and opened again.
fn segment(data: &[u8]) -> Vec<u8> {
    let mut out = segment_header(0).to_vec();
    let mut rest = data;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = u16::from_le_bytes(*length);
        let (damaged, length) = (length & 0x8000 != 0, usize::from(length & 0x7fff));
        let (payload, after) = after.split_at(length.min(after.len()));
        rest = after;
        if payload.is_empty() {
            continue;
        }
        let mut frames = Frames::default();
        let pushed: Result<bool, std::convert::Infallible> = frames.push(|out| {
            out.extend_from_slice(payload);
            Ok(())
        });
        let place = Place {
            sequence: 0,
            offset: out.len() as u64,
        };
        if pushed == Ok(true)
            && let Some(sealed) = frames.seal(place)
        {
            out.extend_from_slice(sealed);
            if damaged && let Some(last) = out.last_mut() {
                *last ^= 1;
            }
        }
    }
    out
}

/// The files of a queue: the first byte says whether the rest is raw or payloads to be framed, and
/// whether an index of any bytes stands beside it.
pub fn scan(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let disk = SimStorage::new();
    disk.create_dir_all(Path::new(PATH)).expect("a directory");
    let bytes = match mode % 3 {
        0 => rest.to_vec(),
        1 => [&segment_header(0)[..], rest].concat(),
        _ => segment(rest),
    };
    put(&disk, &segment_name(0), &bytes);
    if mode & 0x80 != 0 {
        put(&disk, &sidecar_name(0), rest);
    }
    let _beside = DlqReader::open(&disk, PATH).map(|reader| read_all(&reader));
    let options = DlqOptions {
        letters_max: 100,
        bytes_max: 1 << 20,
        segment_bytes: 4096,
    };
    let Ok(queue) = FileDlq::open(disk.shared(), PATH, options) else {
        return;
    };
    let found = queue.reader().len();
    read_all(queue.reader());
    drop(queue);
    let again = FileDlq::open(disk.shared(), PATH, options).expect("what was just recovered");
    assert_eq!(
        again.reader().len(),
        found,
        "a second look finds other letters"
    );
}

fn read_all(reader: &DlqReader) {
    let all = LetterFilter::default();
    let _ids = reader.ids(&all);
    let _page = reader.page(&all, None, 10, 100);
    let _scanned = reader.scan(&all, |letter| {
        let mut line = Vec::new();
        let _written = crate::letter_line(&letter, &mut line);
        ControlFlow::Continue(())
    });
    // An emitter that has none any more counts zero.
    let counted: u64 = reader.counts().iter().map(|count| count.letters).sum();
    assert_eq!(counted, reader.len() as u64);
}

/// One record, and the index of a segment.
pub fn letter(data: &[u8]) {
    let _record = record::read(data);
    if let Ok(letter) = record::read_whole(&Bytes::copy_from_slice(data)) {
        let mut again = Vec::new();
        if record::letter(&mut again, &letter).is_ok() {
            let read = record::read_whole(&Bytes::from(again.clone())).expect("written by us");
            let mut twice = Vec::new();
            record::letter(&mut twice, &read).expect("written before");
            assert!(again == twice, "not the same twice");
        }
    }
    let sealed = [data, &crc32c::crc32c(data).to_le_bytes()].concat();
    let _index = sidecar::read(&sealed, |_| true, |_| {});
}

/// One line of an export.
pub fn import(data: &[u8]) {
    use base64::Engine as _;
    if let Ok(letter) = crate::parse_line(data) {
        let mut line = Vec::new();
        crate::letter_line(&letter, &mut line).expect("it was read");
        let again = crate::parse_line(line.trim_ascii_end());
        assert!(again.is_ok(), "an exported line cannot be imported");
    }
    // A record of any bytes under a checksum that fits.
    let sealed = [data, &crc32c::crc32c(data).to_le_bytes()].concat();
    let text = base64::engine::general_purpose::STANDARD.encode(sealed);
    let _letter = crate::parse_line(format!("{{\"record\":\"{text}\"}}").as_bytes());
}

/// What is in front of the payloads.
const _: () = assert!(SEGMENT_HEADER_LEN == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::{DeadLetter, Failure, LetterState, Stage};

    fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
        let letter = |commit, state| DeadLetter {
            emitter: "hook".into(),
            source: cdc_core::testing::source(),
            event: cdc_core::testing::insert(commit, 0, 7),
            failure: Failure {
                stage: Stage::Deliver,
                class: "event".into(),
                message: "POST https://example.com/hooks".into(),
                status: Some(422),
                response: Some("no such order".into()),
            },
            attempts: 1,
            first_failed_micros: 1000,
            last_failed_micros: 1000,
            state,
        };
        let mut seeds = Vec::new();
        let mut scan = vec![2];
        for commit in 1..4 {
            let mut payload = Vec::new();
            let letter = letter(commit, LetterState::Pending);
            record::letter(&mut payload, &letter).expect("a letter");
            scan.extend_from_slice(&u16::try_from(payload.len()).expect("short").to_le_bytes());
            scan.extend_from_slice(&payload);
            seeds.push(("letter", commit.to_string(), payload));
        }
        let mut state = Vec::new();
        let name = letter(2, LetterState::Pending);
        let identity = record::Identity::new("hook", name.event_id());
        record::state(&mut state, &identity, LetterState::Delivered);
        scan.extend_from_slice(&u16::try_from(state.len()).expect("short").to_le_bytes());
        scan.extend_from_slice(&state);
        seeds.push(("letter", "state".into(), state));
        let mut raw = vec![0];
        raw.extend(segment(&scan[1..]));
        seeds.push(("scan", "raw".into(), raw));
        seeds.push(("scan", "framed".into(), scan));
        let mut line = Vec::new();
        crate::letter_line(&name, &mut line).expect("a letter");
        seeds.push(("import", "line".into(), line));
        seeds
    }

    #[test]
    fn corpora_hold() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        cdc_core::testing::corpus::replay(&dir, &TARGETS, &seeds());
    }
}
