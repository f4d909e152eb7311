//! What is remembered between runs, in one small text file (`docs/formats/sqlite-state.md`).

use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::storage::{OpenMode, Storage, StorageLock, create_dir, read_exact_at, replace_file};
use cdc_core::{Lsn, SourceError, SourceErrorKind, wall_micros};

use super::files::FileId;
use super::format::{Checksum, Salts};

/// The state file's name.
const NAME: &str = "sqlite-source";
const HEAD: &str = "weftkit-cdc sqlite source 1";
/// The file is far below this.
const LENGTH_MAX: u64 = 4096;

/// How far a history is known to be durable downstream: what was streamed behind it may have to be
/// streamed again, from the shadow and the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The history's own number.
    pub(crate) id: [u8; 16],
    /// The database file.
    pub(crate) file: FileId,
    /// Bytes of a page.
    pub(crate) page_size: u32,
    /// Everything up to this commit is durable downstream, and the shadow is the database as of
    /// it: the log's generation, counted by us, in the upper half, the commit frame in the lower.
    pub(crate) position: Lsn,
    /// That generation's salts.
    pub(crate) salts: Salts,
    /// That frame's checksum.
    pub(crate) checksum: Checksum,
    /// Pages of the database then.
    pub(crate) count: u32,
    /// The shadow is being brought to this commit, if it is higher.
    pub(crate) folding: Lsn,
    /// A snapshot was begun at this position and is not durable yet.
    pub(crate) snapshot: bool,
    /// The machine's boot: across one, what was not synced may be gone.
    pub(crate) boot: [u8; 16],
}

/// The position of a commit frame.
pub(crate) fn commit_at(generation: u32, frame: u32) -> Lsn {
    Lsn(u64::from(generation) << 32 | u64::from(frame))
}

/// The generation and the commit frame of a position.
pub(crate) fn parts(commit: Lsn) -> (u32, u32) {
    let half = |n: u64| u32::try_from(n & 0xffff_ffff).unwrap_or(0);
    (half(commit.0 >> 32), half(commit.0))
}

/// The number of the next generation of the log.
pub(crate) fn next_generation(last: u32) -> Result<u32, SourceError> {
    last.checked_add(1).ok_or_else(|| {
        SourceError::new(
            SourceErrorKind::Unsupported,
            "count the generations of the log: there were more than 4294967295",
        )
    })
}

/// 128 random bits.
pub(crate) fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    for half in id.chunks_exact_mut(8) {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_i64(wall_micros());
        hasher.write_u32(std::process::id());
        half.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    id
}

/// This boot of the machine; zero where it cannot be told, which is taken for another boot.
pub(crate) fn boot_id() -> [u8; 16] {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| bytes(&text.trim().replace('-', "")))
        .unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (n, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(out)
}

fn encode(known: &Known) -> String {
    let Known {
        id,
        file,
        page_size,
        position,
        salts,
        checksum: Checksum(one, two),
        count,
        folding,
        snapshot,
        boot,
    } = known;
    let mut text = format!(
        "{HEAD}\nid {}\nfile {} {}\npage_size {page_size}\nposition {}\nsalts {}\nchecksum {one:08x}{two:08x}\npages {count}\nfolding {}\nsnapshot {}\nboot {}\n",
        hex(id),
        file.device,
        file.inode,
        position.0,
        hex(salts),
        folding.0,
        u8::from(*snapshot),
        hex(boot),
    );
    let sum = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "crc32c {sum:08x}");
    text
}

