//! The four destinations: which of their keys are needed, and which combinations make no sense.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cdc_core::envelope::Format;
use hyper::Uri;

use super::document::Origin;
use super::model::{
    CustomConfig, Destination, FileConfig, FileSync, HttpVersion, OnRestart, PullConfig,
    QueueConfig, Secret, WebhookBody, WebhookConfig,
};
use super::problem::Problem;
use super::read::{Placed, Reading, Section};
use super::tree::Value;
use super::value::{DURATION_HELP, parse_duration};

/// Longest timeout of a webhook.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Most events of one request.
const WEBHOOK_BATCH_MAX: u64 = 10_000;
/// Headers that HTTP or the emitter sets.
const RESERVED_HEADERS: [&str; 14] = [
    "host",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "idempotency-key",
    "accept-encoding",
    "proxy-connection",
];
/// Most signing secrets of one webhook.
const SECRETS_MAX: usize = 8;

/// The destination of an emitter. `at` is where its kind was chosen.
pub(crate) fn read(
    reading: &mut Reading<'_>,
    section: Section<'_>,
    name: &str,
    kind: &str,
    format: Format,
    at: &Origin,
    warnings: &mut Vec<String>,
) -> Destination {
    if section.parent.is_none() && section.own.contains_key("queue_capacity") && kind != "queue" {
        warnings.push(format!(
            "`queue_capacity` is not used: emitter is \"{kind}\""
        ));
    }
    match kind {
        "webhook" => {
            Destination::Webhook(Box::new(webhook(reading, section, format, at, warnings)))
        }
        "file" => Destination::File(file(reading, section, name, at)),
        "custom" => custom(reading, section, format, at),
        _ => Destination::Queue(queue(reading, section)),
    }
}

/// Most events of one delivery; `None` for files, whose batches are as large as they come.
pub(crate) fn batch_size(
    reading: &mut Reading<'_>,
    section: Section<'_>,
    kind: &str,
) -> Option<usize> {
    let general = reading.count(section, "batch_size");
    let count = match kind {
        // The nearer table wins, as for the capacity of a queue.
        "webhook"
            if own(section, "webhook", "batch_size").is_some()
                || (!section.own.contains_key("batch_size")
                    && section.node("webhook.batch_size").is_some()) =>
        {
            reading.count(section, "webhook.batch_size")
        }
        // [cdc] speaks of deliveries to queues and webhooks: a hundred events a sync of a file
        // would be a hundred times too slow without anybody having asked for it.
        "file" if section.parent.is_none() || !section.own.contains_key("batch_size") => None,
        _ => general,
    };
    if let Some((count, at)) = &count
        && kind == "webhook"
        && *count > WEBHOOK_BATCH_MAX
    {
        reading.refuse(
            Problem::new(
                format!("`batch_size` must be at most {WEBHOOK_BATCH_MAX} for a webhook"),
                at,
            )
            .help("lower it, or give the webhook its own: batch_size = 1000 in [cdc.webhook]"),
        );
    }
    count.and_then(|(count, _)| usize::try_from(count).ok())
}

fn queue(reading: &mut Reading<'_>, section: Section<'_>) -> QueueConfig {
    if let (Some(short), Some(long)) = (
        section.own.get("queue_capacity"),
        own(section, "queue", "capacity"),
    ) {
        reading.refuse(
            Problem::new(
                "`queue_capacity` and `queue.capacity` are the same key",
                &long.key_at,
            )
            .note("the other one is here", &short.key_at)
            .help("keep one of them"),
        );
    }
    // The nearer table wins: an emitter's own key, whichever way it is written, over [cdc].
    let path = if own(section, "queue", "capacity").is_some() {
        "queue.capacity"
    } else if section.own.contains_key("queue_capacity") {
        "queue_capacity"
    } else if section.node("queue.capacity").is_some() {
        "queue.capacity"
    } else {
        "queue_capacity"
    };
    let capacity = reading.count(section, path).map_or(0, |(count, _)| count);
    QueueConfig {
        capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
        bytes_max: reading
            .size_above_zero(section, "queue.bytes_max")
            .unwrap_or_default(),
    }
}

