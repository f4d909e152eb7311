//! Destinations that are full, gone or closed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use super::shop::{Running, Shop, file_config, ids, refused, until};

/// A small file system of its own; `None` where mounting is not allowed.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(at)
            .output();
        let mounted = out.is_ok_and(|out| out.status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

/// Free space comes back: the stream has waited and goes on by itself.
#[test]
fn a_full_disk_holds_the_stream_until_there_is_room() {
    let mut shop = Shop::new();
    let Some(disk) = Disk::mount(&shop.tool.path("out"), "512k") else {
        eprintln!("no mounts here: only a limit of file sizes is tested, below");
        return;
    };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 400 << 10]).unwrap();
    let fast = ["run", "--set", "retry.base=10ms", "--set", "retry.max=50ms"];
    let mut run = Running::start(shop.tool.command(&fast));
    run.until_health("running");
    shop.commit(40);
    until("what there is room for is delivered", || {
        (shop.delivered() == shop.committed()).then_some(())
    });
    shop.commit(160);
    let reason = run.until_health("retrying");
    assert!(
        reason.contains("out/") && reason.contains("the disk is full, free some space"),
        "{reason}"
    );
    // Killed in the middle of it: nothing is lost by that either.
    drop(run);
    let mut run = Running::start(shop.tool.command(&fast));
    run.until_health("retrying");
    assert!(shop.delivered().len() < 200);

    std::fs::remove_file(&ballast).unwrap();
    until("everything is delivered", || {
        (shop.delivered() == shop.committed()).then_some(())
    });
    run.until_health("running");
    run.ask_to_stop();
    let end = run.end();
    assert_eq!(end.code, 0, "{}", end.err);
    shop.goes_on();
}

/// As root or not, with mounts or without: files cannot grow beyond a limit.
#[test]
fn a_file_that_cannot_grow_holds_the_stream() {
    let mut shop = Shop::new();
    shop.commit(200);
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -f 300; exec \"$0\" run"])
        .arg(env!("CARGO_BIN_EXE_cdc-cli"))
        .current_dir(shop.tool.directory())
        .env_clear();
    let mut run = Running::start(command);
    let reason = run.until_health("retrying");
    assert!(reason.contains("out/"), "{reason}");
    let held = shop.delivered();
    assert_eq!(held, (1..=held.len() as i64).collect::<Vec<_>>());
    assert!(held.len() < 200);
    run.ask_to_stop();
    assert_eq!(run.end().code, 0, "a waiting stream still drains");
    shop.goes_on();
}

