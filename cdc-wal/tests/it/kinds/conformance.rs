//! The reference engines pass the kit. `CDC_KINDS_WORKLOADS` sets how many workloads each runs
//! (`cargo xtask run kinds --workloads N`), `CDC_KINDS_SEED` the first seed.

use cdc_wal::testing::reference::{
    DocumentEngine, FileStoreEngine, GraphEngine, InMemoryEngine, KeyValueEngine, MarkdownEngine,
    RelationalEngine, VectorEngine,
};
use cdc_wal::testing::{Budget, EngineUnderTest, Report, check};

/// A number from the environment; one that does not parse is a failure, not a default.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is `{text}`, not a number")),
        Err(_) => default,
    }
}

/// Runs the workloads, and sees that they did what they are for.
fn passes<E: EngineUnderTest>(seen: &[(&str, &str)]) {
    let first = number("CDC_KINDS_SEED", 0);
    let mut all = Report::default();
    for seed in first..first + number("CDC_KINDS_WORKLOADS", 40) {
        let report = check::<E>(seed, &Budget::default());
        all.add(&report.unwrap_or_else(|violation| panic!("{violation}")));
    }
    // Every storage call of one workload.
    let every = Budget {
        steps: 16,
        crashes: usize::MAX,
    };
    let report = check::<E>(first, &every);
    all.add(&report.unwrap_or_else(|violation| panic!("{violation}")));
    for wanted in seen {
        assert!(all.seen.contains(wanted), "no {wanted:?} in {all:?}");
    }
    assert_eq!(all.seen.len(), seen.len(), "more than named: {all:?}");
    assert!(all.interleaved > 1 && all.aborts > 10, "{all:?}");
}

#[test]
fn relational() {
    passes::<RelationalEngine>(&[
        ("insert", "client"),
        ("update", "client"),
        ("update", "cascade"),
        ("delete", "client"),
        ("delete", "cascade"),
        ("truncate", "client"),
        ("schema", "client"),
    ]);
}

#[test]
fn key_value() {
    passes::<KeyValueEngine>(&[
        ("insert", "client"),
        ("update", "client"),
        ("delete", "client"),
        ("delete", "ttl"),
        ("merge", "client"),
    ]);
}

#[test]
fn document() {
    passes::<DocumentEngine>(&[
        ("insert", "client"),
        ("update", "client"),
        ("delete", "client"),
        ("delete", "ttl"),
        ("schema", "client"),
    ]);
}

#[test]
fn graph() {
    passes::<GraphEngine>(&[
        ("insert", "client"),
        ("update", "client"),
        ("delete", "client"),
        ("delete", "cascade"),
    ]);
}

#[test]
fn in_memory() {
    passes::<InMemoryEngine>(&[
        ("insert", "client"),
        ("update", "client"),
        ("delete", "client"),
        ("delete", "ttl"),
        ("delete", "evict"),
        ("truncate", "client"),
    ]);
}

#[test]
fn vector() {
    passes::<VectorEngine>(&[
        ("insert", "client"),
        ("update", "client"),
        ("delete", "client"),
        ("schema", "client"),
    ]);
}

#[test]
fn file_store() {
    passes::<FileStoreEngine>(&[
        ("insert", "client"),
        ("insert", "lifecycle"),
        ("update", "client"),
        ("delete", "client"),
        ("delete", "lifecycle"),
        ("schema", "client"),
    ]);
}

#[test]
fn markdown() {
    passes::<MarkdownEngine>(&[
        ("insert", "client"),
        ("update", "client"),
        ("delete", "client"),
    ]);
}