fn own<'a>(section: Section<'a>, table: &str, key: &str) -> Option<&'a super::tree::Node> {
    match &section.own.get(table)?.value {
        Value::Table(inner) => inner.get(key),
        _ => None,
    }
}

fn webhook(
    reading: &mut Reading<'_>,
    section: Section<'_>,
    format: Format,
    at: &Origin,
    warnings: &mut Vec<String>,
) -> WebhookConfig {
    let allow_http = reading
        .flag(section, "webhook.allow_http")
        .unwrap_or_default();
    let allow_private = reading
        .flag(section, "webhook.allow_private")
        .unwrap_or_default();
    let url = if section.node("webhook.url").is_some() {
        reading.interpolated(section, "webhook.url")
    } else {
        missing(
            reading,
            "webhook",
            "webhook.url",
            "url = \"https://example.com/hooks/orders\"",
            at,
        );
        None
    };
    let before = reading.problems.len();
    if let Some((url, at)) = &url {
        check_url(reading, url, at, allow_http, allow_private);
    }
    let well = reading.problems.len() == before;
    let concurrency = reading.count(section, "webhook.concurrency");
    if let (Some((count, at)), Some(("global", order))) =
        (&concurrency, reading.choice(section, "order"))
        && *count > 1
    {
        reading.refuse(
            Problem::new(
                format!("`webhook.concurrency` = {count} and `order` = \"global\" cannot both be"),
                at,
            )
            .note("everything in order means one request at a time", &order)
            .help(
                "set order = \"key\" to keep the changes of each row in order, or concurrency = 1",
            ),
        );
    }
    let body = webhook_body(reading, section, format, at);
    for key in ["webhook.timeout", "webhook.connect_timeout"] {
        if let Some(node) = section.node(key)
            && let Value::Text(text) = &node.value
            && parse_duration(text).is_some_and(|duration| duration > TIMEOUT_MAX)
        {
            reading.refuse(
                Problem::new(format!("`{key}` must be an hour at most"), &node.at)
                    .help("a request that takes longer has failed"),
            );
        }
    }
    let client_certificate = client_certificate(reading, section);
    let http_version = match reading.choice(section, "webhook.http_version") {
        Some(("1.1", _)) => HttpVersion::One,
        Some(("2", _)) => HttpVersion::Two,
        _ => HttpVersion::Auto,
    };
    if let Some((url, at)) = url.as_ref().filter(|_| well) {
        // What is left to say of a URL, the emitter knows best; it would say it when capture runs already.
        let mut emitter = cdc_emit_webhook::WebhookConfig::new("webhook", url);
        (emitter.allow_http, emitter.allow_private) = (allow_http, allow_private);
        emitter.client_certificate = client_certificate
            .clone()
            .map(|(chain, key)| cdc_emit_webhook::ClientCertificate { chain, key });
        if let Err(error) = emitter.validate() {
            reading.refuse(Problem::new(
                format!("`webhook.url` cannot be used: {error}"),
                at,
            ));
        }
    }
    WebhookConfig {
        url: url.map(|(url, _)| url).unwrap_or_default(),
        secrets: secrets(reading, section, warnings),
        headers: headers(reading, section),
        body,
        concurrency: concurrency
            .and_then(|(count, _)| usize::try_from(count).ok())
            .unwrap_or(1),
        gzip: reading.flag(section, "webhook.gzip").unwrap_or_default(),
        timeout: reading
            .duration(section, "webhook.timeout")
            .map(|(d, _)| d)
            .unwrap_or_default(),
        connect_timeout: reading
            .duration(section, "webhook.connect_timeout")
            .map(|(d, _)| d)
            .unwrap_or_default(),
        allow_http,
        allow_private,
        ca_file: reading
            .path(section, "webhook.ca_file")
            .map(|(path, _)| path),
        client_certificate,
        body_bytes_max: section
            .node("webhook.body_bytes_max")
            .and_then(|_| reading.size_above_zero(section, "webhook.body_bytes_max")),
        idle_timeout: reading
            .duration(section, "webhook.idle_timeout")
            .map(|(d, _)| d)
            .unwrap_or_default(),
        http_version,
    }
}

