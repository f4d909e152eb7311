//! Random interleavings against a model that remembers everything.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use cdc_core::{Emitter, Position, testing};
use cdc_emit_queue::{QueueBatch, QueueConfig, QueueConsumer, QueueEmitter};
use proptest::prelude::*;

use crate::{end, now, positions};

const CAPACITY: usize = 12;

#[derive(Clone, Debug)]
enum Action {
    Emit {
        events: u32,
    },
    Recv {
        consumer: usize,
    },
    Ack {
        held: prop::sample::Index,
    },
    AckThrough {
        consumer: usize,
        held: prop::sample::Index,
    },
    Drop {
        held: prop::sample::Index,
    },
    ReplaceConsumer {
        consumer: usize,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (1u32..9).prop_map(|events| Action::Emit { events }),
        4 => (0usize..2).prop_map(|consumer| Action::Recv { consumer }),
        3 => index().prop_map(|held| Action::Ack { held }),
        1 => (0usize..2, index()).prop_map(|(consumer, held)| Action::AckThrough { consumer, held }),
        2 => index().prop_map(|held| Action::Drop { held }),
        1 => (0usize..2).prop_map(|consumer| Action::ReplaceConsumer { consumer }),
    ]
}

struct Run {
    emitter: QueueEmitter,
    consumers: [QueueConsumer; 2],
    /// Batches held, with the consumer that holds each; `None` once that consumer is gone.
    held: Vec<(Option<usize>, QueueBatch)>,
    emitted: Vec<Position>,
    acked: BTreeSet<Position>,
    /// Which row each event is of.
    rows: BTreeMap<Position, i64>,
    commit: u64,
}

impl Run {
    fn step(&mut self, action: &Action) {
        let pick = |held: &prop::sample::Index, len: usize| (len > 0).then(|| held.index(len));
        match action {
            Action::Emit { events } => {
                // Rows come again and again.
                let first = i64::try_from(self.commit % 5).unwrap() * 4;
                let batch = testing::transaction(self.commit + 1, first, *events);
                for (row, event) in (first..).zip(batch.events()) {
                    self.rows.insert(event.position, row);
                }
                // A batch that does not fit is cancelled and given again until it does.
                while now(pin!(self.emitter.emit(&batch))).is_none() {
                    self.make_room();
                }
                self.commit += 1;
                self.emitted
                    .extend(batch.events().iter().map(|e| e.position));
            }
            Action::Recv { consumer } => self.recv(*consumer),
            Action::Ack { held } => {
                if let Some(index) = pick(held, self.held.len()) {
                    let (_, batch) = self.held.swap_remove(index);
                    self.acked.extend(positions(&batch));
                    batch.ack();
                }
            }
            Action::AckThrough { consumer, held } => {
                if let Some(index) = pick(held, self.held.len()) {
                    let through = self.held[index].1.end();
                    let mine = |h: &(Option<usize>, QueueBatch)| {
                        h.0 == Some(*consumer) && h.1.end() <= through
                    };
                    let covered: Vec<_> = self.held.iter().filter(|h| mine(h)).collect();
                    // A late ack through an older hand-over of the same events may have come first.
                    let open = covered
                        .iter()
                        .filter(|h| !self.acked.contains(&positions(&h.1)[0]));
                    let count = open.count();
                    self.acked
                        .extend(covered.iter().flat_map(|h| positions(&h.1)));
                    assert_eq!(self.consumers[*consumer].ack_through(through), count);
                    self.held.retain(|h| !mine(h));
                }
            }
            Action::Drop { held } => {
                if let Some(index) = pick(held, self.held.len()) {
                    drop(self.held.swap_remove(index));
                }
            }
            Action::ReplaceConsumer { consumer } => {
                self.consumers[*consumer] = self.emitter.consumer();
                for (holder, _) in &mut self.held {
                    if *holder == Some(*consumer) {
                        *holder = None;
                    }
                }
            }
        }
        self.check();
    }

    fn recv(&mut self, consumer: usize) {
        if let Ok(batch) = self.consumers[consumer].try_recv() {
            // Each row in order: nobody else has, or must take first, an earlier event of a row.
            let mine: BTreeSet<_> = (self.held.iter().filter(|h| h.0 == Some(consumer)))
                .flat_map(|h| positions(&h.1))
                .collect();
            for position in positions(&batch) {
                let row = self.rows[&position];
                let earlier = self
                    .rows
                    .range(..position)
                    .filter(|(_, other)| **other == row);
                for (at, _) in earlier {
                    let known = self.acked.contains(at) || mine.contains(at);
                    let known = known || positions(&batch).contains(at);
                    assert!(known, "{position} overtakes {at} of row {row}");
                }
            }
            // Oldest first, but for what waits for others.
            let holders: BTreeSet<_> = (self.held.iter().filter(|h| h.0.is_some()))
                .flat_map(|h| positions(&h.1))
                .collect();
            let first = positions(&batch)[0];
            let others = holders.iter().any(|p| !mine.contains(p));
            let before = self.emitted.iter().filter(|p| **p < first);
            for position in before {
                let busy = self.acked.contains(position) || holders.contains(position);
                assert!(
                    busy || others,
                    "{position} is older than {first} and nobody has it"
                );
            }
            self.held.push((Some(consumer), batch));
        }
    }

    fn make_room(&mut self) {
        self.recv(0);
        while let Some((_, batch)) = self.held.pop() {
            self.acked.extend(positions(&batch));
            batch.ack();
        }
    }

    fn check(&mut self) {
        let through = self.emitter.durable().unwrap().unwrap().through;
        let unacked = self.emitted.iter().find(|p| !self.acked.contains(p));
        assert!(
            unacked.is_none_or(|p| through < *p),
            "the mark {through} passed an unacknowledged event"
        );
        let stats = self.emitter.handle().stats();
        assert!(stats.events <= CAPACITY);
        let pending = self
            .emitted
            .iter()
            .filter(|p| !self.acked.contains(p))
            .count();
        assert_eq!(stats.events, pending);
    }

    /// Everything that is left comes out, and then the mark is at the end.
    fn finish(mut self) {
        self.held.clear();
        while let Ok(batch) = self.consumers[1].try_recv() {
            self.acked.extend(positions(&batch));
            batch.ack();
        }
        assert_eq!(self.acked, self.emitted.iter().copied().collect());
        let mark = now(pin!(self.emitter.flush())).expect("all is acknowledged");
        let expected = if self.commit == 0 {
            Position::ZERO
        } else {
            end(self.commit)
        };
        assert_eq!(mark.unwrap().unwrap().through, expected);
        let stats = self.emitter.handle().stats();
        assert_eq!(
            (stats.events, stats.bytes, stats.ready, stats.held),
            (0, 0, 0, 0)
        );
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_the_mark_never_runs_ahead(
        actions in proptest::collection::vec(action(), 0..120),
        batch_size in 1usize..6,
    ) {
        let config = QueueConfig { capacity: CAPACITY, batch_size, ..QueueConfig::default() };
        let emitter = QueueEmitter::new(config).unwrap();
        let consumers = [emitter.consumer(), emitter.consumer()];
        let mut run = Run {
            emitter,
            consumers,
            held: Vec::new(),
            emitted: Vec::new(),
            acked: BTreeSet::new(),
            rows: BTreeMap::new(),
            commit: 0,
        };
        for action in &actions {
            run.step(action);
        }
        run.finish();
    }
}
