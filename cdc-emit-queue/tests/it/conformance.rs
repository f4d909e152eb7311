//! The emitter contract.

use std::sync::{Arc, Mutex};

use cdc_core::Position;
use cdc_core::testing::conformance::{self, Subject};
use cdc_emit_queue::QueueEmitter;

use crate::{positions, queue};

/// A queue whose consumer keeps what it takes and drops every third hand-over once.
struct Consumed {
    capacity: usize,
    batch_size: usize,
    taken: Arc<Mutex<Vec<Position>>>,
}

impl Subject for Consumed {
    type Emitter = QueueEmitter;

    async fn open(&mut self) -> QueueEmitter {
        let emitter = queue(self.capacity, self.batch_size);
        let (consumer, taken) = (emitter.consumer(), self.taken.clone());
        tokio::spawn(async move {
            let mut count = 0u32;
            while let Some(batch) = consumer.recv().await {
                count += 1;
                if count.is_multiple_of(3) {
                    continue;
                }
                taken.lock().unwrap().extend(positions(&batch));
                batch.ack();
            }
        });
        emitter
    }

    async fn taken(&mut self) -> Vec<Position> {
        self.taken.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn the_queue_keeps_the_emitter_contract() {
    for (capacity, batch_size) in [(65_536, 100), (3, 2), (1, 1)] {
        conformance::check(async || Consumed {
            capacity,
            batch_size,
            taken: Arc::default(),
        })
        .await;
    }
}
