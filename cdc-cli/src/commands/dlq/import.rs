//! `dlq import`: letters back from lines of an export.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::Path;

use cdc_core::Lineage;
use cdc_dlq::ImportError;
use serde_json::json;

use crate::args::{DlqImportArgs, Global};
use crate::assemble::dead_letters;
use crate::assemble::state::State;
use crate::commands::position::checkpoints;
use crate::config::Config;
use crate::exit::Exit;
use crate::output::answer;
use crate::report::CliError;

pub(super) fn run(
    args: &DlqImportArgs,
    global: &Global,
    config: &Config,
) -> Result<Exit, CliError> {
    let named = args.file.display().to_string();
    let failed = |cause: io::Error| {
        CliError::new(Exit::Usage, format!("read dead letters from {named}")).with_cause(cause)
    };
    let mut lines = BufReader::new(open(&args.file, config).map_err(failed)?);
    // Both locks: a running pipeline would not know which rows have letters now.
    let state = State::open(&config.state_path)?;
    let mut dlq = dead_letters::open(config)?;
    let sources: BTreeMap<String, Lineage> = checkpoints(&state.paths)?
        .into_iter()
        .map(|(name, checkpoint)| (name, checkpoint.lineage))
        .collect();
    let mut unknown: BTreeMap<String, u64> = BTreeMap::new();
    let imported = dlq.import(&mut lines, args.dry_run, |letter| {
        let emitter: &str = &letter.emitter;
        if config.emitter(emitter).is_none() {
            *unknown.entry(emitter.to_owned()).or_default() += 1;
        }
        match sources.get(emitter) {
            Some(source) if !source.same_source(&letter.source.lineage) => Err(format!(
                "the letter comes from source {}, emitter {emitter} delivers {source}; import it where it belongs",
                letter.source.lineage
            )),
            _ => Ok(()),
        }
    });
    let imported = imported.map_err(|error| match error {
        ImportError::Queue(error) => error.into(),
        error => CliError::new(
            Exit::Usage,
            format!("import dead letters from {named}: nothing was imported"),
        )
        .with_cause(error),
    })?;
    drop(dlq);
    answer(
        global.output,
        || {
            let would = if args.dry_run { "would be " } else { "" };
            let mut text = format!(
                "{} letters read, {} {would}imported, {} known already\n",
                imported.read, imported.taken, imported.known
            );
            for (name, count) in &unknown {
                text.push_str(&format!(
                    "warning: {count} of them belong to emitter {name}, which is not configured: nothing will send them\n"
                ));
            }
            text
        },
        || {
            json!({
                "dry_run": args.dry_run,
                "read": imported.read,
                "imported": imported.taken,
                "known": imported.known,
                "not_configured": unknown,
            })
        },
    )?;
    Ok(Exit::Done)
}

/// The lines, as something that can be read twice. Standard input that cannot is kept beside the
/// letters meanwhile, in a file without a name.
fn open(path: &Path, config: &Config) -> io::Result<File> {
    if path != Path::new("-") {
        return File::open(path);
    }
    use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
    let input = File::from(rustix::io::dup(io::stdin())?);
    let kind = input.metadata()?.file_type();
    if kind.is_file() {
        return Ok(input);
    }
    if kind.is_dir() || kind.is_block_device() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let beside = &config.dead_letters.path;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(beside)?;
    let mut kept = tempfile::tempfile_in(beside)?;
    // Lines say everything twice, and in base64: more than this would not fit the queue anyway.
    let max = config.dead_letters.bytes_max.saturating_mul(4);
    if io::copy(&mut (&input).take(max.saturating_add(1)), &mut kept)? > max {
        return Err(io::Error::other(
            "more than four times dlq_bytes_max; import a part at a time, or from a file",
        ));
    }
    Ok(kept)
}
