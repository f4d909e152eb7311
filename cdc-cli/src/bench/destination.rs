//! Where the benchmark delivers, and what is counted there.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cdc_core::{BoxEmitter, ValueRef};
use cdc_emit_file::{FileConfig, FileEmitter};
use cdc_emit_queue::{QueueConfig, QueueConsumer, QueueEmitter};
use cdc_emit_webhook::{Secret, WebhookConfig, WebhookEmitter};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use super::failed;
use super::histogram::Histogram;
use super::workload::Schedule;
use crate::args::BenchEmitter;
use crate::assemble::lanes::spawn;
use crate::exit::Exit;
use crate::loopback;
use crate::report::CliError;

/// The key of a row in the body of a request.
const KEY: &[u8] = b"\"key\":{\"id\":";

/// A signing key for the benchmark's own receiver.
const SECRET: &str = "whsec_YmVuY2htYXJrLW9ubHktc2VjcmV0LWJlbmNobWFyaw==";
/// Longest wait for the destination to have counted everything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a destination has counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) events: u64,
    /// From due to seen, if there was a schedule.
    pub(crate) latency: Histogram,
    /// From the first half of the events to the last of them.
    pub(crate) second_half: Duration,
}

/// What is measured at a destination.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measure {
    /// When each event was due.
    pub(crate) schedule: Option<Schedule>,
    /// Keys of which one in a hundred is refused.
    pub(crate) poison: bool,
    /// Events that half of the run is; 0 if it is of no interest.
    pub(crate) half: u64,
    pub(crate) row_bytes: usize,
}

#[derive(Debug)]
struct Meter {
    events: AtomicU64,
    latency: Mutex<Histogram>,
    /// When half of the events had come, and the last.
    times: Mutex<(Option<Instant>, Option<Instant>)>,
    measure: Measure,
    row_bytes: usize,
}

impl Meter {
    const fn refuses(&self, id: u64) -> bool {
        self.measure.poison && is_poison(id)
    }

    fn see(&self, ids: impl Iterator<Item = u64>, count: u64) {
        let now = Instant::now();
        if let Some(schedule) = &self.measure.schedule {
            let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
            for id in ids {
                latency.add(now.saturating_duration_since(schedule.due(id)));
            }
        }
        let before = self.events.fetch_add(count, Ordering::Relaxed);
        let half = self.measure.half;
        if half > 0 && before + count >= half {
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            times.0.get_or_insert(now);
            times.1 = Some(now);
        }
    }
}

/// One key in a hundred.
pub(crate) const fn is_poison(key: u64) -> bool {
    key % 100 == 50
}

/// What a destination is called.
pub(crate) const fn name(kind: BenchEmitter) -> &'static str {
    match kind {
        BenchEmitter::Queue | BenchEmitter::All => "queue",
        BenchEmitter::File => "file",
        BenchEmitter::Webhook => "webhook",
    }
}

/// One destination, started.
pub(crate) struct Destination {
    kind: BenchEmitter,
    meter: Arc<Meter>,
    emitter: Mutex<Option<BoxEmitter>>,
    /// Answers until the counts were taken.
    _receiver: Option<loopback::Receiver>,
}

impl Destination {
    pub(crate) fn start(
        kind: BenchEmitter,
        dir: &Path,
        measure: Measure,
    ) -> Result<Self, CliError> {
        let meter = Arc::new(Meter {
            events: AtomicU64::new(0),
            latency: Mutex::default(),
            times: Mutex::default(),
            row_bytes: measure.row_bytes,
            measure,
        });
        let wrong = |error: Box<dyn std::error::Error + Send + Sync>| {
            CliError::new(Exit::Runtime, "open the emitter of the benchmark").with_cause(error)
        };
        let mut receiver = None;
        let emitter = match kind {
            BenchEmitter::Queue | BenchEmitter::All => {
                let emitter =
                    QueueEmitter::new(QueueConfig::default()).map_err(|e| wrong(e.into()))?;
                let (consumer, meter) = (emitter.consumer(), meter.clone());
                spawn("consumer", move || consume(&consumer, &meter))?;
                BoxEmitter::new(emitter)
            }
            BenchEmitter::File => {
                let emitter = FileEmitter::new(FileConfig::new(dir.join("out"), "bench"));
                BoxEmitter::new(emitter.map_err(|e| wrong(e.into()))?)
            }
            BenchEmitter::Webhook => {
                let meter = meter.clone();
                let serving = loopback::serve(move |request| take(meter.clone(), request))
                    .map_err(|cause| failed("start a receiver", cause))?;
                let address = serving.address();
                receiver = Some(serving);
                let mut config = WebhookConfig::new("bench", format!("http://{address}/"));
                config.secrets = vec![Secret::parse(SECRET).map_err(|e| wrong(e.into()))?];
                BoxEmitter::new(WebhookEmitter::new(config).map_err(|e| wrong(e.into()))?)
            }
        };
        Ok(Self {
            kind,
            meter,
            emitter: Mutex::new(Some(emitter)),
            _receiver: receiver,
        })
    }

