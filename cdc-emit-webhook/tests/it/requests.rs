//! What a receiver gets.

use std::io::Read as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cdc_core::testing::{insert, source, transaction};
use cdc_core::{
    Clock, EmitErrorKind, Emitter, EventBatch, EventId, Image, Receipt, ResumeToken, RowImage,
};
use cdc_emit_webhook::{Body, Secret, WebhookEmitter};
use sha2::{Digest, Sha256};

use crate::server::{Reply, Seen, Server, batch, status};

fn json(seen: &Seen) -> serde_json::Value {
    serde_json::from_slice(&seen.body).unwrap()
}

#[tokio::test]
async fn a_request_says_what_it_holds() {
    let server = Server::start([]).await;
    let mut config = server.config();
    config.headers = vec![("Authorization".into(), "Bearer token".into())];
    let mut emitter = WebhookEmitter::new(config).unwrap();
    let batch = batch(3);
    assert_eq!(emitter.emit(&batch).await.unwrap(), Receipt::DURABLE);
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "POST /in?key=1 HTTP/1.1");
    assert_eq!(seen.header("host"), format!("127.0.0.1:{}", server.port));
    assert_eq!(seen.header("content-type"), "application/json");
    assert_eq!(seen.header("authorization"), "Bearer token");
    assert_eq!(seen.header("cdc-count"), "3");
    assert_eq!(seen.header("cdc-attempt"), "1");
    assert_eq!(seen.header("idempotency-key"), seen.header("webhook-id"));
    assert!(!seen.header("webhook-id").contains('.'));
    assert!(
        !seen.headers.contains_key("webhook-signature"),
        "there is no key to sign with"
    );
    let token =
        |n: usize| ResumeToken::new(batch.source().lineage, batch.events()[n].position).to_string();
    assert_eq!(seen.header("cdc-first"), token(0));
    assert_eq!(seen.header("cdc-last"), token(2));
    let events = json(seen);
    let ids: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["id"].as_str().unwrap())
        .collect();
    let want: Vec<_> = batch
        .events()
        .iter()
        .map(|e| EventId::new(&batch.source().lineage, e.position).to_string())
        .collect();
    assert_eq!(ids, want);
}

#[tokio::test]
async fn bodies() {
    for (body, content_type) in [
        (Body::Array, "application/json"),
        (Body::Ndjson, "application/x-ndjson"),
        (Body::CloudEventsBatch, "application/cloudevents-batch+json"),
        (Body::Debezium, "application/json"),
    ] {
        let server = Server::start([]).await;
        let mut config = server.config();
        config.body = body;
        let mut emitter = WebhookEmitter::new(config).unwrap();
        emitter.emit(&batch(3)).await.unwrap();
        let seen = &server.seen()[0];
        assert_eq!(seen.header("content-type"), content_type);
        if body == Body::Ndjson {
            let text = std::str::from_utf8(&seen.body).unwrap();
            assert!(text.ends_with('\n'));
            let lines: Vec<serde_json::Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            assert_eq!(lines.len(), 3);
        } else {
            let all = json(seen);
            assert_eq!(all.as_array().unwrap().len(), 3, "{body:?}");
            let member = match body {
                Body::CloudEventsBatch => "specversion",
                Body::Debezium => "source",
                _ => "position",
            };
            assert!(all[0].get(member).is_some(), "{body:?}");
        }
    }
}

#[tokio::test]
async fn a_json_body_is_one_event() {
    let server = Server::start([]).await;
    let mut config = server.config();
    config.body = Body::Json;
    let mut emitter = WebhookEmitter::new(config).unwrap();
    assert_eq!(emitter.batch_size(), 1);
    emitter.emit(&batch(1)).await.unwrap();
    assert_eq!(json(&server.seen()[0])["op"], "insert");
    let error = emitter.emit(&batch(2)).await.unwrap_err();
    assert_eq!(
        error.kind,
        EmitErrorKind::Event,
        "the lane halves it until it fits"
    );
}

