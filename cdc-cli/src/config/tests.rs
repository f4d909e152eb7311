//! The page's block, inheritance between tables, layers, and that nothing panics or leaks.

use std::time::Duration;

use cdc_core::Op;
use cdc_core::envelope::Format;
use proptest::prelude::*;

use super::*;

/// The block of the product page, to the letter.
const PAGE: &str = r#"[cdc]
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

struct Given<'a> {
    text: &'a str,
    environment: &'a [(&'a str, &'a str)],
    sets: &'a [&'a str],
}

impl Given<'_> {
    fn layers(&self, directory: &tempfile::TempDir) -> Layers {
        let path = directory.path().join("cdc.toml");
        std::fs::write(&path, self.text).unwrap();
        let variables = self
            .environment
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Layers {
            file: Some(path),
            environment: variables.collect(),
            source: None,
            sets: self.sets.iter().map(|set| (*set).to_owned()).collect(),
        }
    }

    fn load(&self) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        load(&self.layers(&directory)).map_err(|error| match error {
            ConfigError::File(error) => error.to_string(),
            ConfigError::Problems(problems) => problems
                .iter()
                .map(|problem| problem.render(Paint::Plain))
                .collect(),
        })
    }
}

fn given(text: &str) -> Given<'_> {
    Given {
        text,
        environment: &[],
        sets: &[],
    }
}

#[test]
fn the_page_loads_unchanged_and_means_what_it_says() {
    let config = given(PAGE).load().unwrap();
    let [emitter] = config.emitters.as_slice() else {
        panic!("one emitter")
    };
    assert_eq!(emitter.name, "queue");
    let Destination::Queue(queue) = &emitter.destination else {
        panic!("a queue")
    };
    assert_eq!(queue.capacity, 65536);
    assert_eq!(queue.bytes_max, 64 << 20);
    assert_eq!(emitter.batch_size, Some(100));
    assert_eq!(emitter.filter.schemas, ["public"]);
    assert!(emitter.filter.tables.is_empty() && emitter.filter.operations.is_empty());
    assert_eq!(
        config.dead_letters.path,
        Path::new("/var/lib/weftkit/cdc-dlq")
    );
    assert!(config.source.is_none() && config.warnings.is_empty());

    let other = PAGE
        .replace("65536", "7")
        .replace("[\"public\"]", "[]")
        .replace("= 100", "= 9");
    let config = given(&other).load().unwrap();
    let emitter = &config.emitters[0];
    assert!(matches!(&emitter.destination, Destination::Queue(queue) if queue.capacity == 7));
    assert!(emitter.filter.schemas.is_empty());
    assert_eq!(emitter.batch_size, Some(9));
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = given("").load().unwrap();
    assert_eq!(config.state_path, Path::new("/var/lib/weftkit/cdc"));
    assert_eq!(
        config.dead_letters.path,
        Path::new("/var/lib/weftkit/cdc/dlq")
    );
    assert_eq!(config.retain_bytes, 1 << 30);
    assert_eq!(config.retain_bytes_max, None);
    assert_eq!(config.checkpoint_interval, Duration::from_millis(200));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
    assert_eq!(config.confirm, Confirm::Delivered);
    let emitter = &config.emitters[0];
    assert_eq!(emitter.destination.kind(), "queue");
    assert_eq!(emitter.format, Format::Json);
    assert_eq!(emitter.on_dead_key, DeadKey::Park);
    assert_eq!(emitter.retry.base, Duration::from_millis(200));
    assert_eq!(emitter.retry.max, Duration::from_secs(60));
    assert_eq!(config.postgres.slot, "weftkit_cdc");
    assert!(config.postgres.create_slot && config.postgres.create_publication);
}

