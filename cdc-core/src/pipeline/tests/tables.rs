//! What concerns a whole table keeps its place behind dead letters of the table's rows, and the
//! table's rows keep theirs behind it: no redrive brings back what was truncated.

use super::*;
use crate::{Op, Relation, Transaction};

fn of_table(name: &str, key: Vec<u16>, mut event: ChangeEvent) -> ChangeEvent {
    let relation = crate::testing::relation();
    event.relation = Arc::new(Relation::new(
        relation.engine,
        "public",
        name,
        relation.columns.clone(),
        key,
    ));
    event
}

fn whole(op: Op, commit: u64) -> ChangeEvent {
    let transaction = Transaction {
        id: commit,
        commit_micros: 1_795_352_707_123_456,
    };
    ChangeEvent::new(at(commit, 0), crate::testing::relation(), transaction, op)
}

/// Each event a read of its own.
fn push(rig: &Rig, events: impl IntoIterator<Item = ChangeEvent>) {
    for mut event in events {
        let end = Position::end_of(event.position.commit);
        event.last = true;
        rig.log.push(EventBatch::new(source(), vec![event], end));
    }
}

/// The next life of the process: an empty log and new counters, the same disk and destination.
fn restarted(rig: Rig) -> Rig {
    Rig {
        log: MemoryLog::new(),
        metrics: Arc::default(),
        ..rig
    }
}

async fn with_lane<T>(rig: &Rig, orders: impl AsyncFnOnce(&LaneControl) -> T) -> T {
    let (trigger, shutdown) = Shutdown::new();
    let (lane, control) = rig.lane(&shutdown);
    let orders = async {
        let out = orders(&control).await;
        trigger.trigger();
        out
    };
    let (out, end) = tokio::join!(orders, lane);
    end.unwrap();
    let counts = rig.metrics.counts();
    assert!(counts.adds_up(), "{counts:?}");
    out
}

async fn wait() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_concerns_a_table_waits_behind_its_letters_and_the_table_behind_it() {
    for op in [Op::Truncate, Op::Schema] {
        let rig = Rig::new();
        rig.emitter.state().poison.push(at(1, 0));
        let other = |commit, id| of_table("other", vec![0], insert(commit, 0, id));
        push(
            &rig,
            [
                insert(1, 0, 7),
                insert(2, 0, 8),
                whole(op, 3),
                insert(4, 0, 8),
                other(5, 7),
                of_table("other", vec![0], whole(op, 6)),
                other(7, 9),
            ],
        );
        rig.finish().await.unwrap();
        let went = [at(2, 0), at(5, 0), at(6, 0), at(7, 0)];
        assert_eq!(rig.emitter.taken(), went, "{op:?}: another table goes on");
        assert_eq!(rig.letters(LetterState::Pending), [at(1, 0)]);
        assert_eq!(rig.letters(LetterState::Parked), [at(3, 0), at(4, 0)]);
        let reason = |n: usize| rig.dlq.lock().unwrap().letters[n].failure.message.clone();
        assert!(reason(1).contains("concerns the whole table"));
        assert!(reason(2).contains("behind an event of the whole table"));

        // Another life finds in the queue that the table waits, though row 9 has no letter.
        rig.emitter.state().poison.clear();
        let rig = restarted(rig);
        push(&rig, [insert(8, 0, 9), other(9, 7)]);
        let report = with_lane(&rig, async |control| {
            wait().await;
            let report = control.redrive(RedriveRequest::default()).await.unwrap();
            push(&rig, [insert(10, 0, 8), whole(op, 11)]);
            wait().await;
            report
        })
        .await;
        assert_eq!((report.delivered, report.failed, report.skipped), (4, 0, 0));
        let redriven = [at(1, 0), at(3, 0), at(4, 0), at(8, 0)];
        let mut expected = [&went[..], &[at(9, 0)], &redriven].concat();
        expected.extend([at(10, 0), at(11, 0)]);
        assert_eq!(rig.emitter.taken(), expected, "{op:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_one_request_with_the_dead_row_a_truncate_waits_too() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    let events = vec![insert(1, 0, 7), whole(Op::Truncate, 2), insert(3, 0, 8)];
    rig.log
        .push(EventBatch::new(source(), events, Position::end_of(Lsn(3))));
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), []);
    assert_eq!(rig.letters(LetterState::Parked), [at(2, 0), at(3, 0)]);
    assert_eq!(rig.stored(), Position::end_of(Lsn(3)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_truncate_holds_its_table() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    push(&rig, [whole(Op::Truncate, 1), insert(2, 0, 8)]);
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), []);
    assert_eq!(rig.letters(LetterState::Parked), [at(2, 0)]);
}

