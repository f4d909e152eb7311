//! What the writers do: pgbench's TPC-B-like transactions, and tables made to break a reader.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::random::Random;
use crate::command::Running;
use crate::error::Context;
use crate::guard::TempDir;
use crate::postgres::Postgres;
use crate::{Result, command};

/// Stands in every value that a transaction takes back again. It must never arrive.
pub(super) const ROLLED_BACK: &str = "this work was rolled back";

/// How many writers of each kind work side by side.
pub(super) const WRITERS: u64 = 4;

/// Tables without a key, whose equal rows are told apart by nothing.
pub(super) const KEYLESS: [(&str, &str); 3] = [
    ("public", "pgbench_history"),
    ("torture", "bag"),
    ("torture", "nothing"),
];

/// The torture tables. Each holds a feature that readers get wrong.
const TABLES: &str = r#"
create schema torture;
set search_path = torture;
create type mood as enum ('sad', 'so so', 'happy "ever" after');
create domain positive as int check (value > 0);
create type pair as (a int, b text);

-- Every built-in type a column may have.
create table types (
  id bigint primary key, b bool, i2 int2, i4 int4, i8 int8, o oid, n numeric, n2 numeric(30, 10),
  f4 float4, f8 float8, m money, t text, v varchar(40), c char(12), nm name, ch "char",
  by bytea, d date, ti time, tz timetz, ts timestamp, tstz timestamptz, iv interval,
  u uuid, j json, jb jsonb, x xml, ip inet, net cidr, mac macaddr, mac8 macaddr8,
  bits bit(5), vbits bit varying(20), pt point, ln line, sg lseg, bx box, pa path, po polygon,
  ci circle, tv tsvector, tq tsquery, lsn pg_lsn, r4 int4range, rn numrange, rts tstzrange,
  mr int4multirange, e mood, dom positive, co pair,
  ai int[], ai8 int8[], at text[], an numeric[], ab bool[], af float8[], ats timestamptz[],
  ad date[], au uuid[], aby bytea[], aj jsonb[], ae mood[],
  gen int generated always as (coalesce(i4, 0) / 2) stored);

-- Composite key whose parts change.
create table keys (a int, b text, v int, primary key (a, b));

-- Values stored out of line, not sent again when another column changes.
create table toast (id int primary key, n int, big text, blob bytea, small text);
alter table toast alter big set storage external, alter blob set storage external;
create table toast_full (id int primary key, n int, big text, small text);
alter table toast_full alter big set storage external;
alter table toast_full replica identity full;

-- No key at all: equal rows, the whole old row as identity.
create table bag (v int, t text);
alter table bag replica identity full;

-- A unique index as identity.
create table by_index (a int not null, b text not null, v text, unique (b, a));
alter table by_index replica identity using index by_index_b_a_key;

-- Nothing as identity: it can only grow.
create table nothing (v int, t text);
alter table nothing replica identity nothing;

-- Columns come and go.
create table ddl (id int primary key, v text);

-- Emptied together, now and then.
create table cut_a (id int primary key, v text);
create table cut_b (id int primary key, a int references cut_a on delete cascade, v text);

-- Rows wander between partitions.
create table part (id int, k int, v text, primary key (id, k)) partition by range (k);
create table part_low partition of part for values from (0) to (500);
create table part_high partition of part for values from (500) to (1000);

-- Names that need quoting.
create table "Odd ""Name"" é" ("Key" int primary key, "a b" text, "select" int, "ünï" text);

create table bulk (id int primary key, v text, n int);
"#;

/// Text that is awkward in SQL, JSON and line-based formats.
const TEXTS: [&str; 9] = [
    "''",
    "'plain'",
    "E'line\\nbreak\\ttab\\r\\\\ back'",
    "'quote \" and '' and `'",
    "'héllo wörld 漢字 😀 \u{200f}'",
    "E'\\x01\\x1f\\x7f control'",
    "'null'",
    "'{\"looks\":\"like json\"}'",
    "null",
];

