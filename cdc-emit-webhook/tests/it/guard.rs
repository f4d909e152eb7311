//! Names that point where they should not.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cdc_core::{EmitErrorKind, Emitter};
use cdc_emit_webhook::{Resolve, Resolving, WebhookConfig, WebhookEmitter};

use crate::server::{Server, batch};

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

#[tokio::test]
async fn odd_spellings_of_loopback_do_not_pass() {
    // Whatever the system's resolver makes of them (an address or an error), nothing is sent.
    let server = Server::start([]).await;
    for host in [
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "127.0.0.1.",
        "0x7f.1",
        "0",
    ] {
        let mut config = WebhookConfig::new("hook", format!("http://{host}:{}/", server.port));
        config.allow_http = true;
        if let Ok(mut emitter) = WebhookEmitter::new(config) {
            emitter.emit(&batch(1)).await.expect_err(host);
        }
    }
    assert!(server.seen().is_empty());
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
