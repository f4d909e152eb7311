//! Rules over documents.

use std::path::Path;

use super::{File, files};
use crate::Result;
use crate::error::Context;

const SECTIONS: [&str; 6] = [
    "Added",
    "Changed",
    "Deprecated",
    "Removed",
    "Fixed",
    "Security",
];

/// The changelog is for users: known sections, full sentences, newest first.
pub(super) fn changelog(root: &Path) -> Result<Vec<String>> {
    let text =
        std::fs::read_to_string(root.join("CHANGELOG.md")).context(|| "read CHANGELOG.md")?;
    Ok(changelog_findings(&text))
}

fn changelog_findings(text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut find = |line: usize, what: &str| findings.push(format!("CHANGELOG.md:{line}: {what}"));
    if text.lines().next() != Some("# Changelog") {
        find(1, "begin with `# Changelog`");
    }
    let first = text.lines().find(|line| line.starts_with("## "));
    if first != Some("## Unreleased") {
        find(1, "the first section is `## Unreleased`");
    }
    let mut item: Option<(usize, String)> = None;
    let mut inside = false;
    let blank = std::iter::once("");
    for (number, line) in text
        .lines()
        .chain(blank)
        .enumerate()
        .map(|(at, line)| (at + 1, line))
    {
        let continues = line.starts_with("  ") && !line.trim().is_empty();
        if continues {
            if let Some((_, text)) = item.as_mut() {
                text.push_str(line);
            }
            continue;
        }
        if let Some((start, text)) = item.take()
            && !text.trim_end().ends_with('.')
        {
            find(start, "an entry is a sentence and ends with a full stop");
        }
        if let Some(name) = line.strip_prefix("### ") {
            inside = true;
            if !SECTIONS.contains(&name) {
                find(
                    number,
                    &format!("section `{name}`; one of {}", SECTIONS.join(", ")),
                );
            }
        } else if line.starts_with("## ") {
            inside = false;
        } else if line.starts_with("- ") {
            if !inside {
                find(number, "an entry stands in a `###` section");
            }
            item = Some((number, line.to_owned()));
        }
    }
    findings
}

/// Every relative link in a document leads to a file that exists, every own anchor to a heading.
pub(super) fn links(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files(root, &[".md"])? {
        for (line, target) in targets(&file) {
            let at = format!("{}:{line}", file.path);
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = match target.split_once('#') {
                Some((path, anchor)) => (path, Some(anchor)),
                None => (target.as_str(), None),
            };
            let base = root.join(&file.path);
            let folder = base.parent().unwrap_or(root);
            let to = if path.is_empty() {
                base.clone()
            } else {
                folder.join(path)
            };
            if !to.exists() {
                findings.push(format!("{at}: `{target}` leads nowhere"));
                continue;
            }
            let Some(anchor) = anchor.filter(|_| to.extension().is_some_and(|end| end == "md"))
            else {
                continue;
            };
            let text = std::fs::read_to_string(&to).context(|| format!("read {}", to.display()))?;
            if !anchors(&text).contains(&anchor.to_owned()) {
                findings.push(format!("{at}: `{target}` names no heading"));
            }
        }
    }
    Ok(findings)
}

/// Lines outside code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((at + 1, line))
    })
}

/// The targets of inline links, with their lines; code spans left out.
fn targets(file: &File) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(&file.text) {
        let plain: String = line
            .split('`')
            .enumerate()
            .map(|(at, part)| if at % 2 == 0 { part } else { "" })
            .collect();
        let mut rest = plain.as_str();
        while let Some((_, tail)) = rest.split_once("](") {
            let end = tail.find(')').unwrap_or(tail.len());
            let target = tail.get(..end).unwrap_or_default();
            let target = target.split_whitespace().next().unwrap_or_default();
            found.push((number, target.trim_matches(['<', '>']).to_owned()));
            rest = tail.get(end..).unwrap_or_default();
        }
    }
    found
}

/// The anchors that headings get: lower case, words joined by hyphens.
fn anchors(text: &str) -> Vec<String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|char| char.is_alphanumeric() || " -_".contains(*char))
                .map(|char| if char == ' ' { '-' } else { char })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changelog_in_form_has_no_findings() {
        let text = "# Changelog\n\nWords.\n\n## Unreleased\n\n### Added\n- One thing.\n- Another\n  of two lines.\n";
        assert_eq!(changelog_findings(text), Vec::<String>::new());
    }

    #[test]
    fn changelog_mistakes_are_found() {
        for (text, expected) in [
            (
                "# Changes\n\n## Unreleased\n",
                "CHANGELOG.md:1: begin with `# Changelog`",
            ),
            (
                "# Changelog\n\n## 1.0\n",
                "CHANGELOG.md:1: the first section is `## Unreleased`",
            ),
            (
                "# Changelog\n\n## Unreleased\n\n### Added\n- One thing\n",
                "CHANGELOG.md:6: an entry is a sentence and ends with a full stop",
            ),
            (
                "# Changelog\n\n## Unreleased\n- One thing.\n",
                "CHANGELOG.md:4: an entry stands in a `###` section",
            ),
        ] {
            assert_eq!(changelog_findings(text), [expected]);
        }
        let found = changelog_findings("# Changelog\n\n## Unreleased\n\n### News\n- A.\n");
        assert!(
            found[0].starts_with("CHANGELOG.md:5: section `News`"),
            "{found:?}"
        );
    }

    #[test]
    fn links_in_code_are_no_links() {
        let file = File {
            path: "a.md".to_owned(),
            text: "[a](b.md#c) and `[d](e)`\n```\n[f](g)\n```\n[h](<i j>) [k](l \"title\")\n"
                .to_owned(),
        };
        let found = targets(&file);
        assert_eq!(
            found,
            [
                (1, "b.md#c".to_owned()),
                (5, "i".to_owned()),
                (5, "l".to_owned())
            ]
        );
    }

    #[test]
    fn headings_become_anchors() {
        assert_eq!(
            anchors("# A `b` C\n## 2. The log, again\n"),
            ["a-b-c", "2-the-log-again"]
        );
    }
}
