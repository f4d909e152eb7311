//! The workload and what must hold of it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{BatchLimit, ChangeEvent, Clock, Position, SystemClock};

use super::order::{Order, as_announced, leaks};
use super::{Announced, Dice, EngineUnderTest, SLOTS, State};
use crate::{LogError, StartAt, WalTail};

/// How much one workload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Steps: some changes, a commit or an abort each. Default 40.
    pub steps: usize,
    /// At how many storage calls, spread over the run, the process is killed, each time in a run
    /// of its own; `usize::MAX` for every one. Default 3.
    pub crashes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            steps: 40,
            crashes: 3,
        }
    }
}

/// What a workload did, so that a test can see that it did something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Transactions committed with events.
    pub commits: usize,
    /// Transactions with changes that were aborted.
    pub aborts: usize,
    /// Events delivered.
    pub events: usize,
    /// Runs that were killed and recovered.
    pub crashes: usize,
    /// Operations and causes that were seen, by name.
    pub seen: BTreeSet<(&'static str, &'static str)>,
    /// Most transactions that were open at once with changes.
    pub interleaved: usize,
}

impl Report {
    /// Adds another workload's.
    pub fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.aborts += other.aborts;
        self.events += other.events;
        self.crashes += other.crashes;
        self.seen.extend(other.seen.iter().copied());
        self.interleaved = self.interleaved.max(other.interleaved);
    }
}

/// What did not hold: the seed, where, and what. Never holds a row's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed of the workload; the same one fails again.
    pub seed: u64,
    /// What did not hold.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

impl std::error::Error for Violation {}

/// Checks one workload.
///
/// # Errors
/// The first thing that did not hold.
pub fn check<E: EngineUnderTest>(seed: u64, budget: &Budget) -> Result<Report, Violation> {
    let violation = |what: String| Violation { seed, what };
    let clean = clean::<E>(seed, budget).map_err(violation)?;
    let mut report = clean.report;
    let calls = clean.calls;
    let count = u64::try_from(budget.crashes).unwrap_or(u64::MAX).min(calls);
    let mut dice = Dice::new(!seed);
    for n in 0..count {
        // One in each of as many equal parts.
        let (from, to) = (calls * n / count, calls * (n + 1) / count);
        let width = usize::try_from(to - from).unwrap_or(usize::MAX);
        let call = from + dice.below(width) as u64;
        let crash_seed = dice.roll();
        crashed::<E>(seed, budget, call, crash_seed, &clean.states)
            .map_err(|what| violation(format!("killed at storage call {call}: {what}")))?;
        report.crashes += 1;
    }
    Ok(report)
}

/// A run to its end.
struct Clean {
    report: Report,
    /// Storage calls of the whole run.
    calls: u64,
    /// The committed state at first and after each commit.
    states: Vec<State>,
}

fn clean<E: EngineUnderTest>(seed: u64, budget: &Budget) -> Result<Clean, String> {
    let disk = SimStorage::new();
    let engine = E::open(disk.shared()).map_err(|error| failed("open", &error))?;
    let mut states = vec![engine.committed()];
    let mut watched = Watched::new(engine)?;
    let mut dice = Dice::new(seed);
    for step in 0..budget.steps {
        let at = |what: String| format!("step {step}: {what}");
        let done = watched
            .step(&mut dice)
            .map_err(|error| at(failed("go on", &error)))?;
        if done == Done::Committed {
            states.push(watched.slots.engine.committed());
        }
        watched.judge(done).map_err(at)?;
    }
    watched.resume(&mut dice)?;
    let report = watched.report;
    let calls = disk.calls();
    Ok(Clean {
        report,
        calls,
        states,
    })
}

/// Repeats a run up to a storage call, kills it there, and looks at what is left.
fn crashed<E: EngineUnderTest>(
    seed: u64,
    budget: &Budget,
    call: u64,
    crash_seed: u64,
    states: &[State],
) -> Result<(), String> {
    let disk = SimStorage::new();
    disk.fail_after(call, Failure::Stop);
    let mut acknowledged = 0;
    // The opening itself may be what is killed.
    if let Ok(engine) = E::open(disk.shared()) {
        let mut slots = Slots::new(engine);
        let mut dice = Dice::new(seed);
        for _ in 0..budget.steps {
            match slots.step(&mut dice) {
                Ok(Done::Committed) => acknowledged += 1,
                Ok(_) => {}
                Err(error) => {
                    if leaks(&format!("{error} {error:?}")) {
                        return Err("an error holds a value".into());
                    }
                    break;
                }
            }
        }
    }
    disk.crash(crash_seed);
    let engine = E::open(disk.shared()).map_err(|error| failed("open after the crash", &error))?;
    let recovered = engine.committed();
    let possible = states.iter().skip(acknowledged).take(2);
    let mut differences = Vec::new();
    for state in possible {
        match state.difference(&recovered) {
            None => {
                differences.clear();
                break;
            }
            Some(difference) => differences.push(difference),
        }
    }
    if !differences.is_empty() {
        return Err(format!(
            "after {acknowledged} acknowledged commits the recovered state is another one: {}",
            differences.join("; or with the commit under way ")
        ));
    }
    // And from there it goes on.
    let mut watched = Watched::new(engine)?;
    watched.judge(Done::Committed)?;
    let mut dice = Dice::new(crash_seed);
    for _ in 0..budget.steps / 3 {
        let done = watched
            .step(&mut dice)
            .map_err(|error| failed("go on", &error))?;
        watched.judge(done)?;
    }
    Ok(())
}

