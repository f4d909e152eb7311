//! `[[cdc.transforms]]`: each entry does exactly one thing, to some tables and operations.

use cdc_core::Value as RowValue;
use cdc_filter::{Action, HashKey, Mask, SetTo, TransformConfig, Transformer};

use super::check;
use super::document::Origin;
use super::model::Secret;
use super::problem::{Problem, nearest};
use super::read::Reading;
use super::tree::{Node, Table, Value};

/// Most transforms of one emitter.
const TRANSFORMS_MAX: usize = 256;
/// What an entry may do.
const KINDS: [&str; 6] = ["include", "exclude", "rename", "mask", "hash", "set"];
const LIMITS: [&str; 2] = ["tables", "operations"];

/// Reads the list. An entry with several columns to set, or with a table and columns to rename,
/// becomes several transforms in a row.
pub(crate) fn read(reading: &mut Reading<'_>, list: &Node) -> Vec<TransformConfig> {
    let Value::List(items) = &list.value else {
        reading.wrong_type(
            "transforms",
            list,
            "a list of tables",
            "write [[cdc.transforms]] with two brackets, once for every transform",
        );
        return Vec::new();
    };
    if items.len() > TRANSFORMS_MAX {
        reading.refuse(Problem::new(
            format!("`transforms` has more than {TRANSFORMS_MAX} entries"),
            &list.at,
        ));
        return Vec::new();
    }
    items.iter().flat_map(|item| entry(reading, item)).collect()
}

fn entry(reading: &mut Reading<'_>, item: &Node) -> Vec<TransformConfig> {
    let Value::Table(table) = &item.value else {
        let message = format!("`transforms` must hold tables, not {}", item.value.kind());
        reading.refuse(
            Problem::new(message, &item.at)
                .help("write [[cdc.transforms]] once for every transform"),
        );
        return Vec::new();
    };
    for (name, node) in table {
        if !KINDS.contains(&name.as_str()) && !LIMITS.contains(&name.as_str()) {
            let help = nearest(name, KINDS.into_iter().chain(LIMITS)).map_or_else(
                || {
                    format!(
                        "a transform is one of {}, with `tables` and `operations` to limit it",
                        listed(&KINDS)
                    )
                },
                |near| format!("did you mean `{near}`?"),
            );
            reading.refuse(
                Problem::new(
                    format!("unknown key `{name}` in [[cdc.transforms]]"),
                    &node.key_at,
                )
                .help(help),
            );
        }
    }
    let mut kinds: Vec<(&String, &Node)> = table
        .iter()
        .filter(|(name, _)| KINDS.contains(&name.as_str()))
        .collect();
    kinds.sort_by_key(|(_, node)| node.key_at.start());
    let (kind, node) = match kinds.as_slice() {
        [(kind, node)] => (kind.as_str(), *node),
        // An unknown key was most likely meant to be one: that is said already.
        [] if table.keys().any(|name| !LIMITS.contains(&name.as_str())) => return Vec::new(),
        [] => {
            reading.refuse(
                Problem::new("a transform does nothing", &item.at)
                    .help(format!("give it one of {}", listed(&KINDS))),
            );
            return Vec::new();
        }
        [(first, first_node), (second, second_node), ..] => {
            reading.refuse(
                Problem::new(
                    format!("a transform does two things, `{first}` and `{second}`"),
                    &second_node.key_at,
                )
                .note("the other one is here", &first_node.key_at)
                .help("write one [[cdc.transforms]] for each, in the order they apply"),
            );
            return Vec::new();
        }
    };
    let Value::Table(inner) = &node.value else {
        let help = format!("write {kind} = {}", shape(kind));
        reading.wrong_type(kind, node, "a table", &help);
        return Vec::new();
    };
    let tables = table
        .get("tables")
        .map(|node| reading.node_texts("tables", node))
        .unwrap_or_default();
    check::patterns(reading, "tables", &tables);
    let operations = reading.operations("operations", table.get("operations"));
    let tables: Vec<String> = tables.into_iter().map(|(text, _)| text).collect();
    let before = reading.problems.len();
    let configs: Vec<TransformConfig> = actions(reading, kind, inner, node)
        .into_iter()
        .map(|action| TransformConfig {
            tables: tables.clone(),
            operations: operations.clone(),
            action,
        })
        .collect();
    if reading.problems.len() == before
        && let Some(error) = configs
            .iter()
            .cloned()
            .find_map(|config| Transformer::new(config).err())
    {
        reading.refuse(
            Problem::new(error.to_string(), &node.at)
                .help(format!("write {kind} = {}", shape(kind))),
        );
    }
    configs
}

