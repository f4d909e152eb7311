//! Text values of PostgreSQL into encoded rows.
//!
//! Expects the session settings of [`connection`](super::connection): ISO dates, hexadecimal
//! `bytea`, shortest round-trip floats, UTC. A text that is not what its type says (a custom
//! output function, a year beyond the range) is kept as text; one that is not UTF-8 (a database
//! in `SQL_ASCII`) is kept as bytes: nothing is lost and nothing fails.

use cdc_core::row::RowWriter;

use super::array;
use super::time;
use super::types::{Kind, Scalar};

/// Buffers used again for every value, so that the hot path does not allocate.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    floats: Vec<f32>,
    pub(super) item: Vec<u8>,
    /// Where the values of the row that was written last begin, and where it ends.
    pub(super) ends: Vec<usize>,
}

impl Scratch {
    /// Largest capacity kept between values, in bytes.
    const KEEP_MAX: usize = 1 << 20;

    /// Frees what one very large value left behind.
    pub(crate) fn trim(&mut self) {
        for buffer in [&mut self.bytes, &mut self.item] {
            if buffer.capacity() > Self::KEEP_MAX {
                *buffer = Vec::new();
            }
        }
        if self.floats.capacity() > Self::KEEP_MAX / 4 {
            self.floats = Vec::new();
        }
    }
}

/// Writes one value of a column.
#[inline]
pub(crate) fn write(row: &mut RowWriter<'_>, scratch: &mut Scratch, kind: Kind, text: &[u8]) {
    match kind {
        Kind::Scalar(scalar) => write_scalar(row, scratch, scalar, text),
        Kind::Array(scalar, delimiter) => {
            if array::is_plain(text, delimiter) {
                array::write(row, scratch, scalar, delimiter, text);
            } else {
                write_text(row, text);
            }
        }
    }
}

#[inline]
pub(super) fn write_scalar(
    row: &mut RowWriter<'_>,
    scratch: &mut Scratch,
    scalar: Scalar,
    text: &[u8],
) {
    // Each arm gives true if it wrote the value.
    let written = match scalar {
        Scalar::Text => false,
        Scalar::Int => int(text).map(|v| row.int(v)).is_some(),
        Scalar::UInt => uint(text).map(|v| row.uint(v)).is_some(),
        Scalar::Bool => {
            let known = matches!(text, b"t" | b"f");
            if known {
                row.bool(text == b"t");
            }
            known
        }
        Scalar::Float32 => parse::<f32>(text).map(|v| row.float32(v)).is_some(),
        Scalar::Float64 => parse::<f64>(text).map(|v| row.float64(v)).is_some(),
        Scalar::Decimal => decimal(text).map(|v| row.decimal(v)).is_some(),
        Scalar::Bytes => {
            let read = unhex(text, &mut scratch.bytes);
            if read {
                row.bytes(&scratch.bytes);
            }
            read
        }
        Scalar::Uuid => uuid(text).map(|v| row.uuid(v)).is_some(),
        Scalar::Json => std::str::from_utf8(text).map(|v| row.json(v)).is_ok(),
        Scalar::Date => time::date(text).map(|v| row.date(v)).is_some(),
        Scalar::Time => time::time(text).map(|v| row.time(v)).is_some(),
        Scalar::Timestamp => time::timestamp(text).map(|v| row.timestamp(v)).is_some(),
        Scalar::TimestampTz => time::timestamp_tz(text)
            .map(|v| row.timestamp_tz(v))
            .is_some(),
        Scalar::Vector => {
            let read = vector(text, &mut scratch.floats);
            if read {
                row.vector(&scratch.floats);
            }
            read
        }
    };
    if !written {
        write_text(row, text);
    }
}

#[inline]
fn write_text(row: &mut RowWriter<'_>, text: &[u8]) {
    match std::str::from_utf8(text) {
        Ok(text) => row.text(text),
        Err(_) => row.bytes(text),
    }
}

#[inline]
fn int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    if digits.len() <= 18 {
        // Below 10^18, which has room on both sides.
        let mut value = 0i64;
        for &digit in digits {
            let digit = i64::from(digit.wrapping_sub(b'0'));
            if digit > 9 {
                return None;
            }
            value = value * 10 + digit;
        }
        return Some(if negative { -value } else { value });
    }
    // Counted downwards: the smallest i64 has no positive twin.
    let mut value = 0i64;
    for &digit in digits {
        let digit = i64::from(digit.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(digit)?;
    }
    if negative {
        Some(value)
    } else {
        value.checked_neg()
    }
}

#[inline]
fn uint(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, digit| {
        let digit = u64::from(digit.wrapping_sub(b'0'));
        (digit <= 9).then(|| value.checked_mul(10)?.checked_add(digit))?
    })
}

#[inline]
fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Digits with one point and a sign, or a name of what is not a number.
fn decimal(text: &[u8]) -> Option<&str> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let number = digits.first().is_some_and(u8::is_ascii_digit)
        && digits.iter().all(|b| b.is_ascii_digit() || *b == b'.')
        && digits.iter().filter(|&&b| b == b'.').count() <= 1;
    (number || matches!(text, b"NaN" | b"Infinity" | b"-Infinity"))
        .then(|| std::str::from_utf8(text).ok())?
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn unhex(text: &[u8], into: &mut Vec<u8>) -> bool {
    into.clear();
    let Some(digits) = text.strip_prefix(b"\\x") else {
        return false;
    };
    let (pairs, odd) = digits.as_chunks::<2>();
    into.reserve(pairs.len());
    for &[high, low] in pairs {
        match (nibble(high), nibble(low)) {
            (Some(high), Some(low)) => into.push((high << 4) | low),
            _ => return false,
        }
    }
    odd.is_empty()
}

fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.try_into().ok()?;
    let mut bytes = [0; 16];
    let mut at = 0;
    for (n, byte) in bytes.iter_mut().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            if text[at] != b'-' {
                return None;
            }
            at += 1;
        }
        *byte = (nibble(text[at])? << 4) | nibble(text[at + 1])?;
        at += 2;
    }
    Some(bytes)
}

/// `[1,2.5,-3]`, as pgvector prints it.
fn vector(text: &[u8], into: &mut Vec<f32>) -> bool {
    into.clear();
    let Some(items) = text
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_suffix(b"]"))
    else {
        return false;
    };
    for item in items.split(|&b| b == b',') {
        match parse(item) {
            Some(value) => into.push(value),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::row::{RowImage, Value};
    use proptest::prelude::*;

    pub(crate) fn read(kind: Kind, text: &[u8]) -> Value {
        let mut buffer = Vec::new();
        let mut row = RowWriter::new(&mut buffer);
        write(&mut row, &mut Scratch::default(), kind, text);
        assert_eq!(row.count(), 1);
        row.finish();
        let row = RowImage::from_bytes(buffer.into());
        row.validate().unwrap();
        row.to_values().unwrap().remove(0)
    }

    #[track_caller]
    fn check(scalar: Scalar, text: &str, expected: &Value) {
        let value = read(Kind::Scalar(scalar), text.as_bytes());
        assert!(
            value == *expected,
            "{text} became {value:?}, not {expected:?}"
        );
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn scalars_become_what_they_are() {
        check(Scalar::Bool, "t", &Value::Bool(true));
        check(Scalar::Bool, "maybe", &text("maybe"));
        check(Scalar::Int, "0", &Value::Int(0));
        check(Scalar::Int, "-9223372036854775808", &Value::Int(i64::MIN));
        check(Scalar::Int, "9223372036854775807", &Value::Int(i64::MAX));
        check(
            Scalar::Int,
            "9223372036854775808",
            &text("9223372036854775808"),
        );
        check(Scalar::Int, "", &text(""));
        check(Scalar::Int, "-", &text("-"));
        check(Scalar::UInt, "4294967295", &Value::UInt(4_294_967_295));
        check(Scalar::Float32, "3.4028235e+38", &Value::Float32(f32::MAX));
        check(Scalar::Float64, "-0", &Value::Float64(-0.0));
        check(Scalar::Float64, "Infinity", &Value::Float64(f64::INFINITY));
        check(Scalar::Float64, "5e-324", &Value::Float64(5e-324));
        assert!(
            matches!(read(Kind::Scalar(Scalar::Float64), b"NaN"), Value::Float64(v) if v.is_nan())
        );
        for digits in [
            "0",
            "-12.340",
            "NaN",
            "-Infinity",
            "123456789012345678901234567890.000001",
        ] {
            check(Scalar::Decimal, digits, &Value::Decimal(digits.into()));
        }
        check(Scalar::Decimal, "1.2.3", &text("1.2.3"));
        check(Scalar::Bytes, "\\x00ff7f", &Value::Bytes(vec![0, 255, 127]));
        check(Scalar::Bytes, "\\x", &Value::Bytes(vec![]));
        check(Scalar::Bytes, "\\x0", &text("\\x0"));
        let uuid = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
        check(
            Scalar::Uuid,
            "00112233-4455-6677-8899-aabbccddeeff",
            &Value::Uuid(uuid),
        );
        check(
            Scalar::Uuid,
            "00112233x4455-6677-8899-aabbccddeeff",
            &text("00112233x4455-6677-8899-aabbccddeeff"),
        );
        check(
            Scalar::Json,
            "{\"a\" : 1}",
            &Value::Json("{\"a\" : 1}".into()),
        );
        check(Scalar::Vector, "[1,-2.5]", &Value::Vector(vec![1.0, -2.5]));
        check(Scalar::Vector, "[1,x]", &text("[1,x]"));
        check(Scalar::Text, "plain", &text("plain"));
    }

    #[test]
    fn text_that_is_not_utf8_is_kept_as_bytes() {
        assert!(read(Kind::Scalar(Scalar::Text), &[0xff, 0x41]) == Value::Bytes(vec![0xff, 0x41]));
    }

    proptest! {
        #[test]
        fn any_text_becomes_exactly_one_value(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for scalar in [Scalar::Bool, Scalar::Int, Scalar::UInt, Scalar::Float32, Scalar::Float64, Scalar::Decimal,
                Scalar::Text, Scalar::Bytes, Scalar::Uuid, Scalar::Json, Scalar::Date, Scalar::Time,
                Scalar::Timestamp, Scalar::TimestampTz, Scalar::Vector] {
                read(Kind::Scalar(scalar), &bytes);
                read(Kind::Array(scalar, b','), &bytes);
            }
        }

        #[test]
        fn numbers_round_trip(int in any::<i64>(), float in any::<f64>(), single in any::<f32>()) {
            check(Scalar::Int, &int.to_string(), &Value::Int(int));
            prop_assume!(!float.is_nan() && !single.is_nan());
            check(Scalar::Float64, &format!("{float:?}"), &Value::Float64(float));
            check(Scalar::Float32, &format!("{single:?}"), &Value::Float32(single));
        }
    }
}
