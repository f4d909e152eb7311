//! What a user who takes one crate gets: the resolved tree of packages.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{Result, command};

/// Families of packages that a user of `cdc-core` and `cdc-emit-queue` must not get.
const HEAVY: [&str; 14] = [
    "hyper",
    "http",
    "h2",
    "reqwest",
    "rustls",
    "ring",
    "aws-lc",
    "openssl",
    "native-tls",
    "postgres",
    "tokio-postgres",
    "sqlx",
    "rusqlite",
    "toml",
];

/// The log without database readers may pull at most this many other packages, those that run
/// only while it is built included.
const WAL_PACKAGES_MAX: usize = 25;

/// The other packages that a crate without default features is built from on this platform; build
/// scripts, macros and what they need count, what only tests need does not.
fn packages(package: &str) -> Result<BTreeSet<String>> {
    let text = command::output(&mut command::cargo(&[
        "tree",
        "--package",
        package,
        "--no-default-features",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let mut packages = parse(&text);
    packages.retain(|other| other.split(' ').next() != Some(package));
    Ok(packages)
}

/// `name v1.2.3 (path) (*)` to `name 1.2.3`.
fn parse(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            Some(format!("{name} {}", words.next()?.trim_start_matches('v')))
        })
        .collect()
}

fn is_heavy(package: &str) -> bool {
    let name = package.split(' ').next().unwrap_or_default();
    HEAVY.iter().any(|heavy| {
        name.strip_prefix(heavy)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// No HTTP, TLS or database client for those who want the queue only; the embeddable log is small.
pub(super) fn light_crates(_root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for crate_name in [
        "cdc-core",
        "cdc-emit-queue",
        "cdc-filter",
        "cdc-dlq",
        "cdc-emit-file",
    ] {
        for package in packages(crate_name)?
            .iter()
            .filter(|package| is_heavy(package))
        {
            findings.push(format!(
                "{crate_name} without default features pulls {package}"
            ));
        }
    }
    let wal = packages("cdc-wal")?;
    for package in wal.iter().filter(|package| is_heavy(package)) {
        findings.push(format!("cdc-wal without default features pulls {package}"));
    }
    if wal.len() > WAL_PACKAGES_MAX {
        findings.push(format!(
            "cdc-wal without default features pulls {} packages, at most \
             {WAL_PACKAGES_MAX}: {}",
            wal.len(),
            wal.into_iter().collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(findings)
}

/// A line a library crate: how many other packages it is built from.
pub(super) fn sizes(_root: &Path) -> Result<Vec<String>> {
    let names = [
        "cdc-core",
        "cdc-wal",
        "cdc-filter",
        "cdc-dlq",
        "cdc-emit-queue",
        "cdc-emit-file",
        "cdc-emit-webhook",
    ];
    names
        .into_iter()
        .map(|name| {
            Ok(format!(
                "{name:<17} {:>3} other packages",
                packages(name)?.len()
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_read_once_a_package() {
        let text = "cdc-core v0.0.0 (/x)\nbytes v1.11.1\nserde v1.0.2 (*)\nbytes v1.11.1 (*)\n";
        let packages: Vec<String> = parse(text).into_iter().collect();
        assert_eq!(packages, ["bytes 1.11.1", "cdc-core 0.0.0", "serde 1.0.2"]);
    }

    #[test]
    fn families_are_matched_by_name() {
        for (package, heavy) in [
            ("hyper 1.10.0", true),
            ("hyper-util 0.1.19", true),
            ("httparse 1.0.0", false),
            ("postgres-protocol 0.6.12", true),
            ("rustls 0.23.0", true),
            ("rustix 1.1.0", false),
            ("ring 0.17.0", true),
            ("string-cache 0.1.0", false),
        ] {
            assert_eq!(is_heavy(package), heavy, "{package}");
        }
    }
}