#[test]
fn emitters_inherit_from_cdc_and_override_it() {
    let text = r#"
[cdc]
schemas = ["public"]
batch_size = 50
format = "debezium"
[cdc.file]
rotate_bytes = "1MiB"
path = "/var/log/cdc"
[[cdc.transforms]]
exclude = { columns = ["notes"] }
[[cdc.emitters]]
name = "audit"
emitter = "file"
format = "json"
operations = ["delete", "truncate", "delete"]
[cdc.emitters.file]
path = "/var/log/audit"
[[cdc.emitters]]
name = "copy"
emitter = "file"
schemas = []
batch_size = 7
transforms = []
[[cdc.emitters]]
name = "out"
emitter = "queue"
queue_capacity = 5
"#;
    let config = given(text).load().unwrap();
    let audit = config.emitter("audit").unwrap();
    assert_eq!(audit.filter.schemas, ["public"]);
    assert_eq!(audit.filter.operations, [Op::Delete, Op::Truncate]);
    assert_eq!(audit.format, Format::Json);
    assert_eq!(
        audit.batch_size, None,
        "a file's batches are as large as they come"
    );
    assert_eq!(audit.transforms.len(), 1);
    let Destination::File(file) = &audit.destination else {
        panic!("a file")
    };
    assert_eq!(file.path, Path::new("/var/log/audit"));
    assert_eq!(
        (file.rotate_bytes, file.stream.as_str()),
        (1 << 20, "audit")
    );

    let copy = config.emitter("copy").unwrap();
    assert!(copy.filter.schemas.is_empty() && copy.transforms.is_empty());
    assert_eq!((copy.format, copy.batch_size), (Format::Debezium, Some(7)));
    let Destination::File(file) = &copy.destination else {
        panic!("a file")
    };
    assert_eq!(file.path, Path::new("/var/log/cdc"));

    let out = config.emitter("out").unwrap();
    assert_eq!(out.batch_size, Some(50));
    assert!(matches!(&out.destination, Destination::Queue(queue) if queue.capacity == 5));
}

/// An emitter's own key, whichever way it is written, over [cdc]; in one table the webhook's own.
#[test]
fn the_nearer_batch_size_of_a_webhook_wins() {
    let url = "url = \"https://example.com\"\n";
    for (general, of_webhooks, own, size) in [
        ("", "", "", 100),
        ("batch_size = 2\n", "", "", 2),
        ("batch_size = 2\n", "batch_size = 3\n", "", 3),
        (
            "batch_size = 2\n",
            "batch_size = 3\n",
            "batch_size = 4\n",
            4,
        ),
        ("", "batch_size = 3\n", "webhook.batch_size = 5\n", 5),
        (
            "batch_size = 2\n",
            "batch_size = 3\n",
            "batch_size = 4\nwebhook.batch_size = 5\n",
            5,
        ),
    ] {
        let text = format!(
            "[cdc]\n{general}[cdc.webhook]\n{url}{of_webhooks}[[cdc.emitters]]\nname = \"a\"\nemitter = \"webhook\"\n{own}"
        );
        let config = given(&text).load().unwrap_or_else(|said| panic!("{said}"));
        assert_eq!(config.emitters[0].batch_size, Some(size), "{text}");
    }
}

#[test]
fn layers_lie_over_each_other() {
    let given = Given {
        text: "[cdc]\nbatch_size = 1\nqueue_capacity = 1\nschemas = [\"a\"]\ntables = [\"t\"]\n[cdc.file]\npath = \"/file\"\n",
        environment: &[
            ("WEFTKIT_CDC_BATCH_SIZE", "2"),
            ("WEFTKIT_CDC_QUEUE_CAPACITY", "2"),
            ("WEFTKIT_CDC_SCHEMAS", "b, c"),
            ("WEFTKIT_CDC_FILE__PATH", "/environment"),
            ("WEFTKIT_CDC_RETAIN_BYTES", "2GiB"),
            ("WEFTKIT_CDC_LOG", "debug"),
        ],
        sets: &[
            "batch_size=3",
            "emitter=file",
            "cdc.file.fsync=batch",
            "operations=[\"insert\"]",
        ],
    };
    let config = given.load().unwrap();
    let emitter = &config.emitters[0];
    assert_eq!(emitter.filter.schemas, ["b", "c"]);
    assert_eq!(emitter.filter.tables, ["t"]);
    assert_eq!(emitter.filter.operations, [Op::Insert]);
    assert_eq!(config.retain_bytes, 2 << 30);
    let Destination::File(file) = &emitter.destination else {
        panic!("a file")
    };
    assert_eq!(file.path, Path::new("/environment"));
    assert_eq!(file.fsync, FileSync::Batch);

    let directory = tempfile::tempdir().unwrap();
    let shown = show(&given.layers(&directory)).unwrap();
    let of = |path: &str| {
        let setting = shown.iter().find(|setting| setting.path == path).unwrap();
        (setting.value.clone().unwrap(), setting.origin.clone())
    };
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(of("batch_size"), pair("3", "flag --set"));
    assert_eq!(
        of("queue_capacity"),
        pair("2", "environment WEFTKIT_CDC_QUEUE_CAPACITY")
    );
    assert_eq!(of("format"), pair("\"json\"", "default"));
    let (value, origin) = of("tables");
    assert_eq!(value, "[\"t\"]");
    assert!(origin.ends_with("cdc.toml:5"), "{origin}");
}

