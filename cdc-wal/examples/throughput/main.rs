//! Measures on this machine what the log costs, as ratios within one run where the disk or the machine
//! would decide otherwise. `cargo xtask bench log` runs it and compares with what is asked for.
//!
//! `cargo run --release -p cdc-wal --example throughput -- [--dir DIRECTORY] [--scale F] [--only NAME]`
//! prints one JSON object. `--count append|tail|columns N` does one thing N times and prints nothing:
//! for counting instructions.

#![expect(clippy::print_stdout, reason = "a measurement is printed")]

mod append;
mod commit;
mod large;
mod many;
mod raw;
mod subscriber;
mod support;

use std::path::PathBuf;

use support::{Failure, Measures};

/// A measurement: its name, and what it does in a directory of its own at a scale.
type Measurement = fn(&std::path::Path, f64, &mut Measures) -> Result<(), Failure>;

const ALL: [(&str, Measurement); 5] = [
    ("append", append::unsynced),
    ("commit", commit::group_commit),
    ("subscriber", subscriber::subscriber),
    ("tails", many::tails),
    ("large", large::hundred_million),
];

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let base = value("--dir").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("cdc-wal-throughput-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = if let Some(what) = value("--count") {
        let times = args.last().map_or(Ok(1000), |n| n.parse())?;
        append::counted(&dir, &what, times)
    } else {
        let scale = value("--scale").map_or(Ok(1.0), |n| n.parse())?;
        measure(&dir, scale, value("--only").as_deref())
    };
    std::fs::remove_dir_all(&dir)?;
    result
}

fn measure(dir: &std::path::Path, scale: f64, only: Option<&str>) -> Result<(), Failure> {
    let mut measures = Measures::default();
    for (name, run) in ALL {
        if only.is_none_or(|only| only == name) {
            let own = dir.join(name);
            run(&own, scale, &mut measures)?;
            std::fs::remove_dir_all(&own)?;
        }
    }
    println!("{}", measures.json());
    Ok(())
}
