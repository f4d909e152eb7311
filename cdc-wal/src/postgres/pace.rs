//! How long reading pauses while data flow: pure arithmetic, no clock, no I/O.
//!
//! Every wake-up costs more than decoding a row, so the pump reads rarely and much. But what it does
//! not read waits in the socket, and when that is full the server stops. The pause therefore follows
//! what a read after it brings: it shrinks well before the socket is full and grows while there is room.

use std::time::Duration;

/// What a socket holds before its sender has to wait, as the pauses are measured by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    bytes: usize,
    messages: usize,
    pause_max: Duration,
}

/// TCP puts small messages together, so bytes fill it: the kernel's default receive buffer, 128 KiB,
/// which it enlarges for a reader that is quick.
const TCP: Room = Room {
    bytes: 128 << 10,
    messages: usize::MAX,
    pause_max: Duration::from_millis(1),
};

/// A Unix socket keeps every message in a piece of memory of its own, by the kernel's sizes about 1.3 KiB for
/// a row of 250 bytes, out of the sender's default 208 KiB (`net.core.wmem_default`): some 160 messages.
const UNIX: Room = Room {
    bytes: 96 << 10,
    messages: 160,
    pause_max: Duration::from_millis(1),
};

const PAUSE_MIN: Duration = Duration::from_micros(100);
const PAUSE_FIRST: Duration = Duration::from_micros(500);

/// Less than this a microsecond, 2 MB/s, is no flow: what came is passed on at once.
const TRICKLE_BYTES_PER_MICRO: usize = 2;

/// The present pause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    room: Room,
    pause: Duration,
}

impl Pace {
    pub(crate) const fn new(unix_socket: bool) -> Self {
        Self {
            room: if unix_socket { UNIX } else { TCP },
            pause: PAUSE_FIRST,
        }
    }

    pub(crate) const fn pause(&self) -> Duration {
        self.pause
    }

    /// A read that gave less than this took nearly all there was.
    pub(crate) const fn short(&self) -> usize {
        self.room.bytes / 4
    }

    /// Takes note of what was there after a pause; true if data flow, so that more should be
    /// collected.
    pub(crate) fn after_pause(&mut self, bytes: usize, messages: usize) -> bool {
        let flows = bytes >= micros(self.pause) * TRICKLE_BYTES_PER_MICRO;
        let Room {
            bytes: most_bytes,
            messages: most_messages,
            pause_max,
        } = self.room;
        if bytes > most_bytes / 4 * 3 || messages > most_messages / 4 * 3 {
            self.pause = (self.pause * 2 / 3).max(PAUSE_MIN);
        } else if bytes < most_bytes / 2 && messages < most_messages / 2 {
            self.pause = (self.pause * 5 / 4).min(pause_max);
        }
        flows
    }
}

fn micros(pause: Duration) -> usize {
    usize::try_from(pause.as_micros()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses as a steady flow has them after a while, and what a read then gives.
    fn settle(unix_socket: bool, messages_per_milli: usize, message: usize) -> (Duration, usize) {
        let mut pace = Pace::new(unix_socket);
        let mut messages = 0;
        for _ in 0..200 {
            messages = micros(pace.pause()) * messages_per_milli / 1000;
            pace.after_pause(messages * message, messages);
        }
        (pace.pause(), messages)
    }

    #[test]
    fn a_flow_settles_at_a_part_of_what_the_socket_holds() {
        // 200 000 small messages a second.
        let (pause, messages) = settle(true, 200, 200);
        assert!((60..=120).contains(&messages), "{messages}");
        assert!(pause < Duration::from_millis(1), "{pause:?}");
        // Large ones fill it by their bytes.
        let (_, messages) = settle(true, 50, 4000);
        assert!(messages * 4000 <= UNIX.bytes / 4 * 3, "{messages}");
        let (_, messages) = settle(false, 200, 400);
        let bytes = messages * 400;
        assert!(
            (TCP.bytes / 3..=TCP.bytes / 4 * 3).contains(&bytes),
            "{bytes}"
        );
    }

    #[test]
    fn a_slow_flow_has_the_longest_pause_and_a_flood_the_shortest() {
        assert_eq!(settle(true, 1, 100).0, UNIX.pause_max);
        assert_eq!(settle(false, 1, 100).0, TCP.pause_max);
        for unix_socket in [true, false] {
            assert_eq!(settle(unix_socket, 100_000, 200).0, PAUSE_MIN);
        }
    }

    #[test]
    fn a_trickle_is_no_flow() {
        let mut pace = Pace::new(false);
        assert!(!pace.after_pause(300, 2));
        assert!(pace.after_pause(64 << 10, 200));
        assert!(!pace.after_pause(0, 0));
    }
}
