//! HTTPS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::{EmitErrorKind, Emitter};
use cdc_emit_webhook::{WebhookConfig, WebhookEmitter};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::server::{Server, batch};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

async fn server() -> Server {
    let certificate = CertificateDer::from_pem_file(fixture("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Server::start_tls(Arc::new(config).into()).await
}

#[tokio::test]
async fn a_trusted_receiver_gets_batches_over_one_connection() {
    let server = server().await;
    let mut config = WebhookConfig::new("hook", format!("https://localhost:{}/in", server.port));
    config.ca_file = Some(fixture("ca.pem"));
    let mut emitter = WebhookEmitter::new(config).unwrap();
    emitter.emit(&batch(2)).await.unwrap();
    emitter.emit(&batch(3)).await.unwrap();
    let seen = server.seen();
    assert_eq!((seen.len(), seen[1].connection), (2, seen[0].connection));
}

#[tokio::test]
async fn an_untrusted_receiver_gets_nothing() {
    let server = server().await;
    // A certificate for another name, and one of an authority that is not trusted.
    let mut wrong_name = WebhookConfig::new("hook", format!("https://[::1]:{}/", server.port));
    wrong_name.url = format!("https://127.0.0.9:{}/", server.port);
    wrong_name.allow_private = true;
    wrong_name.ca_file = Some(fixture("ca.pem"));
    let mut untrusted = WebhookConfig::new("hook", format!("https://127.0.0.1:{}/", server.port));
    untrusted.ca_file = Some(fixture("server.pem"));
    for config in [wrong_name, untrusted] {
        let error = WebhookEmitter::new(config)
            .unwrap()
            .emit(&batch(1))
            .await
            .unwrap_err();
        assert_eq!(
            error.kind,
            EmitErrorKind::EndpointRetry { retry_after: None },
            "{error}"
        );
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn authorities_are_loaded_at_the_start() {
    for (file, words) in [
        ("none.pem", "none.pem"),
        ("server.key", "no certificate in it"),
    ] {
        let mut config = WebhookConfig::new("hook", "https://example.com/");
        config.ca_file = Some(fixture(file));
        let error = WebhookEmitter::new(config).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_receiver_that_never_shakes_hands_is_bounded() {
    // It speaks plain HTTP and waits for the end of a head that never comes.
    let server = Server::start([]).await;
    let mut config = WebhookConfig::new("hook", format!("https://localhost:{}/", server.port));
    config.ca_file = Some(fixture("ca.pem"));
    config.connect_timeout = std::time::Duration::from_millis(50);
    let error = WebhookEmitter::new(config)
        .unwrap()
        .emit(&batch(1))
        .await
        .unwrap_err();
    assert_eq!(
        error.kind,
        EmitErrorKind::EndpointRetry { retry_after: None }
    );
    assert!(error.to_string().contains("in time"), "{error}");
}
