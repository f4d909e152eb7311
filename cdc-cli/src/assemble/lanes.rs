//! Configuration to emitters, and each lane on a thread of its own.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use cdc_core::pipeline::{
    Lane, LaneConfig, LaneControl, LaneEnd, LaneError, LaneMetrics, OnDeadKey, RetryConfig,
    Shutdown, WatermarkHandle,
};
use cdc_core::{
    BoxEmitter, CheckpointStore, DeadLetterQueue, Lineage, Position, SourceError, SourceInfo,
    SystemClock, WalSource,
};
use cdc_emit_file::{FileEmitter, Fsync};
use cdc_emit_queue::{QueueConfig, QueueEmitter};
use cdc_emit_webhook::{Body, Secret, WebhookEmitter};

use tokio::sync::mpsc;

use super::control::ControlledLane;
use super::stages;
use super::status::LaneReading;
use crate::config::{
    Config, DeadKey, Destination, EmitterConfig, FileSync, HttpVersion, OnRestart, WebhookBody,
};
use crate::destination::{ChildConfig, ChildEmitter, PrintedQueue, Printer, StandardOutput};
use crate::exit::Exit;
use crate::http::{PullEmitter, PullHandle};
use crate::report::CliError;

/// Events given to a child process between two answers, unless configured.
const CHILD_BATCH_SIZE: usize = 100;

/// Events put into the window of a consumer that fetches at once, unless configured.
const PULL_BATCH_SIZE: usize = 100;

/// What all lanes of a pipeline share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) source: Arc<SourceInfo>,
    pub(crate) checkpoints: Arc<dyn CheckpointStore>,
    pub(crate) dlq: Arc<Mutex<dyn DeadLetterQueue>>,
    pub(crate) shutdown: Shutdown,
    /// Told when a lane has ended.
    pub(crate) ended: mpsc::UnboundedSender<Ended>,
}

/// What part of the log a lane delivers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// Where it begins without a checkpoint.
    pub(crate) start: Position,
    /// Where it ends, if it does.
    pub(crate) stop_at: Option<Position>,
}

/// A lane that runs.
pub(crate) struct Started {
    pub(crate) controlled: ControlledLane,
    pub(crate) thread: JoinHandle<Result<LaneEnd, LaneError>>,
    /// The queue's consumer on standard output, if the emitter is the queue.
    pub(crate) printer: Option<Printer>,
    /// The window that consumers fetch from, if the emitter is of that kind.
    pub(crate) pull: Option<PullHandle>,
}

/// An emitter as the lane takes it, and the thread that consumes its queue.
pub(crate) struct Built {
    pub(crate) emitter: Box<dyn FnOnce() -> Result<BoxEmitter, CliError> + Send>,
    pub(crate) printer: Option<Printer>,
    pull: Option<PullHandle>,
}

