//! Texts into trees: the file, the environment, the flags, one over the other.

use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::document::{Document, DocumentKind, Origin};
use super::keys::{self, Kind};
use super::problem::{Problem, nearest};
use super::tree::{self, Node, Table, Value};
use super::value::{Environment, quoted};

/// Largest configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What environment variables of keys begin with.
pub(crate) const ENVIRONMENT_PREFIX: &str = "WEFTKIT_CDC_";
/// Text of a broken file that is longer than this is not shown.
const SECRET_LEN_MIN: usize = 15;
/// Variables with the prefix that are no keys.
const RESERVED: [&str; 1] = ["WEFTKIT_CDC_LOG"];

/// What is laid over the defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    /// The configuration file.
    pub(crate) file: Option<PathBuf>,
    /// The environment.
    pub(crate) environment: Environment,
    /// `--source`.
    pub(crate) source: Option<String>,
    /// `--set key=value`, in order.
    pub(crate) sets: Vec<String>,
}

/// The merged tree of `[cdc]`.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// Keys of `[cdc]`.
    pub(crate) table: Table,
    /// The file's own place, if there is a file.
    pub(crate) file: Option<Origin>,
}

/// Why the file could not be read at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFileError {
    /// The disk said no.
    #[error("read the configuration file {path}; check the path given with --config")]
    Io {
        /// The file.
        path: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// It is no configuration.
    #[error("read the configuration file {path}: it is larger than 1 MiB; is it the right file?")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// It is no text.
    #[error(
        "read the configuration file {path}: it is not UTF-8 text (line {line}); save it as UTF-8"
    )]
    NotText {
        /// The file.
        path: String,
        /// 1-based.
        line: usize,
    },
}

/// Reads a file within its bound.
pub(crate) fn read_file(path: &Path) -> Result<String, ReadFileError> {
    let name = path.display().to_string();
    let io = |cause| ReadFileError::Io {
        path: name.clone(),
        cause,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ReadFileError::TooLarge { path: name });
    }
    // A byte order mark, as some editors write, is no part of the text.
    if let Some(text) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        bytes = text.to_vec();
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        ReadFileError::NotText { path: name, line }
    })
}

/// Merges all layers. What is wrong with one of them is added to `problems`; the others go on.
pub(crate) fn merge(layers: &Layers, problems: &mut Vec<Problem>) -> Result<Merged, ReadFileError> {
    let mut merged = Merged::default();
    if let Some(path) = &layers.file {
        let document = Document::new(
            DocumentKind::File,
            path.display().to_string(),
            read_file(path)?,
        );
        let document = Arc::new(document);
        merged.file = Some(Origin::at(&document, 0..0));
        file_layer(&document, &mut merged.table, problems);
    }
    for (name, value) in layers.environment.iter() {
        if let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX)
            && !RESERVED.contains(&name)
        {
            let path = rest.to_ascii_lowercase().replace("__", ".");
            let setting = Setting {
                kind: DocumentKind::Environment,
                name,
                path: &path,
                value,
            };
            setting.apply(
                name.len() + 1,
                &format!("{name}={value}"),
                &mut merged.table,
                problems,
            );
        }
    }
    // Left out in silence, a key would have another value than somebody has given it.
    let of_keys = |name: &&str| name.starts_with(ENVIRONMENT_PREFIX) && !RESERVED.contains(name);
    for name in layers.environment.not_text().filter(of_keys) {
        let document = Arc::new(Document::new(DocumentKind::Environment, name, name));
        document.mask(Vec::new());
        problems.push(
            Problem::new(
                format!("the environment variable {name} is not UTF-8 text"),
                &Origin::at(&document, 0..name.len()),
            )
            .help("set it to text, or unset it"),
        );
    }
    for set in &layers.sets {
        flag_layer(set, &mut merged.table, problems);
    }
    if let Some(source) = &layers.source {
        let setting = Setting {
            kind: DocumentKind::Flag,
            name: "--source",
            path: "source",
            value: source,
        };
        setting.apply(
            "--source ".len(),
            &format!("--source {source}"),
            &mut merged.table,
            problems,
        );
    }
    Ok(merged)
}