/// Both files of a client certificate, or neither.
fn client_certificate(
    reading: &mut Reading<'_>,
    section: Section<'_>,
) -> Option<(PathBuf, PathBuf)> {
    let chain = reading.path(section, "webhook.client_cert_file");
    let key = reading.path(section, "webhook.client_key_file");
    let (alone, at, other) = match (chain, key) {
        (Some((chain, _)), Some((key, _))) => return Some((chain, key)),
        (Some((_, at)), None) => ("client_cert_file", at, "client_key_file"),
        (None, Some((_, at))) => ("client_key_file", at, "client_cert_file"),
        (None, None) => return None,
    };
    reading.refuse(
        Problem::new(format!("`webhook.{alone}` stands alone"), &at).help(format!(
            "give `{other}` as well: a certificate needs its key"
        )),
    );
    None
}

/// The shape of the body: its own key, or what the format asks for.
fn webhook_body(
    reading: &mut Reading<'_>,
    section: Section<'_>,
    format: Format,
    at: &Origin,
) -> WebhookBody {
    let format_at = section.node("format").map_or(at, |node| &node.at);
    let by_format = match format {
        Format::Debezium => WebhookBody::Debezium,
        Format::CloudEvents => WebhookBody::CloudEventsBatch,
        Format::Json => WebhookBody::Array,
        Format::Bincode => {
            reading.refuse(
                Problem::new("a webhook cannot send format = \"bincode\"", format_at)
                    .help("use \"json\", \"debezium\" or \"cloudevents\"; \"bincode\" is for files and queues"),
            );
            return WebhookBody::Array;
        }
    };
    if section.node("webhook.body").is_none() {
        return by_format;
    }
    let Some((word, body_at)) = reading.choice(section, "webhook.body") else {
        return by_format;
    };
    let (body, needs) = match word {
        "ndjson" => (WebhookBody::Ndjson, "json"),
        "json" => (WebhookBody::Json, "json"),
        "cloudevents-batch" => (WebhookBody::CloudEventsBatch, "cloudevents"),
        "debezium" => (WebhookBody::Debezium, "debezium"),
        _ => (WebhookBody::Array, "json"),
    };
    if let Some(format) = section.node("format")
        && !matches!(&format.value, Value::Text(text) if text == needs)
    {
        reading.refuse(
            Problem::new(
                format!("`webhook.body` = {word:?} does not go with this `format`"),
                &body_at,
            )
            .note("the format is chosen here", &format.at)
            .help(format!(
                "write format = {needs:?}, or leave `body` out: the format decides it"
            )),
        );
    }
    body
}

