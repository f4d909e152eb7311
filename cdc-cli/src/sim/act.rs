//! What happens in a world, step by step, and what waits for a coming life of the process.

use cdc_core::testing::sim::{
    EmitterRules, Oracle, Safety, SimClock, SimDatabase, SimDestination, SimExecutor, SimRandom,
    Timeline,
};

use super::engine;
use super::kept;
use super::plan::{Action, Arm, Kind, Plan};
use super::process::{Outside, Paths};
use super::world::World;

impl World {
    pub(super) fn act(&mut self, action: Action) {
        let Outside {
            database,
            destinations,
            disk,
            timeline,
            engine,
            ..
        } = &self.outside;
        let now = self.now();
        match action {
            Action::Execute(spec) => match engine {
                Some(engine) => engine.ask(spec),
                None => database.execute(&spec),
            },
            Action::Idle(bytes) => database.idle(bytes),
            Action::ChangeSchema => match engine {
                Some(engine) => engine.change_schema(),
                None => database.change_schema(),
            },
            Action::DatabaseCheckpoint => database.checkpoint(),
            Action::Disconnect { after_bytes } => database.disconnect_after(after_bytes),
            Action::FailOver { per_mille } => self.fail_over(per_mille),
            Action::DatabaseCrash { away } => database.crash(away),
            Action::Down(emitter, time) => destinations[emitter].down_for(time),
            Action::Refuse(emitter, time) => destinations[emitter].refuse_for(time),
            Action::Reject(emitter, time) => destinations[emitter].reject_for(time),
            Action::Slow(emitter, time) => destinations[emitter].slow_for(time),
            Action::LoseAnswers(emitter, n) => destinations[emitter].lose_answers(n),
            Action::DelayRequests(emitter, n) => destinations[emitter].delay_requests(n),
            Action::CutRequests(emitter, n) => destinations[emitter].cut_requests(n),
            Action::DiskFails {
                after_calls,
                failure,
                power,
            } => {
                self.power_at_stop = power;
                disk.fail_after(after_calls, failure);
            }
            Action::DiskFull { time } => {
                disk.set_capacity(Some(disk.used() + 100));
                self.full_until = Some(now + time);
            }
            Action::DiskSlow { delay, time } => {
                timeline.set_disk_delay(delay);
                self.slow_until = Some(now + time);
            }
            Action::MountFull {
                mount,
                slack,
                creates,
                time,
            } => {
                disk.fill_mount(mount.prefix(), slack, creates);
                let until = self.mounts_until.unwrap_or_default();
                self.mounts_until = Some(until.max(now + time));
            }
            Action::Eager { when, order } => self.eager.push((when, order)),
            Action::Look => self.look(),
            Action::Kill { after_polls, power } => self.kill_in = Some((after_polls, power)),
            Action::Restart => self.drain("an operator restarts the process"),
            Action::Order(order) => self.order(order),
            Action::Later { lives, arm } => self.arms.push((self.lives + 1 + lives, arm)),
        }
    }

    /// What was to wait for the life that begins.
    pub(super) fn take_arms(&mut self) {
        let life = self.lives;
        let due = self.arms.extract_if(.., |(at, _)| *at <= life);
        for (_, arm) in due.collect::<Vec<_>>() {
            self.outside
                .timeline
                .note("step", || format!("now: {arm:?}"));
            match arm {
                Arm::DiskFails {
                    after_calls,
                    failure,
                    power,
                } => {
                    self.power_at_stop = power;
                    self.outside.disk.also_fail_after(after_calls, failure);
                }
                Arm::Kill { after_polls, power } => self.kill_in = Some((after_polls, power)),
                Arm::Order(order) => self.orders.push(order),
            }
        }
    }

    /// Asks for what waited until there is somebody to ask.
    pub(super) fn take_orders(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let emitters = self.plan.config.emitters.len();
        let listens = (self.process.as_ref())
            .is_some_and(|process| process.seen().controls.len() == emitters);
        if listens {
            for order in std::mem::take(&mut self.orders) {
                self.order(order);
            }
        }
    }

    /// A standby takes over: the process must refuse to go on.
    pub(super) fn fail_over(&mut self, per_mille: u64) {
        if self.outside.engine.is_some() || self.next_era.is_some() {
            return;
        }
        let Outside {
            clock,
            timeline,
            database,
            era,
            ..
        } = &self.outside;
        let era = era + 1;
        let lineage = SimDatabase::lineage(era + 1);
        let (oracle, destinations) = new_era(
            &self.plan,
            clock,
            timeline,
            &self.executor,
            lineage,
            &mut self.random,
        );
        database.fail_over(per_mille, oracle.clone());
        self.next_era = Some(Outside {
            oracle,
            destinations,
            era,
            ..self.outside.clone()
        });
        self.refused = false;
        let log = Paths::of(self.outside.era).log;
        if !engine::exists(&self.outside.disk, &log) {
            // Nothing says which history this state belongs to: it has not begun.
            self.kill(false);
        }
    }

    /// The operator gives the old state up, as the refusal says, and begins with a new one.
    pub(super) fn begin_anew(&mut self) {
        let Some(next) = self.next_era.take() else {
            return;
        };
        let old = std::mem::replace(&mut self.outside, next);
        self.outside.timeline.note("operator", || {
            format!("begins anew, with the state of era {}", self.outside.era)
        });
        self.old_oracles.push(old.oracle);
        self.read_lines.clear();
        self.to_move = None;
        self.phase_since = self.now();
    }
}

/// The judge of a history, and destinations that have seen nothing of it.
pub(super) fn new_era(
    plan: &Plan,
    clock: &SimClock,
    timeline: &Timeline,
    executor: &SimExecutor,
    lineage: cdc_core::Lineage,
    random: &mut SimRandom,
) -> (Oracle, Vec<SimDestination>) {
    let oracle = Oracle::new(timeline.clone(), lineage);
    let config = &plan.config;
    let ahead = usize::try_from(config.window_max).unwrap_or(usize::MAX);
    let destinations = config.emitters.iter().map(|emitter| {
        let (keep, drop) = (emitter.clone(), emitter.clone());
        oracle.add_emitter(EmitterRules {
            name: emitter.name.as_str().into(),
            keep: Box::new(move |event| kept::keeps(&keep, event)),
            drops: Box::new(move |event| kept::drops(&drop, event)),
            parks: emitter.parks,
            safety: match emitter.kind {
                Kind::File { .. } => Safety::InFiles,
                Kind::Hook | Kind::Queue => Safety::OnArrival,
            },
            repeats: matches!(emitter.kind, Kind::File { append: true, .. }),
            ahead_max: ahead,
        });
        SimDestination::new(
            emitter.name.as_str().into(),
            emitter.destination,
            random.fork(),
            clock.clone(),
            timeline.clone(),
            oracle.clone(),
            executor.spawner(),
        )
    });
    let destinations = destinations.collect();
    (oracle, destinations)
}
