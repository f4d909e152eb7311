//! A redrive while no pipeline runs: a lane without a log, only for the letters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cdc_core::pipeline::{RedriveRequest, Shutdown, ShutdownTrigger, Watermark};
use cdc_core::{
    BatchLimit, Checkpoint, CheckpointStore, EventBatch, EventId, Position, SourceError,
    SourceInfo, WalSource,
};
use cdc_dlq::FileDlq;
use tokio::sync::mpsc;

use super::control::Redriven;
use super::history::{Ended, History, OfHistory};
use super::lanes::{self, Range, Shared, Started};
use super::outlook::Held;
use super::state::State;
use super::{dead_letters, runner};
use crate::commands;
use crate::config::{Config, Destination, EmitterConfig};
use crate::exit::Exit;
use crate::report::CliError;

/// A log that never gives anything.
#[derive(Debug)]
struct Silence(Arc<SourceInfo>);

impl WalSource for Silence {
    fn source(&self) -> &Arc<SourceInfo> {
        &self.0
    }

    async fn next_batch(&mut self, _: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        std::future::pending().await
    }

    async fn confirm(&mut self, _: Position) -> Result<(), SourceError> {
        Ok(())
    }
}

/// A lane that sends the letters of one history.
struct Sending {
    history: History,
    lane: Started,
    trigger: ShutdownTrigger,
}

/// Lanes that only send letters, one after the other, holding the locks of state and dead letters.
pub(crate) struct Offline<'a> {
    config: &'a Config,
    emitter: &'a EmitterConfig,
    queue: Arc<Mutex<FileDlq>>,
    stored: Option<Checkpoint>,
    /// The history of the emitter's positions, of those it has or will have.
    ours: Option<History>,
    sending: Option<Sending>,
    state: State,
}

impl<'a> Offline<'a> {
    /// Prepares it for one emitter.
    ///
    /// # Errors
    /// Exit code 3 if the emitter is not configured, 2 if only its pipeline can do it, 7 if a
    /// pipeline holds the locks.
    pub(crate) fn open(config: &'a Config, name: &str) -> Result<Self, CliError> {
        let emitter = config.emitter(name).ok_or_else(|| {
            CliError::new(
                Exit::Configuration,
                format!("redrive the letters of emitter {name}: the configuration has no emitter of this name"),
            )
        })?;
        if let Destination::Pull(_) = emitter.destination {
            return Err(CliError::new(
                Exit::Usage,
                format!(
                    "redrive the letters of emitter {name}: its consumers fetch; start the pipeline first"
                ),
            ));
        }
        let state = State::open(&config.state_path)?;
        let queue = Arc::new(Mutex::new(dead_letters::open(config)?));
        let stored = state.checkpoints.load(name)?;
        let ours = match (&stored, &config.source) {
            (Some(stored), _) => Some(History {
                lineage: stored.lineage,
                behind: stored.position,
            }),
            // Its first start begins there.
            (None, Some(source)) => Held::read(config, source)?.log.map(|log| History {
                lineage: log.source.lineage,
                behind: log.oldest,
            }),
            (None, None) => None,
        };
        Ok(Self {
            config,
            emitter,
            queue,
            stored,
            ours,
            sending: None,
            state,
        })
    }

    /// True if the letters go to this process's standard output.
    pub(crate) const fn prints(&self) -> bool {
        self.emitter.destination.prints()
    }

    fn queue(&self) -> MutexGuard<'_, FileDlq> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends these letters; those of histories that have ended first.
    ///
    /// # Errors
    /// The lane's; 2 if the emitter has no position in the letters' history yet; 5 if its destination
    /// can only go on in that one.
    pub(crate) fn redrive(&mut self, ids: &[EventId], as_was: bool) -> Result<Redriven, CliError> {
        let mut sum = Redriven::default();
        for (history, source) in self.histories(ids)? {
            let report = match self.send(history, &source, ids, as_was) {
                Ok(report) => report,
                // What has gone is to be said.
                Err(error) if sum.delivered > 0 || sum.failed > 0 => {
                    sum.stopped = Some(error.line());
                    break;
                }
                Err(error) => return Err(error),
            };
            sum.delivered += report.delivered;
            sum.failed += report.failed;
            sum.skipped += report.skipped;
            sum.stopped = report.stopped;
            if sum.stopped.is_some() {
                break;
            }
        }
        Ok(sum)
    }

