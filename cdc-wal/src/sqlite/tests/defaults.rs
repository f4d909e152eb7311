//! What rows hold in a column that was added after they were written, against SQLite.

use cdc_core::{RowImage, Value};
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::workload::Random;
use crate::sqlite::format::Encoding;
use crate::sqlite::layout::Layout;
use crate::sqlite::record;
use crate::sqlite::schema::{DefaultValue, TableDef};

/// What is read of a table with one row after a column was added; `None` if SQLite refuses it.
fn read_by_sqlite(column: &str, encoding: Encoding) -> Option<(String, Value)> {
    let db = Connection::open_in_memory().unwrap();
    let setup = format!(
        "PRAGMA encoding = '{}'; CREATE TABLE t(a); INSERT INTO t VALUES (1)",
        encoding.name()
    );
    db.execute_batch(&setup).unwrap();
    db.execute_batch(&format!("ALTER TABLE t ADD COLUMN c {column}"))
        .ok()?;
    let sql = db.query_row("SELECT sql FROM sqlite_schema", [], |row| row.get(0));
    let value = db.query_row("SELECT c FROM t", [], |row| {
        Ok(match row.get_ref(0)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => Value::Int(n),
            ValueRef::Real(n) => Value::Float64(n),
            ValueRef::Text(text) => Value::Text(String::from_utf8(text.to_vec()).unwrap()),
            ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        })
    });
    Some((sql.unwrap(), value.unwrap()))
}

/// What is captured of the same row; `None` if the table is left out.
fn captured(sql: &str, encoding: Encoding) -> Option<Value> {
    let def = TableDef::parse(sql).unwrap();
    let layout = Layout::new("t", &def, encoding, true).ok()?;
    // Two bytes of header, and the integer 1.
    let payload = [2, 9];
    let mut fields = Vec::new();
    record::parse(&payload, &mut fields).unwrap();
    let mut image = Vec::new();
    layout.write(&mut image, &payload, &fields, 1);
    let values = RowImage::from_bytes(image.into()).to_values().unwrap();
    Some(values[1].clone())
}

/// Values of a row have no debug form.
fn shown(value: &Value) -> String {
    match value {
        Value::Int(n) => n.to_string(),
        Value::Float64(n) => format!("{n:?}"),
        Value::Text(text) => format!("'{text}'"),
        Value::Bytes(bytes) => format!("{bytes:?}"),
        _ => "null".into(),
    }
}

/// Whether the column can be added and is captured.
fn check(column: &str, encoding: Encoding) -> bool {
    let Some((sql, read)) = read_by_sqlite(column, encoding) else {
        return false;
    };
    let captured = captured(&sql, encoding);
    if let Some(captured) = &captured {
        assert!(
            *captured == read,
            "{sql} in {}: {}, not {}",
            encoding.name(),
            shown(captured),
            shown(&read)
        );
    }
    captured.is_some()
}

#[test]
fn rows_older_than_a_column_hold_its_constant_default() {
    for column in [
        "",
        "DEFAULT NULL",
        "INTEGER DEFAULT (CAST('7' AS INTEGER))",
        "TEXT DEFAULT (CAST('7' AS INTEGER))",
        "DEFAULT (CAST('7' AS INTEGER))",
        "DEFAULT (CAST('12 apes' AS INT))",
        "DEFAULT (CAST('-99999999999999999999' AS INT))",
        "DEFAULT (CAST(' 1.9 ' AS INT))",
        "DEFAULT (CAST(1e300 AS INT))",
        "DEFAULT (CAST('1.5' AS REAL))",
        "TEXT DEFAULT (CAST('1.50' AS REAL))",
        "TEXT DEFAULT (CAST(0.1 AS REAL))",
        "REAL DEFAULT (CAST('7' AS TEXT))",
        "NUMERIC DEFAULT (CAST('7.0' AS NUMERIC))",
        "DEFAULT (CAST('7.0 or so' AS NUMERIC))",
        "DEFAULT (CAST(1.5 AS))",
        "DEFAULT (CAST(12 AS VARCHAR(10)))",
        "DEFAULT (CAST(CAST(12.5 AS TEXT) AS BLOB))",
        "DEFAULT (CAST('\u{fc}' AS BLOB))",
        "DEFAULT (CAST(CAST('\u{fc}' AS BLOB) AS TEXT))",
        "DEFAULT (CAST(NULL AS TEXT))",
        "DEFAULT (CAST(TRUE AS TEXT))",
        "DEFAULT (- -5)",
        "DEFAULT (- - -5)",
        "DEFAULT (-(+5))",
        "DEFAULT (+-+5)",
        "TEXT DEFAULT (- -1.50)",
        "TEXT DEFAULT -1.50",
        "DEFAULT (-(-9223372036854775808))",
        "INT DEFAULT (-(9223372036854775808))",
        "DEFAULT (-0x10)",
        "TEXT DEFAULT (- -0x10)",
        "DEFAULT -'5'",
        "DEFAULT -'five'",
        "DEFAULT -'1.5e1'",
        "DEFAULT (-(x'35'))",
        "DEFAULT (-TRUE)",
        "DEFAULT (-(-FALSE))",
        "DEFAULT (-NULL)",
        "DEFAULT +'x'",
        "DEFAULT ((x'00ff'))",
        "INT DEFAULT (x'35')",
    ] {
        for encoding in [Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be] {
            assert!(check(column, encoding), "{column} in {}", encoding.name());
        }
    }
}

