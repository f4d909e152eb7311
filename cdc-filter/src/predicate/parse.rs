//! Reading a predicate: text to tree, with the span of whatever is wrong.

use std::ops::Range;

use cdc_core::Op;

use super::{
    ColumnName, Comparison, Image, LIST_LEN_MAX, Node, Operand, PREDICATE_BYTES_MAX,
    PREDICATE_DEPTH_MAX, PredicateError, TextTest,
};

type Result<T> = std::result::Result<T, PredicateError>;

fn refuse<T>(span: Range<usize>, message: impl Into<String>) -> Result<T> {
    Err(PredicateError {
        message: message.into(),
        span,
    })
}

#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    Number(&'a str),
    Text(String),
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 17] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ",", ".", "-", "+",
];

/// The next token from `at`, behind white space.
fn token(text: &str, mut at: usize) -> Result<(Token<'_>, Range<usize>)> {
    let rest = &text[at..];
    at += rest.len() - rest.trim_start().len();
    let rest = &text[at..];
    let Some(first) = rest.chars().next() else {
        return Ok((Token::End, at..at));
    };
    let run = |accept: fn(char) -> bool| rest.find(|c| !accept(c)).unwrap_or(rest.len());
    if first.is_alphabetic() || first == '_' {
        let len = run(|c| c.is_alphanumeric() || c == '_' || c == '$');
        return Ok((Token::Name(&rest[..len]), at..at + len));
    }
    if first.is_ascii_digit() {
        let mut len = run(|c| c.is_ascii_digit());
        let digits = |from: usize| {
            rest[from..]
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len() - from)
        };
        if rest[len..].starts_with('.') {
            len += 1 + digits(len + 1);
        }
        if rest[len..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[len + 1..].starts_with(['+', '-']));
            len += 1 + sign + digits(len + 1 + sign);
        }
        return Ok((Token::Number(&rest[..len]), at..at + len));
    }
    if first == '\'' || first == '"' {
        return text_literal(rest, first, at);
    }
    for sign in SIGNS {
        if rest.starts_with(sign) {
            return Ok((Token::Sign(sign), at..at + sign.len()));
        }
    }
    let hint = match first {
        '=' => "equality is written `==`",
        '&' => "`and` is written `&&`",
        '|' => "`or` is written `||`",
        '`' => "a column with an odd name is written after[\"odd name\"]",
        _ => "this character means nothing here",
    };
    refuse(
        at..at + first.len_utf8(),
        format!("unexpected `{}`; {hint}", first.escape_debug()),
    )
}

