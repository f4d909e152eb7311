//! Places that two would both write to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::document::Origin;
use super::model::{Destination, EmitterConfig};
use super::problem::Problem;
use super::read::{Placed, Reading};
use crate::assemble::state::StatePaths;

/// An emitter, and where its destination is written down.
pub(crate) type Place<'a> = (&'a EmitterConfig, Origin);

/// Refuses two emitters that would write into one directory, which belongs to one, or both to standard output.
pub(crate) fn check(reading: &mut Reading<'_>, emitters: &[Place<'_>]) {
    let mut files: BTreeMap<PathBuf, &Place<'_>> = BTreeMap::new();
    let mut output: Option<&Place<'_>> = None;
    for place in emitters {
        let (emitter, at) = place;
        match &emitter.destination {
            Destination::File(file) if !file.path.as_os_str().is_empty() => {
                let key = same(&file.path);
                // Two of one name are refused for that.
                let Some((other, first)) = files.get(&key).filter(|(o, _)| o.name != emitter.name)
                else {
                    files.insert(key, place);
                    continue;
                };
                let message = format!(
                    "the emitters `{}` and `{}` would write into the same directory, {}",
                    other.name,
                    emitter.name,
                    file.path.display()
                );
                reading.refuse(
                    Problem::new(message, at)
                        .note(format!("`{}` writes there already", other.name), first)
                        .help("give each a file.path of its own"),
                );
            }
            Destination::Queue(_) => {
                let Some((other, first)) = output.filter(|(o, _)| o.name != emitter.name) else {
                    output = Some(place);
                    continue;
                };
                let message = format!(
                    "the emitters `{}` and `{}` would both print to standard output",
                    other.name, emitter.name
                );
                reading.refuse(
                    Problem::new(message, at)
                        .note(format!("`{}` prints there already", other.name), first)
                        .help(
                            "one queue prints: make the other \"file\", \"webhook\" or \"custom\"",
                        ),
                );
            }
            _ => {}
        }
    }
}

/// Refuses dead letters and files where the pipeline keeps its own state, and files among dead letters:
/// each names what it writes as it likes, and takes what it finds for its own.
pub(crate) fn check_state(
    reading: &mut Reading<'_>,
    state: &Path,
    dead_letters: &Placed<PathBuf>,
    emitters: &[Place<'_>],
) {
    let paths = StatePaths::new(state);
    let kept = [
        paths.journal(),
        paths.sqlite(),
        paths.rocksdb(),
        paths.checkpoints(),
    ];
    let kept = kept.map(|path| same(&path));
    let state = same(state);
    let of_state = |path: &Path| *path == state || kept.iter().any(|kept| path.starts_with(kept));
    let letters = same(&dead_letters.0);
    if of_state(&letters) {
        let path = dead_letters.0.display();
        reading.refuse(
            Problem::new(
                format!("`dlq_path` is where the pipeline keeps its own state, {path}"),
                &dead_letters.1,
            )
            .help("give dead letters a directory of their own; without dlq_path it is `dlq` below state_path"),
        );
    }
    for (emitter, at) in emitters {
        let Destination::File(file) = &emitter.destination else {
            continue;
        };
        if file.path.as_os_str().is_empty() {
            continue;
        }
        let files = same(&file.path);
        let whose = if of_state(&files) {
            "the pipeline keeps its own state"
        } else if files.starts_with(&letters) {
            "dead letters are kept"
        } else {
            continue;
        };
        reading.refuse(
            Problem::new(
                format!(
                    "the emitter `{}` would write where {whose}, {}",
                    emitter.name,
                    file.path.display()
                ),
                at,
            )
            .help("give it a file.path of its own"),
        );
    }
}

/// The same for two spellings of one directory, whether it is there yet or not.
fn same(path: &Path) -> PathBuf {
    let whole = path
        .canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned());
    whole.components().collect()
}
