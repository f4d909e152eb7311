//! What a database says about itself in its own files: who it is (`IDENTITY`), the names of its column
//! families and its last sequence number (`MANIFEST-*`, which `CURRENT` names; format:
//! `db/version_edit.cc`, as of 7.8), their merge operators (`OPTIONS-*`). None needs RocksDB.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use cdc_core::storage::{OpenMode, Storage, StorageFile, read_exact_at};

use super::records::FileRecords;
use super::{Families, read_error};
use crate::kinds::key_value::Family;
use crate::{LogError, LogErrorKind};

/// Largest text file that is read: `OPTIONS` has a few kilobytes for each family.
const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Column families a database may have here.
const FAMILIES_MAX: usize = 65_536;
/// How often a file that is replaced while it is read is looked at again.
const ATTEMPTS: usize = 5;

/// Of a database, as of when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Names by number.
    pub(super) families: BTreeMap<u32, String>,
    /// The last sequence number that reached the tables, or that was noted otherwise; the log may have
    /// later ones.
    pub(super) last_sequence: u64,
}

/// The 128 bits of the database's own identity.
pub(super) fn identity(storage: &dyn Storage, dir: &Path) -> Result<[u8; 16], LogError> {
    let path = dir.join("IDENTITY");
    let text = text(storage, &path).map_err(|error| no_database(dir, error))?;
    let hex: Vec<u8> = text
        .bytes()
        .filter_map(|byte| char::from(byte).to_digit(16))
        .filter_map(|digit| u8::try_from(digit).ok())
        .collect();
    let id: Vec<u8> = hex
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect();
    <[u8; 16]>::try_from(id.as_slice()).map_err(|_| {
        LogError::new(
            LogErrorKind::Corrupt,
            format!(
                "read {}: it is no identity of 32 hexadecimal digits",
                path.display()
            ),
        )
    })
}

/// Reads the manifest that is valid now.
pub(super) fn manifest(storage: &dyn Storage, dir: &Path) -> Result<Manifest, LogError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let current =
            text(storage, &dir.join("CURRENT")).map_err(|error| no_database(dir, error))?;
        let path = dir.join(current.trim_end());
        match storage.open(&path, OpenMode::Read) {
            Ok(file) => {
                let mut records = FileRecords::new(file, 0);
                let mut manifest = Manifest::default();
                manifest.families.insert(0, "default".to_owned());
                loop {
                    let next = records.next();
                    let at = records.at();
                    match next.map_err(|error| read_error(&path, at, error))? {
                        Some(edit) => manifest.apply(&edit),
                        None => return Ok(manifest),
                    }
                    if manifest.families.len() > FAMILIES_MAX {
                        return Err(LogError::new(
                            LogErrorKind::TooLarge,
                            format!(
                                "read {}: more than {FAMILIES_MAX} column families",
                                path.display()
                            ),
                        ));
                    }
                }
            }
            // Replaced since `CURRENT` was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
            Err(cause) => return Err(LogError::io("open the RocksDB manifest", &path, cause)),
        }
    }
}

impl Manifest {
    /// Takes what is needed of one edit. A tag that is not known ends it: the numbers come first, and the
    /// edit that adds a family has nothing else.
    pub(super) fn apply(&mut self, edit: &[u8]) {
        let mut rest = edit;
        let (mut family, mut added) = (0, None);
        while let Some(tag) = varint(&mut rest) {
            let known = match tag {
                4 => {
                    varint(&mut rest).map(|last| self.last_sequence = self.last_sequence.max(last))
                }
                2 | 3 | 9 | 10 | 203 | 300 => varint(&mut rest).map(drop),
                200 => varint(&mut rest).map(|number| family = number),
                201 => slice(&mut rest).map(|name| added = Some(name)),
                202 => Some(()),
                1 => slice(&mut rest).map(drop),
                5 => varint(&mut rest).and_then(|_| slice(&mut rest)).map(drop),
                6 => varint(&mut rest).and_then(|_| varint(&mut rest)).map(drop),
                tag if tag & 8192 != 0 => slice(&mut rest).map(drop),
                _ => None,
            };
            if known.is_none() {
                break;
            }
        }
        // A dropped family keeps its name: the log may still have changes of it.
        if let (Some(name), Ok(number)) = (added, u32::try_from(family)) {
            let name = String::from_utf8_lossy(name).into_owned();
            self.families.insert(number, name);
        }
    }

    /// The families with their names, for events of an instance of this name.
    pub(super) fn families(&self, instance: &str, operators: &HashMap<String, String>) -> Families {
        let unknown = String::from("unknown");
        self.families
            .iter()
            .fold(Families::new(), |families, (number, name)| {
                let operator = operators.get(name).unwrap_or(&unknown);
                families.with(*number, &Family::new(instance, name), operator)
            })
    }
}