#[test]
fn a_webhook_is_what_the_file_says() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("whsec");
    std::fs::write(
        &secret,
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n",
    )
    .unwrap();
    let text = format!(
        "[cdc]\nemitter = \"webhook\"\nformat = \"cloudevents\"\n[cdc.webhook]\nurl = \"https://${{HOST}}/x\"\nsecret_file = {secret:?}\nbatch_size = 3\ngzip = true\ntimeout = \"2s\"\nheaders = {{ Authorization = \"Bearer ${{TOKEN}}\" }}\n"
    );
    let environment = [("HOST", "example.com"), ("TOKEN", "abc")];
    let config = Given {
        text: &text,
        environment: &environment,
        sets: &[],
    }
    .load()
    .unwrap();
    let emitter = &config.emitters[0];
    assert_eq!(emitter.batch_size, Some(3));
    let Destination::Webhook(webhook) = &emitter.destination else {
        panic!("a webhook")
    };
    assert_eq!(webhook.url, "https://example.com/x");
    assert_eq!(
        webhook.body,
        WebhookBody::CloudEventsBatch,
        "the format decides the body"
    );
    assert_eq!(
        (webhook.gzip, webhook.timeout),
        (true, Duration::from_secs(2))
    );
    assert!(webhook.secrets[0].expose().starts_with("whsec_") && webhook.secrets.len() == 1);
    assert_eq!(webhook.headers[0].0, "Authorization");
    assert_eq!(webhook.headers[0].1.expose(), "Bearer abc");
    let debug = format!("{config:?}");
    assert!(!debug.contains("abc") && !debug.contains("MDEy"), "{debug}");
}

#[test]
fn transforms_keep_their_order_and_limits() {
    let text = r#"
[cdc]
[[cdc.transforms]]
tables = ["orders"]
operations = ["update"]
mask = { columns = ["card"], with = "last4" }
[[cdc.transforms]]
rename = { columns = { a = "b" }, table = "t" }
[[cdc.transforms]]
set = { columns = { x = 1, y = "z", n = { null = true } } }
[[cdc.transforms]]
hash = { columns = ["email"], key = "${PII}" }
"#;
    let environment = [("PII", "0123456789abcdef0123456789abcdef")];
    let config = Given {
        text,
        environment: &environment,
        sets: &[],
    }
    .load()
    .unwrap();
    let names: Vec<_> = config.emitters[0]
        .transforms
        .iter()
        .map(|t| t.action.name())
        .collect();
    assert_eq!(
        names,
        ["mask", "rename", "rename", "set", "set", "set", "hash"]
    );
    assert_eq!(config.emitters[0].transforms[0].tables, ["orders"]);
    assert_eq!(config.emitters[0].transforms[0].operations, [Op::Update]);
}

#[test]
fn problems_are_all_told_and_each_once() {
    let text = "[cdc]\nbatch_size = 0\nfoo = 1\n[[cdc.emitters]]\nname = \"a\"\nemitter = \"queue\"\n[[cdc.emitters]]\nname = \"b\"\nemitter = \"custom\"\ncustom = { command = [\"x\"] }\n";
    let report = given(text).load().unwrap_err();
    assert_eq!(report.matches("error:").count(), 2, "{report}");
    assert_eq!(
        report.matches("`batch_size` must be").count(),
        1,
        "{report}"
    );
}

