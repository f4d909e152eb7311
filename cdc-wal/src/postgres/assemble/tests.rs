use super::super::decode::tests::Build;
use super::super::decode::{EPOCH_MICROS, message};
use super::super::types::Types;
use super::*;
use cdc_core::{Value, ValueRef};
use proptest::prelude::*;

const FLOOR: Position = Position::end_of(Lsn(5));

fn push(assembler: &mut Assembler, bytes: &[u8]) -> Result<(), SourceError> {
    let message = message(bytes).unwrap();
    if let Message::Relation(def) = &message {
        let def = OwnedDef::from(def);
        let table = Table::new(&def, &Types::new(), &[0], None);
        assembler.define(&def, table);
    }
    assembler.push(&message, 77)
}

fn feed(assembler: &mut Assembler, messages: &[Vec<u8>]) {
    for bytes in messages {
        push(assembler, bytes).unwrap();
    }
}

/// `t (id int8 key, v text)` as relation 7.
fn table() -> Vec<u8> {
    Build::relation(7, "t", b'd', &[(true, "id", 20), (false, "v", 25)])
}

fn insert(id: &str) -> Vec<u8> {
    Build::insert(7, &[Some(id), Some("value")])
}

/// A message outside of transactions, of a record that ends at an LSN.
fn loose(lsn: u64) -> Vec<u8> {
    Build::tag(b'M').u8(0).u64(lsn).name("p").u32(1).u8(9).0
}

fn assembler() -> Assembler {
    let mut assembler = Assembler::new(FLOOR);
    feed(&mut assembler, &[table()]);
    assembler
}

fn ids(events: &[ChangeEvent]) -> Vec<i64> {
    let id = |e: &ChangeEvent| match e.after.row().unwrap().get(0).unwrap() {
        Some(ValueRef::Int(id)) => id,
        _ => panic!("a number"),
    };
    events.iter().map(id).collect()
}

#[test]
fn the_last_event_is_held_until_it_is_known_to_be_the_last() {
    let mut a = assembler();
    feed(&mut a, &[Build::begin(10, 3), insert("1"), insert("2")]);
    assert_eq!(a.ready(), 1);
    let (events, end) = a.take();
    assert_eq!(ids(&events), [1]);
    assert!(!events[0].last);
    assert_eq!(end, Position::new(Lsn(10), 0));
    // The held event's row has moved to the next batch's buffer.
    feed(&mut a, &[insert("3"), Build::commit(10)]);
    let (events, end) = a.take();
    assert_eq!(ids(&events), [2, 3]);
    assert_eq!([events[0].last, events[1].last], [false, true]);
    assert_eq!(events[1].position, Position::new(Lsn(10), 2));
    assert_eq!(events[1].transaction.id, 3);
    assert_eq!(
        events[1].transaction.commit_micros,
        EPOCH_MICROS + 1_000_000
    );
    assert_eq!(end, Position::end_of(Lsn(10)));
    events[0].after.row().unwrap().validate().unwrap();
}

#[test]
fn an_empty_batch_inside_a_transaction_does_not_cover_it() {
    let mut a = assembler();
    feed(&mut a, &[Build::begin(10, 3), insert("1")]);
    // A keepalive in the middle means nothing: the transaction is not whole.
    a.keepalive(500);
    let (events, end) = a.take();
    assert!(events.is_empty());
    assert_eq!(end, FLOOR);
    feed(&mut a, &[Build::commit(10)]);
    a.keepalive(500);
    let (events, end) = a.take();
    assert_eq!(ids(&events), [1]);
    assert_eq!(end, Position::before(Lsn(500)));
    // And none goes back.
    a.keepalive(400);
    assert_eq!(a.take().1, Position::before(Lsn(500)));
}

#[test]
fn transactions_at_or_below_the_floor_are_dropped_whole() {
    let mut a = Assembler::new(Position::end_of(Lsn(10)));
    let messages = [
        table(),
        Build::begin(10, 3),
        insert("1"),
        Build::commit(10),
        Build::begin(20, 4),
        insert("2"),
        Build::commit(20),
    ];
    feed(&mut a, &messages);
    assert_eq!(ids(&a.take().0), [2]);

    // A floor inside a transaction brings the whole of it again.
    let mut a = Assembler::new(Position::new(Lsn(10), 0));
    feed(&mut a, &messages);
    assert_eq!(ids(&a.take().0), [1, 2]);
}

#[test]
fn a_broken_connection_repeats_the_unfinished_transaction_only() {
    let mut a = assembler();
    feed(
        &mut a,
        &[
            Build::begin(10, 3),
            insert("1"),
            Build::commit(10),
            Build::begin(20, 4),
            insert("2"),
            insert("3"),
        ],
    );
    a.restart();
    // The server starts over from an older place.
    feed(
        &mut a,
        &[
            table(),
            Build::begin(10, 3),
            insert("1"),
            Build::commit(10),
            Build::begin(20, 4),
            insert("2"),
            insert("3"),
            Build::commit(20),
        ],
    );
    let (events, _) = a.take();
    assert_eq!(ids(&events), [1, 2, 3]);
    assert_eq!(events[1].position, Position::new(Lsn(20), 0));
    for event in &events {
        event.after.row().unwrap().validate().unwrap();
    }
}

#[test]
fn relations_must_be_described_again_after_a_restart() {
    let mut a = assembler();
    a.restart();
    feed(&mut a, &[Build::begin(10, 3)]);
    let error = push(&mut a, &insert("1")).unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Corrupt);
}