#[tokio::test(start_paused = true)]
async fn tables_without_a_key_wait_as_well() {
    let rig = Rig::new();
    rig.emitter.state().poison.push(at(1, 0));
    let keyless = |event| of_table("log", vec![], event);
    push(
        &rig,
        [
            keyless(insert(1, 0, 7)),
            keyless(insert(2, 0, 8)),
            keyless(whole(Op::Truncate, 3)),
            keyless(insert(4, 0, 9)),
        ],
    );
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), [at(2, 0)]);
    assert_eq!(rig.letters(LetterState::Parked), [at(3, 0), at(4, 0)]);
}

#[tokio::test(start_paused = true)]
async fn who_lets_dead_keys_pass_lets_truncates_pass() {
    let rig = Rig {
        on_dead_key: OnDeadKey::Pass,
        ..Rig::new()
    };
    rig.emitter.state().poison.push(at(1, 0));
    push(
        &rig,
        [insert(1, 0, 7), whole(Op::Truncate, 2), insert(3, 0, 7)],
    );
    rig.finish().await.unwrap();
    assert_eq!(rig.emitter.taken(), [at(2, 0), at(3, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_redrive_of_some_letters_leaves_what_waits_behind_the_others() {
    let rig = Rig::new();
    rig.emitter.state().poison.extend([at(1, 0), at(2, 0)]);
    push(
        &rig,
        [
            insert(1, 0, 7),
            insert(2, 0, 8),
            whole(Op::Truncate, 3),
            insert(4, 0, 9),
        ],
    );
    rig.finish().await.unwrap();
    rig.emitter.state().poison = vec![at(2, 0)];
    let rig = restarted(rig);
    let id = |commit| EventId::new(&source().lineage, at(commit, 0));
    let ask = async |control: &LaneControl, ids: &[u64]| {
        let request = RedriveRequest {
            ids: ids.iter().map(|commit| id(*commit)).collect(),
            as_was: false,
        };
        let report = control.redrive(request).await.unwrap();
        (report.delivered, report.failed, report.skipped)
    };
    with_lane(&rig, async |control| {
        // Row 9 waits behind the truncate, and that behind rows 7 and 8.
        assert_eq!(ask(control, &[4]).await, (0, 0, 4));
        assert_eq!(ask(control, &[1, 3, 4]).await, (1, 0, 3));
        assert_eq!(ask(control, &[]).await, (0, 1, 2), "row 8 fails again");
        // Row 8 is given up: nothing is left before the truncate.
        assert_eq!(control.discard(vec![id(2)]).await.unwrap(), 1);
        push(&rig, [insert(5, 0, 6)]);
        wait().await;
        assert_eq!(ask(control, &[]).await, (3, 0, 0));
    })
    .await;
    let expected = [at(1, 0), at(3, 0), at(4, 0), at(5, 0)];
    assert_eq!(rig.emitter.taken(), expected);
}

/// A table that waits adds the keys of its events to those that wait: the bound is on them too.
#[tokio::test(start_paused = true)]
async fn a_table_that_waits_blocks_the_lane_at_the_bound_of_keys() {
    let rig = Rig {
        parked_keys_max: 4,
        ..Rig::new()
    };
    rig.emitter.state().poison.push(at(1, 0));
    push(&rig, [insert(1, 0, 1), whole(Op::Truncate, 2)]);
    push(&rig, (3..8).map(|n| insert(n, 0, n as i64)));
    with_lane(&rig, async |control| {
        wait().await;
        let health = rig.metrics.counts().health;
        assert!(matches!(health, LaneHealth::Blocked { .. }), "{health:?}");
        let parked = [at(2, 0), at(3, 0), at(4, 0)];
        assert_eq!(rig.letters(LetterState::Parked), parked);
        rig.emitter.state().poison.clear();
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!(report.delivered, 4);
        wait().await;
    })
    .await;
    assert_eq!(rig.emitter.taken(), all(1..8, 1), "each once, in order");
}
