//! Any sequence of calls and restarts against a map.

use std::collections::BTreeMap;

use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{DeadLetterQueue, LetterState};
use cdc_dlq::{DlqOptions, DlqReader, FileDlq, LetterFilter};
use proptest::prelude::*;

use crate::sample::{PATH, id, letter};

#[derive(Clone, Debug)]
enum Action {
    Append(Vec<(u8, u64, LetterState)>),
    Set(u8, u64, LetterState),
    Discard(u8),
    Reopen,
    Crash(u64),
}

fn state() -> impl Strategy<Value = LetterState> {
    (0u8..5).prop_map(|n| LetterState::from_u8(n).unwrap())
}

fn action() -> impl Strategy<Value = Action> {
    let open = prop_oneof![Just(LetterState::Pending), Just(LetterState::Parked)];
    prop_oneof![
        6 => proptest::collection::vec((0u8..3, 0u64..20, open), 1..6).prop_map(Action::Append),
        6 => (0u8..3, 0u64..20, state()).prop_map(|(e, n, s)| Action::Set(e, n, s)),
        1 => (0u8..3).prop_map(Action::Discard),
        1 => Just(Action::Reopen),
        1 => any::<u64>().prop_map(Action::Crash),
    ]
}

/// Open letters: attempts and state.
type Model = BTreeMap<(u8, u64), (u32, LetterState)>;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn contents(reader: &DlqReader) -> Model {
    let mut model = Model::new();
    reader
        .scan(&LetterFilter::default(), |letter| {
            let emitter = NAMES.iter().position(|n| *n == &*letter.emitter).unwrap();
            let key = (
                u8::try_from(emitter).unwrap(),
                letter.event.position.commit.0,
            );
            assert!(model.insert(key, (letter.attempts, letter.state)).is_none());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    model
}

fn restarted(model: &mut Model) {
    for (_, state) in model.values_mut() {
        if *state == LetterState::Redriving {
            *state = LetterState::Pending;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_map(actions in proptest::collection::vec(action(), 1..80)) {
        let disk = SimStorage::new();
        // Segments of a few letters: rotation, removal and copying happen all the time.
        let options = DlqOptions { letters_max: 1000, bytes_max: 1 << 20, segment_bytes: 2048 };
        let open = || FileDlq::open(disk.shared(), PATH, options).unwrap();
        let mut dlq = Some(open());
        let mut model = Model::new();
        for action in actions {
            match action {
                Action::Append(letters) => {
                    let given: Vec<_> = letters.iter().map(|&(emitter, commit, state)| {
                        let mut letter = letter(NAMES[usize::from(emitter)], commit);
                        letter.state = state;
                        letter
                    }).collect();
                    dlq.as_mut().unwrap().append(&given).unwrap();
                    let before = model.clone();
                    for (emitter, commit, state) in letters {
                        match before.get(&(emitter, commit)) {
                            Some(_) if state == LetterState::Parked => {}
                            known => {
                                let attempts = known.map_or(1, |(attempts, _)| attempts + 1);
                                model.insert((emitter, commit), (attempts, state));
                            }
                        }
                    }
                }
                Action::Set(emitter, commit, state) => {
                    let name = NAMES[usize::from(emitter)];
                    dlq.as_mut().unwrap().set_state(name, id(commit), state).unwrap();
                    if !state.is_open() {
                        model.remove(&(emitter, commit));
                    } else if let Some((_, known)) = model.get_mut(&(emitter, commit)) {
                        *known = state;
                    }
                }
                Action::Discard(emitter) => {
                    let filter = LetterFilter::emitter(NAMES[usize::from(emitter)]);
                    let count = dlq.as_mut().unwrap().set_state_where(&filter, LetterState::Discarded).unwrap();
                    let before = model.len();
                    model.retain(|(e, _), _| *e != emitter);
                    prop_assert_eq!(count, (before - model.len()) as u64);
                }
                Action::Reopen => {
                    drop(dlq.take());
                    dlq = Some(open());
                    restarted(&mut model);
                }
                Action::Crash(seed) => {
                    // Everything so far was acknowledged, so nothing may change.
                    disk.crash(seed);
                    dlq = Some(open());
                    restarted(&mut model);
                }
            }
            let dlq = dlq.as_mut().unwrap();
            prop_assert_eq!(&contents(dlq.reader()), &model);
            prop_assert_eq!(&contents(&DlqReader::open(&disk, PATH).unwrap()), &model);
            for (number, name) in (0u8..).zip(NAMES) {
                let page = dlq.open_letters(name, None, 100).unwrap();
                let found: Vec<u64> = page.iter().map(|l| l.event.position.commit.0).collect();
                let expected: Vec<u64> = model.keys().filter(|k| k.0 == number).map(|k| k.1).collect();
                prop_assert_eq!(found, expected);
            }
            let stats = dlq.reader().stats();
            prop_assert_eq!(stats.letters, model.len() as u64);
            prop_assert!(stats.bytes <= 2 * stats.live_bytes + 4 * 4096, "{:?}", stats);
        }
    }
}
