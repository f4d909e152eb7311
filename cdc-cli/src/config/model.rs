//! The typed configuration that the pipeline is assembled from. Plain values, already checked.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cdc_core::envelope::{DebeziumOptions, Encoder, Format, JsonOptions};
use cdc_core::pipeline::{BreakerConfig, OrderScope};
use cdc_filter::{FilterConfig, TransformConfig};
use cdc_wal::sqlite::{Assist, Mode};

use super::source::Source;

/// A secret: never printed, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub(crate) const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself. Only for the place that needs it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Everything one process needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// What is captured; `None` if nobody said so, which only some commands accept.
    pub(crate) source: Option<Source>,
    /// The source's name in events; `None`: the database's name.
    pub(crate) name: Option<String>,
    /// Directory of the journal, the checkpoints and the lock.
    pub(crate) state_path: PathBuf,
    /// Dead letters.
    pub(crate) dead_letters: DeadLetterConfig,
    /// When the source may forget a transaction.
    pub(crate) confirm: Confirm,
    /// Bytes of log kept for replay behind every cursor.
    pub(crate) retain_bytes: u64,
    /// Bytes of log at which the source is held back; `None`: no bound but the disk.
    pub(crate) retain_bytes_max: Option<u64>,
    /// Log younger than this is kept for replay, too.
    pub(crate) retain_age: Option<Duration>,
    /// How often checkpoints are written when they changed.
    pub(crate) checkpoint_interval: Duration,
    /// Longest drain at shutdown.
    pub(crate) shutdown_timeout: Duration,
    /// What only PostgreSQL needs.
    pub(crate) postgres: PostgresConfig,
    /// What only SQLite needs.
    pub(crate) sqlite: SqliteConfig,
    /// The HTTP surface, if there is one.
    pub(crate) http: Option<HttpConfig>,
    /// One lane each; never empty, names are unique.
    pub(crate) emitters: Vec<EmitterConfig>,
    /// What is allowed and still worth a word.
    pub(crate) warnings: Vec<String>,
}

impl Config {
    /// The emitter with this name.
    pub(crate) fn emitter(&self, name: &str) -> Option<&EmitterConfig> {
        self.emitters.iter().find(|emitter| emitter.name == name)
    }
}

/// The dead letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetterConfig {
    /// Directory of the queue.
    pub(crate) path: PathBuf,
    /// Bytes at which lanes block.
    pub(crate) bytes_max: u64,
    /// Letters at which lanes block.
    pub(crate) letters_max: u64,
    /// Keys that may be parked behind a dead letter at once.
    pub(crate) keys_max: u64,
}

/// What only SQLite needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SqliteConfig {
    /// Give the rows that are there first.
    pub(crate) snapshot: bool,
    /// Whether the log is held.
    pub(crate) mode: Mode,
    /// Help for the application's checkpoints.
    pub(crate) assist: Assist,
    /// How often the log is looked at while nothing happens.
    pub(crate) poll_interval: Duration,
    /// Longest wait for a lock of the application.
    pub(crate) busy_timeout: Duration,
    /// Bytes of log above which it is let go.
    pub(crate) log_bytes_max: u64,
    /// Bytes kept for a restart above which nothing more is read.
    pub(crate) archive_bytes_max: u64,
    /// Capture the contents of virtual tables.
    pub(crate) include_shadow_tables: bool,
}

/// When the source may forget a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// When every emitter has it durably, or the dead letter queue has.
    Delivered,
    /// When the journal has it on disk.
    Journaled,
}

/// What happens to later events of a key that has a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadKey {
    /// They wait behind it.
    Park,
    /// They are delivered.
    Pass,
    /// The lane stops.
    Stop,
}

