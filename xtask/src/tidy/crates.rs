//! Rules over manifests.

use std::path::Path;

use serde_json::Value;

use super::files;
use crate::error::Context;
use crate::{Result, command};

/// Crates that do one stage of the work; they know the words and seams, not each other.
const STAGES: [&str; 6] = [
    "cdc-wal",
    "cdc-filter",
    "cdc-emit-queue",
    "cdc-emit-webhook",
    "cdc-emit-file",
    "cdc-dlq",
];

/// Whether the crate `from` may depend on the crate `to`, both of this workspace.
fn edge_allowed(from: &str, to: &str) -> bool {
    match from {
        "cdc-cli" => to != "xtask",
        // Its tests use their own crate with the `testing` feature.
        "cdc-core" => to == "cdc-core",
        // Likewise.
        "cdc-wal" => to == "cdc-core" || to == "cdc-wal",
        stage if STAGES.contains(&stage) => to == "cdc-core",
        _ => false,
    }
}

fn is_own(name: &str) -> bool {
    name.starts_with("cdc-") || name == "xtask"
}

/// No edge between the workspace's crates but those of the architecture.
pub(super) fn edges(_root: &Path) -> Result<Vec<String>> {
    Ok(edge_findings(&command::metadata()?))
}

fn edge_findings(metadata: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let from = package["name"].as_str().unwrap_or_default();
        if !(from == "cdc-core" || from == "cdc-cli" || from == "xtask" || STAGES.contains(&from)) {
            findings.push(format!(
                "{from}: not a crate of the architecture; decide what it may know, then list it"
            ));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            if is_own(to) && !edge_allowed(from, to) {
                findings.push(format!("{from} -> {to}: no such edge in the architecture"));
            }
            // `null` is an ordinary dependency.
            let dev = dependency["kind"] == "dev";
            let features = dependency["features"].as_array().into_iter().flatten();
            if !dev && features.into_iter().any(|feature| feature == "testing") {
                findings.push(format!(
                    "{from} -> {to}: feature `testing` outside of tests"
                ));
            }
        }
    }
    findings
}

/// The manifests of the workspace's crates, path and text.
fn manifests(root: &Path) -> Result<Vec<(String, String)>> {
    Ok(files(root, &["Cargo.toml"])?
        .into_iter()
        .filter(|file| file.path != "Cargo.toml" && !file.path.contains("/fuzz/"))
        .map(|file| (file.path, file.text))
        .collect())
}

/// The lines of one table of a manifest, without comments and blanks.
fn table<'a>(text: &'a str, wanted: &str) -> Vec<&'a str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == format!("[{wanted}]");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            lines.push(line);
        }
    }
    lines
}

/// Cargo does not apply the workspace's lints to a crate that does not ask for them.
pub(super) fn lints_inherited(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (path, text) in manifests(root)? {
        if table(&text, "lints") != ["workspace = true"] {
            findings.push(format!(
                "{path}: write `[lints]` with `workspace = true`, nothing else"
            ));
        }
    }
    let workspace = std::fs::read_to_string(root.join("Cargo.toml"))
        .context(|| "read the workspace's Cargo.toml")?;
    let rust = table(&workspace, "workspace.lints.rust");
    for lint in ["missing_docs = \"warn\"", "unsafe_code = \"deny\""] {
        if !rust.contains(&lint) {
            findings.push(format!(
                "Cargo.toml: `{lint}` is missing in [workspace.lints.rust]"
            ));
        }
    }
    Ok(findings)
}

/// One version, edition and licence for all.
pub(super) fn fields_inherited(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (path, text) in manifests(root)? {
        let package = table(&text, "package");
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            if !package.contains(&format!("{field}.workspace = true").as_str()) {
                findings.push(format!("{path}: write `{field}.workspace = true`"));
            }
        }
    }
    Ok(findings)
}

/// Versions and reasons stand in one place.
pub(super) fn dependencies_from_workspace(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (path, text) in manifests(root)? {
        for name in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for line in table(&text, name) {
                // A crate's tests may name the crate itself.
                let own = line.contains("path = \".\"");
                if !own && !line.contains("workspace = true") {
                    findings.push(format!(
                        "{path}: `{line}`; put it into [workspace.dependencies] with its reason, \
                         and write `workspace = true` here"
                    ));
                }
            }
        }
    }
    let workspace = std::fs::read_to_string(root.join("Cargo.toml"))
        .context(|| "read the workspace's Cargo.toml")?;
    for line in table(&workspace, "workspace.dependencies") {
        if !line.contains("path = ") && !line.contains(" # ") {
            findings.push(format!(
                "Cargo.toml: `{line}`; say in a comment what it is for"
            ));
        }
    }
    Ok(findings)
}

/// Everything comes from crates.io, and no one's mirror is written into the repository.
pub(super) fn one_registry(root: &Path) -> Result<Vec<String>> {
    const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";
    let mut findings = Vec::new();
    for file in files(root, &["Cargo.lock", ".toml"])? {
        for (number, line) in file.text.lines().enumerate() {
            let line = line.trim();
            let at = format!("{}:{}", file.path, number + 1);
            if let Some(source) = line.strip_prefix("source = ")
                && file.path.ends_with("Cargo.lock")
                && source.trim_matches('"') != SOURCE
            {
                findings.push(format!("{at}: source {source}; only crates.io"));
            }
            if [
                "replace-with",
                "sparse+",
                "index = \"http",
                "registry = \"http",
            ]
            .iter()
            .any(|text| line.contains(text))
            {
                findings.push(format!("{at}: names a registry; that belongs to a machine"));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_drawn_edges_pass() {
        for (from, to, allowed) in [
            ("cdc-core", "cdc-core", true),
            ("cdc-core", "cdc-filter", false),
            ("cdc-wal", "cdc-core", true),
            ("cdc-wal", "cdc-dlq", false),
            ("cdc-emit-file", "cdc-emit-queue", false),
            ("cdc-cli", "cdc-wal", true),
            ("cdc-cli", "xtask", false),
            ("xtask", "cdc-core", false),
        ] {
            assert_eq!(edge_allowed(from, to), allowed, "{from} -> {to}");
        }
    }

    #[test]
    fn a_foreign_edge_and_a_leaked_test_feature_are_found() {
        let metadata = serde_json::json!({"packages": [
            {"name": "cdc-filter", "dependencies": [
                {"name": "cdc-wal", "kind": null, "features": []},
                {"name": "cdc-core", "kind": null, "features": ["testing"]},
                {"name": "cdc-core", "kind": "dev", "features": ["testing"]},
                {"name": "bytes", "kind": null, "features": []},
            ]},
            {"name": "cdc-new", "dependencies": []},
        ]});
        assert_eq!(
            edge_findings(&metadata),
            [
                "cdc-filter -> cdc-wal: no such edge in the architecture",
                "cdc-filter -> cdc-core: feature `testing` outside of tests",
                "cdc-new: not a crate of the architecture; decide what it may know, then list it",
            ]
        );
    }

    #[test]
    fn tables_are_cut_out() {
        let text = "[a]\nx = 1\n# no\n\n[a.b]\ny = 2\n[lints]\nworkspace = true\n";
        assert_eq!(table(text, "a"), ["x = 1"]);
        assert_eq!(table(text, "lints"), ["workspace = true"]);
        assert!(table(text, "c").is_empty());
    }
}
