//! A disk that runs full: what it took of an append, and what is told of states that are stored.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cdc_core::storage::{OpenMode, Storage, StorageFile, StorageLock};
use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{DeadLetter, DeadLetterQueue, DlqError, LetterState};
use cdc_dlq::{DlqOptions, FileDlq, Imported};

use crate::sample::{PATH, SMALL, commits, id, letter, open};

/// A disk that, while it is full, takes all but the last bytes of a write.
#[derive(Debug)]
struct Torn {
    disk: SimStorage,
    full: Arc<AtomicBool>,
}

#[derive(Debug)]
struct TornFile {
    file: Box<dyn StorageFile>,
    full: Arc<AtomicBool>,
}

impl Storage for Torn {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(TornFile {
            file: self.disk.open(path, mode)?,
            full: self.full.clone(),
        }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.disk.lock(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }
}

impl StorageFile for TornFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            self.file.write_all_at(&bytes[..bytes.len() - 1], offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// A queue of one segment, half of it of closed letters, whose full disk has taken a part of an append;
/// then, with the disk dying at call `dies`, one that makes room by beginning another segment.
fn torn_then_next(disk: &SimStorage, dies: u64) -> Result<(), DlqError> {
    let full = Arc::new(AtomicBool::new(false));
    let storage = Torn {
        disk: disk.clone(),
        full: full.clone(),
    };
    let options = DlqOptions {
        bytes_max: 8 << 10,
        ..SMALL
    };
    let mut dlq = FileDlq::open(Arc::new(storage), PATH, options)?;
    let letters: Vec<_> = (1..=5).map(|n| letter("a", n)).collect();
    dlq.append(&letters)?;
    let closed = (1..=4).map(|n| ("a", id(n)));
    dlq.set_states(closed, LetterState::Discarded)?;
    full.store(true, Ordering::Relaxed);
    let refused = dlq.append(&[letter("a", 6)]).unwrap_err();
    assert!(matches!(refused, DlqError::NoSpace { .. }), "{refused}");
    full.store(false, Ordering::Relaxed);
    assert_eq!(dlq.reader().stats().segments, 1);
    disk.fail_after(dies, Failure::Stop);
    let stats = dlq.reader().stats();
    let fit = (options.bytes_max - stats.bytes) / stats.live_bytes;
    let more: Vec<_> = (10..=10 + fit).map(|n| letter("a", n)).collect();
    dlq.append(&more)?;
    assert_eq!(dlq.reader().len(), more.len() + 1);
    Ok(())
}

#[test]
fn what_a_full_disk_took_of_an_append_is_no_damage_behind_the_next_segment() {
    for dies in 0.. {
        for seed in 0..20 {
            let disk = SimStorage::new();
            let ended = torn_then_next(&disk, dies);
            if ended.is_ok() {
                assert!(dies > 5, "{dies} calls were enough");
                return;
            }
            disk.crash(seed);
            let dlq = FileDlq::open(disk.shared(), PATH, SMALL);
            let dlq = dlq.unwrap_or_else(|error| panic!("call {dies}, seed {seed}: {error}"));
            let found = commits(dlq.reader());
            assert_eq!(found.first(), Some(&5), "call {dies}, seed {seed}");
        }
    }
}

/// A letter that fills a segment.
fn heavy(commit: u64) -> DeadLetter {
    let mut heavy = letter("a", commit);
    let row = cdc_core::testing::row(7, &"x".repeat(5000), "1.50");
    heavy.event.after = cdc_core::Image::Full(row);
    heavy
}

#[test]
fn states_and_imports_that_are_stored_are_no_failure_for_lack_of_room_to_reclaim() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    for commit in 1..=5 {
        dlq.append(&[heavy(commit)]).unwrap();
    }
    dlq.append(&[letter("a", 6)]).unwrap();
    // Room for the states, none for a copy of the first letter, which holds the oldest segment.
    disk.set_capacity(Some(disk.used() + 2000));
    let failures = disk.failures();
    let closed = (2..=5).map(|n| ("a", id(n)));
    assert_eq!(
        dlq.set_states(closed, LetterState::Discarded).unwrap(),
        4,
        "they are stored"
    );
    assert!(disk.failures() > failures, "there was room");
    assert_eq!(commits(dlq.reader()), [1, 6]);

    let failures = disk.failures();
    let mut line = Vec::new();
    cdc_dlq::letter_line(&letter("a", 7), &mut line).unwrap();
    let imported = dlq.import(&mut io::Cursor::new(line), false, |_| Ok(()));
    let all = Imported {
        read: 1,
        taken: 1,
        known: 0,
    };
    assert_eq!(imported.unwrap(), all);
    assert!(disk.failures() > failures, "there was room");
    drop(dlq);
    disk.set_capacity(None);
    disk.crash(1);
    let mut dlq = open(&disk);
    assert_eq!(commits(dlq.reader()), [1, 6, 7]);
    // With room it is made up for.
    dlq.set_state("a", id(6), LetterState::Delivered).unwrap();
    assert!(dlq.reader().bytes() < 4 * 5000);
}

#[test]
fn letters_that_were_being_redriven_do_not_keep_a_full_disk_from_being_opened() {
    // At the end of a segment, and in the middle of one.
    for letters in [
        vec![heavy(1), heavy(2)],
        vec![letter("a", 1), letter("a", 2)],
    ] {
        let disk = SimStorage::new();
        let mut dlq = open(&disk);
        dlq.append(&letters).unwrap();
        dlq.set_state("a", id(2), LetterState::Redriving).unwrap();
        drop(dlq);
        disk.set_capacity(Some(disk.used()));
        let failures = disk.failures();
        let mut dlq = open(&disk);
        assert!(disk.failures() > failures, "there was room");
        let states = |dlq: &mut FileDlq| {
            let letters = dlq.open_letters("a", None, 10).unwrap();
            letters.into_iter().map(|l| l.state).collect::<Vec<_>>()
        };
        assert_eq!(states(&mut dlq), [LetterState::Pending; 2]);
        let refused = dlq.append(&[letter("a", 3)]).unwrap_err();
        assert!(matches!(refused, DlqError::NoSpace { .. }), "{refused}");
        disk.set_capacity(None);
        dlq.set_state("a", id(1), LetterState::Delivered).unwrap();
        drop(dlq);
        disk.crash(1);
        let mut dlq = open(&disk);
        assert_eq!(states(&mut dlq), [LetterState::Pending]);
        assert_eq!(commits(dlq.reader()), [2]);
    }
}
