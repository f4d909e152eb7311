//! A connection that breaks, and what may have happened before it is built up again.

use std::collections::BTreeSet;
use std::time::Duration;

use cdc_core::{BatchLimit, SourceErrorKind, WalSource};
use cdc_wal::postgres::PostgresSource;

use super::failures::assert_says;
use super::{Db, next};

/// Ends the server's end of the connection, and waits until the slot is let go of.
async fn cut(db: &mut Db) {
    let slot = format!("WHERE slot_name = '{}'", db.config.slot);
    db.run(&format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots {slot}"
    ))
    .await;
    let active = format!("SELECT active FROM pg_replication_slots {slot}");
    while db.one(&active).await == "t" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lost_connection_gives_empty_batches_until_it_is_back() {
    let mut db = Db::new("fail_away").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    db.config.backoff_max = Duration::from_millis(50);
    let mut source = db.connect(None).await;
    let kill = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
        db.config.slot
    );
    db.run(&kill).await;
    while source.reconnects() == 0 {
        assert!(next(&mut source).await.is_empty());
    }
    let events = db
        .changes(&mut source, "INSERT INTO public.t VALUES (1)")
        .await;
    assert_eq!(events.len(), 1);
    assert!(source.is_connected());
    db.finish(source).await;
}

/// A gap is accepted at a start, where it is recorded: one that comes later ends the stream, and the
/// next start accepts it.
#[tokio::test]
async fn a_slot_that_goes_while_the_connection_is_cut_is_a_gap_though_one_was_accepted() {
    let mut db = Db::new("fail_gap_later").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    db.config.accept_gap = true;
    db.config.backoff_max = Duration::from_millis(50);
    let mut source = db.connect(None).await;
    db.changes(&mut source, "INSERT INTO public.t VALUES (1)")
        .await;
    cut(&mut db).await;
    db.run(&format!(
        "INSERT INTO public.t VALUES (2); SELECT pg_drop_replication_slot('{}')",
        db.config.slot
    ))
    .await;
    let error = loop {
        match source.next_batch(BatchLimit::default()).await {
            Ok(batch) => assert!(batch.is_some_and(|batch| batch.is_empty())),
            Err(error) => break error,
        }
        assert_eq!(source.reconnects(), 0, "it goes on without a word");
    };
    assert_says(&error, &SourceErrorKind::Gap, &["does not exist"]);
    let left = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'",
        db.config.slot
    );
    assert_eq!(db.one(&left).await, "0");
    db.finish(source).await;
}

/// A connection that only we know to be gone holds the slot until the server's own patience ends.
#[tokio::test]
async fn a_slot_that_is_held_longer_at_a_reconnect_is_waited_for() {
    let mut db = Db::new("fail_held").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let holder = db.config.clone();
    db.config.backoff_max = Duration::from_millis(50);
    db.config.slot_wait = Duration::ZERO;
    let mut source = db.connect(None).await;
    // It learns of it when it reads again, below.
    cut(&mut db).await;
    let holder = PostgresSource::connect(holder, None).await.unwrap();
    let looks = format!(
        "SELECT a.query_start FROM pg_stat_activity a WHERE a.datname = '{}' AND a.backend_type = 'walsender' \
            AND a.query LIKE '%wal_status%' AND a.pid <> (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}')",
        db.config.database, db.config.slot
    );
    let mut seen = BTreeSet::new();
    // More often than once, and still it waits.
    while seen.len() < 4 {
        assert!(next(&mut source).await.is_empty());
        seen.extend(db.run(&looks).await);
    }
    assert_eq!(source.reconnects(), 0);
    holder.close().await.unwrap();
    let events = db
        .changes(&mut source, "INSERT INTO public.t VALUES (1)")
        .await;
    assert_eq!(events.len(), 1);
    db.finish(source).await;
}
