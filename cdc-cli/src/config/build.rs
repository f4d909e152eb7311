//! From the merged tree to the typed configuration.

use std::collections::BTreeMap;

use cdc_core::envelope::{DebeziumOptions, Format, JsonOptions, NumberStyle};
use cdc_core::pipeline::{BreakerConfig, OrderScope};
use cdc_filter::FilterConfig;
use cdc_wal::sqlite::{Assist, Mode};

use super::check;
use super::destination;
use super::document::Origin;
use super::http;
use super::layers::Merged;
use super::model::{
    Config, Confirm, DeadKey, DeadLetterConfig, Destination, EmitterConfig, HttpConfig,
    PostgresConfig, RetryConfig, SqliteConfig, Style, window_of,
};
use super::names;
use super::problem::Problem;
use super::read::{Placed, Reading, Section};
use super::shared;
use super::source::Source;
use super::transforms;
use super::tree::{Node, Table, Value};
use super::value::Environment;

/// Most emitters of one process: each has a thread, a lane and files.
const EMITTERS_MAX: usize = 64;

/// Reads everything, or says all that is wrong, in the order of the file.
pub(crate) fn build(
    merged: &Merged,
    environment: &Environment,
    mut problems: Vec<Problem>,
) -> Result<Config, Vec<Problem>> {
    names::check(&merged.table, false, &mut problems);
    let mut reading = Reading {
        environment,
        problems,
    };
    let config = whole(&mut reading, merged);
    let mut problems = reading.problems;
    if problems.is_empty() {
        return Ok(config);
    }
    problems.sort_by_key(Problem::order);
    // Emitters inherit keys of [cdc]: one wrong value must not be told once an emitter.
    let mut told = std::collections::BTreeSet::new();
    problems.retain(|problem| told.insert((problem.order(), problem.message().to_owned())));
    Err(problems)
}

fn whole(reading: &mut Reading<'_>, merged: &Merged) -> Config {
    let cdc = Section {
        own: &merged.table,
        parent: None,
    };
    let source = reading.interpolated(cdc, "source").and_then(|(text, at)| {
        Source::parse(&text)
            .map_err(|refusal| {
                reading.refuse(Problem::new(refusal.message, &at).help(refusal.help));
            })
            .ok()
    });
    let state_path = reading
        .path(cdc, "state_path")
        .map(|(path, _)| path)
        .unwrap_or_default();
    let dlq_path = reading
        .path(cdc, "dlq_path")
        .unwrap_or_else(|| (state_path.join("dlq"), Origin::Default));
    let retain_bytes = reading
        .size(cdc, "retain_bytes")
        .map_or(0, |(size, _)| size);
    let retain_bytes_max = reading.size(cdc, "retain_bytes_max");
    if let Some((max, at)) = &retain_bytes_max
        && *max < retain_bytes
    {
        reading.refuse(
            Problem::new("`retain_bytes_max` is smaller than `retain_bytes`", at)
                .help("raise retain_bytes_max, or lower retain_bytes (default \"1GiB\")"),
        );
    }
    let confirm = match reading.choice(cdc, "confirm") {
        Some(("journaled", _)) => Confirm::Journaled,
        _ => Confirm::Delivered,
    };
    let dead_letters = DeadLetterConfig {
        path: dlq_path.0.clone(),
        bytes_max: reading
            .size_above_zero(cdc, "dlq_bytes_max")
            .unwrap_or_default(),
        letters_max: reading
            .count(cdc, "dlq_letters_max")
            .map_or(0, |(count, _)| count),
        keys_max: reading
            .count(cdc, "dlq_keys_max")
            .map_or(0, |(count, _)| count),
    };
    let mut warnings = Vec::new();
    let (emitters, places) = emitters(reading, merged, &mut warnings);
    let placed: Vec<_> = emitters.iter().zip(places).collect();
    shared::check(reading, &placed);
    if !state_path.as_os_str().is_empty() && !dlq_path.0.as_os_str().is_empty() {
        shared::check_state(reading, &state_path, &dlq_path, &placed);
    }
    let http = http::read(reading, cdc, &mut warnings);
    pull_needs_http(reading, merged, &emitters, http.as_ref());
    Config {
        source,
        name: source_name(reading, cdc),
        state_path,
        dead_letters,
        confirm,
        retain_bytes,
        retain_bytes_max: retain_bytes_max.map(|(size, _)| size),
        retain_age: reading.duration(cdc, "retain_age").map(|(d, _)| d),
        checkpoint_interval: reading
            .duration(cdc, "checkpoint_interval")
            .map(|(d, _)| d)
            .unwrap_or_default(),
        shutdown_timeout: reading
            .duration(cdc, "shutdown_timeout")
            .map(|(d, _)| d)
            .unwrap_or_default(),
        postgres: postgres(reading, cdc),
        sqlite: sqlite(reading, cdc),
        http,
        emitters,
        warnings,
    }
}

