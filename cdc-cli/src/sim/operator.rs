//! The operator of a simulation: what `dlq`, `emitter`, `position` and `replay` do.

use std::sync::Arc;
use std::time::Duration;

use cdc_core::checkpoint::FileCheckpoints;
use cdc_core::pipeline::{
    LaneConfig, LaneControl, OnDeadKey, RedriveRequest, Replay, RetryConfig, Shutdown,
};
use cdc_core::testing::sim::{SimDatabase, SimEmitter, Way};
use cdc_core::{BoxEmitter, Checkpoint, CheckpointStore, Position, ResumeToken, TokenRefusal};
use cdc_wal::StartAt;

use super::kept;
use super::orders::ANSWERED;
use super::plan::{Kind, Order};
use super::process::{self, Paths};
use super::world::World;

impl World {
    /// Does what an operator wants.
    pub(super) fn order(&mut self, order: Order) {
        match order {
            Order::Redrive {
                emitter,
                per_mille,
                as_was,
            } => self.redrive(emitter, per_mille, as_was),
            Order::Discard { emitter, per_mille } => self.discard(emitter, per_mille),
            Order::Seek { emitter, per_mille } => self.seek(emitter, per_mille),
            Order::Pause { emitter, time } => self.pause(emitter, time),
            Order::Move { emitter, per_mille } => {
                self.to_move = Some((emitter, per_mille));
                self.drain("an operator stops the process to move a position");
            }
            Order::Replay { emitter, from, to } => self.replay(emitter, from, to),
        }
    }

    fn chosen(&mut self, emitter: usize, per_mille: u64) -> Vec<cdc_core::EventId> {
        let name = &self.plan.config.emitters[emitter].name;
        let mut ids = self.outside.oracle.open_letters(name);
        ids.retain(|_| self.random.chance(per_mille));
        ids
    }

    pub(super) fn redrive(&mut self, emitter: usize, per_mille: u64, as_was: bool) {
        let ids = if per_mille == 1000 {
            Vec::new()
        } else {
            self.chosen(emitter, per_mille)
        };
        let Some((group, control)) = self.control(emitter) else {
            return;
        };
        let timeline = self.outside.timeline.clone();
        let token = self.redrives[emitter].clone();
        let asked = self.ask(emitter, "a redrive");
        self.executor.spawn("redrive", group, async move {
            let _under_way = token;
            let report = control.redrive(RedriveRequest { ids, as_was }).await;
            drop(asked);
            timeline.note("operator", || format!("redrive: {report:?}"));
        });
    }

    /// True while a redrive that was asked for has not ended.
    pub(super) fn is_redriving(&self, emitter: usize) -> bool {
        Arc::strong_count(&self.redrives[emitter]) > 1
    }

    fn discard(&mut self, emitter: usize, per_mille: u64) {
        let ids = self.chosen(emitter, per_mille);
        let Some((group, control)) = self.control(emitter) else {
            return;
        };
        let timeline = self.outside.timeline.clone();
        let asked = self.ask(emitter, "a discard");
        self.executor.spawn("discard", group, async move {
            let count = control.discard(ids).await;
            drop(asked);
            timeline.note("operator", || format!("discarded: {count:?}"));
        });
    }

    fn seek(&mut self, emitter: usize, per_mille: u64) {
        let stored = self
            .outside
            .oracle
            .checkpoint(&self.plan.config.emitters[emitter].name);
        let begin = SimDatabase::BEGIN.0;
        let back = begin + stored.commit.0.saturating_sub(begin) * per_mille / 1000;
        let to = Position::end_of(cdc_core::Lsn(back)).min(stored);
        let to = self.through_text(to);
        let Some((group, control)) = self.control(emitter) else {
            return;
        };
        // From here on the lane may be anywhere.
        let name = self.plan.config.emitters[emitter].name.clone();
        self.outside.oracle.moving(&name);
        let timeline = self.outside.timeline.clone();
        let asked = self.ask(emitter, "a seek");
        self.executor.spawn("seek", group, async move {
            let moved = control.seek(to).await;
            drop(asked);
            timeline.note("operator", || format!("seek to {to}: {moved:?}"));
        });
    }

    fn pause(&mut self, emitter: usize, time: Duration) {
        let Some((group, control)) = self.control(emitter) else {
            return;
        };
        let (timeline, clock) = (self.outside.timeline.clone(), self.outside.clock.clone());
        let asked = self.ask(emitter, "a pause");
        let waiting = self.waiting.clone();
        self.executor.spawn("pause", group, async move {
            let paused = control.pause().await;
            drop(asked);
            timeline.note("operator", || format!("pause: {paused:?}"));
            clock.wait(time).await;
            let asked = waiting.ask(emitter, "the end of a pause", clock.now(), ANSWERED);
            let resumed = control.resume().await;
            drop(asked);
            timeline.note("operator", || format!("resume: {resumed:?}"));
        });
    }

    /// The running process's control of a lane.
    fn control(&self, emitter: usize) -> Option<(u64, LaneControl)> {
        let process = self.process.as_ref()?;
        let control = process.seen().controls.get(emitter).cloned()?;
        Some((process.group, control))
    }

    /// As `position set` does, with the process stopped.
    pub(super) fn move_position(&mut self) {
        let Some((emitter, per_mille)) = self.to_move.take() else {
            return;
        };
        let name = self.plan.config.emitters[emitter].name.clone();
        if let Err(error) = self.move_back(&name, per_mille) {
            self.outside
                .timeline
                .note("operator", || format!("position not moved: {error}"));
        }
    }

