//! What is in effect, and where it comes from.

use crate::tool::{Tool, snapshot};

const TEXT: &str = r#"[cdc]
source = "postgres://cdc:hunter2@localhost/shop"
queue_capacity = 1000
schemas = ["public"]

[cdc.webhook]
url = "https://example.com/hooks"
secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
headers = { Authorization = "hunter2" }

[[cdc.transforms]]
hash = { columns = ["email"], key = "hunter2hunter2hunter2" }
"#;

fn tool() -> Tool {
    Tool::with_config(TEXT)
        .variable("WEFTKIT_CDC_EMITTER", "webhook")
        .variable("WEFTKIT_CDC_WEBHOOK__TIMEOUT", "3s")
        .variable("WEFTKIT_CDC_TABLES", "orders,line_*")
}

#[test]
fn origins_are_shown_and_secrets_are_not() {
    let shown = tool().answer(&[
        "config",
        "show",
        "--origin",
        "--changed",
        "--set",
        "batch_size=5",
    ]);
    assert!(
        !shown.contains("hunter2") && !shown.contains("MDEy"),
        "{shown}"
    );
    snapshot("config_show_changed", &shown);
    let all = tool().answer(&["config", "show", "--origin"]);
    assert!(!all.contains("hunter2") && !all.contains("MDEy"), "{all}");
    snapshot("config_show_all", &all);
}

#[test]
fn origins_for_programs() {
    let shown = tool().answer(&["config", "show", "-o", "json", "--changed"]);
    assert!(!shown.contains("hunter2"));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let settings = shown["settings"].as_array().unwrap();
    let of = |key: &str| {
        settings
            .iter()
            .find(|setting| setting["key"] == key)
            .unwrap()
    };
    assert_eq!(of("queue_capacity")["value"], 1000);
    assert_eq!(of("queue_capacity")["origin"], "cdc.toml:3");
    assert_eq!(
        of("tables")["value"],
        serde_json::json!(["orders", "line_*"])
    );
    assert_eq!(
        of("webhook.timeout")["origin"],
        "environment WEFTKIT_CDC_WEBHOOK__TIMEOUT"
    );
    assert_eq!(of("source")["value"], "postgres://cdc:***@localhost/shop");
}

#[test]
fn a_file_in_the_directory_is_found() {
    let tool =
        Tool::with_config("[cdc]\nemitter = \"file\"\n[cdc.file]\npath = \"/var/log/cdc\"\n");
    let out = tool.answer(&["validate"]);
    assert!(out.starts_with("cdc.toml: valid"), "{out}");
    tool.write("other.toml", "[cdc]\nbatch_size = 3\n");
    let out = tool.answer(&["validate", "-c", "other.toml", "-o", "json"]);
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out["file"], "other.toml");
    assert_eq!(out["emitters"][0]["batch_size"], 3);
}
