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
///
/// SQLite adds a column to a table with rows only if it can work its default out without running
/// anything: literals, signs and `CAST`, as its function `valueFromExpr` does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DefaultValue {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
    /// The bytes a text has in the database's encoding.
    TextBytes(String),
    /// An expression: no row can be without it.
    Computed,
    /// A constant to some versions of SQLite, or one that they read differently.
    Unclear,
}

/// Tokens of a default that is worked out: it is gone through once for each sign, cast and parenthesis. No
/// constant needs as many.
const TOKENS_MAX: usize = 256;

use DefaultValue::{Blob, Computed, Int, Null, Real, Text, TextBytes, Unclear};

impl DefaultValue {
    /// From the tokens behind `DEFAULT`, without outer parentheses taken off.
    pub(super) fn read(tokens: &[Token<'_>], affinity: Affinity) -> Self {
        if tokens.len() > TOKENS_MAX {
            return Computed;
        }
        match Self::evaluate(tokens, affinity) {
            Computed if may_be_simplified(tokens) => Unclear,
            value => value,
        }
    }

    fn evaluate(tokens: &[Token<'_>], affinity: Affinity) -> Self {
        let tokens = without_parentheses(tokens);
        match tokens {
            [token] => Self::literal(&token.kind, affinity),
            [sign, rest @ ..] if sign.is_mark('+') => Self::evaluate(rest, affinity),
            [sign, rest @ ..] if sign.is_mark('-') => Self::negated(rest, affinity),
            [cast, group @ ..] if cast.is("CAST") => match cast_parts(group) {
                Some((value, to)) => Self::evaluate(value, to).cast(to).with(affinity),
                None => Computed,
            },
            _ => Computed,
        }
    }

    /// A minus sign before these.
    fn negated(tokens: &[Token<'_>], affinity: Affinity) -> Self {
        let tokens = without_parentheses(tokens);
        let general = || Self::evaluate(tokens, affinity).negative().with(affinity);
        let mut bare = tokens;
        while let [plus, rest @ ..] = bare
            && plus.is_mark('+')
        {
            bare = without_parentheses(rest);
        }
        let [
            Token {
                kind: Kind::Number(text),
                ..
            },
        ] = bare
        else {
            return general();
        };
        if is_hex(text) {
            return match Self::number(text, false, Affinity::Blob) {
                Int(i64::MIN) => Unclear,
                _ => general(),
            };
        }
        // One step, since the largest negative number has no positive one, and so that digits stay as
        // they are written. Only newer versions look behind a plus sign for that.
        let at_once = Self::number(text, true, affinity);
        if bare.len() == tokens.len() || at_once == general() {
            at_once
        } else {
            Unclear
        }
    }

    fn literal(kind: &Kind<'_>, affinity: Affinity) -> Self {
        match kind {
            Kind::Number(text) => Self::number(text, false, affinity),
            Kind::Text(text) | Kind::Name(text) => Text(text.to_string()).with(affinity),
            Kind::Blob(digits) => hex(digits).map_or(Computed, Blob),
            Kind::Word(word) => {
                let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
                if is("NULL") {
                    Null
                } else if is("TRUE") {
                    Int(1).with(affinity)
                } else if is("FALSE") {
                    Int(0).with(affinity)
                } else if is("CURRENT_TIME") || is("CURRENT_DATE") || is("CURRENT_TIMESTAMP") {
                    Computed
                } else {
                    // A bare word is a string.
                    Text((*word).to_owned()).with(affinity)
                }
            }
            Kind::Mark(_) => Computed,
        }
    }

    fn number(text: &str, negative: bool, affinity: Affinity) -> Self {
        let digits: String = text.chars().filter(|c| *c != '_').collect();
        if is_hex(&digits) {
            let bits = digits.get(2..).map(|hex| u64::from_str_radix(hex, 16));
            return match bits {
                Some(Ok(bits)) => Int(bits.cast_signed()).with(affinity),
                _ => Unclear,
            };
        }
        if let Ok(n) = digits.parse::<i64>() {
            return Int(if negative { -n } else { n }).with(affinity);
        }
        // As written until its column's affinity is known.
        let text = format!("{}{digits}", if negative { "-" } else { "" });
        if affinity != Affinity::Blob {
            return Text(text).with(affinity);
        }
        match text.parse() {
            Ok(real) if text.contains(['.', 'e', 'E']) => Real(real),
            // A whole number that does not fit becomes what a numeric column would make of it.
            Ok(_) => numeric(&text).unwrap_or(Unclear),
            Err(_) => Unclear,
        }
    }

    /// What a column of this affinity makes of it.
    fn with(self, affinity: Affinity) -> Self {
        match (self, affinity) {
            (Int(n), Affinity::Text) => Text(n.to_string()),
            (Real(n), Affinity::Text) => shown(n).map_or(Unclear, Text),
            (Real(n), Affinity::Integer | Affinity::Numeric | Affinity::Real) => {
                whole(n).map_or(Real(n), Int)
            }
            (Text(text), Affinity::Integer | Affinity::Numeric | Affinity::Real) => {
                numeric(&text).unwrap_or(Text(text))
            }
            (value, _) => value,
        }
    }

    /// `CAST`: as [`with`](Self::with), by force.
    fn cast(self, to: Affinity) -> Self {
        match (self, to) {
            (value @ (Null | Computed | Unclear), _) => value,
            (value @ (Blob(_) | TextBytes(_)), Affinity::Blob) => value,
            // Older versions make an integer of `1e3` before.
            (Real(n), Affinity::Blob) if whole(n).is_some() => Unclear,
            (value, Affinity::Blob) => match value.with(Affinity::Text) {
                Text(text) => TextBytes(text),
                _ => Unclear,
            },
            (TextBytes(text), Affinity::Text) => Text(text),
            // The bytes need not be text, and are of one encoding or another.
            (Blob(_), Affinity::Text) => Unclear,
            (value, Affinity::Text) => value.with(Affinity::Text),
            (value, Affinity::Numeric) => value.into_number(),
            (Int(n), Affinity::Integer) => Int(n),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "SQLite cuts off the fraction, and stops at the largest number"
            )]
            (Real(n), Affinity::Integer) => Int(n as i64),
            (value, Affinity::Integer) => {
                let text = value.into_text();
                Int(whole_prefix(&text))
            }
            #[expect(clippy::cast_precision_loss, reason = "SQLite converts the same way")]
            (Int(n), Affinity::Real) => Real(n as f64),
            (Real(n), Affinity::Real) => Real(n),
            (value, Affinity::Real) => Real(real_prefix(&value.into_text()).0),
        }
    }

    fn negative(self) -> Self {
        match self.into_number() {
            Int(i64::MIN) => Real(9_223_372_036_854_775_808.0),
            Int(n) => Int(-n),
            Real(n) => Real(-n),
            value => value,
        }
    }

    /// The number it begins with.
    fn into_number(self) -> Self {
        if matches!(self, Null | Int(_) | Real(_) | Computed | Unclear) {
            return self;
        }
        let text = self.into_text();
        let (real, is_whole) = real_prefix(&text);
        let exact = is_whole.then(|| prefix(&text).parse().ok()).flatten();
        // Integers that a float holds exactly with room to spare.
        let small = || whole(real).filter(|n| (-(1 << 51)..1 << 51).contains(n));
        exact.or_else(small).map_or(Real(real), Int)
    }

    fn into_text(self) -> String {
        match self {
            Text(text) | TextBytes(text) => text,
            Blob(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => String::new(),
        }
    }
}

/// Takes off parentheses around the whole.
fn without_parentheses<'a, 't>(mut tokens: &'a [Token<'t>]) -> &'a [Token<'t>] {
    while let Some(inner) = enclosed(tokens) {
        tokens = inner;
    }
    tokens
}