/// Each of these directories belongs to one part, which takes what it finds there for its own.
#[test]
fn nothing_else_is_written_into_the_state() {
    let at = |state: &str, letters: &str, files: &str| {
        let letters = match letters {
            "" => String::new(),
            path => format!("dlq_path = \"{path}\"\n"),
        };
        format!(
            "[cdc]\nstate_path = \"{state}\"\n{letters}emitter = \"file\"\nfile = {{ path = \"{files}\" }}"
        )
    };
    for (state, letters, files, words) in [
        ("/s", "/s/", "/o", "`dlq_path` is where the pipeline"),
        ("/s", "/s/journal", "/o", "`dlq_path` is where the pipeline"),
        (
            "/s",
            "/s/sqlite/x",
            "/o",
            "`dlq_path` is where the pipeline",
        ),
        ("/s", "", "/s", "would write where the pipeline"),
        ("/s", "", "/s/checkpoints", "would write where the pipeline"),
        ("/s", "", "/s/dlq", "would write where dead letters"),
        ("/s", "/d", "/d/o", "would write where dead letters"),
    ] {
        let report = given(&at(state, letters, files)).load().unwrap_err();
        assert!(report.contains(words), "{report}");
        assert!(report.contains('^') && report.contains("--> "), "{report}");
        assert_eq!(report.matches("error:").count(), 1, "{report}");
    }
    for (state, letters, files) in [
        ("/s", "", "/s/out"),
        ("/s", "/s/letters", "/s/out"),
        ("/v/s", "/v", "/v2"),
        ("/v/s", "/d", "/v"),
    ] {
        given(&at(state, letters, files)).load().unwrap();
    }
}

#[test]
fn a_table_nobody_uses_is_read_all_the_same() {
    let report = given("[cdc]\nemitter = \"queue\"\n[cdc.file]\nfsync = \"sometimes\"")
        .load()
        .unwrap_err();
    assert!(report.contains("`file.fsync` cannot be"), "{report}");
}

#[test]
fn two_emitters_do_not_write_to_one_place() {
    let two = |a: &str, b: &str| {
        let entry = |name, rest| format!("[[cdc.emitters]]\nname = \"{name}\"\n{rest}\n");
        format!("[cdc]\n{}{}", entry("a", a), entry("b", b))
    };
    let file = |path: &str, more: &str| {
        format!("emitter = \"file\"\nfile = {{ path = \"{path}\"{more} }}")
    };
    let x = ", stream = \"x\"";
    for (a, b, words) in [
        (file("/o", x), file("/o/", x), "into the same directory"),
        (file("o", x), file("./o", x), "into the same directory"),
        (file("/o", ""), file("/o", ""), "into the same directory"),
        (
            "emitter = \"queue\"".into(),
            "emitter = \"queue\"".into(),
            "both print to standard output",
        ),
    ] {
        let report = given(&two(&a, &b)).load().unwrap_err();
        assert!(report.contains(words), "{report}");
        assert!(report.contains("`a` and `b`"), "{report}");
        assert!(report.contains('^') && report.contains("--> "), "{report}");
        assert_eq!(report.matches("error:").count(), 1, "{report}");
    }
    for (a, b) in [
        (file("/o", x), file("/p", x)),
        (file("/o", x), "emitter = \"queue\"".into()),
    ] {
        given(&two(&a, &b)).load().unwrap();
    }
}

#[test]
fn a_key_of_a_section_is_named_with_it() {
    let given = Given {
        text: "",
        environment: &[],
        sets: &["create_publication=false"],
    };
    let report = given.load().unwrap_err();
    assert!(report.contains("`postgres.create_publication`"), "{report}");
}

const MARKER: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";

