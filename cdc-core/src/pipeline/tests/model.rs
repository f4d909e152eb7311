//! The acknowledgement window and the watermark between threads: lanes whose destinations answer
//! in any order, a capture that asks at any moment how far the source may be told.
//!
//! The window and the watermark are the real ones; lanes and destinations are threads whose turns a
//! scheduler chooses (`cargo xtask model`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::mpsc;
use shuttle::{Config, Runner, thread};

use crate::pipeline::window::{Numbers, Window};
use crate::pipeline::{Watermark, WatermarkHandle};
use crate::testing::insert;
use crate::{ChangeEvent, Lsn, Position};

/// Schedules of each of the two kinds, unless `WEFTKIT_MODEL_SCHEDULES` says otherwise.
const SCHEDULES: usize = 200;
/// Commits a lane has to deliver, and the events of each.
const COMMITS: u64 = 3;
const EVENTS: u32 = 3;

fn number(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("a number of schedules"),
        Err(_) => default,
    }
}

fn explore(model: fn()) {
    if let Ok(schedule) = std::env::var("WEFTKIT_MODEL_REPLAY") {
        shuttle::replay(model, &schedule);
        return;
    }
    let schedules = number("WEFTKIT_MODEL_SCHEDULES", SCHEDULES);
    let seed = number("WEFTKIT_MODEL_SEED", 1) as u64;
    let config = || {
        let mut config = Config::new();
        config.stack_size = 512 << 10;
        config
    };
    Runner::new(RandomScheduler::new_from_seed(seed, schedules), config()).run(model);
    Runner::new(PctScheduler::new_from_seed(seed, 3, schedules), config()).run(model);
}

/// What a destination has for good. Never held across a change of turn.
type Stored = Arc<Mutex<BTreeSet<Position>>>;

fn batch(commit: u64) -> Vec<ChangeEvent> {
    (0..EVENTS)
        .map(|n| insert(commit, n, i64::from(n)))
        .collect()
}

/// Everything at or below this is at the destination.
fn assert_holds(stored: &Stored, upto: Position, whose: &str) {
    let stored = stored.lock().unwrap();
    for event in (1..=COMMITS).flat_map(batch) {
        assert!(
            event.position > upto || stored.contains(&event.position),
            "{whose} passes {upto:?}, and {:?} is not there",
            event.position
        );
    }
}

struct Request {
    events: Vec<Position>,
    numbers: Numbers,
}

/// Reads, gives each event to one of two workers by its place, and stores a checkpoint whenever
/// the window moves; once, in the middle, it goes back to its checkpoint as after a fatal answer.
fn lane(handle: &WatermarkHandle, stored: &Stored, goes_back: bool) {
    let mut window = Window::new(Position::ZERO);
    let mut checkpoint = Position::ZERO;
    let (answers, answered) = mpsc::channel::<Numbers>();
    let workers: Vec<(mpsc::Sender<Request>, thread::JoinHandle<()>)> = (0..2)
        .map(|_| {
            let (sender, requests) = mpsc::channel::<Request>();
            let (stored, answers) = (stored.clone(), answers.clone());
            let worker = thread::spawn(move || {
                while let Ok(request) = requests.recv() {
                    stored.lock().unwrap().extend(request.events);
                    // The lane may have gone.
                    let _answered = answers.send(request.numbers);
                }
            });
            (sender, worker)
        })
        .collect();
    drop(answers);
    let send = |window: &mut Window, commit: u64| {
        let events = batch(commit);
        let numbers = window.push(&events);
        window.reach(Position::end_of(Lsn(commit)), None);
        for half in 0..2 {
            let of_worker = |n: &u64| n % 2 == half;
            let list: Vec<u64> = numbers.clone().filter(of_worker).collect();
            let events = list
                .iter()
                .map(|n| events[usize::try_from(n - numbers.start).unwrap()].position)
                .collect();
            let request = Request {
                events,
                numbers: Numbers::List(list),
            };
            workers[usize::try_from(half).unwrap()]
                .0
                .send(request)
                .unwrap();
        }
    };
    let mut back = goes_back;
    let mut commit = 1;
    while commit <= COMMITS || window.is_waiting() {
        if commit <= COMMITS && window.len() < 2 * EVENTS as usize {
            send(&mut window, commit);
            commit += 1;
        } else {
            window.mark(&answered.recv().unwrap());
        }
        if back && commit == COMMITS {
            back = false;
            // Answers under way come late, with numbers that nobody has any more.
            window.rewind(checkpoint);
            commit = checkpoint.commit.0 + 1;
        }
        // Checkpoints are of whole commits here, so that going back is to one.
        let position = window.position();
        if position > checkpoint && position == Position::end_of(position.commit) {
            assert_holds(stored, position, "a checkpoint");
            checkpoint = position;
            handle.advance(position);
        }
    }
    assert_eq!(window.position(), Position::end_of(Lsn(COMMITS)));
    for (sender, worker) in workers {
        drop(sender);
        worker.join().unwrap();
    }
}

#[test]
fn neither_checkpoint_nor_watermark_passes_what_a_destination_lacks() {
    explore(|| {
        let watermark = Watermark::new();
        let stored: [Stored; 2] = Default::default();
        let handles = watermark.register_all([("a", None), ("b", None::<Position>)]);
        let lanes: Vec<_> = handles
            .into_iter()
            .enumerate()
            .map(|(n, handle)| {
                let stored = stored[n].clone();
                thread::spawn(move || lane(&handle, &stored, n == 0))
            })
            .collect();
        let capture = {
            let (watermark, stored) = (watermark.clone(), stored.clone());
            thread::spawn(move || {
                let mut last = Position::ZERO;
                for _ in 0..12 {
                    let minimum = watermark.minimum();
                    assert!(minimum >= last, "the watermark went back");
                    last = minimum;
                    for stored in &stored {
                        assert_holds(stored, minimum, "the watermark");
                    }
                    thread::yield_now();
                }
            })
        };
        for lane in lanes {
            lane.join().unwrap();
        }
        capture.join().unwrap();
        assert_eq!(
            watermark.minimum(),
            Position::end_of(Lsn(COMMITS)),
            "a lane's last checkpoint was lost"
        );
    });
}

#[test]
fn a_lane_that_joins_late_holds_the_watermark_from_then_on() {
    explore(|| {
        let at = |n| Position::end_of(Lsn(n));
        let watermark = Watermark::new();
        let fast = watermark.register("fast", Some(at(1)));
        let advance = thread::spawn(move || {
            for n in 2..=6 {
                fast.advance(at(n));
            }
        });
        let late = {
            let watermark = watermark.clone();
            thread::spawn(move || {
                let handle = watermark.register("late", None);
                let held = watermark.minimum();
                thread::yield_now();
                assert_eq!(
                    watermark.minimum(),
                    held,
                    "it moved past a lane that has nothing"
                );
                handle.advance(at(6));
            })
        };
        advance.join().unwrap();
        late.join().unwrap();
        assert_eq!(watermark.minimum(), at(6));
    });
}
