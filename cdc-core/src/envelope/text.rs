//! JSON text, written straight into a byte buffer: strings, numbers, base64, percent-encoding.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What the byte becomes inside a JSON string: 0 itself, `u` a `\u00xx` escape, else the letter
/// after a backslash.
const ESCAPE: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// True if any of eight bytes needs an escape (control, quote, backslash).
///
/// The usual "has a zero byte" and "has a byte below n" tricks; a false alarm is impossible for
/// the word as a whole, since a borrow only starts at a byte that is itself a hit.
#[inline]
const fn any_escape(word: u64) -> bool {
    let quote = word ^ (ONES * b'"' as u64);
    let slash = word ^ (ONES * b'\\' as u64);
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = quote.wrapping_sub(ONES) & !quote;
    let slash = slash.wrapping_sub(ONES) & !slash;
    (control | quote | slash) & HIGHS != 0
}

/// Bytes looked at in one step: two registers of the smallest vector unit.
pub(super) const STEP: usize = 32;

/// True if no byte of a step needs an escape. No early end, so that it becomes vector code.
#[inline]
fn is_clean_step(step: &[u8; STEP]) -> bool {
    let hits = step.iter().fold(0, |hits, &byte| {
        hits | u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\')
    });
    hits == 0
}

/// True if no byte needs an escape. Looks at whole steps and words only: the last one overlaps the
/// one before, and short text is read twice into one word.
#[inline]
fn is_clean(bytes: &[u8]) -> bool {
    if let Some(last) = bytes.last_chunk::<STEP>() {
        let (steps, _) = bytes.as_chunks::<STEP>();
        return is_clean_step(last) && steps.iter().all(is_clean_step);
    }
    if let Some(last) = bytes.last_chunk::<8>() {
        let (words, _) = bytes.as_chunks::<8>();
        return !any_escape(u64::from_le_bytes(*last))
            && !words
                .iter()
                .any(|word| any_escape(u64::from_le_bytes(*word)));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let [first, last] = [first, last].map(|half| u64::from(u32::from_le_bytes(*half)));
        return !any_escape(first | last << 32);
    }
    bytes.iter().all(|&b| ESCAPE[usize::from(b)] == 0)
}

/// Appends `bytes[from..to]`, a short piece of something longer, as one block of fixed size where
/// there is enough behind it: a few bytes are copied faster so than by their number.
#[inline]
pub(super) fn piece(out: &mut Vec<u8>, bytes: &[u8], from: usize, to: usize) {
    let block = bytes.get(from..).and_then(<[u8]>::first_chunk::<STEP>);
    match (block, to.checked_sub(from)) {
        (Some(block), Some(length @ 0..=STEP)) => {
            let start = out.len();
            out.extend_from_slice(block);
            out.truncate(start + length);
        }
        _ => out.extend_from_slice(bytes.get(from..to).unwrap_or_default()),
    }
}

/// Length of the prefix that can be copied as it is.
fn clean_prefix(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    let clean = words
        .iter()
        .take_while(|word| !any_escape(u64::from_le_bytes(**word)))
        .count();
    let rest = &bytes[clean * 8..];
    let hit = rest.iter().position(|&b| ESCAPE[usize::from(b)] != 0);
    clean * 8 + hit.unwrap_or(rest.len())
}

/// Appends the inside of a JSON string, without quotes.
#[inline]
pub(super) fn escaped(out: &mut Vec<u8>, text: &str) {
    if is_clean(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        escaped_runs(out, text.as_bytes());
    }
}

fn escaped_runs(out: &mut Vec<u8>, mut rest: &[u8]) {
    loop {
        let (run, after) = rest.split_at(clean_prefix(rest));
        out.extend_from_slice(run);
        let Some((&byte, after)) = after.split_first() else {
            return;
        };
        escape_byte(out, byte);
        rest = after;
    }
}

#[cold]
fn escape_byte(out: &mut Vec<u8>, byte: u8) {
    match ESCAPE[usize::from(byte)] {
        b'u' => {
            out.extend_from_slice(b"\\u00");
            hex_byte(out, byte);
        }
        letter => out.extend_from_slice(&[b'\\', letter]),
    }
}

/// Appends a JSON string.
#[inline]
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text);
    out.push(b'"');
}

/// Appends two lower-case hexadecimal digits.
#[inline]
pub(super) fn hex_byte(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[
        DIGITS[usize::from(byte >> 4)],
        DIGITS[usize::from(byte & 15)],
    ]);
}

