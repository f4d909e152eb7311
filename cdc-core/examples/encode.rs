//! What writing an event costs in each format, in nanoseconds, on one core. Takes the number of events, and the
//! one format to measure.
//!
//! `cargo run --release -p cdc-core --example encode`

#![expect(
    clippy::print_stdout,
    reason = "a measuring program prints what it measured"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use cdc_core::envelope::{Encoder, Format};
use cdc_core::testing;
use cdc_core::{Column, EngineKind, Image, Op, Relation, RowImage, Value};

/// Events a format, unless the first argument says otherwise.
const EVENTS: u32 = 1_000_000;

fn row(balance: i64) -> Image {
    Image::Full(RowImage::from_values(&[
        Value::Int(403_421),
        Value::Int(3_421),
        Value::Int(balance),
        Value::Text(format!("{:84}", "8aab9b1c3b57ae23c0ff9f2bcf876dfb")),
        Value::TimestampTz(1_795_352_707_000_000),
    ]))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let columns = [
        ("id", "int8"),
        ("aid", "int4"),
        ("balance", "int4"),
        ("filler", "bpchar(84)"),
        ("ts", "timestamptz"),
    ];
    let columns = columns.map(|(name, of)| Column::new(name, of)).to_vec();
    let mut event = testing::insert(1, 0, 7);
    event.relation = Arc::new(Relation::new(
        EngineKind::Relational,
        "public",
        "bench",
        columns,
        vec![0],
    ));
    event.op = Op::Update;
    event.before = row(823_947);
    event.after = row(823_948);
    let events = match std::env::args().nth(1) {
        Some(count) => count.parse()?,
        None => EVENTS,
    };
    let source = testing::source();
    println!(
        "an update with both rows, {} bytes encoded",
        event.encoded_len()
    );
    let only = std::env::args().nth(2);
    for format in Format::ALL {
        if only.as_ref().is_some_and(|only| only != format.name()) {
            continue;
        }
        let encoder = Encoder::new(format);
        let mut out = Vec::new();
        let start = Instant::now();
        for _ in 0..events {
            out.clear();
            encoder.encode(&source, black_box(&event), &mut out)?;
            black_box(&out);
        }
        let each = start.elapsed().as_nanos() / u128::from(events.max(1));
        println!("{:<12} {each:>5} ns, {} bytes", format.name(), out.len());
    }
    Ok(())
}
