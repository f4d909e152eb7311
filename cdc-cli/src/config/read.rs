//! Typed access to the merged tree: every wrong value becomes a problem, reading goes on.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cdc_core::Op;

use super::document::Origin;
use super::keys::{self, Key, Kind};
use super::model::Secret;
use super::problem::{Problem, nearest};
use super::tree::{self, Node, Table, Value};
use super::value::{
    DURATION_HELP, Environment, InterpolateError, SIZE_HELP, interpolate, parse_duration,
    parse_size,
};

/// Largest secret file.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// What all reading shares.
pub(crate) struct Reading<'a> {
    /// Variables for `${NAME}`.
    pub(crate) environment: &'a Environment,
    /// What was wrong so far.
    pub(crate) problems: Vec<Problem>,
}

/// A text and where it stands.
pub(crate) type Placed<T> = (T, Origin);

/// A table of keys, and the one whose keys are its defaults.
#[derive(Clone, Copy)]
pub(crate) struct Section<'a> {
    /// Its own keys.
    pub(crate) own: &'a Table,
    /// `[cdc]`, for an emitter.
    pub(crate) parent: Option<&'a Table>,
}

impl<'a> Section<'a> {
    /// The node at a path: its own, else its parent's if the key stands in both.
    pub(crate) fn node(&self, path: &str) -> Option<&'a Node> {
        tree::find(self.own, path).or_else(|| {
            let key = keys::lookup(path, true)?;
            match key.scope {
                keys::Scope::Both => tree::find(self.parent?, path),
                _ => None,
            }
        })
    }

    fn key(&self, path: &str) -> Option<&'static Key> {
        keys::lookup(path, self.parent.is_some())
    }
}