fn actions(reading: &mut Reading<'_>, kind: &str, inner: &Table, node: &Node) -> Vec<Action> {
    let keys: &[&str] = match kind {
        "rename" => &["columns", "table", "schema"],
        "mask" => &["columns", "with"],
        "hash" => &["columns", "key", "key_file"],
        _ => &["columns"],
    };
    for (name, node) in inner {
        if !keys.contains(&name.as_str()) {
            let help = nearest(name, keys.iter().copied()).map_or_else(
                || format!("write {kind} = {}", shape(kind)),
                |near| format!("did you mean `{near}`?"),
            );
            reading.refuse(
                Problem::new(format!("unknown key `{name}` in `{kind}`"), &node.key_at).help(help),
            );
        }
    }
    match kind {
        "include" => vec![Action::Include {
            columns: columns(reading, kind, inner, node),
        }],
        "exclude" => vec![Action::Exclude {
            columns: columns(reading, kind, inner, node),
        }],
        "rename" => rename(reading, inner),
        "mask" => vec![Action::Mask {
            columns: columns(reading, kind, inner, node),
            with: mask(reading, inner),
        }],
        "hash" => {
            let columns = columns(reading, kind, inner, node);
            hash_key(reading, inner, node)
                .map(|key| Action::Hash { columns, key })
                .into_iter()
                .collect()
        }
        _ => set(reading, inner, node),
    }
}

fn columns(reading: &mut Reading<'_>, kind: &str, inner: &Table, node: &Node) -> Vec<String> {
    let Some(list) = inner.get("columns") else {
        reading.refuse(
            Problem::new(format!("`{kind}` names no `columns`"), &node.at)
                .help(format!("write {kind} = {}", shape(kind))),
        );
        return Vec::new();
    };
    let path = format!("{kind}.columns");
    reading
        .node_texts(&path, list)
        .into_iter()
        .map(|(text, _)| text)
        .collect()
}

fn rename(reading: &mut Reading<'_>, inner: &Table) -> Vec<Action> {
    let mut actions = Vec::new();
    if let Some(node) = inner.get("columns") {
        if let Value::Table(pairs) = &node.value {
            let columns = pairs
                .iter()
                .filter_map(|(old, new)| {
                    Some((old.clone(), reading.node_text("rename.columns", new)?.0))
                })
                .collect();
            actions.push(Action::RenameColumns { columns });
        } else {
            let help = "write rename = { columns = { old = \"new\" } }";
            reading.wrong_type("rename.columns", node, "a table", help);
        }
    }
    let mut text = |key: &str| {
        inner
            .get(key)
            .and_then(|node| reading.node_text(&format!("rename.{key}"), node))
            .map(|(text, _)| text)
    };
    let (schema, table) = (text("schema"), text("table"));
    // An empty `rename = {}` becomes the action that the check then refuses by name.
    if schema.is_some() || table.is_some() || !inner.contains_key("columns") {
        actions.push(Action::RenameTable { schema, table });
    }
    actions
}

fn mask(reading: &mut Reading<'_>, inner: &Table) -> Mask {
    let Some(node) = inner.get("with") else {
        return Mask::Stars;
    };
    let help = "write with = \"stars\", \"last4\" or \"null\", or a text of your own: with = { text = \"hidden\" }";
    match &node.value {
        Value::Text(word) => match word.as_str() {
            "stars" => return Mask::Stars,
            "last4" => return Mask::Last4,
            "null" => return Mask::Null,
            _ => reading.refuse(
                Problem::new(format!("`mask.with` cannot be {word:?}"), &node.at).help(help),
            ),
        },
        Value::Table(own) if own.len() == 1 && own.contains_key("text") => {
            if let Some((text, _)) = reading.node_text("mask.with.text", &own["text"]) {
                return Mask::Text(text);
            }
        }
        _ => reading.refuse(Problem::new("`mask.with` is not a mask", &node.at).help(help)),
    }
    Mask::Stars
}