#[test]
fn a_closed_standard_output_stops_the_queue_and_acknowledges_nothing() {
    let mut shop = Shop::with_config(PRINTED);
    shop.commit(300);
    for arguments in [&["run"][..], &["run", "--once"]] {
        let mut run = Running::start(shop.tool.command(arguments));
        run.close_output();
        let end = run.end();
        refused(&end, 6, &["standard output", "roken pipe"]);
    }
    // A full device is told apart from a reader that went away.
    let mut command = shop.tool.command(&["-q", "run"]);
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let out = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let out = out.wait_with_output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(6), "{err}");
    assert!(
        err.contains("standard output") && err.contains("No space left"),
        "{err}"
    );

    let run = shop.tool.run(&["-q", "run", "--once"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert_eq!(
        ids(&run.out),
        shop.committed(),
        "nothing was taken for delivered"
    );
    assert_eq!(shop.tool.answer(&["-q", "run", "--once"]), "");
}

const PRINTED: &str =
    "[cdc]\nsource = \"wal:wal\"\nstate_path = \"state\"\ndlq_path = \"dlq\"\nbatch_size = 10\n";

/// A pipe holds 64 KiB: what stood in it when the reader went away comes again.
#[test]
fn a_reader_that_leaves_half_way_loses_nothing() {
    let mut shop = Shop::with_config(PRINTED);
    shop.commit_sized(60, 10);
    for pause in [&["-q", "run"][..], &["-q", "run", "--once"]] {
        let mut command = shop.tool.command(pause);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Byte by byte, so that nothing more is taken out of the pipe.
        let mut out = child.stdout.take().unwrap();
        let mut taken = Vec::new();
        while taken.iter().filter(|byte| **byte == b'\n').count() < 12 {
            let mut byte = [0];
            out.read_exact(&mut byte).unwrap();
            taken.push(byte[0]);
        }
        drop(out);
        let end = child.wait_with_output().unwrap();
        let err = String::from_utf8(end.stderr).unwrap();
        assert_eq!(end.status.code(), Some(6), "{err}");
        assert!(err.contains("its reader went away"), "{err}");
        let taken = ids(&String::from_utf8(taken).unwrap());
        let first = taken[0];
        let rest = ids(&shop.tool.answer(&["-q", "run", "--once"]));
        // One batch was taken whole and may be known to be; the second, taken in part, comes again.
        let again = rest[0];
        assert!(
            (first..=first + 10).contains(&again),
            "{again} behind {first}"
        );
        assert_eq!(
            rest,
            (again..=shop.committed().len() as i64).collect::<Vec<_>>()
        );
        assert_eq!(shop.tool.answer(&["-q", "run", "--once"]), "");
        shop.commit_sized(60, 10);
    }
}

#[test]
fn a_standard_output_that_was_never_open_takes_nothing() {
    let mut shop = Shop::with_config(PRINTED);
    shop.commit(20);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" run --once >&-"]);
    let out = command
        .arg(env!("CARGO_BIN_EXE_cdc-cli"))
        .current_dir(shop.tool.path("."))
        .output()
        .unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(6), "{err}");
    assert!(err.contains("standard output: it is closed"), "{err}");
    let printed = shop.tool.answer(&["-q", "run", "--once"]);
    assert_eq!(ids(&printed), shop.committed());
}

/// Answers every POST with the same status, and keeps the ids of what it took.
struct Receiver {
    port: u16,
    status: Arc<AtomicU16>,
    taken: Arc<Mutex<Vec<i64>>>,
}

impl Receiver {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            port: listener.local_addr().unwrap().port(),
            status: Arc::new(AtomicU16::new(status)),
            taken: Arc::default(),
        };
        let (status, taken) = (receiver.status.clone(), receiver.taken.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).unwrap();
                    let line = line.trim().to_ascii_lowercase();
                    if let Some(value) = line.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let status = status.load(Ordering::SeqCst);
                if status == 200 {
                    let events: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
                    let ids = events.iter().map(|e| e["after"]["id"].as_i64().unwrap());
                    taken.lock().unwrap().extend(ids);
                }
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        receiver
    }
}

#[test]
fn a_destination_that_says_gone_stops_its_emitter() {
    let receiver = Receiver::start(410);
    let config = file_config("wal:wal");
    let (head, _) = config.split_once("emitter").unwrap();
    let mut shop = Shop::with_config(&format!(
        "{head}emitter = \"webhook\"\n[cdc.webhook]\nurl = \"http://127.0.0.1:{}/hook\"\nallow_http = true\nallow_private = true\nbatch_size = 7\n",
        receiver.port
    ));
    shop.commit(30);
    for arguments in [&["-q", "run"][..], &["-q", "run", "--once"]] {
        let run = shop.tool.run(arguments);
        refused(
            &run,
            6,
            &["webhook", "410", "gone for good", "set another `url`"],
        );
    }
    assert!(receiver.taken.lock().unwrap().is_empty());
    assert_eq!(
        shop.tool
            .answer(&["dlq", "ls", "-o", "json"])
            .matches("position")
            .count(),
        0
    );
    receiver.status.store(200, Ordering::SeqCst);
    shop.delivers();
    assert_eq!(*receiver.taken.lock().unwrap(), shop.committed());
}