impl Reading<'_> {
    /// Adds a problem.
    pub(crate) fn refuse(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Adds "must be X, not Y".
    pub(crate) fn wrong_type(&mut self, path: &str, node: &Node, wanted: &str, help: &str) {
        let message = format!("`{path}` must be {wanted}, not {}", node.value.kind());
        self.refuse(Problem::new(message, &node.at).help(help));
    }

    /// A text as written.
    pub(crate) fn text(&mut self, section: Section<'_>, path: &str) -> Option<Placed<String>> {
        match section.node(path) {
            Some(node) => self.node_text(path, node),
            None => default_text(section.key(path)).map(|text| (text, Origin::Default)),
        }
    }

    pub(crate) fn node_text(&mut self, path: &str, node: &Node) -> Option<Placed<String>> {
        if let Value::Text(text) = &node.value {
            Some((text.clone(), node.at.clone()))
        } else {
            self.wrong_type(path, node, "a string", "put it in double quotes");
            None
        }
    }

    /// A text in which `${NAME}` is replaced.
    pub(crate) fn interpolated(
        &mut self,
        section: Section<'_>,
        path: &str,
    ) -> Option<Placed<String>> {
        let (text, at) = self.text(section, path)?;
        self.interpolate(path, &text, &at).map(|text| (text, at))
    }

    /// Replaces `${NAME}` in the value of a key.
    pub(crate) fn interpolate(&mut self, path: &str, text: &str, at: &Origin) -> Option<String> {
        match interpolate(text, self.environment) {
            Ok(text) => Some(text),
            Err(InterpolateError::Unset { name, state }) => {
                self.refuse(
                    Problem::new(
                        format!("`{path}` needs the environment variable {name}, which is {state}"),
                        &narrow(at, &format!("${{{name}}}")),
                    )
                    .help(format!("set {name} in the environment of this process; write $${{ for a literal ${{")),
                );
                None
            }
            Err(InterpolateError::Malformed) => {
                self.refuse(
                    Problem::new(
                        format!("`{path}` holds ${{ that is not followed by NAME}}"),
                        at,
                    )
                    .help("write ${NAME} for an environment variable, $${ for a literal ${"),
                );
                None
            }
        }
    }

    /// A path in which `${NAME}` is replaced.
    pub(crate) fn path(&mut self, section: Section<'_>, path: &str) -> Option<Placed<PathBuf>> {
        let (text, at) = self.interpolated(section, path)?;
        if text.is_empty() {
            self.refuse(Problem::new(format!("`{path}` is empty"), &at).help("write a path"));
            return None;
        }
        Some((PathBuf::from(text), at))
    }

    /// Bytes.
    pub(crate) fn size(&mut self, section: Section<'_>, path: &str) -> Option<Placed<u64>> {
        let Some(node) = section.node(path) else {
            let text = default_text(section.key(path))?;
            return parse_size(&text).map(|size| (size, Origin::Default));
        };
        let size = match &node.value {
            Value::Integer(Some(bytes)) => u64::try_from(*bytes).ok(),
            Value::Text(text) => parse_size(text),
            Value::Integer(None) => None,
            _ => {
                self.wrong_type(path, node, "a size", SIZE_HELP);
                return None;
            }
        };
        if size.is_none() {
            self.refuse(Problem::new(format!("`{path}` is not a size"), &node.at).help(SIZE_HELP));
        }
        size.map(|size| (size, node.at.clone()))
    }

    /// A size that is not zero.
    pub(crate) fn size_above_zero(&mut self, section: Section<'_>, path: &str) -> Option<u64> {
        let (size, at) = self.size(section, path)?;
        if size == 0 {
            self.refuse(
                Problem::new(format!("`{path}` must be more than 0 bytes"), &at).help(SIZE_HELP),
            );
        }
        Some(size)
    }

    /// A span of time, more than zero.
    pub(crate) fn duration(
        &mut self,
        section: Section<'_>,
        path: &str,
    ) -> Option<Placed<Duration>> {
        let Some(node) = section.node(path) else {
            let text = default_text(section.key(path))?;
            return parse_duration(&text).map(|duration| (duration, Origin::Default));
        };
        let Value::Text(text) = &node.value else {
            self.wrong_type(path, node, "a duration", DURATION_HELP);
            return None;
        };
        match parse_duration(text) {
            Some(duration) if !duration.is_zero() => Some((duration, node.at.clone())),
            found => {
                let what = if found.is_some() {
                    "must be more than 0"
                } else {
                    "is not a duration"
                };
                self.refuse(Problem::new(format!("`{path}` {what}"), &node.at).help(DURATION_HELP));
                None
            }
        }
    }

    /// A whole number within the bounds of its key.
    pub(crate) fn count(&mut self, section: Section<'_>, path: &str) -> Option<Placed<u64>> {
        let key = section.key(path)?;
        let Kind::Count(min, max) = key.kind else {
            return None;
        };
        let Some(node) = section.node(path) else {
            let count = key.default?.parse().ok()?;
            return Some((count, Origin::Default));
        };
        let Value::Integer(count) = &node.value else {
            self.wrong_type(
                path,
                node,
                "an integer",
                &format!("write a number from {min} to {max}, without quotes"),
            );
            return None;
        };
        match count {
            Some(count) if (min..=max).contains(count) => u64::try_from(*count)
                .ok()
                .map(|count| (count, node.at.clone())),
            _ => {
                self.refuse(
                    Problem::new(format!("`{path}` must be from {min} to {max}"), &node.at).help(
                        key.default.map_or_else(
                            || format!("write a number of at least {min}"),
                            |default| format!("leave it out for the default, {default}"),
                        ),
                    ),
                );
                None
            }
        }
    }

    /// True or false.
    pub(crate) fn flag(&mut self, section: Section<'_>, path: &str) -> Option<bool> {
        let Some(node) = section.node(path) else {
            return section.key(path)?.default?.parse().ok();
        };
        if let Value::Boolean(flag) = node.value {
            Some(flag)
        } else {
            self.wrong_type(
                path,
                node,
                "true or false",
                "write true or false, without quotes",
            );
            None
        }
    }

    /// One of the words of its key.
    pub(crate) fn choice(
        &mut self,
        section: Section<'_>,
        path: &str,
    ) -> Option<Placed<&'static str>> {
        let Kind::Choice(choices) = section.key(path)?.kind else {
            return None;
        };
        let (text, at) = self.text(section, path)?;
        self.word(path, &text, &at, choices).map(|word| (word, at))
    }

    fn word(
        &mut self,
        path: &str,
        text: &str,
        at: &Origin,
        choices: &[&'static str],
    ) -> Option<&'static str> {
        let found = choices.iter().find(|choice| **choice == text).copied();
        if found.is_none() {
            let list = choices
                .iter()
                .map(|word| format!("\"{word}\""))
                .collect::<Vec<_>>();
            let known = format!("known are {}", list.join(", "));
            let help = nearest(text, choices.iter().copied()).map_or_else(
                || known.clone(),
                |near| format!("did you mean \"{near}\"? {known}"),
            );
            let shown: String = text.chars().take(64).collect();
            self.refuse(Problem::new(format!("`{path}` cannot be {shown:?}"), at).help(help));
        }
        found
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, section: Section<'_>, path: &str) -> Vec<Placed<String>> {
        match section.node(path) {
            Some(node) => self.node_texts(path, node),
            None => Vec::new(),
        }
    }

    pub(crate) fn node_texts(&mut self, path: &str, node: &Node) -> Vec<Placed<String>> {
        let Value::List(items) = &node.value else {
            let help = match &node.value {
                Value::Text(_) => "write a list, such as [\"a\", \"b\"]; for one entry [\"a\"]",
                _ => "write a list, such as [\"a\", \"b\"]",
            };
            self.wrong_type(path, node, "a list of strings", help);
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            if let Value::Text(text) = &item.value {
                texts.push((text.clone(), item.at.clone()));
            } else {
                let message = format!("`{path}` must hold strings, not {}", item.value.kind());
                self.refuse(Problem::new(message, &item.at).help("put it in double quotes"));
            }
        }
        texts
    }

    /// A list of operations.
    pub(crate) fn operations(&mut self, path: &str, node: Option<&Node>) -> Vec<Op> {
        let Some(node) = node else { return Vec::new() };
        let texts = self.node_texts(path, node);
        let mut operations = Vec::with_capacity(texts.len());
        for (text, at) in texts {
            if let Some(op) = self
                .word(path, &text, &at, keys::OPERATIONS)
                .and_then(Op::from_name)
                && !operations.contains(&op)
            {
                operations.push(op);
            }
        }
        operations
    }

    /// Checks the types of a table's own keys whose values nobody will use.
    pub(crate) fn types_below(&mut self, section: Section<'_>, table: &str) {
        let own = Section {
            own: section.own,
            parent: None,
        };
        for key in keys::KEYS
            .iter()
            .filter(|key| key.scope != keys::Scope::Emitter)
        {
            if key.path.split('.').next() != Some(table) {
                continue;
            }
            let Some(node) = own.node(key.path) else {
                continue;
            };
            let path = key.path;
            match key.kind {
                Kind::Text | Kind::Interpolated | Kind::Secret | Kind::Path => {
                    self.node_text(path, node);
                }
                Kind::Sync => drop(super::destination::file_sync(self, own)),
                Kind::Size => drop(self.size(own, path)),
                Kind::Duration => drop(self.duration(own, path)),
                Kind::Count(..) => drop(self.count(own, path)),
                Kind::Flag => drop(self.flag(own, path)),
                Kind::Texts | Kind::Choices(_) => drop(self.node_texts(path, node)),
                Kind::Choice(_) => drop(self.choice(own, path)),
                Kind::Headers | Kind::Tables => {}
            }
        }
    }

    /// What a secret file holds, without the line end.
    pub(crate) fn secret_file(&mut self, key: &str, path: &Path, at: &Origin) -> Option<Secret> {
        let shown = path.display();
        let mut text = String::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text));
        let (what, help) = match read {
            Err(error) => (
                format!(
                    "`{key}`: read the secret file {shown}: {}",
                    io_reason(&error)
                ),
                "the file must exist and be readable by this process, and be text",
            ),
            Ok(read) if read as u64 > SECRET_BYTES_MAX => (
                format!("`{key}`: the secret file {shown} is larger than 64 KiB"),
                "is it the right file?",
            ),
            Ok(_) if text.trim_end().is_empty() => (
                format!("`{key}`: the secret file {shown} is empty"),
                "write the secret into it",
            ),
            Ok(_) => return Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())),
        };
        self.refuse(Problem::new(what, at).help(help));
        None
    }
}

/// What went wrong, in the words every system has for it.
pub(crate) fn io_reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        ErrorKind::IsADirectory => "it is a directory".into(),
        ErrorKind::InvalidData => "it is not UTF-8 text".into(),
        _ => error.to_string(),
    }
}

/// The part of a value where `text` stands in its document.
fn narrow(at: &Origin, text: &str) -> Origin {
    if let Origin::Written { document, span } = at
        && let Some(value) = document.text().get(span.clone())
        && let Some(found) = value.find(text)
    {
        return Origin::at(
            document,
            span.start + found..span.start + found + text.len(),
        );
    }
    at.clone()
}

/// The default of a key as plain text, quotes removed.
fn default_text(key: Option<&'static Key>) -> Option<String> {
    key?.default
        .map(|default| default.trim_matches('"').to_owned())
}