/// What only PostgreSQL needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PostgresConfig {
    /// The replication slot.
    pub(crate) slot: String,
    /// The publication.
    pub(crate) publication: String,
    /// Create the slot when it is absent.
    pub(crate) create_slot: bool,
    /// Create the publication when it is absent.
    pub(crate) create_publication: bool,
    /// Create it with tables whose updates the server then refuses.
    pub(crate) accept_keyless: bool,
    /// Tables of a publication that is created.
    pub(crate) publish_tables: Vec<String>,
    /// Schemas of a publication that is created.
    pub(crate) publish_schemas: Vec<String>,
    /// Longest wait for a connection.
    pub(crate) connect_timeout: Duration,
}

/// The HTTP surface.
#[derive(Clone, Debug)]
pub(crate) struct HttpConfig {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// What must be shown to change anything; `None`: nothing can be changed.
    pub(crate) token: Option<Secret>,
    /// Looking at events, letters and status needs the token, too.
    pub(crate) reads_need_token: bool,
    /// Web origins whose pages may read.
    pub(crate) origins: Vec<String>,
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// Longest wait for a client that does not read.
    pub(crate) write_timeout: Duration,
    /// Which events streams without a consumer's name give: what `[cdc]` says.
    pub(crate) filter: FilterConfig,
    /// How they are changed: what `[cdc]` says.
    pub(crate) transforms: Vec<TransformConfig>,
    /// Their wire form; never binary.
    pub(crate) format: Format,
    /// How JSON is written.
    pub(crate) style: Style,
}

/// How JSON is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// In `json` and `cloudevents`.
    pub(crate) json: JsonOptions,
    /// In `debezium`.
    pub(crate) debezium: DebeziumOptions,
}

impl Style {
    /// An encoder that writes so.
    pub(crate) const fn encoder(self, format: Format) -> Encoder {
        Encoder::new(format)
            .with_json(self.json)
            .with_debezium(self.debezium)
    }
}

/// Events of an emitter's window where the configuration does not say. What files take is durable after
/// the next sync: the more is synced at once the faster a disk is. A larger
/// window repeats nothing, since a restart cuts back what a checkpoint does not cover (unless it is told to append).
pub(crate) fn window_of(kind: &str) -> u64 {
    if kind == "file" { 262_144 } else { 65_536 }
}

/// One emitter and its lane.
#[derive(Clone, Debug)]
pub(crate) struct EmitterConfig {
    /// Its name: the name of its checkpoint and of its dead letters.
    pub(crate) name: String,
    /// Which events it gets.
    pub(crate) filter: FilterConfig,
    /// How they are changed, in order.
    pub(crate) transforms: Vec<TransformConfig>,
    /// The wire form.
    pub(crate) format: Format,
    /// How JSON is written.
    pub(crate) style: Style,
    /// Most events of one delivery; `None`: as many as the lane reads at once.
    pub(crate) batch_size: Option<usize>,
    /// How it waits for a destination that is unwell.
    pub(crate) retry: RetryConfig,
    /// What a dead letter does to later events of its key.
    pub(crate) on_dead_key: DeadKey,
    /// What stays in order with several requests in flight.
    pub(crate) order: OrderScope,
    /// Most events from the first that is not done to the last that was read: [`window_of`] if the
    /// configuration does not say.
    pub(crate) window_events: u64,
    /// Most bytes of rows that are read and not taken.
    pub(crate) window_bytes: u64,
    /// When a destination is left alone.
    pub(crate) breaker: BreakerConfig,
    /// Where it delivers to.
    pub(crate) destination: Destination,
}

/// How a lane waits for a destination that is unwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryConfig {
    /// Longest first wait.
    pub(crate) base: Duration,
    /// Longest wait.
    pub(crate) max: Duration,
    /// Wait between probes of a destination that refuses everything.
    pub(crate) probe: Duration,
}

/// Where an emitter delivers to.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// The in-process queue; this binary's consumer writes to standard output.
    Queue(QueueConfig),
    /// HTTP POST.
    Webhook(Box<WebhookConfig>),
    /// Files on a local disk.
    File(FileConfig),
    /// A child process.
    Custom(CustomConfig),
    /// Consumers that fetch over HTTP.
    Pull(PullConfig),
}

