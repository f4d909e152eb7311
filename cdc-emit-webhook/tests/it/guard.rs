//! Names that point where they should not.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cdc_core::{EmitErrorKind, Emitter};
use cdc_emit_webhook::{Resolve, Resolving, WebhookConfig, WebhookEmitter};

use crate::server::{Reply, Server, answer, batch, status};

/// Gives its lists of addresses in turn, the last for ever.
#[derive(Debug)]
struct Names {
    answers: Vec<Vec<SocketAddr>>,
    asked: AtomicUsize,
}

impl Names {
    fn new(answers: &[&[&str]], port: u16) -> Arc<Self> {
        let address = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), port);
        Arc::new(Self {
            answers: answers
                .iter()
                .map(|list| list.iter().map(address).collect())
                .collect(),
            asked: AtomicUsize::new(0),
        })
    }
}

impl Resolve for Names {
    fn resolve(&self, _: &str, _: u16) -> Resolving {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answers.get(asked).or(self.answers.last()).cloned();
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such name")) })
    }
}

fn config(port: u16) -> WebhookConfig {
    let mut config = WebhookConfig::new("hook", format!("http://hook.test:{port}/"));
    config.allow_http = true;
    config
}

#[tokio::test]
async fn a_name_that_points_inside_is_refused() {
    let server = Server::start([]).await;
    for (address, words) in [
        (
            "127.0.0.1",
            "loopback, which the egress guard refuses; use another `url`, or set allow_private",
        ),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.0.0.1", "private"),
        (
            "169.254.169.254",
            "link-local, which the egress guard refuses; use another `url`",
        ),
        ("fd00:ec2::254", "a cloud's metadata"),
        ("0.0.0.0", "unspecified"),
    ] {
        let names = Names::new(&[&[address]], server.port);
        let mut emitter = WebhookEmitter::new(config(server.port))
            .unwrap()
            .with_resolver(names);
        let error = emitter.emit(&batch(1)).await.unwrap_err();
        assert_eq!(error.kind, EmitErrorKind::EndpointStop, "{address}");
        assert!(error.to_string().contains(words), "{address}: {error}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn allowed_private_addresses_are_connected_to_as_resolved() {
    let server = Server::start([]).await;
    let mut config = config(server.port);
    config.allow_private = true;
    // The second answer points nowhere: it must not be asked for between judging and connecting.
    let names = Names::new(
        &[&["169.254.169.254", "127.0.0.1"], &["192.0.2.1"]],
        server.port,
    );
    let mut emitter = WebhookEmitter::new(config)
        .unwrap()
        .with_resolver(names.clone());
    emitter.emit(&batch(1)).await.unwrap();
    assert_eq!(names.asked.load(Ordering::Relaxed), 1);
    assert_eq!(
        server.seen()[0].header("host"),
        format!("hook.test:{}", server.port)
    );
}

#[tokio::test]
async fn the_next_address_is_tried_if_one_fails() {
    let server = Server::start([]).await;
    let mut config = config(server.port);
    config.allow_private = true;
    // Nobody listens on the first.
    let names = Names::new(&[&["127.0.0.9", "127.0.0.1"]], server.port);
    let mut emitter = WebhookEmitter::new(config).unwrap().with_resolver(names);
    emitter.emit(&batch(1)).await.unwrap();
}

#[derive(Debug)]
struct NeverAnswers;

impl Resolve for NeverAnswers {
    fn resolve(&self, _: &str, _: u16) -> Resolving {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_resolver_that_hangs_is_bounded() {
    let mut config = config(1);
    config.connect_timeout = std::time::Duration::from_millis(20);
    let mut emitter = WebhookEmitter::new(config)
        .unwrap()
        .with_resolver(Arc::new(NeverAnswers));
    let error = emitter.emit(&batch(1)).await.unwrap_err();
    assert_eq!(
        error.kind,
        EmitErrorKind::EndpointRetry { retry_after: None }
    );
    assert!(error.to_string().contains("in time"), "{error}");
}

#[tokio::test]
async fn localhost_is_not_asked_of_the_resolver() {
    let server = Server::start([]).await;
    let names = Names::new(&[&["8.8.8.8"]], server.port);
    let config = WebhookConfig::new("hook", format!("http://localhost:{}/", server.port));
    let mut emitter = WebhookEmitter::new(config)
        .unwrap()
        .with_resolver(names.clone());
    emitter.emit(&batch(1)).await.unwrap();
    assert_eq!(names.asked.load(Ordering::Relaxed), 0);
}

/// Reads a host as the C library's `inet_aton` does: one to four parts, each decimal, octal or
/// hexadecimal, the last one filling what is left. Some resolvers do.
fn aton(host: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    if parts.len() > 4 {
        return None;
    }
    let number = |text: &str| -> Option<u64> {
        let lower = text.to_ascii_lowercase();
        if let Some(hex) = lower.strip_prefix("0x") {
            return u64::from_str_radix(hex, 16).ok();
        }
        if lower.len() > 1 && lower.starts_with('0') {
            return u64::from_str_radix(&lower, 8).ok();
        }
        lower.parse().ok()
    };
    let mut address = 0u64;
    for (index, part) in parts.iter().enumerate() {
        let value = number(part)?;
        if index + 1 == parts.len() {
            let bits = 32 - 8 * index;
            return u32::try_from(address << bits | value)
                .ok()
                .map(Ipv4Addr::from);
        }
        if value > 255 {
            return None;
        }
        address = address << 8 | value;
    }
    None
}

/// A resolver that helps an attacker: it reads every spelling of an address, and whatever it does
/// not know points to loopback.
#[derive(Debug)]
struct Accomplice;

impl Resolve for Accomplice {
    fn resolve(&self, host: &str, port: u16) -> Resolving {
        let address = match host {
            "metadata.google.internal" | "instance-data" => Ipv4Addr::new(169, 254, 169, 254),
            "kubernetes.default.svc" => Ipv4Addr::new(10, 96, 0, 1),
            host => aton(host).unwrap_or(Ipv4Addr::LOCALHOST),
        };
        let found = vec![SocketAddr::new(address.into(), port)];
        Box::pin(async move { Ok(found) })
    }
}

/// Hosts, with user and port where they matter, that must never be reached by a URL that does not
/// say `localhost`, `127.0.0.1` or `::1`.
const HOSTILE: [&str; 84] = [
    // Loopback in full, in short, decimal, octal, hexadecimal, mixed, with a dot at the end.
    "127.0.0.2",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0X7F.0x0.0x0.0x1",
    "127.0.0.1.",
    "127.0.0.01",
    "127.000.000.001",
    "0",
    "0.0.0.0",
    "0x0",
    "00",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[2002:7f00:1::]",
    "[2002:7f00:0001::1]",
    "[2001:0:7f00:1::]",
    // Private, shared, link-local and other addresses of inner networks.
    "10.0.0.1",
    "10.1",
    "167772161",
    "012.0.0.1",
    "0xa.0.0.1",
    "172.16.0.1",
    "172.31.255.254",
    "2886729729",
    "192.168.0.1",
    "192.168.1",
    "3232235521",
    "0300.0250.0.1",
    "0xc0a80001",
    "100.64.0.1",
    "100.127.255.254",
    "198.18.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "203.0.113.1",
    "[fc00::1]",
    "[fd12:3456:789a::1]",
    "[fe80::1]",
    "[febf::1]",
    "[fec0::1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:a00:1]",
    "[::ffff:192.168.0.1]",
    "[64:ff9b::10.0.0.1]",
    "[64:ff9b:1::a00:1]",
    "[2002:a00:1::1]",
    "[2002:c0a8:1::1]",
    // What clouds keep for their machines.
    "169.254.169.254",
    "169.254.170.2",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "168.63.129.16",
    "metadata.google.internal",
    "instance-data",
    "kubernetes.default.svc",
    // Multicast and broadcast.
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "[ff02::1]",
    // A user that looks like a host, a host behind a backslash, a host behind an escape.
    "example.com@127.0.0.1",
    "127.0.0.1@example.com",
    "example.com\\@127.0.0.1",
    "127.0.0.1%2eexample.com",
];

#[tokio::test]
async fn hostile_targets_are_never_reached() {
    // Listens on every address of this machine: whatever gets through arrives.
    let server = Server::start([]).await;
    for host in HOSTILE {
        let mut config = WebhookConfig::new("hook", format!("http://{host}:{}/", server.port));
        config.allow_http = true;
        let outcome = match WebhookEmitter::new(config) {
            Ok(emitter) => {
                let mut emitter = emitter.with_resolver(Arc::new(Accomplice));
                let error = emitter.emit(&batch(1)).await.expect_err(host);
                assert_eq!(error.kind, EmitErrorKind::EndpointStop, "{host}: {error}");
                error.to_string()
            }
            Err(error) => error.to_string(),
        };
        // Refused by the guard, not merely unreachable.
        assert!(!outcome.contains("connected to"), "{host}: {outcome}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_name_that_is_rebound_is_judged_again_for_every_connection() {
    let server = Server::start([status(200), status(200)]).await;
    let mut config = config(server.port);
    config.allow_private = true;
    config.idle_timeout = std::time::Duration::ZERO;
    // Good at first; then it points to the cloud's metadata, then to both.
    let names = Names::new(
        &[
            &["127.0.0.1"],
            &["169.254.169.254"],
            &["169.254.169.254", "127.0.0.1"],
        ],
        server.port,
    );
    let mut emitter = WebhookEmitter::new(config)
        .unwrap()
        .with_resolver(names.clone());
    emitter.emit(&batch(1)).await.unwrap();
    let error = emitter.emit(&batch(2)).await.unwrap_err();
    assert_eq!(error.kind, EmitErrorKind::EndpointStop, "{error}");
    emitter.emit(&batch(2)).await.unwrap();
    assert_eq!(names.asked.load(Ordering::Relaxed), 3, "once a connection");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn no_redirect_is_followed_wherever_it_points() {
    let inner = Server::start([]).await;
    for code in [300, 301, 302, 303, 305, 307, 308] {
        for target in [
            "http://127.0.0.1",
            "http://localhost",
            "http://[::1]",
            "//127.0.0.1",
        ] {
            let location = format!("{target}:{}/", inner.port);
            let redirect = answer(code, &[("location", &location)], "");
            let server = Server::start([Reply::Answer(redirect)]).await;
            let error = server.emitter().emit(&batch(1)).await.unwrap_err();
            assert_eq!(error.kind, EmitErrorKind::EndpointStop);
            assert!(!error.to_string().contains(&location), "{error}");
        }
    }
    assert!(inner.seen().is_empty());
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_tried_again() {
    for names in [Names::new(&[], 1), Names::new(&[&[]], 1)] {
        let mut emitter = WebhookEmitter::new(config(1)).unwrap().with_resolver(names);
        let error = emitter.emit(&batch(1)).await.unwrap_err();
        assert_eq!(
            error.kind,
            EmitErrorKind::EndpointRetry { retry_after: None }
        );
    }
}