fn file_layer(document: &Arc<Document>, table: &mut Table, problems: &mut Vec<Problem>) {
    let (parsed, errors) = DeTable::parse_recoverable(document.text());
    let mut whole = tree::from_table(document, parsed.get_ref(), 0);
    let mut masks = Vec::new();
    secret_spans(&whole, "", &mut masks);
    masks.extend(secret_words(document.text()));
    if !errors.is_empty() {
        // A broken file has no reliable tree: mask by the look of its lines as well.
        masks.extend(suspicious_lines(document.text()));
        masks.extend(long_strings(document.text()));
    }
    document.mask(masks);
    if !errors.is_empty() {
        let mut lines = Vec::new();
        for error in errors {
            let span = error
                .span()
                .unwrap_or(document.text().len()..document.text().len());
            let line = document.line_column(span.start).0;
            // One mistake often gives several errors on its line; the first one says it.
            if !lines.contains(&line) {
                lines.push(line);
                problems.push(syntax_problem(document, error.message(), span));
            }
        }
        return;
    }
    let cdc = whole.remove("cdc");
    for (name, node) in &whole {
        let problem = Problem::new(
            format!("unknown table or key `{name}` at the top level"),
            &node.key_at,
        );
        let help = if keys::names_below("", false).contains(&name.as_str()) {
            format!("`{name}` is a key of [cdc]: put a line `[cdc]` above it")
        } else {
            "everything stands in [cdc]: did you forget a line `[cdc]`, or write another name?"
                .into()
        };
        problems.push(problem.help(help));
    }
    match cdc {
        Some(Node {
            value: Value::Table(cdc),
            ..
        }) => tree::overlay(table, cdc),
        Some(node) => problems.push(
            Problem::new(
                format!("`cdc` must be a table, not {}", node.value.kind()),
                &node.at,
            )
            .help("write [cdc] on a line of its own, and its keys below"),
        ),
        None => {}
    }
}

fn syntax_problem(document: &Arc<Document>, message: &str, span: Range<usize>) -> Problem {
    let help = if message.contains("duplicate key") {
        "remove one of the two"
    } else if message.contains("string") || message.contains("quote") {
        "put text in double quotes, such as key = \"text\", and close them on the same line"
    } else {
        "the file is TOML: key = value lines below [table] lines, text in double quotes"
    };
    Problem::new(
        format!("invalid TOML: {message}"),
        &Origin::at(document, span),
    )
    .help(help)
}

fn flag_layer(set: &str, table: &mut Table, problems: &mut Vec<Problem>) {
    let shown = format!("--set {set}");
    let Some((path, value)) = set.split_once('=') else {
        let document = Arc::new(Document::new(DocumentKind::Flag, "--set", shown.clone()));
        document.mask(Vec::new());
        problems.push(
            Problem::new(
                "--set needs key=value",
                &Origin::at(&document, 6..shown.len()),
            )
            .help("write for example --set batch_size=500, or --set file.path=/var/log/cdc"),
        );
        return;
    };
    let offset = "--set ".len() + path.len() + 1;
    let path = path.trim();
    let path = path.strip_prefix("cdc.").unwrap_or(path);
    let setting = Setting {
        kind: DocumentKind::Flag,
        name: "--set",
        path,
        value,
    };
    setting.apply(offset, &shown, table, problems);
}

/// One key from the environment or from a flag.
struct Setting<'a> {
    kind: DocumentKind,
    name: &'a str,
    path: &'a str,
    value: &'a str,
}

