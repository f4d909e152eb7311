//! What the fuzz targets of `fuzz/` call, and the ordinary test that replays their corpora.
//!
//! Feature `fuzzing`; no part of the interface.

use bytes::Bytes;
use cdc_core::testing::insert;
use cdc_core::{ChangeEvent, Image, RowImage};

use crate::glob::Pattern;
use crate::{Predicate, TableFilter};

/// A function that takes any bytes and panics if something does not hold.
pub type Target = fn(&[u8]);

/// All of them, by the names of the targets and of their corpora.
pub const TARGETS: [(&str, Target); 2] = [("expression", expression), ("pattern", pattern)];

/// Runs one of them.
///
/// # Panics
/// If there is none of this name, or something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    target(data);
}

/// The text in front of the first line feed, and the bytes behind it.
fn halves(data: &[u8]) -> (String, &[u8]) {
    let at = data.iter().position(|&byte| byte == b'\n');
    let (text, rest) = data.split_at(at.unwrap_or(data.len()));
    let rest = rest.get(1..).unwrap_or_default();
    (String::from_utf8_lossy(text).into_owned(), rest)
}

/// A filter expression, over a good row and over a row of any bytes.
pub fn expression(data: &[u8]) {
    let (text, row) = halves(data);
    match Predicate::parse(&text) {
        Ok(predicate) => {
            let mut event = insert(9, 0, 7);
            let missing = predicate.missing_columns(&event.relation).len();
            assert!(missing <= text.len());
            // Nested or long as it is, its opposite may be over the bounds.
            let opposite = Predicate::parse(&format!("!({text})")).ok();
            let judge = |event: &ChangeEvent| {
                let said = predicate.evaluate(event);
                assert_eq!(predicate.keep(event), said != Some(false), "unknown keeps");
                if let Some(opposite) = &opposite {
                    let of = opposite.evaluate(event);
                    assert_eq!(of, said.map(|said| !said), "not the opposite");
                }
            };
            judge(&event);
            event.after = Image::Full(RowImage::from_bytes(Bytes::copy_from_slice(row)));
            judge(&event);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A pattern of tables, over a name.
pub fn pattern(data: &[u8]) {
    let (text, name) = halves(data);
    let name = String::from_utf8_lossy(name);
    if let Ok(pattern) = Pattern::parse(&text) {
        let _matches = pattern.matches("public", &name);
    }
    if let Ok(filter) = TableFilter::new(std::slice::from_ref(&text), std::slice::from_ref(&text)) {
        let _kept = filter.keep_relation(&insert(9, 0, 7).relation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
        let expressions = [
            "id = 7",
            "id in (1, 2, 3) and not name like 'a%'",
            "total >= 1.50 or name is null",
            "(id < 0 or id > 100) and name != 'x'",
            "after.total between 1 and 2e3",
            "name = 'it''s' and id is not null",
            "date '2026-01-01' <= total",
        ];
        let patterns = [
            "public.*",
            "!audit_?",
            "shop.{a,b}",
            "\"Odd Name\".t\nt",
            "**\nabc",
        ];
        let of = |target: &'static str, texts: &[&str]| {
            let texts = texts.iter().enumerate();
            let seed =
                |(n, text): (usize, &&str)| (target, n.to_string(), text.as_bytes().to_vec());
            texts.map(seed).collect::<Vec<_>>()
        };
        [of("expression", &expressions), of("pattern", &patterns)].concat()
    }

    #[test]
    fn corpora_hold() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        cdc_core::testing::corpus::replay(&dir, &TARGETS, &seeds());
    }
}
