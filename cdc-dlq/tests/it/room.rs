//! A disk without room at any moment: nothing that was acknowledged is lost, and the same handle goes on
//! when there is room again.

use std::collections::BTreeSet;
use std::io::Cursor;

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{DeadLetterQueue, DlqError, LetterState};
use cdc_dlq::{DlqOptions, FileDlq, ImportError};

use crate::sample::{PATH, commits, id, letter};

/// A few letters fill a segment.
const OPTIONS: DlqOptions = DlqOptions {
    letters_max: 1000,
    bytes_max: 64 << 10,
    segment_bytes: 700,
};

/// One call.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u64>),
    Import(Vec<u64>),
    Close(Vec<u64>),
}

/// What happens while there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    /// It is tried again.
    Tries,
    /// The process is killed and another one begins.
    Killed,
    /// The power goes, and comes back.
    Crash(u64),
}

fn steps() -> Vec<Step> {
    let rounds = (0..3).flat_map(|round| {
        let first = round * 8;
        let open = first + 1..=first + 8;
        [
            Step::Append(vec![first + 1]),
            Step::Append((first + 2..=first + 4).collect()),
            Step::Import((first + 5..=first + 6).collect()),
            Step::Close(vec![first + 3]),
            Step::Append(vec![first + 7, first + 8]),
            // The last one stays, so that segments are copied and not only removed.
            Step::Close(open.take(7).collect()),
        ]
    });
    rounds.collect()
}

/// A queue, and the letters that are open as it said.
struct Tried {
    options: DlqOptions,
    disk: SimStorage,
    dlq: FileDlq,
    open: BTreeSet<u64>,
}

impl Tried {
    fn new(options: DlqOptions) -> Self {
        let disk = SimStorage::new();
        let dlq = FileDlq::open(disk.shared(), PATH, options).unwrap();
        Self {
            options,
            disk,
            dlq,
            open: BTreeSet::new(),
        }
    }

