//! Follows a SQLite database and says how fast each burst of changes came.
//!
//! `cargo run --release -p cdc-wal --features sqlite --example sqlite_tail -- app.db`

#![expect(clippy::print_stdout, reason = "an example")]

use std::time::{Duration, Instant};

use cdc_core::{BatchLimit, WalSource};
use cdc_wal::sqlite::{SqliteConfig, SqliteSource};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a database file")?;
    let mut source = SqliteSource::connect(SqliteConfig::parse(&path)?, None).await?;
    println!("following {path} after {}", source.start());
    let limit = BatchLimit {
        events_max: 4096,
        bytes_max: 1 << 20,
        linger: Duration::from_millis(200),
    };
    let (mut changes, mut transactions, mut first, mut last) = (0u64, 0u64, None, Instant::now());
    while let Some(batch) = source.next_batch(limit).await? {
        if batch.is_empty() {
            // A pause: what came before it was a burst.
            if let Some(begun) = first.take() {
                let seconds = last.duration_since(begun).as_secs_f64();
                println!("{changes} changes of {transactions} transactions in {seconds:.3} s");
                (changes, transactions) = (0, 0);
            }
            continue;
        }
        first.get_or_insert_with(Instant::now);
        last = Instant::now();
        changes += batch.len() as u64;
        transactions += batch.events().iter().filter(|event| event.last).count() as u64;
    }
    Ok(())
}