/// Before a start, not by it.
#[test]
fn certificates_that_cannot_be_read_are_found_by_a_check() {
    let webhook = "[cdc.webhook]\nurl = \"https://cdc.example/in\"\n";
    let config = file_config("wal:wal")
        .replace("emitter = \"file\"", "emitter = \"webhook\"")
        .replace("[cdc.file]\npath = \"out\"\n", webhook);
    let mut shop = Shop::with_config(&config);
    shop.commit(1);
    shop.tool.write("empty.pem", "");
    for file in ["absent.pem", "empty.pem"] {
        let ca = format!("webhook.ca_file={file}");
        for command in [&["check"][..], &["run", "--dry-run"]] {
            let run = shop.tool.run(&[command, &["--set", &ca]].concat());
            assert_eq!(run.code, 6, "{}", run.out);
            let named = run
                .out
                .lines()
                .find(|line| line.contains("error    webhook of webhook"));
            assert!(named.is_some_and(|line| line.contains(file)), "{}", run.out);
        }
        let started = shop.tool.run(&["-q", "run", "--once", "--set", &ca]);
        refused(&started, 6, &[file]);
    }
}

/// A child that dies, talks nonsense, hangs, and at last does its work: each time it is started again
/// and gets what it has not answered.
#[test]
fn a_child_of_every_bad_habit_gets_everything_in_the_end() {
    let config = r#"[cdc]
source = "wal:wal"
state_path = "state"
dlq_path = "dlq"
emitter = "custom"
batch_size = 10
[cdc.custom]
command = ["sh", "consumer.sh"]
timeout = "1s"
stop_timeout = "200ms"
[cdc.retry]
base = "10ms"
max = "50ms"
probe = "50ms"
"#;
    let mut shop = Shop::with_config(config);
    let script = r#"n=$(cat starts 2>/dev/null || echo 0); n=$((n+1)); echo $n > starts
case $n in
  1) exit 3;;
  2) echo nonsense; cat > /dev/null;;
  3) head -n 4 > /dev/null; kill -9 $$;;
  4) trap '' TERM; cat > /dev/null;;
esac
while read -r line; do
  printf '%s\n' "$line" >> taken
  printf '%s\n' "$line" | cut -d '"' -f 4
done
"#;
    std::fs::write(shop.tool.path("consumer.sh"), script).unwrap();
    shop.commit(50);
    let run = Running::start(shop.tool.command(&["run", "--once"]));
    let end = run.end();
    assert_eq!(end.code, 0, "{}", end.err);
    let taken = std::fs::read_to_string(shop.tool.path("taken")).unwrap();
    // In order, each once, and none of them in the dead letter queue.
    assert_eq!(ids(&taken), shop.committed());
    let starts = std::fs::read_to_string(shop.tool.path("starts")).unwrap();
    assert_eq!(starts.trim(), "5", "started again once for each bad habit");
}

/// A terminal that is closed ends a run as SIGTERM does; under `nohup` it goes on.
#[test]
fn a_closed_terminal_ends_a_run_in_good_order() {
    let mut shop = Shop::new();
    shop.commit(3);
    let mut run = Running::start(shop.tool.command(&["-q", "run"]));
    run.until_status("all is delivered", |status| {
        (status["lanes"][0]["counts"]["delivered"] == 3).then_some(())
    });
    run.signal("-HUP");
    let run = run.end();
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(shop.delivered(), [1, 2, 3]);

    shop.commit(3);
    let mut ignoring = Command::new("sh");
    let tool = shop.tool.command(&["-q", "run"]);
    ignoring
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(tool.get_program())
        .args(tool.get_args())
        .current_dir(tool.get_current_dir().unwrap());
    for (name, value) in tool.get_envs() {
        match value {
            Some(value) => ignoring.env(name, value),
            None => ignoring.env_remove(name),
        };
    }
    let mut run = Running::start(ignoring);
    run.until_status("it runs", |status| {
        (status["lanes"][0]["counts"]["delivered"] == 3).then_some(())
    });
    run.signal("-HUP");
    shop.commit(2);
    run.until_status("it goes on", |status| {
        (status["lanes"][0]["counts"]["delivered"] == 5).then_some(())
    });
    run.ask_to_stop();
    assert_eq!(run.end().code, 0);
}
