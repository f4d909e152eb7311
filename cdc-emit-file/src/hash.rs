//! The hash of the open file: small writes are hashed at once, large ones on a thread beside the
//! writer, so that the next batch is encoded meanwhile.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use blake3::Hasher;

use crate::state::Hash;

/// Writes from which on a thread is worth its while.
const BESIDE_MIN: usize = 128 << 10;

/// Buffers on their way to the thread. With the one it is at and the one being filled these are all
/// there are.
const WAITING_MAX: usize = 2;

/// Hashes what is written, in order.
pub(crate) struct FileHash(State);

enum State {
    Here(Box<Hasher>),
    Beside(Beside),
    /// The thread panicked: what was hashed is gone.
    Gone,
}

struct Beside {
    give: SyncSender<Vec<u8>>,
    /// Buffers that are hashed, to be filled again.
    back: Receiver<Vec<u8>>,
    thread: JoinHandle<Box<Hasher>>,
}

impl FileHash {
    pub(crate) fn new(hasher: Hasher) -> Self {
        Self(State::Here(Box::new(hasher)))
    }

    /// Takes written bytes in and gives an empty buffer for the next ones. Waits while the thread
    /// has [`WAITING_MAX`] buffers before it.
    pub(crate) fn update(&mut self, mut written: Vec<u8>) -> Vec<u8> {
        if written.len() >= BESIDE_MIN
            && let State::Here(hasher) = &self.0
            && let Some(beside) = Beside::start(hasher.clone())
        {
            self.0 = State::Beside(beside);
        }
        match &mut self.0 {
            State::Here(hasher) => {
                hasher.update(&written);
            }
            State::Beside(beside) => {
                let spare = beside.back.try_recv().unwrap_or_default();
                if beside
                    .give
                    .send(std::mem::replace(&mut written, spare))
                    .is_err()
                {
                    self.0 = State::Gone;
                }
            }
            State::Gone => {}
        }
        written.clear();
        written
    }

    /// The hash of everything so far; `None` if the thread panicked. More may follow.
    pub(crate) fn finish(&mut self) -> Option<Hash> {
        self.0 = match std::mem::replace(&mut self.0, State::Gone) {
            State::Beside(Beside { give, thread, .. }) => {
                drop(give);
                State::Here(thread.join().ok()?)
            }
            other => other,
        };
        match &self.0 {
            State::Here(hasher) => Some(hasher.finalize().into()),
            State::Beside(_) | State::Gone => None,
        }
    }
}

impl Beside {
    /// `None` if there is no thread to be had: then the writer hashes.
    fn start(mut hasher: Box<Hasher>) -> Option<Self> {
        let (give, take) = sync_channel::<Vec<u8>>(WAITING_MAX);
        // Holds every buffer there is, so that giving one back never waits.
        let (hashed, back) = sync_channel(WAITING_MAX + 2);
        let thread = std::thread::Builder::new()
            .name("cdc-file-hash".to_owned())
            .spawn(move || {
                for mut buffer in take {
                    hasher.update(&buffer);
                    buffer.clear();
                    // Nobody takes it back any more: it is freed.
                    drop(hashed.try_send(buffer));
                }
                hasher
            })
            .ok()?;
        Some(Self { give, back, thread })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_writes_give_the_hash_of_all_bytes() {
        let sizes = [
            1,
            0,
            BESIDE_MIN - 1,
            BESIDE_MIN,
            3,
            5 * BESIDE_MIN,
            77,
            BESIDE_MIN,
        ];
        let mut hash = FileHash::new(Hasher::new());
        let mut all = Vec::new();
        let mut buffer = Vec::new();
        for (n, size) in sizes.into_iter().cycle().take(50).enumerate() {
            assert!(buffer.is_empty());
            buffer.resize(size, u8::try_from(n).unwrap());
            all.extend_from_slice(&buffer);
            buffer = hash.update(buffer);
            // The hash may be asked for at any time, and the file goes on.
            if n % 7 == 6 {
                assert_eq!(hash.finish(), Some(blake3::hash(&all).into()), "{n}");
            }
        }
        assert_eq!(hash.finish(), Some(blake3::hash(&all).into()));
    }
}