/// Consumers that fetch need somewhere to fetch from, and a token to acknowledge with.
fn pull_needs_http(
    reading: &mut Reading<'_>,
    merged: &Merged,
    emitters: &[EmitterConfig],
    http: Option<&HttpConfig>,
) {
    let pulls = |emitter: &&EmitterConfig| matches!(emitter.destination, Destination::Pull(_));
    let Some(emitter) = emitters.iter().find(pulls) else {
        return;
    };
    let at = pull_origin(merged, &emitter.name);
    if !merged.table.contains_key("http") {
        reading.refuse(
            Problem::new(
                "`custom.pull` needs the HTTP surface: consumers fetch from it",
                &at,
            )
            .help("add [cdc.http] with listen = \"127.0.0.1:7979\" and token_file"),
        );
    } else if http.is_some_and(|http| http.token.is_none()) {
        reading.refuse(
            Problem::new(
                "`custom.pull` needs a token: acknowledging changes state",
                &at,
            )
            .help("add token_file = \"/run/secrets/cdc-http\" to [cdc.http]"),
        );
    }
}

/// Where `custom.pull` stands for this emitter.
fn pull_origin(merged: &Merged, name: &str) -> Origin {
    let of = |table: &Table| super::tree::find(table, "custom.pull").map(|node| node.at.clone());
    let own = merged.table.get("emitters").and_then(|list| {
        let Value::List(items) = &list.value else {
            return None;
        };
        items.iter().find_map(|item| match &item.value {
            Value::Table(own) => {
                let named = own
                    .get("name")
                    .is_some_and(|node| matches!(&node.value, Value::Text(text) if text == name));
                named.then(|| of(own)).flatten()
            }
            _ => None,
        })
    });
    own.or_else(|| of(&merged.table)).unwrap_or(Origin::Default)
}

fn source_name(reading: &mut Reading<'_>, cdc: Section<'_>) -> Option<String> {
    let (name, at) = reading.text(cdc, "name")?;
    if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
        reading.refuse(
            Problem::new("`name` must be 1 to 256 bytes of printable text", &at)
                .help("leave it out to use the name of the database"),
        );
    }
    Some(name)
}

fn sqlite(reading: &mut Reading<'_>, cdc: Section<'_>) -> SqliteConfig {
    let mut duration = |key| reading.duration(cdc, key).map(|(d, _)| d);
    let poll_interval = duration("sqlite.poll_interval").unwrap_or_default();
    let busy_timeout = duration("sqlite.busy_timeout").unwrap_or_default();
    let size = |reading: &mut Reading<'_>, key| {
        let size = reading.size_above_zero(cdc, key);
        // Zero was refused.
        size.unwrap_or(u64::MAX)
    };
    let mut flag = |key| reading.flag(cdc, key).unwrap_or_default();
    SqliteConfig {
        poll_interval,
        busy_timeout,
        snapshot: flag("sqlite.snapshot"),
        include_shadow_tables: flag("sqlite.include_shadow_tables"),
        mode: reading
            .choice(cdc, "sqlite.mode")
            .and_then(|(name, _)| Mode::from_name(name))
            .unwrap_or_default(),
        log_bytes_max: size(reading, "sqlite.log_bytes_max"),
        archive_bytes_max: size(reading, "sqlite.archive_bytes_max"),
        assist: reading
            .choice(cdc, "sqlite.assist")
            .and_then(|(name, _)| Assist::from_name(name))
            .unwrap_or_default(),
    }
}

