//! Letters of another history than the lane's: a dead letter queue that outlived its state.

use super::bounds::{wait, with_lane};
use super::*;
use crate::{DeadLetterQueue as _, Lineage, SourceInfo, SourceKind};

fn lineage(id: u8, timeline: u32) -> Lineage {
    Lineage::new(SourceKind::Wal, [id; 16], timeline)
}

/// A queue with one letter of this history, of row 7 at `(5, 0)`.
fn with_letter_of(lineage: Lineage) -> Rig {
    let rig = Rig::new();
    let source = Arc::new(SourceInfo::new("shop", "shop", lineage));
    let letter = dead_letter(source, insert(5, 0, 7));
    rig.dlq.lock().unwrap().append(&[letter]).unwrap();
    rig
}

/// Row 8 is dead at the position of the letter, and comes again behind it.
fn push_at_the_same_place(rig: &Rig) {
    rig.emitter.state().poison.push(at(5, 0));
    for commit in [5, 6] {
        let events = vec![insert(commit, 0, 8)];
        let end = Position::end_of(Lsn(commit));
        rig.log.push(EventBatch::new(source(), events, end));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_does_not_start_with_letters_of_another_history() {
    let ours = source().lineage;
    assert_eq!(ours, lineage(0x5a, 1));
    for on_dead_key in [OnDeadKey::Park, OnDeadKey::Pass, OnDeadKey::Stop] {
        for other in [lineage(0x5b, 1), lineage(0x5a, 2)] {
            let rig = Rig {
                on_dead_key,
                ..with_letter_of(other)
            };
            push_at_the_same_place(&rig);
            let error = rig.finish().await.unwrap_err().to_string();
            for said in [other.to_string(), ours.to_string(), "dlq_path".into()] {
                assert!(error.contains(&said), "{said}: {error}");
            }
            assert_eq!(rig.emitter.state().calls, 0);
            let stored = rig.checkpoints.load("hook").unwrap();
            assert!(
                stored.is_none(),
                "the next start begins where this one would"
            );
            assert_eq!(rig.letters(LetterState::Pending), [at(5, 0)], "as it was");
        }
    }
}

/// A failover that the lane's state has followed: what is at or below its position is behind both.
#[tokio::test(start_paused = true)]
async fn letters_of_the_timeline_before_hold_their_keys_and_are_redriven() {
    let rig = with_letter_of(lineage(0x5a, 0));
    let checkpoint = crate::Checkpoint {
        lineage: source().lineage,
        position: at(5, 0),
        state: bytes::Bytes::new(),
        stored_micros: 0,
    };
    rig.checkpoints.reset("hook", Some(&checkpoint)).unwrap();
    let events = vec![insert(6, 0, 7), insert(6, 1, 8)];
    let end = Position::end_of(Lsn(6));
    rig.log.push(EventBatch::new(source(), events, end));
    with_lane(&rig, async |control| {
        wait(1).await;
        assert_eq!(rig.emitter.taken(), [at(6, 1)]);
        let report = control.redrive(RedriveRequest::default()).await.unwrap();
        assert_eq!((report.delivered, report.stopped), (2, None));
    })
    .await;
    assert_eq!(rig.emitter.taken(), [at(6, 1), at(5, 0), at(6, 0)]);
}
