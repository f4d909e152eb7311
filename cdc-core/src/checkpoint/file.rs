//! Checkpoints in one file of two slots, written in turn (`docs/formats/checkpoint.md`).
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | magic `WKCDCCP1` |
//! | 8..4096 | zero |
//! | 4096.. | slot A, then slot B, 65 536 bytes each |
//!
//! A slot is `generation u64 | body length u32 | body | crc32c u32`, little-endian; the CRC covers
//! all before it. The body is `entry count u16`, then per entry: `name length u8 | name | kind u8 |
//! source id 16 | timeline u32 | commit u64 | ordinal u32 | stored micros i64 | state length u16 |
//! state`. The valid slot of the highest generation holds; one in-place write and one sync store a
//! checkpoint, which on a preallocated file needs no metadata commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Checkpoint, CheckpointStore};
use crate::storage::{OpenMode, Storage, StorageFile, open_if_there, read_exact_at};
use crate::{CheckpointError, Lineage, Lsn, Position, SourceKind};

const MAGIC: &[u8; 8] = b"WKCDCCP1";
const HEADER_LEN: u64 = 4096;
const SLOT_LEN: usize = 65_536;
const SLOT_OVERHEAD: usize = 8 + 4 + 4;

/// Checkpoints of all emitters of one pipeline, in one file.
///
/// The directory's lock is the caller's: two stores on one file would overwrite each other.
#[derive(Debug)]
pub struct FileCheckpoints {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Box<dyn StorageFile>,
    generation: u64,
    entries: BTreeMap<String, Checkpoint>,
    dead: bool,
}

impl FileCheckpoints {
    /// Longest emitter name in bytes.
    pub const NAME_MAX: usize = 200;

    /// Opens or creates the file.
    ///
    /// # Errors
    /// [`CheckpointError::Corrupt`] if the file exists and neither slot is valid.
    pub fn open(
        storage: &Arc<dyn Storage>,
        path: impl Into<PathBuf>,
    ) -> Result<Self, CheckpointError> {
        let path = path.into();
        let io = |what, cause| CheckpointError::Io {
            what,
            path: path.display().to_string(),
            cause,
        };
        let there = open_if_there(storage.as_ref(), &path, OpenMode::ReadWrite);
        let file = match there.map_err(|cause| io("open", cause))? {
            Some(file) => file,
            None => {
                create(storage.as_ref(), &path).map_err(|cause| io("create", cause))?;
                let made = storage.open(&path, OpenMode::ReadWrite);
                made.map_err(|cause| io("open", cause))?
            }
        };
        let (generation, entries) = read(file.as_ref(), &path)?;
        // If the process before ended by a failed sync, the system may hold this slot as clean and
        // never write it. Written again, the sync is worth something, and so is what is built on it.
        let (slot, offset) = (encode(generation, &entries), slot_offset(generation));
        file.write_all_at(&slot, offset)
            .and_then(|()| file.sync_data())
            .map_err(|cause| io("store again", cause))?;
        // So it is with its name, if that process ended when it had created the file.
        storage
            .sync_dir(path.parent().unwrap_or(Path::new(".")))
            .map_err(|cause| io("make durable the name of", cause))?;
        let inner = Mutex::new(Inner {
            file,
            generation,
            entries,
            dead: false,
        });
        Ok(Self { path, inner })
    }

    /// Reads the checkpoints without opening the file for writing; for status commands beside a
    /// running process.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn peek(
        storage: &dyn Storage,
        path: &Path,
    ) -> Result<Vec<(String, Checkpoint)>, CheckpointError> {
        let io = |cause| CheckpointError::Io {
            what: "open",
            path: path.display().to_string(),
            cause,
        };
        let file = storage.open(path, OpenMode::Read).map_err(io)?;
        Ok(read(file.as_ref(), path)?.1.into_iter().collect())
    }

    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Checkpoint>) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let path = || self.path.display().to_string();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.dead {
            return Err(CheckpointError::Dead { path: path() });
        }
        let mut entries = inner.entries.clone();
        change(&mut entries)?;
        let generation = inner.generation + 1;
        let slot = encode(generation, &entries);
        if slot.len() > SLOT_LEN {
            return Err(CheckpointError::TooLarge {
                path: path(),
                len: slot.len(),
                max: SLOT_LEN,
            });
        }
        let offset = slot_offset(generation);
        let stored = inner
            .file
            .write_all_at(&slot, offset)
            .and_then(|()| inner.file.sync_data());
        if let Err(cause) = stored {
            // What reached the disk is unknown; the other slot still holds the old state.
            inner.dead = true;
            return Err(CheckpointError::Io {
                what: "store",
                path: path(),
                cause,
            });
        }
        inner.generation = generation;
        inner.entries = entries;
        Ok(())
    }
}