/// What is between parentheses that begin and end together with the tokens.
fn enclosed<'a, 't>(tokens: &'a [Token<'t>]) -> Option<&'a [Token<'t>]> {
    let (open, rest) = tokens.split_first()?;
    let (close, inner) = rest.split_last()?;
    let whole = open.is_mark('(') && close.is_mark(')') && depths(inner).all(|depth| depth >= 0);
    whole.then_some(inner)
}

/// How many parentheses are open behind each token.
fn depths(tokens: &[Token<'_>]) -> impl Iterator<Item = i32> {
    tokens.iter().scan(0, |depth, token| {
        *depth += i32::from(token.is_mark('(')) - i32::from(token.is_mark(')'));
        Some(*depth)
    })
}

/// The value and the type in `( value AS type )`.
fn cast_parts<'a, 't>(group: &'a [Token<'t>]) -> Option<(&'a [Token<'t>], Affinity)> {
    let inner = enclosed(group)?;
    let at = depths(inner)
        .zip(inner)
        .position(|(depth, token)| depth == 0 && token.is("AS"))?;
    let names: Vec<&str> = inner
        .get(at + 1..)?
        .iter()
        .filter_map(Token::name)
        .collect();
    let to = if names.is_empty() {
        Affinity::Numeric
    } else {
        Affinity::of(&names.join(" "), false)
    };
    Some((inner.get(..at)?, to))
}

