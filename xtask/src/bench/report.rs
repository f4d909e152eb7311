//! Results as a table for people; the JSON is for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What the numbers were measured on.
pub(super) fn machine() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, name)| name.trim())
        })
        .unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: String = load.split_whitespace().take(1).collect();
    json!({ "cpu": model, "cores": cores, "load_at_end": load })
}

/// Each benchmark's results: a line an entry, nested members as `name.member`.
pub(super) fn table(results: &Value) -> String {
    let mut out = String::new();
    for (name, result) in results.as_object().into_iter().flatten() {
        let _ = writeln!(out, "{name}");
        let entries = match result {
            Value::Array(entries) => entries.clone(),
            other => vec![other.clone()],
        };
        for (at, entry) in entries.iter().enumerate() {
            let mut lines = Vec::new();
            flatten("", entry, &mut lines);
            let width = lines
                .iter()
                .map(|(name, _)| name.chars().count())
                .max()
                .unwrap_or(0);
            if at > 0 {
                out.push('\n');
            }
            for (name, value) in lines {
                let _ = writeln!(out, "  {name:<width$}  {value}");
            }
        }
        out.push('\n');
    }
    out
}

fn flatten(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let joined = |name: &str| {
        if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}.{name}")
        }
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                flatten(&joined(name), member, lines);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                flatten(&joined(&at.to_string()), item, lines);
            }
        }
        Value::String(text) => lines.push((prefix.to_owned(), text.clone())),
        other => lines.push((prefix.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_become_lines() {
        let results =
            json!({"log": [{"emitter": "file", "rate": {"p50": 1.5}}, {"emitter": "queue"}]});
        assert_eq!(
            table(&results),
            "log\n  emitter   file\n  rate.p50  1.5\n\n  emitter  queue\n\n"
        );
    }
}
