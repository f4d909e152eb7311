//! Destinations that two emitters would both write to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::document::Origin;
use super::model::{Destination, EmitterConfig};
use super::problem::Problem;
use super::read::Reading;

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

/// The same for two spellings of one directory, whether it is there yet or not.
fn same(path: &Path) -> PathBuf {
    let whole = path
        .canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned());
    whole.components().collect()
}