/// A file with the same secret in every place a secret can stand.
fn secrets_everywhere() -> String {
    format!(
        r#"[cdc]
source = "postgres://cdc:{MARKER}@localhost/shop"
emitter = "webhook"
[cdc.webhook]
url = "https://example.com/x"
secret = "whsec_{MARKER}="
headers = {{ Authorization = "Bearer {MARKER}", X-Key = "{MARKER}" }}
[[cdc.transforms]]
hash = {{ columns = ["email"], key = "{MARKER}" }}
"#
    )
}

#[test]
fn secrets_are_never_shown() {
    let text = secrets_everywhere();
    let directory = tempfile::tempdir().unwrap();
    let layers = given(&text).layers(&directory);
    let settings = format!("{:?}", show(&layers).unwrap());
    assert!(!settings.contains(MARKER), "{settings}");
    assert!(!format!("{:?} {:?}", load(&layers), layers.file).contains(MARKER));
    let misspelt = [
        ("secret =", "secrte ="),
        ("secret =", "secret ="),
        ("key = ", "kye = "),
        ("headers", "haeders"),
        ("[cdc.webhook]", "[cdc.webhok]"),
        ("source =", "sauce ="),
        ("Bearer ", "Bearer \\n"),
        ("\"whsec_", "whsec_"),
        ("=\"\n", "=\n"),
    ];
    for (from, to) in misspelt {
        let report = given(&text.replacen(from, to, 1))
            .load()
            .err()
            .unwrap_or_default();
        assert!(!report.contains(MARKER), "{from} -> {to}:\n{report}");
    }
}

proptest! {
    #[test]
    fn any_text_is_loaded_or_refused(text in "\\PC{0,80}") {
        let _ = given(&text).load();
        let _ = given(&format!("[cdc]\n{text}")).load();
        let _ = Given { text: "", environment: &[("WEFTKIT_CDC_TABLES", &text)], sets: &[&text, &format!("tables={text}")] }.load();
    }

    /// One character lost, added or changed anywhere but in the secret: no panic, no secret.
    #[test]
    fn a_slip_of_the_pen_shows_no_secret(at in any::<prop::sample::Index>(), what in 0..3, c in "[ -~\n]") {
        let text = secrets_everywhere();
        let places: Vec<usize> = (0..text.len())
            .filter(|at| !text.match_indices(MARKER).any(|(start, m)| (start..=start + m.len()).contains(at)))
            .collect();
        let at = places[at.index(places.len())];
        let mut slipped = text.clone();
        match what {
            0 => drop(slipped.remove(at)),
            1 => slipped.insert_str(at, &c),
            _ => slipped.replace_range(at..=at, &c),
        }
        if let Err(report) = given(&slipped).load() {
            prop_assert!(!report.contains(MARKER), "{report}");
        }
    }
}

