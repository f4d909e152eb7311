//! Verdicts remembered by table name, without a lock.

use std::sync::{Arc, OnceLock};

use cdc_core::Relation;

/// Slots, a power of two. Far more tables than that make some verdicts be computed anew each time;
/// they are never wrong.
const SLOTS: usize = 1024;
/// Neighbouring slots tried.
const PROBES: usize = 4;

#[derive(Debug)]
struct Entry {
    schema: Arc<str>,
    table: Arc<str>,
    keep: bool,
}

/// A table of verdicts that is only ever added to.
///
/// Keyed by name and not by the relation's address: a log defines its relations again in each
/// segment, so addresses come and go (and are reused) while names stay.
#[derive(Debug)]
pub(crate) struct VerdictCache {
    slots: Box<[OnceLock<Entry>]>,
}

impl VerdictCache {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The verdict for this relation's name, computed at most once for as long as there is room.
    #[inline]
    pub(crate) fn keep(&self, relation: &Relation, compute: impl Fn(&str, &str) -> bool) -> bool {
        let (schema, table) = (&relation.schema, &relation.table);
        let start = hash(schema, table);
        for probe in 0..PROBES {
            let slot = &self.slots[start.wrapping_add(probe) & (SLOTS - 1)];
            let entry = slot.get_or_init(|| Entry {
                schema: schema.clone(),
                table: table.clone(),
                keep: compute(schema, table),
            });
            if *entry.table == **table && *entry.schema == **schema {
                return entry.keep;
            }
        }
        compute(schema, table)
    }
}

/// Only spreads names over slots: each hit compares the names themselves.
#[inline]
fn hash(schema: &str, table: &str) -> usize {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mut state = schema.len() as u64;
    for text in [schema, table] {
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        for word in words.iter().chain([&last]) {
            state = (state.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
    }
    (state >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::EngineKind;
    use std::cell::Cell;

    #[test]
    fn more_tables_than_slots_stay_right() {
        let cache = VerdictCache::new();
        for round in 0..2 {
            for n in 0..3 * SLOTS {
                let relation =
                    Relation::new(EngineKind::Relational, "s", format!("t{n}"), vec![], vec![]);
                let keep = cache.keep(&relation, |_, table| table.ends_with('7'));
                assert_eq!(keep, n % 10 == 7, "round {round}, table {n}");
            }
        }
    }

    #[test]
    fn a_verdict_is_computed_once_a_name() {
        let cache = VerdictCache::new();
        let count = Cell::new(0);
        for schema in ["a", "b", "a", "b"] {
            // A new relation each time, as each log segment brings one.
            let relation = Relation::new(EngineKind::Relational, schema, "t", vec![], vec![]);
            let keep = cache.keep(&relation, |schema, _| {
                count.set(count.get() + 1);
                schema == "a"
            });
            assert_eq!(keep, schema == "a");
        }
        assert_eq!(count.get(), 2);
    }
}
