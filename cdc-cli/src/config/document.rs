//! Where a configuration value was written, and how to show that place without showing a secret.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// What kind of text a value was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    /// The configuration file.
    File,
    /// One environment variable, written `NAME=value`.
    Environment,
    /// One command line flag, written as the user typed it.
    Flag,
}

/// One text that values were read from: the file, a variable, a flag.
pub(crate) struct Document {
    kind: DocumentKind,
    name: String,
    text: String,
    masks: OnceLock<Vec<Range<usize>>>,
}

/// A line of a document, ready to be printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Excerpt {
    /// 1-based line.
    pub(crate) line: usize,
    /// 1-based column, in characters.
    pub(crate) column: usize,
    /// The line with secrets masked and tabs as single spaces.
    pub(crate) text: String,
    /// Characters before the caret in `text`.
    pub(crate) caret: usize,
    /// Width of the caret, at least 1.
    pub(crate) width: usize,
}

const MASK: &str = "***";
/// Longest line that is shown, in characters; more is cut off around the caret.
const LINE_MAX: usize = 160;

impl Document {
    /// A document. Call [`Self::mask`] before anything of it is shown.
    pub(crate) fn new(
        kind: DocumentKind,
        name: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            name: name.into(),
            text: text.into(),
            masks: OnceLock::new(),
        }
    }

    /// What kind of text this is.
    pub(crate) const fn kind(&self) -> DocumentKind {
        self.kind
    }

    /// The file's path, the variable's name or the flag's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The whole text, secrets included.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Declares which bytes are secret. The first call counts.
    pub(crate) fn mask(&self, mut secrets: Vec<Range<usize>>) {
        secrets.extend(password_spans(&self.text));
        secrets.retain(|span| !span.is_empty());
        secrets.sort_by_key(|span| (span.start, span.end));
        let mut merged: Vec<Range<usize>> = Vec::with_capacity(secrets.len());
        for span in secrets {
            match merged.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => merged.push(span),
            }
        }
        // A second call would be about the same text, so the first answer stands.
        let _ = self.masks.set(merged);
    }

    /// 1-based line and column of a byte offset.
    pub(crate) fn line_column(&self, offset: usize) -> (usize, usize) {
        let offset = self.boundary(offset);
        let before = &self.text[..offset];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[start..].chars().count() + 1)
    }

    /// The line a span begins on, with a caret under the part of the span that is on it.
    pub(crate) fn excerpt(&self, span: &Range<usize>) -> Excerpt {
        let from = self.boundary(span.start);
        let to = self.boundary(span.end.max(from));
        let start = self.text[..from].rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[from..]
            .find('\n')
            .map_or(self.text.len(), |at| from + at);
        let (line, column) = self.line_column(from);
        let mut shown = String::new();
        let (mut caret, mut stop) = (None, None);
        let mut count = 0;
        let masks = self.masks.get().map_or(&[][..], Vec::as_slice);
        let mut at = start;
        while at < end {
            if at >= from {
                caret.get_or_insert(count);
            }
            if at >= to {
                stop.get_or_insert(count);
            }
            if let Some(mask) = masks.iter().find(|mask| mask.start <= at && at < mask.end) {
                shown.push_str(MASK);
                count += MASK.len();
                // A span that begins inside the masked text points at all of it.
                if from > mask.start && from < mask.end {
                    caret.get_or_insert(count - MASK.len());
                }
                at = mask.end.min(end);
                continue;
            }
            let Some(character) = self.text[at..].chars().next() else {
                break;
            };
            // Control characters would move the cursor, or worse, of the reader's terminal.
            shown.push(if character.is_control() {
                ' '
            } else {
                character
            });
            count += 1;
            at += character.len_utf8();
        }
        let caret = caret.unwrap_or(count);
        let stop = stop.unwrap_or(count);
        let (text, caret, width) = clip(&shown, caret, stop.saturating_sub(caret).max(1));
        Excerpt {
            line,
            column,
            text,
            caret,
            width,
        }
    }

    fn boundary(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

/// Names the document, never its text: that may hold secrets.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({:?} {})", self.kind, self.name)
    }
}

fn clip(line: &str, caret: usize, width: usize) -> (String, usize, usize) {
    let length = line.chars().count();
    if length <= LINE_MAX {
        return (line.trim_end().to_owned(), caret, width);
    }
    let from = caret.saturating_sub(LINE_MAX / 2).min(length - LINE_MAX);
    let text: String = line.chars().skip(from).take(LINE_MAX).collect();
    let caret = caret - from;
    (
        text,
        caret,
        width.min(LINE_MAX.saturating_sub(caret)).max(1),
    )
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// Written in a document, at these bytes.
    Written {
        /// The document.
        document: Arc<Document>,
        /// Its bytes.
        span: Range<usize>,
    },
}

