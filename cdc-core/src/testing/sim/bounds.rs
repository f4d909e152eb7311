//! What must hold in numbers: how far a lane may run ahead, what a replay delivers, what the
//! counters say, and how soon what is done is stored.

use std::collections::HashSet;

use super::judged::{Judged, Known, Replayed, distinct};
use super::{Oracle, Safety, Way, locked};
use crate::Position;
use crate::pipeline::{LaneCounts, LaneHealth, ReplayReport};

impl Judged {
    /// An event arrived: is it as near to the first one that is not done as the window wants it?
    pub(super) fn is_near(&mut self, way: Way, index: usize) -> Result<(), String> {
        if way != Way::Asked || self.rules.safety != Safety::OnArrival {
            return Ok(());
        }
        self.furthest = self.furthest.max(index + 1);
        let open = self.advance();
        // What was dropped, or parked when it was read, has no place in the window.
        let ahead = (open..=index)
            .filter(|at| self.kept[*at] && !self.ever_letter.contains(at))
            .take(self.rules.ahead_max.saturating_add(1));
        if index - open.min(index) >= self.rules.ahead_max && ahead.count() > self.rules.ahead_max {
            return Err(format!(
                "arrived more than {} events ahead of the first that is not done",
                self.rules.ahead_max
            ));
        }
        Ok(())
    }

    /// An event came in a replay.
    pub(super) fn replayed(
        &mut self,
        number: u64,
        index: usize,
        known: &Known,
        events: &[Known],
    ) -> Result<(), String> {
        let name = &self.rules.name;
        let position = known.event.position;
        if !self.kept[index] {
            return Err(format!(
                "{name}: a replay gave {position}, which the filter or a transform drops"
            ));
        }
        // What a replay sent may arrive when it is long over.
        let Some(replay) = self.replay.as_mut().filter(|r| r.number == number) else {
            return Ok(());
        };
        if position <= replay.after || position > replay.to {
            return Err(format!(
                "{name}: a replay from {} to {} gave {position}",
                replay.after, replay.to
            ));
        }
        if !replay.seen.contains(&index) && !known.is_barrier() {
            for key in distinct(known.keys) {
                let Some(chain) = self.keys.get(&key) else {
                    continue;
                };
                let hole = chain.events.iter().copied().find(|&before| {
                    before < index
                        && events[before].event.position > replay.after
                        && !replay.seen.contains(&before)
                        && !self.refused.contains(&before)
                });
                if let Some(hole) = hole {
                    return Err(format!(
                        "{name}: in a replay {position} overtakes {} of the same key",
                        events[hole].event.position
                    ));
                }
            }
        }
        replay.seen.insert(index);
        Ok(())
    }
}

impl Oracle {
    /// A replay of the events behind `after` up to `to` begins; gives its number. `None` if one is
    /// under way.
    pub fn replay_begins(&self, emitter: &str, after: Position, to: Position) -> Option<u64> {
        let mut inner = locked(&self.inner);
        // Another one each time, and the same when a run is repeated.
        let number = self.timeline.digest();
        let judged = inner.emitters.get_mut(emitter)?;
        if judged.replay.is_some() {
            return None;
        }
        judged.replay = Some(Replayed {
            number,
            after,
            to,
            seen: HashSet::new(),
        });
        Some(number)
    }

    /// A replay is over; a whole one must have given every kept event of its range.
    pub fn replay_ends(&self, emitter: &str, report: Option<&ReplayReport>) {
        let mut violations = Vec::new();
        {
            let mut inner = locked(&self.inner);
            let inner = &mut *inner;
            let Some(judged) = inner.emitters.get_mut(emitter) else {
                return;
            };
            let (Some(replay), Some(report)) = (judged.replay.take(), report) else {
                return;
            };
            let range = inner.events.iter().enumerate().filter(|(_, known)| {
                known.event.position > replay.after && known.event.position <= replay.to
            });
            let range: Vec<usize> = range.map(|(index, _)| index).collect();
            let missing = range
                .iter()
                .find(|index| judged.kept[**index] && !replay.seen.contains(index));
            if let Some(missing) = missing
                && report.is_complete()
            {
                violations.push(format!(
                    "{emitter}: a replay says it is complete and has not given {}",
                    inner.events[*missing].event.position
                ));
            }
            let told = report.filtered + report.delivered + report.failed + report.held_back;
            if report.is_complete() && (report.read != range.len() as u64 || told != report.read) {
                violations.push(format!(
                    "{emitter}: a replay of {} events says {report:?}",
                    range.len()
                ));
            }
        }
        for what in violations {
            self.violated(what);
        }
    }

    /// An operator moves a running lane: what it reads in this life is not one range any more.
    pub fn moving(&self, emitter: &str) {
        if let Some(judged) = locked(&self.inner).emitters.get_mut(emitter) {
            judged.began = None;
        }
    }

    /// How often an operator has moved an emitter: what was handed out before is late.
    pub fn moves(&self, emitter: &str) -> u64 {
        let inner = locked(&self.inner);
        inner.emitters.get(emitter).map_or(0, |judged| judged.moves)
    }

    /// True if an operator gave up the letter of an event.
    pub fn is_discarded(&self, emitter: &str, position: Position) -> bool {
        let inner = locked(&self.inner);
        let index = inner.find(position);
        let judged = inner.emitters.get(emitter).zip(index);
        judged.is_some_and(|(judged, index)| judged.discarded.contains(&index))
    }

    /// The counters of a lane, at any moment, or when it has `ended`. One that drained may leave
    /// events in flight if its emitter `takes` events before they are durable. One that went `straight` on has read
    /// each event once.
    pub fn counted(
        &self,
        emitter: &str,
        counts: &LaneCounts,
        ended: bool,
        takes: bool,
        straight: bool,
    ) {
        let mut violation = (!counts.adds_up()).then(|| "do not add up".to_owned());
        {
            let inner = locked(&self.inner);
            let Some(judged) = inner.emitters.get(emitter) else {
                return;
            };
            // A lane that failed leaves what it had in flight to its next life.
            let ended = ended && counts.health == LaneHealth::Stopped { reason: None };
            if ended && counts.in_flight != 0 && !takes {
                violation = Some("leave events in flight at the end".to_owned());
            }
            if ended
                && straight
                && counts.rewound == 0
                && counts.in_flight == 0
                && let Some(began) = judged.began
                && counts.position >= began
            {
                let at = |position| {
                    let events = &inner.events;
                    events.partition_point(|known| known.event.position <= position)
                };
                let range = at(began)..at(counts.position);
                let kept = |index: &usize| judged.kept[*index];
                let dropped = range.len() - range.clone().filter(kept).count();
                if counts.read != range.len() as u64 {
                    violation = Some(format!(
                        "say {} events were read, there were {}",
                        counts.read,
                        range.len()
                    ));
                } else if counts.filtered > dropped as u64 {
                    violation = Some(format!(
                        "say {} events were dropped, there were {dropped} to drop",
                        counts.filtered
                    ));
                }
            }
        }
        if let Some(what) = violation {
            self.violated(format!("{emitter}: its counters {what}: {counts:?}"));
        }
    }

    /// The last kept event that is done, with all before it, and that the stored checkpoint does
    /// not cover.
    pub fn uncovered(&self, emitter: &str) -> Option<Position> {
        let mut inner = locked(&self.inner);
        let inner = &mut *inner;
        let judged = inner.emitters.get_mut(emitter)?;
        let open = judged.advance();
        let last = (0..open).rev().find(|&index| judged.kept[index])?;
        let position = inner.events[last].event.position;
        (position > judged.checkpoint).then_some(position)
    }
}
