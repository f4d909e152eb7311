//! `curl`, and the pipeline it talks to.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::bad::shop::{Running, Shop, until};
use crate::tool::Tool;

/// The bearer token of every pipeline here.
pub(crate) const TOKEN: &str = "0123456789abcdef-test";

/// `curl`, with what every use here needs; its own time limit ends a test that hangs.
pub(crate) fn curl(arguments: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60"])
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null());
    curl
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Got {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// An error: this status, this word for programs, a message. Gives the whole error.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        let error = self.json()["error"].clone();
        assert_eq!(error["kind"], kind, "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(|c: char| !c.is_uppercase()) && !message.ends_with('.'));
        error
    }
}

/// A pipeline with an HTTP surface.
pub(crate) struct Surface {
    pub(crate) address: String,
    pub(crate) run: Running,
}

impl Surface {
    /// Starts the tool and waits until it answers.
    #[track_caller]
    pub(crate) fn start(shop: &Shop) -> Self {
        Self::with(&shop.tool, &["-q", "run", "--set", "retry.base=1ms"])
    }

    #[track_caller]
    pub(crate) fn with(tool: &Tool, arguments: &[&str]) -> Self {
        let mut run = Running::start(tool.command(arguments));
        let status = run.until_status("the surface listens", |status| {
            status["http"].is_string().then(|| status.clone())
        });
        Self {
            address: status["http"].as_str().unwrap().to_owned(),
            run,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    #[track_caller]
    pub(crate) fn ask(&self, path: &str, arguments: &[&str]) -> Got {
        let out = curl(&["--write-out", "\n%{http_code}"])
            .args(arguments)
            .arg(self.url(path))
            .output()
            .expect("curl: install the Debian package curl, or run `cargo xtask setup`");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let text = String::from_utf8(out.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        Got {
            status: status.parse().unwrap(),
            body: body.to_owned(),
        }
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Got {
        self.ask(path, &[])
    }

    /// With the bearer token.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &str) -> Got {
        let bearer = format!("authorization: Bearer {TOKEN}");
        self.ask(path, &["--header", &bearer, "--data", body])
    }

    /// Reads a stream until it ends by itself.
    #[track_caller]
    pub(crate) fn stream(&self, path: &str, headers: &[&str]) -> String {
        let mut arguments = vec!["--no-buffer"];
        for header in headers {
            arguments.extend(["--header", *header]);
        }
        let got = self.ask(path, &arguments);
        assert_eq!(got.status, 200, "{}", got.body);
        got.body
    }

    /// Opens a stream and leaves it open.
    pub(crate) fn follow(&self, path: &str, headers: &[&str]) -> Follow {
        let mut command = curl(&["--no-buffer"]);
        for header in headers {
            command.args(["--header", header]);
        }
        command.arg(self.url(path)).stdout(Stdio::piped());
        Follow {
            child: command.spawn().unwrap(),
            text: Vec::new(),
        }
    }

    /// SIGTERM, and an end without error.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.run.ask_to_stop();
        let end = self.run.end();
        assert_eq!(end.code, 0, "{}", end.err);
    }

    /// Waits until every committed event is done.
    #[track_caller]
    pub(crate) fn until_metric(&self, line: &str) {
        until(line, || {
            let metrics = self.get("/metrics").body;
            metrics.lines().any(|l| l == line).then_some(())
        });
    }
}

/// A stream that is open.
pub(crate) struct Follow {
    child: Child,
    text: Vec<u8>,
}

impl Follow {
    /// Reads on until the text satisfies.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, what: impl Fn(&str) -> Option<T>) -> T {
        let mut piece = [0; 4096];
        loop {
            if let Some(found) = what(&String::from_utf8_lossy(&self.text)) {
                return found;
            }
            let read = self
                .child
                .stdout
                .as_mut()
                .unwrap()
                .read(&mut piece)
                .unwrap();
            assert!(
                read > 0,
                "the stream ended: {}",
                String::from_utf8_lossy(&self.text)
            );
            self.text.extend_from_slice(&piece[..read]);
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A shop whose surface listens on a free port, delivered to files.
pub(crate) fn shop(http: &str) -> Shop {
    Shop::with_config(&config(
        "[cdc.file]\npath = \"out\"\n",
        "emitter = \"file\"\n",
        http,
    ))
}

pub(crate) fn config(tables: &str, keys: &str, http: &str) -> String {
    format!(
        "[cdc]\nsource = \"wal:wal\"\nstate_path = \"state\"\nshutdown_timeout = \"100ms\"\ndlq_path = \"dlq\"\n{keys}{tables}[cdc.http]\nlisten = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n{http}"
    )
}

/// The ids of rows in these documents.
pub(crate) fn row_ids(events: &[Value]) -> Vec<i64> {
    let id = |event: &Value| event["after"]["id"].as_i64().unwrap();
    events.iter().map(id).collect()
}