/// Which of these are constants depends on the version of SQLite.
#[test]
fn a_table_whose_default_is_not_worked_out_is_left_out() {
    for column in [
        "DEFAULT (5 AND 0)",
        "DEFAULT (5 IN ())",
        "DEFAULT (5 NOT IN ())",
        "DEFAULT (5 IS NOT NULL)",
        "DEFAULT (5 ISNULL)",
        "DEFAULT (-0x8000000000000000)",
        "TEXT DEFAULT (- +1.50)",
        "DEFAULT (CAST(1e3 AS BLOB))",
        "DEFAULT (CAST(x'35' AS TEXT))",
        "TEXT DEFAULT (CAST(1e300 AS REAL))",
    ] {
        let (sql, _) = read_by_sqlite(column, Encoding::Utf8).unwrap();
        assert_eq!(captured(&sql, Encoding::Utf8), None, "{column}");
    }
}

/// SQLite adds such a column only to a table without rows, and reads NULL if there is one all the same.
#[test]
fn a_default_that_is_computed_is_no_reason_to_stop() {
    for default in [
        "CURRENT_TIMESTAMP",
        "(datetime('now', 'localtime'))",
        "(1 + 2)",
        "(CASE WHEN random() AND 1 THEN 1 END)",
        "(lower(CAST(1 AS TEXT)))",
        "((1) + (2))",
    ] {
        let column = format!("DEFAULT {default}");
        assert!(
            read_by_sqlite(&column, Encoding::Utf8).is_none(),
            "{default}"
        );
        let sql = format!("CREATE TABLE t(a, c {column})");
        assert_eq!(
            captured(&sql, Encoding::Utf8),
            Some(Value::Null),
            "{default}"
        );
    }
}

/// Each parenthesis is gone through again.
#[test]
fn a_default_of_any_length_is_read() {
    for (before, after) in [("-", ""), ("(", ")"), ("CAST(", " AS INT)"), ("+(-", ")")] {
        for count in [1, 50, 100_000] {
            let default = format!(
                "({} 1 {})",
                before.repeat(count).replace("-", "- "),
                after.repeat(count)
            );
            let def = TableDef::parse(&format!("CREATE TABLE t(a, b DEFAULT {default})")).unwrap();
            let known = matches!(def.columns[1].default, DefaultValue::Int(1 | -1));
            assert_eq!(known, count <= 50, "{count} times {before}");
        }
    }
}

#[test]
fn random_constant_defaults_are_read_as_sqlite_reads_them() {
    let mut random = Random::new(7);
    let mut found = 0;
    for _ in 0..3000 {
        let mut expression = match random.below(9) {
            0 => random.next().cast_signed().unsigned_abs().to_string(),
            1 => format!("{}.{}", random.below(1000), random.below(100)),
            2 => format!("{}e{}", random.below(1000), random.below(20)),
            3 => format!(
                "'{}{}'",
                random.below(1000),
                random.pick(&["", "x", ".5", ".0", "e2", " ", "."])
            ),
            4 => random
                .pick(&[
                    "'x'", "''", "'-'", "' +7'", "'.5'", "'-3.0'", "'-1e3'", "'0x10'", "' -'",
                ])
                .into(),
            5 => random
                .pick(&["x''", "x'2d33'", "x'414243'", "x'312e35'"])
                .into(),
            6 => random.pick(&["TRUE", "FALSE", "NULL"]).into(),
            7 => format!("0x{:x}", random.below(1 << 40)),
            _ => random.below(20).to_string(),
        };
        for _ in 0..random.below(4) {
            expression = match random.below(4) {
                0 => format!("- {expression}"),
                1 => format!("+ {expression}"),
                2 => format!("({expression})"),
                _ => {
                    let to = random.pick(&[
                        "INT",
                        "TEXT",
                        "REAL",
                        "BLOB",
                        "NUMERIC",
                        "DOUBLE PRECISION",
                        "CHAR(3)",
                    ]);
                    format!("CAST({expression} AS {to})")
                }
            };
        }
        let typed = random.pick(&["", "INT", "TEXT", "REAL", "BLOB", "NUMERIC"]);
        let encoding = [Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be]
            [usize::try_from(random.below(3)).unwrap()];
        found += u32::from(check(&format!("{typed} DEFAULT ({expression})"), encoding));
    }
    assert!(found > 2500, "{found} were captured");
}