    fn move_back(&self, name: &str, per_mille: u64) -> Result<(), String> {
        let storage = self.outside.disk.shared();
        let paths = Paths::of(self.outside.era);
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let store = FileCheckpoints::open(&storage, &paths.checkpoints);
        let store = store.map_err(|error| text(&error))?;
        let stored = store.load(name).map_err(|error| text(&error))?;
        let stored = stored.ok_or("no checkpoint")?;
        let oldest = cdc_wal::WalTail::open(
            storage.clone(),
            &paths.log,
            StartAt::Earliest,
            Arc::new(self.outside.clock.clone()),
        );
        let oldest = oldest.map_err(|error| text(&error))?.end();
        let (from, to) = (oldest.commit.0, stored.position.commit.0);
        let commit = from + to.saturating_sub(from) * per_mille / 1000;
        let position = Position::end_of(cdc_core::Lsn(commit))
            .max(oldest)
            .min(stored.position);
        let position = self.through_text(position);
        self.outside.timeline.note("operator", || {
            format!("{name}: {} -> {position}", stored.position)
        });
        let moved = Checkpoint {
            position,
            state: bytes::Bytes::new(),
            ..stored
        };
        store
            .reset(name, Some(&moved))
            .map_err(|error| text(&error))?;
        self.outside.oracle.moved(name, position);
        Ok(())
    }

    /// A position as an operator hands it over: as the text of a token. That of another timeline
    /// is refused.
    fn through_text(&self, position: Position) -> Position {
        let oracle = &self.outside.oracle;
        let lineage = oracle.lineage();
        let check = |token: ResumeToken| {
            let text = token.to_string();
            let read: ResumeToken = text.parse().map_err(|error| format!("{text}: {error}"))?;
            Ok::<_, String>(read.check(&lineage, Position::ZERO, position))
        };
        match check(ResumeToken::new(lineage, position)) {
            Ok(Ok(back)) if back == position => {}
            other => oracle.violated(format!("the token of {position} is read as {other:?}")),
        }
        let mut other = lineage;
        other.timeline += 1;
        match check(ResumeToken::new(other, position)) {
            Ok(Err(TokenRefusal::OtherTimeline { .. })) => {}
            other => oracle.violated(format!("a token of another timeline is read as {other:?}")),
        }
        position
    }

    /// Sends a retained range to a hook once more.
    fn replay(&mut self, emitter: usize, from: u64, to: u64) {
        let plan = self.plan.config.emitters[emitter].clone();
        let Some(process) = &self.process else { return };
        if plan.kind != Kind::Hook || !process.seen().accepted {
            return;
        }
        let (group, alive) = (process.group, process.alive.clone());
        let oracle = self.outside.oracle.clone();
        let (storage, clock) = (self.outside.disk.shared(), self.outside.clock.clone());
        let log = Paths::of(self.outside.era).log;
        let tail = cdc_wal::WalTail::open(
            storage.clone(),
            &log,
            StartAt::Earliest,
            Arc::new(clock.clone()),
        );
        let Ok(oldest) = tail.map(|tail| tail.end()) else {
            return;
        };
        let stored = oracle.checkpoint(&plan.name);
        let at = |per_mille: u64| {
            let wide = stored.commit.0.saturating_sub(oldest.commit.0);
            Position::end_of(cdc_core::Lsn(oldest.commit.0 + wide * per_mille / 1000))
        };
        let (from, to) = (at(from).max(oldest), at(to).min(stored));
        if from >= to {
            return;
        }
        let Some(number) = oracle.replay_begins(&plan.name, from, to) else {
            return;
        };
        let mut config = LaneConfig::new(plan.name.as_str(), oracle.lineage(), from);
        config.stop_at = Some(to);
        config.limit = process::limit(&self.plan.config);
        config.window_max = self.plan.config.window_max;
        config.concurrency = plan.concurrency;
        config.order = plan.order;
        config.retry = RetryConfig {
            base: Duration::from_millis(20),
            cap: Duration::from_secs(1),
            probe_interval: Duration::from_millis(700),
            seed: number,
        };
        config.on_dead_key = if plan.parks {
            OnDeadKey::Park
        } else {
            OnDeadKey::Pass
        };
        let destination = self.outside.destinations[emitter].clone();
        let (trigger, shutdown) = Shutdown::new();
        let tail_clock = clock.clone();
        let replay = Replay {
            config,
            open: move |after| {
                let clock = Arc::new(tail_clock.clone());
                let start = StartAt::After(after);
                Ok(cdc_wal::WalTail::open(storage.clone(), &log, start, clock)?)
            },
            filter: kept::filter(&plan),
            transforms: kept::transforms(&self.outside, &plan),
            emitter: BoxEmitter::new(SimEmitter::new(destination, alive, Way::Replayed(number))),
            clock: Arc::new(clock),
            metrics: Arc::default(),
            shutdown,
        };
        let timeline = self.outside.timeline.clone();
        let name = plan.name;
        timeline.note("operator", || format!("{name}: replay from {from} to {to}"));
        self.executor.spawn("replay", group, async move {
            let report = replay.run().await;
            drop(trigger);
            timeline.note("operator", || format!("replay: {report:?}"));
            oracle.replay_ends(&name, report.as_ref().ok());
        });
    }
}
