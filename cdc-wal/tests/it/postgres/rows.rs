//! What rows, keys and transactions look like as events.

use cdc_core::{Image, Op, Value};

use super::{Db, after, assert_order, assert_values, before, text};

fn ops(events: &[cdc_core::ChangeEvent]) -> Vec<Op> {
    events.iter().map(|e| e.op).collect()
}

#[tokio::test]
async fn inserts_updates_and_deletes_arrive_with_their_transaction() {
    let mut db = Db::new("rows_basic").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY, name varchar(20), total numeric(10,2))")
        .await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(
            &mut source,
            "INSERT INTO public.t VALUES (1, 'one', 1.5), (2, NULL, 20); \
             UPDATE public.t SET name = 'uno' WHERE id = 1; DELETE FROM public.t WHERE id = 2",
        )
        .await;
    assert_eq!(
        ops(&events),
        [Op::Insert, Op::Insert, Op::Update, Op::Delete]
    );
    assert_order(&events);
    assert!(events[3].last && !events[2].last);
    assert!(
        events
            .iter()
            .all(|e| e.transaction == events[0].transaction)
    );
    assert!(events[0].transaction.id > 0);
    let age = cdc_core::wall_micros() - events[0].transaction.commit_micros;
    assert!((0..3_600_000_000).contains(&age), "committed {age} us ago");

    let relation = &events[0].relation;
    assert_eq!(relation.qualified_name(), "public.t");
    assert_eq!(relation.key, [0]);
    let types: Vec<&str> = relation.columns.iter().map(|c| &*c.type_name).collect();
    assert_eq!(types, ["int4", "varchar(20)", "numeric(10,2)"]);
    assert!(std::sync::Arc::ptr_eq(relation, &events[3].relation));

    assert!(matches!(events[0].after, Image::Full(_)) && events[0].before.is_absent());
    assert_values(
        &after(&events[0]),
        &[Value::Int(1), text("one"), Value::Decimal("1.50".into())],
    );
    assert_values(
        &after(&events[1]),
        &[Value::Int(2), Value::Null, Value::Decimal("20.00".into())],
    );
    // The default identity keeps no old row unless the key changes.
    assert!(events[2].before.is_absent());
    assert_values(
        &after(&events[2]),
        &[Value::Int(1), text("uno"), Value::Decimal("1.50".into())],
    );
    assert!(matches!(events[3].before, Image::Key(_)) && events[3].after.is_absent());
    assert_values(
        &before(&events[3]),
        &[Value::Int(2), Value::Unavailable, Value::Unavailable],
    );
    db.finish(source).await;
}