fn check_url(
    reading: &mut Reading<'_>,
    url: &str,
    at: &Origin,
    allow_http: bool,
    allow_private: bool,
) {
    let example = "write a URL such as \"https://example.com/hooks/orders\"";
    let Ok(uri) = url.parse::<Uri>() else {
        reading.refuse(Problem::new("`webhook.url` is not a URL", at).help(example));
        return;
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = matches!(host, "localhost" | "127.0.0.1" | "::1");
    if let Ok(address) = host.parse::<IpAddr>()
        && let Some((kind, may_be_allowed)) = cdc_emit_webhook::refusal(address)
        && !(may_be_allowed && allow_private)
    {
        let help = if may_be_allowed {
            "set allow_private = true in [cdc.webhook] if the receiver is in your own network"
        } else {
            "no webhook is ever sent there"
        };
        let what = format!("`webhook.url` is not a public address: {kind}");
        reading.refuse(Problem::new(what, at).help(help));
    }
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if allow_http || loopback => {}
        Some("http") => reading.refuse(
            Problem::new(
                "`webhook.url` is plain HTTP: events and signatures would travel in the clear",
                at,
            )
            .help(
                "use https://, or set allow_http = true in [cdc.webhook] if the network is yours",
            ),
        ),
        Some(other) => reading.refuse(
            Problem::new(
                format!("`webhook.url` has the scheme {other:?}, a webhook needs https"),
                at,
            )
            .help(example),
        ),
        None => reading.refuse(Problem::new("`webhook.url` has no scheme", at).help(example)),
    }
    if uri.scheme().is_some() && host.is_empty() {
        reading.refuse(Problem::new("`webhook.url` names no host", at).help(example));
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        reading.refuse(
            Problem::new("`webhook.url` holds a user or a password", at).help(
                "send credentials as a header: headers = { Authorization = \"Basic ${TOKEN}\" }",
            ),
        );
    }
}

fn secrets(
    reading: &mut Reading<'_>,
    section: Section<'_>,
    warnings: &mut Vec<String>,
) -> Vec<Secret> {
    let given: Vec<_> = [
        "webhook.secret",
        "webhook.secret_file",
        "webhook.secrets_files",
    ]
    .into_iter()
    .filter_map(|path| section.node(path).map(|node| (path, node)))
    .collect();
    if let [(first, first_node), (second, second_node), ..] = given.as_slice() {
        reading.refuse(
            Problem::new(
                format!("`{first}` and `{second}` both give signing secrets"),
                &second_node.key_at,
            )
            .note("the other one is here", &first_node.key_at)
            .help("keep one; for rotation list the new and the old file in secrets_files"),
        );
        return Vec::new();
    }
    let Some((path, node)) = given.first() else {
        return Vec::new();
    };
    if *path == "webhook.secret" {
        let Some((text, at)) = reading.node_text(path, node) else {
            return Vec::new();
        };
        if !text.contains("${") {
            warnings.push(format!("the signing secret stands in the configuration itself ({at}); better secret_file, or \"${{NAME}}\""));
        }
        let Some(secret) = reading.interpolate(path, &text, &at) else {
            return Vec::new();
        };
        let secret = Secret::new(secret);
        check_secret(reading, path, &secret, &at);
        return vec![secret];
    }
    let files: Vec<Placed<String>> = if *path == "webhook.secret_file" {
        reading.node_text(path, node).into_iter().collect()
    } else {
        reading.node_texts(path, node)
    };
    if files.is_empty() && matches!(&node.value, Value::List(items) if items.is_empty()) {
        return Vec::new();
    }
    if files.len() > SECRETS_MAX {
        reading.refuse(
            Problem::new(
                format!("`{path}` lists more than {SECRETS_MAX} secrets"),
                &node.at,
            )
            .help("remove the oldest: a rotation needs two"),
        );
        return Vec::new();
    }
    let mut secrets = Vec::with_capacity(files.len());
    for (file, at) in files {
        if let Some(file) = reading.interpolate(path, &file, &at)
            && let Some(secret) = reading.secret_file(path, file.as_ref(), &at)
        {
            check_secret(reading, path, &secret, &at);
            secrets.push(secret);
        }
    }
    secrets
}

fn check_secret(reading: &mut Reading<'_>, path: &str, secret: &Secret, at: &Origin) {
    if let Err(error) = cdc_emit_webhook::Secret::parse(secret.expose()) {
        let text = error.to_string();
        let what = text.split("secret: ").last().unwrap_or(&text);
        let what = what.split(';').next().unwrap_or(what);
        reading.refuse(
            Problem::new(format!("`{path}` is not a signing secret: {what}"), at)
                .help("make one with `echo whsec_$(openssl rand -base64 32)` and give it to the receiver; without one requests are unsigned"),
        );
    }
}