fn failed(what: &str, error: &LogError) -> String {
    format!("{what}: {error}")
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// Changes, or nothing.
    Nothing,
    Committed,
    Aborted,
}

/// An engine and what it said of its open transactions.
struct Slots<E> {
    engine: E,
    open: [Vec<Announced>; SLOTS],
    /// What was said of the transaction that was committed last.
    committed: Vec<Announced>,
}

impl<E: EngineUnderTest> Slots<E> {
    fn new(engine: E) -> Self {
        Self {
            engine,
            open: Default::default(),
            committed: Vec::new(),
        }
    }

    fn step(&mut self, dice: &mut Dice) -> Result<Done, LogError> {
        let slot = dice.below(SLOTS);
        match dice.below(10) {
            0..7 => {
                for _ in 0..=dice.below(4) {
                    let said = self.engine.mutate(slot, dice)?;
                    self.open[slot].extend(said);
                }
                Ok(Done::Nothing)
            }
            7..9 => {
                self.engine.commit(slot)?;
                self.committed = std::mem::take(&mut self.open[slot]);
                Ok(Done::Committed)
            }
            _ => {
                self.engine.abort(slot)?;
                let nothing = std::mem::take(&mut self.open[slot]).is_empty();
                Ok(if nothing {
                    Done::Nothing
                } else {
                    Done::Aborted
                })
            }
        }
    }
}

/// An engine whose log is followed.
struct Watched<E> {
    slots: Slots<E>,
    tail: WalTail,
    order: Order,
    mirror: State,
    all: Vec<ChangeEvent>,
    report: Report,
}

fn drain(tail: &mut WalTail, limit: &BatchLimit) -> Result<Vec<ChangeEvent>, String> {
    let mut events = Vec::new();
    let mut end = Position::ZERO;
    while let Some(batch) = tail
        .poll_batch(limit)
        .map_err(|error| failed("tail", &error))?
    {
        if batch.end() < end {
            return Err("the end of what the tail covers went back".into());
        }
        end = batch.end();
        events.extend_from_slice(batch.events());
    }
    Ok(events)
}

impl<E: EngineUnderTest> Watched<E> {
    fn new(engine: E) -> Result<Self, String> {
        let tail = engine.log().tail(StartAt::Earliest, clock());
        let tail = tail.map_err(|error| failed("tail", &error))?;
        Ok(Self {
            slots: Slots::new(engine),
            tail,
            order: Order::default(),
            mirror: State::new(),
            all: Vec::new(),
            report: Report::default(),
        })
    }

    fn step(&mut self, dice: &mut Dice) -> Result<Done, LogError> {
        let done = self.slots.step(dice)?;
        let open = self
            .slots
            .open
            .iter()
            .filter(|said| !said.is_empty())
            .count();
        self.report.interleaved = self.report.interleaved.max(open);
        Ok(done)
    }

    /// Takes in the events there are, and compares.
    fn judge(&mut self, done: Done) -> Result<(), String> {
        if leaks(&self.slots.engine.debug_of_transactions()) {
            return Err("a value stands in the Debug form of a transaction".into());
        }
        let limit = BatchLimit {
            events_max: 3,
            ..BatchLimit::default()
        };
        let events = drain(&mut self.tail, &limit)?;
        let first = self.all.is_empty() && self.slots.committed.is_empty();
        match done {
            Done::Nothing | Done::Aborted if !events.is_empty() => {
                return Err("events without a commit".into());
            }
            Done::Committed if !first => as_announced(&self.slots.committed, &events)?,
            _ => {}
        }
        for event in &events {
            self.order.next(event)?;
            let applied = self.mirror.apply(event, E::merge);
            applied.map_err(|what| {
                format!(
                    "{} of {}: {what}",
                    event.op,
                    event.relation.qualified_name()
                )
            })?;
            self.report
                .seen
                .insert((event.op.name(), event.cause.name()));
        }
        self.order.end()?;
        if let Some(difference) = self.slots.engine.committed().difference(&self.mirror) {
            return Err(format!("the events do not give the state: {difference}"));
        }
        self.report.commits += usize::from(done == Done::Committed && !events.is_empty());
        self.report.aborts += usize::from(done == Done::Aborted);
        self.report.events += events.len();
        self.all.extend(events);
        Ok(())
    }

    /// Resumes after a random position: the rest is the same.
    fn resume(&self, dice: &mut Dice) -> Result<(), String> {
        let Some(at) = self
            .all
            .len()
            .checked_sub(1)
            .map(|last| dice.below(last + 1))
        else {
            return Ok(());
        };
        let after = StartAt::After(self.all[at].position);
        let tail = self.slots.engine.log().tail(after, clock());
        let mut tail = tail.map_err(|error| failed("resume", &error))?;
        let rest = drain(&mut tail, &BatchLimit::default())?;
        if rest != self.all[at + 1..] {
            return Err(format!(
                "a tail that resumes after event {at} gives {} events that are not the rest",
                rest.len()
            ));
        }
        Ok(())
    }
}