/// The template with every key and every header uncommented, and the prose left alone.
fn uncommented() -> String {
    let is_setting = |line: &str| {
        let name = line.split(" = ").next().unwrap_or(line);
        line.starts_with('[')
            || (line.contains(" = ")
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || matches!(c, '_')))
    };
    let lines = template();
    let lines = lines.lines().map(|line| match line.strip_prefix("# ") {
        Some(bare) if is_setting(bare) => bare,
        _ => line,
    });
    lines.fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_whole_template_is_toml() {
    assert!(uncommented().parse::<toml::Table>().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_mutation_of_the_template_is_loaded_or_refused(
        from in any::<prop::sample::Index>(), length in 0usize..60, with in "[ -~]{0,8}",
    ) {
        let mut text = uncommented();
        let start = from.index(text.len());
        let end = (start + length).min(text.len());
        prop_assume!(text.is_char_boundary(start) && text.is_char_boundary(end));
        text.replace_range(start..end, &with);
        let _ = given(&text).load();
    }
}

/// The long form of the interface's description, but for paths of secrets and the one key value
/// that this version refuses.
#[test]
fn the_long_form_loads() {
    let directory = tempfile::tempdir().unwrap();
    let whsec = directory.path().join("whsec");
    let pii = directory.path().join("pii");
    std::fs::write(&whsec, format!("whsec_{MARKER}=\n")).unwrap();
    std::fs::write(&pii, format!("{MARKER}\n")).unwrap();
    let text = format!(
        r#"[cdc]
source = "postgres://cdc@localhost/shop"     # or sqlite:shop.db, wal:/var/lib/engine/wal, ...; env WEFTKIT_CDC_SOURCE
state_path = "/var/lib/weftkit/cdc"          # journal, checkpoints, lock
tables = ["orders", "public.line_*", "!public.line_tmp"]
operations = ["insert", "update", "delete"]
where = "op != 'update' || after.total != before.total"
format = "json"                              # json | debezium | cloudevents | bincode
confirm = "delivered"                        # delivered | journaled
retain_bytes = "1GiB"

[cdc.webhook]
url = "https://example.com/hooks/orders"
secret_file = {whsec:?}
batch_size = 100
concurrency = 4

[cdc.file]
path = "/var/log/cdc"
rotate_bytes = "256MiB"
fsync = "interval:50ms"

[cdc.custom]
command = ["python3", "consumer.py"]

[[cdc.transforms]]                           # in order; `tables` and `operations` limit one
mask = {{ columns = ["card"], with = "last4" }}
[[cdc.transforms]]
hash = {{ columns = ["email"], key_file = {pii:?} }}

[[cdc.emitters]]                             # several emitters
name = "audit"
emitter = "file"
[cdc.emitters.file]
path = "/var/log/audit"
"#
    );
    let config = given(&text).load().unwrap();
    assert_eq!(
        config.source.as_ref().map(ToString::to_string).as_deref(),
        Some("postgres://cdc@localhost/shop")
    );
    let [audit] = config.emitters.as_slice() else {
        panic!("one emitter")
    };
    assert_eq!(audit.filter.tables.len(), 3);
    assert!(audit.filter.predicate.is_some());
    let actions: Vec<_> = audit.transforms.iter().map(|t| t.action.name()).collect();
    assert_eq!(actions, ["mask", "hash"]);
    let Destination::File(file) = &audit.destination else {
        panic!("a file")
    };
    assert_eq!(file.path, Path::new("/var/log/audit"));
    assert_eq!(file.fsync, FileSync::Interval(Duration::from_millis(50)));
    assert_eq!(
        config.warnings.len(),
        2,
        "webhook and custom are not used: {:?}",
        config.warnings
    );
}

/// A key that is read and then forgotten would be a promise that is not kept: each changes what the
/// pipeline is made of.
#[test]
fn every_key_changes_something() {
    use super::keys::{KEYS, Kind, Scope};
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(
        &secret,
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    )
    .unwrap();
    let secret = secret.display();
    let with = |base: &[String], set: Option<String>| {
        let layers = Layers {
            file: None,
            environment: Environment::default(),
            source: None,
            sets: base.iter().cloned().chain(set).collect(),
        };
        load(&layers)
            .map(|config| format!("{config:?}"))
            .map_err(|error| match error {
                ConfigError::Problems(problems) => problems
                    .iter()
                    .map(|problem| problem.message().to_owned())
                    .collect::<Vec<_>>()
                    .join("; "),
                ConfigError::File(error) => error.to_string(),
            })
    };
    for key in KEYS.iter().filter(|key| key.scope != Scope::Emitter) {
        let default = key.default.unwrap_or_default().trim_matches('"');
        let value = match key.kind {
            // Only in a file.
            Kind::Tables => continue,
            // Their defaults depend on other keys.
            Kind::Choice(_) if key.path == "webhook.body" => "ndjson".to_owned(),
            Kind::Choice(_) if key.path == "http.reads" => "token".to_owned(),
            Kind::Choice(words) => {
                (*words.iter().find(|word| **word != default).unwrap()).to_owned()
            }
            Kind::Choices(words) => words[0].to_owned(),
            Kind::Flag => (default != "true").to_string(),
            Kind::Count(min, max) => [min, max.min(min + 1)]
                .into_iter()
                .find(|count| count.to_string() != default)
                .unwrap()
                .to_string(),
            Kind::Size => "3GiB".to_owned(),
            Kind::Duration => "7s".to_owned(),
            Kind::Sync => "none".to_owned(),
            Kind::Headers => "{ A = \"x\" }".to_owned(),
            Kind::Secret if key.path == "http.token" => "0123456789abcdefgh".to_owned(),
            Kind::Secret => "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned(),
            _ if key.path.ends_with("_file") || key.path.ends_with("_files") => secret.to_string(),
            _ => match key.path {
                "source" => "wal:here".to_owned(),
                "where" => "after.id > 3".to_owned(),
                "webhook.url" => "https://example.org/other".to_owned(),
                "http.listen" => "127.0.0.1:1234".to_owned(),
                "http.origins" => "https://shop.example.org".to_owned(),
                _ => "other".to_owned(),
            },
        };
        let section = key.path.split_once('.').map_or("", |(section, _)| section);
        let mut base: Vec<String> = match section {
            "webhook" => ["emitter=webhook", "webhook.url=https://example.com/"]
                .map(String::from)
                .to_vec(),
            "file" => ["emitter=file", "file.path=out"].map(String::from).to_vec(),
            "custom" if ["custom.pull", "custom.window_bytes"].contains(&key.path) => {
                let mut base = [
                    "emitter=custom",
                    "http.listen=127.0.0.1:1",
                    "http.token=0123456789abcdefg",
                ]
                .map(String::from)
                .to_vec();
                if key.path == "custom.window_bytes" {
                    base.push("custom.pull=true".into());
                }
                base
            }
            "custom" => ["emitter=custom", "custom.command=cat"]
                .map(String::from)
                .to_vec(),
            "http" => vec!["http.listen=127.0.0.1:1".into()],
            _ => Vec::new(),
        };
        match key.path {
            "emitter" => base.push("webhook.url=https://example.com/".into()),
            // Two that go together.
            "webhook.client_cert_file" => base.push(format!("webhook.client_key_file={secret}")),
            "webhook.client_key_file" => base.push(format!("webhook.client_cert_file={secret}")),
            "breaker.in_window" => base.push("breaker.in_a_row=1".into()),
            "http.reads" => base.push("http.token=0123456789abcdefg".into()),
            _ => {}
        }
        let set = format!("{}={value}", key.path);
        let changed = with(&base, Some(set.clone()));
        let changed = changed.unwrap_or_else(|problems| panic!("{set}: {problems}"));
        // Of two that go together neither stands alone.
        if let Ok(before) = with(&base, None) {
            assert_ne!(before, changed, "{set} changes nothing");
        }
    }
}

/// A webhook and consumers that fetch refuse it as well.
#[test]
fn a_program_is_given_lines() {
    let custom = |format: &str| {
        let text = format!(
            "[cdc]\nemitter = \"custom\"\nformat = \"{format}\"\n[cdc.custom]\ncommand = [\"x\"]\n"
        );
        given(&text).load()
    };
    assert!(custom("json").is_ok() && custom("cloudevents").is_ok());
    let refused = custom("bincode").unwrap_err();
    assert!(refused.contains("line by line"), "{refused}");
}

/// What an emitter would refuse when capture runs already is refused before.
#[test]
fn a_url_that_no_webhook_takes_is_refused_by_name() {
    let hook = |rest: &str| {
        let text = format!("[cdc]\nemitter = \"webhook\"\n[cdc.webhook]\n{rest}\n");
        given(&text).load().map(drop)
    };
    assert_eq!(hook("url = \"https://example.com/hooks/SECRET\""), Ok(()));
    for (rest, words) in [
        ("url = \"https://example.com/SECRET#a\"", "fragment"),
        ("url = \"https://example.com:0/SECRET\"", "port"),
        (
            "url = \"http://localhost/SECRET\"\nclient_cert_file = \"c\"\nclient_key_file = \"k\"",
            "shows no certificate",
        ),
    ] {
        let refused = hook(rest).unwrap_err();
        assert!(refused.contains(words), "{refused}");
        let (message, _) = refused.split_once("-->").unwrap();
        assert!(!message.contains("SECRET"), "{refused}");
    }
}
