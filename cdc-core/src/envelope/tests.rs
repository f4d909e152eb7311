//! What consumers rely on: each format's spelling of each kind of value, and that no event makes
//! a document that cannot be read.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::{
    Cause, Column, EngineKind, Image, Lineage, Lsn, Meta, Position, Relation, RowImage, SourceKind,
    Transaction, Value,
};

fn source() -> SourceInfo {
    SourceInfo::new(
        "shop",
        "shop db",
        Lineage::new(SourceKind::Postgres, [0x5a; 16], 1),
    )
}

fn relation(columns: &[&str], key: &[u16]) -> Arc<Relation> {
    let columns = columns
        .iter()
        .map(|name| Column::new(*name, "any"))
        .collect();
    Arc::new(Relation::new(
        EngineKind::Relational,
        "public",
        "orders",
        columns,
        key.to_vec(),
    ))
}

fn row(values: &[Value]) -> RowImage {
    RowImage::from_values(values)
}

fn event(op: Op, columns: &[&str]) -> ChangeEvent {
    let transaction = Transaction {
        id: 742,
        commit_micros: 1_795_352_707_123_456,
    };
    let position = Position::new(Lsn(0x16B_3748), 1);
    ChangeEvent::new(position, relation(columns, &[0]), transaction, op)
}

fn update() -> ChangeEvent {
    let mut event = event(Op::Update, &["id", "total"]);
    event.before = Image::Full(row(&[Value::Int(7), Value::Decimal("19.90".into())]));
    event.after = Image::Full(row(&[Value::Int(7), Value::Decimal("24.90".into())]));
    event
}

