//! Installs what the tests need from the distribution, or says how.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::error::Context;
use crate::{Error, Result, command, ensure, postgres};

/// Only clusters we start ourselves should run: Debian's package would start one.
const NO_CLUSTER: &str = "/etc/postgresql-common/createcluster.conf";

/// `cargo xtask setup`: idempotent, and quick when everything is there.
///
/// # Errors
/// Something is missing and could not be installed; the message holds the one command to run.
pub fn run(args: &[String]) -> Result<ExitCode> {
    ensure!(args.is_empty(), "`setup` takes no arguments");
    let mut missing = Vec::new();
    if postgres::program("postgres").is_err() || postgres::program("pgbench").is_err() {
        missing.push("postgresql");
    }
    if postgres::program("psql").is_err() || postgres::program("pg_recvlogical").is_err() {
        missing.push("postgresql-client");
    }
    if command::find("sqlite3", &[]).is_none() {
        missing.push("sqlite3");
    }
    // Example consumers; clients of the HTTP surface: one for programs, and a browser's EventSource.
    for package in ["python3", "curl", "chromium"] {
        if command::find(package, &[]).is_none() {
            missing.push(package);
        }
    }
    // Counts instructions; RocksDB and a compiler for the program that writes it.
    for (program, package) in [
        ("valgrind", "valgrind"),
        ("cc", "gcc"),
        ("ldb", "rocksdb-tools"),
    ] {
        if command::find(program, &[]).is_none() {
            missing.push(package);
        }
    }
    if !Path::new("/usr/include/rocksdb/c.h").exists() {
        missing.push("librocksdb-dev");
    }
    if !has_pip() {
        missing.push("python3-pip");
    }
    if !missing.is_empty() {
        install(&missing)?;
    }
    install_nextest()?;
    install_verifier()?;
    println!("setup: everything is there");
    Ok(ExitCode::SUCCESS)
}

fn install(missing: &[&str]) -> Result<()> {
    let packages = missing.join(" ");
    let remedy = format!("apt-get update && apt-get install -y {packages}");
    let root = std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    if !root || command::find("apt-get", &[]).is_none() {
        return Err(Error::new(format!(
            "{packages} missing; run this as root (on Debian 12, elsewhere the like of it): {remedy}"
        )));
    }
    println!("setup: installing {packages}");
    if !Path::new(NO_CLUSTER).exists() {
        let folder = Path::new(NO_CLUSTER)
            .parent()
            .unwrap_or_else(|| Path::new("/"));
        std::fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
        std::fs::write(
            NO_CLUSTER,
            "create_main_cluster = false\nstart_conf = 'manual'\n",
        )
        .context(|| format!("write {NO_CLUSTER}"))?;
    }
    let policy = NoServices::new()?;
    let apt = |args: &[&str]| {
        command::check(
            Command::new("apt-get")
                .args(args)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    apt(&["update"])?;
    let mut args = vec![
        "install",
        "-y",
        "--no-install-recommends",
        "-o",
        "Dpkg::Options::=--force-confold",
    ];
    args.extend(missing);
    apt(&args)?;
    drop(policy);
    Ok(())
}

/// While this lives, package scripts start no service: Debian asks this file.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").context(|| format!("write {POLICY}"))?;
        let policy = Self { ours: true };
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))
            .context(|| format!("make {POLICY} executable"))?;
        Ok(policy)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_file(POLICY)
        {
            eprintln!("xtask: remove {POLICY}: {error}; remove it by hand, it keeps services off");
        }
    }
}

/// Unlike the distribution's packages this needs no root, only cargo.
fn install_nextest() -> Result<()> {
    let installed = command::output(
        command::cargo(&["nextest", "--version"]).stdin(std::process::Stdio::null()),
    );
    if installed.is_ok() {
        return Ok(());
    }
    println!("setup: installing cargo-nextest (some minutes)");
    command::check(&mut command::cargo(&[
        "install",
        "cargo-nextest",
        "--locked",
    ]))
    .context(|| "install cargo-nextest; or put a ready binary of it into PATH")
}

fn has_pip() -> bool {
    let mut pip = Command::new("python3");
    command::output(pip.args(["-m", "pip", "--version"])).is_ok()
}

/// Another language's check of webhook signatures, with nothing of ours in it, for the tests of the
/// webhook alone: below `target`, not into the system.
const VERIFIER: &str = "standardwebhooks==1.1.0";

fn install_verifier() -> Result<()> {
    let folder = crate::root().join("target/python");
    if folder.join("standardwebhooks/webhooks.py").exists() {
        return Ok(());
    }
    println!("setup: installing the Python package {VERIFIER}");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
        .arg(&folder)
        .arg(VERIFIER);
    command::check(&mut pip).context(|| format!("install {VERIFIER} into {}", folder.display()))
}
