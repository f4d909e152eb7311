//! Proving that a directory holds what was written to it.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

use cdc_core::storage::{OpenMode, Storage};
use sha2::Digest;

use crate::framing::{Framing, scan};
use crate::manifest::{self, Line, Manifest};
use crate::name::{FileName, PART};
use crate::state::Hash;

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
        verified.files += 1;
        let path = [entry.name.clone(), format!("{}{PART}", entry.name)]
            .map(|name| dir.join(name))
            .into_iter()
            .find(|path| storage.exists(path));
        listed.insert(entry.name.clone());
        let (Some(path), Some(name)) = (path, FileName::parse(stream, &entry.name)) else {
            verified.problem(Problem::Missing { name: entry.name });
            continue;
        };
        let failed = |cause| error(&path, "read the file", cause);
        let file = storage.open(&path, OpenMode::Read).map_err(failed)?;
        let found = file.len().map_err(failed)?;
        let scan = scan(&*file, u64::MAX, Framing::of(name.format)).map_err(failed)?;
        let sha: Hash = scan.sha.finalize().into();
        let name = entry.name;
        if found != entry.bytes {
            let expected = entry.bytes;
            verified.problem(Problem::Length {
                name,
                expected,
                found,
            });
        } else if sha != entry.sha || scan.crc != entry.crc {
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
    for file in names {
        if let Some(text) = file.strip_suffix(PART) {
            if FileName::parse(stream, text).is_some() && !listed.contains(text) {
                verified.open.push(file);
            }
        } else if FileName::parse(stream, &file).is_some() && !listed.contains(&file) {
            verified.problem(Problem::Unlisted { name: file });
        }
    }
    Ok(verified)
}
