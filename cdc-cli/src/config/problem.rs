//! What is wrong with a configuration: a message, the place, a caret, and what to do.

use std::fmt::Write as _;

use super::document::{DocumentKind, Origin};

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    message: String,
    at: Origin,
    note: Option<(String, Origin)>,
    help: Option<String>,
}

impl Problem {
    /// A problem at a place. The message starts in lower case and has no full stop.
    pub(crate) fn new(message: impl Into<String>, at: &Origin) -> Self {
        Self {
            message: message.into(),
            at: at.clone(),
            note: None,
            help: None,
        }
    }

    /// The same problem with what to do about it.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same problem with a second place that belongs to it.
    #[must_use]
    pub(crate) fn note(mut self, note: impl Into<String>, at: &Origin) -> Self {
        self.note = Some((note.into(), at.clone()));
        self
    }

    /// What is wrong, in one line.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The problem as text: header, place, line, caret, help.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let mut out = String::new();
        let (bold, red, blue, off) = paint.codes();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{red}error{off}{bold}: {}{off}", self.message);
        let gutter = [Some(&self.at), self.note.as_ref().map(|(_, at)| at)]
            .into_iter()
            .flatten()
            .filter_map(|origin| match origin {
                Origin::Written { document, span } if document.kind() == DocumentKind::File => {
                    Some(document.line_column(span.start).0.to_string().len())
                }
                _ => None,
            })
            .max()
            .unwrap_or(1);
        place(&mut out, &self.at, gutter, paint, (red, '^'), "-->");
        if let Some((note, at)) = &self.note {
            let _ = writeln!(out, "{:gutter$} {blue}={off} note: {note}", "");
            place(&mut out, at, gutter, paint, (blue, '-'), "-->");
        }
        if let Some(help) = &self.help {
            let mut lines = help.lines();
            let _ = writeln!(
                out,
                "{:gutter$} {blue}={off} help: {}",
                "",
                lines.next().unwrap_or_default()
            );
            for line in lines {
                let _ = writeln!(out, "{:gutter$}         {line}", "");
            }
        }
        out
    }

    /// The problem for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut object = serde_json::json!({ "message": self.message });
        if let Origin::Written { document, span } = &self.at {
            let excerpt = document.excerpt(span);
            let kind = match document.kind() {
                DocumentKind::File => "file",
                DocumentKind::Environment => "environment",
                DocumentKind::Flag => "flag",
            };
            object[kind] = document.name().into();
            if document.kind() == DocumentKind::File {
                object["line"] = excerpt.line.into();
                object["column"] = excerpt.column.into();
            }
        }
        if let Some(help) = &self.help {
            object["help"] = help.as_str().into();
        }
        object
    }

    /// Orders problems as a reader meets them: file first, top to bottom.
    pub(crate) fn order(&self) -> (u8, String, usize) {
        match &self.at {
            Origin::Written { document, span } => match document.kind() {
                DocumentKind::File => (0, String::new(), span.start),
                DocumentKind::Environment => (1, document.name().to_owned(), span.start),
                DocumentKind::Flag => (2, document.name().to_owned(), span.start),
            },
            Origin::Default => (3, String::new(), 0),
        }
    }
}

fn place(
    out: &mut String,
    at: &Origin,
    gutter: usize,
    paint: Paint,
    (color, mark): (&str, char),
    arrow: &str,
) {
    let Origin::Written { document, span } = at else {
        return;
    };
    let (_, _, blue, off) = paint.codes();
    let excerpt = document.excerpt(span);
    let number = match document.kind() {
        DocumentKind::File => {
            let _ = writeln!(
                out,
                "{:gutter$}{blue}{arrow}{off} {}:{}:{}",
                "",
                document.name(),
                excerpt.line,
                excerpt.column
            );
            excerpt.line.to_string()
        }
        DocumentKind::Environment => {
            let _ = writeln!(out, "{:gutter$}{blue}{arrow}{off} environment variable", "");
            String::new()
        }
        DocumentKind::Flag => {
            let _ = writeln!(out, "{:gutter$}{blue}{arrow}{off} command line", "");
            String::new()
        }
    };
    let carets: String = std::iter::repeat_n(mark, excerpt.width).collect();
    let _ = writeln!(out, "{:gutter$} {blue}|{off}", "");
    let _ = writeln!(out, "{blue}{number:>gutter$} |{off} {}", excerpt.text);
    let _ = writeln!(
        out,
        "{:gutter$} {blue}|{off} {:caret$}{color}{carets}{off}",
        "",
        "",
        caret = excerpt.caret
    );
}

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Plain text.
    Plain,
    /// ANSI colours.
    Color,
}

impl Paint {
    /// Bold, red, blue, off.
    pub(crate) const fn codes(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Plain => ("", "", "", ""),
            Self::Color => ("\x1b[1m", "\x1b[1;31m", "\x1b[1;34m", "\x1b[0m"),
        }
    }
}

/// The name among `known` that `text` most likely means.
pub(crate) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = normal(text);
    known
        .into_iter()
        .map(|name| (distance(&wanted, &normal(name)), name))
        .filter(|(distance, name)| *distance <= ((name.chars().count().max(wanted.len()) + 1) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Lower case, with the separators people mix up made one, at most 64 characters.
fn normal(text: &str) -> Vec<char> {
    text.chars()
        .take(64)
        .map(|c| {
            if matches!(c, '-' | ' ' | '.') {
                '_'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

/// Edits between two names; swapping two neighbours is one edit.
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut table = vec![0usize; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let cost = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (table[(i - 1) * width + j] + 1)
                    .min(table[i * width + j - 1] + 1)
                    .min(table[(i - 1) * width + j - 1] + same);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(table[(i - 2) * width + j - 2] + 1);
                }
                best
            };
            table[i * width + j] = cost;
        }
    }
    table[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["batch_size", "tables", "table_path", "queue"];
        for (text, expected) in [
            ("batchsize", Some("batch_size")),
            ("batch-size", Some("batch_size")),
            ("Tables", Some("tables")),
            ("qeueu", Some("queue")),
            ("table", Some("tables")),
            ("kafka", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, known), expected, "{text}");
        }
    }
}
