//! Checkpoints follow what is durable while requests never pause.

use bytes::Bytes;

use super::*;
use crate::{DurableMark, EmitError, Emitter, EventBatch, Receipt, Rejection};

/// Waits for room before it takes each event, and is durable up to the one before, as a full queue
/// with a slow consumer.
#[derive(Default)]
struct Full {
    taken: Vec<Position>,
    /// What it refuses.
    poison: Option<Position>,
    /// Whether it has a state that belongs to what is durable, as files have.
    stateful: bool,
}

impl Emitter for Full {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut receipt = Receipt::ACCEPTED;
        for (index, event) in batch.events().iter().enumerate() {
            if Some(event.position) == self.poison {
                receipt.rejected.push(Rejection {
                    index,
                    message: "refused".into(),
                    status: None,
                });
            } else {
                self.taken.push(event.position);
            }
        }
        Ok(receipt)
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let before = self.taken.len().checked_sub(2).map(|at| self.taken[at]);
        Ok(before.map(|through| DurableMark {
            through,
            state: match self.stateful {
                true => Bytes::from(through.to_string()),
                false => Bytes::new(),
            },
        }))
    }

    fn batch_size(&self) -> usize {
        1
    }
}

/// What is stored after 30 s of an emitter that takes about three events a second.
async fn stored_under_load(rig: &Rig, emitter: Full) -> Position {
    let (trigger, shutdown) = Shutdown::new();
    let (_control, commands) = LaneControl::new();
    let log = rig.log.clone();
    let lane = Lane {
        config: LaneConfig::new("hook", source().lineage, Position::ZERO),
        open: move |after| Ok(log.tail(after)),
        filter: Box::new(rig.filter),
        transforms: Vec::new(),
        emitter: BoxEmitter::new(emitter),
        dlq: rig.dlq.clone(),
        checkpoints: rig.checkpoints.clone(),
        watermark: rig.watermark.register("hook", None),
        clock: Arc::new(SystemClock::new()),
        metrics: rig.metrics.clone(),
        control: commands,
        shutdown,
    };
    let (stored, end) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let stored = rig.stored();
            trigger.trigger();
            stored
        },
        lane.run()
    );
    end.unwrap();
    stored
}

#[tokio::test(start_paused = true)]
async fn checkpoints_follow_an_emitter_that_always_waits_for_room() {
    let rig = Rig::new();
    for commit in 1..200 {
        rig.log.push(transaction(commit, 1, 1));
    }
    let stored = stored_under_load(&rig, Full::default()).await;
    assert!(
        stored > Position::end_of(Lsn(90)),
        "{stored} after 100 events"
    );
}

#[tokio::test(start_paused = true)]
async fn checkpoints_with_a_state_follow_while_events_are_parked_all_the_time() {
    let rig = Rig::new();
    // Every second event is of the key that is dead from the first on.
    for commit in 1..300 {
        let key = if commit % 2 == 1 { 1 } else { 1000 };
        rig.log.push(transaction(commit, key, 1));
    }
    let emitter = Full {
        poison: Some(at(1, 0)),
        stateful: true,
        ..Full::default()
    };
    let stored = stored_under_load(&rig, emitter).await;
    assert!(
        stored > Position::end_of(Lsn(180)),
        "{stored} after 100 events and as many parked"
    );
    let parked = rig.letters(LetterState::Parked).len();
    assert!(parked > 90, "{parked} parked");
}