/// HMAC by its definition, from the hash alone.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn wall_micros(&self) -> i64 {
        1_795_352_707_999_999
    }
    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
    fn sleep(&self, _: std::time::Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn every_key_signs_id_time_and_body() {
    let keys = [[1u8; 24], [2u8; 24]];
    for gzip in [false, true] {
        let server = Server::start([]).await;
        let mut config = server.config();
        config.gzip = gzip;
        config.secrets = keys
            .map(|key| Secret::parse(&format!("whsec_{}", STANDARD.encode(key))).unwrap())
            .to_vec();
        let mut emitter = WebhookEmitter::new(config)
            .unwrap()
            .with_clock(Arc::new(Stopped));
        emitter.emit(&batch(2)).await.unwrap();
        let seen = &server.seen()[0];
        assert_eq!(seen.header("webhook-timestamp"), "1795352707");
        let mut signed = format!("{}.1795352707.", seen.header("webhook-id")).into_bytes();
        signed.extend_from_slice(&seen.body);
        let want = keys.map(|key| format!("v1,{}", STANDARD.encode(hmac(&key, &signed))));
        assert_eq!(seen.header("webhook-signature"), want.join(" "));
    }
}

#[tokio::test]
async fn gzip_decodes_to_the_same_body() {
    let server = Server::start([]).await;
    let mut config = server.config();
    server.emitter().emit(&batch(50)).await.unwrap();
    config.gzip = true;
    WebhookEmitter::new(config)
        .unwrap()
        .emit(&batch(50))
        .await
        .unwrap();
    let [plain, packed] = &server.seen()[..] else {
        panic!("two requests")
    };
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(!plain.headers.contains_key("content-encoding"));
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&packed.body[..])
        .read_to_end(&mut body)
        .unwrap();
    assert_eq!(body, plain.body);
    assert!(packed.body.len() < plain.body.len() / 4);
}

#[tokio::test]
async fn a_retried_batch_is_the_same_batch() {
    let server = Server::start([status(503), Reply::Close, status(500), status(200)]).await;
    let mut emitter = server.emitter();
    let batch = batch(3);
    for _ in 0..2 {
        emitter.emit(&batch).await.unwrap_err();
    }
    emitter.emit(&batch).await.unwrap();
    emitter.emit(&transaction(6, 1, 3)).await.unwrap();
    let seen = server.seen();
    // The connection that the first answer came on was closed, so the second try came twice.
    let attempts: Vec<_> = seen.iter().map(|s| s.header("cdc-attempt")).collect();
    assert_eq!(attempts, ["1", "2", "2", "3", "1"]);
    for again in &seen[1..4] {
        assert_eq!(again.body, seen[0].body);
        for name in ["webhook-id", "cdc-first", "cdc-last", "cdc-count"] {
            assert_eq!(again.header(name), seen[0].header(name));
        }
    }
    assert_ne!(seen[4].header("webhook-id"), seen[0].header("webhook-id"));
    // Another emitter, after a restart, gives the same batch the same id and body.
    let restarted = Server::start([]).await;
    restarted.emitter().emit(&batch).await.unwrap();
    let again = &restarted.seen()[0];
    assert_eq!(
        (again.header("webhook-id"), &again.body),
        (seen[0].header("webhook-id"), &seen[0].body)
    );
}

#[tokio::test]
async fn batches_with_the_same_ends_are_not_taken_for_each_other() {
    let server = Server::start([status(503)]).await;
    let mut emitter = server.emitter();
    let all = transaction(5, 1, 4).into_events();
    let of = |ordinals: [usize; 3]| {
        let events = ordinals.map(|n| all[n].clone()).to_vec();
        EventBatch::new(source(), events, all[3].position)
    };
    // As two workers cut them, or one worker before and after a key was parked.
    emitter.emit(&of([0, 1, 3])).await.unwrap_err();
    emitter.emit(&of([0, 2, 3])).await.unwrap();
    let seen = server.seen();
    assert_ne!(seen[0].header("webhook-id"), seen[1].header("webhook-id"));
    assert_ne!(seen[0].body, seen[1].body);
    assert_eq!(seen[1].header("cdc-attempt"), "1");
}

