//! The merged tree of what was written, before it is checked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, Origin};

/// A table: keys in alphabetical order.
pub(crate) type Table = BTreeMap<String, Node>;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The value.
    pub(crate) value: Value,
    /// Where the value was written.
    pub(crate) at: Origin,
    /// Where its key was written.
    pub(crate) key_at: Origin,
}

/// A value as TOML knows it.
#[derive(Clone)]
pub(crate) enum Value {
    /// Text.
    Text(String),
    /// An integer; `None` if it is beyond 64 bits.
    Integer(Option<i64>),
    /// A number with a fraction, as written.
    Float(String),
    /// True or false.
    Boolean(bool),
    /// A date or time, as written.
    Datetime(String),
    /// A list.
    List(Vec<Node>),
    /// A table.
    Table(Table),
}

impl Value {
    /// The kind of value, with its article, for messages.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Datetime(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// The kind only: a value may be a secret.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

/// The tree of a TOML table whose spans count from `offset` in the document.
pub(crate) fn from_table(document: &Arc<Document>, table: &DeTable<'_>, offset: usize) -> Table {
    table
        .iter()
        .map(|(key, value)| {
            let key_at = Origin::at(document, shift(key.span(), offset));
            (
                key.get_ref().to_string(),
                from_value(document, value, key_at, offset),
            )
        })
        .collect()
}

/// The node of a TOML value whose spans count from `offset` in the document.
pub(crate) fn from_value(
    document: &Arc<Document>,
    value: &Spanned<DeValue<'_>>,
    key_at: Origin,
    offset: usize,
) -> Node {
    let at = Origin::at(document, shift(value.span(), offset));
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(n) => Value::Integer(i64::from_str_radix(n.as_str(), n.radix()).ok()),
        DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(date) => Value::Datetime(date.to_string()),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| from_value(document, item, at.clone(), offset))
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(from_table(document, table, offset)),
    };
    Node { value, at, key_at }
}

fn shift(span: Range<usize>, offset: usize) -> Range<usize> {
    span.start + offset..span.end + offset
}

/// Finds `a.b.c`.
pub(crate) fn find<'a>(table: &'a Table, path: &str) -> Option<&'a Node> {
    match path.split_once('.') {
        None => table.get(path),
        Some((head, rest)) => match &table.get(head)?.value {
            Value::Table(inner) => find(inner, rest),
            _ => None,
        },
    }
}

/// Lays `upper` over `lower`: tables are merged, everything else is replaced.
pub(crate) fn overlay(lower: &mut Table, upper: Table) {
    for (key, node) in upper {
        match (lower.get_mut(&key), node) {
            (
                Some(Node {
                    value: Value::Table(below),
                    ..
                }),
                Node {
                    value: Value::Table(above),
                    ..
                },
            ) => overlay(below, above),
            (_, node) => {
                lower.insert(key, node);
            }
        }
    }
}

/// A table that holds one node at `a.b.c`.
pub(crate) fn nest(path: &str, node: Node) -> Table {
    match path.split_once('.') {
        None => Table::from([(path.to_owned(), node)]),
        Some((head, rest)) => {
            let (at, key_at) = (node.at.clone(), node.key_at.clone());
            let value = Value::Table(nest(rest, node));
            Table::from([(head.to_owned(), Node { value, at, key_at })])
        }
    }
}