fn text_literal(rest: &str, quote: char, at: usize) -> Result<(Token<'_>, Range<usize>)> {
    let mut value = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((index, c)) = characters.next() {
        if c == quote {
            return Ok((Token::Text(value), at..at + index + 1));
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        let Some((end, escaped)) = characters.next() else {
            break;
        };
        value.push(match escaped {
            '\'' | '"' | '\\' => escaped,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            _ => {
                return refuse(
                    at + index..at + end + escaped.len_utf8(),
                    "unknown escape; known are \\' \\\" \\\\ \\n \\r \\t",
                );
            }
        });
    }
    refuse(
        at..at + rest.len(),
        format!("the text is not closed with {quote}"),
    )
}

/// Reads a whole predicate.
pub(super) fn parse(text: &str) -> Result<Node> {
    if text.len() > PREDICATE_BYTES_MAX {
        return refuse(
            0..0,
            format!(
                "it has {} bytes, at most {PREDICATE_BYTES_MAX} fit",
                text.len()
            ),
        );
    }
    let (token, span) = token(text, 0)?;
    let mut parser = Parser {
        text,
        token,
        span,
        behind: 0,
        depth: 0,
    };
    if parser.token == Token::End {
        return refuse(
            0..text.len(),
            "it is empty; leave `where` out to keep every row",
        );
    }
    let start = parser.span.start;
    let term = parser.any()?;
    if parser.token != Token::End {
        return parser.unexpected("the end, `&&` or `||`");
    }
    parser.as_condition(term, start)
}

/// What an expression turned out to be.
enum Term {
    Condition(Node),
    Value(Operand),
}

struct Parser<'a> {
    text: &'a str,
    /// The next token, and where it stands.
    token: Token<'a>,
    span: Range<usize>,
    /// End of the token before it.
    behind: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<(Token<'a>, Range<usize>)> {
        let (token, span) = token(self.text, self.span.end)?;
        self.behind = self.span.end;
        let taken = std::mem::replace(&mut self.token, token);
        Ok((taken, std::mem::replace(&mut self.span, span)))
    }

    /// Takes the sign if it is next.
    fn take(&mut self, sign: &str) -> Result<bool> {
        let is_next = matches!(self.token, Token::Sign(s) if s == sign);
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, sign: &str) -> Result<()> {
        if self.take(sign)? {
            return Ok(());
        }
        self.unexpected(&format!("`{sign}`"))
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        let found = match &self.token {
            Token::End => "the predicate ends".to_owned(),
            Token::Text(_) => "found a text".to_owned(),
            Token::Name(name) => {
                let shown: String = name.chars().take(40).collect();
                let hint = match shown.to_ascii_lowercase().as_str() {
                    "and" => " (write `&&`)",
                    "or" => " (write `||`)",
                    "not" => " (write `!`)",
                    "is" => " (write `== null` or `!= null`)",
                    "like" => " (use .startsWith, .endsWith or .contains)",
                    _ => "",
                };
                format!("found `{shown}`{hint}")
            }
            Token::Number(_) => "found a number".to_owned(),
            Token::Sign(sign) => format!("found `{sign}`"),
        };
        refuse(self.span.clone(), format!("expected {wanted}, {found}"))
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > PREDICATE_DEPTH_MAX {
            let message =
                format!("nested deeper than {PREDICATE_DEPTH_MAX}; use fewer parentheses");
            return refuse(self.span.clone(), message);
        }
        Ok(())
    }

    fn as_condition(&self, term: Term, start: usize) -> Result<Node> {
        let what = match term {
            Term::Condition(node) => return Ok(node),
            Term::Value(Operand::Bool(value)) => return Ok(Node::Constant(value)),
            Term::Value(column @ Operand::Column(..)) => return Ok(Node::Truth(column)),
            Term::Value(Operand::Null) => "null",
            Term::Value(Operand::Int(_) | Operand::Decimal(_)) => "a number",
            Term::Value(Operand::Text(_)) => "a text",
            Term::Value(Operand::Op) => "`op`",
            Term::Value(Operand::Schema) => "`schema`",
            Term::Value(Operand::Table) => "`table`",
        };
        refuse(
            start..self.behind,
            format!("{what} is not a condition; compare it with something"),
        )
    }

    /// `a || b`
    fn any(&mut self) -> Result<Term> {
        self.chain("||", Self::all, Node::Or)
    }

    /// `a && b`
    fn all(&mut self) -> Result<Term> {
        self.chain("&&", Self::relation, Node::And)
    }

    fn chain(
        &mut self,
        sign: &str,
        part: fn(&mut Self) -> Result<Term>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Term> {
        let mut start = self.span.start;
        let first = part(self)?;
        if !matches!(self.token, Token::Sign(s) if s == sign) {
            return Ok(first);
        }
        let mut parts = vec![self.as_condition(first, start)?];
        while self.take(sign)? {
            start = self.span.start;
            let next = part(self)?;
            parts.push(self.as_condition(next, start)?);
        }
        Ok(Term::Condition(join(parts)))
    }

    /// `a == b`, `a in [..]`, or a lone term.
    fn relation(&mut self) -> Result<Term> {
        let start = self.span.start;
        let left = self.unary()?;
        let comparison = match &self.token {
            Token::Name("in") => None,
            Token::Sign("==") => Some(Comparison::Equal),
            Token::Sign("!=") => Some(Comparison::NotEqual),
            Token::Sign("<") => Some(Comparison::Less),
            Token::Sign("<=") => Some(Comparison::LessEqual),
            Token::Sign(">") => Some(Comparison::Greater),
            Token::Sign(">=") => Some(Comparison::GreaterEqual),
            _ => return Ok(left),
        };
        let left = self.as_value(left, start)?;
        self.advance()?;
        let node = match comparison {
            None => self.list(left)?,
            Some(comparison) => {
                let right_start = self.span.start;
                let right = self.unary()?;
                let right = self.as_value(right, right_start)?;
                self.comparison(comparison, left, right, start)?
            }
        };
        if matches!(
            self.token,
            Token::Sign("==" | "!=" | "<" | "<=" | ">" | ">=")
        ) {
            return self.unexpected("`&&` or `||` (comparisons do not chain)");
        }
        Ok(Term::Condition(node))
    }

    fn as_value(&self, term: Term, start: usize) -> Result<Operand> {
        match term {
            Term::Value(value) => Ok(value),
            Term::Condition(_) => refuse(
                start..self.behind,
                "a condition cannot be compared; join conditions with `&&` or `||`, or write `!( )`",
            ),
        }
    }

    fn comparison(&self, how: Comparison, a: Operand, b: Operand, start: usize) -> Result<Node> {
        let span = start..self.behind;
        let equality = matches!(how, Comparison::Equal | Comparison::NotEqual);
        if !equality && (matches!(a, Operand::Null) || matches!(b, Operand::Null)) {
            return refuse(
                span,
                "nothing is less or greater than null; use `==` or `!=`",
            );
        }
        match (&a, &b) {
            (Operand::Op, Operand::Op) => {}
            (Operand::Op, other) | (other, Operand::Op) => {
                if !equality {
                    return refuse(span, "operations have no order; use `==`, `!=` or `in`");
                }
                if !matches!(
                    other,
                    Operand::Column(..) | Operand::Schema | Operand::Table
                ) {
                    let bit = operation(other, span)?;
                    let set = if how == Comparison::Equal { bit } else { !bit };
                    return Ok(Node::Op(set));
                }
            }
            _ => {}
        }
        Ok(Node::Compare(how, a, b))
    }

    /// `[a, b]` behind `in`.
    fn list(&mut self, left: Operand) -> Result<Node> {
        let start = self.span.start;
        self.expect("[")?;
        let mut items = Vec::new();
        let mut ops = 0;
        while !self.take("]")? {
            let item_start = self.span.start;
            let item = self.unary()?;
            let item = self.as_value(item, item_start)?;
            if matches!(left, Operand::Op) {
                ops |= operation(&item, item_start..self.behind)?;
            }
            items.push(item);
            if items.len() > LIST_LEN_MAX {
                return refuse(
                    start..self.behind,
                    format!("the list has more than {LIST_LEN_MAX} items"),
                );
            }
            if !self.take(",")? {
                self.expect("]")?;
                break;
            }
        }
        if items.is_empty() {
            return refuse(
                start..self.behind,
                "the list is empty, so nothing is ever in it",
            );
        }
        Ok(match left {
            Operand::Op => Node::Op(ops),
            left => Node::In(left, items),
        })
    }

    /// `!a`, `-1`, or a primary.
    fn unary(&mut self) -> Result<Term> {
        if matches!(self.token, Token::Sign("!")) {
            self.deeper()?;
            self.advance()?;
            let start = self.span.start;
            let inner = self.unary()?;
            let inner = self.as_condition(inner, start)?;
            self.depth -= 1;
            return Ok(Term::Condition(Node::Not(Box::new(inner))));
        }
        if matches!(self.token, Token::Sign("-" | "+")) {
            let (sign, span) = self.advance()?;
            let Token::Number(digits) = self.token else {
                return refuse(
                    span,
                    "a sign stands only in front of a number; there is no arithmetic",
                );
            };
            let (_, number_span) = self.advance()?;
            let negative = sign == Token::Sign("-");
            return Ok(Term::Value(number(digits, negative, number_span)?));
        }
        let start = self.span.start;
        let mut term = self.primary()?;
        while matches!(self.token, Token::Sign(".")) {
            self.advance()?;
            term = Term::Condition(self.method(term, start)?);
        }
        Ok(term)
    }

    /// `.startsWith(x)` and its like, behind the dot.
    fn method(&mut self, on: Term, start: usize) -> Result<Node> {
        let on = self.as_value(on, start)?;
        let test = match self.token {
            Token::Name("startsWith") => TextTest::StartsWith,
            Token::Name("endsWith") => TextTest::EndsWith,
            Token::Name("contains") => TextTest::Contains,
            _ => return self.unexpected("startsWith, endsWith or contains"),
        };
        if matches!(
            on,
            Operand::Null | Operand::Bool(_) | Operand::Int(_) | Operand::Decimal(_)
        ) {
            return refuse(
                start..self.span.end,
                "only text starts with, ends with or contains text",
            );
        }
        self.advance()?;
        self.expect("(")?;
        let argument_start = self.span.start;
        let argument = self.unary()?;
        let argument = self.as_value(argument, argument_start)?;
        if matches!(
            argument,
            Operand::Null | Operand::Bool(_) | Operand::Int(_) | Operand::Decimal(_)
        ) {
            return refuse(argument_start..self.behind, "expected a text");
        }
        self.expect(")")?;
        Ok(Node::Text(test, on, argument))
    }

    fn primary(&mut self) -> Result<Term> {
        if matches!(self.token, Token::Sign("(")) {
            self.deeper()?;
            self.advance()?;
            let inner = self.any()?;
            self.expect(")")?;
            self.depth -= 1;
            return Ok(inner);
        }
        if !matches!(
            self.token,
            Token::Name(_) | Token::Number(_) | Token::Text(_)
        ) {
            return self.unexpected("a column, a value or `(`");
        }
        let (token, span) = self.advance()?;
        let name = match token {
            Token::Number(digits) => return Ok(Term::Value(number(digits, false, span)?)),
            Token::Text(text) => return Ok(Term::Value(Operand::Text(text.into()))),
            Token::Name(name) => name,
            Token::Sign(_) | Token::End => return refuse(span, "expected a value"),
        };
        Ok(match name {
            "true" => Term::Value(Operand::Bool(true)),
            "false" => Term::Value(Operand::Bool(false)),
            "null" => Term::Value(Operand::Null),
            "op" => Term::Value(Operand::Op),
            "schema" => Term::Value(Operand::Schema),
            "table" => Term::Value(Operand::Table),
            "has" => {
                self.expect("(")?;
                let start = self.span.clone();
                let (image, column) = match self.advance()? {
                    (Token::Name(image), span) => self.column(image, &span)?,
                    _ => return refuse(start, "expected a column such as after.total"),
                };
                self.expect(")")?;
                Term::Condition(Node::Has(image, column))
            }
            "changed" => {
                self.expect("(")?;
                let (token, span) = self.advance()?;
                let column = match token {
                    Token::Name(name) => ColumnName::new(name),
                    Token::Text(name) => ColumnName::new(name),
                    _ => {
                        return refuse(
                            span,
                            "expected the name of a column, such as changed(total)",
                        );
                    }
                };
                if matches!(self.token, Token::Sign(".")) {
                    return refuse(
                        self.span.clone(),
                        "changed takes the column's name alone: changed(total)",
                    );
                }
                self.expect(")")?;
                Term::Condition(Node::Changed(column))
            }
            image => {
                let (image, column) = self.column(image, &span)?;
                Term::Value(Operand::Column(image, column))
            }
        })
    }

    /// The rest of `after.total` or `after["odd name"]`, behind the image's name.
    fn column(&mut self, image: &str, span: &Range<usize>) -> Result<(Image, ColumnName)> {
        let image = match image {
            "before" => Image::Before,
            "after" => Image::After,
            "key" => Image::Key,
            other => {
                let name: String = other.chars().take(40).collect();
                return refuse(
                    span.clone(),
                    format!(
                        "`{name}` is not known; a column is written after.{name}, before.{name} or key.{name}"
                    ),
                );
            }
        };
        if self.take(".")? {
            if let Token::Name(name) = self.token {
                self.advance()?;
                return Ok((image, ColumnName::new(name)));
            }
            return self.unexpected("the name of a column");
        }
        if self.take("[")? {
            if let Token::Text(name) = &self.token {
                let column = ColumnName::new(name.as_str());
                self.advance()?;
                self.expect("]")?;
                return Ok((image, column));
            }
            return self.unexpected("the name of a column in quotes");
        }
        refuse(
            span.clone(),
            "this is a whole row; name a column of it, such as after.total",
        )
    }
}

fn number(digits: &str, negative: bool, span: Range<usize>) -> Result<Operand> {
    let text = if negative {
        format!("-{digits}")
    } else {
        digits.to_owned()
    };
    if let Ok(value) = text.parse() {
        return Ok(Operand::Int(value));
    }
    let last_is_digit = digits.bytes().last().is_some_and(|b| b.is_ascii_digit());
    let exponent = digits
        .find(['e', 'E'])
        .map_or(0, |at| digits.len() - at - 1);
    if !last_is_digit || exponent > 9 {
        return refuse(span, "this is not a number");
    }
    Ok(Operand::Decimal(text.into()))
}

/// The bit of the operation a literal names.
fn operation(literal: &Operand, span: Range<usize>) -> Result<u16> {
    let Operand::Text(name) = literal else {
        return refuse(
            span,
            "`op` compares with the name of an operation in quotes, such as 'update'",
        );
    };
    match Op::from_name(name) {
        Some(op) => Ok(1 << op as u16),
        None => {
            let known: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
            refuse(
                span,
                format!("there is no such operation; known are {}", known.join(", ")),
            )
        }
    }
}
