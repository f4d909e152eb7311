//! Several requests at once: clones of one emitter, and the connections they share.

use cdc_core::testing::transaction;
use cdc_core::{EmitErrorKind, Emitter, Receipt};
use cdc_emit_webhook::{HttpVersion, WebhookConfig, WebhookEmitter};
use http::Version;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::receiver::{Receiver, Speaks};

const MANY: usize = Semaphore::MAX_PERMITS;

fn config(receiver: &Receiver, speaks: Speaks) -> WebhookConfig {
    let mut config = receiver.config();
    config.http_version = match speaks {
        Speaks::Http1 => HttpVersion::Auto,
        Speaks::Http2 => HttpVersion::Http2,
    };
    config
}

/// Sends one batch by each of `count` clones, all at once.
fn send(emitter: &WebhookEmitter, count: u64) -> JoinSet<Result<Receipt, cdc_core::EmitError>> {
    let mut sending = JoinSet::new();
    for commit in 1..=count {
        let mut clone = emitter.clone();
        sending.spawn(async move { clone.emit(&transaction(commit, 1, 2)).await });
    }
    sending
}

#[tokio::test]
async fn clones_send_at_once_and_keep_their_connections() {
    for (speaks, connections, version) in [
        (Speaks::Http1, 4, Version::HTTP_11),
        (Speaks::Http2, 1, Version::HTTP_2),
    ] {
        let receiver = Receiver::start(speaks, 0).await;
        let emitter = WebhookEmitter::new(config(&receiver, speaks)).unwrap();
        for round in 1..=3 {
            let sending = send(&emitter, 4);
            // Nothing is answered before all four are there.
            receiver.running(4).await;
            receiver.answer(4);
            for outcome in sending.join_all().await {
                assert_eq!(outcome.unwrap(), Receipt::DURABLE);
            }
            assert_eq!(receiver.got().len(), 4 * round);
            assert_eq!(receiver.connections(), connections, "{speaks:?}");
        }
        assert!(receiver.got().iter().all(|got| got.version == version));
    }
}

#[tokio::test]
async fn there_are_never_more_requests_at_once_than_configured() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let receiver = Receiver::start(speaks, 0).await;
        let mut config = config(&receiver, speaks);
        config.connections_max = 3;
        let emitter = WebhookEmitter::new(config).unwrap();
        let sending = send(&emitter, 10);
        for left in (1..=10).rev() {
            // As many as may run; the last ones are fewer.
            receiver.running(left.min(3)).await;
            receiver.answer(1);
        }
        assert!(sending.join_all().await.iter().all(Result::is_ok));
        assert_eq!((receiver.got().len(), receiver.most_at_once()), (10, 3));
        assert!(receiver.connections() <= 3);
    }
}

#[tokio::test]
async fn a_receiver_that_closes_all_idle_connections_costs_no_error() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let receiver = Receiver::start(speaks, 0).await;
        let emitter = WebhookEmitter::new(config(&receiver, speaks)).unwrap();
        let sending = send(&emitter, 6);
        receiver.running(6).await;
        receiver.answer(MANY / 2);
        sending.join_all().await;
        for _ in 0..5 {
            receiver.close_connections().await;
            // Six idle connections were closed under the emitter, and each batch still arrives.
            for outcome in send(&emitter, 6).join_all().await {
                outcome.unwrap();
            }
        }
        assert!(
            receiver
                .got()
                .iter()
                .all(|got| got.headers["cdc-attempt"] == "1"),
            "none of it counted as an attempt"
        );
    }
}

#[tokio::test]
async fn http2_requests_say_where_they_go() {
    let receiver = Receiver::start(Speaks::Http2, MANY).await;
    let mut config = config(&receiver, Speaks::Http2);
    config.headers = vec![("Authorization".into(), "Bearer token".into())];
    config.gzip = true;
    let mut emitter = WebhookEmitter::new(config).unwrap();
    emitter.emit(&transaction(1, 1, 3)).await.unwrap();
    let got = &receiver.got()[0];
    assert_eq!(
        got.uri,
        format!("http://127.0.0.1:{}/in?key=1", receiver.port)
    );
    assert!(!got.headers.contains_key("host"));
    assert_eq!(got.headers["authorization"], "Bearer token");
    assert_eq!(
        got.headers["content-length"],
        got.body.len().to_string().as_str()
    );
    assert_eq!(got.headers["cdc-count"], "3");
}

#[tokio::test]
async fn a_request_that_times_out_is_sent_again_on_another_connection() {
    let receiver = Receiver::start(Speaks::Http2, 0).await;
    let mut config = config(&receiver, Speaks::Http2);
    config.request_timeout = std::time::Duration::from_millis(500);
    let mut emitter = WebhookEmitter::new(config).unwrap();
    let error = emitter.emit(&transaction(1, 1, 1)).await.unwrap_err();
    assert_eq!(
        error.kind,
        EmitErrorKind::EndpointRetry { retry_after: None }
    );
    assert!(error.to_string().contains("in time"), "{error}");
    // The stream was given up, so nobody waits there any more, and the next goes elsewhere.
    receiver.running(0).await;
    receiver.answer(MANY / 2);
    emitter.emit(&transaction(1, 1, 1)).await.unwrap();
    let got = receiver.got();
    assert_eq!((got[0].connection, got[1].connection), (0, 1));
    assert_eq!(got[0].headers["webhook-id"], got[1].headers["webhook-id"]);
    assert_eq!(got[1].headers["cdc-attempt"], "2");
}

#[tokio::test]
async fn a_dropped_http2_request_leaves_its_connection_to_the_others() {
    let receiver = Receiver::start(Speaks::Http2, 0).await;
    let emitter = WebhookEmitter::new(config(&receiver, Speaks::Http2)).unwrap();
    let mut first = send(&emitter, 2);
    receiver.running(2).await;
    // One of the two is dropped: the receiver hears of it, the other is answered.
    let dropped = {
        let mut clone = emitter.clone();
        tokio::spawn(async move { clone.emit(&transaction(9, 1, 1)).await })
    };
    receiver.running(3).await;
    dropped.abort();
    receiver.running(2).await;
    receiver.answer(2);
    while let Some(outcome) = first.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_receiver_that_does_not_speak_http2_is_an_unwell_endpoint() {
    let receiver = Receiver::start(Speaks::Http1, MANY).await;
    let mut emitter = WebhookEmitter::new(config(&receiver, Speaks::Http2)).unwrap();
    let error = emitter.emit(&transaction(1, 1, 1)).await.unwrap_err();
    assert_eq!(
        error.kind,
        EmitErrorKind::EndpointRetry { retry_after: None },
        "{error}"
    );
    assert!(receiver.got().is_empty());
}
