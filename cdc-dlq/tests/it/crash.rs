//! A crash at any call, an end torn anywhere, damage anywhere.

use std::path::Path;

use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{DeadLetterQueue, DlqError, LetterState};
use cdc_dlq::{DlqOptions, DlqReader, FileDlq};

use crate::sample::{PATH, commits, id, letter, open, segments};

const OPTIONS: DlqOptions = DlqOptions {
    letters_max: 1000,
    bytes_max: 1 << 20,
    segment_bytes: 4096,
};

/// What the run had been told is durable, and what it was in the middle of.
#[derive(Clone, Debug, Default)]
struct Promised {
    open: Vec<u64>,
    /// Letters that may be there or not.
    unsure: Vec<u64>,
}

/// Appends, closes and reclaims until done or until a call fails.
fn run(disk: &SimStorage, promised: &mut Promised) -> Result<(), DlqError> {
    let mut dlq = FileDlq::open(disk.shared(), PATH, OPTIONS)?;
    for round in 0..12 {
        let letters: Vec<_> = (1..=4).map(|n| round * 4 + n).collect();
        let given: Vec<_> = letters.iter().map(|n| letter("a", *n)).collect();
        promised.unsure.clone_from(&letters);
        dlq.append(&given)?;
        promised.unsure.clear();
        promised.open.extend(letters);
        // All but one of the round before are delivered, so that old segments hold a few each.
        if round > 0 {
            for commit in (round - 1) * 4 + 2..=round * 4 {
                promised.open.retain(|open| *open != commit);
                promised.unsure = vec![commit];
                dlq.set_state("a", id(commit), LetterState::Delivered)?;
                promised.unsure.clear();
            }
        }
    }
    Ok(())
}

fn check(disk: &SimStorage, promised: &Promised, context: &str) {
    let dlq = FileDlq::open(disk.shared(), PATH, OPTIONS);
    let mut dlq = dlq.unwrap_or_else(|error| panic!("{context}: {error}"));
    let found = commits(dlq.reader());
    for commit in &promised.open {
        assert!(
            found.contains(commit),
            "{context}: lost {commit} of {promised:?}, found {found:?}"
        );
    }
    for commit in &found {
        let known = promised.open.contains(commit) || promised.unsure.contains(commit);
        assert!(known, "{context}: {commit} came back, {promised:?}");
    }
    // It works on, and every letter can be read.
    dlq.append(&[letter("a", 999)]).unwrap();
    let read = dlq.open_letters("a", None, 1000).unwrap();
    assert_eq!(read.len(), found.len() + 1, "{context}");
}

#[test]
fn a_crash_at_any_call_loses_nothing_promised() {
    let whole = SimStorage::new();
    run(&whole, &mut Promised::default()).unwrap();
    let calls = whole.calls();
    assert!(calls > 100);
    for at in 0..calls {
        for seed in 0..2 {
            let disk = SimStorage::new();
            disk.fail_after(at, Failure::Stop);
            let mut promised = Promised::default();
            let ended = run(&disk, &mut promised);
            assert!(ended.is_err(), "call {at} fails");
            disk.crash(seed * 1000 + at);
            check(&disk, &promised, &format!("call {at}, seed {seed}"));
        }
    }
}

#[test]
fn a_failed_call_kills_the_handle_and_a_new_one_recovers() {
    let whole = SimStorage::new();
    run(&whole, &mut Promised::default()).unwrap();
    for at in 0..whole.calls() {
        // The process lives on and opens it again, or is killed and another one does.
        for failure in [Failure::Once, Failure::Forget, Failure::Stop] {
            let disk = SimStorage::new();
            disk.fail_after(at, failure);
            let mut promised = Promised::default();
            assert!(run(&disk, &mut promised).is_err(), "call {at} fails");
            disk.kill();
            let context = format!("call {at}, {failure:?}");
            check(&disk, &promised, &context);
            // And what it says then is durable, with what was appended since.
            promised.open.push(999);
            disk.crash(at);
            let dlq = FileDlq::open(disk.shared(), PATH, OPTIONS).unwrap();
            for commit in &promised.open {
                assert!(
                    commits(dlq.reader()).contains(commit),
                    "{context}: lost {commit}"
                );
            }
        }
    }
}

#[test]
fn a_crash_while_recovering_recovers() {
    for at in 0..12 {
        for seed in 0..20 {
            let disk = SimStorage::new();
            let mut dlq = open(&disk);
            dlq.append(&[letter("a", 1)]).unwrap();
            disk.fail_after(1, Failure::Stop);
            dlq.append(&[letter("a", 2), letter("a", 3)]).unwrap_err();
            drop(dlq);
            disk.crash(seed);
            disk.fail_after(at, Failure::Stop);
            drop(FileDlq::open(disk.shared(), PATH, OPTIONS));
            disk.crash(seed + 100);
            let found = commits(open(&disk).reader());
            assert_eq!(found.first(), Some(&1), "call {at}, seed {seed}");
        }
    }
}

