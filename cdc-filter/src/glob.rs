//! Patterns over schema and table names.

/// Longest pattern in bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// One name pattern: `*` is any run of characters, `?` is one character, all else is itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Token>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Character(char),
    One,
    Run,
}

impl Glob {
    /// True if the whole name matches. Time is at most pattern length times name length.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let mut tokens = &self.0[..];
        let mut rest = name;
        // Where to go on if the text after the last `*` does not fit: one character further.
        let mut retry: Option<(&[Token], &str)> = None;
        loop {
            let step = match (tokens.split_first(), rest.chars().next()) {
                (None, None) => return true,
                (Some((Token::Run, after)), _) => {
                    retry = Some((after, rest));
                    tokens = after;
                    continue;
                }
                (Some((Token::One, after)), Some(c)) => Some((after, c)),
                (Some((Token::Character(want), after)), Some(c)) if *want == c => Some((after, c)),
                _ => None,
            };
            match (step, retry) {
                (Some((after, c)), _) => {
                    tokens = after;
                    rest = &rest[c.len_utf8()..];
                }
                (None, Some((after, from))) => {
                    let Some(skipped) = from.chars().next() else {
                        return false;
                    };
                    rest = &from[skipped.len_utf8()..];
                    tokens = after;
                    retry = Some((after, rest));
                }
                (None, None) => return false,
            }
        }
    }
}

/// A configured pattern: one or two globs, perhaps negated.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// As configured, for messages.
    pub(crate) text: String,
    /// It started with `!`.
    pub(crate) negative: bool,
    /// The part before the dot.
    pub(crate) qualifier: Option<Glob>,
    /// The name itself.
    pub(crate) name: Glob,
}

impl Pattern {
    /// Reads `[!][qualifier.]name`. Double quotes take what they hold literally, dots and
    /// wildcards included; `""` inside them is one quote.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err("it is longer than 1024 bytes");
        }
        let (negative, body) = match text.strip_prefix('!') {
            Some(body) => (true, body),
            None => (false, text),
        };
        if body.trim() != body {
            return Err(
                "it starts or ends with a space; put the name in double quotes if that is meant",
            );
        }
        let mut parts = vec![Vec::new()];
        let mut quoted_empty = false;
        let mut characters = body.chars().peekable();
        while let Some(c) = characters.next() {
            let part = parts.last_mut().ok_or("it is empty")?;
            match c {
                '"' => {
                    let before = part.len();
                    loop {
                        match characters.next() {
                            None => return Err("a double quote is not closed"),
                            Some('"') if characters.peek() == Some(&'"') => {
                                characters.next();
                                part.push(Token::Character('"'));
                            }
                            Some('"') => break,
                            Some(literal) => part.push(Token::Character(literal)),
                        }
                    }
                    quoted_empty |= part.len() == before;
                }
                '.' => parts.push(Vec::new()),
                // Runs of `*` mean the same as one and would only cost time.
                '*' if part.last() == Some(&Token::Run) => {}
                '*' => part.push(Token::Run),
                '?' => part.push(Token::One),
                '!' if part.is_empty() => {
                    return Err(
                        "one `!` may stand in front of the whole pattern; put a name that starts with `!` in double quotes",
                    );
                }
                '[' | ']' | '{' | '}' => {
                    return Err(
                        "it has brackets, which patterns do not know, only `*` and `?`; write one pattern for each name, or put a name that holds brackets in double quotes",
                    );
                }
                literal => part.push(Token::Character(literal)),
            }
        }
        if quoted_empty {
            return Err("it has empty double quotes");
        }
        if parts.iter().any(Vec::is_empty) {
            return Err(if body.is_empty() {
                "it is empty; use `*` for every name"
            } else {
                "nothing stands on one side of the dot; use `*` for every name"
            });
        }
        let mut parts = parts.into_iter();
        let (first, second, third) = (parts.next(), parts.next(), parts.next());
        match (first, second, third) {
            (Some(name), None, None) => Ok(Self {
                text: text.to_owned(),
                negative,
                qualifier: None,
                name: Glob(name),
            }),
            (Some(qualifier), Some(name), None) => Ok(Self {
                text: text.to_owned(),
                negative,
                qualifier: Some(Glob(qualifier)),
                name: Glob(name),
            }),
            _ => Err("it has more than one dot; put a name that holds a dot in double quotes"),
        }
    }

    /// True if the pattern, without its `!`, fits.
    pub(crate) fn matches(&self, qualifier: &str, name: &str) -> bool {
        self.qualifier
            .as_ref()
            .is_none_or(|glob| glob.matches(qualifier))
            && self.name.matches(name)
    }
}

