//! What a lane has handed over and not yet seen safe.

use std::collections::VecDeque;

use crate::Position;

/// One hand-over to the emitter, or a stretch without events.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Last event in it; it is done when the destination is durable through this.
    last_event: Position,
    /// How far the lane's position moves when it is done.
    end: Position,
    /// Events in it that the emitter took.
    events: u64,
    /// Commit time of the last event.
    commit_micros: Option<i64>,
}

/// What [`Progress::durable_through`] released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) events: u64,
    pub(super) commit_micros: Option<i64>,
}

/// The lane's position: the end of the contiguous prefix that is done.
#[derive(Debug)]
pub(super) struct Progress {
    position: Position,
    spans: VecDeque<Span>,
    in_flight: u64,
}

impl Progress {
    pub(super) const fn new(position: Position) -> Self {
        Self {
            position,
            spans: VecDeque::new(),
            in_flight: 0,
        }
    }

    /// Everything up to this is delivered, dead-lettered or filtered out.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// Events the emitter took that are not yet safe.
    pub(super) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// True if something waits for the destination to be durable.
    pub(super) fn is_waiting(&self) -> bool {
        !self.spans.is_empty()
    }

    /// Everything up to `end` needs nothing more (filtered, dead-lettered, durably delivered).
    pub(super) fn done(&mut self, end: Position) {
        match self.spans.back_mut() {
            // Behind something in flight it becomes part of that: no span of its own, so an
            // endless filtered stream behind a slow destination needs no memory.
            Some(span) => span.end = span.end.max(end),
            None => self.position = self.position.max(end),
        }
    }

    /// The emitter took `events` events, the last at `last_event`, covering up to `end`.
    pub(super) fn accepted(
        &mut self,
        last_event: Position,
        end: Position,
        events: u64,
        commit_micros: Option<i64>,
    ) {
        self.in_flight += events;
        self.spans.push_back(Span {
            last_event,
            end,
            events,
            commit_micros,
        });
    }

    /// The destination is durable through `through`.
    pub(super) fn durable_through(&mut self, through: Position) -> Released {
        let mut released = Released::default();
        while let Some(span) = self.spans.front().filter(|span| span.last_event <= through) {
            self.position = self.position.max(span.end);
            released.events += span.events;
            released.commit_micros = span.commit_micros.or(released.commit_micros);
            self.spans.pop_front();
        }
        self.in_flight -= released.events;
        released
    }

    /// Forgets what is in flight and goes back to `position`; gives how many events that were.
    pub(super) fn rewind(&mut self, position: Position) -> u64 {
        self.spans.clear();
        self.position = position;
        std::mem::take(&mut self.in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;
    use proptest::prelude::*;

    fn at(commit: u64) -> Position {
        Position::end_of(Lsn(commit))
    }

    #[test]
    fn position_waits_for_the_destination() {
        let mut progress = Progress::new(at(1));
        progress.done(at(2));
        assert_eq!(progress.position(), at(2));
        progress.accepted(Position::new(Lsn(3), 4), at(3), 5, Some(30));
        progress.done(at(4));
        assert_eq!(
            progress.position(),
            at(2),
            "filtered events behind events in flight wait"
        );
        progress.accepted(Position::new(Lsn(5), 0), at(5), 1, Some(50));
        assert_eq!(progress.in_flight(), 6);
        assert_eq!(progress.durable_through(Position::new(Lsn(3), 3)).events, 0);
        let released = progress.durable_through(Position::new(Lsn(3), 4));
        assert_eq!(
            released,
            Released {
                events: 5,
                commit_micros: Some(30)
            }
        );
        assert_eq!(progress.position(), at(4));
        assert_eq!(progress.rewind(at(4)), 1);
        assert!(!progress.is_waiting());
    }

    proptest! {
        #[test]
        fn never_passes_an_event_that_is_not_durable(
            steps in proptest::collection::vec((0u8..3, 1u64..5), 1..200),
        ) {
            let mut progress = Progress::new(at(0));
            let (mut next, mut open, mut durable) = (1u64, VecDeque::new(), 0u64);
            for (step, n) in steps {
                match step {
                    0 => { progress.done(at(next)); next += 1; }
                    1 => {
                        progress.accepted(Position::new(Lsn(next), 0), at(next), n, None);
                        open.push_back(next);
                        next += 1;
                    }
                    _ => {
                        for _ in 0..n {
                            if let Some(commit) = open.pop_front() { durable = commit; }
                        }
                        progress.durable_through(Position::new(Lsn(durable), 0));
                    }
                }
                let limit = open.front().map_or(next - 1, |first| first - 1);
                prop_assert!(progress.position() <= at(limit));
                if open.is_empty() { prop_assert_eq!(progress.position(), at(next - 1)); }
            }
        }
    }
}
