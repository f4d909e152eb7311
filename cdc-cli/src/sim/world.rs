//! The world around the process: time, faults, the supervisor that starts it again, the operator,
//! and the end that every simulation must reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cdc_core::Position;
use cdc_core::testing::sim::{
    Lines, Oracle, Polled, SimClock, SimDatabase, SimExecutor, SimRandom, Timeline, Workload,
};
use cdc_core::testing::sim_storage::SimStorage;

use super::act::new_era;
use super::engine::{self, Engine};
use super::orders::Waiting;
use super::plan::{Arm, Feed, Kind, Order, Plan, Trouble};
use super::process::{Excuse, Outside, Paths, Process};

/// Steps of the executor after which a run is called endless.
const POLLS_MAX: u64 = 3_000_000;
/// Virtual time in which everything must be delivered once the faults have stopped.
const SETTLE: Duration = Duration::from_secs(120);
/// Virtual time in which what is done must be in the checkpoint once the faults have stopped.
const COVERED: Duration = Duration::from_secs(15);
/// The counters are looked at after this many turns.
const COUNTED_EVERY: u64 = 8;

/// Longest time a supervisor waits before it starts a process again.
const RESTART_MAX: Duration = Duration::from_millis(300);

/// What became of a run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// What did not hold.
    pub(crate) violation: Option<String>,
    /// Equal for equal runs.
    pub(crate) digest: u64,
    /// What happened, if it was kept.
    pub(crate) lines: Vec<String>,
    /// Events committed.
    pub(crate) events: usize,
    /// Processes started.
    pub(crate) lives: u64,
    /// Repeats at destinations.
    pub(crate) repeats: u64,
    /// Calls of the disk that failed.
    pub(crate) disk_failures: u64,
    /// Virtual time.
    pub(crate) time: Duration,
}

/// Where a run is on its way to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Steps and faults.
    Steps,
    /// Everything works again; all is to be delivered.
    Settling,
    /// Dead letters go again.
    Redriving,
    /// The process is asked to end.
    Draining,
    Over,
}

pub(crate) struct World {
    pub(super) plan: Plan,
    pub(super) outside: Outside,
    /// The world after a failover, until the process has refused to go on in the old one.
    pub(super) next_era: Option<Outside>,
    /// It has refused.
    pub(super) refused: bool,
    /// The running process began after the failover: it must refuse.
    must_refuse: bool,
    /// Judges of the histories before the present one.
    pub(super) old_oracles: Vec<Oracle>,
    pub(super) executor: SimExecutor,
    pub(super) random: SimRandom,
    pub(super) process: Option<Process>,
    pub(super) lives: u64,
    restart_at: Option<Duration>,
    /// Starts that failed, one behind another.
    failed_starts: u32,
    /// The process is to be drained at this moment, because a lane has halted.
    mend_at: Option<Duration>,
    /// It is killed if it has not drained by then.
    drain_until: Option<Duration>,
    next_step: usize,
    /// Left until the process is killed, and if the power goes with it.
    pub(super) kill_in: Option<(u64, bool)>,
    pub(super) power_at_stop: bool,
    /// Emitters whose files nobody has mended since the power went.
    pub(super) torn: BTreeSet<String>,
    /// What somebody has read in files that are only appended to.
    pub(super) read_lines: BTreeMap<String, Lines>,
    pub(super) full_until: Option<Duration>,
    pub(super) slow_until: Option<Duration>,
    pub(super) mounts_until: Option<Duration>,
    phase: Phase,
    pub(super) phase_since: Duration,
    redrive_at: Duration,
    /// Of each emitter, shared with every redrive that is under way.
    pub(super) redrives: Vec<Arc<()>>,
    pub(super) to_move: Option<(usize, u64)>,
    /// What waits for a life of the process, with its number.
    pub(super) arms: Vec<(u64, Arm)>,
    /// What an operator will ask for when the lanes are there.
    pub(super) orders: Vec<Order>,
    /// What an operator will ask for when a lane is in trouble.
    pub(super) eager: Vec<(Trouble, Order)>,
    /// Orders that wait for their answer.
    pub(super) waiting: Waiting,
    /// Of each emitter, the checkpoint that does not cover what is done, and since when.
    uncovered: Vec<Option<(Position, Duration)>>,
    turns: u64,
}

