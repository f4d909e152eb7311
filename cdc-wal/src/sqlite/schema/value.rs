//! Column affinities and default values.

use super::lexer::{Kind, Token};

/// What a column makes of the values given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    /// From the declared type, by SQLite's rules.
    pub(super) fn of(type_name: &str, strict: bool) -> Self {
        let upper = type_name.to_ascii_uppercase();
        let has = |part: &str| upper.contains(part);
        if strict && upper == "ANY" {
            Self::Blob
        } else if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || upper.is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

/// What a row holds in a column that was added after the row was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DefaultValue {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
    /// An expression: no row can be without it, since SQLite refuses to add such a column to a
    /// table that has rows.
    Computed,
}

impl DefaultValue {
    /// From the tokens behind `DEFAULT`, without outer parentheses taken off.
    pub(super) fn read(mut tokens: &[Token<'_>], affinity: Affinity) -> Self {
        let mut negative = false;
        loop {
            match tokens {
                [open, inner @ .., close] if open.is_mark('(') && close.is_mark(')') => {
                    tokens = inner;
                }
                // `- 0x10` and a sign before a sign are expressions to SQLite too, with the same
                // value; several signs are left to it.
                [sign, rest @ ..] if sign.is_mark('-') && !negative => {
                    negative = true;
                    tokens = rest;
                }
                [sign, rest @ ..] if sign.is_mark('+') && !negative => tokens = rest,
                _ => break,
            }
        }
        let [token] = tokens else {
            return Self::Computed;
        };
        match &token.kind {
            Kind::Number(text) => Self::number(text, negative).with(affinity),
            Kind::Text(_) | Kind::Blob(_) | Kind::Word(_) | Kind::Name(_) if negative => {
                Self::Computed
            }
            Kind::Text(text) | Kind::Name(text) => Self::Text(text.to_string()).with(affinity),
            Kind::Blob(digits) => hex(digits).map_or(Self::Computed, Self::Blob),
            Kind::Word(word) => {
                let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
                if is("NULL") {
                    Self::Null
                } else if is("TRUE") {
                    Self::Int(1).with(affinity)
                } else if is("FALSE") {
                    Self::Int(0).with(affinity)
                } else if is("CURRENT_TIME") || is("CURRENT_DATE") || is("CURRENT_TIMESTAMP") {
                    Self::Computed
                } else {
                    // A bare word is a string.
                    Self::Text((*word).to_owned()).with(affinity)
                }
            }
            Kind::Mark(_) => Self::Computed,
        }
    }

    fn number(text: &str, negative: bool) -> Number {
        let digits: String = text.chars().filter(|c| *c != '_').collect();
        let sign = if negative { "-" } else { "" };
        if let Some(hex) = digits
            .strip_prefix("0x")
            .or_else(|| digits.strip_prefix("0X"))
        {
            return match u64::from_str_radix(hex, 16) {
                Ok(bits) if negative => Number::Int(bits.cast_signed().wrapping_neg()),
                Ok(bits) => Number::Int(bits.cast_signed()),
                Err(_) => Number::Other,
            };
        }
        match digits.parse::<i64>() {
            Ok(n) => Number::Int(if negative { n.wrapping_neg() } else { n }),
            Err(_) => Number::Float(format!("{sign}{digits}")),
        }
    }

    fn with(self, affinity: Affinity) -> Self {
        match (self, affinity) {
            (Self::Int(n), Affinity::Text) => Self::Text(n.to_string()),
            (Self::Text(text), Affinity::Integer | Affinity::Numeric | Affinity::Real) => {
                numeric(&text).unwrap_or(Self::Text(text))
            }
            (value, _) => value,
        }
    }
}

enum Number {
    Int(i64),
    /// Kept as written until its column's affinity is known.
    Float(String),
    Other,
}

impl Number {
    fn with(self, affinity: Affinity) -> DefaultValue {
        match self {
            Self::Int(n) => DefaultValue::Int(n).with(affinity),
            // A whole number that does not fit becomes what a numeric column would make of it.
            Self::Float(text) if affinity == Affinity::Blob => match text.parse() {
                Ok(real) if text.contains(['.', 'e', 'E']) => DefaultValue::Real(real),
                Ok(_) => numeric(&text).unwrap_or(DefaultValue::Computed),
                Err(_) => DefaultValue::Computed,
            },
            Self::Float(text) => DefaultValue::Text(text).with(affinity),
            Self::Other => DefaultValue::Computed,
        }
    }
}

/// The number a text is, if the whole of it is one.
fn numeric(text: &str) -> Option<DefaultValue> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    if !trimmed
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))
    {
        return None;
    }
    if let Ok(n) = trimmed.parse::<i64>() {
        return Some(DefaultValue::Int(n));
    }
    let real: f64 = trimmed.parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "kept only if it converts back to the same float, as in SQLite"
    )]
    let whole = real as i64;
    let same = whole as f64 == real && whole > i64::MIN && whole < i64::MAX;
    Some(if same {
        DefaultValue::Int(whole)
    } else {
        DefaultValue::Real(real)
    })
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let byte = |pair: &[u8; 2]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    pairs.iter().map(byte).collect()
}
