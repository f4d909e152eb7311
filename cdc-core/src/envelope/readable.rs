//! Documents for parsers that keep less than JSON can say.

/// The same document for a parser that keeps numbers as 64-bit floats and text as UTF-8, as most do: a
/// number beyond them becomes a string, half a surrogate pair becomes U+FFFD. All else stays byte for
/// byte; what is no JSON document stays none.
///
/// A document of [`Format::Json`](super::Format::Json) may hold such numbers in a JSON column, which
/// is embedded as the source wrote it. A parser that refuses them refuses the whole document.
pub fn readable(document: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(document.len());
    let (mut rest, mut in_string) = (document, false);
    while let Some(&first) = rest.first() {
        let length = match first {
            b'\\' if in_string => match unit(rest) {
                Some(0xd800..=0xdbff) if is_low(rest.get(6..)) => 12,
                Some(0xd800..=0xdfff) => {
                    out.extend_from_slice(b"\\ufffd");
                    rest = rest.get(6..).unwrap_or_default();
                    continue;
                }
                _ => 2,
            },
            b'-' | b'0'..=b'9' if !in_string => number_len(rest),
            quote => {
                in_string ^= quote == b'"';
                1
            }
        };
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        let quote = !in_string && is_too_large(piece);
        out.extend(quote.then_some(b'"'));
        out.extend_from_slice(piece);
        out.extend(quote.then_some(b'"'));
        rest = behind;
    }
    out
}

/// The code unit of the escape `\uXXXX` that the text begins with.
fn unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, &digit| {
        Some(unit << 4 | char::from(digit).to_digit(16)?)
    })
}

fn is_low(text: Option<&[u8]>) -> bool {
    matches!(text.and_then(unit), Some(0xdc00..=0xdfff))
}

fn number_len(text: &[u8]) -> usize {
    let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    text.iter().take_while(|byte| part(byte)).count()
}

/// True for a number that some parser may not hold: those that build it from its digits round, so the
/// last of the range are left out.
fn is_too_large(piece: &[u8]) -> bool {
    let number = std::str::from_utf8(piece).ok();
    let number = number.and_then(|text| text.parse::<f64>().ok());
    number.is_some_and(|number| number.abs() > 1e308)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(text: &str) -> String {
        String::from_utf8(readable(text.as_bytes())).unwrap()
    }

    #[test]
    fn only_what_a_parser_refuses_is_changed() {
        let long = "9".repeat(400);
        for (text, expected) in [
            ("[1e400,-1e400,1]", "[\"1e400\",\"-1e400\",1]"),
            ("{\"1e400\":\"1e400\"}", "{\"1e400\":\"1e400\"}"),
            (&*long, &*format!("\"{long}\"")),
            ("{\"a\":1.50}", "{\"a\":1.50}"),
            ("[1e-400,0e400]", "[1e-400,0e400]"),
            ("\"\\ud83d\\ude00\"", "\"\\ud83d\\ude00\""),
            ("\"\\ud83d\"", "\"\\ufffd\""),
            ("\"\\ud83d\\ud83d\\ude00\"", "\"\\ufffd\\ud83d\\ude00\""),
            ("\"\\\\ud83d\\\"1e400\"", "\"\\\\ud83d\\\"1e400\""),
            ("\"\u{e9}\"", "\"\u{e9}\""),
            ("inf", "inf"),
            ("\"\\ud83", "\"\\ud83"),
            ("\"\\", "\"\\"),
            ("", ""),
        ] {
            assert_eq!(made(text), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_embedded_can_be_read(text in
            "[\\[{]?(\"a\":)?(\"(a|\\\\n|\\\\ud83d\\\\ude00)?\"|-?[0-9]{1,3}(\\.[0-9])?([eE][+-]?[0-9]{1,4})?|[,\\]}]){1,4}"
        ) {
            let mut out = Vec::new();
            if super::super::raw_json::embed(&mut out, &text, 0) {
                let read = serde_json::from_slice::<serde_json::Value>(&readable(&out));
                prop_assert!(read.is_ok(), "{:?}", text);
            }
        }

        #[test]
        fn any_bytes_are_safe(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = readable(&text);
        }
    }
}
