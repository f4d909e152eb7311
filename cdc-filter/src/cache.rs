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
            if same(&entry.table, table) && same(&entry.schema, schema) {
                return entry.keep;
            }
        }
        compute(schema, table)
    }
}

/// Only spreads names over slots: each hit compares the names themselves. So both ends of each name
/// are enough, without a loop or a call.
#[inline]
fn hash(schema: &str, table: &str) -> usize {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let (schema, table) = (ends(schema.as_bytes()), ends(table.as_bytes()));
    let mut state = schema.wrapping_mul(FACTOR).rotate_left(29) ^ table;
    state = state.wrapping_mul(FACTOR);
    (state >> 32) as usize
}

/// Eight bytes each from both ends and the middle, and the length, mixed: partitions of one table
/// often differ in a few digits somewhere.
#[inline]
fn ends(name: &[u8]) -> u64 {
    let length = name.len() as u64;
    let mixed = if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let middle = name[name.len() / 2 - 4..].first_chunk();
        u64::from_le_bytes(*first)
            ^ u64::from_le_bytes(*last).rotate_left(23)
            ^ u64::from_le_bytes(*middle.unwrap_or(first)).rotate_left(43)
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
    } else {
        name.iter()
            .fold(0, |bytes, &byte| bytes << 8 | u64::from(byte))
    };
    mixed.wrapping_add(length << 56 | length)
}

/// Names are shared, so most often one comparison of addresses is enough.
#[inline]
fn same(a: &Arc<str>, b: &Arc<str>) -> bool {
    Arc::ptr_eq(a, b) || **a == **b
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
    fn partitions_spread_over_slots() {
        let slots: std::collections::HashSet<_> = (0..200)
            .map(|n| hash("public", &format!("measurements_{n:03}_partition")) & (SLOTS - 1))
            .collect();
        assert!(slots.len() > 150, "{}", slots.len());
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