/// A queue with one segment: an append of one letter, then one of three.
fn two_appends() -> (SimStorage, std::path::PathBuf, u64, u64) {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    dlq.append(&[letter("a", 1)]).unwrap();
    let first_end = dlq.reader().bytes();
    dlq.append(&[letter("a", 2), letter("a", 3), letter("a", 4)])
        .unwrap();
    let end = dlq.reader().bytes();
    drop(dlq);
    let files = segments(&disk.shared(), Path::new(PATH));
    assert_eq!(files.len(), 1);
    (disk, Path::new(PATH).join(&files[0].0), first_end, end)
}

#[test]
fn an_end_torn_at_any_byte_is_cut_back_to_whole_letters() {
    let (_, _, first_end, end) = two_appends();
    let mut seen = std::collections::BTreeSet::new();
    for length in 0..end {
        let (disk, file, ..) = two_appends();
        disk.open(&file, OpenMode::ReadWrite)
            .unwrap()
            .set_len(length)
            .unwrap();
        let beside = DlqReader::open(&disk, PATH).unwrap();
        let dlq = open(&disk);
        let found = commits(dlq.reader());
        assert_eq!(found, commits(&beside), "{length}");
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
        assert_eq!(found.is_empty(), length < first_end, "{length}");
        seen.insert(found.len());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn what_was_cut_never_comes_back() {
    // The first of three letters is torn, the two behind it are whole: none was acknowledged.
    let (disk, file, first_end, _) = two_appends();
    disk.damage(&file, first_end, |byte| !byte).unwrap();
    let mut dlq = open(&disk);
    assert_eq!(commits(dlq.reader()), [1]);
    // A letter of the same length ends exactly where the second of the three begins.
    dlq.append(&[letter("a", 5)]).unwrap();
    drop(dlq);
    assert_eq!(commits(open(&disk).reader()), [1, 5]);
}

#[test]
fn damage_before_an_acknowledged_append_is_refused_by_file_and_offset() {
    let (_, _, first_end, _) = two_appends();
    for at in 0..first_end {
        let (disk, file, ..) = two_appends();
        disk.damage(&file, at, |byte| byte ^ 0x10).unwrap();
        let refused = FileDlq::open(disk.shared(), PATH, OPTIONS).unwrap_err();
        let beside = DlqReader::open(&disk, PATH).unwrap_err();
        assert_eq!(refused.to_string(), beside.to_string());
        let DlqError::Corrupt { path, offset, .. } = refused else {
            panic!("byte {at}: {refused}");
        };
        assert_eq!(Path::new(&path), file);
        assert_eq!(offset, if at < 24 { 0 } else { 24 }, "byte {at}");
        // Nothing was changed: what was damaged can still be looked at.
        disk.damage(&file, at, |byte| byte ^ 0x10).unwrap();
        assert_eq!(commits(open(&disk).reader()), [1, 2, 3, 4]);
    }
}

#[test]
fn damage_in_an_older_segment_and_a_missing_one_are_refused() {
    let filled = || {
        let disk = SimStorage::new();
        let mut dlq = open(&disk);
        for commit in 1..60 {
            dlq.append(&[letter("a", commit)]).unwrap();
        }
        drop(dlq);
        let files = segments(&disk.shared(), Path::new(PATH));
        assert!(files.len() >= 3);
        (disk, files)
    };
    let (disk, files) = filled();
    let (name, length) = &files[0];
    let first = Path::new(PATH).join(name);
    disk.damage(&first, length - 1, |byte| !byte).unwrap();
    // With an index beside it a letter is checked when it is read: see `index`.
    disk.remove(&first.with_extension("idx")).unwrap();
    let refused = FileDlq::open(disk.shared(), PATH, OPTIONS).unwrap_err();
    assert!(matches!(refused, DlqError::Corrupt { .. }), "{refused}");
    let (disk, files) = filled();
    disk.remove(&Path::new(PATH).join(&files[1].0)).unwrap();
    let refused = FileDlq::open(disk.shared(), PATH, OPTIONS).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("the segment before it is missing"),
        "{refused}"
    );
}

#[test]
fn damage_since_it_was_opened_is_found_when_the_letter_is_read() {
    let (disk, file, first_end, _) = two_appends();
    let mut dlq = open(&disk);
    disk.damage(&file, first_end - 1, |byte| !byte).unwrap();
    let refused = dlq.open_letters("a", None, 9).unwrap_err();
    assert!(
        matches!(refused, DlqError::Corrupt { offset: 24, .. }),
        "{refused}"
    );
    assert!(dlq.reader().get("a", id(2)).unwrap().is_some());
}
