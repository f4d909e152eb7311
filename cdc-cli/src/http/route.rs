//! Paths to what answers them.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cdc_core::envelope::Format;
use cdc_core::pipeline::{LaneHealth, Shutdown};
use cdc_core::{ResumeToken, Transform};
use cdc_dlq::FileDlq;
use cdc_filter::{Action, EventFilter, TransformChain, TransformConfig};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::access::{self, Access};
use super::query::Query;
use super::reply::{self, Answer, Refusal};
use super::{PullHandle, consumer, dlq, metrics, stream};
use crate::assemble::control::ControlledLane;
use crate::assemble::start::{Extent, LogView};
use crate::assemble::status::{Capturing, PipelineStatus};
use crate::config::{HttpConfig, Style};
use crate::exit::Exit;
use crate::report::CliError;

/// Longest body of a request.
const BODY_MAX: usize = 1 << 20;
/// Longest wait for it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

const INDEX: &str = "\
cdc-cli
  GET  /livez /readyz /metrics
  GET  /v1/status
  GET  /v1/stream?from=earliest|latest|TOKEN|position:...|time:...&table=...   events as SSE or NDJSON
  GET  /v1/events?after=TOKEN&limit=100&wait=30s                              events as one document
  GET  /v1/consumers, /v1/consumers/NAME
  POST /v1/consumers/NAME/ack                                                 {\"token\":\"cdc1_...\"}
  GET  /v1/dlq, /v1/dlq/stats, /v1/dlq/ID
  POST /v1/dlq/redrive, /v1/dlq/discard
";

/// A pipeline to look at.
pub(crate) struct Live {
    /// The log its lanes read.
    pub(crate) log: LogView,
    /// Its lanes.
    pub(crate) lanes: Vec<ControlledLane>,
    /// Emitters whose consumers fetch, by name.
    pub(crate) pulls: Vec<Pulled>,
    /// Capture, if the source is a foreign database.
    pub(crate) capture: Option<Capturing>,
    /// How it is doing.
    pub(crate) status: Box<dyn Fn() -> PipelineStatus + Send + Sync>,
}

/// An emitter whose consumers fetch.
pub(crate) struct Pulled {
    /// Its name, and the consumer's.
    pub(crate) name: String,
    /// Its wire form.
    pub(crate) format: Format,
    /// How its JSON is written.
    pub(crate) style: Style,
    /// Its window.
    pub(crate) handle: PullHandle,
}

/// Everything requests look at.
pub(crate) struct Surface {
    config: HttpConfig,
    filter: EventFilter,
    transforms: TransformChain,
    dead_letters: Arc<Mutex<FileDlq>>,
    live: OnceLock<Live>,
    stop: Shutdown,
    /// Open streams and polls.
    pub(crate) readers: std::sync::atomic::AtomicU64,
}

impl fmt::Debug for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surface")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Surface {
    /// A surface without a pipeline yet.
    ///
    /// # Errors
    /// Exit code 3; loading the configuration has checked it already.
    pub(crate) fn new(
        config: HttpConfig,
        dead_letters: Arc<Mutex<FileDlq>>,
        stop: Shutdown,
    ) -> Result<Self, CliError> {
        let filter = EventFilter::new(&config.filter)
            .map_err(|error| CliError::from_error(Exit::Configuration, error))?;
        let transforms = TransformChain::new(config.transforms.clone())
            .map_err(|(_, error)| CliError::from_error(Exit::Configuration, error))?;
        Ok(Self {
            config,
            filter,
            transforms,
            dead_letters,
            live: OnceLock::new(),
            stop,
            readers: std::sync::atomic::AtomicU64::new(0),
        })
    }

    pub(crate) const fn config(&self) -> &HttpConfig {
        &self.config
    }

    /// What `[cdc]` keeps.
    pub(crate) const fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// What `[cdc]` changes.
    pub(crate) fn transforms(&self) -> Option<&dyn Transform> {
        (!self.transforms.is_empty()).then_some(&self.transforms as &dyn Transform)
    }

    /// True if `[cdc]` gives tables other names.
    pub(crate) fn renames(&self) -> bool {
        let renames = |t: &TransformConfig| matches!(t.action, Action::RenameTable { .. });
        self.config.transforms.iter().any(renames)
    }

    pub(crate) fn dead_letters(&self) -> MutexGuard<'_, FileDlq> {
        self.dead_letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_live(&self, live: Live) {
        // A surface has one pipeline in its life.
        drop(self.live.set(live));
    }

    pub(crate) fn pipeline(&self) -> Option<&Live> {
        self.live.get()
    }

    /// Resolves when the process ends its streams.
    pub(crate) fn stop(&self) -> Shutdown {
        self.stop.clone()
    }

    /// The pipeline, or 503 while there is none.
    pub(crate) fn live(&self) -> Result<&Live, Refusal> {
        self.pipeline().ok_or_else(|| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "starting",
                "the pipeline is starting: the source has not answered yet",
            )
        })
    }
}

impl Live {
    /// What can be read now.
    pub(crate) fn extent(&self) -> Result<Extent, Refusal> {
        Ok(self.log.extent()?)
    }

    /// The lane of an emitter.
    pub(crate) fn lane(&self, name: &str) -> Result<&ControlledLane, Refusal> {
        let lane = self.lanes.iter().find(|lane| &*lane.reading.name == name);
        lane.ok_or_else(|| {
            let known: Vec<_> = self.lanes.iter().map(|lane| &*lane.reading.name).collect();
            Refusal::new(
                StatusCode::NOT_FOUND,
                "no_such_emitter",
                format!("find the emitter {name}: there are {}", known.join(", ")),
            )
        })
    }
}