/// Literals of the types table, a list a column; the first of each list is null.
const VALUES: [(&str, &[&str]); 61] = [
    ("b", &["null", "true", "false"]),
    ("i2", &["null", "-32768", "32767", "0"]),
    ("i4", &["null", "-2147483648", "2147483647", "-1"]),
    (
        "i8",
        &[
            "null",
            "-9223372036854775808",
            "9223372036854775807",
            "9007199254740993",
        ],
    ),
    ("o", &["null", "0", "4294967295"]),
    (
        "n",
        &[
            "null",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "0.000",
            "-1e-30",
            "123456789012345678901234567890.123456789012345678901234567890",
            "1e40",
            "100",
        ],
    ),
    (
        "n2",
        &["null", "12345678901234567890.1234567890", "-0.0000000001"],
    ),
    (
        "f4",
        &[
            "null",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'-0'",
            "3.4028235e38",
            "1e-45",
            "0.1",
        ],
    ),
    (
        "f8",
        &[
            "null",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'-0'",
            "1.7976931348623157e308",
            "5e-324",
            "0.1",
            "1e16",
            "123456789.125",
        ],
    ),
    ("m", &["null", "'-12.34'", "'92233720368547758.07'"]),
    ("t", &TEXTS),
    ("v", &TEXTS),
    ("c", &["null", "'pad'", "''"]),
    ("nm", &["null", "'a name'"]),
    ("ch", &["null", "'x'", "''"]),
    (
        "by",
        &[
            "null",
            "''",
            "'\\x00'",
            "'\\xdeadbeef00ff'",
            "'\\x5c22270a'",
        ],
    ),
    (
        "d",
        &[
            "null",
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 BC'",
            "'0001-12-31 BC'",
            "'5874897-12-31'",
            "'2000-02-29'",
            "'1999-12-31'",
        ],
    ),
    ("ti", &["null", "'00:00'", "'24:00'", "'23:59:59.999999'"]),
    ("tz", &["null", "'12:34:56.789+05:30'", "'00:00-15:59'"]),
    (
        "ts",
        &[
            "null",
            "'infinity'",
            "'-infinity'",
            "'4714-11-24 00:00:00 BC'",
            "'294276-12-31 23:59:59.999999'",
            "'1969-12-31 23:59:59.999999'",
            "'2026-11-22 01:02:03'",
        ],
    ),
    (
        "tstz",
        &[
            "null",
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 12:00:00+00 BC'",
            "'294276-12-31 23:59:59+00'",
            "'2026-03-29 01:30:00.5+01'",
        ],
    ),
    (
        "iv",
        &[
            "null",
            "'1 year 2 mons -3 days 04:05:06.789'",
            "'-00:00:00.000001'",
            "'0'",
        ],
    ),
    (
        "u",
        &[
            "null",
            "'00000000-0000-0000-0000-000000000000'",
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
        ],
    ),
    (
        "j",
        &[
            "null",
            "'{\"b\" : 1,  \"a\": [1.50, null, true]}'",
            "'[]'",
            "'12345678901234567890.10'",
            "'\"text\"'",
            "E'{\\n \"multi\": \"line\"\\n}'",
            "'null'",
        ],
    ),
    (
        "jb",
        &[
            "null",
            "'{\"b\": 1, \"a\": {\"deep\": [[]]}}'",
            "'-0.0'",
            "'1e30'",
            "'\"é\\u00e9\\ud83d\\ude00 \\\\ \\\"\"'",
            "'null'",
        ],
    ),
    ("x", &["null", "'<a b=\"c\">d &amp; e</a>'"]),
    ("ip", &["null", "'192.168.0.1/24'", "'::1'"]),
    ("net", &["null", "'10.0.0.0/8'"]),
    ("mac", &["null", "'08:00:2b:01:02:03'"]),
    ("mac8", &["null", "'08:00:2b:01:02:03:04:05'"]),
    ("bits", &["null", "B'10101'"]),
    ("vbits", &["null", "B''", "B'101'"]),
    ("pt", &["null", "'(1.5,-2)'", "'(Infinity,0)'"]),
    ("ln", &["null", "'{1,2,3}'"]),
    ("sg", &["null", "'[(0,0),(1,1)]'"]),
    ("bx", &["null", "'(1,1),(0,0)'"]),
    ("pa", &["null", "'[(0,0),(1,1),(2,0)]'"]),
    ("po", &["null", "'((0,0),(1,1),(2,0))'"]),
    ("ci", &["null", "'<(0,0),2.5>'"]),
    ("tv", &["null", "'a:1A fat:2B,4C cat:5'"]),
    ("tq", &["null", "'fat & (rat | cat)'"]),
    ("lsn", &["null", "'16/B374D848'"]),
    ("r4", &["null", "'[1,5)'", "'empty'", "'(,)'"]),
    ("rn", &["null", "'[1.5,2.5]'"]),
    ("rts", &["null", "'[2026-01-01 00:00+00,infinity)'"]),
    ("mr", &["null", "'{[1,3),[5,9)}'"]),
    ("e", &["null", "'sad'", "'happy \"ever\" after'"]),
    ("dom", &["null", "7"]),
    ("co", &["null", "row(1, 'a \"b\", (c)')", "row(null, '')"]),
    ("ai", &["null", "'{}'", "'{1,null,-3}'", "'{{1,2},{3,4}}'"]),
    ("ai8", &["null", "'{9223372036854775807,-1}'"]),
    (
        "at",
        &[
            "null",
            "'{}'",
            "array['', 'a,b', 'null', null, 'q\"\\', '{x}', 'é']",
        ],
    ),
    ("an", &["null", "'{1.10,NaN,null}'"]),
    ("ab", &["null", "'{t,f,null}'"]),
    ("af", &["null", "'{0.1,NaN,-Infinity,-0}'"]),
    ("ats", &["null", "'{2026-01-01 00:00+00,infinity,null}'"]),
    ("ad", &["null", "'{2026-01-01,-infinity}'"]),
    (
        "au",
        &["null", "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,null}'"],
    ),
    ("aby", &["null", "array['\\x00ff'::bytea, null, '']"]),
    ("aj", &["null", "array['{\"a\": 1}'::jsonb, '[2]', null]"]),
    ("ae", &["null", "'{sad,\"so so\",null}'"]),
];