impl World {
    /// Runs a plan to its end, or to the first violation.
    pub(crate) fn run(plan: &Plan, keep_lines: bool) -> Report {
        let mut world = Self::new(plan.clone(), keep_lines);
        world
            .outside
            .timeline
            .note("plan", || format!("{:?}", plan.config));
        let mut polls = 0u64;
        while world.phase != Phase::Over && world.violation().is_none() {
            polls += 1;
            if polls > POLLS_MAX {
                world
                    .outside
                    .oracle
                    .violated("the run does not end: something turns in circles");
            }
            world.turn();
        }
        world.report()
    }

    fn new(plan: Plan, keep_lines: bool) -> Self {
        let mut random = SimRandom::new(plan.seed ^ 0x51a1_51a1);
        let clock = SimClock::default();
        let timeline = Timeline::new(clock.clone(), keep_lines);
        let executor = SimExecutor::new(random.fork());
        let (oracle, destinations) = new_era(
            &plan,
            &clock,
            &timeline,
            &executor,
            SimDatabase::lineage(1),
            &mut random,
        );
        let disk = SimStorage::new();
        disk.set_watch(Arc::new(timeline.clone()));
        let database = SimDatabase::new(
            random.fork(),
            clock.clone(),
            timeline.clone(),
            oracle.clone(),
            Workload::new(plan.config.keys),
            !plan.config.journaled,
        );
        let engine = match plan.config.feed {
            Feed::Database => None,
            Feed::Engine { always } => Some(Engine::new(
                random.fork(),
                clock.clone(),
                timeline.clone(),
                oracle.clone(),
                Workload::new(plan.config.keys),
                always,
            )),
        };
        let outside = Outside {
            clock,
            timeline,
            oracle,
            spawner: executor.spawner(),
            disk,
            database,
            engine,
            era: 0,
            destinations,
            healed: Arc::new(AtomicBool::new(false)),
            config: Arc::new(plan.config.clone()),
        };
        Self {
            uncovered: vec![None; plan.config.emitters.len()],
            redrives: (plan.config.emitters.iter())
                .map(|_| Arc::default())
                .collect(),
            turns: 0,
            next_era: None,
            refused: false,
            must_refuse: false,
            old_oracles: Vec::new(),
            plan,
            outside,
            executor,
            random,
            process: None,
            lives: 0,
            restart_at: Some(Duration::ZERO),
            failed_starts: 0,
            mend_at: None,
            drain_until: None,
            next_step: 0,
            kill_in: None,
            power_at_stop: false,
            torn: BTreeSet::new(),
            read_lines: BTreeMap::new(),
            full_until: None,
            slow_until: None,
            mounts_until: None,
            phase: Phase::Steps,
            phase_since: Duration::ZERO,
            redrive_at: Duration::ZERO,
            to_move: None,
            arms: Vec::new(),
            orders: Vec::new(),
            eager: Vec::new(),
            waiting: Waiting::default(),
        }
    }

    /// The first violation of any history.
    fn violation(&self) -> Option<String> {
        let old = self.old_oracles.iter().find_map(Oracle::violation);
        old.or_else(|| self.outside.oracle.violation())
    }

    pub(super) fn now(&self) -> Duration {
        self.outside.clock.now()
    }

    fn report(self) -> Report {
        let oracle = &self.outside.oracle;
        oracle.dismiss_witness();
        let emitters = self.plan.config.emitters.iter();
        Report {
            violation: self.violation(),
            digest: self.outside.timeline.digest(),
            lines: self.outside.timeline.lines(),
            events: oracle.count(),
            lives: self.lives,
            repeats: emitters.map(|emitter| oracle.repeats(&emitter.name)).sum(),
            disk_failures: self.outside.disk.failures(),
            time: self.now(),
        }
    }

