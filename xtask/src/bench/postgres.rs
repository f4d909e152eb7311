//! Catching up with a backlog in PostgreSQL, beside `pg_recvlogical` on the same backlog.
//!
//! Both read from copies of one slot that was made before the backlog, in turn, so both get the
//! same bytes from the same server in the same minutes. `pg_recvlogical` writes what it gets to
//! `/dev/null`; `cdc-cli` decodes it, takes it into its journal and writes JSON to a file whose
//! lines are counted.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::measure::{Ballast, Cost, measure, measure_with, median, number};
use super::{Settings, Target, verdicts};
use crate::error::Context;
use crate::guard::TempDir;
use crate::postgres::Postgres;
use crate::{Result, ensure, runs};

/// What is written before it is read.
struct Backlog {
    name: &'static str,
    /// Events at full size.
    events: u64,
    /// Events of one transaction; 0: all in one.
    transaction: u64,
    op: &'static str,
    /// What is asked for.
    targets: &'static [Target],
    /// Most processor seconds a million events by TCP, and what `pg_recvlogical` took on the machine
    /// and backlog that number is from (decision 0021).
    cpu: Option<(f64, f64)>,
}

/// As good as the server's own client.
const CATCH_UP_TARGETS: [Target; 2] =
    [("rate_ratio", true, 1.0), ("resident_mib_max", false, 64.0)];

/// Least rate by Unix socket, as a share of `pg_recvlogical`'s: both wait for the server's one
/// process there, so the ratio is one, less what the disk takes of two processors, give or take the
/// hour (decision 0021).
const BESIDE_THE_SERVER: f64 = 0.8;

const CATCH_UP: [Backlog; 2] = [
    Backlog {
        name: "inserts, 10 a transaction",
        events: 1_000_000,
        transaction: 10,
        op: "insert",
        targets: &CATCH_UP_TARGETS,
        cpu: Some((3.0, 4.1)),
    },
    Backlog {
        name: "full-row updates",
        events: 500_000,
        transaction: 10,
        op: "update",
        targets: &CATCH_UP_TARGETS,
        cpu: Some((3.0, 3.8)),
    },
];

const LARGE: Backlog = Backlog {
    name: "one transaction",
    events: 5_000_000,
    transaction: 0,
    op: "insert",
    targets: &[("resident_mib_max", false, 64.0)],
    cpu: None,
};

/// How both readers reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    /// What one uses beside the database: without the kernel's work for TCP, part of which (freeing
    /// what the server sent) is charged to the reader.
    UnixSocket,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp, loopback",
            Self::UnixSocket => "unix socket",
        }
    }
}

/// What one event becomes on disk, journal and JSON, about.
const BYTES_OF_EVENT: u64 = 1200;

/// Rows of about 130 bytes with the whole old row as identity.
const TABLE: &str = "drop table if exists bench; \
    create table bench (id bigint primary key, aid int, balance int, filler char(84), \
    ts timestamptz); alter table bench replica identity full";

const ROW: &str = "g, g % 100000, g * 7 % 1000000, md5(g::text), \
    timestamptz '2026-01-01' + g * interval '1 second'";

/// Commits every `size` rows: the loop runs inside the server.
const WRITER: &str = "create or replace procedure write_bench(op text, total bigint, size bigint) \
    language plpgsql as $$ declare at bigint := 0; upper bigint; begin \
    while at < total loop upper := least(at + size, total); \
    if op = 'insert' then \
      insert into bench select ROW from generate_series(at + 1, upper) g; \
    else update bench set balance = balance + 1, ts = ts + interval '1 second' \
      where id between at + 1 and upper; end if; \
    commit; at := upper; end loop; end $$";

/// The catch-up benchmark: rates, CPU and memory, and their ratio to `pg_recvlogical`.
///
/// # Errors
/// A program fails, or the destination does not hold exactly the backlog.
pub(super) fn catch_up(settings: &Settings) -> Result<Value> {
    backlogs(
        settings,
        &CATCH_UP,
        &[Transport::Tcp, Transport::UnixSocket],
        settings.rounds,
    )
}

/// One transaction that is far larger than memory should be.
///
/// # Errors
/// As [`catch_up`].
pub(super) fn large(settings: &Settings) -> Result<Value> {
    backlogs(settings, &[LARGE], &[Transport::Tcp], 1)
}