impl Destination {
    /// True if a process that delivers to it writes events to its own standard output.
    pub(crate) const fn prints(&self) -> bool {
        matches!(self, Self::Queue(_))
    }

    /// The value of `emitter` that selects it.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Queue(_) => "queue",
            Self::Webhook(_) => "webhook",
            Self::File(_) => "file",
            Self::Custom(_) | Self::Pull(_) => "custom",
        }
    }
}

/// The in-process queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueConfig {
    /// Most events in it.
    pub(crate) capacity: usize,
    /// Most bytes of row images in it.
    pub(crate) bytes_max: u64,
}

/// HTTP POST.
#[derive(Clone, Debug)]
pub(crate) struct WebhookConfig {
    /// Where to.
    pub(crate) url: String,
    /// Signing secrets, the newest first; empty: unsigned.
    pub(crate) secrets: Vec<Secret>,
    /// Headers of every request.
    pub(crate) headers: Vec<(String, Secret)>,
    /// The shape of a body.
    pub(crate) body: WebhookBody,
    /// Compress bodies.
    pub(crate) gzip: bool,
    /// Requests in flight at once.
    pub(crate) concurrency: usize,
    /// Largest body before compression.
    pub(crate) body_bytes_max: Option<u64>,
    /// Longest request.
    pub(crate) timeout: Duration,
    /// Longest connect.
    pub(crate) connect_timeout: Duration,
    /// An unused connection older than this is not used again.
    pub(crate) idle_timeout: Duration,
    /// Plain HTTP to other hosts is allowed.
    pub(crate) allow_http: bool,
    /// Private and loopback addresses are allowed.
    pub(crate) allow_private: bool,
    /// Certificate authorities to trust instead of the system's, a PEM file.
    pub(crate) ca_file: Option<PathBuf>,
    /// Certificate chain and key shown to a receiver that asks for one, PEM files.
    pub(crate) client_certificate: Option<(PathBuf, PathBuf)>,
    /// Version of HTTP.
    pub(crate) http_version: HttpVersion,
}

/// Version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    /// What TLS agrees on; without TLS 1.1.
    Auto,
    /// 1.1 only.
    One,
    /// 2 only.
    Two,
}

/// The shape of a webhook's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebhookBody {
    /// A JSON array of events.
    Array,
    /// One event a line.
    Ndjson,
    /// One event a request, bare.
    Json,
    /// A JSON array of CloudEvents.
    CloudEventsBatch,
    /// A JSON array of Debezium records.
    Debezium,
}

/// Files on a local disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileConfig {
    /// Their directory.
    pub(crate) path: PathBuf,
    /// How their names begin.
    pub(crate) stream: String,
    /// Size at which the next file begins.
    pub(crate) rotate_bytes: u64,
    /// Age at which the next file begins.
    pub(crate) rotate_age: Duration,
    /// When bytes are made durable.
    pub(crate) fsync: FileSync,
    /// What happens to bytes behind the checkpoint at a restart.
    pub(crate) on_restart: OnRestart,
    /// Closed files are compressed.
    pub(crate) gzip: bool,
}

/// When a file's bytes are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSync {
    /// After every batch.
    Batch,
    /// At most this long after they were written.
    Interval(Duration),
    /// When the operating system does.
    None,
}

/// What happens to bytes behind the checkpoint at a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnRestart {
    /// They are cut off and written again: no repeats in the files.
    Truncate,
    /// They stay; a short suffix may be there twice.
    Append,
}

/// A child process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CustomConfig {
    /// Program and arguments; never empty.
    pub(crate) command: Vec<String>,
    /// Longest wait for the answer to a batch.
    pub(crate) timeout: Duration,
    /// Longest wait for its end.
    pub(crate) stop_timeout: Duration,
}

/// Consumers that fetch over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PullConfig {
    /// Most bytes of events held for them and not yet acknowledged.
    pub(crate) window_bytes: u64,
}
