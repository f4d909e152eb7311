//! What a schedule has beyond what the first dice decide. It comes from dice of its own, so that the
//! seeds that found a bug keep their meaning.

use std::time::Duration;

use cdc_core::testing::sim::SimRandom;
use cdc_core::testing::sim_storage::Failure;

use super::plan::{Action, Arm, Order, PlanConfig, Step, millis};

/// Settings beyond those of the first dice.
#[derive(Clone, Debug)]
pub(crate) struct Extras {
    /// Time a supervisor waits before it starts a process again.
    pub(crate) restart: Duration,
}

impl Extras {
    /// As it was before there were extras.
    pub(crate) const fn none() -> Self {
        Self {
            restart: Duration::from_millis(300),
        }
    }
}

/// The extras of a plan whose own steps are over at `end`, and the steps they add.
pub(crate) fn draw(
    random: &mut SimRandom,
    config: &PlanConfig,
    end: Duration,
) -> (Extras, Vec<Step>) {
    let extras = Extras {
        restart: Duration::from_millis(random.pick(&[1, 20, 300])),
    };
    let mut steps = Vec::new();
    // What a subject draws moves none of the others.
    lives(&mut random.fork(), config, end, &mut steps);
    (extras, steps)
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
