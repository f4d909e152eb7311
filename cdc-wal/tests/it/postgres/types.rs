//! Every type arrives as what it is.

use cdc_core::Value;

use super::{Db, after, assert_values, text};

const DAY: i64 = 86_400_000_000;

fn decimal(digits: &str) -> Value {
    Value::Decimal(digits.into())
}

fn list(items: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(items.into_iter().collect())
}

/// Type, SQL expression, value, type name.
fn torture() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let uuid = *b"\xa0\xee\xbc\x99\x9c\x0b\x4e\xf8\xbb\x6d\x6b\xb9\xbd\x38\x0a\x11";
    vec![
        ("bool", "true", Value::Bool(true), "bool"),
        ("int2", "-32768", Value::Int(-32768), "int2"),
        ("int4", "2147483647", Value::Int(2_147_483_647), "int4"),
        ("int8", "-9223372036854775808", Value::Int(i64::MIN), "int8"),
        ("oid", "4294967295", Value::UInt(4_294_967_295), "oid"),
        ("float4", "0.1", Value::Float32(0.1), "float4"),
        (
            "float4",
            "'-Infinity'",
            Value::Float32(f32::NEG_INFINITY),
            "float4",
        ),
        ("float8", "0.1", Value::Float64(0.1), "float8"),
        (
            "float8",
            "'Infinity'",
            Value::Float64(f64::INFINITY),
            "float8",
        ),
        ("float8", "'-0'", Value::Float64(-0.0), "float8"),
        ("float8", "1e-307", Value::Float64(1e-307), "float8"),
        (
            "numeric",
            "12345678901234567890123456789.000000000000000000010",
            decimal("12345678901234567890123456789.000000000000000000010"),
            "numeric",
        ),
        ("numeric(10,2)", "-1.005", decimal("-1.01"), "numeric(10,2)"),
        ("numeric", "'NaN'", decimal("NaN"), "numeric"),
        ("numeric", "'-Infinity'", decimal("-Infinity"), "numeric"),
        ("money", "12.5", text("$12.50"), "money"),
        ("text", "''", text(""), "text"),
        (
            "text",
            "E'l\\u00edne\\n\\t\"q\\\\'",
            text("líne\n\t\"q\\"),
            "text",
        ),
        ("varchar(5)", "'abc'", text("abc"), "varchar(5)"),
        ("char(5)", "'abc'", text("abc  "), "bpchar(5)"),
        ("name", "'n'", text("n"), "name"),
        ("\"char\"", "'x'", text("x"), "char"),
        (
            "bytea",
            "'\\x00ff10'",
            Value::Bytes(vec![0, 255, 16]),
            "bytea",
        ),
        ("bytea", "''", Value::Bytes(vec![]), "bytea"),
        (
            "uuid",
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
            Value::Uuid(uuid),
            "uuid",
        ),
        (
            "json",
            "'{\"b\": 1, \"a\":  [1, 2]}'",
            Value::Json("{\"b\": 1, \"a\":  [1, 2]}".into()),
            "json",
        ),
        (
            "jsonb",
            "'{\"b\": 1, \"a\":  [1, 2]}'",
            Value::Json("{\"a\": [1, 2], \"b\": 1}".into()),
            "jsonb",
        ),
        ("xml", "'<a/>'", text("<a/>"), "xml"),
        ("date", "'2024-02-29'", Value::Date(19_782), "date"),
        ("date", "'0044-03-15 BC'", Value::Date(-735_160), "date"),
        (
            "date",
            "'5874897-12-31'",
            Value::Date(2_145_042_905),
            "date",
        ),
        ("date", "'infinity'", Value::Date(i32::MAX), "date"),
        ("date", "'-infinity'", Value::Date(i32::MIN), "date"),
        ("time", "'24:00:00'", Value::Time(DAY), "time"),
        (
            "time(3)",
            "'12:34:56.7894'",
            Value::Time(45_296_789_000),
            "time(3)",
        ),
        (
            "timetz",
            "'12:34:56+05:30'",
            text("12:34:56+05:30"),
            "timetz",
        ),
        (
            "timestamp",
            "'2026-11-22 13:05:07.123456'",
            Value::Timestamp(1_795_352_707_123_456),
            "timestamp",
        ),
        (
            "timestamp",
            "'0044-03-15 12:00 BC'",
            Value::Timestamp(-63_517_780_800_000_000),
            "timestamp",
        ),
        (
            "timestamp",
            "'infinity'",
            Value::Timestamp(i64::MAX),
            "timestamp",
        ),
        (
            "timestamp",
            "'294276-12-31 23:59:59.999999'",
            text("294276-12-31 23:59:59.999999"),
            "timestamp",
        ),
        (
            "timestamptz",
            "'2026-11-22 15:05:07.5+02'",
            Value::TimestampTz(1_795_352_707_500_000),
            "timestamptz",
        ),
        (
            "timestamptz(0)",
            "'1969-12-31 23:59:59+00'",
            Value::TimestampTz(-1_000_000),
            "timestamptz(0)",
        ),
        (
            "timestamptz",
            "'-infinity'",
            Value::TimestampTz(i64::MIN),
            "timestamptz",
        ),
        (
            "interval",
            "'1 year 2 months -3 days 04:05:06.7'",
            text("P1Y2M-3DT4H5M6.7S"),
            "interval",
        ),
        ("inet", "'192.168.0.1/24'", text("192.168.0.1/24"), "inet"),
        ("cidr", "'10.0.0.0/8'", text("10.0.0.0/8"), "cidr"),
        (
            "macaddr",
            "'08:00:2b:01:02:03'",
            text("08:00:2b:01:02:03"),
            "macaddr",
        ),
        ("bit(4)", "B'1010'", text("1010"), "bit(4)"),
        ("varbit", "B'101'", text("101"), "varbit"),
        ("point", "'(1,2)'", text("(1,2)"), "point"),
        ("int4range", "'[1,5)'", text("[1,5)"), "int4range"),
        ("tsvector", "'a b'", text("'a' 'b'"), "tsvector"),
        ("pg_lsn", "'16/B3748A0'", text("16/B3748A0"), "pg_lsn"),
        (
            "int4[]",
            "'{1,NULL,-3}'",
            list([Value::Int(1), Value::Null, Value::Int(-3)]),
            "int4[]",
        ),
        ("int4[]", "'{}'", list([]), "int4[]"),
        (
            "int4[]",
            "'{{1,2},{3,4}}'",
            list([
                list([Value::Int(1), Value::Int(2)]),
                list([Value::Int(3), Value::Int(4)]),
            ]),
            "int4[]",
        ),
        ("int4[]", "'[0:1]={1,2}'", text("[0:1]={1,2}"), "int4[]"),
        (
            "text[]",
            "ARRAY['a b', 'q\"u', 'NULL', NULL, '', 'b\\s', 'c,d', '{e}']",
            list([
                text("a b"),
                text("q\"u"),
                text("NULL"),
                Value::Null,
                text(""),
                text("b\\s"),
                text("c,d"),
                text("{e}"),
            ]),
            "text[]",
        ),
        (
            "numeric(6,1)[]",
            "'{1.25,NaN}'",
            list([decimal("1.3"), decimal("NaN")]),
            "numeric(6,1)[]",
        ),
        (
            "bytea[]",
            "ARRAY['\\x00ff'::bytea]",
            list([Value::Bytes(vec![0, 255])]),
            "bytea[]",
        ),
        (
            "timestamptz[]",
            "'{\"1970-01-01 00:00:01+00\",infinity}'",
            list([Value::TimestampTz(1_000_000), Value::TimestampTz(i64::MAX)]),
            "timestamptz[]",
        ),
        (
            "jsonb[]",
            "ARRAY['{\"k\": \"v\"}'::jsonb]",
            list([Value::Json("{\"k\": \"v\"}".into())]),
            "jsonb[]",
        ),
        (
            "uuid[]",
            "ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid]",
            list([Value::Uuid(uuid)]),
            "uuid[]",
        ),
        (
            "bool[]",
            "'{t,f}'",
            list([Value::Bool(true), Value::Bool(false)]),
            "bool[]",
        ),
        ("date[]", "'{1970-01-02}'", list([Value::Date(1)]), "date[]"),
        (
            "box[]",
            "'{(2,2),(1,1);(4,4),(3,3)}'",
            list([text("(2,2),(1,1)"), text("(4,4),(3,3)")]),
            "box[]",
        ),
        ("public.mood", "'sad day'", text("sad day"), "public.mood"),
        (
            "public.mood[]",
            "'{ok,\"sad day\"}'",
            list([text("ok"), text("sad day")]),
            "public.mood[]",
        ),
        ("public.cents", "7", Value::Int(7), "public.cents"),
        ("public.cents2", "8", Value::Int(8), "public.cents2"),
        (
            "public.cents[]",
            "'{1,2}'",
            list([Value::Int(1), Value::Int(2)]),
            "public.cents[]",
        ),
        (
            "public.pair",
            "ROW(1,'x y')",
            text("(1,\"x y\")"),
            "public.pair",
        ),
        ("int2vector", "'1 2'", text("1 2"), "int2vector"),
    ]
}