/// Appends an integer in decimal.
#[inline]
pub(super) fn integer(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends upper-case hexadecimal without leading zeros, as LSNs are printed.
pub(super) fn hex_upper(out: &mut Vec<u8>, mut number: u32) {
    let mut digits = [0u8; 8];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789ABCDEF"[(number & 15) as usize];
        number >>= 4;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the shortest digits that read back as the same `f64`; a JSON string if not finite.
#[inline]
pub(super) fn float64(out: &mut Vec<u8>, number: f64) {
    if number.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(number).as_bytes());
    } else {
        non_finite(out, number.is_nan(), number.is_sign_negative());
    }
}

/// Appends the shortest digits that read back as the same `f32`; a JSON string if not finite.
#[inline]
pub(super) fn float32(out: &mut Vec<u8>, number: f32) {
    if number.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(number).as_bytes());
    } else {
        non_finite(out, number.is_nan(), number.is_sign_negative());
    }
}

#[cold]
fn non_finite(out: &mut Vec<u8>, nan: bool, negative: bool) {
    out.extend_from_slice(match (nan, negative) {
        (true, _) => b"\"NaN\"",
        (false, false) => b"\"Infinity\"",
        (false, true) => b"\"-Infinity\"",
    });
}

/// Appends standard base64 with padding, without quotes.
pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    let length = bytes.len().div_ceil(3) * 4;
    out.resize(start + length, 0);
    // The slice has exactly the encoded length, the one thing `encode_slice` can fail on.
    let written = STANDARD
        .encode_slice(bytes, &mut out[start..])
        .unwrap_or_default();
    debug_assert_eq!(written, length);
}

/// Appends a UUID with hyphens, lower case, without quotes.
pub(super) fn uuid(out: &mut Vec<u8>, uuid: [u8; 16]) {
    for (index, byte) in uuid.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        hex_byte(out, byte);
    }
}

/// True for code points that are no characters and never will be; CloudEvents forbids them.
fn is_noncharacter(character: char) -> bool {
    let code = u32::from(character);
    code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code)
}

/// Appends text as one segment of a path inside a JSON string: `%`, `/`, controls, quote,
/// backslash and noncharacters percent-encoded, so that segments never run into each other and nothing needs a
/// JSON escape. With `ascii_only`, everything but unreserved characters is encoded.
pub(super) fn path_segment(out: &mut Vec<u8>, text: &str, ascii_only: bool) {
    for character in text.chars() {
        let plain = if ascii_only {
            character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_' | '~')
        } else {
            !(character.is_control()
                || is_noncharacter(character)
                || matches!(character, '%' | '/' | '"' | '\\'))
        };
        let mut utf8 = [0; 4];
        let bytes = character.encode_utf8(&mut utf8).as_bytes();
        if plain {
            out.extend_from_slice(bytes);
        } else {
            for &byte in bytes {
                out.push(b'%');
                hex_byte(out, byte);
            }
        }
    }
}

/// True if the text is a number by JSON's grammar.
pub(super) fn is_json_number(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |at: usize| {
        bytes[at..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes[at] == b'0') {
        return false;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return false;
        }
        at += 1 + fraction;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return false;
        }
        at += exponent;
    }
    at == bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_read_back(text in any::<String>()) {
            let mut out = Vec::new();
            string(&mut out, &text);
            prop_assert!(!out.contains(&b'\n'));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn dense_strings_read_back(text in "[\\x00-\\x22\\\\\u{7f}\u{80}é]{0,40}") {
            let mut out = Vec::new();
            string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn numbers_are_told_from_text(text in "-?[0-9]{0,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?") {
            prop_assert_eq!(is_json_number(&text), serde_json::from_str::<f64>(&text).is_ok(), "{}", text);
        }
    }

    #[test]
    fn every_byte_is_escaped_as_json_says() {
        for code in 0..=0x7fu8 {
            // Before it and behind it: parts of words, words, and steps.
            for (padding, behind) in (0..9).map(|n| (n, 9)).chain((0..70).map(|n| (n, 70 - n))) {
                let text = format!(
                    "{}{}{}",
                    "a".repeat(padding),
                    char::from(code),
                    "b".repeat(behind)
                );
                let mut out = Vec::new();
                string(&mut out, &text);
                let expected = serde_json::to_vec(&text).unwrap();
                assert_eq!(out, expected, "byte {code:#x} behind {padding}");
            }
        }
    }

    #[test]
    fn path_segments_stay_apart() {
        let mut out = Vec::new();
        path_segment(&mut out, "a/b%\"\\\nä\u{85}\u{1ffff}", false);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "a%2fb%25%22%5c%0aä%c2%85%f0%9f%bf%bf");
        let mut out = Vec::new();
        path_segment(&mut out, "a b/ä", true);
        assert_eq!(String::from_utf8(out).unwrap(), "a%20b%2f%c3%a4");
    }
}