    /// One turn: what is due happens, then one task is polled or the clock moves.
    fn turn(&mut self) {
        self.turns += 1;
        if self.turns.is_multiple_of(COUNTED_EVERY) {
            self.count(false);
            self.orders_are_answered();
            self.take_eager();
        }
        self.due();
        match self.executor.step() {
            Polled::Task(group) => {
                self.outside.timeline.stir(group);
                // Work takes time.
                let micros = self.random.below(40);
                self.outside.clock.advance(Duration::from_micros(micros));
                self.after_poll(group);
            }
            Polled::Idle => {
                let next = [
                    self.outside.clock.next_timer(),
                    self.plan.steps.get(self.next_step).map(|step| step.at),
                    self.restart_at,
                    self.mend_at,
                    self.drain_until,
                    self.full_until,
                    self.slow_until,
                    self.mounts_until,
                    (self.phase != Phase::Steps).then_some(self.now() + Duration::from_millis(20)),
                ];
                match next.into_iter().flatten().min() {
                    Some(at) => self
                        .outside
                        .clock
                        .advance_to(at.max(self.now() + Duration::from_micros(1))),
                    None => {
                        if self.phase == Phase::Steps {
                            self.settle();
                        }
                    }
                }
            }
        }
    }

    fn after_poll(&mut self, group: u64) {
        if self.outside.disk.is_stopped() {
            let power = self.power_at_stop;
            self.kill(power);
            return;
        }
        if group == 0 {
            return;
        }
        if let Some((left, power)) = &mut self.kill_in {
            if *left == 0 {
                let power = *power;
                self.kill_in = None;
                self.kill(power);
            } else {
                *left -= 1;
            }
        }
    }

    fn due(&mut self) {
        let now = self.now();
        let due = |at: &mut Option<Duration>| at.take_if(|at| *at <= now).is_some();
        if due(&mut self.full_until) {
            self.outside.disk.set_capacity(None);
        }
        if due(&mut self.slow_until) {
            self.outside.timeline.set_disk_delay(Duration::ZERO);
        }
        if due(&mut self.mounts_until) {
            self.outside.disk.empty_mounts();
        }
        if due(&mut self.restart_at) {
            self.start();
        }
        if due(&mut self.mend_at) {
            self.drain("an operator restarts the process");
        }
        if due(&mut self.drain_until) {
            self.kill(false);
        }
        while self.phase == Phase::Steps
            && let Some(step) = self.plan.steps.get(self.next_step)
            && step.at <= now
        {
            let action = step.action;
            self.next_step += 1;
            self.outside.timeline.note("step", || format!("{action:?}"));
            self.act(action);
        }
        self.take_orders();
        self.look_after();
        match self.phase {
            Phase::Steps if self.next_step == self.plan.steps.len() => self.settle(),
            Phase::Settling | Phase::Redriving => self.towards_the_end(),
            Phase::Steps | Phase::Draining | Phase::Over => {}
        }
    }

    /// The supervisor looks after the process.
    fn look_after(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        let mut halted = false;
        let mut unexcused = None;
        let ends = std::mem::take(&mut process.seen().ends);
        for end in ends {
            if let Some((what, excuse)) = end.error {
                halted = true;
                let other = self.next_era.is_some();
                let excused = match excuse {
                    Excuse::Nothing => false,
                    Excuse::Disk => self.outside.disk.failures() > process.disk_failures,
                    Excuse::OtherTimeline => other,
                    Excuse::Full => self.plan.config.letters_max.is_some(),
                };
                self.refused |= excuse == Excuse::OtherTimeline && other;
                if !excused {
                    unexcused = Some(format!("{} failed without a fault: {what}", end.who));
                }
            }
        }
        process.failed |= halted;
        if self.must_refuse && process.seen().accepted {
            unexcused = Some("a process went on with the state of another timeline".into());
        }
        let ended = process.supervise();
        let failed_start = {
            let seen = process.seen();
            seen.started && seen.controls.is_empty()
        };
        if let Some(what) = unexcused {
            self.outside.oracle.violated(what);
        }
        if halted && self.mend_at.is_none() && self.drain_until.is_none() {
            self.mend_at = Some(self.now() + self.plan.config.extras.restart * 5);
        }
        if ended || failed_start {
            self.ended();
        }
    }

