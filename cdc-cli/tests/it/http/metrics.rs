//! `/livez`, `/readyz`, `/metrics`, `/v1/status`.

use std::collections::BTreeMap;

use super::client::{Surface, curl, shop};
use crate::tool::snapshot;

/// Samples by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| line.starts_with("cdc_"));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// read = filtered + delivered + dead-lettered + parked + rewound + in flight. Gives what was read.
#[track_caller]
fn adds_up(text: &str, emitter: &str) -> f64 {
    let samples = samples(text);
    let read = samples[&format!("cdc_emitter_read_events_total{{emitter=\"{emitter}\"}}")];
    let in_flight = samples[&format!("cdc_emitter_inflight_events{{emitter=\"{emitter}\"}}")];
    let results = format!("cdc_emitter_events_total{{emitter=\"{emitter}\",result=");
    let ended = samples
        .iter()
        .filter(|(name, _)| name.starts_with(&results));
    let sum: f64 = ended.map(|(_, count)| count).sum();
    assert!((read - sum - in_flight).abs() < 0.5, "{text}");
    read
}

/// Everything but times and sizes is as committed.
#[test]
fn metrics_are_in_the_text_format() {
    let mut shop = shop("");
    shop.commit(10);
    let surface = Surface::start(&shop);
    surface.until_metric("cdc_emitter_events_total{emitter=\"file\",result=\"delivered\"} 10");
    let text = surface.get("/metrics").body;
    adds_up(&text, "file");
    let shown: Vec<String> = text
        .lines()
        .map(|line| match line.rsplit_once(' ') {
            Some((name, _)) if line.contains("seconds") && !line.starts_with('#') => {
                format!("{name} (time)")
            }
            Some((name, _)) if line.starts_with("cdc_dlq_bytes ") => format!("{name} (size)"),
            _ => line.to_owned(),
        })
        .collect();
    snapshot("http_metrics", &shown.join("\n"));
    let samples = samples(&text);
    let count = samples["cdc_emitter_end_to_end_seconds_count{emitter=\"file\"}"];
    let all = samples["cdc_emitter_end_to_end_seconds_bucket{emitter=\"file\",le=\"+Inf\"}"];
    assert_eq!((count, all), (10.0, 10.0));
    surface.stop();
}

/// Scraped hundreds of times while events flow: no reading is in the middle of anything.
#[test]
fn the_counters_add_up_at_every_scrape() {
    let mut shop = shop("");
    let surface = Surface::start(&shop);
    let scrapes = curl(&[])
        .arg(format!("{}?[1-400]", surface.url("/metrics")))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    shop.commit(1500);
    let text = String::from_utf8(scrapes.wait_with_output().unwrap().stdout).unwrap();
    let scrapes: Vec<&str> = text.split("# HELP cdc_build_info ").skip(1).collect();
    assert_eq!(scrapes.len(), 400);
    let read: Vec<f64> = scrapes.iter().map(|text| adds_up(text, "file")).collect();
    assert!(read.is_sorted(), "counters never go back: {read:?}");
    surface.until_metric("cdc_emitter_events_total{emitter=\"file\",result=\"delivered\"} 1500");
    surface.until_metric("cdc_emitter_inflight_events{emitter=\"file\"} 0");
    surface.stop();
}

#[test]
fn health_says_what_it_means() {
    let shop = shop("");
    let mut surface = Surface::start(&shop);
    surface.run.until_health("running");
    assert_eq!(surface.get("/livez").status, 200);
    let got = surface.get("/readyz");
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.json()["emitters"]["file"], "running");
    let status = surface.get("/v1/status").json();
    assert_eq!(status["running"], true);
    assert_eq!(status["http"], surface.address.as_str());
    assert!(surface.get("/").body.contains("/v1/stream"));
    surface.stop();
}

/// While the destination refuses everything, the process lives and is not ready.
#[test]
fn a_refused_lane_is_not_ready() {
    let config = super::client::config(
        "[cdc.webhook]\nurl = \"http://127.0.0.1:PORT/\"\n",
        "emitter = \"webhook\"\n",
        "",
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _some = stream.read(&mut [0; 65536]).unwrap();
            stream
                .write_all(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .unwrap();
        }
    });
    let config = config.replace("PORT", &port.to_string());
    let mut shop = crate::bad::shop::Shop::with_config(&config);
    shop.commit(1);
    let mut surface = Surface::start(&shop);
    surface.run.until_health("refused");
    assert_eq!(surface.get("/livez").status, 200);
    let got = surface.get("/readyz");
    assert_eq!(got.status, 503, "{}", got.body);
    assert_eq!(got.json()["emitters"]["webhook"], "refused");
    surface.until_metric("cdc_emitter_up{emitter=\"webhook\"} 0");
    surface.stop();
}
