//! Loads the consumer's copy into the database and lets the database compare it with its tables.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};

use super::mirror::{Mirror, Row, Table};
use crate::error::Context;
use crate::guard::TempDir;
use crate::json::Json;
use crate::postgres::Postgres;
use crate::{Error, Result, ensure};

/// What the run compared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Compared {
    /// Tables.
    pub(super) tables: u64,
    /// Rows in them.
    pub(super) rows: u64,
}

/// A table of the database.
struct Real {
    schema: String,
    table: String,
    /// Column name and type, that of an array as its element's with `[]`.
    columns: BTreeMap<String, String>,
}

/// Every table of the named schemas equals its copy, row for row.
///
/// Values are compared in the text form that the database itself prints, JSON columns in the
/// normal form of `jsonb`.
///
/// # Errors
/// A table differs; the message says how many rows on each side and shows none of them.
pub(super) fn compare(
    postgres: &Postgres,
    mirror: &Mirror,
    schemas: &[&str],
    dir: &TempDir,
) -> Result<Compared> {
    let mut compared = Compared::default();
    let empty = Table::default();
    let reals = tables(postgres, schemas)?;
    for real in &reals {
        let name = (real.schema.clone(), real.table.clone());
        let copy = mirror.tables().get(&name).unwrap_or(&empty);
        compared.rows += compare_table(postgres, real, copy, dir)?;
        compared.tables += 1;
    }
    for ((schema, table), copy) in mirror.tables() {
        let known = reals
            .iter()
            .any(|real| real.schema == *schema && real.table == *table);
        ensure!(
            known || copy.rows().next().is_none(),
            "{schema}.{table}: delivered, but the database has no such table"
        );
    }
    Ok(compared)
}

fn tables(postgres: &Postgres, schemas: &[&str]) -> Result<Vec<Real>> {
    let schemas = schemas
        .iter()
        .map(|schema| literal(schema))
        .collect::<Vec<_>>()
        .join(", ");
    let text = postgres.psql(&format!(
        "select json_build_array(n.nspname, c.relname, json_object_agg(a.attname, \
         coalesce(e.typname || '[]', t.typname::text) order by a.attnum)) \
         from pg_class c join pg_namespace n on n.oid = c.relnamespace \
         join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped \
           and a.attgenerated = '' \
         join pg_type t on t.oid = a.atttypid \
         left join pg_type e on e.oid = t.typelem and t.typcategory = 'A' \
         where c.relkind = 'r' and n.nspname in ({schemas}) \
         group by n.nspname, c.relname order by n.nspname, c.relname"
    ))?;
    let mut tables = Vec::new();
    for line in text.lines() {
        let json = Json::parse(line)?;
        let [Json::String(schema), Json::String(table), columns] = json.items() else {
            return Err(Error::new("list the tables: unexpected answer"));
        };
        let columns = columns
            .members()
            .iter()
            .filter_map(|(name, base)| Some((name.clone(), base.as_str()?.to_owned())));
        tables.push(Real {
            schema: schema.clone(),
            table: table.clone(),
            columns: columns.collect(),
        });
    }
    Ok(tables)
}

fn compare_table(postgres: &Postgres, real: &Real, copy: &Table, dir: &TempDir) -> Result<u64> {
    let shown = format!("{}.{}", real.schema, real.table);
    let file = dir.join("copy.txt");
    let mut out = BufWriter::new(
        std::fs::File::create(&file).context(|| format!("write {}", file.display()))?,
    );
    for row in copy.rows() {
        let line = copy_line(row, real).context(|| format!("{shown}: a delivered value"))?;
        out.write_all(line.as_bytes())
            .context(|| format!("write {}", file.display()))?;
    }
    out.flush()
        .context(|| format!("write {}", file.display()))?;
    drop(out);
    let table = format!("{}.{}", quoted(&real.schema), quoted(&real.table));
    let columns: Vec<String> = real
        .columns
        .iter()
        .map(|(name, base)| {
            let column = format!("(r).{}", quoted(name));
            // JSON text may be spelled in many ways; its meaning is what must be the same. The
            // envelope embeds it, so JSON's null and SQL's are one there.
            match base.as_str() {
                "json" | "jsonb" => {
                    format!("nullif({column}::jsonb::text, 'null') as {}", quoted(name))
                }
                _ => format!("{column}::text as {}", quoted(name)),
            }
        })
        .collect();
    let columns = columns.join(", ");
    // Without `offset 0` a row would be read from its document once for each column.
    // A column added with a default has that value in the rows that were there and never
    // written again, without an event.
    let sql = format!(
        "create temp table docs (doc json);\n\
         \\copy docs from {file}\n\
         create temp view real as select {columns} from (select whole_row as r from {table} whole_row) t;\n\
         create temp view mirror as select {columns} from (\n\
           select json_populate_record(\n\
             jsonb_populate_record(null::{table}, (\n\
               select coalesce(jsonb_object_agg(attname, (attmissingval::text::text[])[1]), '{{}}')\n\
               from pg_attribute where attrelid = {name}::regclass and atthasmissing\n\
                 and not attisdropped)),\n\
             doc) as r from docs offset 0) t;\n\
         select (select count(*) from real),\n\
           (select count(*) from (select * from real except all select * from mirror) m),\n\
           (select count(*) from (select * from mirror except all select * from real) m);\n",
        file = literal(&file.to_string_lossy()),
        name = literal(&table),
    );
    let answer = postgres
        .script(&sql)
        .context(|| format!("compare {shown}"))?;
    let counts: Vec<u64> = answer
        .trim()
        .split('|')
        .filter_map(|count| count.parse().ok())
        .collect();
    let [rows, missing, surplus] = counts[..] else {
        return Err(Error::new(format!("compare {shown}: unexpected answer")));
    };
    if missing + surplus > 0 {
        let hint = differing(postgres, real, &sql)?;
        return Err(Error::new(format!(
            "{shown}: {missing} of {rows} rows are missing or differ in the copy, {surplus} rows \
             of the copy are not in the table{hint}"
        )));
    }
    Ok(rows)
}

