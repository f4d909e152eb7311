//! What happens in one simulation, drawn from its seed: a list of steps, so that a minimiser can
//! leave some out.

use std::time::Duration;

use cdc_core::pipeline::OrderScope;
use cdc_core::testing::sim::{DestinationConfig, SimRandom, TransactionSpec};
use cdc_core::testing::sim_storage::Failure;

use super::extras::{self, EmitterExtras, Extras};

/// Makes the dice of the extras others than those of the plan.
const EXTRAS: u64 = 0x0e87_7a5e_0e87_7a5e;

/// One simulation.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) config: PlanConfig,
    pub(crate) steps: Vec<Step>,
}

/// Settings of the pipeline under test.
#[derive(Clone, Debug)]
pub(crate) struct PlanConfig {
    pub(crate) feed: Feed,
    /// Bound of the dead letter queue until everything is healed.
    pub(crate) letters_max: Option<u64>,
    pub(crate) emitters: Vec<EmitterPlan>,
    pub(crate) keys: u64,
    pub(crate) journaled: bool,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) flush_interval: Duration,
    pub(crate) events_max: usize,
    pub(crate) window_max: u64,
    pub(crate) retain_bytes: u64,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) extras: Extras,
}

/// Where the events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    /// A database, through capture and journal.
    Database,
    /// An engine that embeds the log; its commits are durable at once, or after a flush.
    Engine { always: bool },
}

/// What an emitter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A simulated webhook.
    Hook,
    /// The real queue and a simulated consumer.
    Queue,
    /// The real file emitter on the simulated disk.
    File {
        append: bool,
        rotate_bytes: u64,
        batch_sync: bool,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct EmitterPlan {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Only the tables of schema `public`.
    pub(crate) only_public: bool,
    /// Only inserts and updates.
    pub(crate) only_upserts: bool,
    pub(crate) parks: bool,
    /// Events in a thousand that the transform drops, or fails on until everything is healed.
    pub(crate) drops: u64,
    pub(crate) fails: u64,
    pub(crate) destination: DestinationConfig,
    /// Requests at once, of a hook.
    pub(crate) concurrency: usize,
    pub(crate) order: OrderScope,
    pub(crate) extras: EmitterExtras,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) action: Action,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Execute(TransactionSpec),
    Idle(u64),
    ChangeSchema,
    DatabaseCheckpoint,
    Disconnect {
        after_bytes: u64,
    },
    FailOver {
        per_mille: u64,
    },
    DatabaseCrash {
        away: Duration,
    },
    Down(usize, Duration),
    Refuse(usize, Duration),
    Reject(usize, Duration),
    Slow(usize, Duration),
    LoseAnswers(usize, u32),
    DelayRequests(usize, u32),
    CutRequests(usize, u32),
    DiskFails {
        after_calls: u64,
        failure: Failure,
        power: bool,
    },
    DiskFull {
        time: Duration,
    },
    DiskSlow {
        delay: Duration,
        time: Duration,
    },
    /// A file system of its own runs full.
    MountFull {
        mount: Mount,
        slack: u64,
        creates: bool,
        time: Duration,
    },
    /// An operator who acts as soon as a lane is in trouble.
    Eager {
        when: Trouble,
        order: Order,
    },
    /// Another process looks at log, letters and files.
    Look,
    Kill {
        after_polls: u64,
        power: bool,
    },
    Restart,
    Order(Order),
    /// It waits for a coming life of the process, the next one if `lives` is 0.
    Later {
        lives: u64,
        arm: Arm,
    },
}

/// What an operator may see of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The dead letter queue has no room.
    Blocked,
    /// The destination is unwell, or refuses everything.
    Retrying,
    /// The window has no place.
    WindowFull,
}

/// What may be a file system of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mount {
    State,
    Letters,
    Files,
}

impl Mount {
    /// With this its names begin.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::State => "/state",
            Self::Letters => "/dlq",
            Self::Files => "/out",
        }
    }
}

