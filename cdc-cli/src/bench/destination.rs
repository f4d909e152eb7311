//! Where the benchmark delivers, and what is counted there.

use std::convert::Infallible;
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
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::failed;
use super::workload::Schedule;
use crate::args::BenchEmitter;
use crate::assemble::lanes::spawn;
use crate::exit::Exit;
use crate::report::CliError;

/// A signing key for the benchmark's own receiver.
const SECRET: &str = "whsec_YmVuY2htYXJrLW9ubHktc2VjcmV0LWJlbmNobWFyaw==";
/// Longest wait for the destination to have counted everything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a destination has counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) events: u64,
    /// Microseconds from due to seen, one an event, if there was a schedule.
    micros: Vec<u32>,
}

impl Counted {
    /// 50, 90, 99, 99.9 % and the largest.
    pub(crate) fn percentiles(&mut self) -> [u32; 5] {
        self.micros.sort_unstable();
        let at = |per_mille: usize| {
            let index =
                (self.micros.len() * per_mille / 1000).min(self.micros.len().saturating_sub(1));
            self.micros.get(index).copied().unwrap_or_default()
        };
        [at(500), at(900), at(990), at(999), at(1000)]
    }
}

#[derive(Debug, Default)]
struct Meter {
    events: AtomicU64,
    micros: Mutex<Vec<u32>>,
    schedule: Option<Schedule>,
}

impl Meter {
    fn see(&self, ids: impl Iterator<Item = u64>, count: u64) {
        if let Some(schedule) = &self.schedule {
            let now = Instant::now();
            let mut micros = self.micros.lock().unwrap_or_else(PoisonError::into_inner);
            micros.extend(ids.map(|id| {
                let late = now.saturating_duration_since(schedule.due(id)).as_micros();
                u32::try_from(late).unwrap_or(u32::MAX)
            }));
        }
        self.events.fetch_add(count, Ordering::Relaxed);
    }
}

/// One destination, started.
pub(crate) struct Destination {
    kind: BenchEmitter,
    meter: Arc<Meter>,
    emitter: Mutex<Option<BoxEmitter>>,
}

impl Destination {
    pub(crate) fn start(
        kind: BenchEmitter,
        dir: &Path,
        schedule: Option<Schedule>,
    ) -> Result<Self, CliError> {
        let meter = Arc::new(Meter {
            schedule,
            ..Meter::default()
        });
        let wrong = |error: Box<dyn std::error::Error + Send + Sync>| {
            CliError::new(Exit::Runtime, "open the emitter of the benchmark").with_cause(error)
        };
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
                let address =
                    receive(meter.clone()).map_err(|cause| failed("start a receiver", cause))?;
                let mut config = WebhookConfig::new("bench", format!("http://{address}/"));
                config.secrets = vec![Secret::parse(SECRET).map_err(|e| wrong(e.into()))?];
                BoxEmitter::new(WebhookEmitter::new(config).map_err(|e| wrong(e.into()))?)
            }
        };
        Ok(Self {
            kind,
            meter,
            emitter: Mutex::new(Some(emitter)),
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
        match self.kind {
            BenchEmitter::Queue | BenchEmitter::All => "queue",
            BenchEmitter::File => "file",
            BenchEmitter::Webhook => "webhook",
        }
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
            micros: self
                .meter
                .micros
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
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

/// A receiver on loopback that counts events by their ids.
fn receive(meter: Arc<Meter>) -> std::io::Result<std::net::SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("receiver".into())
        .spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                    return;
                };
                while let Ok((stream, _)) = listener.accept().await {
                    let meter = meter.clone();
                    tokio::spawn(async move {
                        let service = service_fn(|request| take(meter.clone(), request));
                        drop(
                            http1::Builder::new()
                                .serve_connection(TokioIo::new(stream), service)
                                .await,
                        );
                    });
                }
            });
        })?;
    Ok(address)
}

async fn take(
    meter: Arc<Meter>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Ok(body) = request.into_body().collect().await {
        let body = body.to_bytes();
        // The key of a row is its id: `"key":{"id":N}`.
        let marker = b"\"key\":{\"id\":";
        let ids: Vec<u64> = find_all(&body, marker)
            .map(|at| {
                body[at + marker.len()..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit())
                    .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
            })
            .collect();
        let count = ids.len() as u64;
        meter.see(ids.into_iter(), count);
    }
    Ok(Response::new(Full::default()))
}

fn find_all<'a>(body: &'a [u8], marker: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        // Quotes are rare enough that looking for the first byte is quick.
        while let Some(found) = body.get(from..)?.iter().position(|byte| *byte == marker[0]) {
            let at = from + found;
            from = at + 1;
            if body[at..].starts_with(marker) {
                return Some(at);
            }
        }
        None
    })
}
