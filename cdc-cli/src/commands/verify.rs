//! `verify`: prove the files of a file emitter complete and untouched.

use std::collections::BTreeSet;

use cdc_core::storage::{StdStorage, Storage as _};
use cdc_emit_file::{Verified, verify};
use serde_json::{Value, json};

use crate::args::{Global, VerifyArgs};
use crate::exit::Exit;
use crate::output::answer;
use crate::report::CliError;

pub(crate) fn run(args: &VerifyArgs, global: &Global) -> Result<Exit, CliError> {
    let directory = &args.directory;
    let streams = match &args.stream {
        Some(stream) => BTreeSet::from([stream.clone()]),
        None => {
            let names = StdStorage.list(directory).map_err(|cause| {
                CliError::new(
                    Exit::Runtime,
                    format!(
                        "verify {}: name a directory of a file emitter",
                        directory.display()
                    ),
                )
                .with_cause(cause)
            })?;
            names.iter().filter_map(|name| stream_of(name)).collect()
        }
    };
    if streams.is_empty() {
        return Err(CliError::new(
            Exit::Usage,
            format!(
                "verify {}: it holds no files of a file emitter; is it file.path?",
                directory.display()
            ),
        ));
    }
    let mut results = Vec::new();
    for stream in streams {
        let verified = verify(&StdStorage, directory, &stream)
            .map_err(|error| CliError::from_error(Exit::Runtime, error))?;
        results.push((stream, verified));
    }
    let whole = results.iter().all(|(_, verified)| verified.is_whole());
    answer(
        global.output,
        || results.iter().map(|(stream, v)| text(stream, v)).collect(),
        || {
            let streams: Vec<Value> = results.iter().map(|(s, v)| json(s, v)).collect();
            json!({ "whole": whole, "streams": streams })
        },
    )?;
    Ok(if whole { Exit::Done } else { Exit::Partly })
}

/// The stream in a file's name, `STREAM-COMMIT-ORDINAL...` with 20 and 10 digits.
fn stream_of(name: &str) -> Option<String> {
    let (head, _) = name.split_once('.')?;
    let (rest, ordinal) = head.rsplit_once('-')?;
    let (stream, commit) = rest.rsplit_once('-')?;
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    (!stream.is_empty() && digits(commit, 20) && digits(ordinal, 10)).then(|| stream.to_owned())
}

fn text(stream: &str, verified: &Verified) -> String {
    let mut out = format!(
        "{stream}: {} closed files, {} events, {} bytes; chain {}\n",
        verified.files, verified.events, verified.bytes, verified.chain
    );
    for name in &verified.open {
        out.push_str(&format!("  {name}: still written to, not proven yet\n"));
    }
    for problem in &verified.problems {
        out.push_str(&format!("  {problem}\n"));
    }
    if verified.problems_omitted > 0 {
        out.push_str(&format!("  and {} more\n", verified.problems_omitted));
    }
    out.push_str(if verified.is_whole() {
        "  complete and untouched\n"
    } else {
        "  NOT as it was written\n"
    });
    out
}

fn json(stream: &str, verified: &Verified) -> Value {
    let problems: Vec<_> = verified.problems.iter().map(ToString::to_string).collect();
    json!({
        "stream": stream,
        "whole": verified.is_whole(),
        "files": verified.files,
        "compressed": verified.compressed,
        "events": verified.events,
        "bytes": verified.bytes,
        "open": verified.open,
        "chain": verified.chain,
        "problems": problems,
        "problems_omitted": verified.problems_omitted,
    })
}

#[cfg(test)]
mod tests {
    use super::stream_of;

    #[test]
    fn streams_are_found_in_names() {
        for (name, stream) in [
            (
                "audit-00000000000000000042-0000000000.ndjson",
                Some("audit"),
            ),
            (
                "my-log-00000000000000000042-0000000000.r0001.ndjson.gz",
                Some("my-log"),
            ),
            ("audit-42-0.ndjson", None),
            ("-00000000000000000042-0000000000.ndjson", None),
            ("MANIFEST.jsonl", None),
            ("LOCK", None),
        ] {
            assert_eq!(stream_of(name).as_deref(), stream, "{name}");
        }
    }
}
