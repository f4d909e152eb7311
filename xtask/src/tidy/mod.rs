//! The house rules, checked by a program instead of remembered.
//!
//! Each rule returns findings; a finding names the file, the line where there is one, what is
//! wrong and what to do. `cargo xtask tidy` prints them, the tests of this crate assert that
//! there are none, one test a rule.

mod crates;
mod docs;
mod lexer;
mod sources;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::error::Context;
use crate::{Result, ensure};

/// One rule: its name and its check over the workspace at a root.
pub type Rule = (&'static str, fn(&Path) -> Result<Vec<String>>);

/// All rules, in the order they are checked.
pub const RULES: [Rule; 13] = [
    ("crate edges", crates::edges),
    ("lints inherited", crates::lints_inherited),
    ("package fields inherited", crates::fields_inherited),
    (
        "dependencies from the workspace",
        crates::dependencies_from_workspace,
    ),
    ("one registry", crates::one_registry),
    ("light crates stay light", tree::light_crates),
    ("unsafe code", sources::unsafe_code),
    ("file length", sources::file_length),
    ("unfinished code", sources::unfinished),
    ("sleeping tests", sources::sleeping_tests),
    ("words", sources::words),
    ("changelog", docs::changelog),
    ("links", docs::links),
];

/// Checks every rule.
///
/// # Errors
/// A file cannot be read or cargo fails; broken rules are findings.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (name, rule) in RULES {
        for finding in rule(root)? {
            findings.push(format!("{name}: {finding}"));
        }
    }
    Ok(findings)
}

/// `cargo xtask tidy`.
///
/// # Errors
/// As [`check`].
pub fn command(args: &[String]) -> Result<ExitCode> {
    ensure!(args.is_empty(), "`tidy` takes no arguments");
    let root = crate::root();
    for line in tree::sizes(&root)? {
        println!("{line}");
    }
    let findings = check(&root)?;
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} rules hold", RULES.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} findings", findings.len());
    Ok(ExitCode::FAILURE)
}

/// A text file of the workspace.
#[derive(Debug)]
struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

/// Every file below the root with one of these endings, sorted; build output, version control
/// and fuzzing corpora left out.
fn files(root: &Path, endings: &[&str]) -> Result<Vec<File>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let entry = entry.context(|| format!("list {}", folder.display()))?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry
                .file_type()
                .context(|| format!("look at {}", path.display()))?;
            if kind.is_dir() {
                if !["target", ".git", "corpus", "node_modules"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
                let text = std::fs::read_to_string(&path)
                    .context(|| format!("read {}", path.display()))?;
                let path = path
                    .strip_prefix(root)
                    .unwrap_or(&path)
                    .to_string_lossy()
                    .into_owned();
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}