/// What waits for a life of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arm {
    /// A call of the disk fails, counted from its begin.
    DiskFails {
        after_calls: u64,
        failure: Failure,
        power: bool,
    },
    Kill {
        after_polls: u64,
        power: bool,
    },
    /// An operator who wants something as soon as there is somebody to ask.
    Order(Order),
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Redrive {
        emitter: usize,
        per_mille: u64,
        as_was: bool,
    },
    Discard {
        emitter: usize,
        per_mille: u64,
    },
    /// The stored position is moved while the process is stopped.
    Move {
        emitter: usize,
        per_mille: u64,
    },
    /// A retained range goes out once more, beside the lane.
    Replay {
        emitter: usize,
        from: u64,
        to: u64,
    },
    Seek {
        emitter: usize,
        per_mille: u64,
    },
    Pause {
        emitter: usize,
        time: Duration,
    },
}

impl Order {
    /// The emitter it concerns.
    pub(crate) const fn emitter(self) -> usize {
        match self {
            Self::Redrive { emitter, .. }
            | Self::Discard { emitter, .. }
            | Self::Move { emitter, .. }
            | Self::Replay { emitter, .. }
            | Self::Seek { emitter, .. }
            | Self::Pause { emitter, .. } => emitter,
        }
    }
}

pub(super) fn millis(random: &mut SimRandom, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.between(from, to))
}

