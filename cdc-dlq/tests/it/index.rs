//! Opening is work on the index beside ended segments, not on what letters hold.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cdc_core::storage::{OpenMode, Storage, StorageFile, StorageLock};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{DeadLetter, DeadLetterQueue, DlqError, LetterState};
use cdc_dlq::{DlqOptions, DlqReader, FileDlq};

use crate::sample::{PATH, SMALL, commits, id, letter, open};

/// Counts the bytes that are read.
#[derive(Debug)]
struct Counting {
    disk: Arc<dyn Storage>,
    read: Arc<AtomicU64>,
}

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn StorageFile>,
    read: Arc<AtomicU64>,
}

impl Storage for Counting {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(CountingFile {
            file: self.disk.open(path, mode)?,
            read: self.read.clone(),
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

impl StorageFile for CountingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, offset)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
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

/// A letter whose event is this much larger.
fn heavy(commit: u64, bytes: usize) -> DeadLetter {
    let mut heavy = letter("a", commit);
    let row = cdc_core::testing::row(7, &"x".repeat(bytes), "1.50");
    heavy.event.after = cdc_core::Image::Full(row);
    heavy
}

/// Bytes read to open a queue of this many letters, as a writer and as a reader.
fn opening(letters: u64, bytes: usize) -> (u64, u64) {
    let disk = SimStorage::new();
    let options = DlqOptions {
        letters_max: 1_000_000,
        bytes_max: 256 << 20,
        segment_bytes: 1 << 20,
    };
    let mut dlq = FileDlq::open(disk.shared(), PATH, options).unwrap();
    for first in (0..letters).step_by(50) {
        let some: Vec<_> = (first..first + 50).map(|n| heavy(n + 1, bytes)).collect();
        dlq.append(&some).unwrap();
    }
    // What was not ended yet is read in full, whatever its letters hold: begin another segment.
    while dlq.reader().stats().bytes % (1 << 20) > 1 << 19 {
        dlq.append(&[heavy(letters + dlq.reader().len() as u64, bytes)])
            .unwrap();
    }
    let segments = dlq.reader().stats().segments;
    assert!(segments > 2, "{segments}");
    drop(dlq);
    let read = Arc::new(AtomicU64::new(0));
    let counting = Counting {
        disk: disk.shared(),
        read: read.clone(),
    };
    let reader = DlqReader::open(&counting, PATH).unwrap();
    assert!(reader.len() as u64 >= letters);
    let as_reader = read.swap(0, Ordering::Relaxed);
    drop(reader);
    drop(FileDlq::open(Arc::new(counting), PATH, options).unwrap());
    (read.load(Ordering::Relaxed), as_reader)
}

#[test]
fn opening_reads_the_index_and_not_what_letters_hold() {
    const LETTERS: u64 = 5_000;
    // 20 MiB of rows, in segments of a MiB.
    let (writer, reader) = opening(LETTERS, 4_000);
    // The index takes 42 bytes a letter; the last segment, at most a MiB and an append, is read.
    let most = LETTERS * 50 + (1 << 20) + (1 << 19);
    assert!(writer < 2 * most && reader < most, "{writer}, {reader}");
}

fn filled() -> (SimStorage, Vec<(String, u64)>, Vec<u64>) {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    for commit in 1..60 {
        dlq.append(&[letter("a", commit)]).unwrap();
        if commit % 3 == 0 {
            dlq.set_state("a", id(commit - 1), LetterState::Discarded)
                .unwrap();
        }
    }
    let found = commits(dlq.reader());
    drop(dlq);
    let files = crate::sample::segments(&disk.shared(), Path::new(PATH));
    assert!(files.len() >= 3);
    (disk, files, found)
}

fn index_of(segment: &str) -> std::path::PathBuf {
    Path::new(PATH).join(segment.replace(".dlq", ".idx"))
}

#[test]
fn the_index_says_what_the_segments_say() {
    let (disk, files, found) = filled();
    let with = DlqReader::open(&disk, PATH).unwrap();
    assert_eq!(commits(&with), found);
    for (name, _) in &files[..files.len() - 1] {
        assert!(disk.exists(&index_of(name)), "{name}");
        disk.remove(&index_of(name)).unwrap();
    }
    let without = DlqReader::open(&disk, PATH).unwrap();
    assert_eq!(without.stats(), with.stats());
    assert_eq!(without.counts(), with.counts());
    // A reader changes nothing; the next writer makes them again.
    assert!(!disk.exists(&index_of(&files[0].0)));
    assert_eq!(open(&disk).reader().stats(), with.stats());
    assert!(disk.exists(&index_of(&files[0].0)));
    let again = DlqReader::open(&disk, PATH).unwrap();
    assert_eq!(again.stats(), with.stats());
}

#[test]
fn an_index_that_is_damaged_or_of_something_else_is_none() {
    let (whole, files, found) = filled();
    let bytes = {
        let file = whole.open(&index_of(&files[0].0), OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        cdc_core::storage::read_exact_at(file.as_ref(), &mut bytes, 0).unwrap();
        bytes
    };
    let replace = |disk: &SimStorage, name: &str, bytes: &[u8]| {
        disk.remove(&index_of(name)).unwrap();
        let file = disk.open(&index_of(name), OpenMode::CreateNew).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    };
    for length in [0, 7, bytes.len() / 2, bytes.len() - 1] {
        let (disk, ..) = filled();
        replace(&disk, &files[0].0, &bytes[..length]);
        assert_eq!(
            commits(&DlqReader::open(&disk, PATH).unwrap()),
            found,
            "{length}"
        );
    }
    for at in (0..bytes.len() as u64).step_by(11) {
        let (disk, ..) = filled();
        disk.damage(&index_of(&files[0].0), at, |byte| byte ^ 1)
            .unwrap();
        assert_eq!(commits(open(&disk).reader()), found, "{at}");
    }
    // The index of another segment in its place.
    let (disk, ..) = filled();
    replace(&disk, &files[1].0, &bytes);
    assert_eq!(commits(open(&disk).reader()), found);
}

/// A letter that was damaged is found when it is read; a segment that was cut, at once.
#[test]
fn damage_behind_an_index_is_still_found() {
    let (disk, files, _) = filled();
    let first = Path::new(PATH).join(&files[0].0);
    disk.damage(&first, 24 + 60, |byte| !byte).unwrap();
    let mut dlq = open(&disk);
    let refused = dlq.open_letters("a", None, 100).unwrap_err();
    let DlqError::Corrupt { path, offset, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!((Path::new(&path), offset), (first.as_path(), 24));
    drop(dlq);

    let (disk, files, _) = filled();
    let file = disk.open(&first, OpenMode::ReadWrite).unwrap();
    file.set_len(files[0].1 - 1).unwrap();
    let refused = FileDlq::open(disk.shared(), PATH, SMALL).unwrap_err();
    assert!(matches!(refused, DlqError::Corrupt { .. }), "{refused}");
    // The same length, another end.
    let (disk, files, _) = filled();
    disk.damage(&first, files[0].1 - 1, |byte| !byte).unwrap();
    let dlq = FileDlq::open(disk.shared(), PATH, SMALL).unwrap();
    assert!(
        dlq.reader()
            .export(&cdc_dlq::LetterFilter::default(), &mut Vec::new())
            .is_err()
    );
}

/// The process died between ending a segment and beginning the next: what it goes on to write is
/// not in the index that was there.
#[test]
fn a_segment_that_is_appended_to_again_has_no_index() {
    let (disk, files, _) = filled();
    let last = &files[files.len() - 1].0;
    // As if every segment but the first were gone: the first is appended to again.
    for (name, _) in &files[1..] {
        disk.remove(&Path::new(PATH).join(name)).unwrap();
    }
    assert!(!disk.exists(&index_of(last)));
    let mut dlq = open(&disk);
    assert!(!disk.exists(&index_of(&files[0].0)));
    dlq.append(&[letter("a", 900)]).unwrap();
    assert!(commits(dlq.reader()).contains(&900));
    drop(dlq);
    assert!(commits(open(&disk).reader()).contains(&900));
}

/// Finished segments take their index with them.
#[test]
fn no_index_is_left_behind() {
    let (disk, _, found) = filled();
    let mut dlq = open(&disk);
    for commit in found {
        dlq.set_state("a", id(commit), LetterState::Delivered)
            .unwrap();
    }
    assert_eq!(dlq.reader().stats().segments, 1);
    let names = disk.list(Path::new(PATH)).unwrap();
    assert!(
        names.iter().all(|name| !name.ends_with(".idx")),
        "{names:?}"
    );
}
