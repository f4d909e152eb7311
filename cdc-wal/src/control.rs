//! The control file: how far a log is flushed and written, for readers of other processes and
//! for recovery.

use std::path::Path;

use cdc_core::storage::{OpenMode, Storage, StorageFile, open_if_there, read_exact_at};

use crate::LogError;
use crate::format::{take, take_u32, take_u64};

pub(crate) const CONTROL: &str = "control";
const MAGIC: &[u8; 8] = b"WKCDCCTL";
const BYTES: usize = 64;

/// What the writer last published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) uuid: [u8; 16],
    pub(crate) epoch: u32,
    /// Everything below is durable.
    pub(crate) flushed: u64,
    /// Everything below was handed to the operating system.
    pub(crate) written: u64,
    /// Readers may read up to `written`.
    pub(crate) read_written: bool,
}

impl Control {
    /// Up to where readers may read.
    pub(crate) const fn visible(&self) -> u64 {
        if self.read_written {
            self.written
        } else {
            self.flushed
        }
    }

    pub(crate) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.uuid);
        bytes[32..40].copy_from_slice(&self.flushed.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.written.to_le_bytes());
        bytes[48..52].copy_from_slice(&u32::from(self.read_written).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..BYTES - 4]);
        bytes[BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; BYTES]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut rest = body;
        if &take::<8>(&mut rest)? != MAGIC || take_u32(&mut rest)? != 1 {
            return None;
        }
        Some(Self {
            epoch: take_u32(&mut rest)?,
            uuid: take(&mut rest)?,
            flushed: take_u64(&mut rest)?,
            written: take_u64(&mut rest)?,
            read_written: take_u32(&mut rest)? & 1 != 0,
        })
    }

    /// Reads what an open control file says; `None` if it says nothing valid (it may be half
    /// rewritten just now: read again).
    pub(crate) fn read(file: &dyn StorageFile) -> std::io::Result<Option<Self>> {
        let mut bytes = [0; BYTES];
        match read_exact_at(file, &mut bytes, 0) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            result => result.map(|()| Self::decode(&bytes)),
        }
    }

    /// Reads the control file of a directory, if there is a valid one.
    pub(crate) fn load(storage: &dyn Storage, dir: &Path) -> Result<Option<Self>, LogError> {
        let path = dir.join(CONTROL);
        let io = |cause| LogError::io("read the log's control file", &path, cause);
        let Some(file) = open_if_there(storage, &path, OpenMode::Read).map_err(io)? else {
            return Ok(None);
        };
        Self::read(file.as_ref()).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use cdc_core::testing::sim_storage::SimStorage;

    use super::*;

    #[test]
    fn a_control_file_that_cannot_be_looked_at_for_a_moment_is_not_taken_for_none() {
        let (disk, dir) = (SimStorage::new(), Path::new("/log"));
        assert_eq!(Control::load(&disk, dir).unwrap(), None);
        let control = Control {
            uuid: [7; 16],
            epoch: 1,
            flushed: 5,
            written: 6,
            read_written: false,
        };
        let file = disk.open(&dir.join(CONTROL), OpenMode::CreateNew).unwrap();
        file.write_all_at(&control.encode(), 0).unwrap();
        disk.fail_look_after(0);
        Control::load(&disk, dir).unwrap_err();
        assert_eq!(Control::load(&disk, dir).unwrap(), Some(control));
    }
}
