//! `check`: connect, and name every setting that is wrong, with its remedy.

use cdc_wal::postgres::{self, Finding, Severity};
use cdc_wal::{StartAt, WalTail};
use serde_json::json;

use crate::args::{CheckArgs, Global, require_source};
use crate::assemble::source;
use crate::config::{Config, Source};
use crate::exit::Exit;
use crate::output::answer;
use crate::report::CliError;

pub(crate) fn run(_args: &CheckArgs, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    let source = require_source(&config)?;
    let mut findings = match source {
        Source::Postgres(url) => {
            let postgres = source::postgres(&config, url, false)?;
            super::block_on(postgres::check(&postgres))??
        }
        Source::Sqlite(path) => {
            let sqlite = source::sqlite(&config, path);
            let found = super::block_on(cdc_wal::sqlite::check(&sqlite))??;
            found
                .into_iter()
                .map(|f| {
                    let severity = match f.severity {
                        cdc_wal::sqlite::Severity::Ok => Severity::Ok,
                        cdc_wal::sqlite::Severity::Warning => Severity::Warning,
                        cdc_wal::sqlite::Severity::Error => Severity::Error,
                    };
                    finding(severity, &f.subject, f.found, &f.remedy)
                })
                .collect()
        }
        Source::Wal(dir) => {
            let clock = std::sync::Arc::new(cdc_core::SystemClock::new());
            let storage = cdc_core::storage::StdStorage::shared();
            let tail = WalTail::open(storage, dir, StartAt::Latest, clock)
                .map_err(|error| source::wal_error(dir, error))?;
            vec![finding(
                Severity::Ok,
                "log",
                format!("ends at {}", tail.end()),
                "",
            )]
        }
    };
    findings.extend(directories(&config));
    let worst = findings
        .iter()
        .map(|f| f.severity)
        .max()
        .unwrap_or(Severity::Ok);
    answer(
        global.output,
        || text(&source.to_string(), &findings),
        || {
            let rows = findings.iter().map(|f| {
                json!({
                    "severity": name(f.severity),
                    "subject": f.subject,
                    "found": f.found,
                    "remedy": (!f.remedy.is_empty()).then_some(&f.remedy),
                })
            });
            json!({ "source": source.to_string(), "ok": worst != Severity::Error, "findings": rows.collect::<Vec<_>>() })
        },
    )?;
    Ok(if worst == Severity::Error {
        Exit::Configuration
    } else {
        Exit::Done
    })
}

fn finding(severity: Severity, subject: &str, found: impl Into<String>, remedy: &str) -> Finding {
    Finding {
        severity,
        subject: subject.into(),
        found: found.into(),
        remedy: remedy.into(),
    }
}

/// The directories `run` writes to: there and writable, or creatable.
fn directories(config: &Config) -> Vec<Finding> {
    [
        ("state_path", &config.state_path),
        ("dlq_path", &config.dead_letters.path),
    ]
    .into_iter()
    .map(|(key, path)| {
        let nearest = path.ancestors().find(|p| p.exists()).unwrap_or(path);
        match rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK) {
            Ok(()) => finding(
                Severity::Ok,
                key,
                format!("{} is writable", path.display()),
                "",
            ),
            Err(error) => finding(
                Severity::Error,
                key,
                format!(
                    "{} cannot be written: {}",
                    path.display(),
                    std::io::Error::from(error)
                ),
                "create the directory for this user, or set the key to another one",
            ),
        }
    })
    .collect()
}

const fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn text(source: &str, findings: &[Finding]) -> String {
    let mut out = format!("{source}\n");
    let width = findings
        .iter()
        .map(|f| f.subject.chars().count())
        .max()
        .unwrap_or(0);
    for f in findings {
        out.push_str(&format!(
            "  {:<7}  {:<width$}  {}\n",
            name(f.severity),
            f.subject,
            f.found
        ));
        if !f.remedy.is_empty() {
            out.push_str(&format!("  {:<7}  {:<width$}  -> {}\n", "", "", f.remedy));
        }
    }
    out
}