/// Makes every table, empty, and pgbench's with their first rows.
///
/// # Errors
/// The database refuses.
pub(super) fn create(postgres: &Postgres) -> Result<()> {
    create_torture(postgres)?;
    // Keys before rows: a table that is published and has no key could not be updated.
    command::output(
        postgres
            .client("pgbench")?
            .args(["-i", "-I", "dtpg", "-q", "-s", "1"]),
    )?;
    Ok(())
}

/// Makes the torture tables alone.
pub(super) fn create_torture(postgres: &Postgres) -> Result<()> {
    postgres.script(TABLES).map(|_| ())
}

/// Writers at work; dropped, they are stopped.
#[derive(Debug)]
pub(super) struct Writers {
    running: Vec<Running>,
    // The scripts are read while the writers run.
    _scripts: Vec<PathBuf>,
}

impl Writers {
    /// Starts pgbench and the torture scripts, which commit about `transactions` in all.
    /// `round` tells several starts in one database apart.
    ///
    /// # Errors
    /// A program is missing or a script cannot be written.
    pub(super) fn start(
        postgres: &Postgres,
        dir: &TempDir,
        seed: u64,
        round: u64,
        transactions: u64,
    ) -> Result<Self> {
        // A torture transaction does the work of several of pgbench's.
        let torture = (transactions / 5 / WRITERS).max(1);
        let bench = (transactions / WRITERS).saturating_sub(torture).max(1);
        let log = dir.join("writers.log");
        let mut pgbench = postgres.client("pgbench")?;
        pgbench.args([
            "-n",
            "-c",
            &WRITERS.to_string(),
            "-j",
            "2",
            "-t",
            &bench.to_string(),
        ]);
        pgbench.args(["--random-seed", &(seed ^ round).to_string()]);
        let mut running = vec![Running::start(&mut pgbench, "pgbench", Some(&log))?];
        let mut scripts = Vec::new();
        for writer in 0..WRITERS {
            let file = dir.join(&format!("torture-{round}-{writer}.sql"));
            std::fs::write(&file, script(seed, round, writer, torture))
                .context(|| format!("write {}", file.display()))?;
            let mut psql = postgres.psql_command("postgres")?;
            // Writers get into each other's way on purpose: a deadlock rolls back and goes on.
            psql.args(["-v", "ON_ERROR_STOP=0", "-f"])
                .arg(&file)
                .env("PGOPTIONS", OPTIONS);
            running.push(Running::start(&mut psql, "a writer", Some(&log))?);
            scripts.push(file);
        }
        Ok(Self {
            running,
            _scripts: scripts,
        })
    }

