//! `dlq redrive`: letters back to their emitter, a part at a time.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use cdc_core::EventId;
use serde_json::json;

use super::{ask, counted, known, reader, refused, selected};
use crate::args::{DlqRedriveArgs, Global};
use crate::assemble::control::{Redriven, Reply, Request};
use crate::assemble::redrive::Offline;
use crate::config::Config;
use crate::exit::Exit;
use crate::output::answer_beside;
use crate::progress::Bar;
use crate::report::CliError;

/// Letters of one part: live events wait for the end of a part, not of all.
const PART: usize = 200;
/// Most letters of one part at a high rate.
const PART_MAX: u32 = 10_000;
/// How often letters are looked for that died while the others went.
const ROUNDS_MAX: usize = 100;

pub(super) fn run(
    args: &DlqRedriveArgs,
    global: &Global,
    config: &Config,
) -> Result<Exit, CliError> {
    let mut found = selected(&reader(config)?, &args.ids, &args.selection)?;
    known(config, &args.selection, &found)?;
    if args.dry_run {
        return counted("would be redriven", &found, global);
    }
    let mut reports: BTreeMap<String, Redriven> = BTreeMap::new();
    let (mut errors, mut broken) = (Vec::new(), None);
    let mut seen: HashSet<(String, EventId)> = HashSet::new();
    let mut bar = Bar::new(global);
    let mut printed = false;
    for _ in 0..ROUNDS_MAX {
        for (emitter, ids) in found {
            let report = reports.entry(emitter.clone()).or_default();
            if report.stopped.is_none()
                && let Err(error) =
                    redrive(config, &emitter, &ids, args, report, &mut bar, &mut printed)
            {
                // The others' letters can go, and what has gone is to be said.
                report.stopped = Some(error.line());
                errors.push(error);
            }
            seen.extend(ids.into_iter().map(|id| (emitter.clone(), id)));
        }
        // What came to wait behind a letter while it was sent goes as well; what was named alone,
        // alone.
        if !args.ids.is_empty() {
            break;
        }
        found = match reader(config).and_then(|reader| selected(&reader, &[], &args.selection)) {
            Ok(found) => found,
            Err(error) => {
                broken = Some(error);
                break;
            }
        };
        for (emitter, ids) in &mut found {
            ids.retain(|id| !seen.contains(&(emitter.clone(), *id)));
        }
        found.retain(|_, ids| !ids.is_empty());
        if found.is_empty() {
            break;
        }
    }
    bar.clear();
    // Where nothing at all could be done, and that alike for each, the error is the answer.
    let sent = reports.values().any(|r| r.delivered > 0 || r.failed > 0);
    let alike = errors.windows(2).all(|two| two[0].code() == two[1].code());
    if !sent && alike && errors.len() == reports.len() && !errors.is_empty() {
        return Err(errors.remove(0));
    }
    let failed = reports
        .values()
        .any(|r| r.failed > 0 || r.stopped.is_some());
    answer_beside(
        printed,
        global.output,
        || {
            if reports.is_empty() {
                return "no dead letters\n".to_owned();
            }
            let line = |(emitter, r): (&String, &Redriven)| {
                let stopped = r
                    .stopped
                    .as_ref()
                    .map_or_else(String::new, |why| format!("; stopped: {why}"));
                format!(
                    "{emitter}: {} delivered, {} failed again, {} left alone{stopped}\n",
                    r.delivered, r.failed, r.skipped
                )
            };
            reports.iter().map(line).collect()
        },
        || json!({ "redriven": reports }),
    )?;
    match broken {
        Some(error) => Err(error),
        None if failed => Ok(Exit::Partly),
        None => Ok(Exit::Done),
    }
}

/// Sends letters of one emitter in the order of their positions, a part at a time; a key's later
/// letters follow in the same part or in a later one.
fn redrive(
    config: &Config,
    emitter: &str,
    ids: &[EventId],
    args: &DlqRedriveArgs,
    sum: &mut Redriven,
    bar: &mut Bar,
    printed: &mut bool,
) -> Result<(), CliError> {
    let (part, every) = match args.rate {
        None => (PART, Duration::ZERO),
        Some(rate) => {
            let part = rate.min(PART_MAX);
            let every = Duration::from_secs(1) * part / rate;
            (usize::try_from(part).unwrap_or(PART), every)
        }
    };
    // A process may start or end between two parts: each part finds out who does it.
    let mut offline = None;
    let mut due = Instant::now();
    let before = (sum.delivered, sum.failed);
    let mut failed = None;
    for (at, some) in ids.chunks(part).enumerate() {
        let words = format!(
            "{emitter}: {} delivered, {} failed",
            sum.delivered, sum.failed
        );
        bar.show((at * part) as u64, ids.len() as u64, &words);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due = Instant::now() + every;
        let report = match send(config, emitter, some, args.as_was, &mut offline) {
            Ok(report) => report,
            Err(error) => {
                failed = Some(error);
                break;
            }
        };
        sum.delivered += report.delivered;
        sum.failed += report.failed;
        sum.stopped = report.stopped;
        if sum.stopped.is_some() {
            break;
        }
    }
    // Each part leaves the letters of all others alone: what counts is what nobody dealt with.
    let dealt = sum.delivered - before.0 + sum.failed - before.1;
    sum.skipped += (ids.len() as u64).saturating_sub(dealt);
    *printed |= offline.as_ref().is_some_and(Offline::prints);
    let ended = offline.map_or(Ok(()), Offline::finish);
    failed.map_or(ended, Err)
}

/// Asks the running process, or does it here if there is none.
fn send<'a>(
    config: &'a Config,
    emitter: &str,
    ids: &[EventId],
    as_was: bool,
    offline: &mut Option<Offline<'a>>,
) -> Result<Redriven, CliError> {
    if let Some(offline) = offline {
        return offline.redrive(ids, as_was);
    }
    let request = Request::Redrive {
        emitter: emitter.to_owned(),
        ids: ids.iter().map(ToString::to_string).collect(),
        as_was,
    };
    match ask(config, &request)? {
        Some(Reply::Redrive(report)) => Ok(report),
        Some(other) => Err(refused(other)),
        None => offline
            .insert(Offline::open(config, emitter)?)
            .redrive(ids, as_was),
    }
}
