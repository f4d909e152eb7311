//! Unknown keys: every name that stands where nobody reads it.

use super::document::Origin;
use super::keys::{self, Kind};
use super::problem::{Problem, nearest};
use super::tree::{Table, Value};

/// Longest list of known names in a message.
const LISTED_MAX: usize = 14;

/// Adds a problem for every unknown key of `[cdc]` or of one emitter.
pub(crate) fn check(table: &Table, in_emitter: bool, problems: &mut Vec<Problem>) {
    walk(table, "", in_emitter, problems);
}

fn walk(table: &Table, path: &str, in_emitter: bool, problems: &mut Vec<Problem>) {
    let known = keys::names_below(path, in_emitter);
    for (name, node) in table {
        let full = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        if !known.contains(&name.as_str()) {
            problems.push(unknown(name, path, in_emitter, &known, &node.key_at));
            continue;
        }
        if keys::lookup(&full, in_emitter).is_some() {
            continue;
        }
        match &node.value {
            Value::Table(inner) => walk(inner, &full, in_emitter, problems),
            other => problems.push(
                Problem::new(
                    format!("`{full}` must be a table, not {}", other.kind()),
                    &node.at,
                )
                .help(format!(
                    "write [{}] on a line of its own, and its keys below",
                    header(&full, in_emitter)
                )),
            ),
        }
    }
}

fn unknown(
    name: &str,
    path: &str,
    in_emitter: bool,
    known: &[&'static str],
    at: &Origin,
) -> Problem {
    let place = header(path, in_emitter);
    let place = if in_emitter && path.is_empty() {
        format!("[[{place}]]")
    } else {
        format!("[{place}]")
    };
    let shown: String = name.chars().take(64).collect();
    let elsewhere = || {
        keys::KEYS
            .iter()
            .filter(|key| key.kind != Kind::Tables || key.path == "emitters")
            .find(|key| key.path.rsplit('.').next() == Some(name))
            .map(|key| {
                let section = key.path.rsplit_once('.').map_or("", |(section, _)| section);
                let place = header(section, !keys::allowed(key, false));
                format!("`{name}` is a key of [{place}]")
            })
    };
    let list = || {
        if known.len() > LISTED_MAX {
            return "`cdc-cli config show` lists every key".to_owned();
        }
        let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
        format!("known are {}", names.join(", "))
    };
    let help = nearest(name, known.iter().copied())
        .map(|near| format!("did you mean `{near}`?"))
        .or_else(elsewhere)
        .unwrap_or_else(list);
    Problem::new(format!("unknown key `{shown}` in {place}"), at).help(help)
}

/// The name of a table as it stands between brackets.
fn header(path: &str, in_emitter: bool) -> String {
    let root = if in_emitter { "cdc.emitters" } else { "cdc" };
    if path.is_empty() {
        root.to_owned()
    } else {
        format!("{root}.{path}")
    }
}
