//! Orders that wait for their answer, and an operator who acts as soon as a lane is in trouble.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cdc_core::pipeline::LaneHealth;

use super::plan::Trouble;
use super::world::World;

/// Virtual time in which an order is answered, but for letters that it, or one before it, sends.
const ANSWERED: Duration = Duration::from_secs(20);
/// The same for each letter.
const LETTER: Duration = Duration::from_secs(1);

/// Orders under way. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting(Arc<Mutex<Vec<Asked>>>);

#[derive(Debug)]
struct Asked {
    what: &'static str,
    until: Duration,
    /// Gone when it is answered, or the process that was asked.
    held: Weak<()>,
}

impl Waiting {
    /// An order is given; what this gives is dropped with the answer.
    pub(crate) fn ask(&self, what: &'static str, until: Duration) -> Arc<()> {
        let held = Arc::new(());
        let asked = Asked {
            what,
            until,
            held: Arc::downgrade(&held),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(asked);
        held
    }

    /// One that should have been answered.
    fn overdue(&self, now: Duration) -> Option<&'static str> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|asked| asked.held.strong_count() > 0);
        all.iter()
            .find(|asked| now > asked.until)
            .map(|asked| asked.what)
    }
}

impl World {
    pub(super) fn ask(&self, emitter: usize, what: &'static str) -> Arc<()> {
        let until = self.now() + self.waits_for(emitter);
        self.waiting.ask(what, until)
    }

    /// How long an order to a lane may wait.
    pub(super) fn waits_for(&self, emitter: usize) -> Duration {
        let plan = &self.plan.config.emitters[emitter];
        let letters = self.outside.oracle.open_letters(&plan.name).len();
        // What is under way is waited for, one after the other.
        let process = self.process.as_ref();
        let metrics = process.and_then(|process| process.seen().metrics.get(emitter).cloned());
        let sent = metrics.map_or(0, |metrics| metrics.counts().in_flight);
        let times = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        ANSWERED + LETTER * times(letters as u64) + plan.destination.latency * 2 * times(sent)
    }

    pub(super) fn orders_are_answered(&self) {
        if let Some(what) = self.waiting.overdue(self.now()) {
            let what = format!("{what} was asked for, and nobody answers");
            self.outside.oracle.violated(what);
        }
    }

    /// Gives the orders that waited for a lane to be in trouble.
    pub(super) fn take_eager(&mut self) {
        if self.eager.is_empty() {
            return;
        }
        let Some(process) = &self.process else { return };
        let window = self.plan.config.window_max;
        let counts = process
            .seen()
            .metrics
            .iter()
            .map(|m| m.counts())
            .collect::<Vec<_>>();
        let is_in = |emitter: usize, trouble| {
            counts.get(emitter).is_some_and(|counts| match trouble {
                Trouble::Blocked => matches!(counts.health, LaneHealth::Blocked { .. }),
                Trouble::Retrying => matches!(
                    counts.health,
                    LaneHealth::Retrying { .. } | LaneHealth::Refused { .. }
                ),
                Trouble::WindowFull => counts.in_flight >= window,
            })
        };
        let due = |(when, order): &mut (Trouble, super::plan::Order)| is_in(order.emitter(), *when);
        let due = self.eager.extract_if(.., due).collect::<Vec<_>>();
        for (when, order) in due {
            self.outside
                .timeline
                .note("operator", || format!("{when:?}: {order:?}"));
            self.order(order);
        }
    }
}
