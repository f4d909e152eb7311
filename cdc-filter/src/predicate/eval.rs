//! Evaluating a predicate on one event: three-valued, on encoded bytes, without allocating.

use std::cmp::Ordering;

use cdc_core::row::RowImage;
use cdc_core::{ChangeEvent, Op, ValueRef};

use super::number::{Compared, Number, compare as compare_numbers};
use super::{ColumnName, Comparison, Image, Node, Operand, TextTest, datetime};

/// `None` is unknown. The parser bounds the depth of the recursion.
pub(super) fn condition(node: &Node, event: &ChangeEvent) -> Option<bool> {
    match node {
        Node::Constant(value) => Some(*value),
        Node::Not(inner) => condition(inner, event).map(|value| !value),
        Node::And(all) => decided(all.iter().map(|node| condition(node, event)), false),
        Node::Or(all) => decided(all.iter().map(|node| condition(node, event)), true),
        Node::Op(set) => Some(set & (1 << event.op as u16) != 0),
        Node::Compare(comparison, a, b) => {
            let (a, b) = (value(a, event)?, value(b, event)?);
            verdict(*comparison, compare(a, b))
        }
        Node::In(operand, list) => {
            let operand = value(operand, event)?;
            let equal = list
                .iter()
                .map(|item| verdict(Comparison::Equal, compare(operand, value(item, event)?)));
            decided(equal, true)
        }
        Node::Text(test, a, b) => match (value(a, event)?, value(b, event)?) {
            (ValueRef::Null, _) | (_, ValueRef::Null) => Some(false),
            (ValueRef::Text(a), ValueRef::Text(b)) => Some(match test {
                TextTest::StartsWith => a.starts_with(b),
                TextTest::EndsWith => a.ends_with(b),
                TextTest::Contains => a.contains(b),
            }),
            _ => None,
        },
        Node::Has(image, name) => Some(column(*image, name, event).is_some()),
        Node::Changed(name) => changed(name, event),
        Node::Truth(operand) => match value(operand, event)? {
            ValueRef::Bool(value) => Some(value),
            ValueRef::Null => Some(false),
            _ => None,
        },
    }
}

/// The deciding value if any has it, else unknown if any is, else the other value.
fn decided(all: impl Iterator<Item = Option<bool>>, deciding: bool) -> Option<bool> {
    let mut unknown = false;
    for value in all {
        match value {
            Some(value) if value == deciding => return Some(deciding),
            Some(_) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(!deciding)
}

fn verdict(comparison: Comparison, compared: Compared) -> Option<bool> {
    use Comparison::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
    match (compared, comparison) {
        (Compared::Unknown, _)
        | (Compared::Different, Less | LessEqual | Greater | GreaterEqual) => None,
        (Compared::Different | Compared::Unordered, comparison) => Some(comparison == NotEqual),
        (Compared::Ordered(ordering), comparison) => Some(match comparison {
            Equal => ordering.is_eq(),
            NotEqual => ordering.is_ne(),
            Less => ordering.is_lt(),
            LessEqual => ordering.is_le(),
            Greater => ordering.is_gt(),
            GreaterEqual => ordering.is_ge(),
        }),
    }
}

fn value<'a>(operand: &'a Operand, event: &'a ChangeEvent) -> Option<ValueRef<'a>> {
    Some(match operand {
        Operand::Null => ValueRef::Null,
        Operand::Bool(value) => ValueRef::Bool(*value),
        Operand::Int(value) => ValueRef::Int(*value),
        Operand::Decimal(digits) => ValueRef::Decimal(digits),
        Operand::Text(text) => ValueRef::Text(text),
        Operand::Op => ValueRef::Text(event.op.name()),
        Operand::Schema => ValueRef::Text(&event.relation.schema),
        Operand::Table => ValueRef::Text(&event.relation.table),
        Operand::Column(image, name) => return column(*image, name, event),
    })
}

/// The value of a column, if image, column and value are there.
fn column<'a>(image: Image, name: &ColumnName, event: &'a ChangeEvent) -> Option<ValueRef<'a>> {
    let row = match image {
        Image::Before => event.before.row(),
        Image::After => event.after.row(),
        Image::Key => event.identity_row(),
    }?;
    let ordinal = name.ordinal(&event.relation)?;
    if image == Image::Key {
        let key = &event.relation.key;
        if !key.is_empty() && !key.iter().any(|&k| usize::from(k) == ordinal) {
            return None;
        }
    }
    match row.get(ordinal) {
        Ok(Some(ValueRef::Unavailable) | None) | Err(_) => None,
        Ok(Some(value)) => Some(value),
    }
}

