//! What stands in the files of a file emitter.

use std::path::Path;

use crate::Position;
use crate::storage::{OpenMode, Storage, read_exact_at};

/// The whole lines of all JSON files in a directory, in the order in which they were written: closed files
/// as their manifest lists them, then the open one.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// Of the event in each line.
    pub positions: Vec<Position>,
    /// The number of the file that each line stands in.
    pub files: Vec<usize>,
    /// Something in between cannot be read, as what was not synced when the power went; what stands
    /// behind it in the same file is left out.
    pub damaged: bool,
}

impl Lines {
    /// The first line of `before` that is not here, in the order of these.
    pub fn lost(&self, before: &Self) -> Option<Position> {
        let mut here = self.positions.iter();
        let mut before = before.positions.iter();
        before
            .find(|position| !here.any(|other| other == *position))
            .copied()
    }
}

/// What stands in the files of a directory.
///
/// # Errors
/// If a file cannot be read at all.
pub fn lines(storage: &dyn Storage, dir: &Path) -> Result<Lines, String> {
    let mut names = storage.list(dir).map_err(|error| error.to_string())?;
    let listed = match names.iter().find(|name| *name == "MANIFEST.jsonl") {
        Some(manifest) => {
            let text = read(storage, &dir.join(manifest)).map_err(|error| error.to_string())?;
            text.split(|&byte| byte == b'\n')
                .filter_map(|line| Some(member(line, "name")?.to_owned()))
                .collect::<Vec<_>>()
        }
        None => Vec::new(),
    };
    names.retain(|name| name.contains(".ndjson"));
    names.sort_by_key(|name| {
        let closed = name.trim_end_matches(".part");
        let place = listed.iter().position(|listed| listed == closed);
        (place.unwrap_or(usize::MAX), name.clone())
    });
    let mut lines = Lines::default();
    for (number, name) in names.into_iter().enumerate() {
        let text = read(storage, &dir.join(&name)).map_err(|error| format!("{name}: {error}"))?;
        let whole = text.iter().rposition(|&byte| byte == b'\n');
        let text = &text[..whole.map_or(0, |at| at + 1)];
        for line in text
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            match member(line, "position").and_then(|text| text.parse().ok()) {
                Some(position) => {
                    lines.positions.push(position);
                    lines.files.push(number);
                }
                None => {
                    lines.damaged = true;
                    break;
                }
            }
        }
    }
    Ok(lines)
}

fn read(storage: &dyn Storage, path: &Path) -> std::io::Result<Vec<u8>> {
    let file = storage.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    read_exact_at(file.as_ref(), &mut bytes, 0)?;
    Ok(bytes)
}

/// The text of a member of a whole JSON object.
fn member<'a>(line: &'a [u8], name: &str) -> Option<&'a str> {
    // A hole that the power left in one line and the next reads as zeros in a line that begins
    // and ends well.
    if line.iter().any(u8::is_ascii_control) {
        return None;
    }
    let line = std::str::from_utf8(line).ok()?;
    let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
    let (text, _) = rest.split_once('"')?;
    (line.starts_with('{') && line.ends_with('}')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_a_hole_is_no_line() {
        let whole = br#"{"id":"a","position":"0/1:0","op":"insert"}"#;
        assert_eq!(member(whole, "position"), Some("0/1:0"));
        let mut torn = whole.to_vec();
        torn[30..36].fill(0);
        for line in [&torn[..], &whole[..20], &whole[1..]] {
            assert_eq!(member(line, "position"), None);
        }
    }
}
