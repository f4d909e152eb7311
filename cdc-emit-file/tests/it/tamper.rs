//! Whatever is done to a finished directory, `verify` finds it, or the lines are as they were.

use std::collections::BTreeMap;

use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{Emitter, envelope, testing};
use cdc_emit_file::{Compress, MANIFEST, Problem, verify_against};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::{
    STREAM, config, dir, emit, names, open, read, shared, transaction, try_content, verified,
};

/// What somebody does to one file of the set.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, Index),
    Truncate(Index),
    DropLine(Index),
    RepeatLine(Index),
    SwapLines(Index, Index),
    /// A line of another file in place of one of this.
    Transplant(Index, Index, Index),
    Remove,
    Rename(u8),
    /// The bytes of another file.
    Exchange(Index),
    Copy(u8),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 1u8..).prop_map(|(at, by)| Change::Flip(at, by)),
        (at(), proptest::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), at()).prop_map(|(a, b)| Change::Cut(a, b)),
        at().prop_map(Change::Truncate),
        at().prop_map(Change::DropLine),
        at().prop_map(Change::RepeatLine),
        (at(), at()).prop_map(|(a, b)| Change::SwapLines(a, b)),
        (at(), at(), at()).prop_map(|(a, b, c)| Change::Transplant(a, b, c)),
        Just(Change::Remove),
        (0u8..).prop_map(Change::Rename),
        at().prop_map(Change::Exchange),
        (0u8..).prop_map(Change::Copy),
    ]
}