/// Builds the destination of an emitter. What needs a runtime is made on the lane's own thread.
///
/// # Errors
/// Exit code 3 if the destination's settings make no sense together.
pub(crate) fn build(emitter: &EmitterConfig) -> Result<Built, CliError> {
    let encoder = emitter.style.encoder(emitter.format);
    let name = emitter.name.clone();
    match &emitter.destination {
        Destination::Queue(queue) => {
            let config = QueueConfig {
                capacity: queue.capacity,
                bytes_max: usize::try_from(queue.bytes_max).unwrap_or(usize::MAX),
                batch_size: emitter
                    .batch_size
                    .unwrap_or(QueueConfig::default().batch_size),
            };
            let emitter = QueueEmitter::new(config)
                .map_err(|error| CliError::from_error(Exit::Configuration, error))?;
            if StandardOutput::is_closed() {
                return Err(CliError::new(
                    Exit::EmitterStopped,
                    format!(
                        "write the events of emitter {name} to standard output: it is closed; give it to a program or a file"
                    ),
                ));
            }
            let (emitter, print) = PrintedQueue::new(emitter, encoder, StandardOutput::lock);
            let printer = spawn(&format!("queue-{name}"), print)?;
            Ok(Built {
                emitter: Box::new(move || Ok(BoxEmitter::new(emitter))),
                printer: Some(printer),
                pull: None,
            })
        }
        Destination::File(file) => {
            let mut config = cdc_emit_file::FileConfig::new(&file.path, &file.stream);
            config.encoder = encoder;
            config.rotate_bytes = file.rotate_bytes;
            config.rotate_age = file.rotate_age;
            config.fsync = match file.fsync {
                FileSync::Batch => Fsync::Batch,
                FileSync::Interval(every) => Fsync::Interval(every),
                FileSync::None => Fsync::None,
            };
            config.compress = if file.gzip {
                cdc_emit_file::Compress::Gzip
            } else {
                cdc_emit_file::Compress::None
            };
            config.on_restart = match file.on_restart {
                OnRestart::Truncate => cdc_emit_file::OnRestart::Truncate,
                OnRestart::Append => cdc_emit_file::OnRestart::Append,
            };
            Ok(Built {
                emitter: Box::new(move || {
                    FileEmitter::new(config)
                        .map(BoxEmitter::new)
                        .map_err(|error| CliError::from_error(Exit::Runtime, error))
                }),
                printer: None,
                pull: None,
            })
        }
        Destination::Webhook(hook) => {
            let config = webhook_config(emitter, hook)?;
            Ok(Built {
                emitter: Box::new(move || {
                    WebhookEmitter::new(config)
                        .map(BoxEmitter::new)
                        .map_err(|error| CliError::from_error(Exit::Configuration, error))
                }),
                printer: None,
                pull: None,
            })
        }
        Destination::Custom(custom) => {
            let config = ChildConfig {
                command: custom.command.clone(),
                batch_size: emitter.batch_size.unwrap_or(CHILD_BATCH_SIZE),
                timeout: custom.timeout,
                stop_timeout: custom.stop_timeout,
                encoder,
            };
            Ok(Built {
                emitter: Box::new(move || Ok(BoxEmitter::new(ChildEmitter::new(config)))),
                printer: None,
                pull: None,
            })
        }
        Destination::Pull(pull) => {
            let bytes_max = usize::try_from(pull.window_bytes).unwrap_or(usize::MAX);
            let batch_size = emitter.batch_size.unwrap_or(PULL_BATCH_SIZE);
            let emitter = PullEmitter::new(bytes_max, batch_size);
            let handle = emitter.handle();
            Ok(Built {
                emitter: Box::new(move || Ok(BoxEmitter::new(emitter))),
                printer: None,
                pull: Some(handle),
            })
        }
    }
}

/// Makes the destination as a start would, as far as that asks nobody else: files it needs are read.
///
/// # Errors
/// Exit code 3; a start stops the emitter for it.
pub(crate) fn can_be_made(emitter: &EmitterConfig) -> Result<(), CliError> {
    let Destination::Webhook(hook) = &emitter.destination else {
        return Ok(());
    };
    let made = WebhookEmitter::new(webhook_config(emitter, hook)?);
    made.map(drop)
        .map_err(|error| CliError::from_error(Exit::Configuration, error))
}

fn webhook_config(
    emitter: &EmitterConfig,
    hook: &crate::config::WebhookConfig,
) -> Result<cdc_emit_webhook::WebhookConfig, CliError> {
    let mut config = cdc_emit_webhook::WebhookConfig::new(&emitter.name, &hook.url);
    for secret in &hook.secrets {
        let secret = Secret::parse(secret.expose());
        config
            .secrets
            .push(secret.map_err(|error| CliError::from_error(Exit::Configuration, error))?);
    }
    let headers = hook.headers.iter();
    config.headers = headers
        .map(|(name, value)| (name.clone(), value.expose().to_owned()))
        .collect();
    config.batch_size = emitter.batch_size.unwrap_or(config.batch_size);
    config.body = match hook.body {
        WebhookBody::Array => Body::Array,
        WebhookBody::Ndjson => Body::Ndjson,
        WebhookBody::Json => Body::Json,
        WebhookBody::CloudEventsBatch => Body::CloudEventsBatch,
        WebhookBody::Debezium => Body::Debezium,
    };
    config.json = emitter.style.json;
    config.debezium = emitter.style.debezium;
    config.gzip = hook.gzip;
    config.connections_max = config.connections_max.max(hook.concurrency);
    config.request_timeout = hook.timeout;
    config.connect_timeout = hook.connect_timeout;
    config.allow_http = hook.allow_http;
    config.allow_private = hook.allow_private;
    config.ca_file.clone_from(&hook.ca_file);
    config.client_certificate = hook
        .client_certificate
        .clone()
        .map(|(chain, key)| cdc_emit_webhook::ClientCertificate { chain, key });
    config.http_version = match hook.http_version {
        HttpVersion::Auto => cdc_emit_webhook::HttpVersion::Auto,
        HttpVersion::One => cdc_emit_webhook::HttpVersion::Http1,
        HttpVersion::Two => cdc_emit_webhook::HttpVersion::Http2,
    };
    config.idle_timeout = hook.idle_timeout;
    let body_max = hook.body_bytes_max;
    config.body_bytes_max = body_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
    Ok(config)
}

