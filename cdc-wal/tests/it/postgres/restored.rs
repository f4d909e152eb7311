//! A server that was restored from an older backup, as its log tells.

use cdc_core::{Lineage, Lsn, Position, ResumeToken, SourceErrorKind, TokenRefusal, WalSource};
use cdc_wal::postgres::PostgresSource;

use super::failures::assert_says;
use super::{Db, next};

/// Its commits get positions that are taken for captured, so each would be dropped without a word.
#[tokio::test]
async fn a_log_that_ends_before_what_was_captured_is_refused_and_nothing_is_made() {
    let mut db = Db::new("restored_ahead").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let mut source = db.connect(None).await;
    let lineage = source.source().lineage;
    db.changes(&mut source, "INSERT INTO public.t VALUES (1)")
        .await;
    // What an idle server says of its end is a position as well: nothing comes back behind it.
    let end: Lsn = db.one("SELECT pg_current_wal_lsn()").await.parse().unwrap();
    let mut reached = Position::ZERO;
    while reached < Position::before(end) {
        reached = next(&mut source).await.end();
    }
    source.close().await.unwrap();
    db.config.captured_to = Some(ResumeToken::new(lineage, reached));
    let source = db.connect(None).await;
    let server_end = source.server_end();
    source.close().await.unwrap();
    db.run(&format!(
        "SELECT pg_drop_replication_slot('{}'); DROP PUBLICATION {}",
        db.config.slot, db.config.publication
    ))
    .await;

    // As far ahead as no other test writes meanwhile.
    let ahead = Position::end_of(Lsn(server_end.0 + (1 << 40)));
    db.config.captured_to = Some(ResumeToken::new(lineage, ahead));
    let error = PostgresSource::connect(db.config.clone(), None)
        .await
        .expect_err("the log ends before");
    assert!(
        matches!(
            error.kind,
            SourceErrorKind::Refused(TokenRefusal::Ahead { .. })
        ),
        "{error}"
    );
    let kind = error.kind.clone();
    assert_says(
        &error,
        &kind,
        &[&ahead.to_string(), "older backup", "empty state"],
    );
    let made = db
        .one("SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())")
        .await;
    assert_eq!(made, "0");

    // Of another history: that is for others to compare.
    let other = Lineage::new(lineage.kind, lineage.source_id, lineage.timeline + 1);
    db.config.captured_to = Some(ResumeToken::new(other, ahead));
    let source = db.connect(None).await;
    db.finish(source).await;
}
