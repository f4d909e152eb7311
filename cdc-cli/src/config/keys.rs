//! The one table of configuration keys: types, defaults, words. Reading, `init`, `config show`
//! and `docs/configuration.md` all come from it.

/// What a key's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text.
    Text,
    /// Text in which `${NAME}` is replaced.
    Interpolated,
    /// Like [`Kind::Interpolated`], and never shown.
    Secret,
    /// A path; `${NAME}` is replaced.
    Path,
    /// Bytes.
    Size,
    /// A span of time.
    Duration,
    /// A whole number within bounds.
    Count(i64, i64),
    /// True or false.
    Flag,
    /// A list of texts.
    Texts,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of some of these words.
    Choices(&'static [&'static str]),
    /// A table of texts, each never shown.
    Headers,
    /// `batch`, `interval:DURATION` or `none`.
    Sync,
    /// A list of tables with a shape of their own.
    Tables,
}

impl Kind {
    /// What to write, for people.
    pub(crate) fn describe(self) -> String {
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|word| format!("\"{word}\""))
                .collect::<Vec<_>>()
                .join(" | ")
        };
        match self {
            Self::Text | Self::Interpolated => "string".into(),
            Self::Secret => "secret".into(),
            Self::Path => "path".into(),
            Self::Size => "size".into(),
            Self::Duration => "duration".into(),
            Self::Count(min, i64::MAX) => format!("integer ≥ {min}"),
            Self::Count(min, max) => format!("integer {min}–{max}"),
            Self::Flag => "boolean".into(),
            Self::Texts => "list of strings".into(),
            Self::Choice(choices) => words(choices),
            Self::Choices(choices) => format!("list of {}", words(choices)),
            Self::Headers => "table of secrets".into(),
            Self::Sync => "\"batch\" | \"interval:DURATION\" | \"none\"".into(),
            Self::Tables => "list of tables".into(),
        }
    }

    /// True if a value is never shown.
    pub(crate) const fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Headers)
    }

    /// True if a value on the command line or in the environment is text as it stands.
    pub(crate) const fn is_text(self) -> bool {
        matches!(
            self,
            Self::Text
                | Self::Interpolated
                | Self::Secret
                | Self::Path
                | Self::Duration
                | Self::Choice(_)
                | Self::Sync
        )
    }
}

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// In `[cdc]` only.
    Cdc,
    /// In `[cdc]`, and in `[[cdc.emitters]]` for one emitter.
    Both,
    /// In `[[cdc.emitters]]` with a meaning of its own, besides the key of that name in `[cdc]`.
    Emitter,
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its path below `[cdc]`.
    pub(crate) path: &'static str,
    /// What its value looks like.
    pub(crate) kind: Kind,
    /// Where it may stand.
    pub(crate) scope: Scope,
    /// Its default as TOML, if it has one.
    pub(crate) default: Option<&'static str>,
    /// A value for the template, as TOML; the default if there is none.
    pub(crate) example: Option<&'static str>,
    /// What it means, in sentences.
    pub(crate) doc: &'static str,
}

const fn key(path: &'static str, kind: Kind, scope: Scope, doc: &'static str) -> Key {
    Key {
        path,
        kind,
        scope,
        default: None,
        example: None,
        doc,
    }
}

impl Key {
    const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn like(mut self, example: &'static str) -> Self {
        self.example = Some(example);
        self
    }
}

/// Names of operations, as in events.
pub(crate) const OPERATIONS: &[&str] = &[
    "insert", "update", "delete", "truncate", "read", "merge", "schema", "message",
];

use Kind::{
    Choice, Choices, Count, Duration, Flag, Headers, Interpolated, Path, Secret, Size, Sync,
    Tables, Text, Texts,
};
use Scope::{Both, Cdc, Emitter};

