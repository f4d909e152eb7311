//! Delivery from our own log to each destination, by `cdc-cli bench`: rates, latency at a fixed rate,
//! what dead keys cost the others, memory. Counts are checked at the destination.

use std::process::Command;

use serde_json::{Map, Value, json};

use super::measure::{median, warm_page_cache};
use super::{Settings, Target, verdicts};
use crate::error::Context;
use crate::{Result, command};

/// Events at full size.
const EVENTS: u64 = 2_000_000;
/// Events a second at which latency is measured.
const RATE: u64 = 50_000;
/// A file system in memory, where there is one.
const MEMORY: &str = "/dev/shm";
/// About what an event is as a line of JSON.
const LINE_BYTES: u64 = 600;

/// What is asked for.
const TARGETS: [Target; 11] = [
    ("queue_m_events_s", true, 2.0),
    ("webhook_m_events_s", true, 0.25),
    ("file_memory_m_events_s", true, 1.0),
    ("file_disk_to_limit", true, 0.8),
    ("queue_latency_p50_us", false, 1000.0),
    ("queue_latency_p99_us", false, 5000.0),
    ("webhook_latency_p99_us", false, 5000.0),
    ("queue_latency_disk_p99_to_raw", false, 15.0),
    ("webhook_latency_disk_p99_to_raw", false, 15.0),
    ("poison_others_lose_percent", false, 5.0),
    ("peak_resident_mib", false, 64.0),
];

/// One `cdc-cli bench`, and what is taken from its answer.
struct Part {
    name: &'static str,
    arguments: Vec<String>,
    measures: &'static [(&'static str, &'static str, f64)],
}

fn parts(settings: &Settings) -> Vec<Part> {
    let events = settings.scaled(EVENTS);
    let disk = crate::root().join("target").display().to_string();
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let rate = |name, emitter: &str, measures| Part {
        name,
        arguments: words(&format!("--emitter {emitter} --events {events}")),
        measures,
    };
    let on = |mut part: Part, dir: &str| {
        part.arguments.extend(["--dir".to_owned(), dir.to_owned()]);
        part
    };
    let latency = |name, emitter: &str, measures| Part {
        name,
        arguments: words(&format!(
            "--emitter {emitter} --rate {RATE} --events {}",
            settings.scaled(10 * RATE)
        )),
        measures,
    };
    let mut parts = vec![
        rate(
            "log to queue",
            "queue",
            &[
                ("queue_m_events_s", "/events_per_second", 1e-6),
                ("queue_cpu_s_m", "/cpu_seconds_per_million", 1.0),
            ],
        ),
        rate(
            "log to webhook, batches of 100, signed",
            "webhook",
            &[
                ("webhook_m_events_s", "/events_per_second", 1e-6),
                ("webhook_cpu_s_m", "/cpu_seconds_per_million", 1.0),
            ],
        ),
    ];
    if std::path::Path::new(MEMORY).is_dir() {
        parts.push(on(
            rate(
                "log to file, in memory",
                "file",
                &[
                    ("file_memory_m_events_s", "/events_per_second", 1e-6),
                    ("file_memory_mb_s", "/mb_per_second", 1.0),
                    ("file_memory_cpu_s_m", "/cpu_seconds_per_million", 1.0),
                ],
            ),
            MEMORY,
        ));
    }
    parts.push(on(
        rate(
            "log to file, on disk",
            "file",
            &[
                ("file_disk_m_events_s", "/events_per_second", 1e-6),
                ("file_disk_mb_s", "/mb_per_second", 1.0),
                ("raw_append_mb_s", "/raw_append_mb_per_second", 1.0),
                ("file_disk_to_raw_append", "/ratio_to_raw_append", 1.0),
                ("file_disk_cpu_s_m", "/cpu_seconds_per_million", 1.0),
            ],
        ),
        &disk,
    ));
    // What a disk takes says nothing of what delivery adds: without one, the limits are absolute; with
    // one, beside a program that only makes the commits durable.
    if std::path::Path::new(MEMORY).is_dir() {
        let queue = latency(
            "latency to queue at 50 000 events a second, log in memory",
            "queue",
            &[
                ("queue_latency_p50_us", "/micros/p50", 1.0),
                ("queue_latency_p99_us", "/micros/p99", 1.0),
                ("queue_latency_p999_us", "/micros/p999", 1.0),
                ("queue_latency_max_us", "/micros/max", 1.0),
            ],
        );
        let webhook = latency(
            "latency to webhook at 50 000 events a second, log in memory",
            "webhook",
            &[
                ("webhook_latency_p50_us", "/micros/p50", 1.0),
                ("webhook_latency_p99_us", "/micros/p99", 1.0),
                ("webhook_latency_max_us", "/micros/max", 1.0),
            ],
        );
        parts.extend([queue, webhook].map(|part| on(part, MEMORY)));
    }
    let queue = latency(
        "latency to queue at 50 000 events a second, log on disk",
        "queue",
        &[
            ("queue_latency_disk_p50_us", "/micros/p50", 1.0),
            ("queue_latency_disk_p99_us", "/micros/p99", 1.0),
            ("queue_raw_durable_p99_us", "/raw_durable_micros/p99", 1.0),
            ("queue_latency_disk_p99_to_raw", "/p99_to_raw_durable", 1.0),
        ],
    );
    let webhook = latency(
        "latency to webhook at 50 000 events a second, log on disk",
        "webhook",
        &[
            ("webhook_latency_disk_p50_us", "/micros/p50", 1.0),
            ("webhook_latency_disk_p99_us", "/micros/p99", 1.0),
            ("webhook_raw_durable_p99_us", "/raw_durable_micros/p99", 1.0),
            (
                "webhook_latency_disk_p99_to_raw",
                "/p99_to_raw_durable",
                1.0,
            ),
        ],
    );
    parts.extend([queue, webhook].map(|part| on(part, &disk)));
    parts.push(Part {
        name: "dead keys",
        // In sixty-four runs: each must last longer than what the machine does between two seconds.
        arguments: words(&format!("--poison --events {}", 12 * events)),
        measures: &[
            ("poison_others_lose_percent", "/others_lose_percent", 1.0),
            (
                "poison_others_lose_percent_low",
                "/others_lose_percent_low",
                1.0,
            ),
            (
                "poison_others_lose_percent_high",
                "/others_lose_percent_high",
                1.0,
            ),
            ("poison_cpu_s_m", "/poison_cpu_seconds_per_million", 1.0),
            ("poison_none_cpu_s_m", "/clean_cpu_seconds_per_million", 1.0),
            ("poison_m_events_s", "/poison_events_per_second", 1e-6),
            ("poison_none_m_events_s", "/clean_events_per_second", 1e-6),
        ],
    });
    parts
}