fn backlogs(
    settings: &Settings,
    backlogs: &[Backlog],
    transports: &[Transport],
    rounds: u32,
) -> Result<Value> {
    let postgres = Postgres::start()?;
    postgres.psql(&WRITER.replace("ROW", ROW))?;
    // Writing the backlog is not what is measured.
    postgres.psql("alter system set synchronous_commit = off")?;
    postgres.psql("select pg_reload_conf()")?;
    let mut results = Vec::new();
    for backlog in backlogs {
        results.extend(run(settings, &postgres, backlog, transports, rounds)?);
    }
    Ok(Value::Array(results))
}

fn run(
    settings: &Settings,
    postgres: &Postgres,
    backlog: &Backlog,
    transports: &[Transport],
    rounds: u32,
) -> Result<Vec<Value>> {
    let events = settings.scaled(backlog.events);
    let name = backlog.name;
    eprintln!("bench: {name}: writing a backlog of {events} events");
    postgres.psql(TABLE)?;
    if backlog.op == "update" {
        postgres.psql(&format!(
            "insert into bench select {ROW} from generate_series(1, {events}) g"
        ))?;
    }
    postgres.psql("drop publication if exists bench")?;
    postgres.psql("create publication bench for table bench")?;
    postgres.psql("select pg_create_logical_replication_slot('backlog', 'pgoutput')")?;
    let size = if backlog.transaction == 0 {
        events
    } else {
        backlog.transaction
    };
    postgres.psql(&format!(
        "call write_bench('{}', {events}, {size})",
        backlog.op
    ))?;
    // A reader that waits for an end position sees it in the next keepalive.
    let end = postgres.psql("select pg_current_wal_insert_lsn()")?;
    let mut results = Vec::new();
    for &transport in transports {
        results.push(catch_up_by(
            settings, postgres, backlog, transport, rounds, &end,
        )?);
    }
    postgres.psql("select pg_drop_replication_slot('backlog')")?;
    Ok(results)
}

fn catch_up_by(
    settings: &Settings,
    postgres: &Postgres,
    backlog: &Backlog,
    transport: Transport,
    rounds: u32,
    end: &str,
) -> Result<Value> {
    let events = settings.scaled(backlog.events);
    let (name, transport_name) = (backlog.name, transport.name());
    let mut theirs = Vec::new();
    let mut ours = Vec::new();
    for round in 0..rounds {
        // Who goes first changes, so that neither always finds the server's caches warm.
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                theirs.push(recvlogical(postgres, transport, end)?);
            } else {
                ours.push(capture(settings, postgres, transport, backlog.op, events)?);
            }
        }
        if let (Some(theirs), Some(ours)) = (theirs.last(), ours.last()) {
            eprintln!(
                "bench: {name}, {transport_name}: round {}: pg_recvlogical {:.2} s, cdc-cli {:.2} s",
                round + 1,
                theirs.wall,
                ours.wall
            );
        }
    }
    let theirs = summary(&theirs, events);
    let ours = summary(&ours, events);
    let ratio = |name: &str| {
        let value = |of: &Value| of[name].as_f64().unwrap_or(0.0);
        value(&ours) / value(&theirs).max(f64::MIN_POSITIVE)
    };
    let rate_ratio = round_to(ratio("events_per_second"), 3);
    let cpu_ratio = round_to(ratio("cpu_seconds_per_million"), 3);
    let judged = [
        ("rate_ratio", json!(rate_ratio)),
        ("cpu_ratio", json!(cpu_ratio)),
        ("resident_mib_max", ours["resident_mib_max"].clone()),
    ];
    let judged = judged.map(|(name, value)| (name.to_owned(), value));
    let mut wanted = backlog.targets.to_vec();
    match (transport, backlog.cpu) {
        (Transport::Tcp, Some((most, reference))) => {
            wanted.push(("cpu_ratio", false, round_to(most / reference, 2)));
        }
        (Transport::Tcp, None) => {}
        (Transport::UnixSocket, _) => {
            for (name, _, limit) in &mut wanted {
                if *name == "rate_ratio" {
                    *limit = BESIDE_THE_SERVER;
                }
            }
        }
    }
    let targets = verdicts(&wanted, &judged.into_iter().collect());
    Ok(json!({
        "backlog": name,
        "transport": transport_name,
        "events": events,
        "rounds": rounds,
        "counted_at_destination": events,
        "pg_recvlogical": theirs,
        "cdc_cli": ours,
        "rate_ratio": rate_ratio,
        "cpu_ratio": cpu_ratio,
        "targets": targets,
    }))
}

