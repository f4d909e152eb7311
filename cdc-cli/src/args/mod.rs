//! The command line. Help texts, completions and man pages are made from these definitions.

pub(crate) mod capture;
pub(crate) mod state;

use std::path::PathBuf;

pub(crate) use capture::{
    BenchArgs, BenchEmitter, CheckArgs, DemoArgs, DemoEngine, DropSlotArgs, ReplayArgs, RunArgs,
    TailArgs, VerifyArgs, WireFormat,
};
pub(crate) use state::{
    DlqCommand, DlqDiscardArgs, DlqExportArgs, DlqImportArgs, DlqLsArgs, DlqRedriveArgs,
    DlqShowArgs, EmitterCommand, LetterSelection, PositionCommand, PositionSetArgs,
    PositionShowArgs, StatusArgs, WalCommand, WalDumpArgs, WalRepairArgs,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{self, Config, Environment, Layers, Source};
use crate::exit::Exit;
use crate::report::CliError;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or drained after ctrl-c
  1  failed while running
  2  the command line makes no sense
  3  the configuration is wrong
  4  the source cannot be reached or refuses us
  5  a position or token is refused, or there is a gap
  6  an emitter stopped and needs a person
  7  the state is locked by another process, not writable, or damaged
  8  partly done: some of what was asked failed";

/// Change data capture: every committed change, at least once, in order.
#[derive(Debug, Parser)]
#[command(name = "cdc-cli", version, after_help = EXIT_CODES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Options every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options every command takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file [default: ./cdc.toml if it exists, else /etc/weftkit/cdc.toml].
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to capture, over the configuration: postgres://USER@HOST/DB, sqlite:FILE,
    /// rocksdb:DIRECTORY or wal:DIRECTORY.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) source: Option<String>,
    /// A key over the configuration, such as --set batch_size=500; may be repeated.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Form of what is printed.
    #[arg(short, long, global = true, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
    /// Form of log lines on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Say more: -v debug, -vv everything. WEFTKIT_CDC_LOG sets it by module.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Say less: -q errors only, -qq nothing.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) quiet: u8,
}

impl Global {
    /// The layers the configuration is made of.
    pub(crate) fn layers(&self) -> Layers {
        Layers {
            file: config::choose_file(self.config.as_deref()),
            environment: Environment::of_process(),
            source: self.source.clone(),
            sets: self.sets.clone(),
        }
    }

    /// The configuration.
    ///
    /// # Errors
    /// Exit code 3, with everything that is wrong.
    pub(crate) fn load(&self) -> Result<Config, CliError> {
        Ok(config::load(&self.layers())?)
    }
}

/// The source, or the error that says how to name one.
///
/// # Errors
/// Exit code 3.
pub(crate) fn require_source(config: &Config) -> Result<&Source, CliError> {
    config.source.as_ref().ok_or_else(|| {
        CliError::new(
            Exit::Configuration,
            "no source is configured; set `source` in [cdc], WEFTKIT_CDC_SOURCE in the environment, or --source, such as --source postgres://cdc@localhost/shop",
        )
    })
}

/// Form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work: no server, no configuration.
    Demo(DemoArgs),
    /// Capture, filter, transform and deliver: the main job.
    Run(RunArgs),
    /// Look at a database's changes now.
    Tail(TailArgs),
    /// Connect, and name every setting that is wrong, with its remedy.
    Check(CheckArgs),
    /// Drop the replication slot and the publication at the source, for good.
    DropSlot(DropSlotArgs),
    /// Say how a pipeline is doing.
    Status(StatusArgs),
    /// Deliver a retained range of events to an emitter once more.
    Replay(ReplayArgs),
    /// Pause and resume single emitters of a running pipeline.
    #[command(subcommand)]
    Emitter(EmitterCommand),
    /// Prove the files of a file emitter complete and untouched.
    Verify(VerifyArgs),
    /// See and move the positions of emitters.
    #[command(subcommand)]
    Position(PositionCommand),
    /// List, show, redrive, discard, export and import dead letters.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Look into a log on disk.
    #[command(subcommand)]
    Wal(WalCommand),
    /// Measure this machine.
    Bench(BenchArgs),
    /// Write a commented configuration file.
    Init(InitArgs),
    /// Check a configuration without connecting anywhere.
    Validate(ValidateArgs),
    /// Show the configuration in effect.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look into resume tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Write a completion script for a shell.
    Completions(CompletionsArgs),
    /// Write the manual pages.
    Man(ManArgs),
}

/// `init`
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cdc-cli init\n  cdc-cli init /etc/weftkit/cdc.toml\n  cdc-cli init --stdout | less"
)]
pub(crate) struct InitArgs {
    /// Where to write; an existing file is never touched.
    #[arg(value_name = "FILE", default_value = "cdc.toml")]
    pub(crate) path: PathBuf,
    /// Write to standard output instead.
    #[arg(long)]
    pub(crate) stdout: bool,
}

/// `validate`
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cdc-cli validate\n  cdc-cli validate -c cdc.toml -o json\n  cdc-cli validate --source postgres://cdc@localhost/shop --set emitter=file --set file.path=/tmp/cdc"
)]
pub(crate) struct ValidateArgs {}

/// `config`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting in effect, secrets left out.
    Show(ConfigShowArgs),
}

/// `config show`
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cdc-cli config show --origin\n  cdc-cli config show --changed -o json"
)]
pub(crate) struct ConfigShowArgs {
    /// Say where each value comes from: file and line, environment variable, flag or default.
    #[arg(long)]
    pub(crate) origin: bool,
    /// Leave out what is at its default.
    #[arg(long)]
    pub(crate) changed: bool,
}

/// `token`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Decode a resume token.
    Inspect(TokenInspectArgs),
}

/// `token inspect`
#[derive(Args, Debug)]
#[command(
    after_help = "A token says: everything up to and including this position of this source is done.\n\nExample:\n  cdc-cli token inspect cdc1_04130c9i6cq3adhn70sm2oj3chimc000003g0000000mmdq8000000g000001arh8sgg"
)]
pub(crate) struct TokenInspectArgs {
    /// The token, from cdc1_ to its last character.
    #[arg(value_name = "TOKEN")]
    pub(crate) token: String,
}

/// `completions`
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cdc-cli completions bash > /etc/bash_completion.d/cdc-cli\n  cdc-cli completions zsh > ~/.zfunc/_cdc-cli\n  cdc-cli completions fish > ~/.config/fish/completions/cdc-cli.fish"
)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `man`
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cdc-cli man | man -l -\n  cdc-cli man /usr/local/share/man/man1"
)]
pub(crate) struct ManArgs {
    /// Directory for one page a command; without it the main page goes to standard output.
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
}
