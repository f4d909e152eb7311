//! Scrapes `/metrics` of the binary under test all the while, and holds it to what its counters promise.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Error, Result, ensure, postgres};

/// Between two scrapes.
const PAUSE: Duration = Duration::from_millis(10);
/// A scrape that takes longer is given up; the process may just have been killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than the metrics of any run.
const BYTES_MAX: u64 = 4 << 20;

/// A thread that scrapes; dropped, it ends.
#[derive(Debug)]
pub(super) struct Scraper {
    port: u16,
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<Found>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Found {
    /// Scrapes with a lane that had read something.
    scrapes: u64,
    /// The first that did not add up.
    wrong: Option<String>,
}

impl Scraper {
    /// Scrapes whatever listens on a free port, which [`port`](Self::port) names.
    ///
    /// # Errors
    /// No port is free.
    pub(super) fn start() -> Result<Self> {
        let port = postgres::free_port()?;
        let stop = Arc::new(AtomicBool::new(false));
        let found = Arc::new(Mutex::new(Found::default()));
        let thread = {
            let (stop, found) = (stop.clone(), found.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    if let Some(text) = scrape(port) {
                        let judged = judge(&text);
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        match judged {
                            Ok(any) => found.scrapes += u64::from(any),
                            Err(what) => found.wrong = found.wrong.take().or(Some(what)),
                        }
                    }
                    std::thread::park_timeout(PAUSE);
                }
            })
        };
        Ok(Self {
            port,
            stop,
            found,
            thread: Some(thread),
        })
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// How many scrapes added up.
    ///
    /// # Errors
    /// One did not, or there was none.
    pub(super) fn check(&self) -> Result<u64> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = &found.wrong {
            return Err(Error::new(format!("a scrape of /metrics: {what}")));
        }
        ensure!(
            found.scrapes > 0,
            "/metrics was never scraped while a lane had read something"
        );
        Ok(found.scrapes)
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

/// One whole answer; `None` if nobody listens, or the process died meanwhile.
fn scrape(port: u16) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.take(BYTES_MAX).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = head.starts_with("HTTP/1.1 200") && length == Some(body.len());
    whole.then(|| body.to_owned())
}

/// read = filtered + delivered + dead-lettered + parked + rewound + in flight, for each emitter. True if
/// any of them had read something; there may be none yet while the process starts.
fn judge(text: &str) -> std::result::Result<bool, String> {
    /// Read, and the sum of what became of it.
    type Counts = BTreeMap<String, (u64, u64, Vec<String>)>;
    let mut emitters = Counts::new();
    for line in text.lines() {
        let Some((name, labels)) = line.split_once('{') else {
            continue;
        };
        let is_read = name == "cdc_emitter_read_events_total";
        if !is_read && name != "cdc_emitter_events_total" && name != "cdc_emitter_inflight_events" {
            continue;
        }
        let parsed = labels.rsplit_once("} ").and_then(|(labels, value)| {
            let emitter = labels.strip_prefix("emitter=\"")?.split('"').next()?;
            Some((emitter.to_owned(), value.parse::<u64>().ok()?))
        });
        let (emitter, value) = parsed.ok_or_else(|| format!("this line is malformed: {line}"))?;
        let counts = emitters.entry(emitter).or_default();
        if is_read {
            counts.0 += value;
        } else {
            counts.1 += value;
        }
        counts.2.push(line.to_owned());
    }
    for (emitter, (read, sum, lines)) in &emitters {
        if read != sum {
            return Err(format!(
                "emitter {emitter} read {read} events, and {sum} became something: {}",
                lines.join(", ")
            ));
        }
    }
    Ok(emitters.values().any(|(read, ..)| *read > 0))
}

#[cfg(test)]
mod tests {
    use super::judge;

    const GOOD: &str = "# HELP cdc_emitter_read_events_total x\n\
        cdc_emitter_read_events_total{emitter=\"a\"} 7\n\
        cdc_emitter_events_total{emitter=\"a\",result=\"delivered\"} 4\n\
        cdc_emitter_events_total{emitter=\"a\",result=\"parked\"} 1\n\
        cdc_emitter_inflight_events{emitter=\"a\"} 2\n\
        cdc_emitter_up{emitter=\"a\"} 1\n";

    #[test]
    fn counters_that_do_not_add_up_are_named() {
        assert_eq!(judge(GOOD), Ok(true));
        assert_eq!(
            judge(
                &GOOD
                    .replace(" 7", " 0")
                    .replace(" 4", " 0")
                    .replace("\"} 1", "\"} 0")
                    .replace(" 2", " 0")
            ),
            Ok(false)
        );
        let wrong = judge(&GOOD.replace(" 2", " 3")).unwrap_err();
        assert!(
            wrong.contains("emitter a read 7") && wrong.contains("8 became"),
            "{wrong}"
        );
        assert_eq!(judge("cdc_source_up 1\n"), Ok(false));
        assert!(judge(&GOOD.replace(" 7", " x")).is_err());
    }
}