    /// The process has ended by itself.
    fn ended(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        let seen = process.seen();
        self.torn.retain(|name| !seen.resumed.contains(name));
        let accepted = seen.accepted;
        // What a disk that fails leaves is mended by the next life.
        let orderly = !process.failed && self.outside.disk.failures() == process.disk_failures;
        drop(seen);
        self.outside.timeline.note("process", || "ended".into());
        self.process = Some(process);
        self.count(true);
        let Some(process) = self.process.take() else {
            return;
        };
        self.executor.kill(process.group);
        drop(process);
        // What it left open is closed.
        self.outside.disk.kill();
        self.mend_at = None;
        self.drain_until = None;
        self.kill_in = None;
        self.look_at_files();
        if orderly {
            self.verify_files();
        }
        if self.phase == Phase::Draining {
            self.must_be_covered();
            self.phase = Phase::Over;
            return;
        }
        self.move_position();
        self.restart_at = Some(self.now() + self.restart_delay(accepted));
    }

    /// How long the supervisor waits: longer from one failed start to the next.
    fn restart_delay(&mut self, accepted: bool) -> Duration {
        self.failed_starts = if accepted { 0 } else { self.failed_starts + 1 };
        let first = self.plan.config.extras.restart;
        let doubled = first.saturating_mul(1 << self.failed_starts.min(16));
        doubled.min(RESTART_MAX)
    }

    pub(super) fn kill(&mut self, power: bool) {
        let Some(process) = self.process.take() else {
            self.outside.disk.kill();
            return;
        };
        self.outside.timeline.note("process", || {
            format!("KILLED{}", if power { ", and the power goes" } else { "" })
        });
        process.alive.die();
        self.outside.disk.stop();
        self.executor.kill(process.group);
        drop(process);
        if power {
            self.outside.disk.crash(self.random.next());
        } else {
            self.outside.disk.kill();
        }
        self.mend_at = None;
        self.drain_until = None;
        self.kill_in = None;
        if power {
            let emitters = self.plan.config.emitters.iter();
            self.torn = emitters.map(|emitter| emitter.name.clone()).collect();
            // It may take what nobody has synced.
            self.read_lines.clear();
        }
        self.look_at_files();
        if self.phase == Phase::Draining {
            self.outside.oracle.violated("the process does not drain");
        }
        self.restart_at = Some(self.now() + self.plan.config.extras.restart);
    }

    fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        if self.next_era.is_some() {
            let log = Paths::of(self.outside.era).log;
            if self.refused || !engine::exists(&self.outside.disk, &log) {
                self.begin_anew();
            }
        }
        self.must_refuse = self.next_era.is_some();
        self.lives += 1;
        let life = self.lives;
        self.outside
            .timeline
            .note("process", || format!("life {life} begins"));
        self.process = Some(Process::start(&self.outside, life));
        self.take_arms();
    }

    pub(super) fn drain(&mut self, why: &'static str) {
        let Some(process) = &self.process else { return };
        self.outside.timeline.note("operator", || why.into());
        process.drain();
        let limit = self.plan.config.shutdown_timeout * 2 + Duration::from_secs(20);
        self.drain_until = Some(self.now() + limit);
    }

    /// The faults stop; from now on everything must arrive.
    fn settle(&mut self) {
        self.outside
            .timeline
            .note("world", || "all faults stop".into());
        let next = self.next_era.iter();
        for outside in next.chain([&self.outside]) {
            for destination in &outside.destinations {
                destination.heal();
            }
        }
        self.outside.healed.store(true, Ordering::Relaxed);
        self.outside.disk.clear_failure();
        self.outside.disk.set_capacity(None);
        self.outside.timeline.set_disk_delay(Duration::ZERO);
        self.arms.clear();
        self.orders.clear();
        self.eager.clear();
        self.kill_in = None;
        self.full_until = None;
        self.slow_until = None;
        self.mounts_until = None;
        self.outside.disk.empty_mounts();
        self.phase = Phase::Settling;
        self.phase_since = self.now();
        if self.plan.config.letters_max.is_some() {
            self.drain("an operator raises the bound of the dead letter queue");
        }
    }

    /// Looks at the counters of the running lanes.
    fn count(&self, ended: bool) {
        let Some(process) = &self.process else { return };
        let emitters = self.plan.config.emitters.iter();
        for (emitter, metrics) in emitters.zip(&process.seen().metrics) {
            let counts = metrics.counts();
            let takes = emitter.kind != Kind::Hook;
            // After a failed sync it may go back to its checkpoint with nothing in flight.
            let failed = self.outside.disk.failures() > process.disk_failures;
            let straight = !(failed && matches!(emitter.kind, Kind::File { .. }));
            let oracle = &self.outside.oracle;
            oracle.counted(&emitter.name, &counts, ended, takes, straight);
        }
    }

    /// Everything was delivered and the process has ended in order.
    fn must_be_covered(&self) {
        for emitter in &self.plan.config.emitters {
            if let Some(position) = self.outside.oracle.uncovered(&emitter.name) {
                self.outside.oracle.violated(format!(
                    "{}: the process ended in order, and its checkpoint does not cover {position}",
                    emitter.name
                ));
            }
        }
    }

    /// Checkpoints must follow what is done, but for a redrive: it goes letter by letter, and nothing is
    /// read meanwhile.
    fn must_be_covered_soon(&mut self) {
        let (now, running) = (self.now(), self.process.is_some());
        let redriving: Vec<_> = (0..self.redrives.len())
            .map(|emitter| self.is_redriving(emitter))
            .collect();
        let emitters = self.plan.config.emitters.iter().zip(redriving);
        for ((emitter, redriving), since) in emitters.zip(&mut self.uncovered) {
            let oracle = &self.outside.oracle;
            let open = running && !redriving && oracle.uncovered(&emitter.name).is_some();
            let checkpoint = oracle.checkpoint(&emitter.name);
            match since {
                Some((at, began)) if open && *at == checkpoint => {
                    if now.saturating_sub(*began) > COVERED {
                        oracle.violated(format!(
                            "{}: the checkpoint stays at {checkpoint} for {COVERED:?}, and more is done",
                            emitter.name
                        ));
                    }
                }
                _ => *since = open.then_some((checkpoint, now)),
            }
        }
    }

    fn towards_the_end(&mut self) {
        let now = self.now();
        if self.turns.is_multiple_of(COUNTED_EVERY) {
            self.must_be_covered_soon();
        }
        let waits = match &self.outside.engine {
            Some(engine) if !engine.is_idle() => Some("the engine has not carried out everything"),
            _ if self.next_era.is_some() => Some("the process has not refused another timeline"),
            _ => None,
        };
        if let Some(what) = waits {
            if now.saturating_sub(self.phase_since) > SETTLE {
                self.outside.oracle.violated(format!(
                    "{SETTLE:?} of virtual time after the last fault, {what}"
                ));
            }
            return;
        }
        let redriven = self.phase == Phase::Redriving;
        let emitters = self.plan.config.emitters.iter().enumerate();
        let owing = emitters
            .filter_map(|(number, emitter)| {
                let owed = self.outside.oracle.owed(&emitter.name, redriven)?;
                Some((number, emitter.name.clone(), owed))
            })
            .collect::<Vec<_>>();
        if owing.is_empty() {
            let mut names = self.plan.config.emitters.iter().map(|e| &e.name);
            if redriven && names.any(|name| self.outside.oracle.uncovered(name).is_some()) {
                // Answers may still be under way; `must_be_covered_soon` bounds the wait.
                return;
            }
            self.phase_since = now;
            if redriven {
                self.phase = Phase::Draining;
                self.drain("the end");
                if self.process.is_none() {
                    // It is between two lives: nothing is left to drain.
                    self.phase = Phase::Over;
                }
            } else {
                self.phase = Phase::Redriving;
                self.redrive_at = now;
            }
            return;
        }
        if redriven && now >= self.redrive_at {
            self.redrive_at = now + Duration::from_secs(3);
            for (number, ..) in &owing {
                self.redrive(*number, 1000, false);
            }
        }
        if now.saturating_sub(self.phase_since) > SETTLE {
            let health = self.process.as_ref().map(|process| {
                let seen = process.seen();
                let metrics = seen.metrics.iter();
                metrics.map(|metrics| metrics.counts()).collect::<Vec<_>>()
            });
            self.outside.oracle.violated(format!(
                "{:?} of virtual time after the last fault, still owed{}: {owing:?}; lanes: {health:?}",
                SETTLE,
                if redriven { " by a redrive" } else { "" },
            ));
        }
    }
}