impl Plan {
    /// The plan of a seed, with extras.
    pub(crate) fn new(seed: u64) -> Self {
        let mut plan = Self::plain(seed);
        let mut random = SimRandom::new(seed ^ EXTRAS);
        let end = plan.steps.last().map_or(Duration::ZERO, |step| step.at);
        plan.steps
            .extend(extras::draw(&mut random, &mut plan.config, end));
        // Steps of one moment stay in order.
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// The plan of a seed, as it was before there were extras.
    pub(crate) fn plain(seed: u64) -> Self {
        let mut random = SimRandom::new(seed);
        let config = config(&mut random);
        let steps = steps(&mut random, &config);
        Self {
            seed,
            config,
            steps,
        }
    }

    /// The same without the steps of these numbers.
    pub(crate) fn without(&self, dropped: &[usize]) -> Self {
        let steps = self.steps.iter().enumerate();
        let steps = steps.filter(|(number, _)| !dropped.contains(number));
        Self {
            steps: steps.map(|(_, step)| step.clone()).collect(),
            ..self.clone()
        }
    }
}

fn config(random: &mut SimRandom) -> PlanConfig {
    let count = random.between(1, 3);
    let emitters = (0..count).map(|n| emitter(random, n)).collect();
    PlanConfig {
        feed: match random.below(10) {
            0..7 => Feed::Database,
            7..9 => Feed::Engine { always: true },
            _ => Feed::Engine { always: false },
        },
        letters_max: random.chance(120).then(|| random.between(1, 30)),
        emitters,
        keys: random.pick(&[1, 3, 8, 40]),
        journaled: random.chance(250),
        checkpoint_interval: millis(random, 5, 300),
        flush_interval: millis(random, 5, 300),
        events_max: random.pick(&[2, 7, 32, 4096]),
        window_max: random.pick(&[4, 30, 65_536]),
        retain_bytes: random.pick(&[0, 64 << 10, 1 << 30]),
        shutdown_timeout: millis(random, 100, 3000),
        extras: Extras::none(),
    }
}

fn emitter(random: &mut SimRandom, number: u64) -> EmitterPlan {
    let (name, kind) = match random.below(10) {
        0..6 => ("hook", Kind::Hook),
        6..8 => ("queue", Kind::Queue),
        _ => {
            let kind = Kind::File {
                append: random.chance(300),
                rotate_bytes: random.pick(&[300, 5_000, 1 << 20]),
                batch_sync: random.chance(500),
            };
            ("file", kind)
        }
    };
    let hook = kind == Kind::Hook;
    let order = random.pick(&[
        OrderScope::Key,
        OrderScope::Key,
        OrderScope::Table,
        OrderScope::Global,
    ]);
    EmitterPlan {
        name: format!("{name}{number}"),
        kind,
        only_public: random.chance(300),
        only_upserts: random.chance(200),
        parks: random.chance(800),
        drops: if random.chance(250) { 100 } else { 0 },
        fails: if random.chance(200) { 30 } else { 0 },
        destination: DestinationConfig {
            refuses: hook,
            poison_per_mille: if hook {
                random.pick(&[0, 0, 20, 150])
            } else {
                0
            },
            passes_after: 0,
            partial: random.chance(500),
            latency: Duration::from_micros(random.pick(&[100, 3_000, 30_000])),
            timeout: millis(random, 80, 500),
            batch_size: random.pick(&[1, 3, 10, 100]),
        },
        concurrency: if hook && order != OrderScope::Global {
            random.pick(&[1, 1, 2, 4])
        } else {
            1
        },
        order,
        extras: EmitterExtras::none(),
    }
}

fn steps(random: &mut SimRandom, config: &PlanConfig) -> Vec<Step> {
    let count = random.between(10, 60);
    let rate = random.pick(&[5, 40, 250]);
    // Some plans have no faults of a kind at all: what then fails has no excuse.
    let disk = random.chance(500);
    let crashes = random.chance(700);
    let mut at = Duration::ZERO;
    (0..count)
        .map(|_| {
            at += millis(random, 0, rate);
            Step {
                at,
                action: action(random, config, disk, crashes),
            }
        })
        .collect()
}

fn transaction(random: &mut SimRandom) -> TransactionSpec {
    let events = match random.below(100) {
        0..70 => random.between(1, 4),
        70..95 => random.between(1, 30),
        _ => random.between(100, 500),
    };
    TransactionSpec {
        seed: random.next(),
        events: u32::try_from(events).unwrap_or(1),
        body: random.pick(&[0, 20, 400]),
        aborts: random.chance(80),
    }
}

fn action(random: &mut SimRandom, config: &PlanConfig, disk: bool, crashes: bool) -> Action {
    let emitter = random.index(config.emitters.len());
    let few = u32::try_from(random.between(1, 3)).unwrap_or(1);
    match random.below(100) {
        56..59 => Action::Idle(random.between(1, 5000)),
        59..61 => Action::ChangeSchema,
        61..64 => Action::DatabaseCheckpoint,
        64..67 => Action::Disconnect {
            after_bytes: random.pick(&[0, 40, 400, 4000]) + random.below(300),
        },
        67 if random.chance(200) => Action::FailOver {
            per_mille: random.below(1001),
        },
        67..69 => Action::DatabaseCrash {
            away: millis(random, 0, 2000),
        },
        69..71 => Action::Down(emitter, millis(random, 10, 5000)),
        71..72 => Action::Refuse(emitter, millis(random, 10, 3000)),
        72..73 => Action::Reject(emitter, millis(random, 10, 3000)),
        73..74 => Action::Slow(emitter, millis(random, 10, 2000)),
        74..76 => Action::LoseAnswers(emitter, few),
        76..78 => Action::DelayRequests(emitter, few),
        78..80 => Action::CutRequests(emitter, few),
        80..84 if disk => Action::DiskFails {
            after_calls: random.below(60),
            failure: random.pick(&[Failure::Once, Failure::Forget]),
            power: random.chance(500),
        },
        84..85 if disk => Action::DiskFull {
            time: millis(random, 10, 2000),
        },
        85..86 => Action::DiskSlow {
            delay: Duration::from_micros(random.between(100, 20_000)),
            time: millis(random, 10, 500),
        },
        86..89 if crashes => Action::DiskFails {
            after_calls: random.below(80),
            failure: Failure::Stop,
            power: random.chance(500),
        },
        89..93 if crashes => Action::Kill {
            after_polls: random.below(400),
            power: random.chance(500),
        },
        93..95 => Action::Restart,
        95..97 => Action::Order(Order::Redrive {
            emitter,
            per_mille: random.pick(&[300, 1000]),
            as_was: random.chance(200),
        }),
        97..98 => Action::Order(Order::Discard {
            emitter,
            per_mille: 300,
        }),
        98..99 => match random.below(4) {
            0 => Action::Order(Order::Move {
                emitter,
                per_mille: random.below(1000),
            }),
            3 => Action::Order(Order::Replay {
                emitter,
                from: random.below(1000),
                to: random.between(500, 1000),
            }),
            1 => Action::Order(Order::Seek {
                emitter,
                per_mille: random.below(1000),
            }),
            _ => Action::Order(Order::Pause {
                emitter,
                time: millis(random, 10, 2000),
            }),
        },
        _ => Action::Execute(transaction(random)),
    }
}
