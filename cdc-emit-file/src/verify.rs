//! Proving that a directory holds what was written to it.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

use cdc_core::storage::{OpenMode, Storage, open_if_there};

use crate::compress::{GZ, GZ_TMP, Unpacked, is_damage};
use crate::framing::{Framing, Scan, scan, scan_from};
use crate::manifest::{self, Line, Manifest};
use crate::name::{FileName, PART};
use crate::state::{FileState, Hash, OpenState};

/// Most problems that are kept; the others are counted.
const PROBLEMS_MAX: usize = 1000;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Closed files in the manifest.
    pub files: u64,
    /// Events in files that are whole.
    pub events: u64,
    /// Bytes in files that are whole.
    pub bytes: u64,
    /// Closed files that are compressed.
    pub compressed: u64,
    /// Files still being written to; they are not proven by the manifest yet.
    pub open: Vec<String>,
    /// The chain hash behind the last line, as hexadecimal digits. Kept elsewhere, it proves later
    /// that manifest and files were not rewritten together.
    pub chain: String,
    /// Everything that is not as it was written, in manifest order; at most 1000.
    pub problems: Vec<Problem>,
    /// Problems beyond those.
    pub problems_omitted: u64,
}

impl Verified {
    /// True if nothing is missing, added or changed.
    pub const fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.problems_omitted += 1;
        }
    }
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A line of the manifest cannot be read. Lines count from 1.
    Line {
        /// Which.
        line: u64,
    },
    /// A line does not follow the one before: lines were removed, added, swapped or edited.
    Chain {
        /// The first line that does not fit.
        line: u64,
    },
    /// The manifest ends within a line: a crash while a file was closed.
    TornManifest,
    /// A listed file is not there.
    Missing {
        /// Its name.
        name: String,
    },
    /// A file does not have the length it was closed with.
    Length {
        /// Its name.
        name: String,
        /// Bytes it was closed with.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// A file's bytes are not those it was closed with.
    Edited {
        /// Its name.
        name: String,
    },
    /// A file does not hold as many lines as it was closed with.
    Lines {
        /// Its name.
        name: String,
        /// Lines it was closed with.
        expected: u64,
        /// Whole lines it has.
        found: u64,
    },
    /// A closed file that no line lists.
    Unlisted {
        /// Its name.
        name: String,
    },
    /// The manifest ends before the line the checkpoint knows.
    Behind {
        /// Lines the checkpoint knows.
        expected: u64,
        /// Lines there are.
        found: u64,
    },
    /// The manifest up to this line is not the one the checkpoint knows: it was rewritten.
    Rewritten {
        /// The checkpoint's last line.
        line: u64,
    },
    /// The file that was open in the checkpoint does not begin with what the checkpoint knows of it, whether it
    /// was closed since or not.
    Open {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { line } => write!(f, "line {line} of the manifest cannot be read"),
            Self::Chain { line } => write!(
                f,
                "line {line} of the manifest does not follow the one before: lines were removed, added, swapped or edited"
            ),
            Self::TornManifest => f.write_str(
                "the manifest ends within a line: closing a file was interrupted; the emitter repairs it at its next start",
            ),
            Self::Missing { name } => write!(f, "{name} is missing"),
            Self::Length {
                name,
                expected,
                found,
            } => write!(f, "{name} has {found} bytes, it was closed with {expected}"),
            Self::Edited { name } => {
                write!(f, "{name} was edited: its bytes are not those it was closed with")
            }
            Self::Lines {
                name,
                expected,
                found,
            } => write!(f, "{name} has {found} lines, it was closed with {expected}"),
            Self::Unlisted { name } => write!(f, "{name} is not in the manifest"),
            Self::Behind { expected, found } => write!(
                f,
                "the manifest has {found} lines, the checkpoint knows {expected}: its end was removed"
            ),
            Self::Rewritten { line } => write!(
                f,
                "the manifest up to line {line} is not the one the checkpoint knows: it was rewritten"
            ),
            Self::Open { name } => write!(
                f,
                "{name} is missing, or does not begin with what the checkpoint knows of it"
            ),
        }
    }
}

/// A directory could not be read.
#[derive(Debug, thiserror::Error)]
#[error("verify {path}: cannot {what}")]
pub struct VerifyError {
    /// The file or directory.
    pub path: String,
    /// What was attempted.
    pub what: &'static str,
    /// Why it failed.
    #[source]
    pub cause: io::Error,
}

/// Checks the manifest's chain and every listed file of a stream against it, reading each once.
/// May run beside the emitter: a file that is being closed meanwhile may be reported as unlisted.
///
/// # Errors
/// [`VerifyError`] if something cannot be read at all; what is missing or damaged is in the result.
pub fn verify(storage: &dyn Storage, dir: &Path, stream: &str) -> Result<Verified, VerifyError> {
    check(storage, dir, stream, None)
}