/// Whether SQLite's parser, in some version, makes a constant of an expression that is none: of
/// `x AND 0`, `x IN ()`, `x IS NULL`.
fn may_be_simplified(tokens: &[Token<'_>]) -> bool {
    let tokens = without_parentheses(tokens);
    let outside = |words: &[&str]| {
        depths(tokens)
            .zip(tokens)
            .any(|(depth, token)| depth == 0 && words.iter().any(|word| token.is(word)))
    };
    outside(&["AND", "IN", "IS", "ISNULL", "NOTNULL", "NULL"]) && !outside(&["CASE"])
}

fn is_hex(text: &str) -> bool {
    text.get(..2)
        .is_some_and(|start| start.eq_ignore_ascii_case("0x"))
}

/// The longest number a text begins with, behind space; perhaps nothing.
fn prefix(text: &str) -> &str {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let bytes = text.as_bytes();
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let sign = |at: usize| at + usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
    let start = sign(0);
    let mut end = digits(start);
    let mut found = end > start;
    if bytes.get(end) == Some(&b'.') {
        let behind = digits(end + 1);
        found |= behind > end + 1;
        end = behind;
    }
    if !found {
        return "";
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let from = sign(end + 1);
        let behind = digits(from);
        if behind > from {
            end = behind;
        }
    }
    text.get(..end).unwrap_or_default()
}

/// The number a text begins with, and whether it is written as a whole one.
fn real_prefix(text: &str) -> (f64, bool) {
    let number = prefix(text);
    let real = number.parse().unwrap_or(0.0);
    (real, !number.contains(['.', 'e', 'E']))
}

/// The whole number a text begins with, or the one nearest to it that there is.
fn whole_prefix(text: &str) -> i64 {
    let number = prefix(text);
    let end = number.find(['.', 'e', 'E']).unwrap_or(number.len());
    let digits = number.get(..end).unwrap_or_default();
    let wide = digits.parse::<i64>();
    wide.unwrap_or_else(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow => i64::MAX,
        std::num::IntErrorKind::NegOverflow => i64::MIN,
        _ => 0,
    })
}

/// A float as text, if all versions of SQLite show it with the same digits.
fn shown(real: f64) -> Option<String> {
    let text = format!("{real:?}");
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    ((1e-4..1e15).contains(&real.abs()) && digits <= 15).then_some(text)
}

/// The integer that is the same number, but for the largest and smallest.
fn whole(real: f64) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "kept only if it converts back to the same float, as in SQLite"
    )]
    let whole = real as i64;
    #[expect(clippy::cast_precision_loss, reason = "SQLite converts the same way")]
    let same = whole as f64 == real && whole > i64::MIN && whole < i64::MAX;
    same.then_some(whole)
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
        return Some(Int(n));
    }
    let real = trimmed.parse().ok()?;
    Some(whole(real).map_or(Real(real), Int))
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