fn text(encoder: &Encoder, event: &ChangeEvent) -> String {
    let mut out = Vec::new();
    encoder.encode(&source(), event, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn json_of(event: &ChangeEvent) -> Json {
    serde_json::from_str(&text(&Encoder::new(Format::Json), event)).unwrap()
}

#[test]
fn json_version_one() {
    // Frozen: members, their order and their spelling are the format.
    assert_eq!(
        text(&Encoder::new(Format::Json), &update()),
        concat!(
            r#"{"id":"5a5a5a5a5a5a5a5a-00000000016b3748-00000001","position":"0/16B3748:1","op":"update","#,
            r#""engine":"relational","source":{"name":"shop","kind":"postgres","database":"shop db"},"#,
            r#""schema":"public","table":"orders","tx":{"id":"742","ordinal":1,"last":false},"#,
            r#""ts":"2026-11-22T13:05:07.123456Z","key":{"id":7},"before":{"id":7,"total":"19.90"},"#,
            r#""after":{"id":7,"total":"24.90"}}"#
        )
    );
}

#[test]
fn json_says_what_is_special_and_only_then() {
    let mut event = update();
    event.cause = Cause::Cascade;
    event.last = true;
    event.before = Image::Key(row(&[Value::Int(6), Value::Unavailable]));
    event.after = Image::Partial(row(&[Value::Int(7), Value::Unavailable]));
    event.meta = Some(Arc::new(Meta(vec![
        ("ttl".into(), Value::Int(5)),
        (
            "list".into(),
            Value::Array(vec![Value::Null, Value::Text("x".into())]),
        ),
    ])));
    let line = text(&Encoder::new(Format::Json), &event);
    let expected = concat!(
        r#""op":"update","cause":"cascade","engine":"relational""#,
        r#""last":true}"#,
        r#""key":{"id":7},"old_key":{"id":6},"before":{"id":6},"before_image":"key","#,
        r#""after":{"id":7},"unavailable":["total"],"meta":{"ttl":5,"list":[null,"x"]}}"#
    );
    for part in expected
        .split_inclusive("\"relational\"")
        .flat_map(|p| p.split_inclusive("true}"))
    {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn unavailable_columns_of_a_deletion_are_listed() {
    let mut event = event(Op::Delete, &["id", "total"]);
    event.before = Image::Partial(row(&[Value::Int(7), Value::Unavailable]));
    let json = json_of(&event);
    assert_eq!(json["before"], serde_json::json!({"id": 7}));
    assert_eq!(json["before_image"], "partial");
    assert_eq!(json["unavailable"], serde_json::json!(["total"]));
    assert_eq!(json["after"], Json::Null);
    // A key image says so; listing every other column would say it twice.
    event.before = Image::Key(row(&[Value::Int(7), Value::Unavailable]));
    let json = json_of(&event);
    assert_eq!(json["before_image"], "key");
    assert_eq!(json.get("unavailable"), None);
}

#[test]
fn key_comes_from_the_image_that_has_it() {
    let mut changed = update();
    changed.after = Image::Partial(row(&[Value::Unavailable, Value::Null]));
    assert_eq!(json_of(&changed)["key"], serde_json::json!({"id": 7}));
    let truncate = event(Op::Truncate, &["id"]);
    assert_eq!(json_of(&truncate)["key"], Json::Null);
    let mut keyless = update();
    keyless.relation = relation(&["id", "total"], &[]);
    assert_eq!(json_of(&keyless)["key"], Json::Null);
}

/// Value, `json`, `json` with plain numbers, `debezium`.
fn spellings() -> Vec<(Value, &'static str, &'static str, &'static str)> {
    let same = |value, text| (value, text, text, text);
    let long = "123456789012345678901234567890.10";
    vec![
        same(Value::Null, "null"),
        same(Value::Bool(true), "true"),
        same(Value::Int(-5), "-5"),
        same(Value::Int((1 << 53) - 1), "9007199254740991"),
        (
            Value::Int(1 << 53),
            "\"9007199254740992\"",
            "9007199254740992",
            "9007199254740992",
        ),
        (
            Value::Int(i64::MIN),
            "\"-9223372036854775808\"",
            "-9223372036854775808",
            "-9223372036854775808",
        ),
        (
            Value::UInt(u64::MAX),
            "\"18446744073709551615\"",
            "18446744073709551615",
            "18446744073709551615",
        ),
        same(Value::Float32(0.1), "0.1"),
        same(Value::Float32(16_777_216.0), "16777216.0"),
        same(Value::Float64(0.1), "0.1"),
        same(Value::Float64(-0.0), "-0.0"),
        same(Value::Float64(1e300), "1e300"),
        same(Value::Float64(f64::NAN), "\"NaN\""),
        same(Value::Float64(f64::INFINITY), "\"Infinity\""),
        same(Value::Float32(f32::NEG_INFINITY), "\"-Infinity\""),
        (
            Value::Decimal(long.into()),
            "\"123456789012345678901234567890.10\"",
            "123456789012345678901234567890.10",
            "\"123456789012345678901234567890.10\"",
        ),
        same(Value::Decimal("NaN".into()), "\"NaN\""),
        same(
            Value::Text("a\"\\\n\u{1}é".into()),
            "\"a\\\"\\\\\\n\\u0001é\"",
        ),
        same(Value::Bytes(vec![0, 255, 16]), "\"AP8Q\""),
        same(Value::Bytes(vec![]), "\"\""),
        same(
            Value::Uuid(*b"\x12\x34\x56\x78\x9a\xbc\xde\xf0\x12\x34\x56\x78\x9a\xbc\xde\xf0"),
            "\"12345678-9abc-def0-1234-56789abcdef0\"",
        ),
        (
            Value::Json("{\"a\" :\n1.0}".into()),
            "{\"a\" : 1.0}",
            "{\"a\" : 1.0}",
            "\"{\\\"a\\\" :\\n1.0}\"",
        ),
        same(Value::Json("{oops".into()), "\"{oops\""),
        (Value::Date(0), "\"1970-01-01\"", "\"1970-01-01\"", "0"),
        (
            Value::Date(i32::MAX),
            "\"infinity\"",
            "\"infinity\"",
            "2147483647",
        ),
        (
            Value::Time(3_661_000_001),
            "\"01:01:01.000001\"",
            "\"01:01:01.000001\"",
            "3661000001",
        ),
        (
            Value::Timestamp(1_500_000),
            "\"1970-01-01T00:00:01.500000\"",
            "\"1970-01-01T00:00:01.500000\"",
            "1500000",
        ),
        same(Value::TimestampTz(1_000_000), "\"1970-01-01T00:00:01Z\""),
        same(Value::TimestampTz(i64::MIN), "\"-infinity\""),
        same(
            Value::Array(vec![Value::Int(1), Value::Null, Value::Array(vec![])]),
            "[1,null,[]]",
        ),
        same(
            Value::Map(vec![
                ("k\"".into(), Value::Bool(false)),
                ("l".into(), Value::Null),
            ]),
            "{\"k\\\"\":false,\"l\":null}",
        ),
        same(Value::Vector(vec![0.1, -2.0, 1e-10]), "[0.1,-2.0,1e-10]"),
    ]
}

#[test]
fn every_kind_of_value_in_every_text_format() {
    let plain = JsonOptions {
        numbers: NumberStyle::Plain,
    };
    for (value, safe, plain_text, debezium) in spellings() {
        let mut event = event(Op::Insert, &["id", "v"]);
        event.after = Image::Full(row(&[Value::Int(1), value.clone()]));
        event.meta = Some(Arc::new(Meta(vec![("m".into(), value.clone())])));
        let line = text(&Encoder::new(Format::Json), &event);
        let expected = format!("\"after\":{{\"id\":1,\"v\":{safe}}},\"meta\":{{\"m\":{safe}}}}}");
        assert!(line.ends_with(&expected), "{value:?}: {line}");
        let line = text(&Encoder::new(Format::Json).with_json(plain), &event);
        assert!(
            line.contains(&format!("\"v\":{plain_text}}}")),
            "{value:?}: {line}"
        );
        let line = text(&Encoder::new(Format::Debezium), &event);
        assert!(
            line.contains(&format!("\"v\":{debezium}}}")),
            "{value:?}: {line}"
        );
    }
}

#[test]
fn debezium_change() {
    // Frozen: what consumers of Debezium's records read.
    assert_eq!(
        text(&Encoder::new(Format::Debezium), &update()),
        concat!(
            r#"{"before":{"id":7,"total":"19.90"},"after":{"id":7,"total":"24.90"},"source":{"version":"0.0.0","#,
            r#""connector":"postgresql","name":"shop","ts_ms":1795352707123,"ts_us":1795352707123456,"#,
            r#""ts_ns":1795352707123456000,"snapshot":"false","db":"shop db","sequence":"[\"23803720\",\"1\"]","#,
            r#""schema":"public","table":"orders","txId":742,"lsn":23803720},"op":"u","ts_ms":1795352707123,"#,
            r#""ts_us":1795352707123456,"ts_ns":1795352707123456000,"#,
            r#""transaction":{"id":"742:23803720","total_order":2}}"#
        )
    );
}

#[test]
fn debezium_operations_and_gaps() {
    let parse = |line: &str| serde_json::from_str::<Json>(line).unwrap();
    let encoder = Encoder::new(Format::Debezium);
    for (op, letter) in [
        (Op::Insert, "c"),
        (Op::Read, "r"),
        (Op::Delete, "d"),
        (Op::Truncate, "t"),
        (Op::Merge, "u"),
    ] {
        let mut event = event(op, &["id", "v"]);
        let image = row(&[Value::Int(7), Value::Unavailable]);
        match op {
            Op::Delete => event.before = Image::Key(image),
            Op::Truncate => {}
            _ => event.after = Image::Partial(image),
        }
        let json = parse(&text(&encoder, &event));
        assert_eq!(json["op"], letter);
        assert_eq!(
            json["source"]["snapshot"],
            if op == Op::Read { "true" } else { "false" }
        );
        match op {
            Op::Delete => assert_eq!(json["before"], serde_json::json!({"id": 7})),
            Op::Truncate => assert_eq!(json["after"], Json::Null),
            _ => assert_eq!(json["after"]["v"], "__debezium_unavailable_value"),
        }
    }
    let mut merge = event(Op::Merge, &["id"]);
    let mut out = b"kept".to_vec();
    let error = encoder.encode(&source(), &merge, &mut out).unwrap_err();
    assert_eq!(out, b"kept");
    assert_eq!(
        error.to_string(),
        "encode an event of public.orders: the format debezium cannot say merge; use json, or filter the operation out"
    );
    merge.op = Op::Message;
    merge.relation = relation(&["content"], &[]);
    merge.after = Image::Full(row(&[Value::Text("hello".into())]));
    let json = parse(&text(&encoder, &merge));
    assert_eq!(json["op"], "m");
    assert_eq!(
        json["message"],
        serde_json::json!({"prefix": "orders", "content": "aGVsbG8="})
    );
}

#[test]
fn debezium_key_change_is_a_deletion_and_a_creation() {
    let mut event = update();
    event.after = Image::Full(row(&[Value::Int(8), Value::Decimal("24.90".into())]));
    let encoder = Encoder::new(Format::Debezium);
    let (mut out, mut parts) = (Vec::new(), Vec::new());
    let count = encoder
        .encode_each(&source(), &event, &mut out, &mut |out| {
            parts.push(serde_json::from_slice::<Json>(out).unwrap());
            out.clear();
        })
        .unwrap();
    assert_eq!(count, 2);
    assert_eq!(
        (&parts[0]["op"], &parts[0]["before"]["id"]),
        (&"d".into(), &7.into())
    );
    assert_eq!(parts[0]["after"], Json::Null);
    assert_eq!(
        (&parts[1]["op"], &parts[1]["after"]["id"]),
        (&"c".into(), &8.into())
    );
    assert_eq!(parts[1]["before"], Json::Null);
    let both = text(&encoder, &event);
    let lines: Vec<Json> = both
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines, parts);

    // Neither half is handed over if one of them cannot be written.
    event.after = Image::Full(row(&[Value::Int(8)]));
    let mut called = 0;
    let failed = encoder.encode_each(&source(), &event, &mut out, &mut |_| called += 1);
    assert!(matches!(failed, Err(EncodeError::ColumnCount { .. })));
    assert_eq!((called, out.len()), (0, 0));
}

#[test]
fn debezium_schema_change_and_wrapper() {
    let mut event = event(Op::Schema, &["id", "v"]);
    event.meta = Some(Arc::new(Meta(vec![(
        "ddl".into(),
        Value::Text("ALTER".into()),
    )])));
    let encoder = Encoder::new(Format::Debezium).with_debezium(DebeziumOptions {
        payload_wrapper: true,
    });
    let json: Json = serde_json::from_str(&text(&encoder, &event)).unwrap();
    assert_eq!(json["schema"], Json::Null);
    let payload = &json["payload"];
    assert_eq!(payload["ddl"], "ALTER");
    assert_eq!(
        payload["tableChanges"][0]["id"],
        "\"shop db\".\"public\".\"orders\""
    );
    let table = &payload["tableChanges"][0]["table"];
    assert_eq!(table["primaryKeyColumnNames"], serde_json::json!(["id"]));
    assert_eq!(
        table["columns"][1],
        serde_json::json!({"name": "v", "typeName": "any", "position": 2})
    );
}

#[test]
fn cloudevents_attributes() {
    let mut event = update();
    event.relation = relation(&["id", "total"], &[0, 1]);
    event.after = Image::Full(row(&[
        Value::Text("a/b\nc".into()),
        Value::Bytes(vec![1, 255]),
    ]));
    let json: Json =
        serde_json::from_str(&text(&Encoder::new(Format::CloudEvents), &event)).unwrap();
    let mut attributes = json.as_object().unwrap().clone();
    let data = attributes.remove("data").unwrap();
    assert_eq!(data, json_of(&event));
    let expected = serde_json::json!({
        "specversion": "1.0",
        "id": "5a5a5a5a5a5a5a5a-00000000016b3748-00000001",
        "source": "/cdc/shop/shop%20db",
        "type": "com.weftkit.cdc.row.updated",
        "subject": "public.orders/a%2fb%0ac/01ff",
        "time": "2026-11-22T13:05:07.123456Z",
        "datacontenttype": "application/json",
        "sequence": crate::ResumeToken::new(source().lineage, event.position).to_string(),
        "partitionkey": "public.orders/a%2fb%0ac/01ff",
    });
    assert_eq!(Json::Object(attributes), expected);
}

#[test]
fn bad_rows_and_keys_are_errors_and_leave_the_buffer() {
    let mut short = update();
    short.after = Image::Full(row(&[Value::Int(1)]));
    let mut long = update();
    long.after = Image::Full(row(&[Value::Int(1), Value::Null, Value::Null]));
    let mut key = update();
    key.relation = relation(&["id", "total"], &[9]);
    let mut damaged = update();
    damaged.after = Image::Full(RowImage::from_bytes(Bytes::from_static(&[2, 0, 4, 1])));
    let mut empty = update();
    empty.after = Image::Full(RowImage::default());
    for event in [&short, &long, &key, &damaged, &empty] {
        for format in [Format::Json, Format::Debezium, Format::CloudEvents] {
            let mut out = b"kept".to_vec();
            let result = Encoder::new(format).encode(&source(), event, &mut out);
            // Debezium's value has no key, so only its images can fail.
            if !(format == Format::Debezium && std::ptr::eq(event, &raw const key)) {
                assert!(result.is_err(), "{format} {event:?}");
                assert_eq!(out, b"kept");
            }
        }
    }
    let mut out = b"kept".to_vec();
    let result = Encoder::new(Format::Bincode).encode(&source(), &key, &mut out);
    assert!(matches!(
        result,
        Err(EncodeError::KeyOrdinal { ordinal: 9, .. })
    ));
    assert_eq!(out, b"kept");
}

#[test]
fn names_read_back() {
    for format in Format::ALL {
        assert_eq!(Format::from_name(format.name()), Some(format));
        assert_eq!(Encoder::new(format).content_type(), format.content_type());
    }
    assert_eq!(Format::from_name("avro"), None);
    assert_eq!(NumberStyle::from_name("plain"), Some(NumberStyle::Plain));
}

#[test]
fn compact_version_one_stays_readable() {
    // Frozen: written by the first release, to be read by every later one.
    let mut event = update();
    event.before = Image::Key(row(&[Value::Int(6), Value::Unavailable]));
    event.cause = Cause::Ttl;
    event.last = true;
    event.meta = Some(Arc::new(Meta(vec![("ttl".into(), Value::Int(300))])));
    let mut out = Vec::new();
    Encoder::new(Format::Bincode)
        .encode(&source(), &event, &mut out)
        .unwrap();
    let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, COMPACT_V1);
    let (read_source, read) = compact::decode(&Bytes::from(out.clone())).unwrap();
    assert_eq!((&*read_source, &read), (&source(), &event));
    assert_eq!(compact::encoded_len(&out), Ok(out.len()));
    assert_eq!(
        compact::encoded_len(&out[..compact::PREFIX_LEN]),
        Ok(out.len())
    );
    for end in 0..out.len() {
        let cut = compact::decode(&Bytes::copy_from_slice(&out[..end]));
        assert!(
            matches!(cut, Err(compact::DecodeError::CutOff { .. })),
            "{end}"
        );
    }
    out.push(0);
    let long = compact::decode(&Bytes::from(out.clone()));
    assert_eq!(long, Err(compact::DecodeError::Trailing { extra: 1 }));
    out[0] = 2;
    let newer = compact::decode(&Bytes::from(out));
    assert_eq!(newer, Err(compact::DecodeError::Version { version: 2 }));
}

const COMPACT_V1: &str = concat!(
    "01600000000c000000150000000b000000",
    "025a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a010473686f700773686f70206462fc48376b01",
    "01010101fbe602fd0092b540bac10c0000067075626c6963066f726465727300",
    "0202696403616e7905746f74616c03616e790100020101010374746c",
    "020004060000000000000001",
    "0200040700000000000000080500000032342e3930",
    "0100042c01000000000000",
);

fn value(depth: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(Value::Unavailable),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::UInt),
        any::<u32>().prop_map(|b| Value::Float32(f32::from_bits(b))),
        any::<u64>().prop_map(|b| Value::Float64(f64::from_bits(b))),
        "-?[0-9]{1,30}(\\.[0-9]{1,9})?|[a-z]{3}".prop_map(Value::Decimal),
        any::<String>().prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        "[\\[\\]{},:\"0-9 \n\ttruefalsn]{0,12}|\\{\"a\" :\n[0-9]{1,20}\\}".prop_map(Value::Json),
        any::<i32>().prop_map(Value::Date),
        any::<i64>().prop_map(Value::Time),
        any::<i64>().prop_map(Value::Timestamp),
        any::<i64>().prop_map(Value::TimestampTz),
        proptest::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..8)
            .prop_map(Value::Vector),
    ];
    leaf.prop_recursive(depth, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            proptest::collection::vec((any::<String>(), inner), 0..5).prop_map(Value::Map),
        ]
    })
    .boxed()
}

