//! `bench`: measure this machine.

use serde_json::Value;

use crate::args::{BenchArgs, Global, OutputFormat};
use crate::bench;
use crate::exit::Exit;
use crate::output::{print, print_json};
use crate::report::CliError;

pub(crate) fn run(args: &BenchArgs, global: &Global) -> Result<Exit, CliError> {
    let results = bench::run(args)?;
    if global.output == OutputFormat::Json {
        match <[Value; 1]>::try_from(results) {
            Ok([one]) => print_json(&one)?,
            Err(several) => print_json(&Value::Array(several))?,
        }
        return Ok(Exit::Done);
    }
    for result in &results {
        print(&text(result))?;
    }
    Ok(Exit::Done)
}

fn text(result: &Value) -> String {
    if result["benchmark"] == "poison" {
        return format!(
            "log -> webhook: {} events of {} keys, 1 % refused, {} requests at once\n  the other keys, second half: {} events/s, {} without refusals: {:.1} % lost\n",
            result["events"],
            result["keys"],
            result["concurrency"],
            result["poison_events_per_second"],
            result["clean_events_per_second"],
            result["others_lose_percent"].as_f64().unwrap_or_default()
        );
    }
    let head = format!(
        "log -> {}: {} events of {} bytes, {} a transaction, all counted at the destination\n",
        result["emitter"].as_str().unwrap_or_default(),
        result["events"],
        result["row_bytes"],
        result["transaction"]
    );
    let number = |name: &str| result[name].as_f64().unwrap_or_default();
    let rest = if result["benchmark"] == "latency" {
        format!(
            "  at {} events/s, synced commits; due to seen: {}\n  due to durable, one thread that only writes and syncs: {}\n",
            result["rate"],
            percentiles(&result["micros"]),
            percentiles(&result["raw_durable_micros"])
        )
    } else {
        format!(
            "  append, unsynced {:.2} M events/s; delivered {:.2} M events/s\n",
            number("append_events_per_second") / 1e6,
            number("events_per_second") / 1e6
        )
    };
    let raw = result["ratio_to_raw_append"]
        .as_f64()
        .map_or_else(String::new, |ratio| {
            format!(
                "  {} MB/s, {:.2} of a plain append of the same bytes ({} MB/s)\n",
                result["mb_per_second"], ratio, result["raw_append_mb_per_second"]
            )
        });
    let cost = format!(
        "  {:.2} CPU seconds a million events, peak memory {} MiB\n",
        number("cpu_seconds_per_million"),
        result["peak_rss_kib"].as_u64().unwrap_or_default() / 1024
    );
    head + &rest + &raw + &cost
}

fn percentiles(micros: &Value) -> String {
    format!(
        "p50 {} us, p90 {} us, p99 {} us, p99.9 {} us, max {} us",
        micros["p50"], micros["p90"], micros["p99"], micros["p999"], micros["max"]
    )
}
