//! Nothing that is secret is told: not in logs at their most talkative, not in errors, not in `Debug`.

use std::io::Write;
use std::sync::{Arc, Mutex};

use cdc_core::Emitter;
use cdc_emit_webhook::{Secret, WebhookEmitter};
use tracing::instrument::WithSubscriber;

use crate::server::{Reply, Server, answer, batch, status};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const KEY: &str = "whsec_U0VDUkVULVNFQ1JFVC1TRUNSRVQtU0VDUkVU";
const TOKEN: &str = "token-5eCr3t";
const PATH: &str = "path-5eCr3t";

/// Sends a few batches, some of which fail, over what `config` says; gives everything that was told.
async fn told(server: &Server, http2: bool) -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        // A time may look like what is in a row.
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let mut config = server.config();
    config.url = format!("http://127.0.0.1:{}/{PATH}", server.port);
    config.secrets = vec![Secret::parse(KEY).unwrap()];
    config.headers = vec![("Authorization".into(), format!("Bearer {TOKEN}"))];
    if http2 {
        config.http_version = cdc_emit_webhook::HttpVersion::Http2;
    }
    let shown = format!("{config:?}");
    let mut emitter = WebhookEmitter::new(config).unwrap();
    let mut told = format!("{shown} {emitter:?}");
    async {
        for count in 1..=4 {
            if let Err(error) = emitter.emit(&batch(count)).await {
                told += &format!("{error} {error:?}");
            }
        }
    }
    .with_subscriber(subscriber)
    .await;
    told += &String::from_utf8_lossy(&log.0.lock().unwrap());
    told
}

#[tokio::test]
async fn secrets_and_rows_are_told_to_nobody() {
    let server = Server::start([
        status(200),
        status(503),
        Reply::Answer(answer(302, &[("location", "/elsewhere")], "")),
        Reply::Close,
    ])
    .await;
    let plain = told(&server, false).await;
    assert!(plain.contains("batch answered"), "{plain}");
    let mut all = plain;
    #[cfg(feature = "http2")]
    {
        use crate::receiver::{Receiver, Speaks};
        let receiver = Receiver::start(Speaks::Http2, 100).await;
        let mut server = Server::start([]).await;
        server.port = receiver.port;
        let http2 = told(&server, true).await;
        assert!(http2.contains("batch answered"), "{http2}");
        assert_eq!(receiver.got().len(), 4);
        all += &http2;
    }
    for secret in [TOKEN, PATH, &KEY[6..], "SECRET-SECRET", "v1,", "1.50"] {
        assert!(!all.contains(secret), "{secret} was told");
    }
}