/// Which columns differ, told by their names alone.
fn differing(postgres: &Postgres, real: &Real, sql: &str) -> Result<String> {
    let (setup, _) = sql
        .split_once("select (select count(*)")
        .unwrap_or((sql, ""));
    let mut names = Vec::new();
    for (name, base) in &real.columns {
        let column = quoted(name);
        let answer = postgres.script(&format!(
            "{setup}\nselect count(*) from (select {column} from real except all select {column} \
             from mirror) d;"
        ))?;
        if answer.trim() != "0" {
            names.push(format!("{name} ({base})"));
        }
    }
    let names = if names.is_empty() {
        "none by itself".to_owned()
    } else {
        names.join(", ")
    };
    Ok(format!("; columns that differ: {names}"))
}

/// A row as one line of COPY's text format, in the form `json_populate_record` understands.
fn copy_line(row: &Row, real: &Real) -> Result<String> {
    let mut members = Vec::with_capacity(row.len());
    for (name, value) in row {
        // A column that was dropped since is not in the table either.
        if let Some(base) = real.columns.get(name) {
            members.push((name.clone(), native(value, base)?));
        }
    }
    let text = Json::Object(members).text();
    let mut line = String::with_capacity(text.len() + 1);
    for char in text.chars() {
        match char {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            '\r' => line.push_str("\\r"),
            other => line.push(other),
        }
    }
    line.push('\n');
    Ok(line)
}

/// From the envelope's spelling of a value to one that PostgreSQL's input functions read.
fn native(value: &Json, base: &str) -> Result<Json> {
    Ok(match (value, base) {
        // JSON that could not be embedded comes as a text that holds it.
        (Json::String(text), "json" | "jsonb") => match Json::parse(text) {
            Ok(inner @ (Json::Object(_) | Json::Array(_))) => inner,
            _ => value.clone(),
        },
        (_, "json" | "jsonb") => value.clone(),
        (Json::Array(items), _) => {
            let base = base.strip_suffix("[]").unwrap_or(base);
            let items = items.iter().map(|item| native(item, base));
            Json::Array(items.collect::<Result<_>>()?)
        }
        (Json::String(text), "bytea") => {
            let mut hex = String::from("\\x");
            for byte in base64(text)? {
                hex.push_str(&format!("{byte:02x}"));
            }
            Json::String(hex)
        }
        (Json::String(text), "date" | "timestamp" | "timestamptz") => Json::String(date(text)),
        _ => value.clone(),
    })
}

/// ISO 8601 with expanded years to PostgreSQL's spelling, which counts years before Christ.
fn date(text: &str) -> String {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let Some((year, rest)) = digits.split_once('-') else {
        return text.to_owned();
    };
    let Ok(year) = year.parse::<i64>() else {
        return text.to_owned();
    };
    let year = if negative { -year } else { year };
    if year > 0 {
        format!("{year:04}-{rest}")
    } else {
        format!("{:04}-{rest} BC", 1 - year)
    }
}