fn postgres(reading: &mut Reading<'_>, cdc: Section<'_>) -> PostgresConfig {
    let slot = reading.text(cdc, "postgres.slot");
    if let Some((slot, at)) = &slot {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if slot.is_empty() || slot.len() > 63 || !slot.chars().all(plain) {
            reading.refuse(
                Problem::new("`postgres.slot` is not a name of a replication slot", at).help(
                    "PostgreSQL takes lower case letters, digits and underscores, 63 at most",
                ),
            );
        }
    }
    let publication = reading.text(cdc, "postgres.publication");
    if let Some((publication, at)) = &publication
        && (publication.is_empty() || publication.len() > 63 || publication.contains('\0'))
    {
        reading.refuse(
            Problem::new("`postgres.publication` is not a name of a publication", at)
                .help("PostgreSQL takes 1 to 63 bytes"),
        );
    }
    PostgresConfig {
        slot: slot.map(|(slot, _)| slot).unwrap_or_default(),
        publication: publication
            .map(|(publication, _)| publication)
            .unwrap_or_default(),
        create_slot: reading
            .flag(cdc, "postgres.create_slot")
            .unwrap_or_default(),
        create_publication: reading
            .flag(cdc, "postgres.create_publication")
            .unwrap_or_default(),
        accept_keyless: reading
            .flag(cdc, "postgres.accept_keyless")
            .unwrap_or_default(),
        publish_tables: words(reading.texts(cdc, "postgres.publish_tables")),
        publish_schemas: words(reading.texts(cdc, "postgres.publish_schemas")),
        connect_timeout: reading
            .duration(cdc, "postgres.connect_timeout")
            .map(|(d, _)| d)
            .unwrap_or_default(),
    }
}

fn words(texts: Vec<Placed<String>>) -> Vec<String> {
    texts.into_iter().map(|(text, _)| text).collect()
}

fn emitters(
    reading: &mut Reading<'_>,
    merged: &Merged,
    warnings: &mut Vec<String>,
) -> (Vec<EmitterConfig>, Vec<Origin>) {
    let cdc = &merged.table;
    let Some(list) = cdc.get("emitters") else {
        let section = Section {
            own: cdc,
            parent: None,
        };
        let Some((kind, _)) = reading.choice(section, "emitter") else {
            return Default::default();
        };
        let whole = cdc.get("emitter").map_or_else(
            || merged.file.clone().unwrap_or(Origin::Default),
            |node| node.at.clone(),
        );
        unused(reading, section, &[kind], warnings);
        let built = emitter(reading, section, kind.to_owned(), kind, &whole, warnings);
        return (vec![built], vec![place(cdc, kind).unwrap_or(whole)]);
    };
    if let Some(short) = cdc.get("emitter") {
        reading.refuse(
            Problem::new("`emitter` and [[cdc.emitters]] cannot stand together", &short.key_at)
                .note("the list of emitters is here", &list.key_at)
                .help("remove `emitter` and give each entry of [[cdc.emitters]] its own; other keys of [cdc] are their defaults"),
        );
    }
    let Value::List(items) = &list.value else {
        reading.wrong_type(
            "emitters",
            list,
            "a list of tables",
            "write [[cdc.emitters]] with two brackets, once for every emitter",
        );
        return Default::default();
    };
    if items.is_empty() || items.len() > EMITTERS_MAX {
        reading.refuse(
            Problem::new(format!("`emitters` must have 1 to {EMITTERS_MAX} entries"), &list.at)
                .help("write [[cdc.emitters]] once for every emitter, or use the short form: emitter = \"queue\""),
        );
        return Default::default();
    }
    let mut names: BTreeMap<String, Origin> = BTreeMap::new();
    let mut kinds = Vec::new();
    let mut built = Vec::new();
    let mut places = Vec::new();
    for item in items {
        let Value::Table(own) = &item.value else {
            let message = format!("`emitters` must hold tables, not {}", item.value.kind());
            reading.refuse(
                Problem::new(message, &item.at)
                    .help("write [[cdc.emitters]] once for every emitter"),
            );
            continue;
        };
        names::check(own, true, &mut reading.problems);
        let section = Section {
            own,
            parent: Some(cdc),
        };
        let name = emitter_name(reading, own, item, &mut names);
        let Some(at) = own.get("emitter").map(|node| node.at.clone()) else {
            reading.refuse(
                Problem::new("an entry of [[cdc.emitters]] has no `emitter`", &item.at)
                    .help("say where it delivers: emitter = \"queue\", \"webhook\", \"file\" or \"custom\""),
            );
            continue;
        };
        let Some((kind, _)) = reading.choice(section, "emitter") else {
            continue;
        };
        kinds.push(kind);
        unused(reading, section, &[kind], warnings);
        places.push(place(own, kind).unwrap_or_else(|| at.clone()));
        built.push(emitter(
            reading,
            section,
            name.unwrap_or_default(),
            kind,
            &at,
            warnings,
        ));
    }
    unused(
        reading,
        Section {
            own: cdc,
            parent: None,
        },
        &kinds,
        warnings,
    );
    (built, places)
}

