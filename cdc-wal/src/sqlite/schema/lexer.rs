//! Cuts SQL text into tokens, as SQLite's tokenizer does.

use std::borrow::Cow;
use std::ops::Range;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind<'a> {
    /// An identifier or keyword without quotes.
    Word(&'a str),
    /// An identifier in `"..."`, `[...]` or backquotes.
    Name(Cow<'a, str>),
    /// A string in single quotes.
    Text(Cow<'a, str>),
    /// A number without sign.
    Number(&'a str),
    /// The hexadecimal digits of `x'...'`.
    Blob(&'a str),
    /// Anything else, one character.
    Mark(char),
}

/// A token and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) span: Range<usize>,
}

impl Token<'_> {
    /// True if this is the keyword, in any case, without quotes.
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(self.kind, Kind::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// True if this is the punctuation mark.
    pub(super) fn is_mark(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }

    /// The name this token can stand for.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            Kind::Name(name) | Kind::Text(name) => Some(name),
            Kind::Number(_) | Kind::Blob(_) | Kind::Mark(_) => None,
        }
    }
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// All tokens; comments and space are left out. `None` if a quote or comment does not end.
pub(super) fn tokens(sql: &str) -> Option<Vec<Token<'_>>> {
    let bytes = sql.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let next = bytes.get(at + 1).copied();
        let kind = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0c => {
                at += 1;
                continue;
            }
            b'-' if next == Some(b'-') => {
                at += sql[at..].find('\n').unwrap_or(sql.len() - at);
                continue;
            }
            b'/' if next == Some(b'*') => {
                // SQLite lets an unclosed comment end with the text.
                at = sql[at + 2..]
                    .find("*/")
                    .map_or(sql.len(), |length| at + 2 + length + 2);
                continue;
            }
            b'\'' => {
                let (text, end) = quoted(sql, at, '\'')?;
                at = end;
                Kind::Text(text)
            }
            b'"' | b'`' => {
                let (name, end) = quoted(sql, at, char::from(byte))?;
                at = end;
                Kind::Name(name)
            }
            b'[' => {
                let length = sql[at..].find(']')?;
                at += length + 1;
                Kind::Name(Cow::Borrowed(&sql[start + 1..at - 1]))
            }
            b'x' | b'X' if next == Some(b'\'') => {
                let length = sql[at + 2..].find('\'')?;
                at += 2 + length + 1;
                Kind::Blob(&sql[start + 2..at - 1])
            }
            b'0'..=b'9' => {
                at = number_end(bytes, at);
                Kind::Number(&sql[start..at])
            }
            b'.' if next.is_some_and(|b| b.is_ascii_digit()) => {
                at = number_end(bytes, at);
                Kind::Number(&sql[start..at])
            }
            byte if is_word(byte) => {
                while bytes.get(at).is_some_and(|b| is_word(*b)) {
                    at += 1;
                }
                Kind::Word(&sql[start..at])
            }
            byte => {
                at += 1;
                Kind::Mark(char::from(byte))
            }
        };
        tokens.push(Token {
            kind,
            span: start..at,
        });
    }
    Some(tokens)
}

/// A quoted text that begins at `at`, with doubled quotes undone, and where it ends.
fn quoted(sql: &str, at: usize, quote: char) -> Option<(Cow<'_, str>, usize)> {
    let mut end = at + 1;
    let mut doubled = false;
    loop {
        end += sql[end..].find(quote)? + 1;
        if !sql[end..].starts_with(quote) {
            break;
        }
        doubled = true;
        end += 1;
    }
    let inner = &sql[at + 1..end - 1];
    let text = if doubled {
        let mut pair = String::from(quote);
        pair.push(quote);
        Cow::Owned(inner.replace(&pair, &quote.to_string()))
    } else {
        Cow::Borrowed(inner)
    };
    Some((text, end))
}

fn number_end(bytes: &[u8], start: usize) -> usize {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let mut at = start;
    if byte(at) == b'0' && byte(at + 1).eq_ignore_ascii_case(&b'x') {
        at += 2;
        while byte(at).is_ascii_hexdigit() || byte(at) == b'_' {
            at += 1;
        }
        return at;
    }
    let digits = |mut at: usize| {
        while byte(at).is_ascii_digit() || byte(at) == b'_' {
            at += 1;
        }
        at
    };
    at = digits(at);
    if byte(at) == b'.' {
        at = digits(at + 1);
    }
    if byte(at).eq_ignore_ascii_case(&b'e') {
        let sign = usize::from(matches!(byte(at + 1), b'+' | b'-'));
        if byte(at + 1 + sign).is_ascii_digit() {
            at = digits(at + 1 + sign);
        }
    }
    at
}