fn hash_key(reading: &mut Reading<'_>, inner: &Table, node: &Node) -> Option<HashKey> {
    let (secret, at): (Secret, Origin) = match (inner.get("key"), inner.get("key_file")) {
        (Some(_), Some(file)) => {
            reading.refuse(
                Problem::new("`hash` has both `key` and `key_file`", &file.key_at)
                    .help("keep one of them"),
            );
            return None;
        }
        (Some(key), None) => {
            let (text, at) = reading.node_text("hash.key", key)?;
            (
                Secret::new(reading.interpolate("hash.key", &text, &at)?),
                at,
            )
        }
        (None, Some(file)) => {
            let (text, at) = reading.node_text("hash.key_file", file)?;
            let path = reading.interpolate("hash.key_file", &text, &at)?;
            (
                reading.secret_file("hash.key_file", path.as_ref(), &at)?,
                at,
            )
        }
        (None, None) => {
            reading.refuse(
                Problem::new("`hash` has no key: a hash without one can be guessed", &node.at)
                    .help("add key_file = \"/run/secrets/pii\" or key = \"${PII_KEY}\"; make a key with `openssl rand -hex 32`"),
            );
            return None;
        }
    };
    HashKey::new(secret.expose().as_bytes())
        .map_err(|error| {
            reading.refuse(
                Problem::new(error.to_string(), &at).help("equal keys give equal hashes: keep it"),
            );
        })
        .ok()
}

fn set(reading: &mut Reading<'_>, inner: &Table, node: &Node) -> Vec<Action> {
    let Some(columns) = inner.get("columns") else {
        reading.refuse(
            Problem::new("`set` names no `columns`", &node.at)
                .help(format!("write set = {}", shape("set"))),
        );
        return Vec::new();
    };
    let Value::Table(pairs) = &columns.value else {
        reading.wrong_type(
            "set.columns",
            columns,
            "a table",
            &format!("write set = {}", shape("set")),
        );
        return Vec::new();
    };
    if pairs.is_empty() {
        reading.refuse(
            Problem::new("`set` names no columns", &columns.at)
                .help(format!("write set = {}", shape("set"))),
        );
    }
    pairs
        .iter()
        .filter_map(|(column, node)| {
            Some(Action::Set {
                column: column.clone(),
                to: set_to(reading, node)?,
            })
        })
        .collect()
}

fn set_to(reading: &mut Reading<'_>, node: &Node) -> Option<SetTo> {
    let constant = match &node.value {
        Value::Text(text) => RowValue::Text(text.clone()),
        Value::Integer(Some(number)) => RowValue::Int(*number),
        Value::Boolean(flag) => RowValue::Bool(*flag),
        Value::Float(number) => match number.replace('_', "").parse() {
            Ok(number) => RowValue::Float64(number),
            Err(_) => return None,
        },
        Value::Table(own) if own.len() == 1 && own.contains_key("column") => {
            return reading
                .node_text("set.columns", &own["column"])
                .map(|(from, _)| SetTo::Column(from));
        }
        Value::Table(own)
            if own.len() == 1
                && matches!(
                    own.get("null"),
                    Some(Node {
                        value: Value::Boolean(true),
                        ..
                    })
                ) =>
        {
            RowValue::Null
        }
        _ => {
            reading.refuse(
                Problem::new("`set` cannot put this into a column", &node.at)
                    .help("write a string, a number or a boolean, { column = \"other\" } to copy, or { null = true }"),
            );
            return None;
        }
    };
    Some(SetTo::Constant(constant))
}

fn shape(kind: &str) -> &'static str {
    match kind {
        "rename" => "{ columns = { old = \"new\" } }",
        "mask" => "{ columns = [\"card\"], with = \"last4\" }",
        "hash" => "{ columns = [\"email\"], key_file = \"/run/secrets/pii\" }",
        "set" => "{ columns = { region = \"eu\" } }",
        _ => "{ columns = [\"id\", \"name\"] }",
    }
}

fn listed(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
