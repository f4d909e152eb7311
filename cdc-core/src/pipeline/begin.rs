//! Beginning at a checkpoint: emitters are resumed, however long that takes, and orders are heard meanwhile.

use std::time::Duration;

use tracing::info;

use super::lane::LaneError;
use super::run::Running;
use super::{LaneCommand, RedriveReport};
use crate::{Checkpoint, Emitter, FailureAction, Position, SourceError, WalSource, failure_action};

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// The emitters stand at the checkpoint.
    Ready,
    /// An operator moved the checkpoint: once more, from there.
    Moved,
    /// Shutdown came first, or an order to stop.
    Drained,
}

impl Running {
    /// Connects the emitters at the checkpoint.
    ///
    /// # Errors
    /// [`LaneError`] that halts the lane.
    pub(super) async fn resume_emitters<O, S>(
        &mut self,
        checkpoint: Option<&Checkpoint>,
        open: &mut O,
    ) -> Result<Begun, LaneError>
    where
        O: FnMut(Position) -> Result<S, SourceError> + Send,
        S: WalSource,
    {
        if let Some(until) = self.rest_until.take() {
            match self.rest(until, open).await? {
                // A drain that loses something still brings its emitter back to the checkpoint.
                Begun::Ready | Begun::Drained => {}
                Begun::Moved => return Ok(Begun::Moved),
            }
        }
        for w in 0..self.workers.len() {
            let emitter = self.workers[w].emitter.clone();
            loop {
                let Err(cause) = emitter.lock().await.resume(checkpoint).await else {
                    self.failures = 0;
                    break;
                };
                let failures = self.failures;
                let wait = match failure_action(cause.kind) {
                    FailureAction::Retry { floor } => self.backoff.wait_after(failures, floor),
                    FailureAction::Probe => self.config.retry.probe_interval,
                    FailureAction::Isolate | FailureAction::Halt => {
                        return Err(self.emit_error(cause));
                    }
                };
                self.failures = failures.saturating_add(1);
                self.ill(&cause);
                let until = self.clock.elapsed() + wait;
                match self.rest(until, open).await? {
                    Begun::Ready => {}
                    end => return Ok(end),
                }
            }
        }
        Ok(Begun::Ready)
    }

    /// Leaves the emitter alone until then, which may be long, and carries out orders meanwhile.
    async fn rest<O, S>(&mut self, until: Duration, open: &mut O) -> Result<Begun, LaneError>
    where
        O: FnMut(Position) -> Result<S, SourceError> + Send,
        S: WalSource,
    {
        loop {
            if let Some(order) = self.pending.take()
                && let Some(end) = self.order_at_rest(order, open)?
            {
                return Ok(end);
            }
            let left = until.saturating_sub(self.clock.elapsed());
            tokio::select! {
                biased;
                () = self.shutdown.asked() => return Ok(Begun::Drained),
                Some(order) = self.control.recv() => self.pending = Some(order),
                () = self.clock.sleep(left) => return Ok(Begun::Ready),
            }
        }
    }

    /// Carries out an order while nothing is in flight and the emitter takes nothing. What comes of it, if it
    /// ends the wait.
    fn order_at_rest<O, S>(
        &mut self,
        order: LaneCommand,
        open: &mut O,
    ) -> Result<Option<Begun>, LaneError>
    where
        O: FnMut(Position) -> Result<S, SourceError> + Send,
        S: WalSource,
    {
        // Whoever asked may be gone: a reply that nobody takes is none of the lane's business.
        match order {
            LaneCommand::Discard { ids, reply } => drop(reply.send(self.discard(&ids)?)),
            LaneCommand::Pause { reply } => {
                if !std::mem::replace(&mut self.paused, true) {
                    info!(emitter = %self.config.name, "paused by an operator");
                    self.show();
                }
                _ = reply.send(());
            }
            LaneCommand::Resume { reply } => {
                self.paused = false;
                self.show();
                info!(emitter = %self.config.name, "resumed by an operator");
                _ = reply.send(());
            }
            LaneCommand::Redrive { reply, .. } => {
                let reason = self.reason().unwrap_or("it has lost what it had taken");
                let stopped = format!(
                    "the emitter is not back at its checkpoint, and is tried again ({reason}); redrive when it is"
                );
                drop(reply.send(RedriveReport {
                    stopped: Some(stopped),
                    ..RedriveReport::default()
                }));
            }
            LaneCommand::Seek { to, reply } => match open(to) {
                Err(cause) => drop(reply.send(Err(cause))),
                Ok(_) => {
                    drop(reply.send(Ok(self.move_to(to)?)));
                    return Ok(Some(Begun::Moved));
                }
            },
            LaneCommand::Stop { reply } => {
                self.draining = Some(self.drain_until());
                _ = reply.send(());
                return Ok(Some(Begun::Drained));
            }
        }
        Ok(None)
    }
}