    /// False for lack of room; then nothing has changed.
    fn step(&mut self, step: &Step) -> bool {
        let done = match step {
            Step::Append(commits) => {
                let letters: Vec<_> = commits.iter().map(|n| letter("a", *n)).collect();
                self.dlq.append(&letters)
            }
            Step::Import(commits) => {
                let mut lines = Vec::new();
                for commit in commits {
                    cdc_dlq::letter_line(&letter("a", *commit), &mut lines).unwrap();
                    lines.push(b'\n');
                }
                match self.dlq.import(&mut Cursor::new(lines), false, |_| Ok(())) {
                    Ok(_) => Ok(()),
                    Err(ImportError::Queue(error)) => Err(error),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Close(commits) => {
                let letters = commits.iter().map(|n| ("a", id(*n)));
                let closed = self.dlq.set_states(letters, LetterState::Discarded);
                closed.map(|_| ())
            }
        };
        match (&done, step) {
            (Ok(()), Step::Append(commits) | Step::Import(commits)) => self.open.extend(commits),
            (Ok(()), Step::Close(commits)) => self.open.retain(|open| !commits.contains(open)),
            (Err(DlqError::NoSpace { .. }), _) => {}
            (Err(error), _) => panic!("{step:?}: {error}: {error:?}"),
        }
        assert_eq!(self.found(), self.open, "{step:?}");
        done.is_ok()
    }

    fn found(&self) -> BTreeSet<u64> {
        commits(self.dlq.reader()).into_iter().collect()
    }

    fn again(self, crash: Option<u64>) -> Self {
        match crash {
            Some(seed) => self.disk.crash(seed),
            None => self.disk.kill(),
        }
        drop(self.dlq);
        let dlq = FileDlq::open(self.disk.shared(), PATH, self.options).unwrap();
        let tried = Self { dlq, ..self };
        assert_eq!(tried.found(), tried.open);
        tried
    }
}

/// All steps on a disk that `fill` takes the room of; false if there was enough.
fn run(fill: impl FnOnce(&SimStorage), meanwhile: Meanwhile, seed: u64) -> bool {
    let mut tried = Tried::new(OPTIONS);
    fill(&tried.disk);
    let mut full = false;
    for step in steps() {
        if tried.step(&step) {
            continue;
        }
        full = true;
        // Everything is refused or done; what is smaller may find room.
        for other in [901, 902] {
            let smaller = [
                Step::Close(tried.open.first().copied().into_iter().collect()),
                Step::Append(vec![other]),
                Step::Import(vec![other + 10]),
            ];
            for step in smaller {
                tried.step(&step);
            }
        }
        match meanwhile {
            Meanwhile::Tries => {}
            Meanwhile::Killed => tried = tried.again(None),
            Meanwhile::Crash(seed) => tried = tried.again(Some(seed)),
        }
        tried.step(&step);
        tried.disk.set_capacity(None);
        tried.disk.clear_failure();
        assert!(tried.step(&step), "there is room for {step:?}");
    }
    let full = full || tried.disk.failures() > 0;
    tried.disk.set_capacity(None);
    let mut tried = tried.again((seed > 0).then_some(seed));
    assert!(tried.step(&Step::Append(vec![999])));
    tried.again(Some(seed));
    full
}

const MEANWHILE: [Meanwhile; 4] = [
    Meanwhile::Tries,
    Meanwhile::Killed,
    Meanwhile::Crash(1),
    Meanwhile::Crash(2),
];

/// Every third byte: all of them take minutes on a busy machine.
#[test]
fn a_disk_that_fills_up_at_any_byte_is_waited_for() {
    let used = Tried::new(OPTIONS).disk.used();
    for (at, capacity) in (used..).step_by(3).enumerate() {
        let full = run(
            |disk| disk.set_capacity(Some(capacity)),
            MEANWHILE[at % MEANWHILE.len()],
            capacity / 4 % 4,
        );
        if !full {
            assert!(capacity > 3 * OPTIONS.segment_bytes, "{capacity}");
            return;
        }
    }
}

#[test]
fn a_disk_that_is_full_from_any_call_on_is_waited_for() {
    for call in 0.. {
        let mut full = false;
        for meanwhile in MEANWHILE {
            let fill = |disk: &SimStorage| disk.fail_after(call, Failure::Full);
            full |= run(fill, meanwhile, call % 4);
        }
        if !full {
            assert!(call > 50, "{call}");
            return;
        }
    }
}

/// A queue of one short segment, half of it of closed letters, that found no room to begin another one.
fn half_begun() -> Tried {
    let options = DlqOptions {
        bytes_max: 8 << 10,
        segment_bytes: 2048,
        ..OPTIONS
    };
    let mut tried = Tried::new(options);
    assert!(tried.step(&Step::Append((1..=5).collect())));
    assert!(tried.step(&Step::Close((1..=4).collect())));
    tried.disk.set_capacity(Some(tried.disk.used()));
    let stats = tried.dlq.reader().stats();
    let fit = (options.bytes_max - stats.bytes) / stats.live_bytes;
    assert!(!tried.step(&Step::Append((10..=10 + fit).collect())));
    assert_eq!(tried.dlq.reader().stats().segments, 1);
    tried
}

#[test]
fn nothing_is_appended_before_a_segment_that_has_no_header_yet() {
    for reopened in [false, true] {
        for dies in 0.. {
            let mut ended = false;
            for seed in 0..20 {
                let mut tried = half_begun();
                if reopened {
                    tried = tried.again(None);
                }
                tried.disk.set_capacity(None);
                tried.disk.fail_after(dies, Failure::Stop);
                // Fits the short segment, were it still the one that is appended to.
                let done = tried.dlq.append(&[letter("a", 6), letter("a", 7)]);
                let Tried { disk, dlq, .. } = tried;
                drop(dlq);
                disk.crash(seed);
                let dlq = FileDlq::open(disk.shared(), PATH, OPTIONS);
                let dlq = dlq.unwrap_or_else(|error| panic!("call {dies}, seed {seed}: {error}"));
                let found = commits(dlq.reader());
                assert_eq!(found.first(), Some(&5), "call {dies}, seed {seed}");
                assert!(done.is_err() || found == [5, 6, 7], "{found:?}");
                ended |= done.is_ok();
            }
            if ended {
                assert!(dies > 4, "{dies} calls were enough");
                break;
            }
        }
    }
}