#[test]
fn a_message_outside_a_transaction_has_a_position_of_its_own() {
    let mut a = assembler();
    feed(&mut a, &[loose(15)]);
    let (events, end) = a.take();
    assert_eq!(events.len(), 1);
    assert!(events[0].last);
    assert_eq!(events[0].position, Position::new(Lsn(14), 0));
    assert_eq!(
        (events[0].op, &*events[0].relation.table),
        (Op::Message, "p")
    );
    assert_eq!(
        events[0].after.row().unwrap().to_values().unwrap(),
        [Value::Bytes(vec![9])]
    );
    // The server tells where the message's record ends.
    assert_eq!(end, Position::end_of(Lsn(14)));
    // Sent again after a restart.
    a.restart();
    feed(&mut a, &[loose(15)]);
    assert!(a.take().0.is_empty());
}

#[test]
fn what_contradicts_itself_is_corrupt() {
    let wide = Build::insert(7, &[Some("1")]);
    let unknown = Build::insert(8, &[Some("1")]);
    for messages in [
        vec![insert("1")],
        vec![Build::commit(10)],
        vec![Build::begin(10, 1), Build::begin(20, 2)],
        vec![Build::begin(10, 1), Build::commit(11)],
        vec![Build::begin(10, 1), wide],
        vec![Build::begin(10, 1), unknown],
        vec![
            Build::begin(10, 1),
            Build::commit(10),
            Build::begin(20, 2),
            Build::commit(20),
            Build::begin(15, 3),
        ],
        vec![Build::begin(10, 1), Build::commit(10), loose(7)],
    ] {
        let mut a = assembler();
        let (last, first) = messages.split_last().unwrap();
        feed(&mut a, first);
        let error = push(&mut a, last).unwrap_err();
        assert_eq!(error.kind, SourceErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn equal_shapes_share_their_relation() {
    let mut a = assembler();
    feed(
        &mut a,
        &[
            Build::begin(10, 1),
            insert("1"),
            table(),
            insert("2"),
            Build::commit(10),
        ],
    );
    let (events, _) = a.take();
    assert!(Arc::ptr_eq(&events[0].relation, &events[1].relation));
}

/// A cell of one of these types as PostgreSQL prints it, or null.
fn cell() -> impl Strategy<Value = Option<&'static str>> {
    let texts = [
        "7",
        "-12",
        "2026-11-28 15:00:00+00",
        "t",
        "",
        "a\u{e9}\"",
        "{1,NULL}",
    ];
    prop_oneof![
        4 => proptest::sample::select(texts.to_vec()).prop_map(Some),
        1 => Just(None),
    ]
}

proptest! {
    /// With the whole old row sent, both rows of an update are what inserts of them would be, and what
    /// was not sent of the new row is what stands in the old one.
    #[test]
    fn an_update_has_the_rows_it_was_sent(
        cells in proptest::collection::vec((cell(), cell(), 0..3_u8), 1..12),
    ) {
        // int8, text, timestamptz, bool, int8[].
        let types = [20, 25, 1184, 16, 1016];
        let names: Vec<String> = (0..cells.len()).map(|n| format!("c{n}")).collect();
        let columns: Vec<(bool, &str, u32)> = names
            .iter()
            .zip(types.into_iter().cycle())
            .map(|(name, oid)| (false, name.as_str(), oid))
            .collect();
        let old: Vec<_> = cells.iter().map(|(old, _, _)| *old).collect();
        let new: Vec<_> = cells.iter().map(|(old, new, how)| match how {
            0 => *new,
            1 => *old,
            // A large value that is not sent again is none that is null.
            _ => old.and(Some("\u{1}")),
        }).collect();
        let whole: Vec<_> = new.iter().zip(&old).map(|(new, old)| match new {
            Some("\u{1}") => *old,
            new => *new,
        }).collect();
        let update = Build::tag(b'U').u32(7).u8(b'O').tuple(&old).u8(b'N').tuple(&new).0;
        let mut a = Assembler::new(FLOOR);
        feed(&mut a, &[
            Build::relation(7, "t", b'f', &columns),
            Build::begin(10, 3),
            Build::insert(7, &old),
            Build::insert(7, &whole),
            update,
            Build::commit(10),
        ]);
        let (events, _) = a.take();
        let rows = |n: usize| (events[n].before.row(), events[n].after.row());
        prop_assert_eq!(rows(2).0, rows(0).1);
        prop_assert_eq!(rows(2).1, rows(1).1);
        prop_assert!(matches!(events[2].after, Image::Full(_)));
    }
}

proptest! {
    /// However the stream is cut into batches, the same events come out.
    #[test]
    fn batches_may_be_cut_anywhere(
        transactions in proptest::collection::vec(1usize..6, 1..8),
        cuts in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let mut messages = Vec::new();
        let mut id = 0i64;
        for (n, rows) in transactions.iter().enumerate() {
            let commit = 100 * (n as u64 + 1);
            messages.push(Build::begin(commit, 1));
            for _ in 0..*rows {
                id += 1;
                messages.push(insert(&id.to_string()));
            }
            messages.push(Build::commit(commit));
        }
        let mut a = assembler();
        let mut events = Vec::new();
        let mut last_end = Position::ZERO;
        for (bytes, cut) in messages.iter().zip(cuts.iter().chain(std::iter::repeat(&true))) {
            push(&mut a, bytes).unwrap();
            if *cut {
                let (batch, end) = a.take();
                prop_assert!(end >= last_end);
                prop_assert!(batch.last().is_none_or(|e| e.position <= end));
                last_end = end;
                events.extend(batch);
            }
        }
        events.extend(a.take().0);
        prop_assert_eq!(ids(&events), (1..=id).collect::<Vec<_>>());
        for pair in events.windows(2) {
            prop_assert!(pair[0].position < pair[1].position);
            prop_assert_eq!(pair[0].last, pair[0].position.commit != pair[1].position.commit);
        }
        prop_assert!(events.last().unwrap().last);
    }
}
