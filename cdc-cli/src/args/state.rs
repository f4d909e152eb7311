//! Commands that look at or change local state: `status`, `position`, `dlq`, `wal`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `status`
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cdc-cli status\n  cdc-cli status -o json | jq '.lanes[].position'"
)]
pub(crate) struct StatusArgs {}

/// `position`
#[derive(Debug, Subcommand)]
pub(crate) enum PositionCommand {
    /// Show where each emitter stands.
    Show(PositionShowArgs),
    /// Move an emitter, forward or back, in a running pipeline or in none.
    Set(PositionSetArgs),
}

/// `position show`
#[derive(Args, Debug)]
pub(crate) struct PositionShowArgs {
    /// Only this emitter.
    #[arg(long, value_name = "NAME")]
    pub(crate) emitter: Option<String>,
}

/// `position set`
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cdc-cli position set --emitter audit cdc1_0413...
  cdc-cli position set --emitter audit earliest
  cdc-cli position set --emitter audit latest --yes      # skips events
  cdc-cli position set --emitter audit earliest --replace-damaged")]
pub(crate) struct PositionSetArgs {
    /// The emitter.
    #[arg(long, value_name = "NAME")]
    pub(crate) emitter: String,
    /// earliest, latest, a resume token, position:LSN:ORDINAL or time:2026-11-22T13:05:00Z.
    #[arg(value_name = "TOKEN")]
    pub(crate) to: String,
    /// Do not ask, also when events would be skipped.
    #[arg(long)]
    pub(crate) yes: bool,
    /// The checkpoints are damaged: keep the file beside under another name, and begin a new one.
    /// All other emitters begin at the earliest event there is, so that they repeat and skip nothing.
    #[arg(long)]
    pub(crate) replace_damaged: bool,
}

/// `emitter`
#[derive(Debug, Subcommand)]
pub(crate) enum EmitterCommand {
    /// Deliver nothing more to it until `emitter resume`, or until the process ends. It still holds
    /// the log at its position.
    Pause(EmitterArgs),
    /// Go on delivering to it.
    Resume(EmitterArgs),
}

/// `emitter pause`, `emitter resume`
#[derive(Args, Debug)]
pub(crate) struct EmitterArgs {
    /// The emitter.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// `dlq`
#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters.
    Ls(DlqLsArgs),
    /// Show one dead letter, with its event.
    Show(DlqShowArgs),
    /// Send dead letters again to their emitter.
    Redrive(DlqRedriveArgs),
    /// Give dead letters up.
    Discard(DlqDiscardArgs),
    /// Write dead letters as lines of JSON.
    Export(DlqExportArgs),
    /// Take dead letters in from lines that `dlq export` wrote.
    Import(DlqImportArgs),
    /// Count dead letters.
    Stats(DlqStatsArgs),
}

/// Which dead letters.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Selection")]
pub(crate) struct LetterSelection {
    /// Of this emitter.
    #[arg(long, value_name = "NAME")]
    pub(crate) emitter: Option<String>,
    /// Of this table, `schema.table` or `table`.
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// Of this row: a value, column=value with commas between several, or the key as a JSON object.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
    /// Of this class: event, transform, encode, ...
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<String>,
    /// Whose last failure was at or after this time, such as 2026-11-22T13:05:00Z or an age, -2h.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// Whose last failure was before this time.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) until: Option<String>,
    /// In this state: pending, parked or redriving. Delivered and discarded ones are gone.
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
}

/// `dlq ls`
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cdc-cli dlq ls --emitter hooks --since -1h
  cdc-cli dlq ls --table public.orders --key 42
  cdc-cli dlq ls --key 'tenant=a,id=7' -o json")]
