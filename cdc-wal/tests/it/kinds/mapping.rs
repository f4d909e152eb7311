//! What each kind's mutations look like to a consumer: the JSON of their events.

use std::collections::HashSet;
use std::sync::Arc;

use cdc_core::envelope::{Encoder, Format};
use cdc_core::{BatchLimit, Cause, ChangeEvent, Value, ValueRef};
use cdc_wal::kinds::{
    DocumentLog, Encoding, FileStoreLog, GraphLog, InMemoryLog, KeyValueLog, KindLog, MarkdownLog,
    Old, RelationalLog, SchemaChange, VectorLog, document, file_store, graph, in_memory, key_value,
    markdown, relational, vector,
};
use cdc_wal::{Log, LogError, LogErrorKind, StartAt};

use crate::support::{clock, config, drain};

/// An empty log of a kind, and the folder it is in.
fn open<K>() -> (tempfile::TempDir, KindLog<K>) {
    let dir = tempfile::tempdir().expect("a healthy log");
    let log = KindLog::open(config(&dir.path().join("wal"))).expect("a healthy log");
    (dir, log)
}

fn events(log: &Log) -> Vec<ChangeEvent> {
    let mut tail = log.tail(StartAt::Earliest, clock()).expect("a healthy log");
    drain(&mut tail, BatchLimit::default()).expect("a healthy log")
}

/// The members of each event that say what happened: from `op`, and from `schema` on without
/// transaction and time.
fn lines(log: &Log) -> Vec<String> {
    let encoder = Encoder::new(Format::Json);
    let line = |event: &ChangeEvent| {
        let mut out = Vec::new();
        encoder
            .encode(log.source(), event, &mut out)
            .expect("a healthy log");
        let text = String::from_utf8(out).expect("a healthy log");
        let what = text.find("\"op\"").expect("a healthy log");
        let (source, schema) = (
            text.find(",\"source\"").expect("a healthy log"),
            text.find("\"schema\":").expect("a healthy log"),
        );
        let (tx, key) = (
            text.find(",\"tx\"").expect("a healthy log"),
            text.find(",\"key\"").expect("a healthy log"),
        );
        format!(
            "{} {}{}",
            &text[what..source],
            &text[schema..tx],
            &text[key..text.trim_end().len() - 1]
        )
    };
    events(log).iter().map(line).collect()
}

#[track_caller]
fn check(log: &Log, expected: &[&str]) {
    let lines = lines(log);
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(line, expected);
    }
    assert_eq!(lines.len(), expected.len());
}

#[track_caller]
fn refused<T>(result: Result<T, LogError>, what: &str) {
    let Err(error) = result else {
        panic!("taken, but {what}");
    };
    assert_eq!(error.kind, LogErrorKind::Invalid);
    assert!(error.to_string().contains(what), "{error}");
}

#[test]
fn rows() {
    let (_dir, log): (_, RelationalLog) = open();
    let columns = [("id", "int8"), ("name", "text"), ("photo", "bytea")];
    let people = relational::Table::new("public", "people", &columns, &["id"]).unwrap();
    let log_lines = relational::Table::new("public", "log", &[("line", "text")], &[]).unwrap();
    let mut tx = log.begin(7);
    tx.insert(&people, |row| {
        row.int(1);
        row.text("Ada");
        row.null();
    })
    .unwrap();
    tx.set_actor("alice");
    // An unchanged large value is not there, and the old row has the key only.
    tx.update(
        &people,
        |row| {
            row.int(1);
            row.unavailable();
            row.unavailable();
        },
        |row| {
            row.int(2);
            row.text("Ada");
            row.unavailable();
        },
    )
    .unwrap();
    tx.delete_cascade(&people, |row| {
        row.int(2);
        row.unavailable();
        row.unavailable();
    })
    .unwrap();
    tx.truncate(&log_lines).unwrap();
    tx.schema_changed(&log_lines.with_version(1), SchemaChange::Alter)
        .unwrap();
    // Refused, and the transaction is as it was.
    refused(
        tx.insert(&people, |row| row.int(1)),
        "a row of 1 values was written, the table has 3 columns",
    );
    refused(
        tx.delete(&log_lines, |row| {
            row.unavailable();
        }),
        "it has no key, so the old row must be whole",
    );
    refused(tx.update_unseen(&log_lines, |row| row.text("x")), "no key");
    assert_eq!(tx.event_count(), 5);
    tx.commit().unwrap();
    check(
        &log,
        &[
            r#""op":"insert","engine":"relational" "schema":"public","table":"people","key":{"id":1},"before":null,"after":{"id":1,"name":"Ada","photo":null}"#,
            r#""op":"update","engine":"relational" "schema":"public","table":"people","key":{"id":2},"old_key":{"id":1},"before":{"id":1},"before_image":"key","after":{"id":2,"name":"Ada"},"unavailable":["photo"],"meta":{"actor":"alice"}"#,
            r#""op":"delete","cause":"cascade","engine":"relational" "schema":"public","table":"people","key":{"id":2},"before":{"id":2},"before_image":"key","after":null,"meta":{"actor":"alice"}"#,
            r#""op":"truncate","engine":"relational" "schema":"public","table":"log","key":null,"before":null,"after":null,"meta":{"actor":"alice"}"#,
            r#""op":"schema","engine":"relational" "schema":"public","table":"log","key":null,"before":null,"after":null,"meta":{"change":"alter","actor":"alice"}"#,
        ],
    );
    let error = relational::Table::new("s", "t", &columns, &["no"]).unwrap_err();
    assert!(error.to_string().contains("`no` is not one of its columns"));
}

