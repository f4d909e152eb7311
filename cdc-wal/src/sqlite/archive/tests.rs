//! What is written, taken back, given up and lost.

use super::*;
use cdc_core::testing::sim_storage::SimStorage;

const PAGE: u32 = 512;

fn append(archive: &mut Archive, commit: u64, pages: u32) -> Archived {
    let head = Head {
        commit: Lsn(commit),
        salts: Salts::default(),
        checksum: Checksum::default(),
        count: pages,
        micros: 0,
        merged: false,
    };
    let numbers: Vec<u32> = (1..=pages).collect();
    let page = |_| Ok(vec![7; PAGE as usize].into());
    archive.append(head, &numbers, page).unwrap()
}

/// What is taken back was longer than what comes next, and that is in segments behind it.
#[test]
fn what_was_taken_back_hides_nothing_behind_it() {
    let (storage, dir) = (SimStorage::new().shared(), Path::new("/state"));
    let (mut archive, _) = Archive::open(&storage, dir, PAGE).unwrap();
    append(&mut archive, 1, 2);
    let long = append(&mut archive, 2, 90);
    archive.undo(&long).unwrap();
    for commit in 3..8 {
        append(&mut archive, commit, 14);
    }
    assert!(archive.next > 2, "there are several segments");
    let (_, found) = Archive::open(&storage, dir, PAGE).unwrap();
    let commits: Vec<u64> = found.iter().map(|one| one.commit.0).collect();
    assert_eq!(commits, [1, 3, 4, 5, 6, 7]);
}

/// What a file held before it was used again is not taken for what came after.
#[test]
fn segments_that_are_written_over_hold_what_was_written_last() {
    let (storage, dir) = (SimStorage::new().shared(), Path::new("/state"));
    let (mut archive, _) = Archive::open(&storage, dir, PAGE).unwrap();
    let mut waiting = Vec::new();
    for commit in 1..=60u64 {
        // The longer they were before, the more is left of them.
        let pages = u32::try_from(25 - commit / 3).unwrap();
        waiting.push(append(&mut archive, commit, pages));
        if commit % 7 == 0 {
            let removed = archive.give_up(waiting.last()).unwrap();
            remove_all(storage.as_ref(), &removed).unwrap();
            waiting.drain(..waiting.len() - 1);
            assert!(archive.spares.len() <= SPARES_MAX);
        }
    }
    assert!(
        !archive.spares.is_empty(),
        "files are there to be used again"
    );
    let names = storage.list(dir).unwrap().len();
    assert!(names < 10, "{names} files of {} segments", archive.next - 1);
    let first = waiting.first().unwrap().commit.0;
    drop(archive);
    let (archive, found) = Archive::open(&storage, dir, PAGE).unwrap();
    let commits: Vec<u64> = found.iter().map(|one| one.commit.0).collect();
    let since: Vec<u64> = (first..=60).collect();
    assert!(commits.ends_with(&since), "{commits:?}");
    assert!(archive.spares.is_empty() && commits.is_sorted());
    for one in found {
        for &(page, offset) in one.pages.iter() {
            assert_eq!(one.read(offset, PAGE).unwrap()[0], 7, "{page}");
        }
    }
}

/// Somebody still reads what a segment holds: it is not written over.
#[test]
fn a_segment_that_is_read_is_not_used_again() {
    let (storage, dir) = (SimStorage::new().shared(), Path::new("/state"));
    let (mut archive, _) = Archive::open(&storage, dir, PAGE).unwrap();
    let read = append(&mut archive, 1, 3);
    let mut last = None;
    for commit in 2..80 {
        last = Some(append(&mut archive, commit, 14));
        archive.give_up(last.as_ref()).unwrap();
    }
    assert!(!Arc::ptr_eq(
        &read.segment.file,
        &last.unwrap().segment.file
    ));
    let number = |at: usize| read.read(read.pages[at].1 - 4, 4).unwrap();
    assert_eq!((number(0)[0], number(2)[0]), (1, 3));
    assert!(
        archive
            .spares
            .iter()
            .any(|spare| Arc::ptr_eq(&spare.file, &read.segment.file))
    );
}

/// The middle of the archive is lost with its name: what is behind it is not used.
#[test]
fn a_segment_that_is_gone_is_the_end() {
    let (storage, dir) = (SimStorage::new().shared(), Path::new("/state"));
    let (mut archive, _) = Archive::open(&storage, dir, PAGE).unwrap();
    for commit in 1..12 {
        append(&mut archive, commit, 14);
    }
    assert!(archive.next > 3, "there are several segments");
    storage.remove(&dir.join("archive-0000000002")).unwrap();
    let (_, found) = Archive::open(&storage, dir, PAGE).unwrap();
    let commits: Vec<u64> = found.iter().map(|one| one.commit.0).collect();
    assert!(!commits.is_empty() && commits.len() < 11, "{commits:?}");
    assert!(
        commits.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{commits:?}"
    );
}