impl CheckpointStore for FileCheckpoints {
    fn load(&self, emitter: &str) -> Result<Option<Checkpoint>, CheckpointError> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(inner.entries.get(emitter).cloned())
    }

    fn advance(&self, emitter: &str, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        fits(emitter, checkpoint)?;
        self.change(|entries| {
            if let Some(stored) = entries.get(emitter) {
                if stored.lineage != checkpoint.lineage {
                    return Err(CheckpointError::OtherLineage {
                        emitter: emitter.to_owned(),
                        asked: checkpoint.lineage.to_string(),
                        stored: stored.lineage.to_string(),
                    });
                }
                if stored.position > checkpoint.position {
                    return Err(CheckpointError::Backwards {
                        emitter: emitter.to_owned(),
                        asked: checkpoint.position,
                        stored: stored.position,
                    });
                }
            }
            entries.insert(emitter.to_owned(), checkpoint.clone());
            Ok(())
        })
    }

    fn reset(&self, emitter: &str, checkpoint: Option<&Checkpoint>) -> Result<(), CheckpointError> {
        if let Some(checkpoint) = checkpoint {
            fits(emitter, checkpoint)?;
        }
        self.change(|entries| {
            match checkpoint {
                Some(checkpoint) => entries.insert(emitter.to_owned(), checkpoint.clone()),
                None => entries.remove(emitter),
            };
            Ok(())
        })
    }

    fn list(&self) -> Result<Vec<(String, Checkpoint)>, CheckpointError> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(inner
            .entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.clone()))
            .collect())
    }
}

/// Refuses what a slot has no room for: cut off, another emitter would be found by its name, or half a
/// state be given back.
fn fits(emitter: &str, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let limits = [
        ("name", emitter.len(), FileCheckpoints::NAME_MAX),
        ("state", checkpoint.state.len(), Checkpoint::STATE_MAX),
    ];
    match limits.into_iter().find(|(_, len, max)| len > max) {
        None => Ok(()),
        Some((what, len, max)) => Err(CheckpointError::TooLong {
            emitter: emitter.to_owned(),
            what,
            len,
            max,
        }),
    }
}

const fn slot_offset(generation: u64) -> u64 {
    HEADER_LEN + generation % 2 * SLOT_LEN as u64
}

/// Creates the file whole under another name, so that a crash leaves none or a valid one.
fn create(storage: &dyn Storage, path: &Path) -> std::io::Result<()> {
    let mut bytes = vec![0; usize::try_from(HEADER_LEN).unwrap_or_default() + 2 * SLOT_LEN];
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    let slot = encode(0, &BTreeMap::new());
    let at = usize::try_from(HEADER_LEN).unwrap_or_default();
    bytes[at..at + slot.len()].copy_from_slice(&slot);
    crate::storage::replace_file(storage, path, &bytes)
}

fn read(
    file: &dyn StorageFile,
    path: &Path,
) -> Result<(u64, BTreeMap<String, Checkpoint>), CheckpointError> {
    let io = |cause| CheckpointError::Io {
        what: "read",
        path: path.display().to_string(),
        cause,
    };
    let corrupt = |what: &str| CheckpointError::Corrupt {
        path: path.display().to_string(),
        what: what.to_owned(),
    };
    let mut magic = [0; MAGIC.len()];
    match read_exact_at(file, &mut magic, 0) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(corrupt("the file is too short"));
        }
        result => result.map_err(io)?,
    }
    if &magic != MAGIC {
        return Err(corrupt("this is not a checkpoint file of version 1"));
    }
    let mut best = None;
    let mut slot = vec![0; SLOT_LEN];
    for index in 0..2u64 {
        match read_exact_at(file, &mut slot, HEADER_LEN + index * SLOT_LEN as u64) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => continue,
            result => result.map_err(io)?,
        }
        if let Some((generation, entries)) = decode(&slot)
            && best.as_ref().is_none_or(|(g, _)| *g < generation)
        {
            best = Some((generation, entries));
        }
    }
    best.ok_or_else(|| corrupt("neither slot has a valid checksum"))
}

