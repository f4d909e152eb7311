//! Array literals: `{1,NULL,"a \"b\"",{...}}`.

use cdc_core::row::RowWriter;

use super::types::Scalar;
use super::value::{self, Scratch};

/// Deepest nesting; PostgreSQL itself allows six dimensions.
const DEPTH_MAX: usize = 6;

/// One step through a literal.
enum Token<'a> {
    Open,
    Close,
    Delimiter,
    /// Unquoted text; `NULL` is null.
    Bare(&'a [u8]),
    /// Between the quotes, escapes still in it.
    Quoted(&'a [u8]),
}

struct Tokens<'a> {
    text: &'a [u8],
    delimiter: u8,
}

impl<'a> Iterator for Tokens<'a> {
    /// `None` inside is a literal cut off or malformed.
    type Item = Option<Token<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&first, rest) = self.text.split_first()?;
        let token = match first {
            b'{' => Token::Open,
            b'}' => Token::Close,
            b if b == self.delimiter => Token::Delimiter,
            b'"' => {
                let mut at = 0;
                loop {
                    match rest.get(at) {
                        None => return Some(None),
                        Some(b'"') => break,
                        Some(b'\\') => at += 2,
                        Some(_) => at += 1,
                    }
                }
                self.text = &rest[at + 1..];
                return Some(Some(Token::Quoted(&rest[..at])));
            }
            _ => {
                let stop = |b: &u8| matches!(b, b'{' | b'}' | b'"') || *b == self.delimiter;
                let length = self.text.iter().position(stop).unwrap_or(self.text.len());
                let (bare, rest) = self.text.split_at(length);
                self.text = rest;
                return Some(Some(Token::Bare(bare)));
            }
        };
        self.text = rest;
        Some(Some(token))
    }
}

/// True for a literal [`write`] can take: well formed, lower bounds of 1 (others are written in
/// front of it, as in `[0:2]={...}`, and would be lost), nested at most six deep.
pub(super) fn is_plain(text: &[u8], delimiter: u8) -> bool {
    if text.first() != Some(&b'{') {
        return false;
    }
    let mut depth = 0usize;
    // What the last token was decides what may follow.
    let (mut after_item, mut after_delimiter, mut done) = (false, false, false);
    for token in (Tokens { text, delimiter }) {
        let Some(token) = token else { return false };
        if done {
            return false;
        }
        match token {
            Token::Open => {
                if after_item || depth == DEPTH_MAX {
                    return false;
                }
                depth += 1;
                after_delimiter = false;
            }
            Token::Close => {
                if after_delimiter || depth == 0 {
                    return false;
                }
                depth -= 1;
                after_item = true;
                done = depth == 0;
            }
            Token::Delimiter => {
                if !after_item {
                    return false;
                }
                (after_item, after_delimiter) = (false, true);
            }
            Token::Bare(_) | Token::Quoted(_) => {
                if after_item || depth == 0 {
                    return false;
                }
                (after_item, after_delimiter) = (true, false);
            }
        }
    }
    done
}

/// Writes a literal that [`is_plain`] as nested lists.
pub(super) fn write(
    row: &mut RowWriter<'_>,
    scratch: &mut Scratch,
    scalar: Scalar,
    delimiter: u8,
    text: &[u8],
) {
    let mut tokens = Tokens { text, delimiter };
    tokens.next();
    row.array(|items| write_items(items, scratch, scalar, &mut tokens));
}

/// Up to the closing brace. Depth is bounded by [`is_plain`].
fn write_items(
    items: &mut RowWriter<'_>,
    scratch: &mut Scratch,
    scalar: Scalar,
    tokens: &mut Tokens<'_>,
) {
    while let Some(Some(token)) = tokens.next() {
        match token {
            Token::Open => items.array(|inner| write_items(inner, scratch, scalar, tokens)),
            Token::Close => return,
            Token::Delimiter => {}
            Token::Bare(b"NULL") => items.null(),
            Token::Bare(text) => value::write_scalar(items, scratch, scalar, text),
            Token::Quoted(text) if !text.contains(&b'\\') => {
                value::write_scalar(items, scratch, scalar, text);
            }
            Token::Quoted(text) => {
                let mut item = std::mem::take(&mut scratch.item);
                item.clear();
                let mut bytes = text.iter();
                while let Some(&byte) = bytes.next() {
                    match byte {
                        b'\\' => item.extend(bytes.next()),
                        _ => item.push(byte),
                    }
                }
                value::write_scalar(items, scratch, scalar, &item);
                scratch.item = item;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::row::{RowImage, Value};

    fn read(scalar: Scalar, text: &str) -> Option<Value> {
        is_plain(text.as_bytes(), b',').then(|| {
            let mut buffer = Vec::new();
            let mut row = RowWriter::new(&mut buffer);
            write(
                &mut row,
                &mut Scratch::default(),
                scalar,
                b',',
                text.as_bytes(),
            );
            row.finish();
            let row = RowImage::from_bytes(buffer.into());
            row.to_values().unwrap().remove(0)
        })
    }

    fn texts(items: &[&str]) -> Value {
        Value::Array(items.iter().map(|t| Value::Text((*t).into())).collect())
    }

    #[test]
    fn literals_become_lists() {
        let ints = |items: &[i64]| Value::Array(items.iter().map(|&n| Value::Int(n)).collect());
        let table = [
            (Scalar::Int, "{}", ints(&[])),
            (Scalar::Int, "{1,2,-3}", ints(&[1, 2, -3])),
            (
                Scalar::Int,
                "{{1,2},{3,4}}",
                Value::Array(vec![ints(&[1, 2]), ints(&[3, 4])]),
            ),
            (
                Scalar::Int,
                "{1,NULL}",
                Value::Array(vec![Value::Int(1), Value::Null]),
            ),
            (
                Scalar::Text,
                r#"{a,"NULL","","b c","q\"u","s\\l","x,y","{z}"}"#,
                texts(&["a", "NULL", "", "b c", "q\"u", "s\\l", "x,y", "{z}"]),
            ),
            (
                Scalar::Bytes,
                r#"{"\\x00ff"}"#,
                Value::Array(vec![Value::Bytes(vec![0, 255])]),
            ),
        ];
        for (scalar, text, expected) in table {
            assert!(read(scalar, text) == Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_plain_literal_is_left_alone() {
        for text in [
            "",
            "1",
            "{",
            "}",
            "{1",
            "{1,}",
            "{,1}",
            "{1}}",
            "{1}{2}",
            "{\"a}",
            "{\"a\\",
            "{1 {2}}",
            "{a\"b\"}",
            "[0:1]={1,2}",
            "1 2 3",
            "{{{{{{{1}}}}}}}",
        ] {
            assert!(!is_plain(text.as_bytes(), b','), "{text}");
        }
    }
}
