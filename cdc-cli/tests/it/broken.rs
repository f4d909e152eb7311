//! Broken configurations: each has a message with place, caret and remedy, and exit code 3.

use crate::tool::{Tool, snapshot};

const WEBHOOK: &str = "[cdc]\nemitter = \"webhook\"\n[cdc.webhook]\n";

/// Name, what stands in `cdc.toml`.
fn configurations() -> Vec<(&'static str, String)> {
    let plain = |text: &str| text.to_owned();
    let cdc = |text: &str| format!("[cdc]\n{text}\n");
    let webhook = |text: &str| format!("{WEBHOOK}{text}\n");
    vec![
        // Names.
        ("unknown_key", cdc("emitter = \"queue\"\nbatchsize = 100")),
        (
            "unknown_key_of_another_table",
            cdc("url = \"https://example.com\""),
        ),
        (
            "unknown_key_in_table",
            webhook("url = \"https://example.com\"\nheader = 1"),
        ),
        ("unknown_key_far_from_all", cdc("kafka_brokers = [\"a\"]")),
        (
            "unknown_table",
            plain("[cdc]\n[cdc.webhok]\nurl = \"https://example.com\"\n"),
        ),
        ("key_outside_cdc", plain("emitter = \"queue\"\n")),
        (
            "unknown_top_level_table",
            plain("[cdcc]\nemitter = \"queue\"\n"),
        ),
        // Words.
        ("misspelt_emitter", cdc("emitter = \"qeueu\"")),
        ("unknown_emitter", cdc("emitter = \"kafka\"")),
        (
            "unknown_operation",
            cdc("operations = [\"insert\", \"upsert\"]"),
        ),
        ("misspelt_operation", cdc("operations = [\"udpate\"]")),
        ("unknown_format", cdc("format = \"avro\"")),
        ("unknown_confirm", cdc("confirm = \"deliverd\"")),
        // Types.
        ("string_for_integer", cdc("batch_size = \"100\"")),
        ("integer_for_string", cdc("emitter = 1")),
        ("string_for_list", cdc("schemas = \"public\"")),
        ("integer_in_list", cdc("schemas = [\"public\", 7]")),
        (
            "string_for_boolean",
            webhook("url = \"https://example.com\"\ngzip = \"yes\""),
        ),
        ("value_for_table", cdc("webhook = \"https://example.com\"")),
        (
            "single_brackets",
            plain("[cdc]\n[cdc.emitters]\nname = \"a\"\n"),
        ),
        (
            "integer_beyond_64_bits",
            cdc("queue_capacity = 99999999999999999999"),
        ),
        ("wrong_type_in_unused_table", cdc("[cdc.file]\npath = 1")),
        // Values.
        ("bad_size", cdc("retain_bytes = \"1 gigabyte\"")),
        ("negative_size", cdc("retain_bytes = -1")),
        ("bad_duration", cdc("checkpoint_interval = \"200\"")),
        ("duration_without_unit", cdc("shutdown_timeout = 30")),
        ("zero_capacity", cdc("queue_capacity = 0")),
        ("batch_size_0", cdc("batch_size = 0")),
        ("bad_pattern", cdc("tables = [\"orders\", \"a.b.c.d\"]")),
        ("qualified_schema", cdc("schemas = [\"public.orders\"]")),
        ("where_not_closed", cdc("where = \"op != 'update\"")),
        ("where_nonsense", cdc("where = \"after.total >> 3\"")),
        (
            "bad_fsync",
            cdc("emitter = \"file\"\nfile = { path = \"/x\", fsync = \"always\" }"),
        ),
        (
            "bad_fsync_interval",
            cdc("emitter = \"file\"\nfile = { path = \"/x\", fsync = \"interval:50\" }"),
        ),
        ("bad_slot", cdc("postgres = { slot = \"My-Slot\" }")),
        (
            "retain_max_below_retain",
            cdc("retain_bytes = \"2GiB\"\nretain_bytes_max = \"1GiB\""),
        ),
        ("retry_base_over_max", cdc("retry = { base = \"2m\" }")),
        // Sources.
        ("source_without_scheme", cdc("source = \"shop\"")),
        (
            "source_misspelt_scheme",
            cdc("source = \"postgre://localhost/shop\""),
        ),
        ("source_sqlite", cdc("source = \"sqlite:\"")),
        (
            "source_bad_option",
            cdc("source = \"postgres://cdc:hunter2@localhost/shop?sslmod=require\""),
        ),
        // Secrets.
        (
            "secret_variable_missing",
            webhook("url = \"https://example.com\"\nsecret = \"${WHSEC}\""),
        ),
        (
            "secret_variable_malformed",
            webhook("url = \"https://example.com\"\nsecret = \"${WHSEC\""),
        ),
        (
            "secret_file_missing",
            webhook("url = \"https://example.com\"\nsecret_file = \"/nonexistent/whsec\""),
        ),
        (
            "secret_too_short",
            webhook("url = \"https://example.com\"\nsecret = \"whsec_c2hvcnQ=\""),
        ),
        (
            "secret_without_prefix",
            webhook("url = \"https://example.com\"\nsecret = \"hunter2\""),
        ),
        (
            "secret_twice",
            webhook("url = \"https://example.com\"\nsecret = \"hunter2\"\nsecret_file = \"/x\""),
        ),
        (
            "secret_of_wrong_type",
            webhook("url = \"https://example.com\"\nsecret = [\"hunter2\"]"),
        ),
        // Destinations.
        ("webhook_without_url", webhook("gzip = true")),
        ("webhook_without_table", cdc("emitter = \"webhook\"")),
        (
            "webhook_bad_scheme",
            webhook("url = \"ftp://example.com/x\""),
        ),
        ("webhook_no_scheme", webhook("url = \"example.com/x\"")),
        (
            "webhook_plain_http",
            webhook("url = \"http://example.com/x\""),
        ),
        ("webhook_private", webhook("url = \"https://10.0.0.1/x\"")),
        (
            "webhook_password",
            webhook("url = \"https://u:hunter2@example.com/x\""),
        ),
        (
            "webhook_concurrency",
            cdc(
                "emitter = \"webhook\"\norder = \"global\"\nwebhook = { url = \"https://example.com\", concurrency = 4 }",
            ),
        ),
        (
            "webhook_reserved_header",
            webhook("url = \"https://example.com\"\nheaders = { Webhook-Id = \"1\" }"),
        ),
        (
            "webhook_body_and_format",
            plain(
                "[cdc]\nformat = \"debezium\"\nemitter = \"webhook\"\n[cdc.webhook]\nurl = \"https://example.com\"\nbody = \"ndjson\"\n",
            ),
        ),
        (
            "webhook_bincode",
            plain(
                "[cdc]\nformat = \"bincode\"\nemitter = \"webhook\"\n[cdc.webhook]\nurl = \"https://example.com\"\n",
            ),
        ),
        ("file_without_path", cdc("emitter = \"file\"")),
        ("custom_without_command", cdc("emitter = \"custom\"")),
        (
            "custom_empty_command",
            cdc("emitter = \"custom\"\ncustom = { command = [] }"),
        ),
        (
            "queue_capacity_twice",
            cdc("queue_capacity = 1\nqueue = { capacity = 2 }"),
        ),
        // Emitters.
        (
            "two_emitters_of_one_name",
            cdc(
                "[[cdc.emitters]]\nname = \"audit\"\nemitter = \"queue\"\n[[cdc.emitters]]\nname = \"audit\"\nemitter = \"queue\"",
            ),
        ),
        (
            "short_and_long_form",
            cdc("emitter = \"queue\"\n[[cdc.emitters]]\nname = \"audit\"\nemitter = \"queue\""),
        ),
        (
            "emitter_without_name",
            cdc("[[cdc.emitters]]\nemitter = \"queue\""),
        ),
        (
            "emitter_without_kind",
            cdc("[[cdc.emitters]]\nname = \"audit\""),
        ),
        (
            "emitter_bad_name",
            cdc("[[cdc.emitters]]\nname = \"../audit\"\nemitter = \"queue\""),
        ),
        (
            "key_of_cdc_in_emitter",
            cdc("[[cdc.emitters]]\nname = \"a\"\nemitter = \"queue\"\nsource = \"wal:/x\""),
        ),
        // Transforms.
        (
            "transform_two_kinds",
            cdc(
                "[[cdc.transforms]]\nmask = { columns = [\"card\"] }\nhash = { columns = [\"email\"], key = \"hunter2hunter2hunter2\" }",
            ),
        ),
        (
            "transform_no_kind",
            cdc("[[cdc.transforms]]\ntables = [\"orders\"]"),
        ),
        (
            "transform_misspelt",
            cdc("[[cdc.transforms]]\nmaks = { columns = [\"card\"] }"),
        ),
        (
            "transform_without_columns",
            cdc("[[cdc.transforms]]\nexclude = {}"),
        ),
        (
            "transform_column_twice",
            cdc("[[cdc.transforms]]\nexclude = { columns = [\"a\", \"a\"] }"),
        ),
        (
            "transform_hash_without_key",
            cdc("[[cdc.transforms]]\nhash = { columns = [\"email\"] }"),
        ),
        (
            "transform_short_key",
            cdc("[[cdc.transforms]]\nhash = { columns = [\"email\"], key = \"hunter2\" }"),
        ),
        (
            "transform_bad_mask",
            cdc("[[cdc.transforms]]\nmask = { columns = [\"card\"], with = \"last5\" }"),
        ),
        // TOML.
        ("not_toml", plain("[cdc]\nemitter: queue\n")),
        (
            "string_not_closed",
            plain("[cdc]\nemitter = \"queue\nbatch_size = 100\n"),
        ),
        (
            "duplicate_key",
            plain("[cdc]\nbatch_size = 1\nbatch_size = 2\n"),
        ),
        (
            "secret_in_broken_toml",
            webhook("secret = \"hunter2-hunter2"),
        ),
        (
            "several_problems",
            plain(
                "[cdc]\nemiter = \"file\"\nbatch_size = 0\ntables = [1]\nretain_bytes = \"lots\"\n[cdc.webhook]\ntimeout = \"soon\"\n",
            ),
        ),
    ]
}

