//! `/metrics` of the tool, scraped while it runs and dies: at every scrape what a lane read is what became of
//! it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A thread that ends when this is dropped.
pub(super) struct Scrapes {
    pub(super) port: u16,
    stop: Arc<AtomicBool>,
    wrong: Arc<Mutex<Option<String>>>,
}

impl Scrapes {
    pub(super) fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let stop = Arc::new(AtomicBool::new(false));
        let wrong: Arc<Mutex<Option<String>>> = Arc::default();
        let (stopped, found) = (stop.clone(), wrong.clone());
        std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if let Some(text) = scrape(port)
                    && !adds_up(&text)
                {
                    found.lock().unwrap().get_or_insert(text);
                }
                // The process lives for tenths of a second.
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        Self { port, stop, wrong }
    }

    pub(super) fn check(&self, name: &str) {
        let wrong = self.wrong.lock().unwrap();
        assert!(
            wrong.is_none(),
            "{name}: {}",
            wrong.as_deref().unwrap_or_default()
        );
    }
}

impl Drop for Scrapes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A whole answer, if somebody listens and lives long enough to give it.
fn scrape(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let line = line.to_ascii_lowercase();
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
    })?;
    (length == body.len()).then(|| body.to_owned())
}

/// There is one emitter.
fn adds_up(text: &str) -> bool {
    let sum = |prefix: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(prefix));
        let values = lines.filter_map(|line| line.rsplit_once(' '));
        values
            .map(|(_, value)| value.parse::<f64>().unwrap_or(f64::NAN))
            .sum()
    };
    let read = sum("cdc_emitter_read_events_total{");
    let became = sum("cdc_emitter_events_total{") + sum("cdc_emitter_inflight_events{");
    (read - became).abs() < 0.5
}
