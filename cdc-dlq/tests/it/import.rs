//! What was exported comes back: all of it, once, or nothing.

use std::io::Cursor;

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{DeadLetterQueue, LetterState};
use cdc_dlq::{DlqOptions, FileDlq, ImportError, Imported, LetterFilter, parse_line};
use proptest::prelude::*;

use crate::sample::{PATH, SMALL, commits, id, letter, open};

/// Lines of a queue with letters in each open state.
fn exported() -> (FileDlq, String) {
    let mut dlq = open(&SimStorage::new());
    let mut letters: Vec<_> = (1..=5).map(|n| letter("a", n)).collect();
    letters.push(letter("b", 3));
    letters[1].state = LetterState::Parked;
    letters[2].attempts = 7;
    dlq.append(&letters).unwrap();
    dlq.set_state("a", id(4), LetterState::Redriving).unwrap();
    let mut lines = Vec::new();
    let count = dlq.reader().export(&LetterFilter::default(), &mut lines);
    assert_eq!(count.unwrap(), 6);
    (dlq, String::from_utf8(lines).unwrap())
}

fn import(dlq: &mut FileDlq, lines: &str) -> Result<Imported, ImportError> {
    dlq.import(&mut Cursor::new(lines), false, |_| Ok(()))
}

fn export(dlq: &FileDlq) -> String {
    let mut lines = Vec::new();
    dlq.reader()
        .export(&LetterFilter::default(), &mut lines)
        .unwrap();
    String::from_utf8(lines).unwrap()
}

const fn counts(read: u64, taken: u64, known: u64) -> Imported {
    Imported { read, taken, known }
}

#[test]
fn letters_come_back_as_they_were_in_any_order_of_lines() {
    let (original, lines) = exported();
    let mut shuffled: Vec<_> = lines.lines().rev().collect();
    shuffled.swap(0, 2);
    let disk = SimStorage::new();
    let mut dlq = open(&disk);
    let done = import(&mut dlq, &shuffled.join("\n\n")).unwrap();
    assert_eq!(done, counts(6, 6, 0));
    for (emitter, id) in original.reader().ids(&LetterFilter::default()).unwrap() {
        let [before, after] = [&original, &dlq].map(|dlq| {
            let letter = dlq.reader().get(&emitter, id).unwrap();
            letter.unwrap()
        });
        assert_eq!(
            (&before.source, &before.event),
            (&after.source, &after.event)
        );
        assert_eq!(
            (&before.failure, before.attempts),
            (&after.failure, after.attempts)
        );
        assert_eq!(before.first_failed_micros, after.first_failed_micros);
        assert_eq!(before.last_failed_micros, after.last_failed_micros);
        // Nobody redrives it here.
        let state = match before.state {
            LetterState::Redriving => LetterState::Pending,
            state => state,
        };
        assert_eq!(after.state, state, "{id}");
    }
    // In position order, whatever the order of the lines; and durable.
    let page = dlq.open_letters("a", None, 10).unwrap();
    assert_eq!(crate::sample::positions(&page), [1, 2, 3, 4, 5]);
    drop(dlq);
    disk.crash(1);
    assert_eq!(commits(open(&disk).reader()), [1, 2, 3, 4, 5, 3]);
}

#[test]
fn what_is_there_stays_as_it_is_and_nothing_is_there_twice() {
    let (_, lines) = exported();
    let mut dlq = open(&SimStorage::new());
    let mut known = letter("a", 3);
    known.attempts = 40;
    dlq.append(&[known]).unwrap();
    let twice = format!("{lines}{lines}");
    assert_eq!(import(&mut dlq, &twice).unwrap(), counts(12, 5, 7));
    let kept = dlq.reader().get("a", id(3)).unwrap().unwrap();
    assert_eq!(kept.attempts, 40);
    let before = export(&dlq);
    assert_eq!(import(&mut dlq, &twice).unwrap(), counts(12, 0, 12));
    assert_eq!(export(&dlq), before);
}

