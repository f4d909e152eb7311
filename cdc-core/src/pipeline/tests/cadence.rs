//! Checkpoints follow what is durable while requests never pause.

use bytes::Bytes;

use super::*;
use crate::{Delivery, DurableMark, EmitError, Emitter, EventBatch, Receipt};

/// Waits for room before it takes each event, and is durable up to the one before, as a full queue
/// with a slow consumer.
#[derive(Default)]
struct Full {
    taken: Vec<Position>,
}

impl Emitter for Full {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.taken.extend(batch.events().iter().map(|e| e.position));
        Ok(Receipt {
            delivery: Delivery::Accepted,
            rejected: Vec::new(),
        })
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let before = self.taken.len().checked_sub(2).map(|at| self.taken[at]);
        Ok(before.map(|through| DurableMark {
            through,
            state: Bytes::new(),
        }))
    }

    fn batch_size(&self) -> usize {
        1
    }
}

#[tokio::test(start_paused = true)]
async fn checkpoints_follow_an_emitter_that_always_waits_for_room() {
    let rig = Rig::new();
    for commit in 1..200 {
        rig.log.push(transaction(commit, 1, 1));
    }
    let (trigger, shutdown) = Shutdown::new();
    let (_control, commands) = LaneControl::new();
    let log = rig.log.clone();
    let lane = Lane {
        config: LaneConfig::new("hook", source().lineage, Position::ZERO),
        open: move |after| Ok(log.tail(after)),
        filter: Box::new(rig.filter),
        transforms: Vec::new(),
        emitter: BoxEmitter::new(Full::default()),
        dlq: rig.dlq.clone(),
        checkpoints: rig.checkpoints.clone(),
        watermark: rig.watermark.register("hook", None),
        clock: Arc::new(SystemClock::new()),
        metrics: rig.metrics.clone(),
        control: commands,
        shutdown,
    };
    let ((), end) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let stored = rig.stored();
            assert!(
                stored > Position::end_of(Lsn(90)),
                "{stored} after 100 events"
            );
            trigger.trigger();
        },
        lane.run()
    );
    end.unwrap();
}
