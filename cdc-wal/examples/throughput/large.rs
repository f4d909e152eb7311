//! A log of 100 million events: what it costs as it grows, how it opens and resumes.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cdc_core::storage::{OpenMode, StdStorage, Storage};
use cdc_core::{BatchLimit, Position, Relation};
use cdc_wal::{Log, LogConfig, LogError, StartAt, SyncPolicy, Visibility};

use crate::support::{Failure, Measures, Start, clock, median, number, scaled, shape};

const EVENTS: u64 = 100_000_000;
/// Rows of a transaction here.
const ROWS: u64 = 20;
const TENTHS: u64 = 10;

/// A transaction of small rows: about 30 bytes an event.
fn append(log: &Log, relation: &Arc<Relation>, id: u64) -> Result<(), LogError> {
    let mut tx = log.begin(id);
    for n in 0..ROWS {
        tx.insert_with(relation, |row| {
            row.int((id * ROWS + n).cast_signed());
            row.int((n % 1000).cast_signed());
        })?;
    }
    tx.commit_unsynced().map(drop)
}

/// Kernel time for each of the events that as many bytes as a tenth of a tenth of the log has would be,
/// written to a file in pieces of the size the log writes.
fn raw(path: &Path, transactions: u64) -> Result<f64, Failure> {
    const PIECE: usize = 256 << 10;
    /// Of an event here.
    const BYTES: u64 = 36;
    let events = transactions * ROWS / TENTHS;
    let file = StdStorage.open(path, OpenMode::CreateNew)?;
    let start = Start::now();
    let piece = vec![7; PIECE];
    for at in (0..events * BYTES).step_by(PIECE) {
        file.write_all_at(&piece, at)?;
    }
    Ok(start.parts_each(events)[1])
}

pub(crate) fn hundred_million(
    dir: &Path,
    scale: f64,
    measures: &mut Measures,
) -> Result<(), Failure> {
    let config = LogConfig {
        sync: SyncPolicy::Never,
        visibility: Visibility::Written,
        retain_bytes: 64 << 30,
        ..LogConfig::new(dir)
    };
    let transactions = scaled(EVENTS, scale) / ROWS / TENTHS;
    let relation = shape(&["id", "customer"]);
    let log = Log::open(config.clone())?;
    let raw_dir = dir.join("raw");
    std::fs::create_dir_all(&raw_dir)?;
    let (mut costs, mut kernel, mut raws) = (Vec::new(), Vec::new(), Vec::new());
    let mut tokens = Vec::new();
    for tenth in 0..TENTHS {
        let start = Start::now();
        for id in tenth * transactions..(tenth + 1) * transactions {
            append(&log, &relation, id)?;
        }
        let [own, system] = start.parts_each(transactions * ROWS);
        costs.push(own);
        kernel.push(system);
        tokens.push(log.end());
        raws.push(raw(&raw_dir.join(tenth.to_string()), transactions)?);
    }
    std::fs::remove_dir_all(&raw_dir)?;
    log.flush()?;
    let bytes = log.retained_bytes();
    drop(log);
    measures.add("large_events", number(TENTHS * transactions * ROWS));
    measures.add("large_gib", number(bytes >> 20) / 1024.0);
    // Of our own code. What the kernel takes to keep the bytes is beside it, with what it takes to
    // keep those of a file that is only written: where memory for the page cache is first supplied
    // by the host of a virtual machine, or pages are written back to make room, that is most of it,
    // and it grows with what was written, whoever writes.
    for (name, costs) in [
        ("large", costs),
        ("large_kernel", kernel),
        ("large_kernel_raw_file", raws),
    ] {
        let mut early = costs;
        let late = median(early.split_off(early.len() / 2));
        let early = median(early);
        measures.add(&format!("{name}_first_half_cpu_ns_event"), early);
        measures.add(&format!("{name}_second_half_cpu_ns_event"), late);
        measures.add(&format!("{name}_second_half_to_first"), late / early);
    }

    let start = Instant::now();
    let log = Log::open(config)?;
    measures.add("large_open_ms", start.elapsed().as_secs_f64() * 1000.0);
    let mut resumes = Vec::new();
    let mut tail_cpu = Vec::new();
    for (index, token) in tokens.iter().enumerate().take(tokens.len() - 1) {
        // At a transaction's end, and in the middle of one.
        for after in [*token, Position::new(token.commit, 7)] {
            let start = Instant::now();
            let mut tail = log.tail(StartAt::After(after), clock())?;
            let batch = tail.poll_batch(&BatchLimit::default())?.ok_or("no event")?;
            resumes.push(start.elapsed().as_secs_f64() * 1000.0);
            assert!(batch.events()[0].position > after);
            if after == *token {
                let expected = (index as u64 + 1) * transactions;
                assert_eq!(batch.events()[0].transaction.id, expected);
                let start = Start::now();
                let mut events = 0;
                while events < 500_000
                    && let Some(batch) = tail.poll_batch(&BatchLimit::default())?
                {
                    events += batch.len() as u64;
                }
                tail_cpu.push(start.cpu_each(events));
            }
        }
    }
    measures.add(
        "large_resume_ms_max",
        resumes.iter().copied().fold(0.0, f64::max),
    );
    measures.add("large_resume_ms_median", median(resumes));
    let (first, last) = (tail_cpu[0], tail_cpu[tail_cpu.len() - 1]);
    measures.add("large_tail_last_to_first", last / first);
    Ok(())
}
