//! Commands that need no source.

use std::os::unix::fs::PermissionsExt as _;

use crate::tool::{Tool, snapshot};

/// The block of the product page, to the letter.
pub(crate) const PAGE: &str = r#"[cdc]
# Emitter type: "queue" | "webhook" | "file" | "custom"
emitter = "queue"
# Queue capacity (in-memory, backpressure applied)
queue_capacity = 65536
# Dead letter queue path
dlq_path = "/var/lib/weftkit/cdc-dlq"
# Schema filter (empty = capture all)
schemas = ["public"]
# Batch size for queue emitter
batch_size = 100
"#;

#[test]
fn the_page_is_valid() {
    let tool = Tool::with_config(PAGE);
    snapshot("page_valid", &tool.answer(&["validate"]));
    let out = tool.answer(&[
        "validate",
        "-o",
        "json",
        "--source",
        "postgres://cdc:pw@localhost/shop",
    ]);
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out["valid"], true);
    assert_eq!(out["source"], "postgres://cdc:***@localhost/shop");
    assert_eq!(out["dlq_path"], "/var/lib/weftkit/cdc-dlq");
    assert_eq!(out["emitters"][0]["schemas"], serde_json::json!(["public"]));
    assert_eq!(out["emitters"][0]["batch_size"], 100);
}

#[test]
fn several_emitters_are_summed_up() {
    let tool = Tool::with_config(
        r#"[cdc]
source = "wal:/var/lib/engine/wal"
confirm = "journaled"
schemas = ["public"]
[[cdc.transforms]]
exclude = { columns = ["notes"] }
[cdc.queue]
bytes_max = "1MiB"
[[cdc.emitters]]
name = "audit"
emitter = "file"
operations = ["delete"]
[cdc.emitters.file]
path = "/var/log/audit"
[[cdc.emitters]]
name = "orders"
emitter = "webhook"
tables = ["orders", "!orders_tmp"]
where = "after.total > 100"
transforms = []
[cdc.emitters.webhook]
url = "https://example.com/hooks"
[[cdc.emitters]]
name = "script"
emitter = "custom"
[cdc.emitters.custom]
command = ["python3", "consumer.py"]
"#,
    );
    snapshot("several_valid", &tool.answer(&["validate"]));
}

#[test]
fn init_writes_a_valid_file_once() {
    let tool = Tool::new();
    let out = tool.answer(&["init"]);
    assert!(out.starts_with("wrote cdc.toml\n"), "{out}");
    let mode = std::fs::metadata(tool.path("cdc.toml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "a password may end up in it");
    let text = std::fs::read_to_string(tool.path("cdc.toml")).unwrap();
    snapshot("init", &text);
    assert!(tool.answer(&["validate"]).starts_with("cdc.toml: valid"));

    let run = tool.run(&["init"]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    snapshot("init_refuses", &run.err);
    assert_eq!(
        std::fs::read_to_string(tool.path("cdc.toml")).unwrap(),
        text
    );
    assert_eq!(tool.answer(&["init", "--stdout"]), text);
    assert_eq!(tool.run(&["init", "no/such/directory/cdc.toml"]).code, 1);
}

const TOKEN: &str = "cdc1_04130c9i6cq3adhn70sm2oj3chimc000003g0000000mmdq8000000g000001arh8sgg";

/// The same of a version that does not exist yet, with the right checksum.
const NEWER: &str = "cdc1_08130c9i6cq3adhn70sm2oj3chimc000003g0000000mmdq8000000g000000rv1kt0g";

#[test]
fn tokens_are_decoded() {
    let tool = Tool::new();
    snapshot("token", &tool.answer(&["token", "inspect", TOKEN]));
    let out = tool.answer(&["token", "inspect", TOKEN, "-o", "json"]);
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out["position"], "0/16B3748:2");
    assert_eq!(out["source"]["kind"], "postgres");
    assert_eq!(out["source"]["timeline"], 7);
    assert_eq!(
        (&out["ordinal"], &out["transaction_end"]),
        (&2.into(), &false.into())
    );
}

#[test]
fn refused_tokens_are_told_apart() {
    let tool = Tool::new();
    let mut messages = Vec::new();
    for token in [
        "hello",
        &TOKEN.replace("mmdq8", "mmdq9"),
        "cdc1_08",
        NEWER,
        "cdc1_",
        &TOKEN[..30],
        "cdc1_Z",
    ] {
        let run = tool.run(&["token", "inspect", token]);
        assert_eq!((run.code, run.out.as_str()), (5, ""), "{token}");
        messages.push(format!("{token}\n  {}", run.err));
    }
    snapshot("token_refusals", &messages.concat());
}

#[test]
fn completions_know_the_commands() {
    let tool = Tool::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = tool.answer(&["completions", shell]);
        for word in ["validate", "token", "completions"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    let bash = tool.path("completions.bash");
    std::fs::write(&bash, tool.answer(&["completions", "bash"])).unwrap();
    let checked = std::process::Command::new("bash")
        .arg("-n")
        .arg(&bash)
        .status()
        .unwrap();
    assert!(checked.success());
}

#[test]
fn manual_pages_are_written() {
    let tool = Tool::new();
    let page = tool.answer(&["man"]);
    assert!(
        page.contains(".TH cdc-cli 1") && page.contains("the configuration is wrong"),
        "{page}"
    );
    let out = tool.answer(&["man", "pages"]);
    assert!(
        out.contains("pages/cdc-cli.1\n") && out.contains("pages/cdc-cli-token-inspect.1\n"),
        "{out}"
    );
    let page = std::fs::read_to_string(tool.path("pages/cdc-cli-token-inspect.1")).unwrap();
    assert!(page.contains("Decode a resume token"), "{page}");
}

#[test]
fn usage_errors_end_with_2() {
    let tool = Tool::new();
    for arguments in [
        &["frobnicate"][..],
        &["validate", "--nope"],
        &["completions", "tcsh"],
        &["token"],
        &[],
    ] {
        let run = tool.run(arguments);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{arguments:?}");
        assert!(!run.err.is_empty());
    }
    let run = Tool::new()
        .variable("WEFTKIT_CDC_LOG", "a=b=c")
        .run(&["validate"]);
    assert_eq!(run.code, 2);
    assert!(run.err.contains("WEFTKIT_CDC_LOG"), "{}", run.err);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let tool = Tool::new();
    let mut child = tool
        .command(&["man"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn there_is_no_colour_in_a_pipe() {
    let run = Tool::with_config("[cdc]\nx = 1\n").run(&["validate"]);
    assert!(!run.err.contains('\x1b'), "{:?}", run.err);
}

/// `cargo run -p cdc-cli` of the README asks nobody which binary is meant.
#[test]
fn cargo_runs_the_tool_and_no_other_binary() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    assert_eq!(manifest["package"]["default-run"].as_str(), Some("cdc-cli"));
}
