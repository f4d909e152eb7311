//! Orders that wait for their answer, and an operator who acts as soon as a lane is in trouble.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cdc_core::pipeline::LaneHealth;

use super::plan::Trouble;
use super::world::World;

/// Virtual time in which an order is answered, but for letters that it, or one before it, sends.
pub(super) const ANSWERED: Duration = Duration::from_secs(20);
/// The same for each letter.
const LETTER: Duration = Duration::from_secs(1);

/// Orders under way. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting(Arc<Mutex<Vec<Asked>>>);

#[derive(Debug)]
struct Asked {
    what: &'static str,
    emitter: usize,
    at: Duration,
    /// The longest that it had to wait at any look: what it waits behind comes and goes.
    patience: Duration,
    /// Gone when it is answered, or the process that was asked.
    held: Weak<()>,
}

impl Waiting {
    /// An order is given to a lane; what this gives is dropped with the answer.
    pub(crate) fn ask(
        &self,
        emitter: usize,
        what: &'static str,
        at: Duration,
        patience: Duration,
    ) -> Arc<()> {
        let held = Arc::new(());
        let asked = Asked {
            what,
            emitter,
            at,
            patience,
            held: Arc::downgrade(&held),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(asked);
        held
    }

    /// One that should have been answered, if an order to each lane must wait so long now.
    fn overdue(&self, now: Duration, wait: impl Fn(usize) -> Duration) -> Option<&'static str> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|asked| asked.held.strong_count() > 0);
        for asked in all.iter_mut() {
            asked.patience = asked.patience.max(wait(asked.emitter));
        }
        all.iter()
            .find(|asked| now > asked.at + asked.patience)
            .map(|asked| asked.what)
    }
}

impl World {
    pub(super) fn ask(&self, emitter: usize, what: &'static str) -> Arc<()> {
        let patience = self.waits_for(emitter);
        self.waiting.ask(emitter, what, self.now(), patience)
    }

    /// How long an order to a lane may wait.
    fn waits_for(&self, emitter: usize) -> Duration {
        let plan = &self.plan.config.emitters[emitter];
        let letters = self.outside.oracle.count_letters(&plan.name);
        // What is under way is waited for, one after the other.
        let process = self.process.as_ref();
        let metrics = process.and_then(|process| process.seen().metrics.get(emitter).cloned());
        let sent = metrics.map_or(0, |metrics| metrics.counts().in_flight);
        let times = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        ANSWERED + LETTER * times(letters) + plan.destination.latency * 2 * times(sent)
    }

    pub(super) fn orders_are_answered(&self) {
        if let Some(what) = self
            .waiting
            .overdue(self.now(), |emitter| self.waits_for(emitter))
        {
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
