//! Rules over Rust sources and words.

use std::path::Path;

use super::lexer::{code_only, comments_only};
use super::{File, files};
use crate::Result;

/// The one file that may hold `unsafe` code: memory mapping of sealed segments.
const UNSAFE_FILE: &str = "cdc-wal/src/mmap.rs";

/// Lines a source file may have, its tests not counted.
const LINES_MAX: usize = 800;

/// True for files that hold tests only.
fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/benches/")
}

/// The number of lines before the inline test module, if the file has one.
fn lines_without_tests(code: &str) -> usize {
    let mut lines = 0;
    let mut after_cfg = false;
    for (number, line) in code.lines().enumerate() {
        if after_cfg && line.starts_with("mod ") && line.contains('{') {
            return number - 1;
        }
        after_cfg = line.trim_end() == "#[cfg(test)]";
        lines = number + 1;
    }
    lines
}

/// The test part of a file: all of a test file, else from the inline test module on.
fn test_part(file: &File, code: &str) -> (usize, String) {
    let skip = if is_test_file(&file.path) {
        0
    } else {
        lines_without_tests(code)
    };
    (skip, code.lines().skip(skip).collect::<Vec<_>>().join("\n"))
}

/// Whether `word` stands in `line` as a whole word.
fn has_word(line: &str, word: &str) -> bool {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().last());
        let after = line
            .get(at + word.len()..)
            .and_then(|text| text.chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// `unsafe` stands in one file only.
pub(super) fn unsafe_code(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files(root, &[".rs"])? {
        if file.path == UNSAFE_FILE {
            continue;
        }
        for (number, line) in code_only(&file.text).lines().enumerate() {
            if has_word(line, "unsafe") {
                findings.push(format!(
                    "{}:{}: `unsafe`; it may stand in {UNSAFE_FILE} only",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    Ok(findings)
}

/// A file is one concept, so it has a bound.
pub(super) fn file_length(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files(root, &[".rs"])? {
        if is_test_file(&file.path) {
            continue;
        }
        let lines = lines_without_tests(&file.text);
        if lines > LINES_MAX {
            findings.push(format!(
                "{}: {lines} lines without tests, at most {LINES_MAX}; split it by concept",
                file.path
            ));
        }
    }
    Ok(findings)
}

/// Nothing half done: no placeholder macros, no switched-off tests.
pub(super) fn unfinished(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files(root, &[".rs"])? {
        for (number, line) in code_only(&file.text).lines().enumerate() {
            for (text, remedy) in [
                ("todo!", "write it"),
                (
                    "unimplemented!",
                    "write it, or return an error that says so",
                ),
                ("#[ignore", "mend the test or delete it"),
            ] {
                if line.contains(text) {
                    findings.push(format!("{}:{}: `{text}`; {remedy}", file.path, number + 1));
                }
            }
        }
    }
    Ok(findings)
}

/// A test that sleeps is slow and still races.
pub(super) fn sleeping_tests(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files(root, &[".rs"])? {
        let code = code_only(&file.text);
        let (skip, tests) = test_part(&file, &code);
        for (number, line) in tests.lines().enumerate() {
            if line.contains("thread::sleep") {
                findings.push(format!(
                    "{}:{}: `thread::sleep` in a test; wait for the event itself",
                    file.path,
                    skip + number + 1
                ));
            }
        }
    }
    Ok(findings)
}

/// Words that do not belong, each with what to write instead. Matched without regard to case in
/// comments and documents.
const PROSE: [(&str, &str); 11] = [
    ("todo", "do it, or file it"),
    ("fixme", "mend it, or file it"),
    ("xxx", "say what is wrong"),
    ("for now", "say what holds, and what would change it"),
    ("simplified version", "write the real one"),
    ("in a real implementation", "write the real one"),
    ("toy ", "write the real one"),
    ("blacklist", "deny list"),
    ("whitelist", "allow list"),
    ("sanity check", "check"),
    ("obviously", "leave it out"),
];

/// Parts of type names that say nothing about what a type is.
const NAMES: [&str; 3] = ["Manager", "Helper", "Utils"];

/// Folders of one machine; a document or a test that names them works on that machine only.
const PLACES: [&str; 4] = ["/home/", "/root/", "/Users/", "/work/"];

/// Words of the house style, in prose, type names and paths.
pub(super) fn words(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files(root, &[".rs", ".md", ".toml", ".sh"])? {
        // This file holds the list itself.
        if file.path == "xtask/src/tidy/sources.rs" {
            continue;
        }
        let rust = file.path.ends_with(".rs");
        let prose = if rust {
            comments_only(&file.text)
        } else if file.path.ends_with(".md") {
            file.text.clone()
        } else {
            let comment = |line: &str| line.split_once('#').map_or("", |(_, text)| text).to_owned();
            file.text.lines().map(comment).collect::<Vec<_>>().join(
                "
",
            )
        };
        for (number, line) in prose.lines().enumerate() {
            let lower = line.to_lowercase();
            for (word, instead) in PROSE {
                if has_word(&lower, word) {
                    findings.push(format!(
                        "{}:{}: \"{word}\"; {instead}",
                        file.path,
                        number + 1
                    ));
                }
            }
        }
        for (number, line) in file.text.lines().enumerate() {
            for place in PLACES {
                if line.contains(place) {
                    findings.push(format!(
                        "{}:{}: \"{place}\" is a folder of one machine; use a relative or \
                         temporary path",
                        file.path,
                        number + 1
                    ));
                }
            }
        }
        if rust {
            findings.extend(empty_names(&file));
        }
    }
    Ok(findings)
}

fn empty_names(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in code_only(&file.text).lines().enumerate() {
        let mut words = line.split(|char: char| !char.is_alphanumeric() && char != '_');
        while let Some(word) = words.next() {
            if !["struct", "enum", "trait"].contains(&word) {
                continue;
            }
            let name = words.next().unwrap_or_default();
            if NAMES.iter().any(|empty| name.ends_with(empty)) {
                findings.push(format!(
                    "{}:{}: type `{name}`; name what it is, not that it handles something",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_only() {
        assert!(has_word("an unsafe block", "unsafe"));
        assert!(!has_word("#[deny(unsafe_code)]", "unsafe"));
        assert!(has_word("x unsafe_code unsafe", "unsafe"));
    }

    #[test]
    fn inline_tests_do_not_count_as_lines() {
        let source = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        assert_eq!(lines_without_tests(source), 2);
        assert_eq!(
            lines_without_tests("fn a() {}\n#[cfg(test)]\nmod tests;\nfn b() {}\n"),
            4
        );
    }

    #[test]
    fn empty_type_names_are_found() {
        let file = File {
            path: "a.rs".to_owned(),
            text: "pub struct SlotManager;\n// struct FooManager\nenum Kind {}\n".to_owned(),
        };
        let findings = empty_names(&file);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("a.rs:1: type `SlotManager`"));
    }
}
