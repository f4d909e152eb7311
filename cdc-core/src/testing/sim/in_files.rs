//! What must hold of the files of a file emitter.

use std::collections::HashMap;

use super::judged::{Which, distinct};
use super::oracle::{Inner, Oracle};
use super::{Lines, locked};
use crate::Position;

impl Oracle {
    /// A transform has made of this event what a file emitter refuses.
    pub fn spoiled(&self, emitter: &str, position: Position) {
        self.refused(emitter, position);
        let mut inner = locked(&self.inner);
        let index = inner.find(position);
        if let (Some(judged), Some(index)) = (inner.emitters.get_mut(emitter), index) {
            judged.spoiled.insert(index);
        }
    }

    /// What a destination's files hold, in order, after a crash or at the end.
    pub fn in_files(&self, emitter: &str, lines: &Lines) {
        self.ask_witness();
        let found = locked(&self.inner).look(emitter, &lines.positions);
        let found = found.and_then(|()| locked(&self.inner).divided(emitter, lines));
        if let Err(what) = found {
            self.violated(what);
        }
    }
}

impl Inner {
    fn look(&mut self, emitter: &str, positions: &[Position]) -> Result<(), String> {
        let mut indices = Vec::with_capacity(positions.len());
        for &position in positions {
            indices.push(self.find(position).ok_or_else(|| {
                format!("{emitter}: its files hold {position}, which was never committed")
            })?);
        }
        let events = &self.events;
        let at = |index: usize| events[index].event.position;
        let Some(judged) = self.emitters.get_mut(emitter) else {
            return Ok(());
        };
        for arrived in &mut judged.arrived {
            *arrived = 0;
        }
        let chains = judged
            .keys
            .values_mut()
            .chain(judged.barriers.values_mut())
            .chain(judged.tables.values_mut());
        for chain in chains {
            chain.done = 0;
        }
        // Written behind an event of its key that was refused in the same batch: that is no delivery,
        // and it must come again behind that one.
        let mut ahead = Vec::new();
        'lines: for index in indices {
            if !judged.kept[index] {
                if judged.ever_letter.contains(&index) && (judged.rules.keep)(&events[index].event)
                {
                    continue;
                }
                return Err(format!(
                    "{emitter}: its files hold {}, which the filter or a transform drops",
                    at(index)
                ));
            }
            let again = judged.arrived[index] > 0;
            if again
                && !judged.rules.repeats
                && !judged.reset
                && !judged.ever_letter.contains(&index)
                && !judged.wrote_behind_a_refused_one(index)
            {
                return Err(format!("{emitter}: its files hold {} twice", at(index)));
            }
            if !again {
                for key in distinct(events[index].keys) {
                    if events[index].is_barrier()
                        || judged.hole(Which::Key, key, index, &[]).is_none()
                    {
                        continue;
                    }
                    let together: Vec<_> = judged.spoiled.iter().chain(&ahead).copied().collect();
                    if let Some(hole) = judged.hole(Which::Key, key, index, &together) {
                        return Err(format!(
                            "{emitter}: in its files {} stands before {} of the same key",
                            at(index),
                            at(hole)
                        ));
                    }
                    if judged.rules.parks {
                        ahead.push(index);
                        continue 'lines;
                    }
                }
            }
            judged.arrived[index] += 1;
        }
        let covered = events.partition_point(|known| known.event.position <= judged.checkpoint);
        for index in 0..covered {
            let unknown = judged.maybe_letters.contains_key(&index);
            if !judged.is_done(index) && !unknown {
                return Err(format!(
                    "{emitter}: the checkpoint is at {}, and {} is not in its files",
                    judged.checkpoint,
                    at(index)
                ));
            }
        }
        Ok(())
    }

    /// A transaction stands in one file, but for what was redriven, written again, or refused and without room
    /// for its letter when the file had the transaction's end.
    fn divided(&self, emitter: &str, lines: &Lines) -> Result<(), String> {
        let Some(judged) = self.emitters.get(emitter) else {
            return Ok(());
        };
        if judged.rules.repeats || judged.reset {
            return Ok(());
        }
        let mut files = HashMap::new();
        for (position, file) in lines.positions.iter().zip(&lines.files) {
            let index = self.find(*position);
            let is_late =
                |index| judged.ever_letter.contains(&index) || judged.came_again.contains(&index);
            if index.is_none_or(is_late) {
                continue;
            }
            if files.insert(position.commit, *file).unwrap_or(*file) != *file {
                return Err(format!(
                    "{emitter}: the transaction of {position} stands in two files"
                ));
            }
        }
        Ok(())
    }
}
