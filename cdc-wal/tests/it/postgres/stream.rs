//! Large transactions, confirmation, restarts, broken connections.

use std::collections::BTreeSet;
use std::time::Duration;

use cdc_core::{BatchLimit, ChangeEvent, Lsn, Position, Value, WalSource};
use cdc_wal::postgres::PostgresSource;

use super::{Db, PATIENCE, after, assert_order, next};

fn id(event: &ChangeEvent) -> i64 {
    match after(event)[0] {
        Value::Int(id) => id,
        _ => panic!("the first column is a number"),
    }
}

/// Waits until the slot has confirmed at least `lsn`.
async fn confirmed(db: &mut Db, lsn: Lsn) -> Lsn {
    let sql = format!(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'",
        db.config.slot
    );
    let asking = async {
        loop {
            let found: Lsn = db.one(&sql).await.parse().unwrap();
            if found >= lsn {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("the slot is told")
}

/// Reads until this many events have come.
async fn take(source: &mut PostgresSource, count: usize) -> Vec<ChangeEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(next(source).await.into_events());
    }
    events
}

#[tokio::test]
async fn a_large_transaction_comes_in_bounded_batches() {
    const ROWS: usize = 200_000;
    let mut db = Db::new("stream_large").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY, v text)")
        .await;
    let mut source = db.connect(None).await;
    db.run(&format!(
        "INSERT INTO public.t SELECT n, repeat('x', 100) FROM generate_series(1, {ROWS}) n"
    ))
    .await;
    let limit = BatchLimit {
        events_max: 1000,
        bytes_max: 50_000,
        linger: Duration::from_millis(50),
    };
    let mut seen = 0usize;
    let mut last = Position::ZERO;
    let mut whole = None;
    while whole.is_none() {
        let batch = source.next_batch(limit).await.unwrap().unwrap();
        assert!(batch.len() <= 1000, "{} events", batch.len());
        assert!(
            batch.encoded_len() <= 51_000,
            "{} bytes",
            batch.encoded_len()
        );
        for event in batch.events() {
            seen += 1;
            assert!(event.position > last);
            assert_eq!(event.position.ordinal as usize + 1, seen);
            assert_eq!(event.last, seen == ROWS);
            last = event.position;
        }
        if let Some(event) = batch.events().last() {
            if event.last {
                whole = Some(batch.end());
            } else {
                assert_eq!(
                    batch.end(),
                    event.position,
                    "a batch inside a transaction ends at its last event"
                );
            }
        }
    }
    // A keepalive right behind it may have carried the end further.
    assert!(whole >= Some(Position::end_of(last.commit)));
    db.finish(source).await;
}

#[tokio::test]
async fn a_restart_loses_nothing_and_repeats_nothing_confirmed() {
    let mut db = Db::new("stream_restart").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let mut source = db.connect(None).await;
    for n in 1..=4 {
        db.run(&format!("INSERT INTO public.t VALUES ({n})")).await;
    }
    let events = take(&mut source, 4).await;
    assert_order(&events);
    // Two of four are confirmed; one byte more than the second commit is exactly enough.
    let second = Position::end_of(events[1].position.commit);
    source.confirm(second).await.unwrap();
    assert_eq!(
        confirmed(&mut db, second.confirmable()).await,
        second.confirmable()
    );
    source
        .confirm(Position::end_of(events[0].position.commit))
        .await
        .unwrap();
    assert_eq!(source.confirmed(), second.confirmable());
    source.close().await.unwrap();

    // Without a position the slot's own counts.
    let mut source = db.connect(None).await;
    let again = take(&mut source, 2).await;
    assert_eq!(again.iter().map(id).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(again[0].position, events[2].position);
    assert_eq!(again[1].position, events[3].position);
    assert_eq!(again[1].transaction, events[3].transaction);
    source.close().await.unwrap();

    // A position beyond the slot's is obeyed, and the slot is not moved by it.
    let third = Position::end_of(events[2].position.commit);
    let mut source = db.connect(Some(third)).await;
    let after_third = db.pending(&mut source).await;
    assert_eq!(after_third.iter().map(id).collect::<Vec<_>>(), [4]);
    source.close().await.unwrap();

    // A position inside a transaction gives the whole of it again.
    db.run("INSERT INTO public.t VALUES (5), (6), (7)").await;
    let mut source = db
        .connect(Some(Position::end_of(events[3].position.commit)))
        .await;
    let three = db.pending(&mut source).await;
    source.close().await.unwrap();
    let mut source = db.connect(Some(three[1].position)).await;
    let whole = db.pending(&mut source).await;
    assert_eq!(whole.iter().map(id).collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(whole[0].position, three[0].position);
    db.finish(source).await;
}

#[tokio::test]
async fn confirming_all_that_was_read_lets_the_slot_reach_the_end() {
    let mut db = Db::new("stream_idle").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY); CREATE TABLE public.other (id int)")
        .await;
    db.config.tables = vec!["t".into()];
    let mut source = db.connect(None).await;
    // Nothing of this is published: the slot must move all the same.
    db.run("INSERT INTO public.other SELECT generate_series(1, 1000)")
        .await;
    let end: Lsn = db.one("SELECT pg_current_wal_lsn()").await.parse().unwrap();
    let mut reached = Position::ZERO;
    while reached < Position::before(end) {
        let batch = next(&mut source).await;
        assert!(batch.is_empty());
        assert!(batch.end() >= reached, "heartbeats never go back");
        reached = batch.end();
        source.confirm(reached).await.unwrap();
    }
    confirmed(&mut db, end).await;
    assert!(source.wal_end() >= end);
    db.finish(source).await;
}

/// A client was told of the commit, the server's disk was not: a bounded run has to wait for it.
#[tokio::test]
async fn the_servers_end_has_what_was_committed_without_waiting_for_the_disk() {
    let mut db = Db::new("stream_asynchronous").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY); SET synchronous_commit = off")
        .await;
    let source = db.connect(None).await;
    source.close().await.unwrap();
    for id in 0..5 {
        db.run(&format!("INSERT INTO public.t VALUES ({id})")).await;
        let source = db.connect(None).await;
        let end = source.server_end();
        source.close().await.unwrap();
        let mut source = db.connect(None).await;
        let event = take(&mut source, 1).await.remove(0);
        assert!(
            event.position.commit < end,
            "commit {} is not below the end {end}",
            event.position.commit
        );
        source
            .confirm(Position::end_of(event.position.commit))
            .await
            .unwrap();
        source.close().await.unwrap();
    }
    db.remove().await;
}