    /// The emitter, for the one lane.
    pub(crate) fn emitter(&self) -> Result<BoxEmitter, CliError> {
        let mut emitter = self.emitter.lock().unwrap_or_else(PoisonError::into_inner);
        emitter
            .take()
            .ok_or_else(|| CliError::new(Exit::Runtime, "open the emitter twice"))
    }

    pub(crate) const fn name(&self) -> &'static str {
        name(self.kind)
    }

    pub(crate) const fn sees_each_event(&self) -> bool {
        !matches!(self.kind, BenchEmitter::File)
    }

    /// Waits until everything was seen, or for a while.
    pub(crate) fn wait_for(&self, events: u64) {
        let began = Instant::now();
        while self.meter.events.load(Ordering::Relaxed) < events && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What has arrived: events seen, or lines in the files.
    pub(crate) fn count(&self, dir: &Path) -> Result<Counted, CliError> {
        if self.kind == BenchEmitter::File {
            let events = lines(&dir.join("out")).map_err(|cause| failed("count lines", cause))?;
            return Ok(Counted {
                events,
                ..Counted::default()
            });
        }
        Ok(Counted {
            events: self.meter.events.load(Ordering::Relaxed),
            latency: self
                .meter
                .latency
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            second_half: match *self
                .meter
                .times
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
            {
                (Some(half), Some(last)) => last - half,
                _ => Duration::ZERO,
            },
        })
    }
}

fn lines(dir: &Path) -> std::io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(".ndjson") {
            let mut reader = BufReader::with_capacity(1 << 20, fs::File::open(entry.path())?);
            loop {
                let buffer = reader.fill_buf()?;
                if buffer.is_empty() {
                    break;
                }
                count += buffer.iter().filter(|byte| **byte == b'\n').count() as u64;
                let length = buffer.len();
                reader.consume(length);
            }
        }
    }
    Ok(count)
}

fn consume(consumer: &QueueConsumer, meter: &Meter) {
    while let Some(batch) = consumer.recv_blocking() {
        let ids = batch
            .events()
            .iter()
            .filter_map(|event| match event.after.row()?.get(0) {
                Ok(Some(ValueRef::Int(id))) => u64::try_from(id).ok(),
                _ => None,
            });
        meter.see(ids, batch.events().len() as u64);
        batch.ack();
    }
}

/// Takes a request: counts its events, unless one of them is refused.
async fn take(meter: Arc<Meter>, request: Request<Incoming>) -> StatusCode {
    let Ok(body) = request.into_body().collect().await else {
        return StatusCode::BAD_REQUEST;
    };
    let body = body.to_bytes();
    let ids: Vec<u64> = find_all(&body, KEY, meter.row_bytes)
        .map(|at| {
            body[at + KEY.len()..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
        })
        .collect();
    if ids.iter().any(|id| meter.refuses(*id)) {
        return StatusCode::BAD_REQUEST;
    }
    let count = ids.len() as u64;
    meter.see(ids.into_iter(), count);
    StatusCode::OK
}

/// Where `marker` stands in a body; the next one is at least `apart` bytes away.
fn find_all<'a>(
    body: &'a [u8],
    marker: &'a [u8],
    apart: usize,
) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        while let Some(found) = body.get(from..)?.iter().position(|byte| *byte == marker[0]) {
            let at = from + found;
            from = at + 1;
            if body[at..].starts_with(marker) {
                from = at + apart;
                return Some(at);
            }
        }
        None
    })
}