/// An event of any operation whose images fit its relation, unless a list holds an unavailable
/// value, which `json` refuses.
fn any_event() -> impl Strategy<Value = ChangeEvent> {
    let columns = proptest::collection::vec((any::<String>(), value(2), value(2)), 1..6);
    let meta = proptest::option::of(proptest::collection::vec((any::<String>(), value(1)), 0..3));
    let images = (0u8..4, 0u8..4);
    let numbers = (
        any::<u64>(),
        any::<u32>(),
        any::<i64>(),
        any::<u64>(),
        any::<bool>(),
    );
    (columns, meta, images, numbers, 0u8..8, 0u8..5, 0u8..8).prop_map(
        |(columns, meta, (before, after), (lsn, ordinal, ts, xid, last), op, cause, engine)| {
            let image = |kind, values: Vec<Value>| match kind {
                0 => Image::Absent,
                1 => Image::Full(row(&values)),
                2 => Image::Key(row(&values)),
                _ => Image::Partial(row(&values)),
            };
            let names = columns
                .iter()
                .map(|(name, ..)| Column::new(name.as_str(), "t"));
            let mut relation = Relation::new(
                EngineKind::from_u8(engine).unwrap(),
                columns[0].0.as_str(),
                "t",
                names.collect(),
                vec![0],
            );
            relation.version = ordinal;
            let transaction = Transaction {
                id: xid,
                commit_micros: ts,
            };
            let position = Position::new(Lsn(lsn), ordinal);
            let op = Op::from_u8(op).unwrap();
            let mut event = ChangeEvent::new(position, Arc::new(relation), transaction, op);
            event.last = last;
            event.cause = Cause::from_u8(cause).unwrap();
            event.before = image(before, columns.iter().map(|c| c.1.clone()).collect());
            event.after = image(after, columns.iter().map(|c| c.2.clone()).collect());
            event.meta = meta.map(|entries| {
                let entries = entries
                    .into_iter()
                    .map(|(name, value)| (name.into(), value));
                Arc::new(Meta(entries.collect()))
            });
            event
        },
    )
}

