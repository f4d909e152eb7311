//! Commands that read a source: `run`, `tail`, `check`, `demo`, `bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `run`
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cdc-cli run -c cdc.toml --source postgres://cdc@localhost/shop
  cdc-cli run --source wal:/var/lib/engine/wal --set emitter=file --set file.path=/var/log/cdc
  cdc-cli run --once            # deliver what is there now, then stop
  cdc-cli run --dry-run         # what would be delivered; changes nothing")]
pub(crate) struct RunArgs {
    /// Deliver everything committed until now, then drain and exit.
    #[arg(long, conflicts_with = "until")]
    pub(crate) once: bool,
    /// Deliver up to and including this resume token, then drain and exit.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) until: Option<String>,
    /// Where a new emitter begins: earliest, latest, strictly after a resume token or
    /// position:LSN:ORDINAL, or time:2026-11-22T13:05:00Z. An emitter with a checkpoint goes on from
    /// there.
    #[arg(long, value_name = "WHERE")]
    pub(crate) from: Option<String>,
    /// Go on although the source has already forgotten events that were never delivered. The gap
    /// is logged as an error.
    #[arg(long)]
    pub(crate) accept_gap: bool,
    /// Connect, and say what would be captured and delivered, and what would stop it; change
    /// nothing, neither at the source nor here.
    #[arg(long, conflicts_with_all = ["once", "until", "accept_gap"])]
    pub(crate) dry_run: bool,
}

/// `replay`
#[derive(Args, Debug)]
#[command(after_help = "\
Reads the journal (or the engine's own log), not the database. A pipeline may run meanwhile: neither
its positions nor its dead letters change. Events keep their ids.

WHERE is earliest, latest, a resume token, position:LSN:ORDINAL, or time:2026-11-22T13:05:00Z
(time:-2h for an age). The range begins strictly after --from and ends with --to.

Examples:
  cdc-cli replay --emitter hooks --from time:-2h
  cdc-cli replay --emitter hooks --from cdc1_0413... --to cdc1_0413...
  cdc-cli replay --emitter audit --from earliest --path /tmp/audit-again")]
pub(crate) struct ReplayArgs {
    /// The emitter, as configured: its destination, filter and transforms.
    #[arg(long, value_name = "NAME")]
    pub(crate) emitter: String,
    /// Where the range begins.
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    pub(crate) from: String,
    /// Where the range ends, inclusive.
    #[arg(long, value_name = "WHERE", default_value = "latest")]
    pub(crate) to: String,
    /// Directory for the events, if the emitter writes files: its own belongs to the live one.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) path: Option<PathBuf>,
    /// Only count the events of the range that the emitter's filter keeps.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `verify`
#[derive(Args, Debug)]
#[command(after_help = "\
Every closed file is compared with the manifest's line for it, and every line with the one before it.
Exit code 0: complete and untouched. Exit code 8: something is missing, added or changed.

Example:
  cdc-cli verify /var/log/audit")]
pub(crate) struct VerifyArgs {
    /// Directory of the files.
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
    /// Only the files whose names begin so (file.stream); without it, every stream there is.
    #[arg(long, value_name = "NAME")]
    pub(crate) stream: Option<String>,
}

/// `tail`
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is configured and nothing is left behind at the source.

Examples:
  cdc-cli tail postgres://cdc@localhost/shop
  cdc-cli tail postgres://cdc@localhost/shop --table 'public.order*' --operation delete
  cdc-cli tail wal:/var/lib/engine/wal -o json | jq .after")]
pub(crate) struct TailArgs {
    /// What to look at: postgres://USER@HOST/DB, sqlite:FILE or wal:DIRECTORY.
    #[arg(value_name = "SOURCE")]
    pub(crate) from: String,
    /// Only tables that fit this pattern; may be repeated.
    #[arg(long = "table", value_name = "PATTERN")]
    pub(crate) tables: Vec<String>,
    /// Only this schema; may be repeated.
    #[arg(long = "schema", value_name = "PATTERN")]
    pub(crate) schemas: Vec<String>,
    /// Only this operation; may be repeated.
    #[arg(long = "operation", value_name = "NAME")]
    pub(crate) operations: Vec<String>,
    /// Only rows for which this condition holds.
    #[arg(long = "where", value_name = "CONDITION")]
    pub(crate) predicate: Option<String>,
    /// Wire form with -o json.
    #[arg(long, value_enum, default_value_t = WireFormat::Json)]
    pub(crate) format: WireFormat,
    /// Begin with the oldest retained event of a wal: source, or with the rows that are there of an
    /// sqlite: source; PostgreSQL gives what commits from now on.
    #[arg(long)]
    pub(crate) earliest: bool,
    /// Stop after this many events.
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
}

/// Wire form of events, where one is chosen on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WireFormat {
    /// Our JSON.
    Json,
    /// Debezium's JSON.
    Debezium,
    /// CloudEvents in JSON.
    Cloudevents,
}

/// `check`
#[derive(Args, Debug)]
#[command(after_help = "\
Connects to the source, changes nothing, and names every setting that is wrong, with its remedy; and
compares the source with the journal and the checkpoints: what a start would find. The exit code is the
one `run` would end with: 3 configuration, 4 source unreachable, 5 a gap or a refused position, 7 damaged
state.

Example:
  cdc-cli check -c cdc.toml --source postgres://cdc@localhost/shop")]
pub(crate) struct CheckArgs {}

/// `drop-slot`
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing else ever drops them. Stop the pipeline first, and remove its state_path afterwards.

Example:
  cdc-cli drop-slot -c cdc.toml --yes")]
pub(crate) struct DropSlotArgs {
    /// Do it.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `demo`
#[derive(Args, Debug)]
#[command(after_help = "\
Needs no server and no configuration: an order store is written to, captured, filtered and delivered; a
consumer fails, an event dies and is redriven, the process is stopped and resumes.")]
pub(crate) struct DemoArgs {
    /// Keep the demonstration's files here instead of removing them.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) keep: Option<PathBuf>,
    /// What is captured; without this an SQLite database if `python3` or `sqlite3` is there to
    /// write it, else an embedded engine.
    #[arg(long, value_enum)]
    pub(crate) engine: Option<DemoEngine>,
    /// Do not pause between the steps.
    #[arg(long)]
    pub(crate) fast: bool,
}

/// What the demonstration captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoEngine {
    /// An SQLite database that an unmodified application writes.
    Sqlite,
    /// An engine that has our log inside.
    Embedded,
}

/// `bench`
#[derive(Args, Debug)]
#[command(after_help = "\
Counts are checked at the destination; rates are what arrived, not what was sent.

Examples:
  cdc-cli bench
  cdc-cli bench --emitter file --events 1000000 -o json")]
pub(crate) struct BenchArgs {
    /// Where to deliver.
    #[arg(long = "emitter", value_enum, default_value_t = BenchEmitter::All)]
    pub(crate) emitter: BenchEmitter,
    /// Events to deliver.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) events: u64,
    /// Bytes of a row.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub(crate) row_bytes: u32,
    /// Events of a transaction.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) transaction: u32,
    /// Measure what keys that a receiver refuses cost the others, one in a hundred of 10 000, with 8
    /// requests at once.
    #[arg(long, conflicts_with = "rate")]
    pub(crate) poison: bool,
    /// Where log and files go; a directory of its own is made in it. Default: the directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Measure latency at this many events a second instead of the highest rate.
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
}

/// Where a bench delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchEmitter {
    /// To each of them, one after the other.
    All,
    /// To the in-process queue.
    Queue,
    /// To a file.
    File,
    /// To a webhook receiver in the same process.
    Webhook,
}
