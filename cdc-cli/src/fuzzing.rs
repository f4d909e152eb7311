//! What the fuzz targets of `fuzz/` call, and the ordinary test that replays their corpora.
//!
//! Feature `fuzzing`; no part of the interface.

use std::path::PathBuf;

use crate::config::{ConfigError, Layers, Paint, load, show};

/// A function that takes any bytes and panics if something does not hold.
pub type Target = fn(&[u8]);

/// All of them, by the names of the targets and of their corpora.
pub const TARGETS: [(&str, Target); 3] = [
    ("configuration", configuration),
    ("http", crate::http::fuzzing::http),
    ("http-query", crate::http::fuzzing::query),
];

/// Runs one of them.
///
/// # Panics
/// If there is none of this name, or something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    target(data);
}

/// Stands in every fuzzed configuration as a password, and must not be shown.
const SECRET: &str = "s3cret-that-nobody-may-see";

/// A file of this process's own.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("weftkit-fuzz-{}-{name}", std::process::id()))
}

/// A configuration file; behind a zero byte, lines for `--set`. It loads, or every problem says
/// something; neither shows a secret.
pub fn configuration(data: &[u8]) {
    let at = data.iter().position(|&byte| byte == 0);
    let (text, sets) = data.split_at(at.unwrap_or(data.len()));
    let sets = String::from_utf8_lossy(sets.get(1..).unwrap_or_default()).into_owned();
    let path = scratch("config.toml");
    std::fs::write(&path, text).expect("a scratch file");
    let layers = Layers {
        file: Some(path),
        environment: [("SECRET".to_owned(), SECRET.to_owned())]
            .into_iter()
            .collect(),
        source: None,
        sets: sets.lines().map(str::to_owned).collect(),
    };
    let said = match load(&layers) {
        Ok(config) => format!("{config:?}"),
        Err(ConfigError::File(error)) => error.to_string(),
        Err(ConfigError::Problems(problems)) => {
            assert!(!problems.is_empty(), "refused, and nothing is wrong");
            let rendered = problems.iter().map(|problem| problem.render(Paint::Plain));
            rendered.collect()
        }
    };
    assert!(!said.is_empty(), "refused without a word");
    // Where a person writes a password, it is not shown; a URL's host may be anything.
    if !text
        .windows(SECRET.len())
        .any(|window| window == SECRET.as_bytes())
    {
        let _shown = show(&layers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
        let mut seeds = Vec::new();
        for (n, text) in [
            "[cdc]\nemitter = \"queue\"\nqueue_capacity = 65536\ndlq_path = \"/var/lib/dlq\"\nschemas = [\"public\"]\nbatch_size = 100\n",
            "[cdc]\nsource = \"postgres://u:${SECRET}@h/db\"\nstate_path = \"s\"\n[[cdc.emitters]]\nname = \"a\"\nemitter = \"webhook\"\n[cdc.emitters.webhook]\nurl = \"https://e.example/x\"\nconcurrency = 4\norder = \"key\"\n[[cdc.emitters]]\nname = \"b\"\nemitter = \"file\"\nwhere = \"id > 7 and name like 'a%'\"\n[cdc.emitters.file]\npath = \"out\"\n",
            "[cdc]\nemitter = \"custom\"\n[cdc.custom]\ncommand = [\"sh\", \"-c\", \"cat\"]\n[cdc.http]\nlisten = \"127.0.0.1:0\"\ntoken = \"${SECRET}\"\n[cdc.retry]\nbase = \"20ms\"\nmax = \"2 min\"\n[[cdc.transforms]]\ntables = [\"public.*\"]\nmask = { name = \"null\" }\n",
            "[cdc]\nbatch_size = 1_0\nlinger = 5\n\0queue_capacity=7\nemitter=\"file\"\nfile.path=/x\n",
            "[cdc\nbatch_size = 'x",
        ]
        .into_iter()
        .enumerate()
        {
            seeds.push(("configuration", n.to_string(), text.as_bytes().to_vec()));
        }
        seeds.extend(crate::http::fuzzing::seeds());
        seeds
    }

    #[test]
    fn corpora_hold() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        cdc_core::testing::corpus::replay(&dir, &TARGETS, &seeds());
    }
}