fn refused_in_a_list(error: &EncodeError) -> bool {
    matches!(error, EncodeError::Row { cause, .. } if cause.what == "unavailable value inside a list")
}

/// Checks that a value reads back as what it was.
fn same(value: &Value, json: &Json) -> bool {
    match value {
        Value::Int(v) => json.as_i64().or_else(|| json.as_str()?.parse().ok()) == Some(*v),
        Value::UInt(v) => json.as_u64().or_else(|| json.as_str()?.parse().ok()) == Some(*v),
        // This parser is off by one bit now and then; exactness is checked on the digits, below.
        Value::Float64(v) if v.is_finite() => json
            .as_f64()
            .is_some_and(|read| read == *v || ((read - v) / v).abs() < 1e-14),
        Value::Float32(v) if v.is_finite() => {
            json.to_string().parse::<f32>().map(f32::to_bits) == Ok(v.to_bits())
        }
        Value::Decimal(v) | Value::Text(v) => json.as_str() == Some(v),
        Value::Bool(v) => json.as_bool() == Some(*v),
        Value::Null => json.is_null(),
        Value::Array(items) => json.as_array().is_some_and(|list| {
            list.len() == items.len() && items.iter().zip(list).all(|(a, b)| same(a, b))
        }),
        Value::Vector(items) => json.as_array().is_some_and(|list| {
            list.len() == items.len()
                && items
                    .iter()
                    .zip(list)
                    .all(|(a, b)| same(&Value::Float32(*a), b))
        }),
        // Never null: that would be a value.
        _ => !json.is_null() || matches!(value, Value::Json(text) if text.trim() == "null"),
    }
}