#[test]
fn one_bad_line_imports_nothing_and_is_named() {
    let (_, lines) = exported();
    let whole: Vec<&str> = lines.lines().collect();
    let cut = &whole[3][..whole[3].len() - 5];
    let edited = whole[3].replacen("\"attempts\":1", "\"attempts\":2", 1);
    let row = whole[3].replacen("\"name\":\"name\"", "\"name\":\"nome\"", 1);
    let at = whole[3].len() - 60;
    let mut damaged = whole[3].to_owned();
    let other = if &damaged[at..=at] == "A" { "B" } else { "A" };
    damaged.replace_range(at..=at, other);
    let bare = r#"{"emitter":"a","event_id":"x"}"#.to_owned();
    assert!(edited != whole[3] && row != whole[3]);
    for (bad, words) in [
        (cut, "not one whole JSON object"),
        ("[1]", "not one whole JSON object"),
        (&edited, "`attempts` does not say what `record` says"),
        (&row, "`event` does not say what `record` says"),
        (&damaged, "its `record` is damaged"),
        (&bare, "it has no `record`"),
    ] {
        let mut lines = whole.clone();
        lines[3] = bad;
        let disk = SimStorage::new();
        let mut dlq = open(&disk);
        let before = dlq.reader().bytes();
        let error = import(&mut dlq, &lines.join("\n")).unwrap_err().to_string();
        assert!(
            error.starts_with("line 4: ") && error.contains(words),
            "{error}"
        );
        assert!(dlq.reader().is_empty());
        assert_eq!(dlq.reader().bytes(), before, "nothing was written");
        dlq.append(&[letter("a", 1)]).unwrap();
    }
}

#[test]
fn letters_that_are_not_wanted_and_a_look_without_import() {
    let (_, lines) = exported();
    let mut dlq = open(&SimStorage::new());
    let refused = dlq.import(&mut Cursor::new(&lines), false, |letter| {
        if &*letter.emitter == "b" {
            Err("emitter b is not configured".to_owned())
        } else {
            Ok(())
        }
    });
    let error = refused.unwrap_err().to_string();
    assert_eq!(error, "line 6: emitter b is not configured");
    let looked = dlq.import(&mut Cursor::new(&lines), true, |_| Ok(()));
    assert_eq!(looked.unwrap(), counts(6, 6, 0));
    assert!(dlq.reader().is_empty());
}

#[test]
fn an_import_that_does_not_fit_is_refused_whole() {
    let (_, lines) = exported();
    for (options, words) in [
        (
            DlqOptions {
                letters_max: 5,
                ..SMALL
            },
            "letters",
        ),
        (
            DlqOptions {
                bytes_max: 800,
                ..SMALL
            },
            "bytes",
        ),
    ] {
        let disk = SimStorage::new();
        let mut dlq = FileDlq::open(disk.shared(), PATH, options).unwrap();
        let error = import(&mut dlq, &lines).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(dlq.reader().is_empty());
    }
}

#[test]
fn an_import_that_a_crash_cut_short_is_completed_by_the_same_import() {
    let (_, lines) = exported();
    let whole = SimStorage::new();
    import(&mut open(&whole), &lines).unwrap();
    for at in 0..whole.calls() {
        let disk = SimStorage::new();
        disk.fail_after(at, Failure::Stop);
        let opened = FileDlq::open(disk.shared(), PATH, SMALL);
        let cut = opened.map(|mut dlq| import(&mut dlq, &lines).is_err());
        assert!(cut.unwrap_or(true), "call {at} fails");
        disk.crash(at);
        let mut dlq = open(&disk);
        let again = import(&mut dlq, &lines).unwrap();
        assert_eq!(again.taken + again.known, 6, "call {at}");
        assert_eq!(commits(dlq.reader()), [1, 2, 3, 4, 5, 3], "call {at}");
    }
}

proptest! {
    #[test]
    fn any_line_is_safe(line in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,60}") {
        let _ = parse_line(&line);
        let _ = parse_line(format!(r#"{{"emitter":"a","record":"{text}"}}"#).as_bytes());
    }
}
