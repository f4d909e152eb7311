//! What a schedule has beyond what the first dice decide. It comes from dice of its own, so that the
//! seeds that found a bug keep their meaning.

use std::time::Duration;

use cdc_core::testing::sim::SimRandom;
use cdc_core::testing::sim_storage::Failure;

use super::plan::{
    Action, Arm, EmitterPlan, Kind, Mount, Order, PlanConfig, Step, Trouble, millis,
};

/// Settings beyond those of the first dice.
#[derive(Clone, Debug)]
pub(crate) struct Extras {
    /// Time a supervisor waits before it starts a process again.
    pub(crate) restart: Duration,
    /// The dead letter queue has small segments, so that it ends and compacts some.
    pub(crate) small_segments: bool,
}

impl Extras {
    /// As it was before there were extras.
    pub(crate) const fn none() -> Self {
        Self {
            restart: Duration::from_millis(300),
            small_segments: false,
        }
    }
}

/// The same of one emitter.
#[derive(Clone, Debug)]
pub(crate) struct EmitterExtras {
    /// Events in a thousand whose row no encoder can read until everything is healed.
    pub(crate) garbles: u64,
    /// A failure of the transform is over when it has come so often; 0 for never.
    pub(crate) passes_after: u32,
    pub(crate) consumer: ConsumerPlan,
}

/// How the consumer of a queue works.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerPlan {
    /// How many there are at once.
    pub(crate) count: u64,
    /// Batches one takes before it acknowledges the first.
    pub(crate) held_max: usize,
    /// It acknowledges a batch and all before it at once, else each on its own, in any order.
    pub(crate) through: bool,
    /// Longest wait before it fetches.
    pub(crate) idle: Duration,
    /// Longest wait for one more batch before it acknowledges what it has.
    pub(crate) linger: Duration,
}

impl EmitterExtras {
    pub(crate) const fn none() -> Self {
        Self {
            garbles: 0,
            passes_after: 0,
            consumer: ConsumerPlan {
                count: 0,
                held_max: 0,
                through: false,
                idle: Duration::ZERO,
                linger: Duration::ZERO,
            },
        }
    }
}

/// Puts the extras into a plan whose own steps are over at `end`; gives the steps they add.
pub(crate) fn draw(random: &mut SimRandom, config: &mut PlanConfig, end: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    // What a subject draws moves none of the others.
    let mut settings = random.fork();
    config.extras = Extras {
        restart: Duration::from_millis(settings.pick(&[1, 20, 300])),
        small_segments: settings.chance(500),
    };
    lives(&mut random.fork(), config, end, &mut steps);
    mounts(&mut random.fork(), end, &mut steps);
    for emitter in &mut config.emitters {
        refusals(&mut random.fork(), emitter);
        emitter.extras.consumer = consumer(&mut random.fork());
    }
    looks(&mut random.fork(), end, &mut steps);
    eager(&mut random.fork(), config, end, &mut steps);
    steps
}

/// Refusals beyond those of a destination, and how often they come before the event passes.
fn refusals(random: &mut SimRandom, emitter: &mut EmitterPlan) {
    if matches!(emitter.kind, Kind::File { .. }) {
        emitter.extras.garbles = random.pick(&[0, 0, 20, 100]);
    }
    let passes = u32::try_from(random.pick(&[0, 0, 1, 2])).unwrap_or(0);
    emitter.extras.passes_after = passes;
    emitter.destination.passes_after = passes;
}

/// Half of them are the only one, and acknowledge what they take at once.
fn consumer(random: &mut SimRandom) -> ConsumerPlan {
    if random.chance(500) {
        return EmitterExtras::none().consumer;
    }
    ConsumerPlan {
        count: random.between(1, 3),
        held_max: random.pick(&[1, 2, 5]),
        through: random.chance(400),
        idle: Duration::from_millis(random.pick(&[0, 5, 200])),
        linger: Duration::from_millis(random.pick(&[1, 50, 600])),
    }
}

/// A file system that runs full for a while, alone or after another.
fn mounts(random: &mut SimRandom, end: Duration, steps: &mut Vec<Step>) {
    if !random.chance(300) {
        return;
    }
    for _ in 0..random.between(1, 3) {
        let action = Action::MountFull {
            mount: random.pick(&[Mount::State, Mount::Letters, Mount::Files]),
            slack: random.pick(&[0, 60, 700, 20_000, u64::MAX]),
            creates: random.chance(600),
            time: millis(random, 10, 2000),
        };
        let at = moment(random, end);
        steps.push(Step { at, action });
    }
}

/// Another process that looks.
fn looks(random: &mut SimRandom, end: Duration, steps: &mut Vec<Step>) {
    if !random.chance(300) {
        return;
    }
    for _ in 0..random.between(1, 12) {
        let (at, action) = (moment(random, end), Action::Look);
        steps.push(Step { at, action });
    }
}

/// A moment of the plan.
fn moment(random: &mut SimRandom, end: Duration) -> Duration {
    Duration::from_micros(random.below(u64::try_from(end.as_micros()).unwrap_or(0) + 1))
}

/// Some lives, one after another, that end early: with a disk that fails while they start, killed in
/// their first steps, or with an operator who has been waiting for them.
fn lives(random: &mut SimRandom, config: &PlanConfig, end: Duration, steps: &mut Vec<Step>) {
    if !random.chance(400) {
        return;
    }
    let disk = random.chance(700);
    for _ in 0..random.between(1, 2) {
        let at = moment(random, end);
        let mut add = |action| steps.push(Step { at, action });
        for lives in 0..random.between(1, 4) {
            let mut arm = |arm| add(Action::Later { lives, arm });
            if disk && random.chance(600) {
                for _ in 0..random.between(1, 3) {
                    arm(Arm::DiskFails {
                        after_calls: {
                            let within = random.pick(&[8, 40, 150]);
                            random.below(within)
                        },
                        failure: random.pick(&[Failure::Once, Failure::Forget, Failure::Stop]),
                        power: random.chance(500),
                    });
                }
            }
            if random.chance(500) {
                arm(Arm::Kill {
                    after_polls: random.below(80),
                    power: random.chance(500),
                });
            }
            if random.chance(300) {
                arm(Arm::Order(order(random, config)));
            }
        }
        add(Action::Kill {
            after_polls: random.below(20),
            power: random.chance(500),
        });
    }
}

/// An operator who acts when a lane is in trouble.
fn eager(random: &mut SimRandom, config: &PlanConfig, end: Duration, steps: &mut Vec<Step>) {
    if !random.chance(400) {
        return;
    }
    for _ in 0..random.between(1, 4) {
        let action = Action::Eager {
            when: random.pick(&[Trouble::Blocked, Trouble::Retrying, Trouble::WindowFull]),
            order: order(random, config),
        };
        let at = moment(random, end);
        steps.push(Step { at, action });
    }
}

/// Something an operator may want.
fn order(random: &mut SimRandom, config: &PlanConfig) -> Order {
    let emitter = random.index(config.emitters.len());
    match random.below(6) {
        0 => Order::Discard {
            emitter,
            per_mille: 300,
        },
        1 => Order::Move {
            emitter,
            per_mille: random.below(1000),
        },
        2 => Order::Replay {
            emitter,
            from: random.below(1000),
            to: random.between(500, 1000),
        },
        3 => Order::Seek {
            emitter,
            per_mille: random.below(1000),
        },
        4 => Order::Pause {
            emitter,
            time: millis(random, 10, 2000),
        },
        _ => Order::Redrive {
            emitter,
            per_mille: random.pick(&[300, 1000]),
            as_was: random.chance(200),
        },
    }
}