#[test]
fn every_broken_configuration_has_its_message() {
    let configurations = configurations();
    assert!(configurations.len() >= 20);
    for (name, text) in configurations {
        let run = Tool::with_config(&text).run(&["validate", "-c", "cdc.toml"]);
        assert_eq!(run.code, 3, "{name}: {run:?}");
        assert_eq!(run.out, "", "{name}");
        for mark in ["error: ", "--> cdc.toml:", "^", "= help: "] {
            assert!(
                run.err.contains(mark),
                "{name} lacks {mark:?}:\n{}",
                run.err
            );
        }
        assert!(
            !run.err.contains("hunter2"),
            "{name} shows a secret:\n{}",
            run.err
        );
        snapshot(name, &run.err);
    }
}

/// Name, environment, flags.
type Setting = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
);

#[test]
fn broken_variables_and_flags_have_their_message() {
    let table: [Setting; 9] = [
        (
            "variable_unknown",
            &[("WEFTKIT_CDC_BATCHSIZE", "hunter2")],
            &[],
        ),
        (
            "variable_of_wrong_type",
            &[("WEFTKIT_CDC_BATCH_SIZE", "many")],
            &[],
        ),
        (
            "variable_bad_choice",
            &[("WEFTKIT_CDC_EMITTER", "flie")],
            &[],
        ),
        (
            "variable_of_a_list_of_tables",
            &[("WEFTKIT_CDC_EMITTERS", "[]")],
            &[],
        ),
        (
            "flag_unknown",
            &[],
            &["--set", "webhook.ulr=https://example.com"],
        ),
        ("flag_without_value", &[], &["--set", "batch_size"]),
        ("flag_out_of_range", &[], &["--set", "batch_size=0"]),
        ("flag_bad_list", &[], &["--set", "tables=[\"a\""]),
        (
            "flag_bad_source",
            &[],
            &["--source", "mysql://u:hunter2@h/db"],
        ),
    ];
    for (name, variables, flags) in table {
        let tool = variables.iter().fold(Tool::new(), |tool, (name, value)| {
            tool.variable(name, value)
        });
        let run = tool.run(&[&["validate"], flags].concat());
        assert_eq!(run.code, 3, "{name}: {run:?}");
        assert!(
            !run.err.contains("hunter2"),
            "{name} shows a secret:\n{}",
            run.err
        );
        snapshot(name, &run.err);
    }
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let tool = Tool::new();
    std::fs::write(tool.path("cdc.toml"), b"[cdc]\nname = \"\xff\"\n").unwrap();
    let run = tool.run(&["validate"]);
    assert_eq!(run.code, 3);
    snapshot("not_utf8", &run.err);
    std::fs::write(tool.path("cdc.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    let run = tool.run(&["validate"]);
    assert_eq!(run.code, 3);
    snapshot("too_large", &run.err);
    let run = tool.run(&["validate", "-c", "nowhere.toml"]);
    assert_eq!(run.code, 3);
    snapshot("no_such_file", &run.err);
}

#[test]
fn problems_for_programs() {
    let run =
        Tool::with_config("[cdc]\nemiter = 1\nbatch_size = 0\n").run(&["validate", "-o", "json"]);
    assert_eq!(run.code, 3);
    let report: serde_json::Value = serde_json::from_str(&run.err).unwrap();
    assert_eq!(report["error"]["kind"], "configuration");
    assert_eq!(report["error"]["exit_code"], 3);
    let problems = report["error"]["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2);
    assert_eq!(problems[0]["file"], "cdc.toml");
    assert_eq!(
        (&problems[0]["line"], &problems[0]["column"]),
        (&2.into(), &1.into())
    );
    assert_eq!(problems[0]["help"], "did you mean `emitter`?");
}
