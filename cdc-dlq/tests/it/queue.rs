//! What the pipeline and the command line rely on.

use std::os::unix::fs::PermissionsExt;

use cdc_core::storage::{StdStorage, Storage};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{DeadLetter, DeadLetterQueue, DlqError, LetterState};
use cdc_dlq::{DlqOptions, DlqReader, FileDlq, LetterFilter};

use crate::sample::{PATH, commits, id, letter, open, positions};

fn same(a: &DeadLetter, b: &DeadLetter) {
    assert_eq!(
        (&a.emitter, &a.source, &a.event),
        (&b.emitter, &b.source, &b.event)
    );
    assert_eq!(
        (&a.failure, a.attempts, a.state),
        (&b.failure, b.attempts, b.state)
    );
    assert_eq!(a.first_failed_micros, b.first_failed_micros);
    assert_eq!(a.last_failed_micros, b.last_failed_micros);
}

#[test]
fn letters_come_back_in_position_order_and_survive_a_restart() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    dlq.append(&[letter("b", 3), letter("a", 2), letter("b", 1)])
        .unwrap();
    dlq.append(&[letter("b", 2)]).unwrap();
    drop(dlq);
    let mut dlq = open(&disk);
    assert_eq!(
        positions(&dlq.open_letters("b", None, 9).unwrap()),
        [1, 2, 3]
    );
    assert_eq!(positions(&dlq.open_letters("b", None, 2).unwrap()), [1, 2]);
    let after = Some(letter("", 2).event.position);
    assert_eq!(positions(&dlq.open_letters("b", after, 9).unwrap()), [3]);
    assert_eq!(positions(&dlq.open_letters("a", None, 9).unwrap()), [2]);
    assert!(dlq.open_letters("c", None, 9).unwrap().is_empty());
    same(
        &dlq.reader().get("a", id(2)).unwrap().unwrap(),
        &letter("a", 2),
    );
}

#[test]
fn a_letter_that_fails_again_is_updated_not_doubled() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    dlq.append(&[letter("a", 1)]).unwrap();
    let mut again = letter("a", 1);
    again.first_failed_micros = 5000;
    again.last_failed_micros = 5000;
    again.failure.class = "transform".into();
    dlq.append(&[again.clone()]).unwrap();
    for _ in 0..2 {
        let stored = dlq.open_letters("a", None, 9).unwrap();
        let expected = DeadLetter {
            first_failed_micros: 1000,
            attempts: 2,
            ..again.clone()
        };
        assert_eq!(stored.len(), 1);
        same(&stored[0], &expected);
        drop(dlq);
        dlq = open(&disk);
    }
    // A redrive says how often it was tried in all.
    again.attempts = 9;
    dlq.append(&[again]).unwrap();
    assert_eq!(dlq.open_letters("a", None, 9).unwrap()[0].attempts, 9);
}

#[test]
fn a_replayed_parked_letter_leaves_the_stored_one_alone() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    let mut parked = letter("a", 1);
    parked.state = LetterState::Parked;
    dlq.append(&[letter("a", 1), letter("a", 2)]).unwrap();
    let (bytes, mut second) = (dlq.reader().bytes(), letter("a", 2));
    second.state = LetterState::Parked;
    dlq.append(&[parked, second]).unwrap();
    assert_eq!(dlq.reader().bytes(), bytes, "nothing is written");
    let states: Vec<_> = dlq
        .open_letters("a", None, 9)
        .unwrap()
        .iter()
        .map(|l| l.state)
        .collect();
    assert_eq!(states, [LetterState::Pending; 2]);
}

#[test]
fn closed_letters_are_gone_and_may_come_again() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    dlq.append(&[letter("a", 1), letter("a", 2), letter("b", 1)])
        .unwrap();
    dlq.set_state("a", id(1), LetterState::Delivered).unwrap();
    dlq.set_state("a", id(2), LetterState::Discarded).unwrap();
    // Closing twice, or what was never there, is no error: a crash may repeat it.
    dlq.set_state("a", id(1), LetterState::Delivered).unwrap();
    dlq.set_state("x", id(9), LetterState::Delivered).unwrap();
    drop(dlq);
    let mut dlq = open(&disk);
    assert!(dlq.open_letters("a", None, 9).unwrap().is_empty());
    assert_eq!(dlq.reader().len(), 1);
    dlq.append(&[letter("a", 1)]).unwrap();
    assert_eq!(dlq.open_letters("a", None, 9).unwrap()[0].attempts, 1);
}

