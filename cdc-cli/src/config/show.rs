//! Every setting in effect and where it comes from, secrets left out.

use super::document::{Origin, redact_passwords};
use super::keys::{self, KEYS, Kind, Scope};
use super::layers::{Merged, is_secret_path};
use super::tree::{self, Node, Table, Value};
use super::value::quoted;

/// One setting in effect.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Its path below `[cdc]`.
    pub(crate) path: String,
    /// Its value as TOML, secrets as `"***"`; `None` if it has neither value nor default.
    pub(crate) value: Option<String>,
    /// Where it comes from: `cdc.toml:3`, `environment NAME`, `flag --set`, `default`.
    pub(crate) origin: String,
}

/// The settings of all keys, in the order of the reference, then those of each emitter.
pub(crate) fn settings(merged: &Merged) -> Vec<Setting> {
    let mut settings = Vec::new();
    for key in KEYS.iter().filter(|key| keys::allowed(key, false)) {
        match tree::find(&merged.table, key.path) {
            Some(node) if key.path == "emitters" => emitters(node, &mut settings),
            Some(node) if key.kind == Kind::Tables => tables(key.path, node, &mut settings),
            Some(node) => settings.push(written(key.path, key.kind, node)),
            // With a list of emitters, `emitter` and the destinations have no say.
            None if key.kind == Kind::Tables
                || (key.path == "emitter" && merged.table.contains_key("emitters")) => {}
            None => settings.push(default(key.path, key.default)),
        }
    }
    settings
}

fn default(path: &str, value: Option<&str>) -> Setting {
    Setting {
        path: path.to_owned(),
        value: value.map(str::to_owned),
        origin: Origin::Default.to_string(),
    }
}

fn written(path: &str, kind: Kind, node: &Node) -> Setting {
    let value = if kind.is_secret() {
        "\"***\"".to_owned()
    } else {
        render(&node.value, "")
    };
    Setting {
        path: path.to_owned(),
        value: Some(value),
        origin: node.at.to_string(),
    }
}

fn tables(path: &str, node: &Node, settings: &mut Vec<Setting>) {
    let Value::List(items) = &node.value else {
        return;
    };
    for (at, item) in items.iter().enumerate() {
        settings.push(Setting {
            path: format!("{path}[{at}]"),
            value: Some(render(&item.value, "")),
            origin: item.at.to_string(),
        });
    }
}

fn emitters(list: &Node, settings: &mut Vec<Setting>) {
    let Value::List(items) = &list.value else {
        return;
    };
    for (at, item) in items.iter().enumerate() {
        let Value::Table(own) = &item.value else {
            continue;
        };
        let prefix = match own.get("name").map(|node| &node.value) {
            Some(Value::Text(name)) => format!("emitters[{name}]"),
            _ => format!("emitters[{at}]"),
        };
        for key in KEYS
            .iter()
            .filter(|key| matches!(key.scope, Scope::Both | Scope::Emitter))
        {
            if let Some(node) = tree::find(own, key.path) {
                let path = format!("{prefix}.{}", key.path);
                if key.kind == Kind::Tables {
                    tables(&path, node, settings);
                } else {
                    settings.push(written(&path, key.kind, node));
                }
            }
        }
    }
}

fn render(value: &Value, path: &str) -> String {
    if is_secret_path(path) {
        return "\"***\"".to_owned();
    }
    match value {
        Value::Text(text) => quoted(&redact_passwords(text)),
        Value::Integer(Some(number)) => number.to_string(),
        Value::Integer(None) => "?".to_owned(),
        Value::Float(text) | Value::Datetime(text) => text.clone(),
        Value::Boolean(flag) => flag.to_string(),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| render(&item.value, path)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) => inline(table),
    }
}

fn inline(table: &Table) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let pairs: Vec<_> = table
        .iter()
        .map(|(name, node)| {
            let bare = !name.is_empty() && name.chars().all(plain);
            let key = if bare { name.clone() } else { quoted(name) };
            format!("{key} = {}", render(&node.value, name))
        })
        .collect();
    if pairs.is_empty() {
        "{}".to_owned()
    } else {
        format!("{{ {} }}", pairs.join(", "))
    }
}
