//! What stands in the files of a file emitter.

use std::path::Path;

use crate::Position;
use crate::storage::{OpenMode, Storage, read_exact_at};

/// Positions of the whole lines of all JSON files in a directory, in the order of their names.
///
/// # Errors
/// If a file cannot be read, or a whole line has no position.
pub fn lines(storage: &dyn Storage, dir: &Path) -> Result<Vec<Position>, String> {
    let mut positions = Vec::new();
    let names = storage.list(dir).map_err(|error| error.to_string())?;
    for name in names.iter().filter(|name| name.contains(".ndjson")) {
        let path = dir.join(name);
        let text = read(storage, &path).map_err(|error| format!("{name}: {error}"))?;
        let whole = text.iter().rposition(|&byte| byte == b'\n');
        let text = &text[..whole.map_or(0, |at| at + 1)];
        for line in text.split(|&byte| byte == b'\n') {
            if !line.is_empty() {
                positions.push(position(line).ok_or_else(|| format!("{name}: a damaged line"))?);
            }
        }
    }
    Ok(positions)
}

fn read(storage: &dyn Storage, path: &Path) -> std::io::Result<Vec<u8>> {
    let file = storage.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    read_exact_at(file.as_ref(), &mut bytes, 0)?;
    Ok(bytes)
}

fn position(line: &[u8]) -> Option<Position> {
    let line = std::str::from_utf8(line).ok()?;
    let (_, rest) = line.split_once("\"position\":\"")?;
    let (text, _) = rest.split_once('"')?;
    line.ends_with('}').then(|| text.parse().ok())?
}