/// Standard base64 with padding.
fn base64(text: &str) -> Result<Vec<u8>> {
    let damaged = || Error::new("not base64");
    ensure!(text.len().is_multiple_of(4), "not base64");
    let digits = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    let mut bits = 0_u32;
    let mut count = 0_u32;
    for byte in digits.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(damaged()),
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xFF).map_err(|_| damaged())?);
            bits &= (1 << count) - 1;
        }
    }
    Ok(out)
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::super::event::Event;
    use super::super::workload::{self, KEYLESS};
    use super::*;

    /// Every row of the database as an insert, spelled by the database itself.
    fn copy_of(postgres: &Postgres) -> Mirror {
        let mut mirror = Mirror::new(&KEYLESS);
        let mut number = 0;
        for real in tables(postgres, &["torture"]).unwrap() {
            let columns: Vec<String> = real
                .columns
                .iter()
                .map(|(name, base)| {
                    let column = quoted(name);
                    let encoded =
                        |from: &str| format!("translate(encode({from}, 'base64'), E'\\n', '')");
                    match base.as_str() {
                        "bytea[]" => format!(
                            "(select array_agg({} order by n) from unnest({column}) \
                             with ordinality u(x, n)) as {column}",
                            encoded("x")
                        ),
                        "bytea" => format!("{} as {column}", encoded(&column)),
                        "json" => format!("{column}::jsonb as {column}"),
                        _ => column,
                    }
                })
                .collect();
            let rows = postgres
                .psql(&format!(
                    "select row_to_json(s) from (select {} from {}.{}) s",
                    columns.join(", "),
                    quoted(&real.schema),
                    quoted(&real.table)
                ))
                .unwrap();
            let table = Json::String(real.table.clone()).text();
            for row in rows.lines() {
                number += 1;
                let text = format!(
                    r#"{{"id":"i","position":"0/{number:X}:0","op":"insert","engine":"relational","source":{{"name":"s","kind":"postgres","database":"d"}},"schema":"{}","table":{table},"tx":{{"id":"1","ordinal":0,"last":true}},"ts":"2026-11-22T13:05:07.123456Z","key":{{"n":{number}}},"before":null,"after":{row}}}"#,
                    real.schema
                );
                mirror.apply(Event::parse(&text).unwrap()).unwrap();
            }
        }
        mirror
    }

    #[test]
    fn the_judge_over_postgres_accepts_what_is_equal_and_nothing_else() {
        let postgres = Postgres::start().unwrap();
        let dir = TempDir::new("compare").unwrap();
        workload::create_torture(&postgres).unwrap();
        let script = workload::script(3, 0, 0, 200) + &workload::script(3, 0, 1, 40);
        let file = dir.join("script.sql");
        std::fs::write(&file, script).unwrap();
        let mut psql = postgres.psql_command("postgres").unwrap();
        psql.args(["-v", "ON_ERROR_STOP=0", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        let mirror = copy_of(&postgres);
        let compared = compare(&postgres, &mirror, &["torture"], &dir).unwrap();
        assert!(compared.tables >= 14 && compared.rows > 100, "{compared:?}");
        for (change, undo, expected) in [
            (
                "insert into torture.bag values (99, 'more')",
                "delete from torture.bag where v = 99",
                "torture.bag: 1 of",
            ),
            (
                "insert into torture.bulk values (1, 'a', 1)",
                "truncate torture.bulk",
                "columns that differ: id (int4)",
            ),
            (
                "update torture.types set n2 = n2 + 1",
                "update torture.types set n2 = n2 - 1",
                "columns that differ: n2 (numeric)",
            ),
            (
                "truncate torture.types",
                "select 1",
                "torture.types: 0 of 0 rows are missing",
            ),
            ("drop table torture.types", "select 1", "has no such table"),
        ] {
            postgres.psql(change).unwrap();
            let error = compare(&postgres, &mirror, &["torture"], &dir).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            postgres.psql(undo).unwrap();
        }
    }

    #[test]
    fn base64_is_decoded() {
        for (text, expected) in [
            ("", &b""[..]),
            ("AA==", b"\0"),
            ("3q2+7w==", b"\xde\xad\xbe\xef"),
            ("Zm9v", b"foo"),
        ] {
            assert_eq!(base64(text).unwrap(), expected);
        }
        for text in ["A", "AA=", "A-==", "=AAA"] {
            assert!(base64(text).is_err(), "{text}");
        }
    }

    #[test]
    fn years_get_their_era() {
        for (text, expected) in [
            ("2026-11-22", "2026-11-22"),
            ("-000043-03-15T12:00:00Z", "0044-03-15T12:00:00Z BC"),
            ("0000-12-31", "0001-12-31 BC"),
            ("+5874897-12-31", "5874897-12-31"),
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
        ] {
            assert_eq!(date(text), expected);
        }
    }
}