proptest! {
    #[test]
    fn text_formats_are_always_one_readable_line_a_document(event in any_event()) {
        for format in [Format::Json, Format::Debezium, Format::CloudEvents] {
            let mut out = Vec::new();
            let mut ended = |out: &mut Vec<u8>| out.push(b'\n');
            match Encoder::new(format).encode_each(&source(), &event, &mut out, &mut ended) {
                Ok(count) => {
                    prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), count);
                    for line in std::str::from_utf8(&out).unwrap().lines() {
                        let parsed = serde_json::from_str::<Json>(line);
                        prop_assert!(parsed.is_ok(), "{} {}", line, parsed.unwrap_err());
                    }
                }
                Err(EncodeError::Unsupported { .. }) => prop_assert_eq!(format, Format::Debezium),
                Err(error) => prop_assert!(refused_in_a_list(&error), "{}", error),
            }
        }
    }

    #[test]
    fn json_keeps_every_value_and_lists_what_is_missing(
        values in proptest::collection::vec(value(2), 1..6),
    ) {
        let names: Vec<String> = (0..values.len()).map(|n| format!("c{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut event = event(Op::Insert, &names);
        event.after = Image::Full(row(&values));
        let mut out = Vec::new();
        match Encoder::new(Format::Json).encode(&source(), &event, &mut out) {
            Ok(()) => {
                let json: Json = serde_json::from_slice(&out).unwrap();
                let missing: Vec<&str> = names
                    .iter()
                    .zip(&values)
                    .filter(|(_, value)| **value == Value::Unavailable)
                    .map(|(name, _)| *name)
                    .collect();
                let listed = json.get("unavailable").map_or(Vec::new(), |list| {
                    list.as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect()
                });
                prop_assert_eq!(&listed, &missing);
                for (name, value) in names.iter().zip(&values) {
                    let read = json["after"].get(*name);
                    prop_assert_eq!(read.is_none(), *value == Value::Unavailable);
                    if let Some(read) = read {
                        prop_assert!(same(value, read), "{:?} {}", value, read);
                    }
                }
            }
            Err(error) => prop_assert!(refused_in_a_list(&error), "{}", error),
        }
    }

    /// Whatever the rows of an update have in common, each is spelled as it would be alone.
    #[test]
    fn a_row_is_spelled_the_same_beside_another(
        values in proptest::collection::vec((value(1), value(1), any::<bool>()), 1..6),
    ) {
        let names: Vec<String> = (0..values.len()).map(|n| format!("c{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let old: Vec<Value> = values.iter().map(|(old, _, _)| old.clone()).collect();
        let new = values.iter().map(|(old, new, same)| if *same { old } else { new }.clone());
        let new: Vec<Value> = new.collect();
        let encoded = |op, before, after| {
            let mut event = event(op, &names);
            (event.before, event.after) = (before, after);
            let mut out = Vec::new();
            let encoded = Encoder::new(Format::Json).encode(&source(), &event, &mut out);
            encoded.map(|()| String::from_utf8(out).unwrap())
        };
        let image = |values: &[Value]| Image::Full(row(values));
        let rows = [&old, &new].map(|values| encoded(Op::Insert, Image::Absent, image(values)));
        match (encoded(Op::Update, image(&old), image(&new)), rows) {
            (Ok(update), [Ok(old), Ok(new)]) => {
                let member = |line: &str, from: &str| {
                    let at = line.find(from).unwrap() + from.len();
                    let json = &line[at..];
                    let mut read = serde_json::Deserializer::from_str(json).into_iter::<Json>();
                    read.next().unwrap().unwrap();
                    json[..read.byte_offset()].to_owned()
                };
                let after = ",\"after\":";
                prop_assert_eq!(member(&update, ",\"before\":"), member(&old, after));
                prop_assert_eq!(member(&update, after), member(&new, after));
            }
            (Err(error), rows) => {
                prop_assert!(refused_in_a_list(&error), "{}", error);
                prop_assert!(rows.iter().any(Result::is_err));
            }
            (Ok(_), _) => prop_assert!(false, "a row that is refused alone is refused"),
        }
    }

    #[test]
    fn floats_are_written_shortest_and_exact(bits in any::<u64>(), half in any::<u32>()) {
        let (double, single) = (f64::from_bits(bits), f32::from_bits(half));
        let mut out = Vec::new();
        text::float64(&mut out, double);
        if double.is_finite() {
            let read: f64 = std::str::from_utf8(&out).unwrap().parse().unwrap();
            prop_assert_eq!(read.to_bits(), bits);
        }
        out.clear();
        text::float32(&mut out, single);
        if single.is_finite() {
            let read: f32 = std::str::from_utf8(&out).unwrap().parse().unwrap();
            prop_assert_eq!(read.to_bits(), half);
        }
    }

    #[test]
    fn compact_round_trips(event in any_event()) {
        let encoder = Encoder::new(Format::Bincode);
        let mut out = Vec::new();
        encoder.encode(&source(), &event, &mut out).unwrap();
        let bytes = Bytes::from(out);
        prop_assert_eq!(compact::encoded_len(&bytes), Ok(bytes.len()));
        let (read_source, read) = compact::decode(&bytes).unwrap();
        prop_assert_eq!(&*read_source, &source());
        // NaN in the extras is not equal to itself, so compare by encoding again.
        let mut again = Vec::new();
        encoder.encode(&read_source, &read, &mut again).unwrap();
        prop_assert_eq!(&again, &bytes);
        prop_assert_eq!((read.before, read.after), (event.before, event.after));
        prop_assert_eq!(read.relation, event.relation);
    }

    #[test]
    fn compact_is_safe_on_any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), small in any::<bool>()) {
        if small && !bytes.is_empty() {
            // Lengths that fit, so that the header's decoder is reached.
            bytes[0] = 1;
            let rest = bytes.len().saturating_sub(compact::PREFIX_LEN);
            for (at, byte) in bytes.iter_mut().enumerate().take(compact::PREFIX_LEN).skip(1) {
                *byte = if at == 1 { u8::try_from(rest % 256).unwrap() } else { u8::from(at == 2 && rest > 255) };
            }
        }
        let _ = compact::decode(&Bytes::from(bytes));
    }

    #[test]
    fn compact_is_safe_when_damaged(event in any_event(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut out = Vec::new();
        Encoder::new(Format::Bincode).encode(&source(), &event, &mut out).unwrap();
        let at = at.index(out.len());
        out[at] = to;
        if let Ok((source, event)) = compact::decode(&Bytes::from(out)) {
            for format in Format::ALL {
                let _ = Encoder::new(format).encode(&source, &event, &mut Vec::new());
            }
        }
    }
}