/// Runs all parts, each as often as rounds are asked for, and takes the medians; of memory the most.
///
/// # Errors
/// Something fails, its answer is no JSON, or a count at a destination is wrong.
pub(super) fn run(settings: &Settings) -> Result<Value> {
    let mut measures = Map::new();
    let mut resident: f64 = 0.0;
    let target = crate::root().join("target");
    std::fs::create_dir_all(&target).context(|| "make the directory target".to_owned())?;
    warm_page_cache(&target, settings.scaled(EVENTS) * LINE_BYTES)?;
    for part in parts(settings) {
        let mut answers = Vec::new();
        for round in 0..settings.rounds {
            eprintln!("bench: {}: round {}", part.name, round + 1);
            let mut bench = Command::new(&settings.cli);
            bench
                .args(["-q", "bench", "-o", "json"])
                .args(&part.arguments);
            let text = command::output(&mut bench)?;
            let answer: Value = serde_json::from_str(&text)
                .context(|| format!("parse the answer of `{}`", command::shown(&bench)))?;
            let kib = answer["peak_rss_kib"].as_f64().unwrap_or_default();
            resident = resident.max(kib / 1024.0);
            answers.push(answer);
        }
        for (name, pointer, factor) in part.measures {
            let values = answers
                .iter()
                .filter_map(|answer| answer.pointer(pointer)?.as_f64());
            let values: Vec<f64> = values.collect();
            measures.insert((*name).to_owned(), json!(median(&values) * factor));
        }
    }
    if let Some(ratio) = to_limit(&measures) {
        measures.insert("file_disk_to_limit".to_owned(), json!(ratio));
    }
    measures.insert("peak_resident_mib".to_owned(), json!(resident));
    Ok(json!({ "targets": verdicts(&TARGETS, &measures), "measures": measures }))
}

/// Files on a disk beside what limits them: plain appends to it, or, where it takes those faster than
/// events can be made into lines, the same delivery with the files in memory.
fn to_limit(measures: &Map<String, Value>) -> Option<f64> {
    let measure = |name| measures.get(name)?.as_f64();
    let append = measure("raw_append_mb_s")?;
    let limit = measure("file_memory_mb_s").map_or(append, |memory| append.min(memory));
    Some(measure("file_disk_mb_s")? / limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_files_is_the_slower_of_the_disk_and_the_lines() {
        let of = |measures: Value| to_limit(measures.as_object().expect("an object"));
        let slow_disk =
            json!({"file_disk_mb_s": 400.0, "raw_append_mb_s": 500.0, "file_memory_mb_s": 1000.0});
        assert_eq!(of(slow_disk), Some(0.8));
        let fast_disk =
            json!({"file_disk_mb_s": 900.0, "raw_append_mb_s": 2000.0, "file_memory_mb_s": 1000.0});
        assert_eq!(of(fast_disk), Some(0.9));
        let no_memory = json!({"file_disk_mb_s": 900.0, "raw_append_mb_s": 1000.0});
        assert_eq!(of(no_memory), Some(0.9));
        assert_eq!(of(json!({})), None);
    }
}