fn summary(costs: &[Cost], events: u64) -> Value {
    let of = |pick: fn(&Cost) -> f64| median(&costs.iter().map(pick).collect::<Vec<_>>());
    let wall = of(|cost| cost.wall);
    let highest = costs
        .iter()
        .map(|cost| cost.resident_mib)
        .fold(0.0, f64::max);
    json!({
        "wall_seconds": round_to(wall, 3),
        "events_per_second": (number(events) / wall).round(),
        "cpu_seconds_per_million": round_to(of(|cost| cost.cpu) * 1e6 / number(events), 3),
        "resident_mib_max": round_to(highest, 1),
    })
}

fn round_to(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

fn with_slot<T>(postgres: &Postgres, slot: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    postgres.psql(&format!(
        "select pg_copy_logical_replication_slot('backlog', '{slot}')"
    ))?;
    let outcome = run();
    // The server may need a moment to see that the reader has gone.
    postgres.psql(&format!(
        "do $$ begin while (select active from pg_replication_slots where slot_name = '{slot}') \
         loop perform pg_sleep(0.01); end loop; end $$; select pg_drop_replication_slot('{slot}')"
    ))?;
    outcome
}

fn recvlogical(postgres: &Postgres, transport: Transport, end: &str) -> Result<Cost> {
    let dir = TempDir::new("bench")?;
    with_slot(postgres, "bench_recvlogical", || {
        let mut command = postgres.client("pg_recvlogical")?;
        if transport == Transport::UnixSocket {
            command.env("PGHOST", postgres.socket_folder());
        }
        command.args([
            "--dbname",
            "postgres",
            "--start",
            "--slot",
            "bench_recvlogical",
            "--file",
            "/dev/null",
        ]);
        command.args([
            "--option",
            "proto_version=1",
            "--option",
            "publication_names=bench",
        ]);
        command.args(["--endpos", end, "--no-loop"]);
        measure(&mut command, "pg_recvlogical", &dir.join("log"))
    })
}

fn capture(
    settings: &Settings,
    postgres: &Postgres,
    transport: Transport,
    op: &str,
    events: u64,
) -> Result<Cost> {
    let url = match transport {
        Transport::Tcp => postgres.url(),
        Transport::UnixSocket => postgres.socket_url(),
    };
    let dir = TempDir::new("bench")?;
    let files = dir.join("events");
    let config = dir.join("cdc.toml");
    let text = format!(
        "[cdc]\nsource = {:?}\nstate_path = {:?}\nemitter = \"file\"\n\n[cdc.file]\npath = {files:?}\n\n\
         [cdc.postgres]\nslot = \"bench_cdc\"\npublication = \"bench\"\n",
        url,
        dir.join("state"),
    );
    std::fs::write(&config, text).context(|| "write the configuration")?;
    let cost = with_slot(postgres, "bench_cdc", || {
        let mut command = Command::new(&settings.cli);
        command
            .args(["run", "--once", "-c"])
            .arg(&config)
            .current_dir(dir.path());
        let ballast = Ballast::new(events.saturating_mul(BYTES_OF_EVENT))?;
        measure_with(
            &mut command,
            "cdc-cli run --once",
            &dir.join("log"),
            ballast,
        )
    })?;
    let counted = count(&files, op)?;
    ensure!(
        counted == events,
        "the file holds {counted} events instead of {events}"
    );
    Ok(cost)
}

/// Lines of the file emitter's files; each must be an event of this operation.
fn count(folder: &Path, op: &str) -> Result<u64> {
    let wanted = format!("\"op\":\"{op}\"");
    let mut count = 0;
    for file in runs::event_files(folder)? {
        let shown = file.display().to_string();
        let file = std::fs::File::open(&file).context(|| format!("open {shown}"))?;
        for line in BufReader::with_capacity(1 << 20, file).split(b'\n') {
            let line = line.context(|| format!("read {shown}"))?;
            // The operation stands near the begin, before anything from a row.
            let head = String::from_utf8_lossy(line.get(..line.len().min(256)).unwrap_or_default());
            ensure!(head.contains(&wanted), "{shown}: a line that is no {op}");
            count += 1;
        }
    }
    Ok(count)
}
