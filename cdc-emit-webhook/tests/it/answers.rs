//! What an answer, or its absence, leads to.

use std::time::Duration;

use cdc_core::testing::transaction;
use cdc_core::{Delivery, EmitError, EmitErrorKind, Emitter, EventId, RETRY_AFTER_MAX, Receipt};
use cdc_emit_webhook::WebhookEmitter;

use crate::server::{Reply, Server, answer, batch, outcome, status};

const RETRY: EmitErrorKind = EmitErrorKind::EndpointRetry { retry_after: None };

#[tokio::test]
async fn every_class_of_status() {
    for (code, kind) in [
        (200, None),
        (201, None),
        (202, None),
        (204, None),
        (299, None),
        (301, Some(EmitErrorKind::EndpointStop)),
        (302, Some(EmitErrorKind::EndpointStop)),
        (304, Some(EmitErrorKind::EndpointStop)),
        (308, Some(EmitErrorKind::EndpointStop)),
        (400, Some(EmitErrorKind::Event)),
        (401, Some(EmitErrorKind::EndpointStop)),
        (403, Some(EmitErrorKind::EndpointStop)),
        (404, Some(EmitErrorKind::EndpointStop)),
        (405, Some(EmitErrorKind::EndpointStop)),
        (408, Some(RETRY)),
        (409, Some(EmitErrorKind::Event)),
        (410, Some(EmitErrorKind::EndpointStop)),
        (413, Some(EmitErrorKind::Event)),
        (415, Some(EmitErrorKind::Event)),
        (418, Some(EmitErrorKind::EndpointStop)),
        (422, Some(EmitErrorKind::Event)),
        (425, Some(RETRY)),
        (429, Some(RETRY)),
        (500, Some(RETRY)),
        (501, Some(EmitErrorKind::EndpointStop)),
        (502, Some(RETRY)),
        (503, Some(RETRY)),
        (504, Some(RETRY)),
        (505, Some(EmitErrorKind::EndpointStop)),
        (599, Some(RETRY)),
    ] {
        // Neither 204 nor 304 has a body.
        let bytes = match code {
            204 | 304 => format!("HTTP/1.1 {code} Text\r\n\r\n").into_bytes(),
            _ => answer(code, &[("location", "http://127.0.0.1:1/")], "why"),
        };
        match (outcome([Reply::Answer(bytes)]).await, kind) {
            (Ok(receipt), None) => assert_eq!(receipt, Receipt::DURABLE, "{code}"),
            (Err(error), Some(kind)) => {
                assert_eq!(error.kind, kind, "{code}");
                assert_eq!(error.status, Some(code));
                assert!(
                    error
                        .to_string()
                        .starts_with("post 3 events to http://127.0.0.1:"),
                    "{error}"
                );
                assert!(!error.to_string().contains("key=1"), "{error}");
                assert_eq!(error.response.as_deref(), (code != 304).then_some("why"));
            }
            (other, _) => panic!("{code}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = Server::start([Reply::Answer(answer(
        302,
        &[("location", "/elsewhere")],
        "",
    ))])
    .await;
    let error = server.emitter().emit(&batch(1)).await.unwrap_err();
    assert!(
        error.to_string().contains("redirects are not followed"),
        "{error}"
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn retry_after() {
    let wait = |error: EmitError| match error.kind {
        EmitErrorKind::EndpointRetry { retry_after } => retry_after.map(|wait| wait.as_secs()),
        other => panic!("{other:?}"),
    };
    let date = ("date", "Sun, 22 Nov 2026 13:05:07 GMT");
    for (headers, want) in [
        (&[("retry-after", "7")][..], Some(7)),
        (
            &[date, ("retry-after", "Sun, 22 Nov 2026 13:06:07 GMT")],
            Some(60),
        ),
        (
            &[date, ("retry-after", "Sun, 22 Nov 2026 13:00:00 GMT")],
            Some(0),
        ),
        (
            &[("retry-after", "1000000")],
            Some(RETRY_AFTER_MAX.as_secs()),
        ),
        (&[("retry-after", "whenever")], None),
        (&[], None),
    ] {
        for code in [429, 503] {
            let error = outcome([Reply::Answer(answer(code, headers, ""))])
                .await
                .unwrap_err();
            assert_eq!(wait(error), want, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn some_events_refused() {
    let batch = batch(3);
    let id = |n: usize| EventId::new(&batch.source().lineage, batch.events()[n].position);
    let body = format!(
        r#"{{"batchItemFailures":[{{"itemIdentifier":"{}"}},{{"itemIdentifier":"{}"}}]}}"#,
        id(2),
        id(0)
    );
    let receipt = outcome([Reply::Answer(answer(200, &[], &body))])
        .await
        .unwrap();
    assert_eq!(receipt.delivery, Delivery::Durable);
    assert_eq!(
        receipt.rejected.iter().map(|r| r.index).collect::<Vec<_>>(),
        [0, 2]
    );
    assert!(receipt.rejected.iter().all(|r| r.status == Some(200)));

    let unknown = r#"{"batchItemFailures":[{"itemIdentifier":"nobody"}]}"#;
    let error = outcome([Reply::Answer(answer(200, &[], unknown))])
        .await
        .unwrap_err();
    assert_eq!(error.kind, RETRY, "nobody knows what failed");
}

#[tokio::test]
async fn one_connection_is_kept() {
    let server = Server::start([]).await;
    let mut emitter = server.emitter();
    for commit in 1..=5 {
        emitter.emit(&transaction(commit, 1, 2)).await.unwrap();
    }
    assert_eq!(
        server
            .seen()
            .iter()
            .map(|s| s.connection)
            .collect::<Vec<_>>(),
        [0; 5]
    );
}

#[tokio::test]
async fn an_old_connection_is_not_used_again() {
    let server = Server::start([]).await;
    let mut config = server.config();
    config.idle_timeout = Duration::ZERO;
    let mut emitter = WebhookEmitter::new(config).unwrap();
    emitter.emit(&batch(1)).await.unwrap();
    emitter.emit(&batch(2)).await.unwrap();
    assert_eq!(
        server
            .seen()
            .iter()
            .map(|s| s.connection)
            .collect::<Vec<_>>(),
        [0, 1]
    );
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_no_error() {
    // Closed right behind the answer, or when the next request comes: nobody hears of it.
    let ok = || answer(200, &[], "ok");
    for script in [
        vec![Reply::AnswerThenClose(ok()), status(200)],
        vec![Reply::Answer(ok()), Reply::Close, status(200)],
        vec![
            Reply::Answer(answer(200, &[("connection", "close")], "")),
            status(200),
        ],
    ] {
        let server = Server::start(script.clone()).await;
        let mut emitter = server.emitter();
        emitter.emit(&batch(1)).await.unwrap();
        emitter
            .emit(&batch(2))
            .await
            .unwrap_or_else(|e| panic!("{script:?}: {e}"));
        let seen = server.seen();
        assert_eq!(seen.last().unwrap().connection, 1);
        assert_eq!(seen.last().unwrap().header("cdc-attempt"), "1");
    }
}

#[tokio::test]
async fn a_new_connection_that_fails_is_an_error() {
    let server = Server::start([Reply::Close, Reply::Close]).await;
    let error = server.emitter().emit(&batch(1)).await.unwrap_err();
    assert_eq!(error.kind, RETRY);
    assert_eq!(server.seen().len(), 1);
    // Nor is the fresh one that replaces a closed one tried again and again.
    let server = Server::start([status(200), Reply::Close, Reply::Close]).await;
    let mut emitter = server.emitter();
    emitter.emit(&batch(1)).await.unwrap();
    assert_eq!(emitter.emit(&batch(2)).await.unwrap_err().kind, RETRY);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn nobody_listens() {
    let port = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let config = cdc_emit_webhook::WebhookConfig::new("hook", format!("http://localhost:{port}/"));
    let error = WebhookEmitter::new(config)
        .unwrap()
        .emit(&batch(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind, RETRY);
    assert!(
        error
            .to_string()
            .ends_with("it cannot be connected to; the batch will be sent again"),
        "{error}"
    );
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn no_answer_in_time() {
    let whole = answer(200, &[], "ok");
    for bytes in [&b""[..], b"HTTP/1.1 200 OK\r\n", &whole[..whole.len() - 1]] {
        let server = Server::start([Reply::Stall(bytes.to_vec()), status(200)]).await;
        let mut config = server.config();
        config.request_timeout = Duration::from_millis(50);
        let mut emitter = WebhookEmitter::new(config).unwrap();
        let error = emitter.emit(&batch(1)).await.unwrap_err();
        assert_eq!(error.kind, RETRY, "the outcome is unknown");
        assert!(error.to_string().contains("in time"), "{error}");
        // The stalled connection is gone; the same batch goes over a new one.
        emitter.emit(&batch(1)).await.unwrap();
        assert_eq!(server.seen()[1].connection, 1);
        assert_eq!(server.seen()[1].body, server.seen()[0].body);
    }
}

#[tokio::test]
async fn a_status_counts_even_if_its_body_stalls() {
    let server = Server::start([Reply::Stall(
        b"HTTP/1.1 422 No\r\ncontent-length: 9\r\n\r\nhalf".to_vec(),
    )])
    .await;
    let mut config = server.config();
    config.request_timeout = Duration::from_millis(50);
    let error = WebhookEmitter::new(config)
        .unwrap()
        .emit(&batch(1))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.response.as_deref()),
        (EmitErrorKind::Event, Some("half"))
    );
}

#[tokio::test]
async fn huge_answers_are_not_read_to_the_end() {
    for code in [200, 500] {
        let head = format!("HTTP/1.1 {code} Text\r\ncontent-length: 1000000000000\r\n\r\n");
        let server = Server::start([Reply::Flood(head.into_bytes()), status(200)]).await;
        let mut emitter = server.emitter();
        // What was not read of a success may list failures.
        let error = emitter.emit(&batch(1)).await.unwrap_err();
        assert_eq!(error.kind, RETRY, "{code}");
        assert_eq!(error.response.unwrap().len(), EmitError::RESPONSE_MAX);
        emitter.emit(&batch(2)).await.unwrap();
        assert_eq!(
            server.seen()[1].connection,
            1,
            "the flooded connection is dropped"
        );
    }
}

/// A long success is looked through to its end: what is not kept may list failures.
#[tokio::test]
async fn failures_behind_the_limit_are_not_overlooked() {
    let batch = batch(3);
    let id = EventId::new(&batch.source().lineage, batch.events()[1].position);
    let list = format!(r#""batchItemFailures":[{{"itemIdentifier":"{id}"}}]"#);
    // Behind the limit, and across it: 64 KiB and 128 bytes an event.
    for before in [200_000, (64 << 10) + 3 * 128 - 20] {
        let body = format!(r#"{{"log":"{}",{list}}}"#, "x".repeat(before));
        let script = [Reply::Answer(answer(200, &[], &body)), status(200)];
        let server = Server::start(script).await;
        let mut emitter = server.emitter();
        let error = emitter.emit(&batch).await.unwrap_err();
        assert_eq!(error.kind, RETRY, "nobody knows what failed");
        assert!(error.to_string().contains("too long"), "{error}");
        emitter.emit(&batch).await.unwrap();
    }
    // A long success without a list is one, and the connection is as good as before.
    let long = answer(200, &[], &"x".repeat(1 << 20));
    let server = Server::start([Reply::Answer(long)]).await;
    let mut emitter = server.emitter();
    assert_eq!(emitter.emit(&batch).await.unwrap(), Receipt::DURABLE);
    emitter.emit(&batch).await.unwrap();
    assert_eq!(server.seen()[1].connection, 0);
}

/// A list that is compressed cannot be seen, so none is asked for, and what comes anyhow says nothing.
#[tokio::test]
async fn a_compressed_success_tells_nothing() {
    let coded = |coding, body| Reply::Answer(answer(200, &[("content-encoding", coding)], body));
    let script = [
        coded("gzip", "\u{1f}gz"),
        coded("identity", "ok"),
        coded("gzip", ""),
    ];
    let server = Server::start(script).await;
    let mut emitter = server.emitter();
    let error = emitter.emit(&batch(1)).await.unwrap_err();
    assert_eq!(error.kind, RETRY);
    assert!(error.to_string().contains("compressed"), "{error}");
    assert_eq!(server.seen()[0].header("accept-encoding"), "identity");
    emitter.emit(&batch(1)).await.unwrap();
    emitter.emit(&batch(2)).await.unwrap();
}

#[tokio::test]
async fn what_is_not_http_is_an_error_and_is_not_repeated() {
    for bytes in [
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".to_vec(),
        [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 200_000]].concat(),
    ] {
        let server = Server::start([status(200), Reply::AnswerThenClose(bytes)]).await;
        let mut emitter = server.emitter();
        emitter.emit(&batch(1)).await.unwrap();
        let error = emitter.emit(&batch(2)).await.unwrap_err();
        assert_eq!(error.kind, RETRY, "{error}");
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_dropped_emit_is_sent_again_on_a_new_connection() {
    let server = Server::start([Reply::Stall(Vec::new()), status(200)]).await;
    let mut emitter = server.emitter();
    let batch = batch(2);
    {
        let sending = emitter.emit(&batch);
        tokio::pin!(sending);
        loop {
            tokio::select! {
                biased;
                outcome = &mut sending => panic!("{outcome:?}"),
                () = tokio::task::yield_now() => if !server.seen().is_empty() { break },
            }
        }
    }
    emitter.emit(&batch).await.unwrap();
    let [first, second] = &server.seen()[..] else {
        panic!("two requests")
    };
    assert_eq!((first.connection, second.connection), (0, 1));
    assert_eq!(second.header("cdc-attempt"), "2");
    assert_eq!(
        (first.header("webhook-id"), &first.body),
        (second.header("webhook-id"), &second.body)
    );
}