#[tokio::test]
async fn every_type_keeps_its_value() {
    let mut db = Db::new("types").await;
    db.run("CREATE TYPE public.mood AS ENUM ('ok', 'sad day')")
        .await;
    db.run("CREATE DOMAIN public.cents AS int8 CHECK (VALUE > 0)")
        .await;
    db.run("CREATE DOMAIN public.cents2 AS public.cents").await;
    db.run("CREATE TYPE public.pair AS (a int, b text)").await;
    let table = torture();
    let columns: Vec<String> = (0..table.len())
        .flat_map(|n| {
            [
                format!("c{n} {}", table[n].0),
                format!("n{n} {}", table[n].0),
            ]
        })
        .collect();
    db.run(&format!(
        "CREATE TABLE public.torture ({})",
        columns.join(", ")
    ))
    .await;
    db.run("SET lc_monetary = 'C'").await;
    let mut source = db.connect(None).await;
    let (names, values): (Vec<String>, Vec<String>) = table
        .iter()
        .enumerate()
        .map(|(n, row)| (format!("c{n}"), format!("({})::{}", row.1, row.0)))
        .unzip();
    let sql = format!(
        "INSERT INTO public.torture ({}) VALUES ({})",
        names.join(", "),
        values.join(", ")
    );
    let events = db.changes(&mut source, &sql).await;
    assert_eq!(events.len(), 1);
    events[0].after.row().unwrap().validate().unwrap();
    let found = after(&events[0]);
    let expected: Vec<Value> = table
        .iter()
        .flat_map(|row| [row.2.clone(), Value::Null])
        .collect();
    assert_values(&found, &expected);
    for (n, row) in table.iter().enumerate() {
        assert_eq!(
            &*events[0].relation.columns[n * 2].type_name,
            row.3,
            "{}",
            row.0
        );
    }
    db.finish(source).await;
}

