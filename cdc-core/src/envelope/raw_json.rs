//! JSON text kept as the source wrote it, made safe to stand inside a document of one line.

/// Deepest nesting of embedded JSON, counted from the document's own members. Common parsers
/// stop at 128; deeper text is handed over as a string.
pub(super) const DEPTH_MAX: usize = 96;

/// Appends JSON text. Space between tokens that is not a blank (line feeds, tabs) becomes one
/// blank a byte, everything else is kept as written: number spelling, member order, duplicates.
///
/// False, and `out` as it was, if the text is not one JSON value, is nested deeper than
/// [`DEPTH_MAX`] less `depth`, or has half a surrogate pair in a string.
pub(super) fn embed(out: &mut Vec<u8>, text: &str, depth: usize) -> bool {
    let start = out.len();
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        at: 0,
    };
    let valid = scanner.document(DEPTH_MAX.saturating_sub(depth));
    if valid.is_none() {
        return false;
    }
    out.extend_from_slice(text.as_bytes());
    if text.bytes().any(|b| b < 0x20) {
        // Inside strings a raw control byte is no JSON, so every one here is white space.
        for byte in &mut out[start..] {
            if *byte < 0x20 {
                *byte = b' ';
            }
        }
    }
    true
}

/// Checks JSON's grammar without recursion: containers are bits of one number.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn byte(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn document(&mut self, depth_max: usize) -> Option<()> {
        // Bit n says if level n is an object; `DEPTH_MAX` is below 128.
        let (mut objects, mut depth) = (0u128, 0usize);
        self.space();
        'value: loop {
            match self.peek()? {
                open @ (b'{' | b'[') => {
                    self.at += 1;
                    depth += 1;
                    if depth > depth_max {
                        return None;
                    }
                    objects = objects << 1 | u128::from(open == b'{');
                    self.space();
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.peek()? != close {
                        if open == b'{' {
                            self.member()?;
                        }
                        continue 'value;
                    }
                }
                b'"' => self.string()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            // After a value, or before the end of an empty container.
            loop {
                self.space();
                if depth == 0 {
                    return (self.at == self.bytes.len()).then_some(());
                }
                let in_object = objects & 1 == 1;
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        self.space();
                        if in_object {
                            self.member()?;
                        }
                        continue 'value;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return None,
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    /// `"name" :`, up to its value.
    fn member(&mut self) -> Option<()> {
        self.string()?;
        self.space();
        self.byte(b':')?;
        self.space();
        Some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..]
            .starts_with(word)
            .then(|| self.at += word.len())
    }

    fn string(&mut self) -> Option<()> {
        self.byte(b'"')?;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
                        b'u' => self.code_point()?,
                        _ => return None,
                    }
                }
                0..=0x1f => return None,
                _ => self.at += 1,
            }
        }
    }

    /// `uXXXX` behind a backslash; of a surrogate pair both halves. Half a pair alone is good grammar,
    /// but no text: parsers differ in what they make of it, and many refuse the whole document.
    fn code_point(&mut self) -> Option<()> {
        match self.unit()? {
            0xd800..=0xdbff => {
                self.byte(b'\\')?;
                matches!(self.unit()?, 0xdc00..=0xdfff).then_some(())
            }
            0xdc00..=0xdfff => None,
            _ => Some(()),
        }
    }

    fn unit(&mut self) -> Option<u32> {
        self.byte(b'u')?;
        let digits = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |unit, &digit| {
            Some(unit << 4 | char::from(digit).to_digit(16)?)
        })
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn embedded(text: &str) -> Option<String> {
        let mut out = b"x".to_vec();
        if embed(&mut out, text, 0) {
            Some(String::from_utf8(out.split_off(1)).unwrap())
        } else {
            assert_eq!(out, b"x");
            None
        }
    }

    #[test]
    fn text_is_kept_as_written_but_on_one_line() {
        for (text, expected) in [
            (
                " { \"b\" : 1.50, \"a\":[1,\n\t2], \"a\": {} } ",
                Some(" { \"b\" : 1.50, \"a\":[1,  2], \"a\": {} } "),
            ),
            ("[]", Some("[]")),
            ("[[],{}]", Some("[[],{}]")),
            ("\"a\\u00e9\\n\"", Some("\"a\\u00e9\\n\"")),
            ("-0.0e+5", Some("-0.0e+5")),
            (
                "123456789012345678901234567890",
                Some("123456789012345678901234567890"),
            ),
            ("null", Some("null")),
            ("", None),
            ("  ", None),
            ("{} {}", None),
            ("[1,]", None),
            ("[,1]", None),
            ("[1 2]", None),
            ("{\"a\"}", None),
            ("{\"a\":1,}", None),
            ("{,}", None),
            ("[}", None),
            ("{]", None),
            ("01", None),
            ("1.", None),
            ("+1", None),
            ("NaN", None),
            ("nul", None),
            ("\"a\nb\"", None),
            ("\"\\x\"", None),
            ("\"\\u12\"", None),
            ("\"\\ud83d\\ude00\"", Some("\"\\ud83d\\ude00\"")),
            ("\"\\uD83D\\uDE00\"", Some("\"\\uD83D\\uDE00\"")),
            ("{\"a\":\"\\ud83d\"}", None),
            ("{\"\\ud83d\":1}", None),
            ("\"\\ude00\"", None),
            ("\"\\ud83d\\ud83d\\ude00\"", None),
            ("\"\\ud83d\\n\"", None),
            ("\"\\ud83dude00\"", None),
            ("\"open", None),
        ] {
            assert_eq!(embedded(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(embedded(&nested(DEPTH_MAX)).is_some());
        assert!(embedded(&nested(DEPTH_MAX + 1)).is_none());
        assert!(embedded(&nested(1_000_000)).is_none());
        assert!(!embed(&mut Vec::new(), &nested(DEPTH_MAX), 1));
    }

    proptest! {
        #[test]
        fn agrees_with_a_parser(text in prop_oneof![
            "[\\[\\]{},:\"\\\\0-9eE+. \nantrulfse-]{0,24}",
            // Escapes, halves of surrogate pairs among them.
            "\"(a|\\\\[nu]|\\\\u[dD][7-9a-fA-F][0-9a-f]{2}|\\\\u[0-9a-f]{4}){0,5}\"",
        ]) {
            let valid = match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => true,
                // A number too large for f64 is good grammar, only no value to this parser.
                Err(error) => error.to_string().contains("out of range"),
            };
            prop_assert_eq!(embedded(&text).is_some(), valid, "{:?}", text);
        }
    }
}