/// As [`verify`], against the state of a checkpoint as well
/// ([`Checkpoint::state`](cdc_core::Checkpoint::state)): proves the directory complete up to there,
/// also if its end was removed or everything was rewritten together, and checks what the checkpoint
/// knows of the open file. The emitter should not run meanwhile, or the checkpoint be read first.
///
/// # Errors
/// [`VerifyError`], also if the state is not one of a file emitter.
pub fn verify_against(
    storage: &dyn Storage,
    dir: &Path,
    stream: &str,
    state: &[u8],
) -> Result<Verified, VerifyError> {
    let state = FileState::decode(state).map_err(|what| VerifyError {
        path: dir.display().to_string(),
        what: "read the checkpoint's emitter state",
        cause: io::Error::new(io::ErrorKind::InvalidData, what),
    })?;
    check(storage, dir, stream, Some(&state))
}

fn check(
    storage: &dyn Storage,
    dir: &Path,
    stream: &str,
    state: Option<&FileState>,
) -> Result<Verified, VerifyError> {
    let error = |path: &Path, what, cause| VerifyError {
        path: path.display().to_string(),
        what,
        cause,
    };
    let mut verified = Verified::default();
    // Listed before the manifest is read: a file closed in between is then in the manifest.
    let names = storage
        .list(dir)
        .map_err(|cause| error(dir, "list the directory", cause))?;
    let manifest_path = manifest::path(dir);
    let mut manifest = Manifest::open(storage, dir, u64::MAX)
        .map_err(|cause| error(&manifest_path, "open the manifest", cause))?;
    let mut chain: Hash = [0; 32];
    let mut listed = BTreeSet::new();
    for line in 1.. {
        let text = match manifest
            .next()
            .map_err(|cause| error(&manifest_path, "read the manifest", cause))?
        {
            Line::End => break,
            Line::Torn => {
                verified.problem(Problem::TornManifest);
                break;
            }
            Line::Endless => {
                verified.problem(Problem::Line { line });
                break;
            }
            Line::Whole(text) => text,
        };
        let Some(read) = manifest::parse(&text, &chain) else {
            verified.problem(Problem::Line { line });
            continue;
        };
        let entry = read.entry;
        if !read.chained || entry.sequence != line {
            verified.problem(Problem::Chain { line });
        }
        chain = read.chain;
        if let Some(state) = state
            && state.sequence == line
            && state.chain != chain
        {
            verified.problem(Problem::Rewritten { line });
        }
        verified.files += 1;
        listed.insert(entry.name.clone());
        let Some(name) = FileName::parse(stream, &entry.name) else {
            verified.problem(Problem::Missing { name: entry.name });
            continue;
        };
        let framing = Framing::of(name.format);
        // A file that is compressed meanwhile is there in another form at the second look.
        let read = match contents(storage, dir, &entry, framing)? {
            Some(read) => Some(read),
            None => contents(storage, dir, &entry, framing)?,
        };
        let name = entry.name;
        let Some(Contents {
            packed,
            found,
            scan,
        }) = read
        else {
            verified.problem(Problem::Missing { name });
            continue;
        };
        verified.compressed += u64::from(packed);
        let hash: Hash = scan.hash.finalize().into();
        if found != entry.bytes {
            let expected = entry.bytes;
            verified.problem(Problem::Length {
                name,
                expected,
                found,
            });
        } else if hash != entry.hash || scan.crc != entry.crc {
            verified.problem(Problem::Edited { name });
        } else if scan.lines != entry.lines {
            verified.problem(Problem::Lines {
                name,
                expected: entry.lines,
                found: scan.lines,
            });
        } else {
            verified.events += entry.events;
            verified.bytes += entry.bytes;
        }
    }
    verified.chain = manifest::hex(&chain);
    if let Some(state) = state {
        if verified.files < state.sequence {
            verified.problem(Problem::Behind {
                expected: state.sequence,
                found: verified.files,
            });
        }
        check_open(storage, dir, stream, state, &listed, &mut verified)?;
    }
    let opened: BTreeSet<_> = names.iter().filter_map(|n| n.strip_suffix(PART)).collect();
    for file in &names {
        // A compressed file has been read under its own name, or is being opened again; one that is being made
        // is nobody's yet.
        match file.strip_suffix(GZ) {
            Some(text) if listed.contains(text) || opened.contains(text) => continue,
            _ if file.ends_with(GZ_TMP) => continue,
            _ => {}
        }
        let plain = file.strip_suffix(GZ).unwrap_or(file);
        if let Some(text) = file.strip_suffix(PART) {
            if FileName::parse(stream, text).is_some() && !listed.contains(text) {
                verified.open.push(file.clone());
            }
        } else if FileName::parse(stream, plain).is_some() && !listed.contains(plain) {
            let name = file.clone();
            verified.problem(Problem::Unlisted { name });
        }
    }
    Ok(verified)
}

