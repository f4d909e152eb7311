//! Which log files were read, and what is added to their sequence numbers: what a position alone does
//! not say. Kept beside the journal; format: `docs/formats/rocksdb-state.md`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::storage::{OpenMode, Storage, create_dir, read_exact_at, replace_file};

use crate::{LogError, LogErrorKind};

/// Files that are remembered: the position that is resumed from is in the last one, or the one before
/// it.
const ENTERED_MAX: usize = 256;
/// More than the longest file.
const BYTES_MAX: u64 = 64 << 10;
const NAME: &str = "files";
const HEADER: &str = "weftkit-cdc rocksdb files 1";

/// A log file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entered {
    /// The number in its name.
    pub(super) number: u64,
    /// Where its first change is in the stream.
    pub(super) first: u64,
    /// What is added to its sequence numbers, since RocksDB gave numbers before it a second time.
    pub(super) shift: u64,
}

/// The files that were read last, oldest first.
#[derive(Debug)]
pub(super) struct Remembered {
    storage: Arc<dyn Storage>,
    /// None: for this process only.
    path: Option<PathBuf>,
    id: [u8; 16],
    files: Vec<Entered>,
}

impl Remembered {
    /// What is remembered of the database with this identity; nothing of another one's.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        dir: Option<&Path>,
        id: [u8; 16],
    ) -> Result<Self, LogError> {
        let mut remembered = Self {
            storage,
            path: dir.map(|dir| dir.join(NAME)),
            id,
            files: Vec::new(),
        };
        let Some(path) = remembered.path.clone() else {
            return Ok(remembered);
        };
        if let Some(dir) = dir {
            let made = create_dir(remembered.storage.as_ref(), dir);
            made.map_err(|cause| LogError::io("create the folder", dir, cause))?;
        }
        if !remembered.storage.exists(&path) {
            return Ok(remembered);
        }
        let bytes = read(remembered.storage.as_ref(), &path)
            .map_err(|cause| LogError::io("read", &path, cause))?;
        let (of, files) = decode(&bytes).ok_or_else(|| {
            LogError::new(
                LogErrorKind::Corrupt,
                format!(
                    "read {}: it is damaged. It says which RocksDB log files were read; without it a number \
                     that RocksDB gave twice cannot be told apart. Copy the data again, and start with a \
                     new state directory",
                    path.display()
                ),
            )
        })?;
        if of == id {
            remembered.files = files;
        }
        Ok(remembered)
    }

    /// The file with this place of the stream, or that had the last one before it; and the file behind
    /// it.
    pub(super) fn find(&self, at: u64) -> Option<(Entered, Option<Entered>)> {
        let behind = self.files.partition_point(|file| file.first <= at);
        let found = *self.files.get(behind.checked_sub(1)?)?;
        Some((found, self.files.get(behind).copied()))
    }

    /// The oldest file that is remembered.
    pub(super) fn oldest(&self) -> Option<Entered> {
        self.files.first().copied()
    }

    /// Notes, durably, that a file is read from here on, instead of what was noted of it and of later
    /// ones.
    pub(super) fn enter(&mut self, file: Entered) -> Result<(), LogError> {
        if self.files.contains(&file) {
            return Ok(());
        }
        self.files
            .retain(|known| known.number < file.number && known.first < file.first);
        if self.files.len() >= ENTERED_MAX {
            self.files.remove(0);
        }
        self.files.push(file);
        let Some(path) = &self.path else {
            return Ok(());
        };
        replace_file(self.storage.as_ref(), path, &encode(self.id, &self.files))
            .map_err(|cause| LogError::io("write", path, cause))
    }
}

fn read(storage: &dyn Storage, path: &Path) -> std::io::Result<Vec<u8>> {
    let file = storage.open(path, OpenMode::Read)?;
    let length = usize::try_from(file.len()?.min(BYTES_MAX)).unwrap_or(0);
    let mut bytes = vec![0; length];
    read_exact_at(file.as_ref(), &mut bytes, 0)?;
    Ok(bytes)
}

fn encode(id: [u8; 16], files: &[Entered]) -> Vec<u8> {
    let mut text = format!("{HEADER}\n{:032x}\n", u128::from_be_bytes(id));
    for file in files {
        let _infallible = writeln!(text, "{} {} {}", file.number, file.first, file.shift);
    }
    let crc = crc32c::crc32c(text.as_bytes());
    let _infallible = writeln!(text, "crc32c {crc:08x}");
    text.into_bytes()
}

