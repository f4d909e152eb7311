//! The consumers of a queue: one that acknowledges what it takes at once, or some that hold several
//! batches, acknowledge them in any order or all up to one, and fetch late.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cdc_core::Clock as _;
use cdc_core::testing::sim::{Alive, SimDestination, SimRandom, Way};
use cdc_emit_queue::{QueueBatch, QueueConsumer, QueueEmitter};

use super::extras::ConsumerPlan;
use super::plan::EmitterPlan;
use super::process::Outside;

/// Longest wait for one more batch when everything works again.
const HEALED: Duration = Duration::from_millis(1);

/// Starts the consumers of an emitter's queue in the process of this group.
pub(crate) fn spawn(
    outside: &Outside,
    (number, plan): (usize, &EmitterPlan),
    queue: &QueueEmitter,
    group: u64,
    alive: &Alive,
) {
    let consumers = &plan.extras.consumer;
    for of_many in 0..consumers.count.max(1) {
        let seed = group << 32 | (number as u64) << 16 | of_many;
        let worker = Worker {
            name: plan.name.clone(),
            outside: outside.clone(),
            destination: outside.destinations[number].clone(),
            alive: alive.clone(),
            plan: consumers.clone(),
            random: SimRandom::new(seed),
        };
        let consumer = queue.consumer();
        let name = format!("consumer{number}");
        let spawner = &outside.spawner;
        if consumers.count == 0 {
            spawner.spawn(name, group, worker.one_by_one(consumer));
        } else {
            spawner.spawn(name, group, worker.some_at_once(consumer));
        }
    }
}

struct Worker {
    name: String,
    outside: Outside,
    destination: SimDestination,
    alive: Alive,
    plan: ConsumerPlan,
    random: SimRandom,
}

impl Worker {
    async fn one_by_one(self, consumer: QueueConsumer) {
        while let Some(batch) = consumer.recv().await {
            let moves = self.moves();
            let (wait, works) = self.destination.consume();
            self.outside.clock.wait(wait).await;
            self.alive.or_wait().await;
            if works {
                let way = self.way(&batch, moves);
                self.destination.take(batch.batch(), way);
                self.outside.clock.wait(wait).await;
                batch.ack();
            }
        }
    }

    async fn some_at_once(mut self, consumer: QueueConsumer) {
        let mut held: Vec<QueueBatch> = Vec::new();
        loop {
            // When everything works again, it does so at once.
            let healed = self.outside.healed.load(Ordering::Relaxed);
            if !healed {
                self.wait_up_to(self.plan.idle).await;
            }
            let more = if held.is_empty() {
                consumer.recv().await
            } else {
                let linger = if healed { HEALED } else { self.plan.linger };
                let linger = self.outside.clock.sleep(linger);
                tokio::select! {
                    biased;
                    batch = consumer.recv() => batch,
                    () = linger => {
                        self.acknowledge(&consumer, &mut held);
                        continue;
                    }
                }
            };
            let Some(batch) = more else {
                // The emitter is gone: what is held may still be acknowledged.
                while !held.is_empty() {
                    self.acknowledge(&consumer, &mut held);
                }
                return;
            };
            let moves = self.moves();
            let (wait, works) = self.destination.consume();
            self.outside.clock.wait(wait).await;
            self.alive.or_wait().await;
            if works {
                let way = self.way(&batch, moves);
                self.destination.take(batch.batch(), way);
                held.push(batch);
            }
            if held.len() >= self.plan.held_max {
                self.acknowledge(&consumer, &mut held);
            }
        }
    }

    /// Another consumer may have had it since, and have acknowledged it; or an operator has given up what a
    /// redrive had given to the queue.
    fn way(&self, batch: &QueueBatch, moves: u64) -> Way {
        let oracle = &self.outside.oracle;
        let mut events = batch.batch().events().iter();
        let given_up = events.any(|event| oracle.is_discarded(&self.name, event.position));
        if given_up || self.moves() != moves {
            Way::Late
        } else {
            Way::Asked
        }
    }

    fn moves(&self) -> u64 {
        self.outside.oracle.moves(&self.name)
    }

    async fn wait_up_to(&mut self, longest: Duration) {
        let longest = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        if longest > 0 {
            let wait = Duration::from_micros(self.random.between(0, longest));
            self.outside.clock.wait(wait).await;
        }
    }

    /// Acknowledges one of the batches, or one and all before it.
    fn acknowledge(&mut self, consumer: &QueueConsumer, held: &mut Vec<QueueBatch>) {
        let chosen = held.swap_remove(self.random.index(held.len()));
        if !self.plan.through {
            chosen.ack();
            return;
        }
        let end = chosen.end();
        consumer.ack_through(end);
        // Those that are acknowledged need nothing more, and letting go of the others gives them back.
        held.retain(|batch| batch.end() > end);
    }
}
