//! Whether the source is connected, for status and metrics.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cdc_core::wall_micros;

/// The connection to a database as capture sees it; shared with those who report it.
#[derive(Debug, Default)]
pub(crate) struct SourceLink(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    reached: bool,
    /// What a reader that reconnects by itself says.
    reader: Option<Arc<AtomicBool>>,
    reason: Option<String>,
    attempts: u64,
    since_micros: i64,
}

/// The connection at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkReading {
    /// The source can be read.
    pub(crate) connected: bool,
    /// Why not, if that is known.
    pub(crate) reason: Option<String>,
    /// Failed attempts to connect since the process was started or last connected.
    pub(crate) attempts: u64,
    /// Since when it was tried, microseconds since 1970; 0 if it is not.
    pub(crate) since_micros: i64,
}

impl SourceLink {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt to connect failed.
    pub(crate) fn failed(&self, reason: String) {
        let mut state = self.state();
        if state.reached || state.attempts == 0 {
            state.since_micros = wall_micros();
        }
        state.reached = false;
        state.attempts += 1;
        state.reason = Some(reason);
    }

    /// It is connected; `reader` says whether it still is.
    pub(crate) fn reached(&self, reader: Option<Arc<AtomicBool>>) {
        *self.state() = State {
            reached: true,
            reader,
            ..State::default()
        };
    }

    /// How it is now.
    pub(crate) fn read(&self) -> LinkReading {
        let state = self.state();
        let up = state
            .reader
            .as_ref()
            .is_none_or(|up| up.load(Ordering::Relaxed));
        LinkReading {
            connected: state.reached && up,
            reason: state.reason.clone(),
            attempts: state.attempts,
            since_micros: state.since_micros,
        }
    }
}

impl LinkReading {
    /// The word in status.
    pub(crate) const fn name(&self) -> &'static str {
        if self.connected {
            "connected"
        } else {
            "connecting"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_what_it_is() {
        let link = SourceLink::default();
        assert_eq!(link.read().name(), "connecting");
        link.failed("refused".into());
        link.failed("refused again".into());
        let read = link.read();
        assert_eq!(
            (read.attempts, read.reason.as_deref()),
            (2, Some("refused again"))
        );
        assert!(!read.connected && read.since_micros > 0);
        let up = Arc::new(AtomicBool::new(true));
        link.reached(Some(up.clone()));
        let read = link.read();
        assert_eq!(
            (read.name(), read.attempts, read.reason),
            ("connected", 0, None)
        );
        up.store(false, Ordering::Relaxed);
        assert_eq!(link.read().name(), "connecting");
    }
}