impl Setting<'_> {
    /// Lays the setting over the table; its value begins at `offset` of `shown`.
    fn apply(&self, offset: usize, shown: &str, table: &mut Table, problems: &mut Vec<Problem>) {
        let document = Arc::new(Document::new(self.kind, self.name, shown));
        let whole = offset..shown.len();
        let key = keys::lookup(self.path, false);
        // What is behind an unknown key may be a secret whose key was misspelt.
        let secret = key.is_none_or(|key| key.kind.is_secret());
        document.mask(if secret {
            vec![whole.clone()]
        } else {
            Vec::new()
        });
        let name_at = match self.kind {
            DocumentKind::Environment => 0..self.name.len(),
            _ if self.name == "--set" => "--set ".len()..offset - 1,
            _ => 0..self.name.len(),
        };
        let key_at = Origin::at(&document, name_at);
        let at = Origin::at(&document, whole.clone());
        let Some(key) = key else {
            problems.push(unknown_key(self.path, self.kind, &key_at));
            return;
        };
        if key.kind == Kind::Tables {
            problems.push(
                Problem::new(format!("`{}` cannot be set here", self.path), &key_at)
                    .help("lists of tables stand in the configuration file; a value in them may be \"${NAME}\""),
            );
            return;
        }
        let value = if key.kind.is_text() && !self.value.trim_start().starts_with('"') {
            Ok(Node {
                value: Value::Text(self.value.to_owned()),
                at,
                key_at,
            })
        } else {
            self.parse(key.kind, &document, offset, key_at)
        };
        match value {
            Ok(node) => tree::overlay(table, tree::nest(self.path, node)),
            Err(problem) => problems.push(*problem),
        }
    }

    fn parse(
        &self,
        kind: Kind,
        document: &Arc<Document>,
        offset: usize,
        key_at: Origin,
    ) -> Result<Node, Box<Problem>> {
        let text = self.value.trim();
        let at = Origin::at(document, offset..offset + self.value.len());
        let lead = self.value.len() - self.value.trim_start().len();
        match kind {
            // `a,b` is what people write where a list of words is meant.
            Kind::Texts | Kind::Choices(_) if !text.starts_with('[') => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                let items = items.map(|item| Node {
                    value: Value::Text(item.trim_matches('"').to_owned()),
                    at: at.clone(),
                    key_at: key_at.clone(),
                });
                return Ok(Node {
                    value: Value::List(items.collect()),
                    at: at.clone(),
                    key_at: key_at.clone(),
                });
            }
            Kind::Size if text.ends_with(|c: char| c.is_ascii_alphabetic()) => {
                return Ok(Node {
                    value: Value::Text(text.to_owned()),
                    at,
                    key_at,
                });
            }
            _ => {}
        }
        match DeValue::parse(text) {
            Ok(value) => Ok(tree::from_value(document, &value, key_at, offset + lead)),
            // What is no TOML is text; the check of the key says what it should be.
            Err(_) if !text.starts_with(['[', '{', '"']) => Ok(Node {
                value: Value::Text(text.to_owned()),
                at,
                key_at,
            }),
            Err(error) => Err(Box::new(
                Problem::new(
                    format!("`{}` is not a TOML value: {}", self.path, error.message()),
                    &at,
                )
                .help(format!("write {}", kind.describe())),
            )),
        }
    }
}