#[tokio::test]
async fn not_a_number_stays_one() {
    let mut db = Db::new("types_nan").await;
    db.run("CREATE TABLE public.t (a float4, b float8, c float8[])")
        .await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(
            &mut source,
            "INSERT INTO public.t VALUES ('NaN', 'NaN', '{NaN,1}')",
        )
        .await;
    let row = after(&events[0]);
    assert!(matches!(row[0], Value::Float32(v) if v.is_nan()));
    assert!(matches!(row[1], Value::Float64(v) if v.is_nan()));
    assert!(matches!(&row[2], Value::Array(v) if matches!(v[0], Value::Float64(x) if x.is_nan())));
    db.finish(source).await;
}

/// A database without an encoding holds any bytes in its text.
#[tokio::test]
async fn text_of_no_encoding_is_bytes_where_it_is_not_utf8() {
    let options = "TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'";
    let mut db = Db::created("types_ascii", options).await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY, v text)")
        .await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(
            &mut source,
            "INSERT INTO public.t VALUES (1, convert_from('\\xe9', 'SQL_ASCII')), (2, 'caf\u{e9}')",
        )
        .await;
    let values: Vec<Value> = events.iter().map(|event| after(event).remove(1)).collect();
    assert_eq!(values[0], Value::Bytes(vec![0xe9]));
    assert_eq!(values[1], Value::Text("caf\u{e9}".into()));
    db.finish(source).await;
}