/// Every key, in the order of the reference.
#[rustfmt::skip]
pub(crate) const KEYS: &[Key] = &[
    key("source", Interpolated, Cdc, "What is captured: postgres://USER@HOST/DATABASE, sqlite:FILE, or wal:DIRECTORY, the log of an engine that embeds cdc-wal. The password may come from ${NAME}.")
        .like("\"postgres://cdc@localhost/shop\""),
    key("name", Text, Cdc, "Name of the source in events. Default: the name of the database.").like("\"shop\""),
    key("state_path", Path, Cdc, "Directory of the journal, the checkpoints and the lock. One process at a time.").or("\"/var/lib/weftkit/cdc\""),
    key("confirm", Choice(&["delivered", "journaled"]), Cdc, "When the source may forget a transaction: when every emitter has it durably (losing this machine's disk then loses nothing), or when the journal has it on disk (a slow emitter then never fills the database's disk).").or("\"delivered\""),
    key("retain_bytes", Size, Cdc, "Log kept for replay behind the slowest emitter.").or("\"1GiB\""),
    key("retain_bytes_max", Size, Cdc, "Log at which the source is held back until an emitter catches up. Default: no bound but the disk.").like("\"64GiB\""),
    key("retain_age", Duration, Cdc, "Log kept for replay if it is younger than this, however much that is (`retain_bytes_max` bounds it). Default: `retain_bytes` alone says.").like("\"24h\""),
    key("checkpoint_interval", Duration, Cdc, "How often checkpoints are written when they changed. What was acknowledged since the last one is repeated after a crash.").or("\"200ms\""),
    key("shutdown_timeout", Duration, Cdc, "Longest drain after ctrl-c or SIGTERM.").or("\"30s\""),

    key("emitter", Choice(&["queue", "webhook", "file", "custom"]), Both, "Where events go.").or("\"queue\""),
    key("emitters", Tables, Cdc, "Several emitters, each with a name, filter, transforms, position and dead letters of its own."),
    key("schemas", Texts, Both, "Schemas to capture, as patterns (`*`, `?`, `!` to exclude). Empty: all.").or("[]").like("[\"public\"]"),
    key("tables", Texts, Both, "Tables to capture, as patterns: `table` in any schema, or `schema.table`. `!` excludes. Empty: all.").or("[]").like("[\"orders\", \"public.line_*\", \"!public.line_tmp\"]"),
    key("operations", Choices(OPERATIONS), Both, "Operations to capture. Empty: all.").or("[]").like("[\"insert\", \"update\", \"delete\"]"),
    key("where", Text, Both, "A condition on the row.").like("\"op != 'update' || after.total != before.total\""),
    key("transforms", Tables, Both, "Changes to events before delivery, in order."),
    key("format", Choice(&["json", "debezium", "cloudevents", "bincode"]), Both, "Wire form of events.").or("\"json\""),
    key("numbers", Choice(&["safe", "plain"]), Both, "How JSON has integers beyond ±(2^53 - 1) and decimals: as strings, so that no reader loses a digit, or as numbers whatever their size.").or("\"safe\""),
    key("debezium_wrapper", Flag, Both, "With format = \"debezium\": wrap each document as {schema, payload}, for Kafka Connect's JsonConverter with schemas.enable=true.").or("false"),
    key("batch_size", Count(1, 1_000_000), Both, "Most events of one delivery. The file emitter takes its own from [[cdc.emitters]] only; by default as many as there are.").or("100"),
    key("queue_capacity", Count(1, 16_777_216), Both, "Events the queue holds; a full queue holds the reader back. Same as queue.capacity.").or("65536"),
    key("order", Choice(&["key", "table", "global", "none"]), Both, "What stays in order while several requests are in flight: the changes of a row (its key), of a table, everything (then one request at a time is all there can be), or nothing.").or("\"key\""),
    key("window_events", Count(1, 1_048_576), Both, "Events from the first that is not done to the last that was read; at the bound reading waits. Default: 65536; 262144 for files, since the more is synced at once the faster a disk is.").like("65536"),
    key("window_bytes", Size, Both, "Bytes of row data that are read and that no destination has taken yet; at the bound reading waits.").or("\"16MiB\""),
    key("on_dead_key", Choice(&["park", "pass", "stop"]), Both, "What later events of a key do when one is dead: wait behind it, go on, or stop the emitter.").or("\"park\""),

    key("dlq_path", Path, Cdc, "Directory of the dead letter queue. Default: `dlq` in state_path.").like("\"/var/lib/weftkit/cdc-dlq\""),
    key("dlq_bytes_max", Size, Cdc, "Size of the dead letter queue at which emitters stop and wait.").or("\"1GiB\""),
    key("dlq_letters_max", Count(1, 100_000_000), Cdc, "Dead letters at which emitters stop and wait; each takes about 100 bytes of memory.").or("1000000"),
    key("dlq_keys_max", Count(1, 16_777_216), Cdc, "Keys that may be parked behind dead letters at once; beyond it the emitter stops and waits.").or("65536"),

    key("queue.capacity", Count(1, 16_777_216), Both, "Events the queue holds; a full queue holds the reader back. Default: queue_capacity.").like("65536"),
    key("queue.bytes_max", Size, Both, "Bytes of row data the queue holds.").or("\"64MiB\""),

    key("webhook.url", Interpolated, Both, "Where events are posted to.").like("\"https://example.com/hooks/orders\""),
    key("webhook.secret", Secret, Both, "Signing secret (Standard Webhooks, `whsec_...`). Better in a file or as ${NAME}.").like("\"${WEBHOOK_SECRET}\""),
    key("webhook.secret_file", Path, Both, "File that holds the signing secret.").like("\"/run/secrets/whsec\""),
    key("webhook.secrets_files", Texts, Both, "Files of several signing secrets, the newest first; every request carries a signature by each.").or("[]").like("[\"/run/secrets/whsec-new\", \"/run/secrets/whsec-old\"]"),
    key("webhook.headers", Headers, Both, "Headers of every request.").like("{ Authorization = \"Bearer ${TOKEN}\" }"),
    key("webhook.batch_size", Count(1, 10_000), Both, "Most events of one request. Default: batch_size. An emitter's own batch_size goes before the section's."),
    key("webhook.body", Choice(&["array", "ndjson", "json", "cloudevents-batch", "debezium"]), Both, "Shape of a body: an array of events, one event a line, a single event, an array of CloudEvents, or an array of Debezium records. Default: the array that fits format.").like("\"ndjson\""),
    key("webhook.gzip", Flag, Both, "Compress bodies.").or("false"),
    key("webhook.body_bytes_max", Size, Both, "Largest body before compression; a larger batch is halved, a larger event is a dead letter. Default: no limit.").like("\"1MiB\""),
    key("webhook.timeout", Duration, Both, "Longest request.").or("\"15s\""),
    key("webhook.connect_timeout", Duration, Both, "Longest connect.").or("\"5s\""),
    key("webhook.idle_timeout", Duration, Both, "An unused connection older than this is not used again; shorter than the receiver's own limit.").or("\"4s\""),
    key("webhook.concurrency", Count(1, 256), Both, "Requests in flight at once. Above 1, `order` says what stays in order.").or("1"),
    key("webhook.allow_http", Flag, Both, "Allow plain HTTP to other hosts.").or("false"),
    key("webhook.allow_private", Flag, Both, "Allow private and loopback addresses.").or("false"),
    key("webhook.ca_file", Path, Both, "Certificate authorities to trust instead of the system's, a PEM file.").like("\"/etc/ssl/internal-ca.pem\""),
    key("webhook.client_cert_file", Path, Both, "Certificate shown to a receiver that asks for one (mutual TLS), a PEM file with the chain.").like("\"/etc/ssl/cdc.pem\""),
    key("webhook.client_key_file", Path, Both, "Its private key, a PEM file.").like("\"/run/secrets/cdc.key\""),
    key("webhook.http_version", Choice(&["auto", "1.1", "2"]), Both, "Version of HTTP: what TLS agrees on (without TLS 1.1), or this one only.").or("\"auto\""),

    key("file.path", Path, Both, "Directory of the files.").like("\"/var/log/cdc\""),
    key("file.stream", Text, Both, "How file names begin. Default: the emitter's name.").like("\"orders\""),
    key("file.rotate_bytes", Size, Both, "Size at which the next file begins, at a transaction's end.").or("\"256MiB\""),
    key("file.rotate_age", Duration, Both, "Age at which the next file begins, at a transaction's end.").or("\"1h\""),
    key("file.fsync", Sync, Both, "When bytes are made durable: after every batch, at most a while later, or when the operating system does. Checkpoints follow.").or("\"interval:50ms\""),
    key("file.on_restart", Choice(&["truncate", "append"]), Both, "What happens to bytes behind the checkpoint: cut off and written again (no repeats), or kept.").or("\"truncate\""),
    key("file.compress", Choice(&["none", "gzip"]), Both, "What becomes of closed files: they stay, or are compressed beside the emitter.").or("\"none\""),

    key("custom.command", Texts, Both, "Program and arguments: it reads one JSON event a line on standard input and writes the tokens of what it has done to standard output.").like("[\"python3\", \"consumer.py\"]"),
    key("custom.timeout", Duration, Both, "Longest wait for the answer to a batch; then the program is killed and started again.").or("\"30s\""),
    key("custom.stop_timeout", Duration, Both, "How long the program may take to end after its input was closed, and again after SIGTERM; then it is killed.").or("\"5s\""),

    key("custom.pull", Flag, Both, "Instead of a program: consumers fetch the emitter's events over HTTP (`consumer=NAME`) and acknowledge them. Needs [cdc.http].").or("false"),
    key("custom.window_bytes", Size, Both, "With custom.pull: bytes of events that are held for consumers and not yet acknowledged; a full window holds the reader back.").or("\"64MiB\""),

    key("retry.base", Duration, Both, "Longest first wait after a failed delivery; it doubles.").or("\"200ms\""),
    key("retry.max", Duration, Both, "Longest wait between attempts.").or("\"60s\""),
    key("retry.probe", Duration, Both, "Wait between attempts at a destination that refuses everything.").or("\"60s\""),

    key("breaker.in_a_row", Count(1, 1000), Both, "Failed requests in a row after which a destination is left alone, but for a probe now and then.").or("5"),
    key("breaker.in_window", Count(1, 64), Both, "Failed requests among the last `breaker.window` that do the same.").or("10"),
    key("breaker.window", Count(1, 64), Both, "Requests that are looked at for that.").or("20"),

    key("postgres.slot", Text, Cdc, "Replication slot.").or("\"weftkit_cdc\""),
    key("postgres.publication", Text, Cdc, "Publication.").or("\"weftkit_cdc\""),
    key("postgres.create_slot", Flag, Cdc, "Create the slot when it is absent.").or("true"),
    key("postgres.create_publication", Flag, Cdc, "Create the publication when it is absent.").or("true"),
    key("postgres.accept_keyless", Flag, Cdc, "Create the publication even if it has tables without replica identity, of which the server then refuses every UPDATE and DELETE.").or("false"),
    key("postgres.publish_tables", Texts, Cdc, "Tables of the publication when it is created here, `schema.table` or `table` (then `public`). Empty, and no publish_schemas: all tables, which takes a superuser.").or("[]").like("[\"public.orders\"]"),
    key("postgres.publish_schemas", Texts, Cdc, "Schemas of the publication when it is created here (PostgreSQL 15 or later; takes a superuser).").or("[]").like("[\"public\"]"),
    key("postgres.connect_timeout", Duration, Cdc, "Longest wait for a connection.").or("\"10s\""),

    key("sqlite.snapshot", Flag, Cdc, "Give the rows that are there as `read` events before the first change, when capture begins.").or("true"),
    key("sqlite.mode", Choice(&["pinned", "lock-free"]), Cdc, "Whether the log is held by a read mark, so that every transaction comes whole and alone, or no lock is ever taken, and what the application's checkpoints take away before it is read comes as one merged transaction.").or("\"pinned\""),
    key("sqlite.assist", Choice(&["off", "soft", "hard"]), Cdc, "Help for the application's checkpoints, which capture holds up: none, in its pauses, or also under load by a lock of some milliseconds.").or("\"hard\""),
    key("sqlite.poll_interval", Duration, Cdc, "How often the log is looked at while nothing happens.").or("\"5ms\""),
    key("sqlite.busy_timeout", Duration, Cdc, "Longest wait for a lock of the application.").or("\"5s\""),
    key("sqlite.log_bytes_max", Size, Cdc, "Bytes of log above which the read mark is let go for a moment, so that the application's disk does not fill because of capture; what is then lost comes merged.").or("\"1GiB\""),
    key("sqlite.archive_bytes_max", Size, Cdc, "Bytes of pages kept for a restart and not confirmed by every emitter above which nothing more is read.").or("\"4GiB\""),
    key("sqlite.include_shadow_tables", Flag, Cdc, "Also the tables virtual tables (FTS, R*Tree) keep their contents in.").or("false"),

    key("http.listen", Text, Cdc, "Address of the HTTP surface (health, metrics, status, streams, dead letters). Without it there is none. Another address than loopback needs a token.").like("\"127.0.0.1:7979\""),
    key("http.token", Secret, Cdc, "Bearer token, of at least 16 characters, for everything that changes state. Better in a file or as ${NAME}.").like("\"${CDC_HTTP_TOKEN}\""),
    key("http.token_file", Path, Cdc, "File that holds the bearer token.").like("\"/run/secrets/cdc-http\""),
    key("http.reads", Choice(&["open", "token"]), Cdc, "Whether looking at events, letters and status needs the token, too. Default: \"open\" on loopback, \"token\" elsewhere. Health and metrics never need it.").like("\"token\""),
    key("http.origins", Texts, Cdc, "Web origins whose pages may read (CORS).").or("[]").like("[\"https://shop.example.com\"]"),
    key("http.connections_max", Count(1, 65_536), Cdc, "Connections at once; more are answered 503.").or("256"),
    key("http.write_timeout", Duration, Cdc, "Longest wait for a client that does not read; then its connection is closed.").or("\"30s\""),

    key("name", Text, Emitter, "Name of the emitter: its checkpoint and its dead letters carry it. Required, and unique.").like("\"audit\""),
];

