//! How long a queue of many letters takes to open, measured: `cargo xtask bench dlq` runs this and
//! judges it.
//!
//! `--letters N` (1 000 000), `--row-bytes N` (400), `--dir DIRECTORY` (the system's). Prints one
//! JSON object: bytes of letters and of their index, the time the first open of a writer takes
//! without any index (as after an upgrade), and then with it, for a writer and a reader, the best
//! of five. Files are in the page cache.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cdc_core::storage::StdStorage;
use cdc_core::{
    ChangeEvent, Column, DeadLetter, DeadLetterQueue, EngineKind, Failure, Image, LetterState,
    Lineage, Lsn, Op, Position, Relation, RowImage, SourceInfo, SourceKind, Stage, Transaction,
    Value,
};
use cdc_dlq::{DlqOptions, DlqReader, FileDlq};

/// Letters of one append.
const BATCH: u64 = 1000;
const ROUNDS: usize = 5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let (mut letters, mut row_bytes) = (1_000_000u64, 400usize);
    let mut base = std::env::temp_dir();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or("an option without its value")?;
        match name.as_str() {
            "--letters" => letters = value.parse()?,
            "--row-bytes" => row_bytes = value.parse()?,
            "--dir" => base = PathBuf::from(value),
            _ => return Err(format!("no option is called {name}").into()),
        }
    }
    let dir = tempfile::tempdir_in(base)?;
    let path = dir.path().join("dlq");
    let options = DlqOptions {
        letters_max: letters.max(1_000_000),
        bytes_max: (1 << 30).max(letters * (row_bytes as u64 + 400)),
        ..DlqOptions::default()
    };
    let begun = Instant::now();
    fill(&path, options, letters, row_bytes)?;
    let append_seconds = begun.elapsed().as_secs_f64();
    let (mut bytes, mut index_bytes) = (0, 0);
    for entry in std::fs::read_dir(&path)? {
        let entry = entry?;
        let length = entry.metadata()?.len();
        if entry.path().extension().is_some_and(|e| e == "idx") {
            index_bytes += length;
        } else {
            bytes += length;
        }
    }
    let writer = best(|| {
        let queue = FileDlq::open(StdStorage::shared(), &path, options)?;
        same(queue.reader().len() as u64, letters)
    })?;
    let reader = best(|| same(DlqReader::open(&StdStorage, &path)?.len() as u64, letters))?;
    for entry in std::fs::read_dir(&path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "idx") {
            std::fs::remove_file(file)?;
        }
    }
    let begun = Instant::now();
    drop(FileDlq::open(StdStorage::shared(), &path, options)?);
    let without = begun.elapsed().as_secs_f64();
    let line = format!(
        "{{\"letters\":{letters},\"row_bytes\":{row_bytes},\"segment_bytes\":{bytes},\"index_bytes\":{index_bytes},\
         \"append_letters_s\":{:.0},\"open_writer_s\":{writer:.3},\"open_reader_s\":{reader:.3},\"open_without_index_s\":{without:.3}}}",
        letters as f64 / append_seconds
    );
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

fn same(found: u64, wanted: u64) -> Result<()> {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{found} letters are open, not {wanted}").into())
    }
}

fn best(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        run()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn fill(path: &Path, options: DlqOptions, letters: u64, row_bytes: usize) -> Result<()> {
    let source = Arc::new(SourceInfo::new(
        "bench",
        "bench",
        Lineage::new(SourceKind::Wal, [7; 16], 1),
    ));
    let columns = vec![Column::new("id", "int8"), Column::new("text", "text")];
    let relation = Relation::new(EngineKind::Relational, "public", "t", columns, vec![0]);
    let relation = Arc::new(relation);
    let text = "x".repeat(row_bytes);
    let letter = |n: u64| {
        let transaction = Transaction {
            id: n,
            commit_micros: 1_795_352_707_123_456,
        };
        let position = Position::new(Lsn(n), 0);
        let mut event = ChangeEvent::new(position, relation.clone(), transaction, Op::Insert);
        event.after = Image::Full(RowImage::from_values(&[
            Value::UInt(n),
            Value::Text(text.clone()),
        ]));
        DeadLetter {
            emitter: "hooks".into(),
            source: source.clone(),
            event,
            failure: Failure {
                stage: Stage::Deliver,
                class: "event".into(),
                message: "POST https://example.com/hooks: 422".into(),
                status: Some(422),
                response: None,
            },
            attempts: 1,
            first_failed_micros: 1_795_352_707_123_456,
            last_failed_micros: 1_795_352_707_123_456,
            state: LetterState::Pending,
        }
    };
    let mut queue = FileDlq::open(StdStorage::shared(), path, options)?;
    let mut next = 1;
    while next <= letters {
        let last = (next + BATCH - 1).min(letters);
        let batch: Vec<_> = (next..=last).map(&letter).collect();
        queue.append(&batch)?;
        next = last + 1;
    }
    Ok(())
}