fn decode(bytes: &[u8]) -> Option<([u8; 16], Vec<Entered>)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, crc) = text.rsplit_once("crc32c ")?;
    let crc = u32::from_str_radix(crc.strip_suffix('\n')?, 16).ok()?;
    if crc != crc32c::crc32c(body.as_bytes()) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let id = u128::from_str_radix(lines.next()?, 16).ok()?;
    let mut files = Vec::new();
    for line in lines {
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let mut number = || numbers.next()?.ok();
        files.push(Entered {
            number: number()?,
            first: number()?,
            shift: number()?,
        });
    }
    Some((id.to_be_bytes(), files))
}

#[cfg(test)]
mod tests {
    use cdc_core::testing::sim_storage::SimStorage;

    use super::*;

    const DIR: &str = "/state/rocksdb";

    fn open(disk: &SimStorage, id: [u8; 16]) -> Result<Remembered, LogError> {
        Remembered::open(disk.shared(), Some(Path::new(DIR)), id)
    }

    fn file(number: u64, first: u64, shift: u64) -> Entered {
        Entered {
            number,
            first,
            shift,
        }
    }

    #[test]
    fn version_one_stays_readable() {
        let text = "weftkit-cdc rocksdb files 1\n000102030405060708090a0b0c0d0e0f\n4 1 0\n11 23 2\ncrc32c 64c116fc\n";
        let id = std::array::from_fn(|n| u8::try_from(n).expect("small"));
        let files = vec![file(4, 1, 0), file(11, 23, 2)];
        assert_eq!(String::from_utf8(encode(id, &files)).as_deref(), Ok(text));
        assert_eq!(decode(text.as_bytes()), Some((id, files)));
    }

    #[test]
    fn a_place_is_in_the_last_file_that_begins_at_or_before_it_also_after_a_restart() {
        let disk = SimStorage::new();
        let mut files = open(&disk, [1; 16]).unwrap();
        for entered in [file(4, 10, 0), file(7, 20, 3), file(9, 30, 3)] {
            files.enter(entered).unwrap();
        }
        let files = open(&disk, [1; 16]).unwrap();
        let at = |at| {
            files
                .find(at)
                .map(|(found, next)| (found.number, next.map(|next| next.number)))
        };
        assert_eq!(at(9), None);
        assert_eq!(at(10), Some((4, Some(7))));
        // The end of file 4: nothing of file 7 was read.
        assert_eq!(at(19), Some((4, Some(7))));
        assert_eq!(at(20), Some((7, Some(9))));
        assert_eq!(at(1000), Some((9, None)));
        // Read again from file 7 on, since what was read behind it did not get on disk.
        let mut files = files;
        files.enter(file(7, 21, 3)).unwrap();
        assert_eq!(
            open(&disk, [1; 16]).unwrap().files,
            [file(4, 10, 0), file(7, 21, 3)]
        );
        // Another database's are not this one's.
        assert_eq!(open(&disk, [2; 16]).unwrap().files, []);
    }

    #[test]
    fn there_is_a_bound_and_damage_is_found() {
        let disk = SimStorage::new();
        let mut files = open(&disk, [1; 16]).unwrap();
        for number in 1..=1000 {
            files
                .enter(file(
                    u64::MAX - 1000 + number,
                    u64::MAX - 1000 + number,
                    u64::MAX,
                ))
                .unwrap();
        }
        let again = open(&disk, [1; 16]).unwrap();
        assert_eq!(again.files.len(), ENTERED_MAX);
        assert_eq!(again.files, files.files);
        let path = Path::new(DIR).join(NAME);
        let length = disk.open(&path, OpenMode::Read).unwrap().len().unwrap();
        for at in (0..length).step_by(97) {
            disk.damage(&path, at, |byte| byte ^ 2).unwrap();
            let error = open(&disk, [1; 16]).expect_err("damaged");
            assert_eq!(error.kind, LogErrorKind::Corrupt, "{error}");
            disk.damage(&path, at, |byte| byte ^ 2).unwrap();
        }
    }
}