/// The key at a path, in `[cdc]` or in an emitter.
pub(crate) fn lookup(path: &str, in_emitter: bool) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.path == path && allowed(key, in_emitter))
}

/// True if a key may stand there.
pub(crate) const fn allowed(key: &Key, in_emitter: bool) -> bool {
    match key.scope {
        Cdc => !in_emitter,
        Both => true,
        Emitter => in_emitter,
    }
}

/// Names that may stand directly below a table path (`""` for `[cdc]` itself), each once.
pub(crate) fn names_below(path: &str, in_emitter: bool) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in KEYS.iter().filter(|key| allowed(key, in_emitter)) {
        let below = match path {
            "" => Some(key.path),
            path => key
                .path
                .strip_prefix(path)
                .and_then(|rest| rest.strip_prefix('.')),
        };
        if let Some(name) = below.and_then(|rest| rest.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// True if the path is a table of keys, such as `webhook`.
pub(crate) fn is_section(path: &str, in_emitter: bool) -> bool {
    !names_below(path, in_emitter).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        for (at, key) in KEYS.iter().enumerate() {
            let same = |other: &&Key| {
                other.path == key.path
                    && [true, false]
                        .into_iter()
                        .any(|e| allowed(key, e) && allowed(other, e))
            };
            assert!(
                !KEYS[at + 1..].iter().any(|other| same(&other)),
                "{} twice",
                key.path
            );
            assert!(key.doc.ends_with('.'), "{}", key.path);
            for value in [key.default, key.example].into_iter().flatten() {
                assert!(
                    format!("k = {value}").parse::<toml::Table>().is_ok(),
                    "{}",
                    key.path
                );
            }
        }
        let operations: Vec<_> = cdc_core::Op::ALL.iter().map(|op| op.name()).collect();
        assert_eq!(operations, OPERATIONS);
    }

    #[test]
    fn names_below_follow_the_scope() {
        assert_eq!(names_below("queue", false), ["capacity", "bytes_max"]);
        assert!(names_below("", false).contains(&"postgres"));
        assert!(!names_below("", true).contains(&"postgres"));
        assert!(names_below("", true).contains(&"name"));
        assert!(is_section("file", true) && !is_section("source", false));
    }
}
