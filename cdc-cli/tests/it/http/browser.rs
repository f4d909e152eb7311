//! A browser's own `EventSource`, across a restart of the pipeline.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::Value;

use super::client::{Surface, shop};

/// What the page does: collects what is dispatched and reports it.
const PAGE: &str = r#"<!doctype html><script>
const seen = [];
const source = new EventSource("http://SURFACE/v1/stream?from=earliest");
const report = (what) => fetch("/report", { method: "POST", body: JSON.stringify(what) });
source.onmessage = (event) => {
  const id = JSON.parse(event.data).after.id;
  seen.push(id);
  if (id % 10 === 0) report({ seen, last: event.lastEventId });
};
source.addEventListener("cdc-error", (event) => report({ error: event.data }));
</script>"#;

/// A browser that is closed when the test ends.
struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new("chromium")
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args(["--disable-dev-shm-usage", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium: install the Debian package chromium, or run `cargo xtask setup`");
        Self {
            child,
            _profile: profile,
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Serves the page, and gives the page's reports.
fn serve(listener: TcpListener, page: String) -> mpsc::Receiver<Value> {
    let (tell, reports) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (tell, page) = (tell.clone(), page.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.unwrap());
                let (mut first, mut length) = (String::new(), 0);
                reader.read_line(&mut first).unwrap();
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap_or(0) > 2 {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let answer = if first.starts_with("POST") { "" } else { &page };
                if let Ok(report) = serde_json::from_slice(&body) {
                    // The test may have ended.
                    drop(tell.send(report));
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    answer.len()
                );
                let mut stream = reader.into_inner();
                drop(stream.write_all(head.as_bytes()));
                drop(stream.write_all(answer.as_bytes()));
            });
        }
    });
    reports
}

/// Waits for a report of so many events.
fn seen(reports: &mpsc::Receiver<Value>, count: usize) -> Vec<i64> {
    loop {
        let report = reports
            .recv_timeout(std::time::Duration::from_secs(60))
            .expect("the page reports");
        assert!(report.get("error").is_none(), "{report}");
        assert!(report["last"].as_str().unwrap().starts_with("cdc1_"));
        let seen = report["seen"].as_array().unwrap();
        if seen.len() >= count {
            return seen.iter().map(|id| id.as_i64().unwrap()).collect();
        }
    }
}

/// The connection breaks, the browser connects again by itself with the id it saw last, and the
/// page has every event once, in order.
#[test]
fn an_event_source_goes_on_after_a_restart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let page_at = listener.local_addr().unwrap();
    let mut shop = shop(&format!("origins = [\"http://{page_at}\"]\n"));
    shop.commit(20);
    let surface = Surface::start(&shop);
    let address = surface.address.clone();
    let reports = serve(listener, PAGE.replace("SURFACE", &address));
    let _browser = Browser::open(&format!("http://{page_at}/"));
    assert_eq!(seen(&reports, 20), shop.committed());
    surface.stop();
    drop(shop.commit(10));
    let set = format!("http.listen={address}");
    let surface = Surface::with(&shop.tool, &["-q", "run", "--set", &set]);
    assert_eq!(seen(&reports, 30), shop.committed());
    let log = shop.commit(10);
    assert_eq!(seen(&reports, 40), shop.committed());
    drop(log);
    surface.stop();
}
