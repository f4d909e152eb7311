//! The key of a table whose messages do not say it (replica identity full), from the catalog.
//!
//! The catalog is of now, the message of then. A column keeps its number for ever and a number is
//! never given again, so renamed columns are found by their place among the numbers; columns that were
//! dropped since, or before, may make more than one reading possible.

use super::relation::OwnedDef;

/// When a table and its primary key came to be, by the transactions that made them.
///
/// PostgreSQL says neither; but the rows of pg_depend that tie a key to its columns and a table to its
/// schema are written once, and not again when an index is rebuilt or a constraint renamed. Numbers of
/// transactions go round after 2³²: what is too old to be compared counts as always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeySince {
    /// None if it was always there.
    pub(crate) table: Option<u32>,
    pub(crate) key: u32,
}

impl KeySince {
    /// True if changes of this transaction may be from before the key, in a table that was there: one
    /// numbered earlier than the key's own, or that one itself. (An earlier one that still ran when the
    /// key came counts, too: no number tells.)
    pub(crate) fn may_be_after(self, transaction: u32) -> bool {
        let table_was_there = self
            .table
            .is_none_or(|table| table != self.key && !precedes(transaction, table));
        table_was_there && !precedes(self.key, transaction)
    }
}

/// PostgreSQL's own order of transaction numbers: of two, the one less than half the circle behind.
const fn precedes(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

/// A column as the catalog has it; dropped ones too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) dropped: bool,
    /// Computed, so that most servers do not send it.
    pub(crate) generated: bool,
    /// Part of the primary key.
    pub(crate) key: bool,
}

impl Attribute {
    /// True if the message's column may have been this one then.
    fn may_be(&self, column: &(bool, String, u32, i32)) -> bool {
        self.dropped || self.name == column.1 || self.type_oid == column.2
    }
}

/// The key's columns in the message, ascending; empty if the table has no primary key. `None` if
/// that cannot be told for sure: the table was changed since.
pub(crate) fn key_of(def: &OwnedDef, attributes: &[Attribute]) -> Option<Vec<usize>> {
    if !attributes.iter().any(|attribute| attribute.key) {
        return Some(Vec::new());
    }
    as_it_is(def, attributes).or_else(|| as_it_was(def, attributes))
}

/// If the message's columns are ones that are there, by name and type and in order: the table as it
/// is, or what is published of it.
fn as_it_is(def: &OwnedDef, attributes: &[Attribute]) -> Option<Vec<usize>> {
    let mut rest = attributes.iter();
    let mut key = Vec::new();
    for (n, (_, name, oid, _)) in def.columns.iter().enumerate() {
        let found = rest.find(|a| !a.dropped && a.name == *name && a.type_oid == *oid)?;
        if found.key {
            key.push(n);
        }
    }
    let wanted = attributes.iter().filter(|attribute| attribute.key).count();
    (key.len() == wanted).then_some(key)
}