fn encode(generation: u64, entries: &BTreeMap<String, Checkpoint>) -> Vec<u8> {
    let mut body = Vec::new();
    let count = u16::try_from(entries.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&count.to_le_bytes());
    for (name, entry) in entries.iter().take(count.into()) {
        let (name, state) = (name.as_bytes(), &entry.state);
        body.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        body.extend_from_slice(name);
        body.push(entry.lineage.kind as u8);
        body.extend_from_slice(&entry.lineage.source_id);
        body.extend_from_slice(&entry.lineage.timeline.to_le_bytes());
        body.extend_from_slice(&entry.position.commit.0.to_le_bytes());
        body.extend_from_slice(&entry.position.ordinal.to_le_bytes());
        body.extend_from_slice(&entry.stored_micros.to_le_bytes());
        body.extend_from_slice(&u16::try_from(state.len()).unwrap_or(u16::MAX).to_le_bytes());
        body.extend_from_slice(state);
    }
    let mut slot = Vec::with_capacity(body.len() + SLOT_OVERHEAD);
    slot.extend_from_slice(&generation.to_le_bytes());
    slot.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    slot.extend_from_slice(&body);
    let crc = crc32c::crc32c(&slot);
    slot.extend_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, BTreeMap<String, Checkpoint>)> {
    let mut rest = slot;
    let generation = u64::from_le_bytes(take(&mut rest)?);
    let length = u32::from_le_bytes(take(&mut rest)?) as usize;
    let (mut body, tail) = rest.split_at_checked(length)?;
    let crc = u32::from_le_bytes(*tail.first_chunk()?);
    if crc32c::crc32c(&slot[..12 + length]) != crc {
        return None;
    }
    let count = u16::from_le_bytes(take(&mut body)?);
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let [name_len] = take(&mut body)?;
        let (name, after) = body.split_at_checked(name_len.into())?;
        body = after;
        let [kind] = take(&mut body)?;
        let lineage = Lineage::new(
            SourceKind::from_u8(kind)?,
            take(&mut body)?,
            u32::from_le_bytes(take(&mut body)?),
        );
        let commit = Lsn(u64::from_le_bytes(take(&mut body)?));
        let position = Position::new(commit, u32::from_le_bytes(take(&mut body)?));
        let stored_micros = i64::from_le_bytes(take(&mut body)?);
        let state_len = u16::from_le_bytes(take(&mut body)?);
        let (state, after) = body.split_at_checked(state_len.into())?;
        body = after;
        let state = Bytes::copy_from_slice(state);
        if name.len() > FileCheckpoints::NAME_MAX || state.len() > Checkpoint::STATE_MAX {
            return None;
        }
        let entry = Checkpoint {
            lineage,
            position,
            state,
            stored_micros,
        };
        entries.insert(std::str::from_utf8(name).ok()?.to_owned(), entry);
    }
    Some((generation, entries))
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*head)
}

/// A slot whose body is these bytes, under a checksum that fits: refused, or the same when it is
/// written again.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(body: &[u8]) {
    let body = &body[..body.len().min(SLOT_LEN - SLOT_OVERHEAD)];
    let mut slot = 3u64.to_le_bytes().to_vec();
    slot.extend_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
    slot.extend_from_slice(body);
    let crc = crc32c::crc32c(&slot);
    slot.extend_from_slice(&crc.to_le_bytes());
    if let Some((generation, entries)) = decode(&slot) {
        let again = decode(&encode(generation, &entries));
        assert!(again == Some((generation, entries)), "not the same twice");
    }
    let _raw = decode(body);
}