/// The settings of an emitter's lane.
pub(crate) fn settings(
    config: &Config,
    emitter: &EmitterConfig,
    lineage: Lineage,
    range: Range,
) -> LaneConfig {
    let mut lane = LaneConfig::new(emitter.name.as_str(), lineage, range.start);
    lane.stop_at = range.stop_at;
    lane.parked_keys_max = usize::try_from(config.dead_letters.keys_max).unwrap_or(usize::MAX);
    lane.checkpoint_interval = config.checkpoint_interval;
    lane.shutdown_timeout = config.shutdown_timeout;
    lane.retry = RetryConfig {
        base: emitter.retry.base,
        cap: emitter.retry.max,
        probe_interval: emitter.retry.probe,
        // Lanes and processes must not retry in step.
        seed: cdc_core::wall_micros().unsigned_abs() ^ u64::from(std::process::id()) << 40,
    };
    if let Destination::Webhook(hook) = &emitter.destination {
        lane.concurrency = hook.concurrency;
    }
    lane.order = emitter.order;
    lane.window_max = emitter.window_events;
    lane.window_bytes_max = usize::try_from(emitter.window_bytes).unwrap_or(usize::MAX);
    lane.breaker = emitter.breaker;
    lane.on_dead_key = match emitter.on_dead_key {
        DeadKey::Park => OnDeadKey::Park,
        DeadKey::Pass => OnDeadKey::Pass,
        DeadKey::Stop => OnDeadKey::Stop,
    };
    lane
}

/// Starts the lane of one emitter on a thread of its own. `open` gives a tail strictly behind a
/// position.
///
/// # Errors
/// Exit code 3 or 1 if it cannot be built.
pub(crate) fn start<O, S>(
    config: &Config,
    emitter: &EmitterConfig,
    shared: Shared,
    watermark: WatermarkHandle,
    range: Range,
    open: O,
) -> Result<Started, CliError>
where
    O: FnMut(Position) -> Result<S, SourceError> + Send + 'static,
    S: WalSource + 'static,
{
    let name: Arc<str> = emitter.name.as_str().into();
    let lane = settings(config, emitter, shared.source.lineage, range);
    let filter = stages::filter(emitter)?;
    let transforms = stages::transforms(emitter)?;
    let metrics = Arc::new(LaneMetrics::default());
    let (control, commands) = LaneControl::new();
    let Built {
        emitter: make,
        printer,
        pull,
    } = build(emitter)?;
    let reading = LaneReading {
        name: name.clone(),
        kind: emitter.destination.kind(),
        metrics: metrics.clone(),
    };
    let tell = Tell::new(Ended::Lane(name.to_string()), shared.ended.clone());
    let thread = spawn(&format!("lane-{name}"), move || {
        // Also when the lane panics.
        let _tell = tell;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let emitter = name.clone();
        let runtime = runtime.map_err(|cause| fatal(&emitter, "start its runtime", cause))?;
        runtime.block_on(async move {
            let emitter = make().map_err(|cause| fatal(&name, "open it", cause))?;
            Lane {
                config: lane,
                open,
                filter,
                transforms,
                emitter,
                dlq: shared.dlq,
                checkpoints: shared.checkpoints,
                watermark,
                clock: Arc::new(SystemClock::new()),
                metrics,
                control: commands,
                shutdown: shared.shutdown,
            }
            .run()
            .await
        })
    })?;
    Ok(Started {
        controlled: ControlledLane { reading, control },
        thread,
        printer,
        pull,
    })
}

/// What happened to a part of the pipeline.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The lane of this emitter ended.
    Lane(String),
    /// Capture ended.
    Capture,
}

/// Tells the main thread that a lane or capture ended, however it did.
pub(crate) struct Tell {
    end: Option<Ended>,
    ended: mpsc::UnboundedSender<Ended>,
}

impl Tell {
    pub(crate) const fn new(end: Ended, ended: mpsc::UnboundedSender<Ended>) -> Self {
        Self {
            end: Some(end),
            ended,
        }
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        // Nobody listens only if the process is ending anyway.
        if let Some(end) = self.end.take() {
            drop(self.ended.send(end));
        }
    }
}

fn fatal(
    emitter: &Arc<str>,
    what: &str,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> LaneError {
    let error = cdc_core::EmitError::new(cdc_core::EmitErrorKind::Fatal, format!("{what}: failed"));
    LaneError::Emit {
        emitter: emitter.clone(),
        cause: error.with_cause(cause),
    }
}

/// A named thread.
///
/// # Errors
/// Exit code 1 if the system has no more of them.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, CliError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map_err(|cause| {
        CliError::new(Exit::Runtime, format!("start thread {name}")).with_cause(cause)
    })
}