    /// True when all of them have ended, as they do when the database goes away.
    ///
    /// # Errors
    /// The operating system refuses to say.
    pub(super) fn ended(&mut self) -> Result<bool> {
        for writer in &mut self.running {
            if writer.ended()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until all have done their work.
    ///
    /// # Errors
    /// One failed, or they take longer than an hour.
    pub(super) fn finish(mut self) -> Result<()> {
        for writer in &mut self.running {
            let status = writer.wait(std::time::Duration::from_secs(3600))?;
            crate::ensure!(
                status.success(),
                "a writer failed: {status}{}",
                writer.said()
            );
        }
        Ok(())
    }
}

const OPTIONS: &str = "-c deadlock_timeout=20ms -c client_min_messages=error";

/// The transactions of one writer, as a psql script.
pub(super) fn script(seed: u64, round: u64, writer: u64, transactions: u64) -> String {
    let mut random = Random::new(seed, round * WRITERS + writer + 1);
    let mut out = String::from("set search_path = torture;\n");
    for number in 0..transactions {
        let unique = (round * 1_000_000 + number) * WRITERS + writer;
        // One in eight is taken back as a whole, some of the others in part.
        let taken_back = random.one_in(8);
        out.push_str("begin;\n");
        let statements = 1 + random.below(4);
        for step in 0..statements {
            if random.one_in(5) {
                let doomed = unique * 10 + step;
                let _ = write!(
                    out,
                    "savepoint s;\ninsert into bag values ({doomed}, '{ROLLED_BACK}');\n\
                     update keys set v = v + 1 where a = {} % 40;\n\
                     update toast set small = '{ROLLED_BACK}' where id % 3 = 1;\n\
                     rollback to s;\n",
                    random.below(40)
                );
            }
            if random.one_in(6) {
                out.push_str("savepoint kept;\n");
            }
            statement(&mut out, &mut random, unique * 10 + step, writer);
        }
        if taken_back {
            let _ = write!(
                out,
                "insert into nothing values ({unique}, '{ROLLED_BACK}');\n\
                 insert into cut_a values ({}, '{ROLLED_BACK}') on conflict do nothing;\nrollback;\n",
                unique % 50
            );
        } else {
            out.push_str("commit;\n");
        }
        // Rare and heavy: shapes change, tables are emptied, transactions get large.
        if writer == 0 && number % 37 == 20 {
            change_shape(&mut out, &mut random, unique);
        }
        if writer == 1 && number % 41 == 30 {
            out.push_str(random.pick(&[
                "truncate cut_a, cut_b;\n",
                "truncate bag;\n",
                "begin; truncate cut_b; insert into cut_b values (1, null, 'after the cut'); commit;\n",
                "begin; truncate keys; rollback;\n",
                "truncate part;\n",
            ]));
        }
        if writer == 2 && number % 397 == 60 {
            large(&mut out, unique);
        }
    }
    out
}

fn statement(out: &mut String, random: &mut Random, unique: u64, writer: u64) {
    let id = random.below(60);
    let text = random.pick(&TEXTS);
    let number = random.below(1000);
    let _ = match random.below(22) {
        0..=2 => {
            let columns: Vec<&str> = VALUES.iter().map(|(name, _)| *name).collect();
            let values: Vec<&str> = VALUES
                .iter()
                .map(|(_, values)| random.pick(values))
                .collect();
            writeln!(
                out,
                "insert into types (id, {}) values ({unique}, {});",
                columns.join(", "),
                values.join(", ")
            )
        }
        3 | 4 => {
            let at = usize::try_from(random.below(61)).unwrap_or(0);
            let (name, values) = VALUES.get(at).copied().unwrap_or(VALUES[0]);
            writeln!(
                out,
                "update types set {name} = {} where id = (select id from types \
                 order by id desc offset {} limit 1);",
                random.pick(values),
                random.below(20)
            )
        }
        5 => writeln!(
            out,
            "delete from types where id < {unique} - 20000 and id % 4 = {writer};"
        ),
        6 => writeln!(
            out,
            "insert into keys values ({id}, {}, {number}) on conflict (a, b) do update \
             set v = excluded.v;",
            if text == "null" { "'-'" } else { text }
        ),
        7 => writeln!(
            out,
            "update keys set a = a + 1000, b = b || 'x' where a = {id} and length(b) < 60;"
        ),
        8 => writeln!(out, "delete from keys where a % 50 = {};", random.below(50)),
        9 | 10 => writeln!(
            out,
            "insert into toast values ({id}, 0, repeat(md5('{unique}'), {}), \
             decode(repeat(md5('{unique}'), {}), 'hex'), {text}) on conflict do nothing;",
            random.below(2000),
            random.below(500)
        ),
        11 => writeln!(
            out,
            "update toast set n = n + 1, small = {text} where id in ({id}, {});",
            random.below(60)
        ),
        12 => writeln!(
            out,
            "update toast set {} where id = {id};",
            random.pick(&[
                "big = big || 'more'",
                "id = id + 100",
                "blob = null",
                "big = null"
            ])
        ),
        13 => writeln!(
            out,
            "insert into toast_full values ({id}, 0, repeat(md5('{unique}'), {}), {text}) \
             on conflict (id) do update set n = toast_full.n + 1;",
            random.below(2000)
        ),
        14 => {
            writeln!(
                out,
                "delete from toast where id % 60 = {id}; delete from toast_full where id = {number};"
            )
        }
        15 => writeln!(
            out,
            "insert into bag values ({}, {text}), ({}, {text});",
            id % 5,
            id % 5
        ),
        16 => writeln!(
            out,
            "update bag set v = v + 1 where v = {}; delete from bag where v > 8;",
            id % 8
        ),
        17 => writeln!(
            out,
            "insert into by_index values ({id}, 'b{}', {text}) on conflict (b, a) do update \
             set v = excluded.v; update by_index set a = a + 100 where a = {number} % 60;",
            id % 3
        ),
        18 => writeln!(
            out,
            "insert into nothing values ({number}, {text}); \
             insert into ddl (id, v) values ({unique}, {text}); \
             update ddl set v = {text} where id % 97 = {};",
            number % 97
        ),
        19 => writeln!(
            out,
            "insert into cut_a values ({id}, {text}) on conflict (id) do update set v = excluded.v; \
             insert into cut_b values ({unique}, {id}, {text}); delete from cut_a where id = {number};",
        ),
        20 => writeln!(
            out,
            "insert into part values ({unique}, {number}, {text}); \
             update part set k = (k + 500) % 1000 where id % 53 = {};",
            number % 53
        ),
        _ => writeln!(
            out,
            "insert into \"Odd \"\"Name\"\" é\" values ({id}, {text}, {number}, {text}) \
             on conflict (\"Key\") do update set \"select\" = {number}, \"Key\" = {};",
            random.below(2000) + 60
        ),
    };
}

/// Adds, fills and drops columns of `ddl` while others write to it.
fn change_shape(out: &mut String, random: &mut Random, unique: u64) {
    let _ = match random.below(5) {
        0 => writeln!(out, "alter table ddl add column c{unique} int;"),
        1 => writeln!(
            out,
            "alter table ddl add column c{unique} text default 'for rows that were there';"
        ),
        2 => writeln!(
            out,
            "begin; alter table ddl add column c{unique} numeric(10, 2); \
             update ddl set c{unique} = 1.50 where id % 5 = 0; commit;"
        ),
        3 => writeln!(
            out,
            "begin; alter table ddl add column gone{unique} text default '{ROLLED_BACK}'; \
             update ddl set v = '{ROLLED_BACK}'; rollback;"
        ),
        _ => writeln!(
            out,
            "do $$ declare c text; begin select attname into c from pg_attribute where \
             attrelid = 'torture.ddl'::regclass and attnum > 2 and not attisdropped \
             order by attnum limit 1; if c is not null then \
             execute format('alter table torture.ddl drop column %I', c); end if; end $$;"
        ),
    };
}

/// One transaction of thousands of rows.
fn large(out: &mut String, unique: u64) {
    let _ = writeln!(
        out,
        "begin; insert into bulk select g, md5(g::text), 0 from generate_series(1, 3000) g \
         on conflict do nothing; update bulk set n = n + 1, v = v || '{unique}'; \
         delete from bulk where id % 2 = {}; commit;",
        unique % 2
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script alone meets no deadlock, so what fails is a mistake in it or a collision of keys.
    #[test]
    fn every_statement_is_one_that_postgres_takes() {
        let postgres = Postgres::start().unwrap();
        create_torture(&postgres).unwrap();
        let dir = TempDir::new("workload").unwrap();
        let file = dir.join("script.sql");
        let text = script(7, 0, 0, 300) + &script(7, 0, 1, 100) + &script(7, 0, 2, 100);
        std::fs::write(&file, text).unwrap();
        let mut psql = postgres.psql_command("postgres").unwrap();
        psql.args(["-v", "ON_ERROR_STOP=0", "-v", "VERBOSITY=sqlstate", "-f"])
            .arg(&file);
        let output = psql.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        // 23505: a key is taken. 25P02: what follows in that transaction.
        let unexpected: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("ERROR") && !line.contains("23505"))
            .filter(|line| !line.contains("25P02"))
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:#?}");
        assert!(
            postgres
                .psql("select count(*) from torture.types")
                .unwrap()
                .parse::<u32>()
                .unwrap()
                > 20
        );
    }

    #[test]
    fn a_seed_gives_one_script_and_all_kinds_of_statements() {
        let text = script(1, 0, 0, 400) + &script(1, 0, 1, 400) + &script(1, 0, 2, 400);
        assert_eq!(
            text,
            script(1, 0, 0, 400) + &script(1, 0, 1, 400) + &script(1, 0, 2, 400)
        );
        assert_ne!(script(1, 0, 0, 50), script(2, 0, 0, 50));
        for part in [
            "rollback;",
            "savepoint",
            "truncate",
            "alter table ddl",
            "insert into types",
            "update toast",
            "delete from",
            "set k = ",
            "insert into bulk",
            ROLLED_BACK,
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}
