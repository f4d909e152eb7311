//! Proving a directory complete and untouched.

use std::path::PathBuf;

use cdc_core::storage::{OpenMode, Storage, StorageFile};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_emit_file::{MANIFEST, Problem};

use crate::{config, dir, emit, names, open, read, shared, transaction, verified};

/// Changes the lines of a file.
type Change = fn(&mut Vec<String>);

/// Five closed files, two lines each.
fn written() -> SimStorage {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 1;
    let mut emitter = open(config, None);
    for commit in 1..6 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
    }
    disk
}

fn name(commit: u64) -> String {
    format!("shop-{commit:020}-0000000000.ndjson")
}

fn path(commit: u64) -> PathBuf {
    dir().join(name(commit))
}

fn replace(storage: &dyn Storage, path: &std::path::Path, bytes: &[u8]) {
    let file: Box<dyn StorageFile> = storage.open(path, OpenMode::ReadWrite).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

fn lines(storage: &dyn Storage, path: &std::path::Path) -> Vec<String> {
    let text = String::from_utf8(read(storage, path)).unwrap();
    text.split_inclusive('\n').map(str::to_owned).collect()
}

#[test]
fn what_was_written_is_whole() {
    let disk = written();
    let found = verified(&*shared(&disk));
    assert!(found.is_whole(), "{:?}", found.problems);
    assert_eq!((found.files, found.events, found.open.len()), (5, 10, 0));
    assert_eq!(found.chain.len(), 64);
    let manifest = lines(&*shared(&disk), &dir().join(MANIFEST));
    let line: serde_json::Value = serde_json::from_str(&manifest[0]).unwrap();
    let token = |key: &str| line[key].as_str().unwrap().parse::<cdc_core::ResumeToken>();
    assert_eq!(token("first").unwrap().position(), crate::at(1, 0));
    assert_eq!(token("last").unwrap().position(), crate::at(1, 1));
    assert_eq!((&line["events"], &line["lines"]), (&2.into(), &2.into()));
    assert!(manifest[4].contains(&found.chain));
}

#[test]
fn every_changed_byte_of_a_file_is_found() {
    let disk = written();
    let length = read(&*shared(&disk), &path(3)).len() as u64;
    for offset in 0..length {
        disk.damage(&path(3), offset, |byte| byte ^ 1).unwrap();
        let found = verified(&*shared(&disk)).problems;
        assert_eq!(found, [Problem::Edited { name: name(3) }], "byte {offset}");
        disk.damage(&path(3), offset, |byte| byte ^ 1).unwrap();
    }
    assert!(verified(&*shared(&disk)).is_whole());
}

#[test]
fn dropped_repeated_and_swapped_lines_are_found() {
    let changes: [Change; 3] = [
        |lines| drop(lines.remove(0)),
        |lines| lines.insert(0, lines[0].clone()),
        |lines| lines.swap(0, 1),
    ];
    for change in changes {
        let disk = written();
        let storage = shared(&disk);
        let mut text = lines(&*storage, &path(2));
        change(&mut text);
        replace(&*storage, &path(2), text.concat().as_bytes());
        let found = verified(&*storage).problems;
        let named = matches!(
            &found[..],
            [Problem::Length { name: n, .. } | Problem::Edited { name: n }] if *n == name(2)
        );
        assert!(named, "{found:?}");
    }
}

#[test]
fn missing_and_added_files_are_found() {
    let disk = written();
    let storage = shared(&disk);
    storage.remove(&path(2)).unwrap();
    let text = read(&*storage, &path(3));
    let file = storage.open(&path(9), OpenMode::CreateNew).unwrap();
    file.write_all_at(&text, 0).unwrap();
    let expected = [
        Problem::Missing { name: name(2) },
        Problem::Unlisted { name: name(9) },
    ];
    assert_eq!(verified(&*storage).problems, expected);
}

#[test]
fn two_files_exchanged_are_found() {
    let disk = written();
    let storage = shared(&disk);
    let (a, b) = (read(&*storage, &path(1)), read(&*storage, &path(2)));
    replace(&*storage, &path(1), &b);
    replace(&*storage, &path(2), &a);
    let found = verified(&*storage).problems;
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_changed_manifest_is_found() {
    let changes: [(&str, Change); 6] = [
        ("removed", |lines| drop(lines.remove(1))),
        ("swapped", |lines| lines.swap(1, 2)),
        ("repeated", |lines| lines.insert(1, lines[1].clone())),
        ("edited", |lines| {
            lines[1] = lines[1].replace("\"events\":2", "\"events\":3");
        }),
        ("damaged", |lines| lines[1].insert(0, '!')),
        ("torn", |lines| {
            let last = lines.len() - 1;
            lines[last].pop();
        }),
    ];
    for (what, change) in changes {
        let disk = written();
        let storage = shared(&disk);
        let manifest = dir().join(MANIFEST);
        let mut text = lines(&*storage, &manifest);
        change(&mut text);
        replace(&*storage, &manifest, text.concat().as_bytes());
        assert!(!verified(&*storage).is_whole(), "{what}");
    }
    // The end cut off cleanly: the files show it.
    let disk = written();
    let storage = shared(&disk);
    let manifest = dir().join(MANIFEST);
    let text = lines(&*storage, &manifest);
    replace(&*storage, &manifest, text[..4].concat().as_bytes());
    assert_eq!(
        verified(&*storage).problems,
        [Problem::Unlisted { name: name(5) }]
    );
    assert_eq!(names(&*storage).len(), 6);
}