/// Where the destination of an emitter is written down in its table, if it is.
fn place(own: &Table, kind: &str) -> Option<Origin> {
    ["file.stream", "file.path"]
        .iter()
        .filter(|_| kind == "file")
        .find_map(|key| super::tree::find(own, key))
        .map(|node| node.at.clone())
}

fn emitter_name(
    reading: &mut Reading<'_>,
    own: &Table,
    item: &Node,
    names: &mut BTreeMap<String, Origin>,
) -> Option<String> {
    let Some(node) = own.get("name") else {
        reading.refuse(
            Problem::new("an entry of [[cdc.emitters]] has no `name`", &item.at)
                .help("name it, such as name = \"audit\"; its checkpoint and its dead letters carry the name"),
        );
        return None;
    };
    let (name, at) = reading.node_text("name", node)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
        reading.refuse(
            Problem::new(
                "`name` of an emitter must be 1 to 64 letters, digits, `_`, `-`, `.`",
                &at,
            )
            .help("it is part of file names and of metrics, so it is plain"),
        );
    }
    if let Some(first) = names.get(&name) {
        reading.refuse(
            Problem::new(format!("two emitters have the name {name:?}"), &at)
                .note("the first one is here", first)
                .help("give each its own name: a position belongs to a name"),
        );
    } else {
        names.insert(name.clone(), at);
    }
    Some(name)
}

/// Warns of destination tables that no emitter uses. Their types are checked all the same.
fn unused(
    reading: &mut Reading<'_>,
    section: Section<'_>,
    used: &[&str],
    warnings: &mut Vec<String>,
) {
    for kind in ["queue", "webhook", "file", "custom"] {
        if let Some(node) = section.own.get(kind)
            && !used.contains(&kind)
        {
            warnings.push(format!(
                "[cdc.{kind}] is not used: no emitter = \"{kind}\" ({})",
                node.key_at
            ));
            reading.types_below(section, kind);
        }
    }
}

