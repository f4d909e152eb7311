//! What holds of a stream of events whatever is in them.

use cdc_core::{Cause, ChangeEvent, Image, Op, Position};

use super::{Announced, CANARY};

/// Follows a stream from its beginning.
#[derive(Debug, Default)]
pub(super) struct Order {
    last: Option<Position>,
    /// Id and next ordinal of the transaction under way.
    open: Option<(u64, u32)>,
}

impl Order {
    /// The next event.
    pub(super) fn next(&mut self, event: &ChangeEvent) -> Result<(), String> {
        let position = event.position;
        if self.last.is_some_and(|last| position <= last) {
            return Err(format!(
                "the position {position} is not above the one before"
            ));
        }
        let (id, ordinal) = match self.open {
            Some(open) if self.last.map(|last| last.commit) == Some(position.commit) => open,
            Some(_) => return Err(format!("{position} comes inside another transaction")),
            None => (event.transaction.id, 0),
        };
        if event.transaction.id != id {
            return Err(format!("{position} has another transaction's id"));
        }
        if position.ordinal != ordinal {
            return Err(format!("{position} has not the ordinal {ordinal}"));
        }
        self.last = Some(position);
        self.open = (!event.last).then_some((id, ordinal + 1));
        let debug = format!("{event:?}");
        if leaks(&debug) {
            return Err(format!("a value stands in the Debug form of {position}"));
        }
        Ok(())
    }

    /// The end of what there is: no transaction is cut off.
    pub(super) fn end(&self) -> Result<(), String> {
        match self.open {
            Some(_) => Err("a transaction is not whole".into()),
            None => Ok(()),
        }
    }
}

/// True if text holds a generated value, as text or as a list of bytes.
pub(super) fn leaks(text: &str) -> bool {
    let numbers: Vec<String> = CANARY.bytes().map(|byte| byte.to_string()).collect();
    text.contains(CANARY) || text.contains(&numbers.join(", "))
}

/// Compares what an engine said of its transaction with its events.
pub(super) fn as_announced(said: &[Announced], events: &[ChangeEvent]) -> Result<(), String> {
    let found = events.iter().map(|event| (event.op, event.cause));
    if !found
        .clone()
        .eq(said.iter().map(|said| (said.op, said.cause)))
    {
        let names = |all: &mut dyn Iterator<Item = (Op, Cause)>| -> Vec<String> {
            all.map(|(op, cause)| format!("{op}/{}", cause.name()))
                .collect()
        };
        return Err(format!(
            "the events of a transaction are {:?}, it was {:?}",
            names(&mut found.clone()),
            names(&mut said.iter().map(|said| (said.op, said.cause)))
        ));
    }
    for (said, event) in said.iter().zip(events) {
        if said.old_row && !matches!(event.before, Image::Full(_)) {
            return Err(format!(
                "the engine has the old row of {}, the event has not",
                event.position
            ));
        }
    }
    Ok(())
}