/// The body of a slot with two checkpoints.
#[cfg(test)]
pub(crate) fn fuzz_seed() -> Vec<u8> {
    let checkpoint = |state: &'static [u8]| Checkpoint {
        lineage: Lineage::new(SourceKind::Postgres, [7; 16], 2),
        position: Position::new(Lsn(0x1234), 5),
        state: Bytes::from_static(state),
        stored_micros: 9,
    };
    let entries = [("files", &b"state"[..]), ("hook", b"")];
    let entries = entries.map(|(name, state)| (name.to_owned(), checkpoint(state)));
    let slot = encode(1, &entries.into_iter().collect());
    slot[12..slot.len() - 4].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StdStorage;

    fn checkpoint(commit: u64) -> Checkpoint {
        Checkpoint {
            lineage: Lineage::new(SourceKind::Wal, [7; 16], 1),
            position: Position::end_of(Lsn(commit)),
            state: Bytes::from_static(b"state"),
            stored_micros: 5,
        }
    }

    #[test]
    fn survives_reopening_and_only_moves_forward() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        let storage = StdStorage::shared();
        let store = FileCheckpoints::open(&storage, &path).unwrap();
        assert_eq!(store.load("a").unwrap(), None);
        store.advance("a", &checkpoint(5)).unwrap();
        store.advance("b", &checkpoint(3)).unwrap();
        assert!(matches!(
            store.advance("a", &checkpoint(4)),
            Err(CheckpointError::Backwards { .. })
        ));
        let mut foreign = checkpoint(9);
        foreign.lineage.source_id = [8; 16];
        assert!(matches!(
            store.advance("a", &foreign),
            Err(CheckpointError::OtherLineage { .. })
        ));
        let again = FileCheckpoints::open(&storage, &path).unwrap();
        assert_eq!(again.load("a").unwrap(), Some(checkpoint(5)));
        assert_eq!(again.list().unwrap().len(), 2);
        again.reset("a", Some(&checkpoint(1))).unwrap();
        again.reset("b", None).unwrap();
        assert_eq!(
            FileCheckpoints::peek(&StdStorage, &path).unwrap(),
            vec![("a".to_owned(), checkpoint(1))]
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_and_nothing_changes() {
        let storage = crate::testing::sim_storage::SimStorage::new().shared();
        let store = FileCheckpoints::open(&storage, "/checkpoints").unwrap();
        store.advance("a", &checkpoint(5)).unwrap();
        let mut large = checkpoint(6);
        large.state = vec![7; Checkpoint::STATE_MAX].into();
        let longest = "n".repeat(FileCheckpoints::NAME_MAX);
        store.advance(&longest, &large).unwrap();
        let two = [
            (format!("{longest}n"), checkpoint(6)),
            ("a".to_owned(), {
                let mut larger = large.clone();
                larger.state = vec![7; Checkpoint::STATE_MAX + 1].into();
                larger
            }),
        ];
        for (name, checkpoint) in two {
            let refused = [
                store.advance(&name, &checkpoint),
                store.reset(&name, Some(&checkpoint)),
            ];
            for refused in refused {
                assert!(matches!(refused, Err(CheckpointError::TooLong { .. })));
            }
        }
        store.advance("b", &checkpoint(7)).unwrap();
        let found = FileCheckpoints::open(&storage, "/checkpoints").unwrap();
        let expected = [
            ("a", checkpoint(5)),
            ("b", checkpoint(7)),
            (&longest, large),
        ];
        let expected = expected.map(|(name, checkpoint)| (name.to_owned(), checkpoint));
        assert_eq!(found.list().unwrap(), expected);
    }

    #[test]
    fn what_was_read_after_a_failed_sync_survives_a_power_cut() {
        use crate::testing::sim_storage::{Failure, SimStorage};
        for seed in 0..20 {
            let disk = SimStorage::new();
            let storage = disk.shared();
            let store = FileCheckpoints::open(&storage, "/checkpoints").unwrap();
            store.advance("a", &checkpoint(5)).unwrap();
            disk.fail_after(1, Failure::Forget);
            store.advance("a", &checkpoint(6)).unwrap_err();
            drop(store);
            disk.kill();
            let store = FileCheckpoints::open(&storage, "/checkpoints").unwrap();
            let seen = store.load("a").unwrap().unwrap().position;
            disk.crash(seed);
            let store = FileCheckpoints::open(&storage, "/checkpoints").unwrap();
            assert!(store.load("a").unwrap().unwrap().position >= seen);
        }
    }

    #[test]
    fn a_file_that_cannot_be_looked_at_for_a_moment_is_not_made_anew() {
        use crate::testing::sim_storage::SimStorage;
        let mut refused = 0;
        loop {
            let disk = SimStorage::new();
            let storage = disk.shared();
            let store = FileCheckpoints::open(&storage, "/checkpoints").unwrap();
            store.advance("a", &checkpoint(5)).unwrap();
            drop(store);
            disk.fail_look_after(refused);
            let again = FileCheckpoints::open(&storage, "/checkpoints");
            disk.clear_failure();
            let ended = again.is_ok();
            drop(again);
            let store = FileCheckpoints::open(&storage, "/checkpoints").unwrap();
            assert_eq!(store.load("a").unwrap(), Some(checkpoint(5)), "{refused}");
            if ended {
                break;
            }
            refused += 1;
        }
        assert!(refused > 0);
    }

    #[test]
    fn a_torn_write_leaves_the_checkpoint_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        let storage = StdStorage::shared();
        let store = FileCheckpoints::open(&storage, &path).unwrap();
        store.advance("a", &checkpoint(5)).unwrap();
        store.advance("a", &checkpoint(6)).unwrap();
        drop(store);
        let whole = std::fs::read(&path).unwrap();
        // Generation 2 is in slot A. Damage each of its bytes in turn.
        let len = encode(2, &BTreeMap::from([("a".to_owned(), checkpoint(6))])).len();
        for at in 0..len {
            let mut torn = whole.clone();
            torn[4096 + at] ^= 0x55;
            std::fs::write(&path, &torn).unwrap();
            let position = FileCheckpoints::open(&storage, &path)
                .unwrap()
                .load("a")
                .unwrap();
            assert_eq!(position, Some(checkpoint(5)), "byte {at}");
        }
        std::fs::write(&path, vec![0; whole.len()]).unwrap();
        assert!(matches!(
            FileCheckpoints::open(&storage, &path),
            Err(CheckpointError::Corrupt { .. })
        ));
    }
}
