//! Named cursors: who still needs which part of the log.

use std::collections::BTreeMap;
use std::path::Path;

use cdc_core::storage::{OpenMode, Storage, open_if_there, read_exact_at};
use cdc_core::{Lsn, Position};

use crate::format::{take, take_text, take_u16, take_u32, take_u64};
use crate::{LogError, LogErrorKind};

/// The cursors' file.
pub(crate) const FILE: &str = "cursors";
const MAGIC: &[u8; 8] = b"WKCDCCUR";
/// Longest name of a cursor in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 200;
/// Most cursors of one log.
pub(crate) const CURSORS_MAX: usize = 1024;

/// One cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Everything up to this is done.
    pub position: Position,
    /// It held back more than `retain_bytes_max` and lost its claim.
    pub invalidated: bool,
}

/// All cursors of a log, and their file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursors {
    pub(crate) entries: BTreeMap<String, Cursor>,
}

impl Cursors {
    pub(crate) fn load(storage: &dyn Storage, dir: &Path) -> Result<Self, LogError> {
        let path = dir.join(FILE);
        let io = |cause| LogError::io("read the log's cursors", &path, cause);
        let Some(file) = open_if_there(storage, &path, OpenMode::Read).map_err(io)? else {
            return Ok(Self::default());
        };
        let longest = 64 + CURSORS_MAX * (NAME_BYTES_MAX + 32);
        let len = usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX);
        let corrupt = || {
            LogError::new(
                LogErrorKind::Corrupt,
                format!(
                    "read the log's cursors {}: the file is damaged; restore it, or remove it to trim by retain_bytes alone",
                    path.display()
                ),
            )
        };
        if len > longest {
            return Err(corrupt());
        }
        let mut bytes = vec![0; len];
        read_exact_at(file.as_ref(), &mut bytes, 0).map_err(io)?;
        decode(&bytes).ok_or_else(corrupt)
    }

    pub(crate) fn store(&self, storage: &dyn Storage, dir: &Path) -> Result<(), LogError> {
        let path = dir.join(FILE);
        cdc_core::storage::replace_file(storage, &path, &self.encode())
            .map_err(|cause| LogError::io("write the log's cursors", &path, cause))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&1u32.to_le_bytes());
        let count = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&count.to_le_bytes());
        for (name, cursor) in self.entries.iter().take(count.into()) {
            // Names were bounded when they were registered, so this cannot fail.
            let _ = crate::format::put_text(&mut bytes, name);
            bytes.extend_from_slice(&cursor.position.commit.0.to_le_bytes());
            bytes.extend_from_slice(&cursor.position.ordinal.to_le_bytes());
            bytes.push(u8::from(cursor.invalidated));
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }
}

fn decode(bytes: &[u8]) -> Option<Cursors> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rest = body;
    if &take::<8>(&mut rest)? != MAGIC || take_u32(&mut rest)? != 1 {
        return None;
    }
    let mut entries = BTreeMap::new();
    for _ in 0..take_u16(&mut rest)? {
        let name = take_text(&mut rest)?.to_owned();
        let position = Position::new(Lsn(take_u64(&mut rest)?), take_u32(&mut rest)?);
        let invalidated = take::<1>(&mut rest)?[0] != 0;
        entries.insert(
            name,
            Cursor {
                position,
                invalidated,
            },
        );
    }
    rest.is_empty().then_some(Cursors { entries })
}

#[cfg(test)]
mod tests {
    use cdc_core::testing::sim_storage::SimStorage;

    use super::*;
    use crate::{Log, LogConfig};

    #[test]
    fn cursors_that_cannot_be_looked_at_for_a_moment_are_not_forgotten() {
        let mut refused = 0;
        loop {
            let disk = SimStorage::new();
            let open = || {
                Log::open(LogConfig {
                    segment_bytes: 64 << 10,
                    background: false,
                    storage: disk.shared(),
                    ..LogConfig::new("/log")
                })
            };
            let log = open().unwrap();
            log.register_cursor("one", Position::ZERO).unwrap();
            drop(log);
            disk.fail_look_after(refused);
            let before = disk.failures();
            // Another one's stores them all.
            if let Ok(log) = open() {
                log.register_cursor("two", Position::ZERO).unwrap();
            }
            let failed = disk.failures() > before;
            disk.clear_failure();
            let log = open().unwrap();
            assert!(log.cursors().contains_key("one"), "look {refused}");
            if !failed {
                break;
            }
            refused += 1;
        }
        assert!(refused > 3, "{refused}");
    }
}