#[tokio::test]
async fn an_event_that_was_changed_between_two_attempts_is_sent_as_it_is_now() {
    // Refused, mended by another transform, redriven: the same position, other content.
    let server = Server::start([status(422)]).await;
    let mut emitter = server.emitter();
    let batch_of = |name| {
        let mut event = insert(5, 0, 7);
        event.after = Image::Full(cdc_core::testing::row(7, name, "1.00"));
        let end = event.position;
        EventBatch::new(source(), vec![event], end)
    };
    emitter.emit(&batch_of("bad")).await.unwrap_err();
    emitter.emit(&batch_of("good")).await.unwrap();
    let seen = server.seen();
    assert_eq!(json(&seen[1])[0]["after"]["name"], "good");
    assert_eq!(seen[0].header("webhook-id"), seen[1].header("webhook-id"));
}

/// A clock that gains a minute at every look.
#[derive(Debug, Default)]
struct Ticking(std::sync::atomic::AtomicI64);

impl Clock for Ticking {
    fn wall_micros(&self) -> i64 {
        let minute = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        1_795_352_707_000_000 + minute * 60_000_000
    }
    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
    fn sleep(&self, _: std::time::Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn a_retried_batch_has_a_new_timestamp_and_signature() {
    let server = Server::start([status(503), status(503)]).await;
    let mut config = server.config();
    config.secrets = vec![Secret::parse(&format!("whsec_{}", STANDARD.encode([1u8; 24]))).unwrap()];
    let mut emitter = WebhookEmitter::new(config)
        .unwrap()
        .with_clock(Arc::new(Ticking::default()));
    for _ in 0..2 {
        emitter.emit(&batch(3)).await.unwrap_err();
    }
    emitter.emit(&batch(3)).await.unwrap();
    let seen = server.seen();
    for (before, after) in [(&seen[0], &seen[1]), (&seen[1], &seen[2])] {
        assert_eq!(before.body, after.body);
        assert_eq!(before.header("webhook-id"), after.header("webhook-id"));
        for name in ["webhook-timestamp", "webhook-signature"] {
            assert_ne!(before.header(name), after.header(name), "{name}");
        }
    }
}

#[tokio::test]
async fn halves_of_a_batch_are_batches_of_their_own() {
    let server = Server::start([status(422), status(422)]).await;
    let mut emitter = server.emitter();
    let batch = batch(4);
    assert_eq!(
        emitter.emit(&batch).await.unwrap_err().kind,
        EmitErrorKind::Event
    );
    assert_eq!(
        emitter.emit(&batch.slice(0..2)).await.unwrap_err().kind,
        EmitErrorKind::Event
    );
    emitter.emit(&batch.slice(0..1)).await.unwrap();
    let seen = server.seen();
    assert_eq!(
        seen.iter()
            .map(|s| s.header("cdc-count"))
            .collect::<Vec<_>>(),
        ["4", "2", "1"]
    );
    assert!(seen.iter().all(|s| s.header("cdc-attempt") == "1"));
    assert_eq!(json(&seen[2]).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_sent_is_the_events_fault() {
    let server = Server::start([]).await;
    let mut config = server.config();
    config.body_bytes_max = Some(1000);
    let mut emitter = WebhookEmitter::new(config).unwrap();
    let error = emitter.emit(&batch(50)).await.unwrap_err();
    assert_eq!(error.kind, EmitErrorKind::Event);
    emitter.emit(&batch(1)).await.unwrap();

    let mut event = insert(1, 0, 7);
    event.after = Image::Full(RowImage::from_bytes(vec![3, 0, 99].into()));
    let end = event.position;
    let damaged = EventBatch::new(source(), vec![event], end);
    let error = emitter.emit(&damaged).await.unwrap_err();
    assert_eq!(error.kind, EmitErrorKind::Event);
    assert_eq!(server.seen().len(), 1, "nothing was sent");
}

#[tokio::test]
async fn an_empty_batch_sends_nothing() {
    let server = Server::start([]).await;
    assert_eq!(
        server.emitter().emit(&batch(0)).await.unwrap(),
        Receipt::DURABLE
    );
    assert!(server.seen().is_empty());
}
