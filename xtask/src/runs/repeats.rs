//! At least once, in order: what may be delivered again, and how.

use crate::{Error, Result, ensure};

use super::event::Event;

/// The unique events of a stream that may repeat a suffix of itself after a restart.
///
/// A repeat goes back to an event that was delivered, and from there delivers the same events
/// with the same ids in the same order, until it reaches what is new (or is cut off by the next
/// restart).
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// Position and id of each event, once, in order.
    unique: Vec<((u64, u32), String)>,
    /// How many of them the current pass has delivered.
    at: usize,
    /// How many times the stream went back.
    pub(super) rewinds: u64,
    /// How many deliveries were repeats.
    pub(super) repeated: u64,
}

impl Repeats {
    /// Takes the next delivery; true if the event is new.
    ///
    /// # Errors
    /// It is neither the next of a repeat, nor new, nor the begin of a repeat.
    pub(super) fn take(&mut self, event: &Event) -> Result<bool> {
        let position = event.position;
        let expected = self.unique.get(self.at).map(|(position, _)| *position);
        if expected != Some(position) {
            let newest = self.unique.last().map(|(position, _)| *position);
            if newest.is_none_or(|newest| position > newest) {
                ensure!(
                    expected.is_none(),
                    "a repeat leaves out events that were delivered before"
                );
                self.unique.push((position, event.id.clone()));
                self.at += 1;
                return Ok(true);
            }
            self.at = self
                .unique
                .binary_search_by_key(&position, |(position, _)| *position)
                .map_err(|_| Error::new("an event between two that were delivered before it"))?;
            self.rewinds += 1;
        }
        let known = self.unique.get(self.at).map(|(_, id)| id);
        ensure!(
            known == Some(&event.id),
            "an event is repeated with another id"
        );
        self.at += 1;
        self.repeated += 1;
        Ok(false)
    }

    /// How many different events were delivered.
    pub(super) fn unique(&self) -> usize {
        self.unique.len()
    }

    /// Every event, once, in order: position and id.
    pub(super) fn events(&self) -> &[((u64, u32), String)] {
        &self.unique
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(commit: u64, id: &str) -> Event {
        let text = format!(
            r#"{{"id":"{id}","position":"0/{commit:X}:0","op":"insert","engine":"relational","source":{{"name":"s","kind":"postgres","database":"d"}},"schema":"public","table":"t","tx":{{"id":"1","ordinal":0,"last":true}},"ts":"2026-11-22T13:05:07.123456Z","key":{{"id":7}},"before":null,"after":{{"id":7}}}}"#
        );
        Event::parse(&text).unwrap()
    }

    fn run(events: &[(u64, &str)]) -> Result<Repeats> {
        let mut repeats = Repeats::default();
        for (commit, id) in events {
            repeats.take(&event(*commit, id))?;
        }
        Ok(repeats)
    }

    #[test]
    fn a_suffix_may_be_delivered_again() {
        let plain = [(1, "a"), (2, "b"), (3, "c")];
        let repeats =
            run(&[&plain[..], &[(2, "b"), (2, "b"), (3, "c"), (4, "d")]].concat()).unwrap();
        assert_eq!(
            (repeats.unique(), repeats.rewinds, repeats.repeated),
            (4, 2, 3)
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for (events, expected) in [
            (&[(1, "a"), (3, "c"), (2, "b")][..], "between two"),
            (&[(1, "a"), (2, "b"), (1, "x")][..], "another id"),
            (
                &[(1, "a"), (2, "b"), (3, "c"), (1, "a"), (4, "d")][..],
                "leaves out",
            ),
        ] {
            let error = run(events).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