fn headers(reading: &mut Reading<'_>, section: Section<'_>) -> Vec<(String, Secret)> {
    let Some(node) = section.node("webhook.headers") else {
        return Vec::new();
    };
    let Value::Table(table) = &node.value else {
        reading.wrong_type(
            "webhook.headers",
            node,
            "a table",
            "write headers = { Authorization = \"Bearer ${TOKEN}\" }",
        );
        return Vec::new();
    };
    if table.len() > cdc_emit_webhook::HEADERS_MAX {
        reading.refuse(Problem::new(
            "`webhook.headers` has more than 64 headers",
            &node.at,
        ));
        return Vec::new();
    }
    let mut headers = Vec::with_capacity(table.len());
    for (name, node) in table {
        if hyper::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
            reading.refuse(
                Problem::new(
                    format!("{name:?} in `webhook.headers` is not a header name"),
                    &node.key_at,
                )
                .help("letters, digits and `-`, such as Authorization or X-Api-Key"),
            );
            continue;
        }
        let lower = name.to_ascii_lowercase();
        let ours = ["webhook-", "cdc-"]
            .iter()
            .any(|prefix| lower.starts_with(prefix));
        if ours || RESERVED_HEADERS.contains(&lower.as_str()) {
            reading.refuse(
                Problem::new(
                    format!("the header {name} is the emitter's own"),
                    &node.key_at,
                )
                .help("choose another name, or remove it"),
            );
            continue;
        }
        let path = format!("webhook.headers.{name}");
        let Some((text, at)) = reading.node_text(&path, node) else {
            continue;
        };
        let Some(value) = reading.interpolate(&path, &text, &at) else {
            continue;
        };
        if hyper::header::HeaderValue::from_str(&value).is_err() {
            reading.refuse(
                Problem::new(
                    format!("the value of the header {name} cannot be sent"),
                    &at,
                )
                .help("header values are one line of visible ASCII"),
            );
        }
        headers.push((name.clone(), Secret::new(value)));
    }
    headers
}

fn file(reading: &mut Reading<'_>, section: Section<'_>, name: &str, at: &Origin) -> FileConfig {
    let path = if section.node("file.path").is_some() {
        reading.path(section, "file.path")
    } else {
        missing(reading, "file", "file.path", "path = \"/var/log/cdc\"", at);
        None
    };
    let stream = reading.text(section, "file.stream");
    if let Some((stream, at)) = &stream {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if stream.is_empty() || stream.len() > 64 || !stream.chars().all(plain) {
            reading.refuse(
                Problem::new(
                    "`file.stream` must be 1 to 64 letters, digits, `_`, `-`",
                    at,
                )
                .help("file names begin with it; the directory is file.path"),
            );
        }
    }
    FileConfig {
        path: path.map(|(path, _)| path).unwrap_or_default(),
        stream: stream.map_or_else(|| name.replace('.', "-"), |(stream, _)| stream),
        rotate_bytes: reading
            .size_above_zero(section, "file.rotate_bytes")
            .unwrap_or_default(),
        rotate_age: reading
            .duration(section, "file.rotate_age")
            .map(|(age, _)| age)
            .unwrap_or_default(),
        fsync: file_sync(reading, section),
        on_restart: match reading.choice(section, "file.on_restart") {
            Some(("append", _)) => OnRestart::Append,
            _ => OnRestart::Truncate,
        },
        gzip: matches!(reading.choice(section, "file.compress"), Some(("gzip", _))),
    }
}