#[test]
fn documents() {
    let (_dir, log): (_, DocumentLog) = open();
    let orders = document::Collection::new("shop", "orders");
    let paths = document::Paths {
        changed: &["lines.0.count"],
        removed: &["note"],
    };
    let mut tx = log.begin(1);
    tx.insert(&orders, 7, r#"{"_id":7}"#)
        .unwrap()
        .update(
            &orders,
            7,
            Old::Known(r#"{"_id":7}"#),
            r#"{"_id":7,"a":1}"#,
            paths,
        )
        .unwrap()
        .replace(&orders, "k", Old::Unknown, r#"{"b":2}"#)
        .unwrap()
        .replace(&orders, "new", Old::Missing, "{}")
        .unwrap()
        .expire(&orders, document::Id::Uuid([0x11; 16]), Old::Unknown)
        .unwrap()
        .delete(&orders, 9, Old::Missing)
        .unwrap()
        .collection_changed(&orders, SchemaChange::Rename { to: "archive" })
        .unwrap();
    tx.commit().unwrap();
    check(
        &log,
        &[
            r#""op":"insert","engine":"document" "schema":"shop","table":"orders","key":{"_id":7},"before":null,"after":{"_id":7,"document":{"_id":7}}"#,
            r#""op":"update","engine":"document" "schema":"shop","table":"orders","key":{"_id":7},"before":{"_id":7,"document":{"_id":7}},"after":{"_id":7,"document":{"_id":7,"a":1}},"meta":{"changed":["lines.0.count"],"removed":["note"]}"#,
            r#""op":"update","engine":"document" "schema":"shop","table":"orders","key":{"_id":"k"},"before":null,"after":{"_id":"k","document":{"b":2}},"meta":{"replace":true}"#,
            r#""op":"insert","engine":"document" "schema":"shop","table":"orders","key":{"_id":"new"},"before":null,"after":{"_id":"new","document":{}}"#,
            r#""op":"delete","cause":"ttl","engine":"document" "schema":"shop","table":"orders","key":{"_id":"11111111-1111-1111-1111-111111111111"},"before":{"_id":"11111111-1111-1111-1111-111111111111"},"before_image":"key","after":null"#,
            r#""op":"schema","engine":"document" "schema":"shop","table":"orders","key":null,"before":null,"after":null,"meta":{"change":"rename","to":"archive"}"#,
        ],
    );
}

#[test]
fn nodes_and_edges() {
    use graph::{Edge, EdgeType, Label, Node};
    let (_dir, log): (_, GraphLog) = open();
    let person = Label::new("social", "Person", &["email"]);
    let ghost = Label::new("social", "Ghost", &[]);
    let knows = EdgeType::new("social", "KNOWS", &[]);
    let email = [("email", Value::from("a@x")), ("age", Value::Int(36))];
    let ada = Node::new("n1", &["Person", "Admin"], &email);
    let end = ada.end(&email[..1]);
    let edge = Edge::new("e1", end, end, &[]);
    let mut tx = log.begin(1);
    tx.create_node(&person, &ada).unwrap();
    tx.detach_delete(&person, &ada, [(&knows, edge)]).unwrap();
    let dead = Node::new("n1", &["Ghost", "Person"], &[]);
    tx.update_node(&ghost, Old::Known(&ada), &dead).unwrap();
    refused(tx.create_node(&ghost, &ada), "first label is another one");
    tx.commit().unwrap();
    check(
        &log,
        &[
            r#""op":"insert","engine":"graph" "schema":"social","table":"Person","key":{"id":"n1","email":"a@x"},"before":null,"after":{"id":"n1","email":"a@x","labels":["Person","Admin"],"properties":{"email":"a@x","age":36}},"meta":{"entity":"node","labels":["Person","Admin"]}"#,
            r#""op":"delete","cause":"cascade","engine":"graph" "schema":"social","table":"KNOWS","key":{"id":"e1"},"before":{"id":"e1","start":{"id":"n1","labels":["Person","Admin"],"keys":{"email":"a@x"}},"end":{"id":"n1","labels":["Person","Admin"],"keys":{"email":"a@x"}},"properties":{}},"after":null,"meta":{"entity":"edge"}"#,
            r#""op":"delete","engine":"graph" "schema":"social","table":"Person","key":{"id":"n1","email":"a@x"},"before":{"id":"n1","email":"a@x","labels":["Person","Admin"],"properties":{"email":"a@x","age":36}},"after":null,"meta":{"entity":"node","labels":["Person","Admin"]}"#,
            r#""op":"update","engine":"graph" "schema":"social","table":"Ghost","key":{"id":"n1"},"before":{"id":"n1","labels":["Person","Admin"],"properties":{"email":"a@x","age":36}},"after":{"id":"n1","labels":["Ghost","Person"],"properties":{}},"meta":{"entity":"node","labels":["Ghost","Person","Admin"],"old_table":"Person"}"#,
        ],
    );
}

#[test]
fn structures_in_memory() {
    use in_memory::{Data, DataType, Database, Entry, Patch, Removed};
    let (_dir, log): (_, InMemoryLog) = open();
    let db = Database::with(3, Encoding::Text, &[("s:", "sessions")]);
    let entry = Entry {
        data: Data::String(b"ada"),
        expires_at: Some(0),
    };
    let hash = Entry::from(Data::Hash(&[(b"f", b"1")]));
    let scores = Entry::from(Data::SortedSet(&[(b"m", 1.5)]));
    let patch = Patch::Hash {
        changed: &[(b"f", b"2")],
        removed: &[b"g"],
    };
    let mut tx = log.begin(1);
    tx.set(&db, b"s:1", Old::Missing, entry).unwrap();
    tx.set_expiry(&db, b"s:1", DataType::String, None).unwrap();
    tx.patch(&db, b"h", patch, None).unwrap();
    // Another type is another table.
    tx.set(&db, b"h", Old::Known(hash), scores).unwrap();
    tx.rename(&db, b"h", b"i", scores, Some(scores)).unwrap();
    tx.evict(&db, b"i", Removed::Type(DataType::SortedSet))
        .unwrap();
    tx.expire(&db, b"s:1", Removed::Entry(entry)).unwrap();
    refused(tx.set(&db, b"\xff", Old::Missing, entry), "not UTF-8");
    tx.commit().unwrap();
    check(
        &log,
        &[
            r#""op":"insert","engine":"inmemory" "schema":"db3","table":"sessions","key":{"key":"s:1"},"before":null,"after":{"key":"s:1","type":"string","value":"ada","expires_at":"1970-01-01T00:00:00Z"}"#,
            r#""op":"update","engine":"inmemory" "schema":"db3","table":"sessions","key":{"key":"s:1"},"before":null,"after":{"key":"s:1","type":"string","expires_at":null},"unavailable":["value"]"#,
            r#""op":"update","engine":"inmemory" "schema":"db3","table":"hash","key":{"key":"h"},"before":null,"after":{"key":"h","type":"hash","expires_at":null},"unavailable":["value"],"meta":{"changed":{"f":"2"},"removed":["g"]}"#,
            r#""op":"delete","engine":"inmemory" "schema":"db3","table":"hash","key":{"key":"h"},"before":{"key":"h","type":"hash","value":{"f":"1"},"expires_at":null},"after":null"#,
            r#""op":"insert","engine":"inmemory" "schema":"db3","table":"zset","key":{"key":"h"},"before":null,"after":{"key":"h","type":"zset","value":[["m",1.5]],"expires_at":null}"#,
            r#""op":"delete","engine":"inmemory" "schema":"db3","table":"zset","key":{"key":"h"},"before":{"key":"h","type":"zset","value":[["m",1.5]],"expires_at":null},"after":null,"meta":{"renamed_to":"i"}"#,
            r#""op":"update","engine":"inmemory" "schema":"db3","table":"zset","key":{"key":"i"},"before":{"key":"i","type":"zset","value":[["m",1.5]],"expires_at":null},"after":{"key":"i","type":"zset","value":[["m",1.5]],"expires_at":null},"meta":{"renamed_from":"h"}"#,
            r#""op":"delete","cause":"evict","engine":"inmemory" "schema":"db3","table":"zset","key":{"key":"i"},"before":{"key":"i"},"before_image":"key","after":null"#,
            r#""op":"delete","cause":"ttl","engine":"inmemory" "schema":"db3","table":"sessions","key":{"key":"s:1"},"before":{"key":"s:1","type":"string","value":"ada","expires_at":"1970-01-01T00:00:00Z"},"after":null"#,
        ],
    );
}

#[test]
fn keys_and_values() {
    use key_value::{Family, Stored};
    let (_dir, log): (_, KeyValueLog) = open();
    let plain = Family::new("store", "default");
    let items = Family::with("store", "items", true, Encoding::Text, Encoding::Json);
    let mut tx = log.begin(1);
    tx.put(&plain, b"k", Old::Unknown, b"v").unwrap();
    tx.merge(&plain, b"k", "add", b"\x01", None).unwrap();
    tx.merge(&plain, b"k", "add", b"\x01", Some(b"w".into()))
        .unwrap();
    tx.expire(&plain, b"k", Old::Known(Stored::until(b"w", 0)))
        .unwrap();
    tx.put(&items, ("p", "s"), Old::Missing, r#"{"n":1}"#)
        .unwrap();
    tx.delete_range(&items, ("p", "a"), ("q", "")).unwrap();
    tx.delete_range(&plain, b"b", b"b").unwrap();
    refused(
        tx.put(&plain, ("p", "s"), Old::Unknown, b"v"),
        "partition and a sort part",
    );
    refused(
        tx.put(&items, "p", Old::Unknown, b"v"),
        "partition and a sort part",
    );
    tx.commit().unwrap();
    check(
        &log,
        &[
            r#""op":"update","engine":"keyvalue" "schema":"store","table":"default","key":{"key":"aw=="},"before":null,"after":{"key":"aw==","value":"dg==","expires_at":null}"#,
            r#""op":"merge","engine":"keyvalue" "schema":"store","table":"default","key":{"key":"aw=="},"before":null,"after":{"key":"aw=="},"unavailable":["value","expires_at"],"meta":{"merge":{"operator":"add","operand":"AQ=="}}"#,
            r#""op":"merge","engine":"keyvalue" "schema":"store","table":"default","key":{"key":"aw=="},"before":null,"after":{"key":"aw==","value":"dw==","expires_at":null},"meta":{"merge":{"operator":"add","operand":"AQ=="}}"#,
            r#""op":"delete","cause":"ttl","engine":"keyvalue" "schema":"store","table":"default","key":{"key":"aw=="},"before":{"key":"aw==","value":"dw==","expires_at":"1970-01-01T00:00:00Z"},"after":null"#,
            r#""op":"insert","engine":"keyvalue" "schema":"store","table":"items","key":{"partition_key":"p","sort_key":"s"},"before":null,"after":{"partition_key":"p","sort_key":"s","value":{"n":1},"expires_at":null}"#,
            r#""op":"delete","engine":"keyvalue" "schema":"store","table":"items","key":null,"before":null,"after":null,"meta":{"range":{"start":["p","a"],"end":["q",""]}}"#,
        ],
    );
    // Debezium has no word for what names no row.
    let encoder = Encoder::new(Format::Debezium);
    let says = |event: &ChangeEvent| encoder.encode(log.source(), event, &mut Vec::new()).is_ok();
    let said: Vec<bool> = events(&log).iter().map(says).collect();
    assert_eq!(said, [true, false, true, true, true, false]);
}

#[test]
fn vectors_bit_by_bit() {
    use vector::{Collection, Point, PointId, Shape, Vectors};
    let (_dir, log): (_, VectorLog) = open();
    let table = Collection::new("db", "points");
    let bits = [
        0x7fc0_0001,
        0xff80_0000,
        0x8000_0000,
        1,
        0x3dcc_cccd,
        0x7fa0_0000,
    ];
    let odd: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
    let one = |vector| Point {
        vectors: Vectors::One(vector),
        payload: None,
    };
    let named = Point {
        vectors: Vectors::Named(&[("a", &[1.0]), ("b", &[-0.0, 0.1])]),
        payload: Some(r#"{"x":1}"#),
    };
    let mut tx = log.begin(1);
    tx.collection_changed(&table, SchemaChange::Create, Some(Shape::new(6, "dot")))
        .unwrap();
    tx.upsert(&table, PointId::Number(u64::MAX), Old::Missing, one(&[0.1]))
        .unwrap();
    tx.upsert(
        &table,
        PointId::Uuid([0xab; 16]),
        Old::Known(one(&[2.0])),
        named,
    )
    .unwrap();
    tx.delete(&table, PointId::Number(7), Old::Unknown).unwrap();
    tx.commit().unwrap();
    check(
        &log,
        &[
            r#""op":"schema","engine":"vector" "schema":"db","table":"points","key":null,"before":null,"after":null,"meta":{"change":"create","dim":6,"metric":"dot"}"#,
            r#""op":"insert","engine":"vector" "schema":"db","table":"points","key":{"id":"18446744073709551615"},"before":null,"after":{"id":"18446744073709551615","vector":[0.1],"payload":null}"#,
            r#""op":"update","engine":"vector" "schema":"db","table":"points","key":{"id":"abababab-abab-abab-abab-abababababab"},"before":{"id":"abababab-abab-abab-abab-abababababab","vector":[2.0],"payload":null},"after":{"id":"abababab-abab-abab-abab-abababababab","vector":{"a":[1.0],"b":[-0.0,0.1]},"payload":{"x":1}}"#,
            r#""op":"delete","engine":"vector" "schema":"db","table":"points","key":{"id":7},"before":{"id":7},"before_image":"key","after":null"#,
        ],
    );
    let mut tx = log.begin(2);
    tx.upsert(&table, PointId::Number(1), Old::Missing, one(&odd))
        .unwrap();
    tx.commit().unwrap();
    let last = events(&log).pop().unwrap();
    let Some(ValueRef::Vector(found)) = last.after.row().unwrap().get(1).unwrap() else {
        panic!("a vector");
    };
    let found: Vec<u32> = found.iter().map(f32::to_bits).collect();
    assert_eq!(found, bits);
}

#[test]
fn objects() {
    use file_store::{Bucket, Object, Removed};
    let (_dir, log): (_, FileStoreLog) = open();
    let (plain, versions) = (Bucket::new("t", "files"), Bucket::versioned("t", "kept"));
    let object = Object {
        key: "a.txt",
        size: 3,
        etag: Some("e-2"),
        sha256: Some([0; 32]),
        content_type: Some("text/plain"),
        modified_at: Some(0),
        tags: &[("k", "v")],
        metadata: &[("x", "y")],
        ..Object::default()
    };
    let key = Removed::Key {
        key: "a.txt",
        version: None,
    };
    let version = Removed::Key {
        key: "a.txt",
        version: Some("v1"),
    };
    let mut tx = log.begin(1);
    tx.put(&plain, Old::Unknown, &object).unwrap();
    tx.expire(&plain, key).unwrap();
    tx.hide(&versions, "a.txt", "v2", None, Cause::Client)
        .unwrap();
    tx.delete(&versions, version).unwrap();
    tx.bucket_changed(&plain, SchemaChange::Drop).unwrap();
    refused(
        tx.put(&versions, Old::Missing, &object),
        "a bucket with versions",
    );
    refused(tx.delete(&plain, version), "a bucket with versions");
    tx.commit().unwrap();
    check(
        &log,
        &[
            r#""op":"update","engine":"filestore" "schema":"t","table":"files","key":{"key":"a.txt"},"before":null,"after":{"key":"a.txt","version":null,"delete_marker":false,"size":3,"etag":"e-2","sha256":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","content_type":"text/plain","modified_at":"1970-01-01T00:00:00Z","tags":{"k":"v"},"metadata":{"x":"y"}}"#,
            r#""op":"delete","cause":"lifecycle","engine":"filestore" "schema":"t","table":"files","key":{"key":"a.txt"},"before":{"key":"a.txt"},"before_image":"key","after":null"#,
            r#""op":"insert","engine":"filestore" "schema":"t","table":"kept","key":{"key":"a.txt","version":"v2"},"before":null,"after":{"key":"a.txt","version":"v2","delete_marker":true,"size":0,"etag":null,"sha256":null,"content_type":null,"modified_at":null,"tags":{},"metadata":{}}"#,
            r#""op":"delete","engine":"filestore" "schema":"t","table":"kept","key":{"key":"a.txt","version":"v1"},"before":{"key":"a.txt","version":"v1"},"before_image":"key","after":null"#,
            r#""op":"schema","engine":"filestore" "schema":"t","table":"files","key":null,"before":null,"after":null,"meta":{"change":"drop"}"#,
        ],
    );
}

#[test]
fn markdown_documents() {
    use markdown::{Document, Folder, Identity, Sections};
    let (_dir, log): (_, MarkdownLog) = open();
    let [drafts, guides] = ["drafts", "guides"].map(|f| Folder::new("book", f, Identity::Id));
    let draft = Document {
        id: Some("d1"),
        front_matter: Some(r#"{"title":"A"}"#),
        ..Document::new("drafts/a.md", "# A\n", &["A"])
    };
    let sections = Sections {
        added: &["A/B"],
        changed: &["A"],
        removed: &[],
    };
    let mut tx = log.begin(1);
    tx.create(&drafts, &draft).unwrap();
    tx.edit(&drafts, Old::Unknown, &draft, sections).unwrap();
    let moved = draft.with_path("guides/a.md");
    tx.rename((&drafts, &draft), (&guides, &moved)).unwrap();
    tx.delete(&guides, &moved).unwrap();
    tx.commit().unwrap();
    check(
        &log,
        &[
            r##""op":"insert","engine":"markdown" "schema":"book","table":"drafts","key":{"id":"d1","path":"drafts/a.md"},"before":null,"after":{"id":"d1","path":"drafts/a.md","front_matter":{"title":"A"},"body":"# A\n","sections":["A"]}"##,
            r##""op":"update","engine":"markdown" "schema":"book","table":"drafts","key":{"id":"d1","path":"drafts/a.md"},"before":null,"after":{"id":"d1","path":"drafts/a.md","front_matter":{"title":"A"},"body":"# A\n","sections":["A"]},"meta":{"sections":{"added":["A/B"],"changed":["A"]}}"##,
            r##""op":"update","engine":"markdown" "schema":"book","table":"guides","key":{"id":"d1","path":"guides/a.md"},"old_key":{"id":"d1","path":"drafts/a.md"},"before":{"id":"d1","path":"drafts/a.md","front_matter":{"title":"A"},"body":"# A\n","sections":["A"]},"after":{"id":"d1","path":"guides/a.md","front_matter":{"title":"A"},"body":"# A\n","sections":["A"]},"meta":{"old_table":"drafts"}"##,
            r##""op":"delete","engine":"markdown" "schema":"book","table":"guides","key":{"id":"d1","path":"guides/a.md"},"before":{"id":"d1","path":"guides/a.md","front_matter":{"title":"A"},"body":"# A\n","sections":["A"]},"after":null"##,
        ],
    );
}

#[test]
fn a_savepoint_takes_back_what_was_recorded_since() {
    let (_dir, log): (_, KeyValueLog) = open();
    let family = key_value::Family::new("store", "default");
    let mut tx = log.begin(1);
    tx.put(&family, b"a", Old::Missing, b"1").unwrap();
    let savepoint = tx.savepoint().unwrap();
    tx.put(&family, b"b", Old::Missing, b"2").unwrap();
    tx.rollback_to(&savepoint).unwrap();
    tx.put(&family, b"c", Old::Missing, b"3").unwrap();
    tx.commit().unwrap();
    let keys: Vec<_> = events(&log)
        .iter()
        .map(|event| event.after.row().unwrap().to_values().unwrap()[0].clone())
        .collect();
    assert_eq!(keys, [Value::Bytes(b"a".into()), Value::Bytes(b"c".into())]);
}

#[test]
fn a_table_is_defined_once_a_segment() {
    // A thousand handles of the same table.
    let (_dir, log): (_, KeyValueLog) = open();
    for n in 0..1000u32 {
        let family = key_value::Family::new("store", "default");
        let mut tx = log.begin(n.into());
        tx.put(&family, &n.to_le_bytes(), Old::Unknown, b"v")
            .unwrap();
        tx.commit_unsynced().unwrap();
    }
    log.flush().unwrap();
    let events = events(&log);
    assert_eq!(events.len(), 1000);
    let defined: HashSet<_> = events.iter().map(|e| Arc::as_ptr(&e.relation)).collect();
    let segments = usize::try_from(log.retained_bytes()).unwrap() / (64 << 10) + 1;
    assert!(
        segments > 1 && defined.len() <= segments,
        "{} definitions",
        defined.len()
    );
}