fn emitter(
    reading: &mut Reading<'_>,
    section: Section<'_>,
    name: String,
    kind: &'static str,
    at: &Origin,
    warnings: &mut Vec<String>,
) -> EmitterConfig {
    let format = format(reading, section);
    let on_dead_key = match reading.choice(section, "on_dead_key") {
        Some(("pass", _)) => DeadKey::Pass,
        Some(("stop", _)) => DeadKey::Stop,
        _ => DeadKey::Park,
    };
    let transforms = section
        .node("transforms")
        .map(|node| transforms::read(reading, node))
        .unwrap_or_default();
    EmitterConfig {
        filter: filter(reading, section),
        transforms,
        format,
        style: style(reading, section),
        batch_size: destination::batch_size(reading, section, kind),
        retry: retry(reading, section),
        on_dead_key,
        order: match reading.choice(section, "order") {
            Some(("table", _)) => OrderScope::Table,
            Some(("global", _)) => OrderScope::Global,
            Some(("none", _)) => OrderScope::None,
            _ => OrderScope::Key,
        },
        window_events: reading
            .count(section, "window_events")
            .map_or_else(|| window_of(kind), |(count, _)| count),
        window_bytes: reading
            .size_above_zero(section, "window_bytes")
            .unwrap_or_default(),
        breaker: BreakerConfig {
            in_a_row: small(reading, section, "breaker.in_a_row"),
            in_window: small(reading, section, "breaker.in_window"),
            window: small(reading, section, "breaker.window"),
        },
        destination: destination::read(reading, section, &name, kind, format, at, warnings),
        name,
    }
}

/// A count with a default; 0 if it was refused.
fn number(reading: &mut Reading<'_>, section: Section<'_>, path: &str) -> u64 {
    reading.count(section, path).map_or(0, |(count, _)| count)
}

fn small(reading: &mut Reading<'_>, section: Section<'_>, path: &str) -> u32 {
    u32::try_from(number(reading, section, path)).unwrap_or(u32::MAX)
}

pub(super) fn style(reading: &mut Reading<'_>, section: Section<'_>) -> Style {
    let plain = matches!(reading.choice(section, "numbers"), Some(("plain", _)));
    Style {
        json: JsonOptions {
            numbers: if plain {
                NumberStyle::Plain
            } else {
                NumberStyle::Safe
            },
        },
        debezium: DebeziumOptions {
            payload_wrapper: reading
                .flag(section, "debezium_wrapper")
                .unwrap_or_default(),
        },
    }
}

pub(super) fn format(reading: &mut Reading<'_>, section: Section<'_>) -> Format {
    match reading.choice(section, "format") {
        Some(("debezium", _)) => Format::Debezium,
        Some(("cloudevents", _)) => Format::CloudEvents,
        Some(("bincode", _)) => Format::Bincode,
        _ => Format::Json,
    }
}

pub(super) fn filter(reading: &mut Reading<'_>, section: Section<'_>) -> FilterConfig {
    let schemas = reading.texts(section, "schemas");
    let tables = reading.texts(section, "tables");
    let operations = reading.operations("operations", section.node("operations"));
    let predicate = section
        .node("where")
        .and_then(|node| reading.node_text("where", node));
    check::patterns(reading, "schemas", &schemas);
    check::patterns(reading, "tables", &tables);
    if let Some((predicate, at)) = &predicate {
        check::predicate(reading, predicate, at);
    }
    let plain = |texts: Vec<Placed<String>>| texts.into_iter().map(|(text, _)| text).collect();
    FilterConfig {
        schemas: plain(schemas),
        tables: plain(tables),
        operations,
        predicate: predicate.map(|(predicate, _)| predicate),
    }
}

fn retry(reading: &mut Reading<'_>, section: Section<'_>) -> RetryConfig {
    let base = reading.duration(section, "retry.base");
    let max = reading.duration(section, "retry.max");
    if let (Some((base, at)), Some((max, max_at))) = (&base, &max)
        && base > max
    {
        let at = if matches!(at, Origin::Default) {
            max_at
        } else {
            at
        };
        reading.refuse(
            Problem::new("`retry.base` is longer than `retry.max`", at)
                .help("the wait begins at base (default \"200ms\") and doubles up to max (default \"60s\")"),
        );
    }
    RetryConfig {
        base: base.map(|(d, _)| d).unwrap_or_default(),
        max: max.map(|(d, _)| d).unwrap_or_default(),
        probe: reading
            .duration(section, "retry.probe")
            .map(|(d, _)| d)
            .unwrap_or_default(),
    }
}