/// Answers one request.
pub(crate) async fn answer(
    surface: Arc<Surface>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let origin = access::allowed_origin(surface.config(), request.headers());
    let mut answer = if request.method() == Method::OPTIONS {
        let mut answer = reply::text(StatusCode::NO_CONTENT, "");
        if origin.is_some() {
            access::preflight(&mut answer);
        }
        answer
    } else {
        match route(&surface, request).await {
            Ok(answer) => answer,
            Err(refusal) => refusal.answer(),
        }
    };
    access::allow(&mut answer, origin);
    Ok(answer)
}

async fn route(surface: &Arc<Surface>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let uri = request.uri().clone();
    let parts: Vec<&str> = uri.path().split('/').skip(1).collect();
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let writing = request.method() == Method::POST;
    let allow = |access| access::check(surface.config(), access, request.headers());
    let query = || Query::parse(uri.query().unwrap_or_default());
    match parts.as_slice() {
        [""] if reading => Ok(reply::text(StatusCode::OK, INDEX)),
        ["livez"] if reading => Ok(reply::text(StatusCode::OK, "ok\n")),
        ["readyz"] if reading => Ok(ready(surface)),
        ["metrics"] if reading => Ok(reply::whole(
            StatusCode::OK,
            metrics::CONTENT_TYPE,
            metrics::text(surface).into_bytes(),
        )),
        ["v1", "status"] if reading => {
            allow(Access::Read)?;
            let status = (surface.live()?.status)();
            Ok(reply::json(StatusCode::OK, &json!(status)))
        }
        ["v1", "stream"] if request.method() == Method::GET => {
            allow(Access::Read)?;
            stream::stream(surface, &query()?, request.headers())
        }
        ["v1", "events"] if reading => {
            allow(Access::Read)?;
            stream::events(surface, &query()?).await
        }
        ["v1", "consumers"] if reading => {
            allow(Access::Read)?;
            consumer::list(surface)
        }
        ["v1", "consumers", name] if reading => {
            allow(Access::Read)?;
            consumer::show(surface, name)
        }
        ["v1", "consumers", name, "ack"] if writing => {
            allow(Access::Change)?;
            let name = (*name).to_owned();
            consumer::acknowledge(surface, &name, &body(request).await?)
        }
        ["v1", "dlq"] if reading => {
            allow(Access::Read)?;
            dlq::list(surface, &query()?)
        }
        ["v1", "dlq", "stats"] if reading => {
            allow(Access::Read)?;
            dlq::stats(surface)
        }
        ["v1", "dlq", "redrive"] if writing => {
            allow(Access::Change)?;
            dlq::redrive(surface, &body(request).await?).await
        }
        ["v1", "dlq", "discard"] if writing => {
            allow(Access::Change)?;
            dlq::discard(surface, &body(request).await?).await
        }
        ["v1", "dlq", id] if reading => {
            allow(Access::Read)?;
            dlq::show(surface, id, &query()?)
        }
        _ => Err(unknown(&parts)),
    }
}

/// 404, or 405 where the path is right and the method is not.
fn unknown(parts: &[&str]) -> Refusal {
    let known = matches!(
        parts,
        ["" | "livez" | "readyz" | "metrics"]
            | ["v1", "status" | "stream" | "events" | "consumers" | "dlq"]
            | ["v1", "consumers" | "dlq", _]
            | ["v1", "consumers", _, "ack"]
    );
    if known {
        Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path takes another method; GET / lists them",
        )
    } else {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is nothing at this path; GET / lists what there is",
        )
    }
}

/// Ready while every lane can deliver or waits for a destination that may come back by itself.
fn ready(surface: &Surface) -> Answer {
    let Ok(live) = surface.live() else {
        return reply::json(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "ready": false, "reason": "starting" }),
        );
    };
    let mut lanes = serde_json::Map::new();
    let mut ready = true;
    for lane in &live.lanes {
        let health = lane.reading.metrics.counts().health;
        ready &= matches!(
            health,
            LaneHealth::Running | LaneHealth::Retrying { .. } | LaneHealth::Paused
        );
        // Names of states only: reasons may name hosts, and this needs no token.
        lanes.insert(lane.reading.name.to_string(), health.name().into());
    }
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    // Not reached is still ready: what the journal holds is delivered.
    let source = live.capture.as_ref().map(|c| c.link.read().name());
    reply::json(
        status,
        &json!({ "ready": ready, "source": source, "emitters": lanes }),
    )
}

/// The whole body of a request, as far as that is bounded.
async fn body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let limited = Limited::new(request.into_body(), BODY_MAX);
    match tokio::time::timeout(BODY_TIMEOUT, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("read the body: it is longer than {BODY_MAX} bytes"),
        )),
        Ok(Err(_)) => Err(Refusal::request("read the body: the connection broke")),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "read the body: it did not come within 10 s",
        )),
    }
}

/// A body as a JSON object; an empty one is an empty object.
pub(crate) fn object(body: &Bytes) -> Result<Value, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!({}));
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value.is_object() => Ok(value),
        _ => Err(Refusal::request("read the body: it must be a JSON object")),
    }
}

/// The token of a position in a source.
pub(crate) fn token(extent: &Extent, position: cdc_core::Position) -> String {
    ResumeToken::new(*extent.lineage(), position).to_string()
}
