//! The manifest: one line a closed file, each chained to the one before.

use std::io;
use std::path::{Path, PathBuf};

use blake3::Hasher;
use cdc_core::storage::{OpenMode, Storage, StorageFile, open_if_there};
use cdc_core::{Lineage, Position, ResumeToken};
use serde_json::Value;

use crate::MANIFEST;
use crate::state::Hash;

/// Longest line that is read; one we write is below 1 KiB.
const LINE_MAX: usize = 16 << 10;
const CHAIN_KEY: &str = ",\"chain\":\"";

/// What a line says about a closed file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    pub(crate) name: String,
    pub(crate) events: u64,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
    pub(crate) hash: Hash,
}

/// First and last token of a file; unknown for what was taken over after a crash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) lineage: Lineage,
    pub(crate) first: Position,
    pub(crate) last: Position,
}

/// Writes a line with its line feed, and gives the new chain hash.
pub(crate) fn line(entry: &Entry, range: Option<Range>, chain: &Hash) -> (String, Hash) {
    let token = |position: Option<Position>| match (position, range) {
        (Some(position), Some(range)) => {
            format!("\"{}\"", ResumeToken::new(range.lineage, position))
        }
        _ => "null".to_owned(),
    };
    let first = token(range.map(|range| range.first));
    let last = token(range.map(|range| range.last));
    let Entry {
        sequence,
        name,
        events,
        lines,
        bytes,
        crc,
        ..
    } = entry;
    // Names and tokens hold nothing that JSON escapes.
    let head = format!(
        "{{\"v\":1,\"sequence\":{sequence},\"name\":\"{name}\",\"first\":{first},\"last\":{last},\"events\":{events},\"lines\":{lines},\"bytes\":{bytes},\"crc32c\":\"{crc:08x}\",\"blake3\":\"{}\"",
        hex(&entry.hash)
    );
    let next = chained(chain, &head);
    (format!("{head}{CHAIN_KEY}{}\"}}\n", hex(&next)), next)
}

/// `blake3(chain before | the line up to its chain member)`: covers the file's hash and every
/// other member of the line.
fn chained(chain: &Hash, head: &str) -> Hash {
    let mut hash = Hasher::new();
    hash.update(chain);
    hash.update(head.as_bytes());
    hash.finalize().into()
}

/// A line read back.
pub(crate) struct Read {
    pub(crate) entry: Entry,
    pub(crate) chain: Hash,
    /// The chain hash fits the one before and the line.
    pub(crate) chained: bool,
}

/// Reads a line without its line feed.
pub(crate) fn parse(text: &[u8], before: &Hash) -> Option<Read> {
    let text = std::str::from_utf8(text).ok()?;
    let value: Value = serde_json::from_str(text).ok()?;
    let head = &text[..text.rfind(CHAIN_KEY)?];
    let number = |key: &str| value.get(key)?.as_u64();
    let words = |key: &str| value.get(key)?.as_str();
    if number("v")? != 1 {
        return None;
    }
    let chain = unhex(words("chain")?)?;
    let entry = Entry {
        sequence: number("sequence")?,
        name: words("name")?.to_owned(),
        events: number("events")?,
        lines: number("lines")?,
        bytes: number("bytes")?,
        crc: u32::from_str_radix(words("crc32c")?, 16).ok()?,
        hash: unhex(words("blake3")?)?,
    };
    Some(Read {
        entry,
        chain,
        chained: chained(before, head) == chain,
    })
}

/// The manifest of a directory, read line by line.
pub(crate) struct Manifest {
    file: Option<Box<dyn StorageFile>>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` already given out.
    given: usize,
    read: u64,
    limit: u64,
    /// Bytes of the whole lines given out.
    pub(crate) length: u64,
}

/// What [`Manifest::next`] found.
pub(crate) enum Line {
    Whole(Vec<u8>),
    /// Bytes without a line feed at the end.
    Torn,
    /// A line longer than any we write.
    Endless,
    End,
}

impl Manifest {
    /// Opens the first `limit` bytes; a missing file reads as empty.
    pub(crate) fn open(storage: &dyn Storage, dir: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self {
            file: open_if_there(storage, &path(dir), OpenMode::Read)?,
            buffer: Vec::new(),
            given: 0,
            read: 0,
            limit,
            length: 0,
        })
    }

    pub(crate) fn next(&mut self) -> io::Result<Line> {
        loop {
            let rest = &self.buffer[self.given..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest[..end].to_vec();
                self.given += end + 1;
                self.length += end as u64 + 1;
                return Ok(Line::Whole(line));
            }
            if rest.len() > LINE_MAX {
                return Ok(Line::Endless);
            }
            if !self.fill()? {
                let torn = self.given < self.buffer.len();
                return Ok(if torn { Line::Torn } else { Line::End });
            }
        }
    }

    /// Reads on; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        self.buffer.drain(..self.given);
        self.given = 0;
        let left = usize::try_from(self.limit - self.read).unwrap_or(LINE_MAX);
        let at = self.buffer.len();
        self.buffer.resize(at + left.min(LINE_MAX), 0);
        let got = file.read_at(&mut self.buffer[at..], self.read)?;
        self.buffer.truncate(at + got);
        self.read += got as u64;
        Ok(got > 0)
    }
}

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(MANIFEST)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Hash> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}
