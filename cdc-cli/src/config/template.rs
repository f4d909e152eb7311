//! Texts made from the table of keys: the file `init` writes, and the reference in the docs.

use std::fmt::Write as _;

use super::keys::{KEYS, Key, Kind, Scope};

/// Lines of the template are wrapped here.
const WIDTH: usize = 96;

const HEAD: &str = "\
# WeftKit CDC. Every key is optional, every default is safe.
# Commented keys show their default, or an example where there is none.
# Check with `cdc-cli validate`; `cdc-cli config show --origin` says what is in effect and why.

";

const TAIL: &str = r#"
# Changes to events before delivery, in order. `tables` and `operations` limit one.
# [[cdc.transforms]]
# exclude = { columns = ["notes"] }              # or include = { columns = [...] }
# [[cdc.transforms]]
# tables = ["public.customers"]
# mask = { columns = ["card"], with = "last4" }  # "stars" | "last4" | "null" | { text = "hidden" }
# [[cdc.transforms]]
# hash = { columns = ["email"], key_file = "/run/secrets/pii" }
# [[cdc.transforms]]
# rename = { columns = { cust_no = "customer_id" }, table = "clients" }
# [[cdc.transforms]]
# set = { columns = { region = "eu" } }

# Several emitters instead of one. Keys of [cdc] above are their defaults; remove `emitter` there.
# [[cdc.emitters]]
# name = "audit"
# emitter = "file"
# tables = ["public.*"]
# [cdc.emitters.file]
# path = "/var/log/audit"
"#;

/// The keys that stand uncommented in the template: those of the shortest useful file.
const ACTIVE: [&str; 3] = ["emitter", "schemas", "batch_size"];

/// A commented configuration that is valid as it is.
pub(crate) fn template() -> String {
    let mut out = String::from(HEAD);
    let mut section = None;
    for key in KEYS
        .iter()
        .filter(|key| key.scope != Scope::Emitter && key.kind != Kind::Tables)
    {
        let (table, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if section != Some(table) {
            let header = if table.is_empty() {
                "[cdc]".to_owned()
            } else {
                format!("\n# [cdc.{table}]")
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{header}");
            section = Some(table);
        }
        for line in wrap(&describe(key), WIDTH) {
            let _ = writeln!(out, "# {line}");
        }
        let value = key.example.or(key.default).unwrap_or("100");
        let mark = if ACTIVE.contains(&key.path) { "" } else { "# " };
        let value = if ACTIVE.contains(&key.path) {
            key.default.unwrap_or(value)
        } else {
            value
        };
        let _ = writeln!(out, "{mark}{name} = {value}");
    }
    out.push_str(TAIL);
    out
}

fn describe(key: &Key) -> String {
    match (key.kind, key.default) {
        (Kind::Choice(_) | Kind::Sync, _) => format!("{} ({})", key.doc, key.kind.describe()),
        (_, Some(default)) if key.example.is_some() && default != "[]" => {
            format!("{} Default: {default}.", key.doc)
        }
        _ => key.doc.to_owned(),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let used = lines[last].chars().count();
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if used > 0 {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

/// The tables of `docs/configuration.md`, as Markdown.
#[cfg(test)]
pub(crate) fn reference() -> String {
    let mut out = String::new();
    let mut section = None;
    for key in KEYS.iter().filter(|key| key.scope != Scope::Emitter) {
        let (table, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if section != Some(table) {
            let header = if table.is_empty() {
                "[cdc]".to_owned()
            } else {
                format!("[cdc.{table}]")
            };
            let gap = if section.is_some() { "\n" } else { "" };
            let _ = writeln!(
                out,
                "{gap}### `{header}`\n\n| Key | Value | Default | Per emitter | Meaning |\n|---|---|---|---|---|"
            );
            section = Some(table);
        }
        let default = key
            .default
            .map_or_else(|| "—".to_owned(), |default| format!("`{default}`"));
        let both = if key.scope == Scope::Both { "yes" } else { "" };
        let _ = writeln!(
            out,
            "| `{name}` | {} | {default} | {both} | {} |",
            cell(&key.kind.describe()),
            cell(key.doc)
        );
    }
    out
}

#[cfg(test)]
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Layers;
    use crate::config::{ConfigError, load};

    fn check(text: &str) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cdc.toml");
        std::fs::write(&path, text).unwrap();
        match load(&Layers {
            file: Some(path),
            ..Layers::default()
        }) {
            Ok(_) => Ok(()),
            Err(ConfigError::File(error)) => Err(error.to_string()),
            Err(ConfigError::Problems(problems)) => Err(problems
                .iter()
                .map(|problem| problem.message().to_owned())
                .collect::<Vec<_>>()
                .join("; ")),
        }
    }

    #[test]
    fn the_documentation_has_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (begin, end) = ("<!-- reference: begin -->\n\n", "\n<!-- reference: end -->");
        let (head, rest) = text.split_once(begin).unwrap();
        let (old, tail) = rest.split_once(end).unwrap();
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::write(path, format!("{head}{begin}{}{end}{tail}", reference())).unwrap();
            return;
        }
        assert_eq!(
            old,
            reference(),
            "run this test once with UPDATE_REFERENCE=1"
        );
    }

    #[test]
    fn the_template_is_valid_as_it_is() {
        assert_eq!(check(&template()), Ok(()));
    }

    #[test]
    fn every_commented_key_is_valid_when_it_is_uncommented() {
        // What needs a file or a variable that is not there, and the key that has one value only
        // elsewhere, fail for that reason and no other.
        let excused = [
            "not set",
            "secret file",
            "both give",
            "are the same key",
            "has no `listen`",
        ];
        let lines: Vec<String> = template().lines().map(str::to_owned).collect();
        let mut section = String::from("[cdc]");
        let mut tried = 0;
        for line in &lines {
            let bare = line.trim_start_matches("# ");
            if bare.starts_with("[[") {
                break;
            }
            if bare.starts_with("[cdc") {
                section = bare.to_owned();
                continue;
            }
            let is_key = bare
                .split_once(" = ")
                .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            if !is_key {
                continue;
            }
            tried += 1;
            if let Err(problems) = check(&format!("{section}\n{bare}\n")) {
                assert!(
                    problems
                        .split("; ")
                        .all(|p| excused.iter().any(|e| p.contains(e))),
                    "{section} {bare}: {problems}"
                );
            }
        }
        assert!(tried > 40, "only {tried} keys found");
    }
}
