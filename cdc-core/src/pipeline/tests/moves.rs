//! What moves from one table to another keeps its place among the events of both: nodes whose first
//! label changes, documents that go to another folder, collections that are renamed.

use super::*;
use crate::pipeline::order::{Place, place};
use crate::{Column, EngineKind, Image, Meta, Op, Relation, RowImage, Transaction, Value};

const WORKERS: usize = 8;

fn relation(engine: EngineKind, table: &str, columns: &[&str], key: &[u16]) -> Arc<Relation> {
    let columns = columns.iter().map(|name| Column::new(*name, "any"));
    Arc::new(Relation::new(
        engine,
        "space",
        table,
        columns.collect(),
        key.to_vec(),
    ))
}

fn event(op: Op, commit: u64, relation: Arc<Relation>) -> ChangeEvent {
    let transaction = Transaction {
        id: commit,
        commit_micros: 1_795_352_707_123_456,
    };
    ChangeEvent::new(at(commit, 0), relation, transaction, op)
}

fn meta(entries: &[(&str, &str)]) -> Option<Arc<Meta>> {
    let entries = entries
        .iter()
        .map(|(name, text)| ((*name).into(), Value::Text((*text).into())));
    Some(Arc::new(Meta(entries.collect())))
}

fn row(values: &[&str]) -> Image {
    let values: Vec<_> = values.iter().map(|v| Value::Text((*v).into())).collect();
    Image::Full(RowImage::from_values(&values))
}

fn folder(folder: &str) -> Arc<Relation> {
    relation(EngineKind::Markdown, folder, &["id", "path"], &[1])
}

fn document(commit: u64, at: &str, path: &str) -> ChangeEvent {
    let mut event = event(Op::Insert, commit, folder(at));
    event.after = row(&["", path]);
    event
}

fn move_document(commit: u64, from: (&str, &str), to: (&str, &str)) -> ChangeEvent {
    let mut event = event(Op::Update, commit, folder(to.0));
    event.before = row(&["", from.1]);
    event.after = row(&["", to.1]);
    event.meta = meta(&[("old_table", from.0)]);
    event
}

/// A `Person` is known by its e-mail too, a `Ghost` by its id alone.
fn label(name: &str) -> Arc<Relation> {
    let key: &[u16] = if name == "Person" { &[0, 1] } else { &[0] };
    relation(EngineKind::Graph, name, &["id", "email"], key)
}

fn node(commit: u64, of: &str, id: &str, email: &str) -> ChangeEvent {
    let mut event = event(Op::Insert, commit, label(of));
    event.after = row(&[id, email]);
    event
}

fn relabel(commit: u64, from: &str, to: &str, id: &str) -> ChangeEvent {
    let mut event = event(Op::Update, commit, label(to));
    event.before = row(&[id, "a@x"]);
    event.after = row(&[id, "a@x"]);
    event.meta = meta(&[("entity", "node"), ("old_table", from)]);
    event
}

fn collection(name: &str) -> Arc<Relation> {
    relation(EngineKind::Document, name, &["_id"], &[0])
}

fn entry(commit: u64, of: &str, id: &str) -> ChangeEvent {
    let mut event = event(Op::Insert, commit, collection(of));
    event.after = row(&[id]);
    event
}

fn rename(commit: u64, from: &str, to: &str) -> ChangeEvent {
    let mut event = event(Op::Schema, commit, collection(from));
    event.meta = meta(&[("change", "rename"), ("to", to)]);
    event
}

/// Delivers each event as a read of its own, the first of them refused; gives who went, and who waits.
async fn behind_the_first(events: impl IntoIterator<Item = ChangeEvent>) -> (Vec<u64>, Vec<u64>) {
    let rig = Rig::new();
    for (n, mut event) in events.into_iter().enumerate() {
        let end = Position::end_of(event.position.commit);
        if n == 0 {
            rig.emitter.state().poison.push(event.position);
        }
        event.last = true;
        rig.log.push(EventBatch::new(source(), vec![event], end));
    }
    rig.finish().await.unwrap();
    let commits = |positions: Vec<Position>| positions.iter().map(|p| p.commit.0).collect();
    let waiting = rig.letters(LetterState::Parked);
    (commits(rig.emitter.taken()), commits(waiting))
}

