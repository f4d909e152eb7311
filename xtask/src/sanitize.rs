//! `sanitize`: tests of what is most threaded and closest to the bytes, under a sanitizer.

use std::process::ExitCode;

use crate::ci::{self, Counts};
use crate::options::Options;
use crate::{Error, Result, command, ensure};

/// Tests that run threads against each other, or the one file with `unsafe`.
const TESTS: [&[&str]; 4] = [
    &[
        "--package",
        "cdc-wal",
        "--test",
        "it",
        "--",
        "commit::",
        "mapped::",
        "follow::",
    ],
    &["--package", "cdc-wal", "--lib", "--", "log::", "notify::"],
    &[
        "--package",
        "cdc-emit-queue",
        "--test",
        "it",
        "--",
        "threads::",
        "bounds::",
    ],
    &[
        "--package",
        "cdc-core",
        "--lib",
        "--",
        "pipeline::tests::concurrency",
        "watermark::",
    ],
];

/// `cargo xtask sanitize [address|thread]`.
///
/// # Errors
/// The sanitizer is not one of the two, or cargo cannot be started.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let options = Options::parse(args, &[], &[])?;
    let names: Vec<&str> = match options.words() {
        [] => vec!["address", "thread"],
        [name] => vec![name],
        _ => return Err(Error::new("name one sanitizer: address or thread")),
    };
    let mut counts = Counts::default();
    for name in names {
        ensure!(
            ["address", "thread"].contains(&name),
            "there is no sanitizer {name} here: address or thread"
        );
        ensure!(
            name != "thread" || has_library()?,
            "run tests under the thread sanitizer: the sources of the standard library are missing; install them with `rustup component add rust-src`"
        );
        let own = run(name)?;
        println!(
            "sanitize {name}: {} passed, {} failed",
            own.passed, own.failed
        );
        counts.add(own);
    }
    Ok(if counts.failed == 0 && counts.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds the tests for the machine's own target, so that build scripts and macros stay as they
/// are, and runs them.
fn run(name: &str) -> Result<Counts> {
    let target = host()?;
    let mut counts = Counts::default();
    for tests in TESTS {
        let end = tests
            .iter()
            .position(|&word| word == "--")
            .unwrap_or(tests.len());
        let (build, filters) = tests.split_at(end);
        let mut cargo = command::cargo(&["test", "--target", &target]);
        cargo.arg("--target-dir");
        cargo.arg(command::target_dir()?.join("sanitize").join(name));
        if name == "thread" {
            // What the standard library orders must be seen, or every lock looks like a race.
            cargo.arg("-Zbuild-std");
        }
        cargo.args(build).args(filters);
        cargo
            .env("RUSTC_BOOTSTRAP", "1")
            .env(
                "RUSTFLAGS",
                format!("-Zsanitizer={name} -Cunsafe-allow-abi-mismatch=sanitizer"),
            )
            .env("TSAN_OPTIONS", "halt_on_error=1")
            // What a test leaves to the end of its process is no leak.
            .env("ASAN_OPTIONS", "detect_leaks=0");
        counts.add(ci::counted(&mut cargo, ci::doctest_counts)?);
    }
    Ok(counts)
}

/// The sources of the standard library are there, to be built with the sanitizer.
fn has_library() -> Result<bool> {
    let mut rustc = std::process::Command::new("rustc");
    let root = command::output(rustc.args(["--print", "sysroot"]))?;
    let library = std::path::Path::new(root.trim()).join("lib/rustlib/src/rust/library");
    Ok(library.is_dir())
}

/// The machine's own target.
fn host() -> Result<String> {
    let said = command::output(std::process::Command::new("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .ok_or_else(|| Error::new("ask rustc for its host: not in its answer"))
}