fn write(storage: &dyn Storage, name: &str, bytes: &[u8]) {
    let path = dir().join(name);
    if storage.exists(&path) {
        storage.remove(&path).unwrap();
    }
    let file = storage.open(&path, OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

fn apply(storage: &dyn Storage, which: &Index, change: &Change) {
    let names = names(storage);
    let name = &names[which.index(names.len())];
    let mut bytes = read(storage, &dir().join(name));
    let len = bytes.len();
    match change {
        Change::Flip(at, by) => bytes[at.index(len)] ^= by,
        Change::Insert(at, more) => {
            let at = at.index(len + 1);
            bytes.splice(at..at, more.iter().copied());
        }
        Change::Cut(a, b) => {
            let (a, b) = (a.index(len), b.index(len));
            bytes.drain(a.min(b)..=a.max(b));
        }
        Change::Truncate(at) => bytes.truncate(at.index(len)),
        Change::DropLine(at) => {
            let mut all = lines(&bytes);
            all.remove(at.index(all.len()));
            bytes = all.concat();
        }
        Change::RepeatLine(at) => {
            let mut all = lines(&bytes);
            let at = at.index(all.len());
            all.insert(at, all[at]);
            bytes = all.concat();
        }
        Change::SwapLines(a, b) => {
            let mut all = lines(&bytes);
            let (a, b) = (a.index(all.len()), b.index(all.len()));
            all.swap(a, b);
            bytes = all.concat();
        }
        Change::Transplant(of, from, to) => {
            let other = read(storage, &dir().join(&names[of.index(names.len())]));
            let donors = lines(&other);
            let donor = donors[from.index(donors.len())];
            let mut all = lines(&bytes);
            let to = to.index(all.len());
            all[to] = donor;
            bytes = all.concat();
        }
        Change::Remove => {
            storage.remove(&dir().join(name)).unwrap();
            return;
        }
        Change::Rename(commit) | Change::Copy(commit) => {
            if matches!(change, Change::Rename(_)) {
                storage.remove(&dir().join(name)).unwrap();
            }
            let end = if name.ends_with(".gz") { ".gz" } else { "" };
            write(
                storage,
                &format!("shop-{:020}-0000000000.ndjson{end}", u64::from(*commit)),
                &bytes,
            );
            return;
        }
        Change::Exchange(other) => {
            let other = &names[other.index(names.len())];
            let theirs = read(storage, &dir().join(other));
            write(storage, other, &bytes);
            bytes = theirs;
        }
    }
    write(storage, name, &bytes);
}

/// What a reader of the directory gets: each file's name without `.gz`, and its content if it has
/// any, twice if it is there in both forms; and the manifest.
fn reading(storage: &dyn Storage) -> BTreeMap<String, Vec<Option<Vec<u8>>>> {
    let mut read = BTreeMap::<_, Vec<_>>::new();
    for name in names(storage) {
        let plain = name.trim_end_matches(".gz").to_owned();
        let inside = try_content(storage, &name);
        read.entry(plain).or_default().push(inside);
    }
    read
}

fn written(compress: Compress, bincode: bool) -> (SimStorage, bytes::Bytes) {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 900;
    config.compress = compress;
    if bincode {
        config.encoder = envelope::Encoder::new(envelope::Format::Bincode);
        config.rotate_bytes = 300;
    }
    let mut emitter = open(config, None);
    for commit in 1..10 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
    }
    assert!(emitter.finish_compression());
    let state = emitter.durable().unwrap().unwrap().state;
    (disk, state)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_change_is_found_or_changes_nothing(
        which in any::<Index>(),
        change in change(),
        packed in any::<bool>(),
        bincode in any::<bool>(),
    ) {
        let compress = if packed { Compress::Gzip } else { Compress::None };
        let (disk, state) = written(compress, bincode);
        let storage = shared(&disk);
        let before = reading(&*storage);
        prop_assert!(verified(&*storage).is_whole());
        apply(&*storage, &which, &change);
        let mut after = reading(&*storage);
        // What stands in the open file behind the checkpoint is cut off at the next start.
        for (name, forms) in &mut after {
            let known = before.get(name).and_then(|forms| forms.first()?.as_ref());
            if let (true, Some(known), [Some(bytes)]) = (name.ends_with(".part"), known, &mut forms[..]) {
                bytes.truncate(known.len());
            }
        }
        let found = verify_against(&*storage, &dir(), STREAM, &state).unwrap();
        prop_assert!(
            !found.is_whole() || after == before,
            "{change:?} was not found"
        );
        // Nor does it cry wolf.
        prop_assert!(found.is_whole() || after != before, "{:?}", found.problems);
    }
}

#[test]
fn a_removed_end_is_found_against_the_checkpoint() {
    let (disk, state) = written(Compress::None, false);
    let storage = shared(&disk);
    let against = || verify_against(&*storage, &dir(), STREAM, &state).unwrap();
    let whole = against();
    assert!(whole.is_whole() && whole.files > 2, "{whole:?}");
    // The last closed file, its line and the open file: the rest is whole in itself.
    let text = read(&*storage, &dir().join(MANIFEST));
    let kept = lines(&text);
    write(&*storage, MANIFEST, &kept[..kept.len() - 1].concat());
    let gone: Vec<_> = names(&*storage).into_iter().rev().take(2).collect();
    for name in gone.iter().filter(|name| *name != MANIFEST) {
        storage.remove(&dir().join(name)).unwrap();
    }
    assert!(verified(&*storage).is_whole());
    let found = against().problems;
    let behind = Problem::Behind {
        expected: whole.files,
        found: whole.files - 1,
    };
    assert!(found.contains(&behind), "{found:?}");
}

#[test]
fn a_rewritten_history_is_found_against_the_checkpoint() {
    let (_, state) = written(Compress::None, false);
    // Another stream of as many files, whole in itself.
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 900;
    let mut emitter = open(config, None);
    for commit in 1..9 {
        emit(&mut emitter, &transaction(commit + 100, 2)).unwrap();
    }
    let storage = shared(&disk);
    assert!(verified(&*storage).is_whole());
    let found = verify_against(&*storage, &dir(), STREAM, &state).unwrap();
    assert!(
        found
            .problems
            .iter()
            .any(|problem| matches!(problem, Problem::Rewritten { .. })),
        "{found:?}"
    );
    let error = verify_against(&*storage, &dir(), STREAM, b"nonsense").unwrap_err();
    assert!(error.to_string().contains("emitter state"), "{error}");
}

/// The file was open in the checkpoint and is closed behind it: its line is younger than the checkpoint.
#[test]
fn what_the_checkpoint_knows_of_a_file_closed_since_is_proven() {
    for compress in [Compress::None, Compress::Gzip] {
        // The first of these is in the checkpoint: the file as it is, shorter, and with other rows.
        let histories = [
            (testing::transaction(1, 1, 2), true),
            (testing::transaction(1, 1, 1), false),
            (testing::transaction(1, 7, 2), false),
        ];
        let mut state = None;
        for (first, genuine) in histories {
            let disk = SimStorage::new();
            let mut config = config(&disk);
            config.rotate_bytes = 1000;
            config.compress = compress;
            let mut emitter = open(config, None);
            emit(&mut emitter, &first).unwrap();
            let mark = emitter.durable().unwrap().unwrap();
            let state = state.get_or_insert(mark.state);
            for commit in 2..6 {
                emit(&mut emitter, &transaction(commit, 1)).unwrap();
            }
            emitter.durable().unwrap();
            assert!(emitter.finish_compression());
            let storage = shared(&disk);
            let found = verified(&*storage);
            assert!(found.is_whole() && found.files > 0, "{found:?}");
            let found = verify_against(&*storage, &dir(), STREAM, state).unwrap();
            let name = "shop-00000000000000000001-0000000000.ndjson".to_owned();
            let expected = [Problem::Open { name }];
            let expected = if genuine { &[][..] } else { &expected };
            assert_eq!(found.problems, expected);
        }
    }
}