fn decode(text: &str) -> Option<Known> {
    let at = text.rfind("crc32c ")?;
    let (body, sum) = text.split_at_checked(at)?;
    let sum = u32::from_str_radix(sum.strip_prefix("crc32c ")?.trim_end(), 16).ok()?;
    if crc32c::crc32c(body.as_bytes()) != sum {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != HEAD {
        return None;
    }
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let id = bytes(field("id")?)?;
    let (device, inode) = field("file")?.split_once(' ')?;
    let file = FileId {
        device: device.parse().ok()?,
        inode: inode.parse().ok()?,
    };
    let page_size = field("page_size")?.parse().ok()?;
    let position = Lsn(field("position")?.parse().ok()?);
    let salts = bytes(field("salts")?)?;
    let sum = u64::from_str_radix(field("checksum")?, 16).ok()?;
    let (one, two) = parts(Lsn(sum));
    Some(Known {
        id,
        file,
        page_size,
        position,
        salts,
        checksum: Checksum(one, two),
        count: field("pages")?.parse().ok()?,
        folding: Lsn(field("folding")?.parse().ok()?),
        snapshot: field("snapshot")? == "1",
        boot: bytes(field("boot")?)?,
    })
}

/// Writes the state file.
#[derive(Clone, Debug)]
pub(crate) struct Saver {
    storage: Arc<dyn Storage>,
    path: PathBuf,
}

impl Saver {
    /// Remembers, durably.
    pub(crate) fn save(&self, known: &Known) -> Result<(), SourceError> {
        replace_file(self.storage.as_ref(), &self.path, encode(known).as_bytes())
            .map_err(|cause| failed("write", &self.path, cause))
    }
}

/// The state directory, locked for one source.
#[derive(Debug)]
pub(crate) struct StateDir {
    pub(crate) dir: PathBuf,
    pub(crate) saver: Saver,
    pub(crate) storage: Arc<dyn Storage>,
    _lock: Box<dyn StorageLock>,
}

impl StateDir {
    /// Opens the directory, or creates it.
    pub(crate) fn open(storage: &Arc<dyn Storage>, dir: &Path) -> Result<Self, SourceError> {
        let io = |cause: std::io::Error| {
            let kind = if cause.kind() == std::io::ErrorKind::WouldBlock {
                SourceErrorKind::InUse
            } else {
                SourceErrorKind::Io
            };
            let what = format!(
                "open the source's state in {}: {cause}; use another directory, or end the process that uses it",
                dir.display()
            );
            SourceError::new(kind, what).with_cause(cause)
        };
        create_dir(storage.as_ref(), dir).map_err(io)?;
        let lock = storage.lock(&dir.join("sqlite-source.lock")).map_err(io)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            saver: Saver {
                storage: storage.clone(),
                path: dir.join(NAME),
            },
            storage: storage.clone(),
            _lock: lock,
        })
    }

    /// What was remembered; `None` if nothing was.
    pub(crate) fn load(&self) -> Result<Option<Known>, SourceError> {
        load(self.storage.as_ref(), &self.saver.path)
    }
}

/// What is remembered in a directory, without its lock: for a look from beside.
pub(crate) fn remembered(storage: &dyn Storage, dir: &Path) -> Result<Option<Known>, SourceError> {
    load(storage, &dir.join(NAME))
}

fn load(storage: &dyn Storage, path: &Path) -> Result<Option<Known>, SourceError> {
    if !storage.exists(path) {
        return Ok(None);
    }
    let read = || -> std::io::Result<Vec<u8>> {
        let file = storage.open(path, OpenMode::Read)?;
        let length = file.len()?.min(LENGTH_MAX);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        read_exact_at(file.as_ref(), &mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|cause| failed("read", path, cause))?;
    let text = String::from_utf8_lossy(&bytes);
    match decode(&text) {
        Some(known) => Ok(Some(known)),
        None => Err(SourceError::new(
            SourceErrorKind::Corrupt,
            format!(
                "read the source's state {}: it is damaged or of a newer version; move it away and begin with a new snapshot",
                path.display()
            ),
        )),
    }
}

fn failed(verb: &str, path: &Path, cause: std::io::Error) -> SourceError {
    SourceError::new(
        SourceErrorKind::Io,
        format!(
            "{verb} the source's state {}: {cause}; check the disk",
            path.display()
        ),
    )
    .with_cause(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KNOWN: Known = Known {
        id: [0xab; 16],
        file: FileId {
            device: 2049,
            inode: 77,
        },
        page_size: 4096,
        position: Lsn(0x3_0000_0028),
        salts: [1, 2, 3, 4, 5, 6, 7, 8],
        checksum: Checksum(0xdead_beef, 7),
        count: 9,
        folding: Lsn(0),
        snapshot: true,
        boot: [9; 16],
    };

    /// Version 1, frozen.
    const TEXT: &str = "weftkit-cdc sqlite source 1\nid abababababababababababababababab\nfile 2049 77\npage_size 4096\nposition 12884901928\nsalts 0102030405060708\nchecksum deadbeef00000007\npages 9\nfolding 0\nsnapshot 1\nboot 09090909090909090909090909090909\ncrc32c ";

    #[test]
    fn version_one_stays_readable() {
        let text = encode(&KNOWN);
        assert!(text.starts_with(TEXT), "{text}");
        assert_eq!(decode(&text), Some(KNOWN));
    }

    proptest! {
        #[test]
        fn any_damage_is_seen(at in 0usize..200, bit in 0u8..7) {
            let mut bytes = encode(&KNOWN).into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                // Case of hexadecimal digits and the final newline say nothing.
                prop_assert!(decode(&text).is_none_or(|known| known == KNOWN));
            }
        }
    }
}
