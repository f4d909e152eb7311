//! A destination that is slow, down, wrong, or lying, and the emitter that talks to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::random::mix;
use super::{Oracle, SimClock, SimRandom, Spawner, Timeline, Way, locked};
use crate::{
    ChangeEvent, Checkpoint, Delivery, EmitError, EmitErrorKind, Emitter, EventBatch, Position,
    Receipt, Rejection,
};

/// Whether a simulated process lives. Clones are of the same process.
#[derive(Clone, Debug)]
pub struct Alive(Arc<AtomicBool>);

impl Alive {
    /// A process that lives.
    pub fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// It dies: nothing it still tries reaches anybody.
    pub fn die(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// True until it died.
    pub fn is_alive(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Resolves while the process lives, and never afterwards.
    pub async fn or_wait(&self) {
        if !self.is_alive() {
            std::future::pending::<()>().await;
        }
    }
}

impl Default for Alive {
    fn default() -> Self {
        Self::new()
    }
}

/// How a destination is.
#[derive(Clone, Copy, Debug)]
pub struct DestinationConfig {
    /// It looks at what it gets and may refuse it; the consumer of a queue has nobody to tell.
    pub refuses: bool,
    /// Events in a thousand that it refuses until it is healed.
    pub poison_per_mille: u64,
    /// It takes such an event when it has refused it so often; 0 for never.
    pub passes_after: u32,
    /// It takes the good events of a batch and refuses the others one by one; else it refuses
    /// the whole batch.
    pub partial: bool,
    /// Longest way of a request, and of its answer.
    pub latency: Duration,
    /// How long the emitter waits for an answer.
    pub timeout: Duration,
    /// Most events of a request.
    pub batch_size: usize,
}

/// A simulated destination. Clones are the same one.
#[derive(Clone, Debug)]
pub struct SimDestination {
    name: Arc<str>,
    clock: SimClock,
    timeline: Timeline,
    oracle: Oracle,
    spawner: Spawner,
    config: DestinationConfig,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    random: SimRandom,
    healed: bool,
    down_until: Duration,
    refuses_until: Duration,
    rejects_until: Duration,
    slow_until: Duration,
    lose_answers: u32,
    delay_requests: u32,
    cut_requests: u32,
    requests: u64,
    /// How often an event was refused that it takes in the end.
    refusals: BTreeMap<Position, u32>,
}

/// What becomes of one request.
enum Fate {
    Take,
    /// It is applied, and the answer is lost.
    LoseAnswer,
    /// It arrives long after it was given up.
    Delay(Duration),
    /// A part is applied, then the connection breaks.
    Cut,
    Down,
    Refuse,
}

impl SimDestination {
    /// A destination of the emitter `name`.
    pub fn new(
        name: Arc<str>,
        config: DestinationConfig,
        random: SimRandom,
        clock: SimClock,
        timeline: Timeline,
        oracle: Oracle,
        spawner: Spawner,
    ) -> Self {
        let inner = Inner {
            random,
            healed: false,
            down_until: Duration::ZERO,
            refuses_until: Duration::ZERO,
            rejects_until: Duration::ZERO,
            slow_until: Duration::ZERO,
            lose_answers: 0,
            delay_requests: 0,
            cut_requests: 0,
            requests: 0,
            refusals: BTreeMap::new(),
        };
        Self {
            name,
            clock,
            timeline,
            oracle,
            spawner,
            config,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Connections are refused for a while.
    pub fn down_for(&self, time: Duration) {
        locked(&self.inner).down_until = self.clock.now() + time;
    }

    /// Every request is answered with "unauthorised" for a while.
    pub fn refuse_for(&self, time: Duration) {
        locked(&self.inner).refuses_until = self.clock.now() + time;
    }

    /// Every content is called bad for a while.
    pub fn reject_for(&self, time: Duration) {
        locked(&self.inner).rejects_until = self.clock.now() + time;
    }

    /// Answers take longer than the emitter waits, for a while.
    pub fn slow_for(&self, time: Duration) {
        locked(&self.inner).slow_until = self.clock.now() + time;
    }

    /// The next requests are applied, and their answers are lost.
    pub fn lose_answers(&self, requests: u32) {
        locked(&self.inner).lose_answers += requests;
    }

    /// The next requests arrive long after they were given up.
    pub fn delay_requests(&self, requests: u32) {
        locked(&self.inner).delay_requests += requests;
    }

    /// Of the next requests a part is applied before the connection breaks.
    pub fn cut_requests(&self, requests: u32) {
        locked(&self.inner).cut_requests += requests;
    }

    /// It works from now on, and takes what it refused.
    pub fn heal(&self) {
        let mut inner = locked(&self.inner);
        inner.healed = true;
        inner.down_until = Duration::ZERO;
        inner.refuses_until = Duration::ZERO;
        inner.rejects_until = Duration::ZERO;
        inner.slow_until = Duration::ZERO;
        inner.lose_answers = 0;
        inner.delay_requests = 0;
        inner.cut_requests = 0;
    }

    /// How long a consumer works at a batch, and if it finishes; else it drops the batch.
    pub fn consume(&self) -> (Duration, bool) {
        let mut inner = locked(&self.inner);
        let longest = u64::try_from(self.config.latency.as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(inner.random.between(1, longest.max(1)));
        let now = self.clock.now();
        if now < inner.down_until {
            return (wait.max(Duration::from_millis(20)), false);
        }
        if now < inner.slow_until {
            return (self.config.timeout, true);
        }
        if inner.cut_requests > 0 {
            inner.cut_requests -= 1;
            return (wait, false);
        }
        (wait, true)
    }

    fn is_poison(&self, event: &ChangeEvent) -> bool {
        let mut inner = locked(&self.inner);
        if inner.healed || !self.config.refuses {
            return false;
        }
        if self.clock.now() < inner.rejects_until {
            return true;
        }
        let position = event.position;
        let spread = mix(position.commit.0 << 20 ^ u64::from(position.ordinal));
        let poison = spread % 1000 < self.config.poison_per_mille;
        if !poison || self.config.passes_after == 0 {
            return poison;
        }
        let refusals = inner.refusals.entry(position).or_insert(0);
        *refusals += 1;
        *refusals <= self.config.passes_after
    }

    fn fate(&self) -> Fate {
        let mut inner = locked(&self.inner);
        inner.requests += 1;
        let now = self.clock.now();
        if now < inner.down_until {
            Fate::Down
        } else if now < inner.refuses_until {
            Fate::Refuse
        } else if inner.lose_answers > 0 {
            inner.lose_answers -= 1;
            Fate::LoseAnswer
        } else if inner.delay_requests > 0 {
            inner.delay_requests -= 1;
            Fate::Delay(Duration::from_millis(inner.random.between(1, 2000)))
        } else if inner.cut_requests > 0 {
            inner.cut_requests -= 1;
            Fate::Cut
        } else {
            Fate::Take
        }
    }

    /// Takes in the events that are not refused; gives the refused ones.
    pub fn take(&self, batch: &EventBatch, way: Way) -> Vec<usize> {
        let events = batch.events();
        let refused: Vec<usize> = (0..events.len())
            .filter(|&index| self.is_poison(&events[index]))
            .collect();
        let whole = refused.is_empty() || self.config.partial;
        self.timeline.note(&self.name, || {
            let positions: Vec<_> = events.iter().map(|e| e.position.to_string()).collect();
            let late = match way {
                Way::Asked => "",
                Way::Late => "late, ",
                Way::Replayed(_) => "replayed, ",
            };
            format!("{late}{} refused of {}", refused.len(), positions.join(" "))
        });
        let mut bad: Vec<_> = refused
            .iter()
            .map(|&index| events[index].position)
            .collect();
        for (index, event) in events.iter().enumerate() {
            if refused.contains(&index) {
                self.oracle.refused(&self.name, event.position);
            } else if whole {
                self.timeline.stir(event.position.commit.0);
                let source = batch.source();
                if self.oracle.arrived(&self.name, source, event, way, &bad) {
                    bad.push(event.position);
                }
            }
        }
        refused
    }

    async fn post(
        &self,
        batch: &EventBatch,
        alive: &Alive,
        way: Way,
    ) -> Result<Receipt, EmitError> {
        let error = |kind, what: &str| {
            Err(EmitError::new(
                kind,
                format!("post to the simulated destination: {what}"),
            ))
        };
        let retry = EmitErrorKind::EndpointRetry { retry_after: None };
        let (there, back) = {
            let mut inner = locked(&self.inner);
            let longest = u64::try_from(self.config.latency.as_micros()).unwrap_or(u64::MAX);
            let slow = if self.clock.now() < inner.slow_until {
                self.config.timeout
            } else {
                Duration::ZERO
            };
            let there = Duration::from_micros(inner.random.between(0, longest));
            (
                there,
                slow + Duration::from_micros(inner.random.between(0, longest)),
            )
        };
        self.clock.wait(there).await;
        alive.or_wait().await;
        match self.fate() {
            Fate::Down => return error(retry, "connection refused"),
            Fate::Refuse => {
                let mut error = EmitError::new(
                    EmitErrorKind::EndpointStop,
                    "post to the simulated destination: unauthorised",
                );
                error.status = Some(401);
                return Err(error);
            }
            Fate::LoseAnswer => {
                self.take(batch, way);
                std::future::pending::<()>().await;
            }
            Fate::Delay(late) => {
                let (this, batch, clock) = (self.clone(), batch.clone(), self.clock.clone());
                let timeout = self.config.timeout;
                let way = match way {
                    Way::Replayed(_) => way,
                    Way::Asked | Way::Late => Way::Late,
                };
                self.spawner.spawn("late request", 0, async move {
                    clock.wait(timeout + late).await;
                    this.take(&batch, way);
                });
                std::future::pending::<()>().await;
            }
            Fate::Cut => {
                let part = locked(&self.inner).random.index(batch.len() + 1);
                if self.config.partial && part > 0 {
                    self.take(&batch.slice(0..part), way);
                }
                return error(retry, "connection reset");
            }
            Fate::Take => {}
        }
        let refused = self.take(batch, way);
        self.clock.wait(back).await;
        alive.or_wait().await;
        if refused.is_empty() {
            return Ok(Receipt::DURABLE);
        }
        if !self.config.partial {
            let mut error = EmitError::new(
                EmitErrorKind::Event,
                "post to the simulated destination: bad content",
            );
            error.status = Some(422);
            return Err(error);
        }
        let rejected = refused.into_iter().map(|index| Rejection {
            index,
            message: "the simulated destination refused it".into(),
            status: Some(422),
        });
        Ok(Receipt {
            delivery: Delivery::Durable,
            rejected: rejected.collect(),
        })
    }
}

/// The emitter of a [`SimDestination`], in the manner of a webhook. Clones talk to the same one.
#[derive(Clone, Debug)]
pub struct SimEmitter {
    destination: SimDestination,
    alive: Alive,
    way: Way,
}

impl SimEmitter {
    /// An emitter inside a process: a lane's, or a replay's.
    pub const fn new(destination: SimDestination, alive: Alive, way: Way) -> Self {
        Self {
            destination,
            alive,
            way,
        }
    }
}

impl Emitter for SimEmitter {
    async fn resume(&mut self, _: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.destination
            .clock
            .wait(Duration::from_micros(500))
            .await;
        Ok(())
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let destination = &self.destination;
        if batch.is_empty() || batch.len() > destination.config.batch_size {
            destination.oracle.violated(format!(
                "{}: got a batch of {} events",
                destination.name,
                batch.len()
            ));
        }
        let timeout = destination.clock.wait(destination.config.timeout);
        tokio::select! {
            biased;
            answer = destination.post(batch, &self.alive, self.way) => answer,
            () = timeout => Err(EmitError::new(
                EmitErrorKind::EndpointRetry { retry_after: None },
                "post to the simulated destination: no answer in time",
            )),
        }
    }

    fn batch_size(&self) -> usize {
        self.destination.config.batch_size
    }

    fn worker(&self) -> Option<Self> {
        Some(self.clone())
    }
}