pub(crate) struct DlqLsArgs {
    /// Which.
    #[command(flatten)]
    pub(crate) selection: LetterSelection,
    /// Most letters to list.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

/// `dlq show`
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cdc-cli dlq show 65c74a1b02d3e4f5-00000000016b3748-00000001
  cdc-cli dlq show --table public.orders --key 42")]
pub(crate) struct DlqShowArgs {
    /// The events' ids, as `dlq ls` prints them; without any, all that are selected.
    #[arg(value_name = "ID", required_unless_present_any = ["emitter", "table", "key", "class", "since", "until", "state"])]
    pub(crate) ids: Vec<String>,
    /// Which.
    #[command(flatten)]
    pub(crate) selection: LetterSelection,
}

/// `dlq redrive`
#[derive(Args, Debug)]
#[command(after_help = "\
Letters of a key go in the order of their positions, through the transforms of today, with the ids
they had.

Examples:
  cdc-cli dlq redrive --emitter audit --dry-run
  cdc-cli dlq redrive --emitter audit --table public.orders
  cdc-cli dlq redrive --table public.orders --key 42
  cdc-cli dlq redrive --emitter hooks --rate 50")]
pub(crate) struct DlqRedriveArgs {
    /// Only these; without any, all that are selected.
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Which.
    #[command(flatten)]
    pub(crate) selection: LetterSelection,
    /// Leave the transforms out: send the original events.
    #[arg(long)]
    pub(crate) as_was: bool,
    /// Only count what would be sent.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// At most about this many letters a second.
    #[arg(long, value_name = "LETTERS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
}

/// `dlq discard`
#[derive(Args, Debug)]
#[command(after_help = "\
Their events will never be delivered. What waits behind them stays, and goes with the next redrive.

Examples:
  cdc-cli dlq discard 65c74a1b02d3e4f5-00000000016b3748-00000001
  cdc-cli dlq discard --emitter hooks --until -30d          # counts, and asks for --yes
  cdc-cli dlq discard --emitter hooks --until -30d --yes")]
pub(crate) struct DlqDiscardArgs {
    /// Only these; without any, all that are selected.
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Which.
    #[command(flatten)]
    pub(crate) selection: LetterSelection,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `dlq import`
#[derive(Args, Debug)]
#[command(after_help = "\
Letters come back as they were exported: ids, states, times, attempts; in whatever order the lines are.
Those that are open already stay as they are. One damaged or edited line, and nothing is imported. The
pipeline must not run meanwhile: when it starts, later events of their rows wait behind them.

Examples:
  cdc-cli dlq export --emitter hooks --to letters.ndjson
  cdc-cli dlq import letters.ndjson --dry-run
  cdc-cli dlq import letters.ndjson")]
pub(crate) struct DlqImportArgs {
    /// The lines; - for standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only read the lines and count what would be taken in.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `dlq export`
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cdc-cli dlq export --emitter hooks --to letters.ndjson
  cdc-cli dlq export | jq -c 'del(.record)'      # for people; `record` is for `dlq import`")]
pub(crate) struct DlqExportArgs {
    /// Which.
    #[command(flatten)]
    pub(crate) selection: LetterSelection,
    /// Write to this file instead of standard output; it must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}

/// `dlq stats`
#[derive(Args, Debug)]
pub(crate) struct DlqStatsArgs {}

/// `wal`
#[derive(Debug, Subcommand)]
pub(crate) enum WalCommand {
    /// Describe a log: segments, range, size.
    Info(WalArgs),
    /// Print the records of a log.
    Dump(WalDumpArgs),
    /// Read a whole log and check every frame.
    Verify(WalArgs),
    /// Say what a repair of a damaged log would keep and lose, and do it with --apply.
    ///
    /// Files that a repair changes are first copied, as they are, into a directory damaged-TIME beside
    /// them, with the report. Positions stay what they were: an emitter that has not got past the
    /// loss stops there, with the position behind it.
    Repair(WalRepairArgs),
}

/// `wal repair`
#[derive(Args, Debug)]
pub(crate) struct WalRepairArgs {
    /// The log's directory; without it, the journal in state_path.
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// Do it; without this, nothing is changed.
    #[arg(long)]
    pub(crate) apply: bool,
    /// End a journal in front of the damage, for its source to send again what follows.
    #[arg(long)]
    pub(crate) cut: bool,
}

/// `wal info`, `wal verify`
#[derive(Args, Debug)]
pub(crate) struct WalArgs {
    /// The log's directory; without it, the journal in state_path.
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
}

/// `wal dump`
#[derive(Args, Debug)]
pub(crate) struct WalDumpArgs {
    /// The log's directory; without it, the journal in state_path.
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// Begin at this LSN.
    #[arg(long, value_name = "LSN")]
    pub(crate) from: Option<String>,
    /// Most records to print.
    #[arg(long, value_name = "COUNT")]
    pub(crate) limit: Option<u64>,
    /// Print row contents too.
    #[arg(long)]
    pub(crate) rows: bool,
}
