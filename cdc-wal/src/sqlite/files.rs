//! Descriptors of the database and its `-shm` file.
//!
//! POSIX locks belong to a process and a file: closing *any* descriptor of a file drops all locks
//! the process has on it, those of SQLite's connections too. So each file is opened once in this
//! process, shared by all who follow it, and closed only when nobody does, after their connections
//! (see the order of fields in `pins`). The `-wal` file is never locked: it needs none of this.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A file's identity on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    /// The file that has this name now.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

static OPEN: Mutex<Option<HashMap<FileId, Weak<File>>>> = Mutex::new(None);

/// Opens a file for reading, or shares the descriptor this process has of it.
pub(crate) fn open(path: &Path) -> io::Result<(FileId, Arc<File>)> {
    let mut guard = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = guard.get_or_insert_default();
    open.retain(|_, file| file.strong_count() > 0);
    let id = FileId::of(path)?;
    if let Some(file) = open.get(&id).and_then(Weak::upgrade) {
        return Ok((id, file));
    }
    let file = Arc::new(File::open(path)?);
    let found = file.metadata()?;
    // It may have been replaced between the two looks.
    let id = FileId {
        device: found.dev(),
        inode: found.ino(),
    };
    open.insert(id, Arc::downgrade(&file));
    Ok((id, file))
}

/// File systems of other machines: SQLite's shared memory does not reach across.
const REMOTE: [&str; 18] = [
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
    "sshfs",
];

/// The name of the file system a path lies on, if other machines may write there.
pub(crate) fn remote(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    // Where this is not there, it cannot be told.
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let kind = file_system(&mounts, path.to_str()?)?;
    let plain = kind.strip_prefix("fuse.").unwrap_or(&kind);
    REMOTE.contains(&plain).then_some(kind)
}

/// The type of the file system of a path, by Linux's list of mounts: the one that was mounted last
/// of those whose place is the longest beginning of the path.
fn file_system(mounts: &str, path: &str) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let (before, after) = line.split_once(" - ")?;
        let place = before.split(' ').nth(4)?;
        let place = unescape(place);
        let inside = place == "/"
            || path
                .strip_prefix(place.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if inside && best.is_none_or(|(length, _)| place.len() >= length) {
            best = Some((place.len(), after.split(' ').next()?));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// Blanks and the like stand as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                plain.push(char::from(code));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        23 22 0:20 / /srv/share rw - nfs4 host:/share rw,vers=4.2\n\
        24 22 0:21 / /srv/with\\040blank rw - fuse.sshfs me@host: rw\n\
        25 23 0:22 / /srv/share/local rw - tmpfs tmpfs rw\n";

    #[test]
    fn the_file_system_of_a_path_is_the_innermost_mount() {
        for (path, kind) in [
            ("/var/app.db", "ext4"),
            ("/srv/share/app.db", "nfs4"),
            ("/srv/shared/app.db", "ext4"),
            ("/srv/share/local/app.db", "tmpfs"),
            ("/srv/with blank/app.db", "fuse.sshfs"),
        ] {
            assert_eq!(file_system(MOUNTS, path).as_deref(), Some(kind), "{path}");
        }
        assert_eq!(file_system("nonsense", "/x"), None);
    }

    #[test]
    fn a_temporary_directory_is_here() {
        assert_eq!(remote(&std::env::temp_dir()), None);
    }
}