/// A list of patterns: kept is what any positive pattern fits (or everything, without positive
/// ones) and no negative one does. Order does not matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns {
    pub(crate) all: Vec<Pattern>,
    positives: usize,
}

impl Patterns {
    pub(crate) fn new(all: Vec<Pattern>) -> Self {
        let positives = all.iter().filter(|pattern| !pattern.negative).count();
        Self { all, positives }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn keep(&self, qualifier: &str, name: &str) -> bool {
        let mut wanted = self.positives == 0;
        for pattern in &self.all {
            if pattern.negative {
                if pattern.matches(qualifier, name) {
                    return false;
                }
            } else if !wanted {
                wanted = pattern.matches(qualifier, name);
            }
        }
        wanted
    }

    /// As [`keep`](Self::keep) for something of several names: any positive pattern fits any of
    /// them, and no negative one fits any.
    pub(crate) fn keep_any<'a>(
        &self,
        qualifier: &str,
        names: &(impl Iterator<Item = &'a str> + Clone),
    ) -> bool {
        let fits = |pattern: &Pattern| {
            let mut names = names.clone();
            names.any(|name| pattern.matches(qualifier, name))
        };
        let mut wanted = self.positives == 0;
        for pattern in &self.all {
            if pattern.negative {
                if fits(pattern) {
                    return false;
                }
            } else if !wanted {
                wanted = fits(pattern);
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The obvious recursive matcher on unquoted patterns.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|n| naive(rest, &name[n..])),
            Some(('?', rest)) => !name.is_empty() && naive(rest, &name[1..]),
            Some((c, rest)) => name.first() == Some(c) && naive(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(pattern in "[ab*?é]{1,8}", name in "[abé]{0,8}") {
            let [p, n] = [&pattern, &name].map(|t| t.chars().collect::<Vec<_>>());
            prop_assert_eq!(Pattern::parse(&pattern).unwrap().name.matches(&name), naive(&p, &n));
        }

        #[test]
        fn a_quoted_name_matches_itself_only(name in "[^\"\\PC]{1,12}|[a.*?!]{1,8}", other in "[a.*?!]{1,8}") {
            let pattern = Pattern::parse(&format!("\"{name}\"")).unwrap();
            prop_assert!(pattern.qualifier.is_none());
            prop_assert!(pattern.name.matches(&name));
            prop_assert_eq!(pattern.name.matches(&other), other == name);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[!.\"*? a]{0,12}|\\PC{0,40}", name in "\\PC{0,20}") {
            if let Ok(pattern) = Pattern::parse(&text) {
                let _ = pattern.matches(&name, &name);
            }
        }

        #[test]
        fn order_of_patterns_does_not_matter(
            patterns in proptest::collection::vec("!?[ab*?]{1,4}".prop_filter("second !", |p| !p.starts_with("!!")), 0..6),
            name in "[ab]{0,5}",
        ) {
            let list = |texts: Vec<&String>| {
                Patterns::new(texts.into_iter().map(|t| Pattern::parse(t).unwrap()).collect())
            };
            let forward = list(patterns.iter().collect()).keep("s", &name);
            let backward = list(patterns.iter().rev().collect()).keep("s", &name);
            prop_assert_eq!(forward, backward);
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = Pattern::parse(&"*a".repeat(500)).unwrap();
        assert!(!pattern.name.matches(&"a".repeat(499)));
        assert!(pattern.name.matches(&"a".repeat(500)));
    }

    #[test]
    fn bad_patterns_say_what_is_wrong() {
        for (text, what) in [
            ("", "empty"),
            ("!", "empty"),
            ("!!a", "one `!`"),
            ("a.!b", "one `!`"),
            ("a.b.c", "more than one dot"),
            (".a", "one side of the dot"),
            ("a.", "one side of the dot"),
            ("\"a", "not closed"),
            ("a.\"\"", "empty double quotes"),
            (" a", "space"),
            ("! a", "space"),
            ("line_[ab]", "brackets"),
            ("{a,b}", "brackets"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.contains(what), "{text:?}: {error}");
        }
        assert!(Pattern::parse(&"a".repeat(1025)).is_err());
        assert!(
            Pattern::parse("\"line_[ab]\"")
                .unwrap()
                .name
                .matches("line_[ab]")
        );
    }
}