fn changed(name: &ColumnName, event: &ChangeEvent) -> Option<bool> {
    let ordinal = name.ordinal(&event.relation)?;
    match event.op {
        Op::Insert | Op::Read | Op::Delete => Some(true),
        Op::Update | Op::Merge | Op::Truncate | Op::Schema | Op::Message => {
            let before = encoded(event.before.row()?, ordinal)?;
            Some(before != encoded(event.after.row()?, ordinal)?)
        }
    }
}

/// The encoded bytes of a column whose value was sent.
fn encoded(row: &RowImage, ordinal: usize) -> Option<&[u8]> {
    let mut columns = row.columns().ok()?;
    if let Some(before) = ordinal.checked_sub(1) {
        columns.nth(before)?.ok()?;
    }
    match columns.clone().next()?.ok()? {
        ValueRef::Unavailable => None,
        _ => columns.next_raw()?.ok(),
    }
}

fn number(value: ValueRef<'_>) -> Option<Number<'_>> {
    Some(match value {
        ValueRef::Int(v) => Number::Int(v.into()),
        ValueRef::UInt(v) => Number::Int(v.into()),
        ValueRef::Float32(v) => Number::Float32(v),
        ValueRef::Float64(v) => Number::Float64(v),
        ValueRef::Decimal(v) => Number::Decimal(v),
        _ => return None,
    })
}

fn compare(a: ValueRef<'_>, b: ValueRef<'_>) -> Compared {
    use ValueRef as V;
    let ordered = Compared::Ordered;
    match (a, b) {
        (V::Null, V::Null) => ordered(Ordering::Equal),
        (V::Null, _) | (_, V::Null) => Compared::Unordered,
        (V::Bool(a), V::Bool(b)) => ordered(a.cmp(&b)),
        (V::Text(a), V::Text(b)) => ordered(a.cmp(b)),
        (V::Bytes(a), V::Bytes(b)) => ordered(a.cmp(b)),
        (V::Uuid(a), V::Uuid(b)) => ordered(a.cmp(&b)),
        (V::Date(a), V::Date(b)) => ordered(a.cmp(&b)),
        (V::Time(a), V::Time(b))
        | (V::Timestamp(a), V::Timestamp(b))
        | (V::TimestampTz(a), V::TimestampTz(b)) => ordered(a.cmp(&b)),
        (V::Json(a), V::Json(b)) => different_or_equal(a == b),
        (V::Array(a), V::Array(b)) => different_or_equal(a == b),
        (V::Map(a), V::Map(b)) => different_or_equal(a == b),
        (V::Vector(a), V::Vector(b)) => different_or_equal(a == b),
        (value, V::Text(text)) => with_text(value, text),
        (V::Text(text), value) => match with_text(value, text) {
            Compared::Ordered(ordering) => ordered(ordering.reverse()),
            other => other,
        },
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => compare_numbers(a, b),
            _ => Compared::Unknown,
        },
    }
}

fn different_or_equal(equal: bool) -> Compared {
    if equal {
        Compared::Ordered(Ordering::Equal)
    } else {
        Compared::Different
    }
}

/// A value that people write as text, with such text.
fn with_text(value: ValueRef<'_>, text: &str) -> Compared {
    let ordering = match value {
        ValueRef::Uuid(v) => datetime::uuid(text).map(|t| v.cmp(&t)),
        ValueRef::Date(v) => datetime::date(text).map(|t| v.cmp(&t)),
        ValueRef::Time(v) => datetime::time(text).map(|t| v.cmp(&t)),
        ValueRef::Timestamp(v) => datetime::timestamp(text, false).map(|t| v.cmp(&t)),
        ValueRef::TimestampTz(v) => datetime::timestamp(text, true).map(|t| v.cmp(&t)),
        _ => None,
    };
    ordering.map_or(Compared::Unknown, Compared::Ordered)
}
