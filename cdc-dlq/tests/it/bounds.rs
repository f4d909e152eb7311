//! Bounds of letters, bytes and disk, and what is reclaimed.

use std::path::Path;

use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{DeadLetter, DeadLetterQueue, DlqError, LetterState};
use cdc_dlq::{DlqOptions, FileDlq};

use crate::sample::{PATH, SMALL, commits, id, letter, open, segments};

fn open_with(disk: &SimStorage, options: DlqOptions) -> FileDlq {
    FileDlq::open(disk.shared(), PATH, options).unwrap()
}

#[test]
fn at_the_bound_of_letters_an_append_is_refused_whole() {
    let disk = SimStorage::new();
    let options = DlqOptions {
        letters_max: 3,
        ..SMALL
    };
    let mut dlq = open_with(&disk, options);
    dlq.append(&[letter("a", 1), letter("a", 2)]).unwrap();
    let refused = dlq.append(&[letter("a", 3), letter("a", 4)]).unwrap_err();
    assert!(
        matches!(
            refused,
            DlqError::Full {
                used: 2,
                max: 3,
                unit: "letters",
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(commits(dlq.reader()), [1, 2]);
    // What is there already does not count twice, nor does one letter given twice.
    dlq.append(&[letter("a", 1), letter("a", 3), letter("a", 3)])
        .unwrap();
    dlq.append(&[letter("a", 3)]).unwrap();
    dlq.set_state("a", id(1), LetterState::Delivered).unwrap();
    dlq.append(&[letter("a", 4)]).unwrap();
    assert_eq!(commits(dlq.reader()), [2, 3, 4]);
}

#[test]
fn at_the_bound_of_bytes_room_is_made_or_the_append_refused() {
    let disk = SimStorage::new();
    let options = DlqOptions {
        bytes_max: 20_000,
        ..SMALL
    };
    let mut dlq = open_with(&disk, options);
    let mut next = 0;
    let refused = loop {
        next += 1;
        if let Err(refused) = dlq.append(&[letter("a", next)]) {
            break refused;
        }
    };
    assert!(matches!(
        refused,
        DlqError::Full {
            unit: "bytes",
            key: "dlq_bytes_max",
            ..
        }
    ));
    assert!(next > 20, "{next} letters fit");
    assert!(dlq.reader().bytes() <= 20_000);
    // Refusing is no failure: states are still taken, and make room.
    for commit in (1..next).filter(|n| n % 3 != 0) {
        dlq.set_state("a", id(commit), LetterState::Discarded)
            .unwrap();
    }
    for commit in next..next + 10 {
        dlq.append(&[letter("a", commit)]).unwrap();
        assert!(dlq.reader().bytes() <= 20_000);
    }
    let kept: Vec<u64> = (1..next)
        .filter(|n| n % 3 == 0)
        .chain(next..next + 10)
        .collect();
    assert_eq!(commits(dlq.reader()), kept);
    drop(dlq);
    assert_eq!(commits(open_with(&disk, options).reader()), kept);
}

#[test]
fn a_bound_too_small_for_anything_refuses_and_ends() {
    let disk = SimStorage::new();
    let options = DlqOptions {
        bytes_max: 10,
        ..SMALL
    };
    let mut dlq = open_with(&disk, options);
    let refused = dlq.append(&[letter("a", 1)]).unwrap_err();
    assert!(matches!(refused, DlqError::Full { .. }), "{refused}");
}

#[test]
fn one_old_letter_does_not_hold_the_disk() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    dlq.append(&[letter("a", 1)]).unwrap();
    for commit in 2..600 {
        dlq.append(&[letter("a", commit)]).unwrap();
        dlq.set_state("a", id(commit), LetterState::Delivered)
            .unwrap();
    }
    let files = segments(&disk.shared(), Path::new(PATH));
    let bytes: u64 = files.iter().map(|(_, length)| length).sum();
    assert!(bytes < 4 * 4096, "{files:?}");
    drop(dlq);
    let dlq = open(&disk);
    assert_eq!(commits(dlq.reader()), [1]);
    assert_eq!(dlq.reader().get("a", id(1)).unwrap().unwrap().attempts, 1);
}

#[test]
fn finished_segments_are_removed() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    let letters: Vec<DeadLetter> = (1..100).map(|n| letter("a", n)).collect();
    for letter in &letters {
        dlq.append(std::slice::from_ref(letter)).unwrap();
    }
    assert!(dlq.reader().stats().segments > 5);
    let all = letters.iter().map(|l| ("a", l.event_id()));
    assert_eq!(dlq.set_states(all, LetterState::Discarded).unwrap(), 99);
    assert_eq!(dlq.reader().stats().segments, 1);
    assert_eq!(segments(&disk.shared(), Path::new(PATH)).len(), 1);
}

#[test]
fn a_full_disk_is_told_and_the_handle_stays_of_use() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    dlq.append(&[letter("a", 1)]).unwrap();
    disk.set_capacity(Some(dlq.reader().bytes() + 10));
    for _ in 0..2 {
        let refused = dlq.append(&[letter("a", 2)]).unwrap_err();
        assert!(matches!(refused, DlqError::NoSpace { .. }), "{refused}");
        assert!(refused.to_string().contains("make room"), "{refused}");
        assert_eq!(commits(dlq.reader()), [1]);
    }
    disk.set_capacity(None);
    dlq.append(&[letter("a", 3)]).unwrap();
    dlq.set_state("a", id(1), LetterState::Delivered).unwrap();
    assert_eq!(commits(dlq.reader()), [3]);
    drop(dlq);
    // What the full disk took of the second letter is no damage.
    let mut dlq = open(&disk);
    assert_eq!(commits(dlq.reader()), [3]);
    dlq.append(&[letter("a", 2)]).unwrap();
}

#[test]
fn a_letter_that_cannot_be_stored_is_named() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    let refused = dlq.append(&[letter(&"x".repeat(201), 1)]).unwrap_err();
    assert!(
        refused.to_string().contains("longer than 200 bytes"),
        "{refused}"
    );
    assert!(dlq.reader().is_empty());
    dlq.append(&[letter(&"x".repeat(200), 1)]).unwrap();
}
