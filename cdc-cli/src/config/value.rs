//! Values people write: sizes, durations, `${NAME}`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// The environment, read once.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    texts: BTreeMap<String, String>,
    /// Names of variables that are not UTF-8.
    others: BTreeSet<String>,
}

impl Environment {
    /// The process's environment.
    pub(crate) fn of_process() -> Self {
        let mut environment = Self::default();
        for (name, value) in std::env::vars_os() {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => {
                    environment.texts.insert(name, value);
                }
                (Ok(name), Err(_)) => {
                    environment.others.insert(name);
                }
                (Err(name), _) => {
                    let name = name.to_string_lossy().into_owned();
                    environment.others.insert(name);
                }
            }
        }
        environment
    }

    /// A variable.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// All variables that are text, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Names of all others.
    pub(crate) fn not_text(&self) -> impl Iterator<Item = &str> {
        self.others.iter().map(String::as_str)
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self {
            texts: variables.into_iter().collect(),
            others: BTreeSet::new(),
        }
    }
}

/// Names only: the environment holds secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries(self.texts.keys().chain(&self.others))
            .finish()
    }
}

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// What a size looks like, for help.
pub(crate) const SIZE_HELP: &str = "write a size as a number and a unit, such as \"64MiB\" or \"256MB\", or as bytes, such as 1048576";

/// Bytes of `64MiB`, `256MB`, `1048576`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = split_number(text)?;
    let factor = if unit.is_empty() {
        1
    } else {
        SIZES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))?
            .1
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A size as people write it: the largest binary unit that divides it.
pub(crate) fn size_text(bytes: u64) -> String {
    for (name, factor) in SIZES.iter().rev() {
        if name.ends_with("iB") && bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{}{name}", bytes / factor);
        }
    }
    bytes.to_string()
}

const TIMES: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// What a duration looks like, for help.
pub(crate) const DURATION_HELP: &str = "write a duration as a number and a unit (ms, s, m, h, d), such as \"250ms\", \"10s\" or \"1h\"";

/// The duration of `250ms`, `10s`, `5m`, `1h`, `7d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = split_number(text)?;
    let factor = TIMES.iter().find(|(name, _)| *name == unit)?.1;
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(factor)
        .map(Duration::from_millis)
}

/// A duration as people write it: the largest unit that divides it.
pub(crate) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (name, factor) in TIMES.iter().rev() {
        let factor = u128::from(*factor);
        if millis >= factor && millis.is_multiple_of(factor) {
            return format!("{}{name}", millis / factor);
        }
    }
    format!("{millis}ms")
}

/// Digits (underscores dropped), and what follows them without spaces.
fn split_number(text: &str) -> Option<(String, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let digits = text[..end].replace('_', "");
    (!digits.is_empty()).then(|| (digits, text[end..].trim_start()))
}

/// Why `${NAME}` in a text could not be replaced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InterpolateError {
    /// The variable is not set, or there is no text in it.
    Unset {
        /// Its name.
        name: String,
        /// What it is instead: "not set", for people.
        state: &'static str,
    },
    /// `${` without `}`, or what stands between is no name.
    Malformed,
}

/// Replaces `${NAME}` by variables; `$${` stands for `${`.
pub(crate) fn interpolate(
    text: &str,
    environment: &Environment,
) -> Result<String, InterpolateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let (name, after) = rest[at + 2..]
            .split_once('}')
            .ok_or(InterpolateError::Malformed)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(InterpolateError::Malformed);
        }
        match environment.get(name) {
            Some(value) if !value.is_empty() => out.push_str(value),
            found => {
                let state = if found.is_some() {
                    "empty"
                } else if environment.others.contains(name) {
                    "not UTF-8 text"
                } else {
                    "not set"
                };
                return Err(InterpolateError::Unset {
                    name: name.to_owned(),
                    state,
                });
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// A text as a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_durations_are_what_people_mean() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("64MiB", Some(64 << 20)),
            ("64 mib", Some(64 << 20)),
            ("256MB", Some(256_000_000)),
            ("1_000B", Some(1000)),
            ("", None),
            ("MiB", None),
            ("64Mib!", None),
            ("64M", None),
            ("-1", None),
            ("1.5GiB", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
        for (text, millis) in [
            ("250ms", Some(250)),
            ("10s", Some(10_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("7d", Some(604_800_000)),
            ("10", None),
            ("s", None),
            ("1.5s", None),
            ("10 minutes", None),
            ("", None),
        ] {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn variables_are_replaced() {
        let mut environment: Environment = [("A", "x"), ("B", "${A}"), ("E", "")]
            .map(|(n, v)| (n.into(), v.into()))
            .into_iter()
            .collect();
        environment.others.insert("LATIN1".into());
        let unset = |name: &str, state| {
            Err(InterpolateError::Unset {
                name: name.into(),
                state,
            })
        };
        for (text, expected) in [
            ("plain", Ok("plain".to_owned())),
            ("a${A}b${A}", Ok("axbx".to_owned())),
            ("${B}", Ok("${A}".to_owned())),
            ("$${A} $ {A}", Ok("${A} $ {A}".to_owned())),
            ("${NO}", unset("NO", "not set")),
            ("${E}", unset("E", "empty")),
            ("${LATIN1}", unset("LATIN1", "not UTF-8 text")),
            ("${A", Err(InterpolateError::Malformed)),
            ("${}", Err(InterpolateError::Malformed)),
            ("${A-b}", Err(InterpolateError::Malformed)),
        ] {
            assert_eq!(interpolate(text, &environment), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_sizes_are_read_back(bytes in any::<u64>(), shift in 0u32..40) {
            let bytes = bytes >> 24 << shift >> shift;
            prop_assert_eq!(parse_size(&size_text(bytes)), Some(bytes));
        }

        #[test]
        fn written_durations_are_read_back(millis in 0u64..1 << 40) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
            let _ = interpolate(&text, &Environment::default());
        }

        #[test]
        fn quoted_text_is_toml(text in any::<String>()) {
            let line = format!("k = {}", quoted(&text));
            let table: toml::Table = line.parse().unwrap();
            prop_assert_eq!(table["k"].as_str(), Some(text.as_str()));
        }
    }
}