/// The problem of a key nobody knows, given in the environment or as a flag.
fn unknown_key(path: &str, kind: DocumentKind, at: &Origin) -> Problem {
    let known: Vec<&str> = keys::KEYS
        .iter()
        .filter(|key| keys::allowed(key, false))
        .map(|key| key.path)
        .collect();
    let spell = |path: &str| match kind {
        DocumentKind::Environment => {
            format!(
                "{ENVIRONMENT_PREFIX}{}",
                path.replace('.', "__").to_ascii_uppercase()
            )
        }
        _ => path.to_owned(),
    };
    // `create_publication` is nearer to `postgres.create_publication` than to any other key.
    let last = |key: &&&str| key.rsplit('.').next() == Some(path);
    let mut same = known.iter().filter(last);
    let same = same.next().filter(|_| same.next().is_none());
    let near = same
        .copied()
        .or_else(|| nearest(path, known.iter().copied()));
    let help = match near {
        Some(near) => format!("did you mean `{}`?", spell(near)),
        None if keys::is_section(path, false) => format!(
            "`{path}` is a table; its keys are {}",
            keys::names_below(path, false)
                .iter()
                .map(|name| format!("`{}`", spell(&format!("{path}.{name}"))))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        None => "`cdc-cli config show` lists every key".to_owned(),
    };
    let message = match kind {
        DocumentKind::Environment => {
            format!("unknown key in the environment variable {}", spell(path))
        }
        _ => format!("unknown key {}", quoted(path)),
    };
    Problem::new(message, at).help(help)
}

/// Spans of all values that are never shown.
fn secret_spans(table: &Table, path: &str, spans: &mut Vec<Range<usize>>) {
    for (name, node) in table {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        if is_secret_path(&path) || resembles_secret(name) {
            mask_leaves(node, spans);
            continue;
        }
        if let (Value::Text(text), Origin::Written { span, .. }) = (&node.value, &node.at) {
            // A key that nobody knows may be a misspelt secret; a source may be a misspelt URL.
            if !known_name(name) && text.len() > SECRET_LEN_MIN {
                spans.push(span.clone());
            } else if name == "source"
                && let Origin::Written { document, .. } = &node.at
                && let Some(written) = document.text().get(span.clone())
            {
                spans.extend(
                    long_words(written).map(|word| span.start + word.start..span.start + word.end),
                );
            }
        }
        match &node.value {
            Value::Table(inner) => secret_spans(inner, &path, spans),
            Value::List(items) => {
                for item in items {
                    if let Value::Table(inner) = &item.value {
                        secret_spans(inner, &path, spans);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Masks the values below a secret key one by one, so that a caret still finds its place.
fn mask_leaves(node: &Node, spans: &mut Vec<Range<usize>>) {
    match &node.value {
        Value::Table(inner) => inner.values().for_each(|node| mask_leaves(node, spans)),
        Value::List(items) => items.iter().for_each(|node| mask_leaves(node, spans)),
        // The name of a variable is no secret, and what a message about it is about.
        Value::Text(text) if is_variable(text) => {}
        _ => {
            if let Origin::Written { span, .. } = &node.at {
                spans.push(span.clone());
            }
        }
    }
}

/// True for `${NAME}` and nothing else.
fn is_variable(text: &str) -> bool {
    let name = text
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
}

/// Words that are a signing secret by their look, wherever they stand.
fn secret_words(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("whsec_").map(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-');
        let length = rest.find(|c| !plain(c)).unwrap_or(rest.len());
        at..at + mark.len() + length
    })
}

/// Words of letters and digits that are long enough to be a secret.
fn long_words(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(move |word| {
            // The separator may be any character: find the word again behind the last one.
            let start = at + text[at..].find(word)?;
            at = start + word.len();
            (word.len() > SECRET_LEN_MIN).then_some(start..start + word.len())
        })
}

/// True if some key or transform has this name.
fn known_name(name: &str) -> bool {
    const OF_TRANSFORMS: [&str; 13] = [
        "include", "exclude", "rename", "mask", "hash", "set", "columns", "with", "key_file",
        "table", "schema", "text", "column",
    ];
    OF_TRANSFORMS.contains(&name)
        || keys::KEYS
            .iter()
            .any(|key| key.path.split('.').any(|part| part == name))
}

/// Strings long enough to be a secret, and what follows a quote that is never closed.
fn long_strings(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let mut at = 0;
        while let Some(open) = line[at..].find(['"', '\'']).map(|found| at + found) {
            let quote = &line[open..=open];
            let close = line[open + 1..]
                .find(quote)
                .map_or(line.len(), |found| open + 1 + found);
            if close - open > SECRET_LEN_MIN {
                spans.push(start + open + 1..start + close);
            }
            at = (close + 1).min(line.len());
        }
        let mut word = None;
        for (at, c) in line.char_indices().chain([(line.len(), ' ')]) {
            let plain = c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-');
            match word {
                None if plain => word = Some(at),
                Some(from) if !plain => {
                    if at - from > SECRET_LEN_MIN {
                        spans.push(start + from..start + at);
                    }
                    word = None;
                }
                _ => {}
            }
        }
        start += line.len();
    }
    spans
}

/// True for `secret`, `headers`, `hash.key` wherever they stand, also where they should not.
pub(crate) fn is_secret_path(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
    if name.ends_with("_file") || name.ends_with("_files") || name.ends_with("_path") {
        return false;
    }
    let marks = [
        "secret",
        "password",
        "passwd",
        "token",
        "headers",
        "authorization",
        "credential",
    ];
    name == "key" || name.ends_with("_key") || marks.iter().any(|mark| name.contains(mark))
}

/// True for a misspelt `secret`: a key that nobody knows is shown, and its value with it.
fn resembles_secret(name: &str) -> bool {
    ["secret", "headers", "authorization", "password"]
        .into_iter()
        .any(|word| {
            name != "secret_file" && name != "secrets_files" && nearest(name, [word]).is_some()
        })
}

/// What follows the `=` on lines whose key looks like a secret's.
fn suspicious_lines(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let mut from = 0;
        while let Some(equals) = line[from..].find('=').map(|at| from + at) {
            let name = line[..equals].trim_end();
            let name_start = name
                .rfind(|c: char| c.is_whitespace() || matches!(c, ',' | '{' | '='))
                .map_or(0, |at| at + 1);
            let name = name
                .get(name_start..)
                .unwrap_or("")
                .trim_matches(['"', '\'']);
            if is_secret_path(name) || resembles_secret(name) {
                spans.push(start + equals + 1..start + line.trim_end().len().max(equals + 1));
                break;
            }
            from = equals + 1;
        }
        start += line.len();
    }
    spans
}