/// Checks what a checkpoint knows of the file that was open then.
fn check_open(
    storage: &dyn Storage,
    dir: &Path,
    stream: &str,
    state: &FileState,
    listed: &BTreeSet<String>,
    verified: &mut Verified,
) -> Result<(), VerifyError> {
    let Some(open) = &state.open else {
        return Ok(());
    };
    let name = FileName::parse(stream, &open.name);
    let framing = name.map(|name| Framing::of(name.format));
    // Closed since then: its line is younger than the checkpoint, and proves nothing by it.
    let is_listed = listed.contains(&open.name);
    let forms: &[&str] = if is_listed {
        &["", GZ, PART]
    } else {
        &[GZ, PART]
    };
    let read = |framing| begins_with(storage, dir, open, forms, framing);
    let whole = match framing {
        // One that is compressed meanwhile is there in another form at the second look.
        Some(framing) => match read(framing)? {
            Some(whole) => whole,
            // That it is missing has been told, if it is listed.
            None => read(framing)?.unwrap_or(is_listed),
        },
        None => false,
    };
    if !whole {
        let name = open.name.clone();
        verified.problem(Problem::Open { name });
    }
    Ok(())
}

/// True if a file begins with what the checkpoint knows of it, in the first of these forms in which it is
/// there; `None` if it is in none.
fn begins_with(
    storage: &dyn Storage,
    dir: &Path,
    open: &OpenState,
    forms: &[&str],
    framing: Framing,
) -> Result<Option<bool>, VerifyError> {
    for end in forms {
        let path = dir.join(format!("{}{end}", open.name));
        let failed = |cause| VerifyError {
            path: path.display().to_string(),
            what: "read the open file",
            cause,
        };
        let there = open_if_there(storage, &path, OpenMode::Read).map_err(failed)?;
        let Some(file) = there else { continue };
        let read = if *end == GZ {
            scan_from(&mut Unpacked::new(&*file), open.length, framing)
        } else {
            scan(&*file, open.length, framing)
        };
        return match read {
            Ok(scan) => Ok(Some(
                (scan.whole, scan.lines, scan.crc) == (open.length, open.lines, open.crc),
            )),
            Err(cause) if *end == GZ && is_damage(&cause) => Ok(Some(false)),
            Err(cause) => Err(failed(cause)),
        };
    }
    Ok(None)
}

/// What a closed file holds.
struct Contents {
    packed: bool,
    /// Bytes of the content.
    found: u64,
    scan: Scan,
}

/// Reads a closed file in whatever form it is there; `None` if it is in none. If it is there
/// compressed and not, as between two steps of compressing it, the compressed one must be the same.
fn contents(
    storage: &dyn Storage,
    dir: &Path,
    entry: &manifest::Entry,
    framing: Framing,
) -> Result<Option<Contents>, VerifyError> {
    let mut contents = None;
    for end in ["", GZ, PART] {
        let path = dir.join(format!("{}{end}", entry.name));
        let failed = |cause| VerifyError {
            path: path.display().to_string(),
            what: "read the file",
            cause,
        };
        let there = open_if_there(storage, &path, OpenMode::Read).map_err(failed)?;
        let Some(file) = there else { continue };
        if end == PART && contents.is_some() {
            // An empty one beside a compressed file says that a start is taking that back.
            break;
        }
        let packed = end == GZ;
        let read = if packed {
            // One byte more than there should be tells a longer one, whatever it claims to hold.
            let most = entry.bytes.saturating_add(1);
            scan_from(&mut Unpacked::new(&*file), most, framing).map(|scan| (scan.read, scan))
        } else {
            file.len()
                .and_then(|found| Ok((found, scan(&*file, u64::MAX, framing)?)))
        };
        let (found, scan) = match read {
            Ok(read) => read,
            Err(cause) if packed && is_damage(&cause) => (0, Scan::default()),
            Err(cause) => return Err(failed(cause)),
        };
        let hash: Hash = scan.hash.finalize().into();
        let whole = found == entry.bytes && hash == entry.hash;
        contents = Some(Contents {
            packed,
            found,
            scan,
        });
        // Whichever is wrong is what is told.
        if !whole {
            break;
        }
    }
    Ok(contents)
}
