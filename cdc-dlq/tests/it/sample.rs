//! Letters to try things with.

use std::path::Path;
use std::sync::Arc;

use cdc_core::storage::Storage;
use cdc_core::testing::{self, sim_storage::SimStorage};
use cdc_core::{DeadLetter, EventId, Failure, LetterState, Position, Stage};
use cdc_dlq::{DlqOptions, DlqReader, FileDlq};

pub(crate) const PATH: &str = "/state/dlq";

/// Small segments, so that a few letters fill several.
pub(crate) const SMALL: DlqOptions = DlqOptions {
    letters_max: 10_000,
    bytes_max: 1 << 20,
    segment_bytes: 4096,
};

pub(crate) fn letter(emitter: &str, commit: u64) -> DeadLetter {
    DeadLetter {
        emitter: emitter.into(),
        source: testing::source(),
        event: testing::insert(commit, 0, 7),
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
        state: LetterState::Pending,
    }
}

pub(crate) fn id(commit: u64) -> EventId {
    letter("", commit).event_id()
}

pub(crate) fn open(disk: &SimStorage) -> FileDlq {
    FileDlq::open(disk.shared(), PATH, SMALL).unwrap()
}

pub(crate) fn commits(reader: &DlqReader) -> Vec<u64> {
    let ids = reader.ids(&cdc_dlq::LetterFilter::default()).unwrap();
    ids.iter().map(|(_, id)| id.position().commit.0).collect()
}

pub(crate) fn positions(letters: &[DeadLetter]) -> Vec<u64> {
    let position = |letter: &DeadLetter| letter.event.position;
    letters
        .iter()
        .map(position)
        .map(|p: Position| p.commit.0)
        .collect()
}

/// Segment files with their lengths.
pub(crate) fn segments(storage: &Arc<dyn Storage>, path: &Path) -> Vec<(String, u64)> {
    let names = storage.list(path).unwrap().into_iter();
    names
        .filter(|name| name.ends_with(".dlq"))
        .map(|name| {
            let file = storage
                .open(&path.join(&name), cdc_core::storage::OpenMode::Read)
                .unwrap();
            let length = file.len().unwrap();
            (name, length)
        })
        .collect()
}