impl Origin {
    /// A place in a document.
    pub(crate) fn at(document: &Arc<Document>, span: Range<usize>) -> Self {
        Self::Written {
            document: Arc::clone(document),
            span,
        }
    }

    /// The first byte in its document; 0 for defaults.
    pub(crate) const fn start(&self) -> usize {
        match self {
            Self::Default => 0,
            Self::Written { span, .. } => span.start,
        }
    }
}

/// `file:line`, a variable's name, a flag, or `default`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Written { document, span } => match document.kind() {
                DocumentKind::File => {
                    write!(
                        f,
                        "{}:{}",
                        document.name(),
                        document.line_column(span.start).0
                    )
                }
                DocumentKind::Environment => write!(f, "environment {}", document.name()),
                DocumentKind::Flag => write!(f, "flag {}", document.name()),
            },
        }
    }
}

/// Byte ranges of passwords in URLs (`scheme://user:PASSWORD@host`, `password=...`) within a text.
///
/// It works on words with a `:` and an `@`, so that a slip in the rest of a URL shows no password.
pub(crate) fn password_spans(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let ends_url = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>');
    let mut start = 0;
    for word in text.split_inclusive(ends_url) {
        if let Some(host) = word.rfind('@')
            && let Some(colon) = word[..host]
                .match_indices(':')
                .map(|(at, _)| at)
                .find(|at| !word[at + 1..].starts_with('/'))
        {
            spans.push(start + colon + 1..start + host);
        }
        start += word.len();
    }
    for (at, mark) in text.match_indices("password=") {
        let start = at + mark.len();
        let stops = |c: char| ends_url(c) || matches!(c, '&' | ',');
        let end = text[start..].find(stops).map_or(text.len(), |n| start + n);
        spans.push(start..end);
    }
    spans
}

/// The text with passwords of URLs replaced by `***`.
pub(crate) fn redact_passwords(text: &str) -> String {
    let mut spans = password_spans(text);
    spans.sort_by_key(|span| span.start);
    let mut shown = String::with_capacity(text.len());
    let mut at = 0;
    for span in spans {
        if span.start < at {
            at = at.max(span.end);
            continue;
        }
        shown.push_str(&text[at..span.start]);
        shown.push_str(MASK);
        at = span.end;
    }
    shown.push_str(&text[at..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(text: &str, span: Range<usize>, secret: Option<Range<usize>>) -> Excerpt {
        let document = Document::new(DocumentKind::File, "cdc.toml", text);
        document.mask(secret.into_iter().collect());
        document.excerpt(&span)
    }

    #[test]
    fn carets_stand_under_characters_not_bytes() {
        let text = "a = 1\nü = \"ß\" # x\n";
        let at = text.find('"').unwrap();
        let shown = excerpt(text, at..at + 4, None);
        assert_eq!((shown.line, shown.column), (2, 5));
        assert_eq!((shown.caret, shown.width), (4, 3));
        assert_eq!(shown.text, "ü = \"ß\" # x");
    }

    #[test]
    fn secrets_are_masked_and_the_caret_follows() {
        let text = "w = { secret = \"whsec_abcdef\", nope = 1 }";
        let secret = text.find("\"whsec").unwrap();
        let nope = text.find("nope").unwrap();
        let shown = excerpt(text, nope..nope + 4, Some(secret..secret + 14));
        assert_eq!(shown.text, "w = { secret = ***, nope = 1 }");
        assert_eq!(&shown.text[shown.caret..shown.caret + shown.width], "nope");
        let inside = excerpt(text, secret + 3..secret + 5, Some(secret..secret + 14));
        assert_eq!(inside.caret, secret);
    }

    #[test]
    fn passwords_of_urls_are_masked() {
        for (text, shown) in [
            ("postgres://u:pw@h/db", "postgres://u:***@h/db"),
            ("postgres://u:p@w/x@h/db", "postgres://u:***@h/db"),
            (
                "source = \"postgres://u:pw@h\" # c",
                "source = \"postgres://u:***@h\" # c",
            ),
            (
                "postgres://h/db?password=pw&user=u",
                "postgres://h/db?password=***&user=u",
            ),
            ("postgres://u@h:5432/db", "postgres://u@h:5432/db"),
            ("http://h:80/x", "http://h:80/x"),
        ] {
            assert_eq!(redact_passwords(text), shown);
        }
    }

    #[test]
    fn ends_and_long_lines_are_in_bounds() {
        for text in ["", "\n", "é", "a\n\n"] {
            for from in 0..=text.len() + 2 {
                let shown = excerpt(text, from..from + 3, None);
                assert!(shown.width >= 1);
            }
        }
        let long = format!("{} = 1", "k".repeat(1000));
        let shown = excerpt(&long, 990..1000, None);
        assert_eq!(shown.text.chars().count(), LINE_MAX);
        assert!(shown.text[shown.caret..].starts_with("kkkkkkkkkk = 1"));
    }
}