pub(super) fn file_sync(reading: &mut Reading<'_>, section: Section<'_>) -> FileSync {
    let Some((text, at)) = reading.text(section, "file.fsync") else {
        return FileSync::Batch;
    };
    match (text.as_str(), text.strip_prefix("interval:")) {
        ("batch", _) => return FileSync::Batch,
        ("none", _) => return FileSync::None,
        (_, Some(duration)) => match parse_duration(duration) {
            Some(duration) if !duration.is_zero() => return FileSync::Interval(duration),
            _ => reading.refuse(
                Problem::new("`file.fsync` has an interval that is not a duration", &at)
                    .help(DURATION_HELP),
            ),
        },
        _ => reading.refuse(
            Problem::new(
                format!(
                    "`file.fsync` cannot be {:?}",
                    text.chars().take(64).collect::<String>()
                ),
                &at,
            )
            .help("write \"batch\", \"none\" or \"interval:50ms\""),
        ),
    }
    FileSync::Batch
}

fn custom(
    reading: &mut Reading<'_>,
    section: Section<'_>,
    format: Format,
    at: &Origin,
) -> Destination {
    if reading.flag(section, "custom.pull") == Some(true) {
        return Destination::Pull(pull(reading, section, format, at));
    }
    if format == Format::Bincode {
        let format_at = section.node("format").map_or(at, |node| &node.at);
        reading.refuse(
            Problem::new(
                "a program reads events line by line, which format = \"bincode\" is not",
                format_at,
            )
            .help("use \"json\", \"debezium\" or \"cloudevents\"; \"bincode\" is for files and queues"),
        );
    }
    Destination::Custom(child(reading, section, at))
}

fn pull(
    reading: &mut Reading<'_>,
    section: Section<'_>,
    format: Format,
    at: &Origin,
) -> PullConfig {
    if let (Some(command), Some(pull)) =
        (section.node("custom.command"), section.node("custom.pull"))
    {
        reading.refuse(
            Problem::new(
                "`custom.command` and `custom.pull` cannot stand together",
                &pull.key_at,
            )
            .note("the command is here", &command.key_at)
            .help("keep one: events go to a program, or are fetched over HTTP"),
        );
    }
    if format == Format::Bincode {
        let format_at = section.node("format").map_or(at, |node| &node.at);
        reading.refuse(
            Problem::new(
                "format = \"bincode\" cannot be fetched over HTTP",
                format_at,
            )
            .help("use \"json\", \"debezium\" or \"cloudevents\""),
        );
    }
    PullConfig {
        window_bytes: reading
            .size_above_zero(section, "custom.window_bytes")
            .unwrap_or_default(),
    }
}

fn child(reading: &mut Reading<'_>, section: Section<'_>, at: &Origin) -> CustomConfig {
    let Some(node) = section.node("custom.command") else {
        missing(
            reading,
            "custom",
            "custom.command",
            "command = [\"python3\", \"consumer.py\"]",
            at,
        );
        return CustomConfig {
            command: Vec::new(),
            timeout: Duration::ZERO,
            stop_timeout: Duration::ZERO,
        };
    };
    let before = reading.problems.len();
    let command: Vec<String> = reading
        .node_texts("custom.command", node)
        .into_iter()
        .map(|(text, _)| text)
        .collect();
    let says_nothing = command.first().is_none_or(String::is_empty);
    if reading.problems.len() == before && says_nothing {
        reading.refuse(
            Problem::new("`custom.command` names no program", &node.at).help(
                "write the program and its arguments, such as [\"python3\", \"consumer.py\"]",
            ),
        );
    }
    let timeout = reading.duration(section, "custom.timeout");
    let stop_timeout = reading.duration(section, "custom.stop_timeout");
    CustomConfig {
        command,
        timeout: timeout.map(|(timeout, _)| timeout).unwrap_or_default(),
        stop_timeout: stop_timeout.map(|(timeout, _)| timeout).unwrap_or_default(),
    }
}

fn missing(reading: &mut Reading<'_>, kind: &str, key: &str, line: &str, at: &Origin) {
    let (table, _) = key.split_once('.').unwrap_or((key, ""));
    reading.refuse(
        Problem::new(format!("emitter = \"{kind}\" needs `{key}`"), at)
            .help(format!("add {line} to its [..{table}] table").replace("[..", "[cdc.")),
    );
}