/// Ends the walsender in the middle of a transaction, again and again.
#[tokio::test]
async fn a_killed_walsender_costs_a_repeat_and_no_event() {
    const ROWS: i64 = 30_000;
    let mut db = Db::new("stream_killed").await;
    db.config.backoff_max = Duration::from_millis(50);
    db.run("CREATE TABLE public.t (id int PRIMARY KEY, v text)")
        .await;
    let mut source = db.connect(None).await;
    for part in 0..3 {
        db.run(&format!(
            "INSERT INTO public.t SELECT n, repeat('x', 200) FROM generate_series({}, {}) n",
            part * ROWS + 1,
            (part + 1) * ROWS
        ))
        .await;
    }
    let limit = BatchLimit {
        events_max: 500,
        ..BatchLimit::default()
    };
    let kill = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}' AND active",
        db.config.slot
    );
    let mut whole = Vec::new();
    let mut part: Vec<ChangeEvent> = Vec::new();
    let mut restarted = 0;
    let mut batches = 0;
    while whole.last().is_none_or(|e: &ChangeEvent| id(e) < 3 * ROWS) {
        let batch = source.next_batch(limit).await.unwrap().unwrap();
        batches += 1;
        if batches % 40 == 7 && restarted < 4 {
            db.run(&kill).await;
        }
        for event in batch.into_events() {
            if part.last().is_some_and(|p| event.position <= p.position) {
                assert_eq!(
                    event.position.ordinal, 0,
                    "a transaction comes again from its beginning"
                );
                assert_eq!(event.position.commit, part[0].position.commit);
                restarted += 1;
                part.clear();
            }
            let last = event.last;
            part.push(event);
            if last {
                whole.append(&mut part);
            }
        }
    }
    assert!(restarted > 0 && source.reconnects() > 0);
    assert_order(&whole);
    assert_eq!(
        whole.iter().map(id).collect::<Vec<_>>(),
        (1..=3 * ROWS).collect::<Vec<_>>()
    );
    db.finish(source).await;
}

#[tokio::test]
async fn a_dropped_call_loses_no_event() {
    let mut db = Db::new("stream_cancel").await;
    db.run("CREATE TYPE public.mood AS ENUM ('ok'); CREATE TABLE public.t (id int PRIMARY KEY, m public.mood)")
        .await;
    let mut source = db.connect(None).await;
    for n in 1..=200 {
        db.run(&format!("INSERT INTO public.t VALUES ({n}, 'ok')"))
            .await;
    }
    let mut seen = BTreeSet::new();
    let mut events = Vec::new();
    while seen.len() < 200 {
        // Polled once or twice, then dropped: most calls end in the middle of something.
        let call = source.next_batch(BatchLimit::default());
        if let Ok(batch) = tokio::time::timeout(Duration::ZERO, call).await {
            events.extend(batch.unwrap().unwrap().into_events());
            seen.extend(events.iter().map(id));
        }
        tokio::task::yield_now().await;
    }
    assert_order(&events);
    assert_eq!(events.len(), 200);
    db.finish(source).await;
}

#[tokio::test]
async fn a_consumer_that_takes_nothing_keeps_its_connection() {
    let mut db = Db::new("stream_slow").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY, v text)")
        .await;
    db.run(&format!(
        "ALTER DATABASE {} SET wal_sender_timeout = '1s'",
        db.config.database
    ))
    .await;
    let mut source = db.connect(None).await;
    db.run("INSERT INTO public.t SELECT n, repeat('x', 1000) FROM generate_series(1, 50000) n")
        .await;
    take(&mut source, 1).await;
    let sent = format!(
        "SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid \
         WHERE s.slot_name = '{}' AND clock_timestamp() - r.backend_start > interval '4 seconds'",
        db.config.slot
    );
    // Four times the server's patience, told by the server's clock: the socket is full, nobody
    // reads, and the walsender still lives.
    let waiting = async {
        while db.one(&sent).await == "0" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("the walsender lives");
    let rest = db.pending(&mut source).await;
    assert_eq!(source.reconnects(), 0);
    assert_eq!(id(rest.last().unwrap()), 50_000);
    db.finish(source).await;
}

#[tokio::test]
async fn a_temporary_slot_leaves_nothing_behind() {
    let mut db = Db::new("stream_temporary").await;
    db.config.temporary = true;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(&mut source, "INSERT INTO public.t VALUES (1)")
        .await;
    assert_eq!(id(&events[0]), 1);
    source.close().await.unwrap();
    let name = db.config.slot.clone();
    for sql in [
        format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'"),
        format!("SELECT count(*) FROM pg_publication WHERE pubname = '{name}'"),
    ] {
        assert_eq!(db.one(&sql).await, "0");
    }
    db.remove().await;
}