#[tokio::test(start_paused = true)]
async fn a_document_that_moves_waits_behind_its_dead_letter() {
    let events = [
        document(1, "inbox", "a.md"),
        document(2, "inbox", "b.md"),
        move_document(3, ("inbox", "a.md"), ("done", "c.md")),
        document(4, "inbox", "a.md"),
        document(5, "done", "d.md"),
        move_document(6, ("done", "c.md"), ("old", "c.md")),
    ];
    assert_eq!(behind_the_first(events).await, (vec![2, 5], vec![3, 4, 6]));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_gets_another_label_waits_behind_its_dead_letter() {
    let events = [
        node(1, "Person", "n1", "a@x"),
        node(2, "Person", "n2", "b@x"),
        relabel(3, "Person", "Ghost", "n1"),
        relabel(4, "Person", "Ghost", "n2"),
        relabel(5, "Ghost", "Person", "n1"),
    ];
    assert_eq!(behind_the_first(events).await, (vec![2, 4], vec![3, 5]));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_moves_waits_behind_events_of_either_whole_table() {
    for table in ["inbox", "done"] {
        let events = [
            event(Op::Truncate, 1, folder(table)),
            document(2, "other", "a.md"),
            move_document(3, ("inbox", "a.md"), ("done", "a.md")),
        ];
        let waits = (vec![2], vec![3]);
        assert_eq!(behind_the_first(events).await, waits, "{table}");
        // And such an event behind it.
        let events = [
            move_document(1, ("inbox", "a.md"), ("done", "a.md")),
            event(Op::Truncate, 2, folder("other")),
            event(Op::Truncate, 3, folder(table)),
        ];
        assert_eq!(behind_the_first(events).await, waits, "{table}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renamed_collection_waits_under_both_names() {
    let events = [
        entry(1, "orders", "1"),
        rename(2, "orders", "sales"),
        entry(3, "sales", "2"),
        entry(4, "orders", "3"),
        entry(5, "other", "1"),
    ];
    assert_eq!(behind_the_first(events).await, (vec![5], vec![2, 3, 4]));
}

/// Workers an event passes.
fn passes(order: OrderScope, event: &ChangeEvent) -> Vec<usize> {
    let hashes = || event.key_hashes().unwrap();
    match place(order, event, hashes, WORKERS) {
        Place::One(owner) => vec![owner],
        Place::Both { owner, other } => vec![owner, other],
        Place::All { .. } => (0..WORKERS).collect(),
        Place::Any => vec![],
    }
}

#[test]
fn what_moves_passes_the_workers_of_both_places() {
    for n in 0..50 {
        let [from, to, path, then] = ["inbox", "done", "a", "b"].map(|name| format!("{name}{n}"));
        let moved = move_document(1, (&from, &path), (&to, &then));
        let kept = move_document(1, (&from, &path), (&to, &path));
        let ghost = relabel(1, "Person", &to, &path);
        let renamed = rename(1, &from, &to);
        for order in [OrderScope::Key, OrderScope::Table] {
            for (event, ends) in [
                (&moved, [document(0, &from, &path), document(2, &to, &then)]),
                (&kept, [document(0, &from, &path), document(2, &to, &path)]),
                (
                    &ghost,
                    [node(0, "Person", &path, "b@x"), node(2, &to, &path, "")],
                ),
                (&renamed, [entry(0, &from, "1"), entry(2, &to, "1")]),
            ] {
                let workers = passes(order, event);
                for end in ends {
                    let of_end = passes(order, &end);
                    let both = of_end.iter().all(|worker| workers.contains(worker));
                    assert!(
                        both,
                        "{order:?} {n}: {workers:?}, and {of_end:?} at {:?}",
                        end.position
                    );
                }
            }
        }
    }
}

#[test]
fn an_event_that_moves_nothing_passes_one_worker() {
    let mut stays = move_document(1, ("inbox", "a.md"), ("inbox", "a.md"));
    stays.meta = meta(&[("sections", "x")]);
    for order in [OrderScope::Key, OrderScope::Table] {
        assert_eq!(passes(order, &stays).len(), 1, "{order:?}");
        assert_eq!(passes(order, &document(1, "inbox", "a.md")).len(), 1);
    }
}
