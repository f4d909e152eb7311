//! Just enough of Rust's lexis to tell code from comments and literals.

/// What a piece of source text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Code,
    Comment,
    Literal,
}

/// The source with comments and the contents of literals blanked; lines stay where they are.
pub(super) fn code_only(source: &str) -> String {
    keep(source, Piece::Code)
}

/// The source with everything but comments blanked.
pub(super) fn comments_only(source: &str) -> String {
    keep(source, Piece::Comment)
}

fn keep(source: &str, wanted: Piece) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        let (piece, length) = next(rest, kept.chars().last());
        let (text, tail) = rest.split_at(length);
        if piece == wanted {
            kept.push_str(text);
        } else {
            kept.extend(
                text.chars()
                    .map(|char| if char == '\n' { '\n' } else { ' ' }),
            );
        }
        rest = tail;
    }
    kept
}

/// The first piece of `rest` and its length in bytes; `before` is the character before it.
fn next(rest: &str, before: Option<char>) -> (Piece, usize) {
    if rest.starts_with("//") {
        return (Piece::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Piece::Comment, block_comment(rest));
    }
    let inside_word = before.is_some_and(|char| char.is_alphanumeric() || char == '_');
    if !inside_word && let Some(length) = raw_string(rest) {
        return (Piece::Literal, length);
    }
    if let Some(body) = rest.strip_prefix('"') {
        return (Piece::Literal, 1 + until_unescaped(body, '"'));
    }
    if rest.starts_with('\'')
        && let Some(length) = char_literal(rest)
    {
        return (Piece::Literal, length);
    }
    (Piece::Code, rest.chars().next().map_or(1, char::len_utf8))
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let tail = rest.get(at..).unwrap_or_default();
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `br#"…"#`, `cr"…"`.
fn raw_string(rest: &str) -> Option<usize> {
    let body = rest
        .strip_prefix(['b', 'c'])
        .unwrap_or(rest)
        .strip_prefix('r')?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let body = body.get(hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(
        body.find(&end)
            .map_or(rest.len(), |at| start + at + end.len()),
    )
}

/// Length up to and with the first `end` that no backslash escapes.
fn until_unescaped(body: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, char) in body.char_indices() {
        if escaped {
            escaped = false;
        } else if char == '\\' {
            escaped = true;
        } else if char == end {
            return at + 1;
        }
    }
    body.len()
}

/// The length of a character literal, or `None` for a lifetime.
fn char_literal(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    let mut chars = body.chars();
    let first = chars.next()?;
    if first == '\\' {
        return Some(1 + until_unescaped(body, '\''));
    }
    (chars.next()? == '\'').then(|| 2 + first.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, code: &str) {
        let squeezed: Vec<String> = code_only(source)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert_eq!(squeezed.join(" "), code, "{source}");
    }

    #[test]
    fn code_is_told_from_comments_and_literals() {
        check("let a = 1; // unsafe", "let a = 1;");
        check("a /* x /* y */ z */ b", "a b");
        check(r#"f("un\"safe", b)"#, "f( , b)");
        check(r###"f(r#"a "quoted" b"#, br"x", c)"###, "f( , , c)");
        check("x('\"', '\\'', '\\u{1F600}', 'é') y", "x( , , , ) y");
        check(
            "fn f<'a>(x: &'a str) -> &'static str",
            "fn f<'a>(x: &'a str) -> &'static str",
        );
        check("for r in rows {}", "for r in rows {}");
        check("\"never ends", "");
    }

    #[test]
    fn comments_alone_keep_their_lines() {
        assert_eq!(
            comments_only("a // b\nc /* d\n */").trim_end(),
            "  // b\n  /* d\n */"
        );
    }
}
