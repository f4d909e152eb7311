//! Row predicates: their language, tree and parts. The language is described at [`Predicate`].

mod datetime;
mod eval;
mod number;
mod parse;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

use cdc_core::{ChangeEvent, Relation};

/// Longest predicate in bytes.
pub const PREDICATE_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting of parentheses and `!`.
pub const PREDICATE_DEPTH_MAX: usize = 64;
/// Most items of a list after `in`.
pub const LIST_LEN_MAX: usize = 1024;

/// A predicate is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the predicate at byte {}: {message}", span.start)]
pub struct PredicateError {
    /// What is wrong, and what to write instead.
    pub message: String,
    /// Which bytes of the text; never past its end, and on character boundaries.
    pub span: Range<usize>,
}

/// A row predicate: `op != 'update' || after.total != before.total`.
///
/// A subset of CEL over one event, evaluated on the encoded rows without allocating.
///
/// | Write | For |
/// |---|---|
/// | `op`, `schema`, `table` | the event's operation name, schema, table |
/// | `before.col`, `after.col`, `after["odd name"]` | a column of an image |
/// | `key.col` | a key column, of the new row if there is one, else of the old |
/// | `7`, `-1.50`, `1e3`, `'text'`, `"text"`, `true`, `false`, `null` | values; `\'` `\"` `\\` `\n` `\r` `\t` in text |
/// | `==` `!=` `<` `<=` `>` `>=` | comparison |
/// | `x in [1, 2]` | equal to any |
/// | `&&` <code>\|\|</code> `!` `( )` | conditions |
/// | `x.startsWith('a')`, `.endsWith`, `.contains` | text |
/// | `has(after.col)` | the image is there and the source sent the column (null counts) |
/// | `changed(col)` | old and new value differ, as encoded; true for insert, read and delete |
///
/// # Values
/// Integers and decimals compare exactly, whatever their length. Against a float column, a decimal
/// is first rounded to the column's precision, so `after.price == 0.1` is true for a float that
/// prints as 0.1. NaN is unequal to everything and not ordered. Text compares byte by byte. UUIDs,
/// dates, times and timestamps compare with text in ISO form; text without zone is UTC where a zone
/// is wanted. Null equals only null and is neither less nor greater than anything; as a condition
/// it is false.
///
/// # Unknown is kept
/// A column of an absent image, a column the source did not send, a column the table does not have,
/// and two values whose types do not compare make a condition *unknown*. `false && unknown` is
/// false, `true || unknown` is true, `!unknown` is unknown. An event whose whole predicate is
/// unknown is **kept**: a predicate drops only what it is sure about.
#[derive(Debug)]
pub struct Predicate {
    root: Node,
}

impl Predicate {
    /// Reads a predicate.
    ///
    /// # Errors
    /// [`PredicateError`] with the span of what is wrong.
    pub fn parse(text: &str) -> Result<Self, PredicateError> {
        parse::parse(text).map(|root| Self { root })
    }

    /// What the predicate says of an event; `None` if that is unknown.
    pub fn evaluate(&self, event: &ChangeEvent) -> Option<bool> {
        eval::condition(&self.root, event)
    }

    /// True unless the predicate is surely false: an unknown outcome keeps the event.
    #[inline]
    pub fn keep(&self, event: &ChangeEvent) -> bool {
        self.evaluate(event) != Some(false)
    }

    /// The columns it names that this table does not have, for a warning at start: such a column
    /// makes its condition unknown, and unknown keeps the event.
    pub fn missing_columns(&self, relation: &Relation) -> Vec<&str> {
        let mut names = BTreeSet::new();
        self.root.columns(&mut names);
        names.retain(|name| relation.ordinal(name).is_none());
        names.into_iter().collect()
    }
}

/// A condition.
#[derive(Debug)]
enum Node {
    Constant(bool),
    Not(Box<Node>),
    /// Flat, so that a long chain does not nest.
    And(Vec<Node>),
    Or(Vec<Node>),
    Compare(Comparison, Operand, Operand),
    In(Operand, Vec<Operand>),
    /// `op` is one of these, a bit each.
    Op(u16),
    Text(TextTest, Operand, Operand),
    Has(Image, ColumnName),
    Changed(ColumnName),
    Truth(Operand),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

/// A value.
#[derive(Debug)]
enum Operand {
    Null,
    Bool(bool),
    Int(i64),
    Decimal(Box<str>),
    Text(Box<str>),
    Op,
    Schema,
    Table,
    Column(Image, ColumnName),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    Before,
    After,
    Key,
}

/// A column by name, and where it was found last: tables of one predicate mostly keep their shape,
/// so one comparison finds it again.
struct ColumnName {
    name: Box<str>,
    hint: AtomicU16,
}

impl fmt::Debug for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl ColumnName {
    fn new(name: impl Into<Box<str>>) -> Self {
        Self {
            name: name.into(),
            hint: AtomicU16::new(0),
        }
    }

    #[inline]
    fn ordinal(&self, relation: &Relation) -> Option<usize> {
        // Any value read here is only a guess that is checked, so no ordering is needed.
        let guess = usize::from(self.hint.load(Ordering::Relaxed));
        if relation
            .columns
            .get(guess)
            .is_some_and(|c| *c.name == *self.name)
        {
            return Some(guess);
        }
        let found = relation.ordinal(&self.name)?;
        if let Ok(hint) = u16::try_from(found) {
            self.hint.store(hint, Ordering::Relaxed);
        }
        Some(found)
    }
}

impl Node {
    fn columns<'a>(&'a self, names: &mut BTreeSet<&'a str>) {
        let mut operand = |operand: &'a Operand| {
            if let Operand::Column(_, column) = operand {
                names.insert(&column.name);
            }
        };
        match self {
            Self::Constant(_) | Self::Op(_) => {}
            Self::Compare(_, a, b) | Self::Text(_, a, b) => {
                operand(a);
                operand(b);
            }
            Self::In(value, list) => {
                operand(value);
                list.iter().for_each(operand);
            }
            Self::Truth(value) => operand(value),
            Self::Has(_, column) | Self::Changed(column) => {
                names.insert(&column.name);
            }
            Self::Not(inner) => inner.columns(names),
            Self::And(all) | Self::Or(all) => all.iter().for_each(|node| node.columns(names)),
        }
    }
}