/// What the newest options file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Merge operators by the names of their families.
    pub(super) operators: HashMap<String, String>,
    /// `WAL_ttl_seconds` and `WAL_size_limit_MB`; `None` without a file.
    pub(super) kept: Option<[u64; 2]>,
}

/// Reads the newest options file; nothing without one.
pub(super) fn options(storage: &dyn Storage, dir: &Path) -> Result<Options, LogError> {
    let names = storage
        .list(dir)
        .map_err(|cause| LogError::io("list the RocksDB directory", dir, cause))?;
    let number = |name: &String| name.strip_prefix("OPTIONS-")?.parse::<u64>().ok();
    let newest = names
        .iter()
        .filter_map(|name| Some((number(name)?, name)))
        .max();
    let Some((_, name)) = newest else {
        return Ok(Options::default());
    };
    match text(storage, &dir.join(name)) {
        Ok(text) => Ok(Options {
            operators: operators(&text),
            kept: Some(kept(&text)),
        }),
        // Replaced by a newer one: operators are for people to read, so those known stay.
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Options::default()),
        Err(cause) => Err(LogError::io(
            "read the RocksDB options",
            &dir.join(name),
            cause,
        )),
    }
}

/// How long log files are kept, in seconds, and how many, in MiB: 0 for no such bound.
pub(super) fn kept(text: &str) -> [u64; 2] {
    ["WAL_ttl_seconds=", "WAL_size_limit_MB="].map(|name| {
        let value = text.lines().find_map(|line| line.trim().strip_prefix(name));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    })
}

pub(super) fn operators(text: &str) -> HashMap<String, String> {
    let mut operators = HashMap::new();
    let mut family = None;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let name = section.strip_prefix("CFOptions \"");
            family = name.and_then(|name| name.strip_suffix("\"]"));
        } else if let (Some(family), Some(operator)) =
            (family, line.strip_prefix("merge_operator="))
        {
            // A configurable one is written as `{id=NAME;...}`.
            let operator = operator.strip_prefix("{id=").unwrap_or(operator);
            let name = operator.split([';', '}']).next().unwrap_or(operator);
            let name = if name == "nullptr" { "none" } else { name };
            operators.insert(family.to_owned(), name.to_owned());
        }
    }
    operators
}

fn text(storage: &dyn Storage, path: &Path) -> std::io::Result<String> {
    let file: Box<dyn StorageFile> = storage.open(path, OpenMode::Read)?;
    let length = file.len()?.min(TEXT_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    read_exact_at(file.as_ref(), &mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn no_database(dir: &Path, cause: std::io::Error) -> LogError {
    if cause.kind() == std::io::ErrorKind::NotFound {
        return LogError::new(
            LogErrorKind::NotFound,
            format!(
                "read the RocksDB database {}: there is none; name the folder with its CURRENT and IDENTITY files",
                dir.display()
            ),
        );
    }
    LogError::io("read the RocksDB database", dir, cause)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn slice<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(rest)?).ok()?;
    let (slice, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(slice)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn families_and_numbers_are_taken_of_edits() {
        let mut manifest = Manifest::default();
        // Comparator, log number, next file, last sequence; a table; an addition; one of the future.
        for edit in [
            b"\x01\x02ab\x02\x05\x03\x09\x04\xac\x02".as_slice(),
            b"\x04\x07\x67\x00\x01\x02",
            b"\x81\x40\x03xyz\x01\x02ab\xc8\x01\x03\xc9\x01\x06people",
            b"\xc8\x01\x03\xca\x01",
        ] {
            manifest.apply(edit);
        }
        assert_eq!(manifest.last_sequence, 300);
        assert_eq!(
            manifest.families.get(&3).map(String::as_str),
            Some("people")
        );
        assert_eq!(manifest.families.len(), 1);
    }

    #[test]
    fn merge_operators_are_named_by_the_options() {
        let text = "[DBOptions]\n  x=1\n[CFOptions \"default\"]\n  merge_operator=nullptr\n[TableOptions/BlockBasedTable \"default\"]\n\
                    [CFOptions \"counters\"]\n  merge_operator={id=UInt64AddOperator;a=b}\n[CFOptions \"words\"]\nmerge_operator=append\n";
        assert_eq!(
            kept("[DBOptions]\n  WAL_size_limit_MB=7\n  WAL_ttl_seconds=3600\n"),
            [3600, 7]
        );
        assert_eq!(kept(text), [0, 0]);
        let found = operators(text);
        let get = |name: &str| found.get(name).map(String::as_str);
        assert_eq!(get("default"), Some("none"));
        assert_eq!(get("counters"), Some("UInt64AddOperator"));
        assert_eq!(get("words"), Some("append"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_edit_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut manifest = Manifest::default();
            manifest.apply(&bytes);
            let text = String::from_utf8_lossy(&bytes);
            let _found = (operators(&text), kept(&text));
        }
    }
}