    /// Histories these letters are of, ours last, with the source of a letter.
    fn histories(&self, ids: &[EventId]) -> Result<Vec<(History, Arc<SourceInfo>)>, CliError> {
        let (mut others, mut own) = (Vec::new(), None);
        let queue = self.queue();
        for id in ids {
            let Some(letter) = queue.reader().get(&self.emitter.name, *id)? else {
                continue;
            };
            let Some(ours) = self.ours else {
                return Err(self.no_position());
            };
            let history = ours.of(&letter);
            if history == ours {
                own.get_or_insert((history, letter.source));
            } else if !others.iter().any(|(known, _)| *known == history) {
                others.push((history, letter.source));
            }
        }
        others.extend(own);
        Ok(others)
    }

    fn send(
        &mut self,
        history: History,
        source: &SourceInfo,
        ids: &[EventId],
        as_was: bool,
    ) -> Result<Redriven, CliError> {
        let known = self.sending.take_if(|sending| sending.history == history);
        let sending = match known {
            Some(sending) => sending,
            None => {
                self.end()?;
                self.start(history, source)?
            }
        };
        let control = sending.lane.controlled.control.clone();
        self.sending = Some(sending);
        let ids = ids.to_vec();
        match commands::block_on(control.redrive(RedriveRequest { ids, as_was }))? {
            Some(report) => Ok(report.into()),
            // It ended: the reason is its own.
            None => Err(self.end().err().unwrap_or_else(|| {
                CliError::new(Exit::Runtime, "redrive: the lane ended before it began")
            })),
        }
    }

    /// Starts the lane of a history.
    fn start(&self, history: History, source: &SourceInfo) -> Result<Sending, CliError> {
        let Some(ours) = self.ours else {
            return Err(self.no_position());
        };
        let name = &*self.emitter.name;
        let mut source = source.clone();
        source.lineage = history.lineage;
        let source = Arc::new(source);
        let checkpoints: Arc<dyn CheckpointStore> = if history == ours {
            if self.stored.is_none() {
                return Err(self.no_position());
            }
            self.state.checkpoints.clone()
        } else if let Destination::File(_) = self.emitter.destination {
            return Err(CliError::new(
                Exit::Position,
                format!(
                    "redrive the letters of emitter {name}: they belong to {}, its files go on with {}; redrive them with the state_path they are of, or `dlq export` and `dlq discard` them",
                    history.lineage, ours.lineage
                ),
            ));
        } else {
            Arc::new(Ended(history))
        };
        let (trigger, shutdown) = Shutdown::new();
        let (ended, _nobody) = mpsc::unbounded_channel();
        let letters = OfHistory {
            queue: self.queue.clone(),
            ours,
            wanted: history,
        };
        let shared = Shared {
            source: source.clone(),
            checkpoints,
            dlq: Arc::new(Mutex::new(letters)),
            shutdown,
            ended,
        };
        let handle = Watermark::new().register(name, None);
        let range = Range {
            start: Position::ZERO,
            stop_at: None,
        };
        let open = move |_: Position| Ok(Silence(source.clone()));
        let lane = lanes::start(self.config, self.emitter, shared, handle, range, open)?;
        Ok(Sending {
            history,
            lane,
            trigger,
        })
    }

    /// A lane would store a position that nobody chose, before everything its log has.
    fn no_position(&self) -> CliError {
        CliError::new(
            Exit::Usage,
            format!(
                "redrive the letters of emitter {}: it has no position yet, and a letter goes out once what comes before it is done; start the pipeline first",
                self.emitter.name
            ),
        )
    }

    /// Ends the lane.
    ///
    /// # Errors
    /// The lane's.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), CliError> {
        let Some(Sending { lane, trigger, .. }) = self.sending.take() else {
            return Ok(());
        };
        trigger.trigger();
        let ended = lane.thread.join();
        // What a queue has taken is on standard output when its printer has ended.
        if let Some(Ok(Err(cause))) = lane.printer.map(std::thread::JoinHandle::join) {
            return Err(
                CliError::new(Exit::EmitterStopped, "write events to standard output")
                    .with_cause(cause),
            );
        }
        match ended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(runner::lane_error(error)),
            Err(_) => Err(CliError::new(
                Exit::Runtime,
                "redrive: the lane's thread panicked",
            )),
        }
    }
}

impl Drop for Offline<'_> {
    fn drop(&mut self) {
        // Only after an error, which is what is said.
        drop(self.end());
    }
}
