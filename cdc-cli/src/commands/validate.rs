//! `validate`: check a configuration without connecting anywhere, and say what it means.

use serde_json::{Value, json};

use crate::args::{Global, ValidateArgs};
use crate::config::{
    self, Config, Confirm, Destination, EmitterConfig, FileSync, duration_text, size_text,
};
use crate::exit::Exit;
use crate::output;
use crate::report::CliError;

pub(crate) fn run(_args: &ValidateArgs, global: &Global) -> Result<Exit, CliError> {
    let layers = global.layers();
    let config = config::load(&layers)?;
    let file = layers.file.as_ref().map(|path| path.display().to_string());
    output::answer(
        global.output,
        || text(&config, file.as_deref()),
        || json(&config, file.as_deref()),
    )?;
    Ok(Exit::Done)
}

fn text(config: &Config, file: Option<&str>) -> String {
    let mut out = format!(
        "{}: valid\n\n",
        file.unwrap_or("no configuration file, defaults only")
    );
    let mut rows = vec![
        (
            "source".to_owned(),
            config.source.as_ref().map_or_else(
                || "not set (`run` needs it: `source`, WEFTKIT_CDC_SOURCE or --source)".to_owned(),
                ToString::to_string,
            ),
        ),
        ("state".to_owned(), config.state_path.display().to_string()),
        (
            "dead letters".to_owned(),
            config.dead_letters.path.display().to_string(),
        ),
        ("confirm".to_owned(), confirm(config.confirm).to_owned()),
    ];
    for emitter in &config.emitters {
        rows.push((format!("emitter {}", emitter.name), destination(emitter)));
        rows.push(("  gets".to_owned(), filter(emitter)));
        if !emitter.transforms.is_empty() {
            let names: Vec<_> = emitter.transforms.iter().map(|t| t.action.name()).collect();
            rows.push(("  changed by".to_owned(), names.join(", ")));
        }
    }
    out.push_str(&output::pairs(&rows));
    for warning in &config.warnings {
        out.push_str(&format!("\nwarning: {warning}"));
    }
    if !config.warnings.is_empty() {
        out.push('\n');
    }
    out
}

fn json(config: &Config, file: Option<&str>) -> Value {
    let emitters: Vec<Value> = config
        .emitters
        .iter()
        .map(|emitter| {
            json!({
                "name": emitter.name,
                "emitter": emitter.destination.kind(),
                "destination": destination(emitter),
                "schemas": emitter.filter.schemas,
                "tables": emitter.filter.tables,
                "operations": emitter.filter.operations.iter().map(|op| op.name()).collect::<Vec<_>>(),
                "where": emitter.filter.predicate,
                "transforms": emitter.transforms.iter().map(|t| t.action.name()).collect::<Vec<_>>(),
                "batch_size": emitter.batch_size,
            })
        })
        .collect();
    json!({
        "valid": true,
        "file": file,
        "source": config.source.as_ref().map(ToString::to_string),
        "state_path": config.state_path,
        "dlq_path": config.dead_letters.path,
        "confirm": confirm(config.confirm),
        "emitters": emitters,
        "warnings": config.warnings,
    })
}

const fn confirm(confirm: Confirm) -> &'static str {
    match confirm {
        Confirm::Delivered => "delivered",
        Confirm::Journaled => "journaled",
    }
}

/// Where an emitter delivers to, without secrets.
pub(super) fn destination(emitter: &EmitterConfig) -> String {
    let batch = emitter
        .batch_size
        .map(|size| format!(", {size} events a batch"))
        .unwrap_or_default();
    match &emitter.destination {
        Destination::Queue(queue) => format!(
            "queue of {} events or {}{batch}, to standard output",
            queue.capacity,
            size_text(queue.bytes_max)
        ),
        Destination::Webhook(webhook) => {
            let signed = match webhook.secrets.len() {
                0 => "unsigned",
                1 => "signed",
                _ => "signed by several secrets",
            };
            // The origin only: paths and queries often hold a key.
            format!("webhook to {}, {signed}{batch}", origin(&webhook.url))
        }
        Destination::File(file) => {
            let sync = match file.fsync {
                FileSync::Batch => "synced with every batch".to_owned(),
                FileSync::Interval(interval) => {
                    format!("synced within {}", duration_text(interval))
                }
                FileSync::None => "synced by the operating system".to_owned(),
            };
            format!(
                "files {}/{}…, {} each, {sync}{batch}",
                file.path.display(),
                file.stream,
                size_text(file.rotate_bytes)
            )
        }
        Destination::Pull(pull) => format!(
            "fetched over HTTP, at most {} not acknowledged",
            size_text(pull.window_bytes)
        ),
        Destination::Custom(custom) => {
            format!(
                "process {}{batch}",
                custom.command.first().map_or("", String::as_str)
            )
        }
    }
}

/// What an emitter gets.
pub(super) fn filter(emitter: &EmitterConfig) -> String {
    let filter = &emitter.filter;
    let mut parts = Vec::new();
    if !filter.schemas.is_empty() {
        parts.push(format!("schemas {}", filter.schemas.join(", ")));
    }
    if !filter.tables.is_empty() {
        parts.push(format!("tables {}", filter.tables.join(", ")));
    }
    if !filter.operations.is_empty() {
        let names: Vec<_> = filter.operations.iter().map(|op| op.name()).collect();
        parts.push(names.join(", "));
    }
    if let Some(predicate) = &filter.predicate {
        parts.push(format!("where {predicate}"));
    }
    if parts.is_empty() {
        "everything".to_owned()
    } else {
        parts.join("; ")
    }
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| host + at);
    match url[host..end].rfind('@') {
        // Somebody's password; the webhook refuses it anyway.
        Some(_) => "a URL with a user in it",
        None => &url[..end],
    }
}