#[test]
fn redriving_is_pending_again_after_a_restart() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    dlq.append(&[letter("a", 1), letter("a", 2)]).unwrap();
    dlq.set_state("a", id(1), LetterState::Redriving).unwrap();
    dlq.set_state("a", id(2), LetterState::Parked).unwrap();
    let states = |dlq: &mut FileDlq| {
        let letters = dlq.open_letters("a", None, 9).unwrap();
        letters.iter().map(|l| l.state).collect::<Vec<_>>()
    };
    assert_eq!(
        states(&mut dlq),
        [LetterState::Redriving, LetterState::Parked]
    );
    // A reader beside the process sees it at work.
    let beside = DlqReader::open(&disk, PATH).unwrap();
    assert_eq!(beside.stats().groups[1].state, LetterState::Redriving);
    drop(dlq);
    assert_eq!(
        states(&mut open(&disk)),
        [LetterState::Pending, LetterState::Parked]
    );
}

#[test]
fn one_writer_many_readers_private_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("var/dlq");
    assert!(DlqReader::open(&StdStorage, &path).unwrap().is_empty());
    let open = || FileDlq::open(StdStorage::shared(), &path, DlqOptions::default());
    let mut dlq = open().unwrap();
    dlq.append(&[letter("a", 1)]).unwrap();
    let second = open().unwrap_err();
    assert!(matches!(second, DlqError::InUse { .. }), "{second}");
    assert!(second.to_string().contains("another process is using it"));
    let reader = DlqReader::open(&StdStorage, &path).unwrap();
    same(&reader.get("a", id(1)).unwrap().unwrap(), &letter("a", 1));
    for name in StdStorage.list(&path).unwrap() {
        let mode = std::fs::metadata(path.join(&name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    drop(dlq);
    open().unwrap();
}

#[test]
fn filters_pick_and_stats_count() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    let mut late = letter("a", 2);
    late.last_failed_micros = 2000;
    late.failure.class = "transform".into();
    let mut parked = letter("b", 3);
    parked.state = LetterState::Parked;
    dlq.append(&[letter("a", 1), late, parked]).unwrap();
    let pick = |filter: LetterFilter| {
        let ids = dlq.reader().ids(&filter).unwrap();
        ids.iter()
            .map(|(_, id)| id.position().commit.0)
            .collect::<Vec<_>>()
    };
    let some = |text: &str| Some(text.to_owned());
    let any = LetterFilter::default;
    assert_eq!(pick(any()), [1, 2, 3]);
    assert_eq!(pick(LetterFilter::emitter("b")), [3]);
    assert_eq!(
        pick(LetterFilter {
            class: some("transform"),
            ..any()
        }),
        [2]
    );
    assert_eq!(
        pick(LetterFilter {
            state: Some(LetterState::Parked),
            ..any()
        }),
        [3]
    );
    assert_eq!(
        pick(LetterFilter {
            since_micros: Some(2000),
            ..any()
        }),
        [2]
    );
    assert_eq!(
        pick(LetterFilter {
            until_micros: Some(2000),
            ..any()
        }),
        [1, 3]
    );
    assert_eq!(
        pick(LetterFilter {
            id_prefix: Some(id(2).to_string()),
            ..any()
        }),
        [2]
    );
    assert_eq!(
        pick(LetterFilter {
            id_prefix: some("5a5a"),
            ..any()
        }),
        [1, 2, 3]
    );
    let key = |text: &str| Some(text.parse().unwrap());
    for (row, found) in [("7", &[1, 2, 3][..]), ("id=7", &[1, 2, 3]), ("8", &[])] {
        assert_eq!(
            pick(LetterFilter {
                key: key(row),
                ..any()
            }),
            found,
            "{row}"
        );
    }
    assert_eq!(
        pick(LetterFilter {
            key: key("7"),
            ..LetterFilter::emitter("b")
        }),
        [3]
    );
    for table in ["orders", "public.orders"] {
        assert_eq!(
            pick(LetterFilter {
                table: some(table),
                ..any()
            }),
            [1, 2, 3]
        );
    }
    for table in [
        "order",
        "rders",
        "lic.orders",
        ".orders",
        "other.orders",
        "public.order",
    ] {
        assert_eq!(
            pick(LetterFilter {
                table: some(table),
                ..any()
            }),
            [] as [u64; 0],
            "{table}"
        );
    }
    let stats = dlq.reader().stats();
    let groups: Vec<_> = stats
        .groups
        .iter()
        .map(|g| {
            (
                g.emitter.as_str(),
                g.state,
                g.class.as_str(),
                g.letters,
                g.oldest_micros,
            )
        })
        .collect();
    assert_eq!(
        groups,
        [
            ("a", LetterState::Pending, "event", 1, 1000),
            ("a", LetterState::Pending, "transform", 1, 2000),
            ("b", LetterState::Parked, "event", 1, 1000),
        ]
    );
    assert_eq!((stats.letters, stats.segments), (3, 1));
    let discarded = dlq.set_state_where(&LetterFilter::emitter("a"), LetterState::Discarded);
    assert_eq!(discarded.unwrap(), 2);
    assert_eq!(commits(dlq.reader()), [3]);
    let given = dlq.set_states([("b", id(3)), ("b", id(4))], LetterState::Pending);
    assert_eq!(given.unwrap(), 1);
}

#[test]
fn export_is_a_line_of_json_a_letter() {
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    let mut odd = letter("a", 2);
    odd.failure.message = "line\nfeed \"quoted\"".into();
    odd.failure.status = None;
    odd.failure.response = None;
    dlq.append(&[letter("a", 1), odd]).unwrap();
    let mut out = Vec::new();
    assert_eq!(
        dlq.reader()
            .export(&LetterFilter::default(), &mut out)
            .unwrap(),
        2
    );
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    let expected = concat!(
        r#"{"emitter":"a","event_id":"5a5a5a5a5a5a5a5a-0000000000000001-00000000","state":"pending","attempts":1,"#,
        r#""stage":"deliver","class":"event","message":"POST https://example.com/hooks","status":422,"#,
        r#""response":"no such order","first_failed":"1970-01-01T00:00:00.001000Z","#,
        r#""last_failed":"1970-01-01T00:00:00.001000Z","event":{"id":"5a5a5a5a5a5a5a5a-0000000000000001-00000000","#
    );
    assert!(lines[0].starts_with(expected), "{}", lines[0]);
    assert!(lines[0].contains(r#""after":{"id":7,"name":"name","total":"1.50"}},"record":""#));
    let mut shown = Vec::new();
    cdc_dlq::letter_json(&letter("a", 1), &mut shown);
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.ends_with(r#""total":"1.50"}}}"#), "{shown}");
    assert!(
        lines[1].contains(r#""message":"line\nfeed \"quoted\"","status":null,"response":null"#)
    );
}

/// Many letters closed at once, listed page by page, counted without being looked at.
#[test]
fn batches_pages_and_counts_agree_with_the_letters() {
    let disk = SimStorage::default();
    let mut dlq = open(&disk);
    let letters: Vec<_> = (1..=100).map(|n| letter("hooks", n)).collect();
    dlq.append(&letters).unwrap();
    dlq.append(&[letter("audit", 7)]).unwrap();
    let closed: Vec<_> = (1..=40).map(id).collect();
    DeadLetterQueue::set_states(&mut dlq, "hooks", &closed, LetterState::Delivered).unwrap();
    dlq.set_state("hooks", id(41), LetterState::Parked).unwrap();
    drop(dlq);
    // All of it is on the disk.
    let dlq = open(&disk);
    let reader = dlq.reader();
    let filter = LetterFilter::emitter("hooks");
    let (mut behind, mut seen) = (None, Vec::new());
    loop {
        let page = reader.page(&filter, behind.as_ref(), 7, 11).unwrap();
        assert!(page.letters.len() <= 7);
        seen.extend(positions(&page.letters));
        behind = page.next;
        if behind.is_none() {
            break;
        }
    }
    assert_eq!(seen, (41..=100).collect::<Vec<_>>());
    let count = |emitter: &str, state| {
        let counts = reader.counts();
        let of = counts
            .iter()
            .filter(|c| c.emitter == emitter && c.state == state);
        of.map(|count| count.letters).sum::<u64>()
    };
    assert_eq!(count("hooks", LetterState::Pending), 59);
    assert_eq!(count("hooks", LetterState::Parked), 1);
    assert_eq!(count("audit", LetterState::Pending), 1);
    let groups: u64 = reader
        .stats()
        .groups
        .iter()
        .map(|group| group.letters)
        .sum();
    assert_eq!(
        reader.counts().iter().map(|c| c.letters).sum::<u64>(),
        groups
    );
}