/// All ways to give the message's columns numbers in order: each is a column that is there under this
/// name or of this type, or a dropped one; those that are left over are dropped, computed, or were added
/// behind the last.
fn as_it_was(def: &OwnedDef, attributes: &[Attribute]) -> Option<Vec<usize>> {
    let (columns, count) = (&def.columns, def.columns.len());
    let width = attributes.len() + 1;
    let at = |i: usize, j: usize| i * width + j;
    let may_skip =
        |i: usize, j: usize| attributes[j].dropped || attributes[j].generated || i == count;
    let may_be = |i: usize, j: usize| i < count && attributes[j].may_be(&columns[i]);
    // Whether the first i columns can be of the first j numbers, and the others of the others.
    let mut before = vec![false; (count + 1) * width];
    let mut behind = before.clone();
    before[at(0, 0)] = true;
    for j in 0..attributes.len() {
        for i in 0..=count {
            if before[at(i, j)] {
                before[at(i, j + 1)] |= may_skip(i, j);
                if may_be(i, j) {
                    before[at(i + 1, j + 1)] = true;
                }
            }
        }
    }
    behind[at(count, attributes.len())] = true;
    for j in (0..attributes.len()).rev() {
        for i in 0..=count {
            behind[at(i, j)] = (may_skip(i, j) && behind[at(i, j + 1)])
                || (may_be(i, j) && behind[at(i + 1, j + 1)]);
        }
    }
    let mut key = Vec::new();
    for j in (0..attributes.len()).filter(|&j| attributes[j].key) {
        let mut found = None;
        for i in 0..=count {
            if !before[at(i, j)] {
                continue;
            }
            if may_skip(i, j) && behind[at(i, j + 1)] {
                return None;
            }
            if may_be(i, j) && behind[at(i + 1, j + 1)] && found.replace(i).is_some() {
                return None;
            }
        }
        key.push(found?);
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT: u32 = 23;
    const TEXT: u32 = 25;

    fn def(columns: &[(&str, u32)]) -> OwnedDef {
        let column = |(name, oid): &(&str, u32)| (true, (*name).to_owned(), *oid, -1);
        OwnedDef {
            oid: 1,
            schema: "public".into(),
            table: "t".into(),
            replica_identity: b'f',
            columns: columns.iter().map(column).collect(),
        }
    }

    /// `*` in front is part of the key, `=` computed; an empty name is dropped.
    fn attributes(columns: &[(&str, u32)]) -> Vec<Attribute> {
        let attribute = |(name, oid): &(&str, u32)| Attribute {
            name: name.trim_start_matches(['*', '=']).to_owned(),
            type_oid: *oid,
            dropped: name.is_empty(),
            generated: name.starts_with('='),
            key: name.starts_with('*'),
        };
        columns.iter().map(attribute).collect()
    }

    #[test]
    fn columns_are_found_by_their_numbers() {
        let then = def(&[("id", INT), ("a", INT), ("v", TEXT)]);
        for (what, now, key) in [
            (
                "as it is",
                &[("*id", INT), ("a", INT), ("v", TEXT)][..],
                Some(&[0][..]),
            ),
            (
                "of two columns",
                &[("*id", INT), ("a", INT), ("*v", TEXT)],
                Some(&[0, 2]),
            ),
            ("no key", &[("id", INT), ("a", INT), ("v", TEXT)], Some(&[])),
            (
                "renamed",
                &[("*ident", INT), ("a", INT), ("v", TEXT)],
                Some(&[0]),
            ),
            (
                "names swapped",
                &[("*a", INT), ("id", INT), ("v", TEXT)],
                Some(&[0]),
            ),
            (
                "renamed, and one added",
                &[("*ident", INT), ("a", INT), ("v", TEXT), ("new", INT)],
                Some(&[0]),
            ),
            (
                "renamed, and one dropped",
                &[("*ident", INT), ("", 0), ("v", TEXT)],
                Some(&[0]),
            ),
            (
                "one was dropped long ago, and it is as it is",
                &[("", 0), ("*id", INT), ("a", INT), ("v", TEXT)],
                Some(&[0]),
            ),
            (
                "one dropped in front, all renamed: only one reading fits the types",
                &[("", 0), ("*x", INT), ("y", INT), ("z", TEXT)],
                Some(&[0]),
            ),
            (
                "the key is of a column that was not there",
                &[("id", INT), ("a", INT), ("v", TEXT), ("*new", INT)],
                None,
            ),
            (
                "a computed column is not sent",
                &[("*ident", INT), ("=c", INT), ("a", INT), ("v", TEXT)],
                Some(&[0]),
            ),
            (
                "another table altogether",
                &[("*x", TEXT), ("y", TEXT)],
                None,
            ),
        ] {
            assert_eq!(key_of(&then, &attributes(now)).as_deref(), key, "{what}");
        }
        // Dropped before and the second one renamed, or dropped since and one added: nobody knows.
        let two = def(&[("id", INT), ("a", INT)]);
        let unclear = attributes(&[("", 0), ("*x", INT), ("y", INT)]);
        assert_eq!(key_of(&two, &unclear), None);
        // Only some of the columns are published.
        let some = def(&[("id", INT), ("v", TEXT)]);
        let all = attributes(&[("*id", INT), ("a", INT), ("v", TEXT)]);
        assert_eq!(key_of(&some, &all), Some(vec![0]));
    }

    #[test]
    fn a_key_is_of_changes_from_after_it() {
        let at = |table, key| KeySince { table, key };
        for (what, since, transaction, older) in [
            ("long after", at(Some(10), 20), 30, false),
            (
                "before the key, after the table",
                at(Some(10), 20),
                15,
                true,
            ),
            ("the table's own transaction", at(Some(10), 20), 10, true),
            ("the key's own transaction", at(Some(10), 20), 20, true),
            ("made together", at(Some(20), 20), 20, false),
            ("made together, in a savepoint", at(Some(21), 21), 20, false),
            ("made in two savepoints", at(Some(21), 22), 20, false),
            ("a table from ever", at(None, 20), 15, true),
            ("a table from ever, after", at(None, 20), 21, false),
            ("around the circle, after", at(None, u32::MAX - 5), 7, false),
            ("around the circle, before", at(None, 7), u32::MAX - 5, true),
        ] {
            assert_eq!(since.may_be_after(transaction), older, "{what}");
        }
    }
}
