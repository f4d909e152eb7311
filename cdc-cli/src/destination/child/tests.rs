//! Children of every temper.

use std::path::{Path, PathBuf};
use std::process::Command;

use cdc_core::envelope::Format;
use cdc_core::testing::conformance::{self, Subject};
use cdc_core::testing::transaction;
use cdc_core::{EventId, Position};
use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);
/// Answers each event with its id, the first member of every event.
const ECHO: &str = r#"sed -u 's/^{"id":"\([^"]*\)".*/\1/'"#;

fn emitter(command: &[&str], timeout: Duration) -> ChildEmitter {
    ChildEmitter::new(ChildConfig {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        batch_size: 100,
        timeout,
        stop_timeout: LONG,
        encoder: Encoder::new(Format::Json),
    })
}

fn child(script: &str, timeout: Duration) -> ChildEmitter {
    emitter(&["sh", "-c", script], timeout)
}

fn batch(count: u32) -> EventBatch {
    transaction(7, 1, count)
}

fn is_retry(error: &EmitError) -> bool {
    error.kind == EmitErrorKind::EndpointRetry { retry_after: None }
}

/// True if a process with this id is there (and not only waiting to be asked for its status).
fn runs(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

#[tokio::test]
async fn a_child_that_answers_every_event_takes_them_all() {
    let mut emitter = child(ECHO, LONG);
    emitter.resume(None).await.unwrap();
    for _ in 0..3 {
        assert_eq!(emitter.emit(&batch(500)).await.unwrap(), Receipt::DURABLE);
    }
}

#[tokio::test]
async fn a_rejected_event_is_named_and_the_rest_is_taken() {
    let script = r#"sed -u 's/^{"id":"\([^"]*00000001\)".*/{"reject":"\1","reason":"too\\u001b\\nbig"}/; s/^{"id":"\([^"]*\)".*/\1/'"#;
    let receipt = child(script, LONG).emit(&batch(3)).await.unwrap();
    let indices: Vec<_> = receipt.rejected.iter().map(|r| r.index).collect();
    assert_eq!(indices, [1]);
    // Terminals and logs show it: control characters are not theirs to obey.
    assert!(receipt.rejected[0].message.ends_with("too  big"));
}

#[tokio::test]
async fn rejecting_the_last_event_says_nothing_about_those_before_it() {
    // Only the third event is answered, by a rejection; the first two are not.
    let only_reject = r#"sed -u -n 's/^{"id":"\([^"]*00000002\)".*/{"reject":"\1"}/p'"#;
    let error = child(only_reject, SHORT).emit(&batch(3)).await.unwrap_err();
    assert!(error.to_string().contains("did not answer"), "{error}");
    // With the second acknowledged, everything has its answer.
    let both = r#"sed -u -n 's/^{"id":"\([^"]*00000002\)".*/{"reject":"\1"}/p; s/^{"id":"\([^"]*00000001\)".*/\1/p'"#;
    let receipt = child(both, LONG).emit(&batch(3)).await.unwrap();
    assert_eq!(receipt.rejected.len(), 1);
    // And so it has if every event is rejected, whatever the order.
    let all = r#"sed -u 's/^{"id":"\([^"]*\)".*/{"reject":"\1"}/'"#;
    let receipt = child(all, LONG).emit(&batch(3)).await.unwrap();
    assert_eq!(receipt.rejected.len(), 3);
}

#[tokio::test]
async fn a_child_that_dies_or_talks_nonsense_is_an_unwell_destination() {
    let torn = r#"head -n 3 | sed -u -n '3s/^{"id":"\([^"]*\)".*/\1/p' | tr -d '\n'"#;
    for (script, words) in [
        ("exit 3", "ended before it answered"),
        ("head -n 1 >/dev/null", "ended before it answered"),
        ("kill -9 $$", "ended before it answered"),
        ("echo hello; cat >/dev/null", "no event id"),
        ("cat", "no member \"reject\""),
        (torn, "in the middle of an answer"),
        ("head -c 100000 /dev/zero; cat >/dev/null", "longer than"),
        ("printf '\\377\\n'; cat >/dev/null", "not UTF-8"),
        (
            "echo ffffffffffffffff-0000000000000007-00000002; cat >/dev/null",
            "another source",
        ),
        (
            "echo 5a5a5a5a5a5a5a5a-0000000000000008-00000000; cat >/dev/null",
            "was not given",
        ),
        (
            "echo '{\"reject\":\"x\"}'; cat >/dev/null",
            "not in the batch",
        ),
    ] {
        let mut emitter = child(script, LONG);
        let error = emitter.emit(&batch(3)).await.unwrap_err();
        assert!(is_retry(&error), "{script}");
        assert!(error.to_string().contains(words), "{script}: {error}");
        assert!(
            emitter.running.is_none(),
            "{script}: the next attempt starts it again"
        );
    }
}

#[tokio::test]
async fn an_answer_to_an_earlier_batch_is_no_answer_to_this_one() {
    // Repeats the id of the first event it ever got before each answer.
    let script = r#"read -r line; first=$(echo "$line" | cut -d '"' -f 4); echo $first
        while read -r line; do echo $first; echo "$line" | cut -d '"' -f 4; done"#;
    let mut emitter = child(script, LONG);
    emitter.emit(&transaction(7, 1, 1)).await.unwrap();
    emitter.emit(&transaction(8, 1, 3)).await.unwrap();
}

#[tokio::test]
async fn a_token_answers_everything_up_to_its_position() {
    let batch = batch(3);
    let token = |ordinal| {
        let position = Position::new(cdc_core::Lsn(7), ordinal);
        cdc_core::ResumeToken::new(batch.source().lineage, position)
    };
    let last = format!("echo {}; cat >/dev/null", token(2));
    child(&last, LONG).emit(&batch).await.unwrap();
    let early = format!("echo {}; cat >/dev/null", token(1));
    assert!(child(&early, SHORT).emit(&batch).await.is_err());
}

#[tokio::test]
async fn a_child_that_hangs_is_ended_and_the_next_one_takes_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; echo $$ >> pids; if [ -e second ]; then exec {ECHO}; fi; touch second; cat >/dev/null",
        dir.path().display()
    );
    let mut emitter = child(&script, Duration::from_secs(1));
    let error = emitter.emit(&batch(1)).await.unwrap_err();
    assert!(error.to_string().contains("did not answer"), "{error}");
    let pids = std::fs::read_to_string(dir.path().join("pids")).unwrap();
    assert!(!runs(&pids), "it is gone before the lane hears of it");
    emitter.config.timeout = LONG;
    emitter.emit(&batch(1)).await.unwrap();
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_is_killed_with_what_it_has_started() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "trap '' TERM; cd {}; sleep 1000 & echo $! > sleeper; echo $$ > pid; cat >/dev/null; wait",
        dir.path().display()
    );
    let mut emitter = child(&script, SHORT);
    emitter.config.stop_timeout = SHORT;
    emitter.emit(&batch(1)).await.unwrap_err();
    for name in ["pid", "sleeper"] {
        let pid = std::fs::read_to_string(dir.path().join(name)).unwrap();
        // The signal was sent to all of them; the orphan dies, and is reaped by whoever has it now, when its
        // turn on a processor comes.
        let gone = async {
            while runs(&pid) {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(LONG, gone).await;
        assert!(in_time.is_ok(), "{name}");
    }
}

/// A consumer behind a shell goes on when the shell is gone: the next one must not run beside it.
#[tokio::test]
async fn what_a_wrapper_has_started_is_gone_before_the_next_one_starts() {
    let dir = tempfile::tempdir().unwrap();
    // The consumer has work to finish after its SIGTERM. Its wrapper dies of it at once.
    let consumer = "trap 'sleep 0.5; echo finished > finished; exit' TERM; echo $$ > consumer; \
         while true; do sleep 0.01; done";
    let script = format!(
        "cd {}; sh -c \"$0\" & cat >/dev/null; wait",
        dir.path().display()
    );
    let mut emitter = emitter(&["sh", "-c", &script, consumer], SHORT);
    let path = |name: &str| dir.path().join(name);
    while !path("consumer").exists() {
        emitter.emit(&batch(1)).await.unwrap_err();
    }
    assert!(path("finished").exists(), "it was given the time to finish");
    let pid = std::fs::read_to_string(path("consumer")).unwrap();
    assert!(!runs(&pid), "it is gone before the lane hears of it");
}

#[tokio::test]
async fn an_orderly_end_closes_the_input_and_waits() {
    let dir = tempfile::tempdir().unwrap();
    let done = dir.path().join("done");
    // It takes its time after the end of its input, and a SIGTERM would keep it from ending well.
    let script = format!("{ECHO}; sleep 0.2; echo well > {}", done.display());
    let mut emitter = child(&script, LONG);
    emitter.emit(&batch(3)).await.unwrap();
    drop(emitter);
    assert_eq!(std::fs::read_to_string(done).unwrap(), "well\n");
}

#[tokio::test]
async fn a_child_that_goes_on_after_its_input_ended_gets_sigterm_and_then_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let script = format!(
        "cd {}; trap 'echo term > term' TERM; echo $$ > pid; {ECHO}; while true; do sleep 0.01; done",
        dir.path().display()
    );
    let mut emitter = child(&script, LONG);
    emitter.config.stop_timeout = Duration::from_millis(300);
    emitter.emit(&batch(3)).await.unwrap();
    drop(emitter);
    assert_eq!(std::fs::read_to_string(path("term")).unwrap(), "term\n");
    let pid = std::fs::read_to_string(path("pid")).unwrap();
    while runs(&pid) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_dropped_emit_ends_the_child_before_another_is_started() {
    let dir = tempfile::tempdir().unwrap();
    // Only one may hold the lock; the first one never answers.
    let script = format!(
        "cd {}; mkdir lock || exit 9; trap 'rmdir lock; exit' TERM; echo $$ >> pids; \
         if [ -e second ]; then {ECHO}; fi; touch second; while true; do sleep 0.01; done",
        dir.path().display()
    );
    let mut emitter = child(&script, LONG);
    let batch = batch(2);
    {
        let sending = emitter.emit(&batch);
        tokio::pin!(sending);
        let begun = dir.path().join("second");
        loop {
            tokio::select! {
                biased;
                outcome = &mut sending => panic!("{outcome:?}"),
                () = tokio::task::yield_now() => if begun.exists() { break },
            }
        }
    }
    emitter.emit(&batch).await.unwrap();
    let pids = std::fs::read_to_string(dir.path().join("pids")).unwrap();
    assert_eq!(pids.lines().count(), 2);
    emitter.config.stop_timeout = SHORT;
    emitter.end().await;
}

#[tokio::test]
async fn a_child_that_died_between_two_batches_is_started_again() {
    let mut emitter = child("head -n 1 | cut -d '\"' -f 4", LONG);
    for commit in 1..4 {
        let outcome = emitter.emit(&transaction(commit, 1, 1)).await;
        // Whether its end is seen before or after the batch was written, nothing is lost.
        if let Err(error) = outcome {
            assert!(is_retry(&error), "{error}");
            emitter.emit(&transaction(commit, 1, 1)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let mut emitter = emitter(&["/no/such/program"], LONG);
    let error = emitter.emit(&batch(1)).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

proptest! {
    #[test]
    fn any_answer_is_no_panic(
        lines in proptest::collection::vec(
            prop_oneof![
                "\\PC{0,60}",
                "5a5a5a5a5a5a5a5a-000000000000000[5-9]-0000000[0-4]",
                Just("{\"reject\":\"5a5a5a5a5a5a5a5a-0000000000000007-00000001\"}".to_owned()),
            ],
            0..6,
        ),
        cut in any::<bool>(),
    ) {
        let batch = batch(3);
        let mut text = lines.join("\n");
        if !cut {
            text.push('\n');
        }
        let mut answers = Answers::new(&batch);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let outcome = runtime
            .block_on(answers.read(&mut tokio::io::BufReader::new(text.as_bytes())));
        let rejected: Vec<_> = answers.rejected().iter().map(|r| r.index).collect();
        prop_assert!(rejected.is_sorted());
        if outcome.is_ok() {
            // Somebody said that all is done.
            let last = "5a5a5a5a5a5a5a5a-0000000000000007-00000002";
            let says = |line: &String| line.starts_with("5a5a") && line.as_str() >= last;
            prop_assert!(lines.iter().any(says), "{lines:?}");
        }
    }
}

/// Where the examples are: in the source, or built beside this test.
fn example(name: &str) -> PathBuf {
    if name == "consumer.py" {
        return Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(name);
    }
    let built = std::env::current_exe().unwrap();
    let built = built
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        built.exists(),
        "{} is missing; `cargo build --examples` makes it",
        built.display()
    );
    built
}

/// One of the example consumers, and what it keeps.
struct Consumer {
    command: Vec<String>,
    kept: PathBuf,
    _dir: tempfile::TempDir,
}

impl Consumer {
    fn new(python: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        let mut command = Vec::new();
        if python {
            let found = Command::new("python3").arg("--version").output();
            found.expect("python3 runs the example consumer; install python3");
            command.push("python3".to_owned());
            command.push(example("consumer.py").display().to_string());
        } else {
            command.push(example("consumer").display().to_string());
        }
        command.push(kept.display().to_string());
        Self {
            command,
            kept,
            _dir: dir,
        }
    }

    fn ids(&self) -> Vec<EventId> {
        if !self.kept.exists() {
            return Vec::new();
        }
        let text = if self.command[0] == "python3" {
            let script = "import sqlite3, sys\nfor row in sqlite3.connect(sys.argv[1]).execute('SELECT id FROM event ORDER BY rowid'): print(row[0])";
            let mut python = Command::new("python3");
            let output = python
                .args(["-c", script])
                .arg(&self.kept)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        } else {
            let lines = std::fs::read_to_string(&self.kept).unwrap();
            let ids = lines.lines().map(|line| line.split('"').nth(3).unwrap());
            ids.collect::<Vec<_>>().join("\n")
        };
        text.lines().map(|id| id.parse().unwrap()).collect()
    }
}

impl Subject for Consumer {
    type Emitter = ChildEmitter;

    async fn open(&mut self) -> ChildEmitter {
        let command: Vec<_> = self.command.iter().map(String::as_str).collect();
        emitter(&command, LONG)
    }

    async fn taken(&mut self) -> Vec<Position> {
        self.ids().into_iter().map(EventId::position).collect()
    }
}

#[tokio::test]
async fn the_example_consumers_keep_the_emitter_contract() {
    for python in [true, false] {
        conformance::check(async || Consumer::new(python)).await;
    }
}

#[tokio::test]
async fn the_example_consumers_keep_each_event_once() {
    for python in [true, false] {
        let mut consumer = Consumer::new(python);
        let mut emitter = consumer.open().await;
        // The same events again, as after a crash, and by another process.
        for _ in 0..2 {
            for commit in 1..5 {
                emitter.emit(&transaction(commit, 1, 10)).await.unwrap();
            }
            emitter.end().await;
        }
        let ids = consumer.ids();
        assert_eq!(ids.len(), 40, "python: {python}");
        assert!(ids.is_sorted());
    }
}

/// A dead letter that is sent again lies behind what came before it, and is kept all the same.
#[tokio::test]
async fn the_example_consumers_keep_a_redriven_letter() {
    for python in [true, false] {
        let mut consumer = Consumer::new(python);
        let mut emitter = consumer.open().await;
        for commit in [51, 200, 50, 50] {
            emitter.emit(&transaction(commit, 1, 1)).await.unwrap();
        }
        // Also by another process, which has only read what is kept.
        emitter.end().await;
        for commit in [40, 50] {
            emitter.emit(&transaction(commit, 1, 1)).await.unwrap();
        }
        emitter.end().await;
        let commits: Vec<_> = consumer
            .ids()
            .iter()
            .map(|id| id.position().commit.0)
            .collect();
        assert_eq!(commits, [51, 200, 50, 40], "python: {python}");
    }
}
