//! HTTPS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::{EmitErrorKind, Emitter};
use cdc_emit_webhook::{ClientCertificate, HttpVersion, WebhookConfig, WebhookEmitter};
use http::Version;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::receiver::Receiver;
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

/// A receiver that offers these protocols, and asks for a certificate of the clients' authority.
async fn receiver(protocols: &[&str], asks: bool) -> Receiver {
    let chain = vec![CertificateDer::from_pem_file(fixture("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if asks {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(fixture("client-ca.pem")).unwrap())
            .unwrap();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    Receiver::start_tls(Arc::new(config).into()).await
}

fn trusting(receiver: &Receiver) -> WebhookConfig {
    let mut config = WebhookConfig::new("hook", format!("https://localhost:{}/in", receiver.port));
    config.ca_file = Some(fixture("ca.pem"));
    config
}

fn client(name: &str) -> Option<ClientCertificate> {
    Some(ClientCertificate {
        chain: fixture(&format!("{name}.pem")),
        key: fixture(&format!("{name}.key")),
    })
}

#[tokio::test]
async fn the_handshake_chooses_the_version() {
    use HttpVersion::{Auto, Http1, Http2};
    let cases: [(&[&str], _, _); 7] = [
        (&["h2", "http/1.1"], Auto, Some(Version::HTTP_2)),
        (&["http/1.1"], Auto, Some(Version::HTTP_11)),
        (&[], Auto, Some(Version::HTTP_11)),
        (&["h2", "http/1.1"], Http1, Some(Version::HTTP_11)),
        (&["h2"], Http2, Some(Version::HTTP_2)),
        // A receiver that has no ALPN at all, and one that offers nothing in common.
        (&[], Http2, None),
        (&["http/1.1"], Http2, None),
    ];
    for (offers, wants, speaks) in cases {
        let receiver = receiver(offers, false).await;
        let mut config = trusting(&receiver);
        config.http_version = wants;
        let mut emitter = WebhookEmitter::new(config).unwrap();
        match (emitter.emit(&batch(2)).await, speaks) {
            (Ok(_), Some(version)) => {
                emitter.emit(&batch(3)).await.unwrap();
                let got = receiver.got();
                assert_eq!((got.len(), receiver.connections()), (2, 1));
                assert_eq!(got[1].version, version, "{offers:?} {wants:?}");
            }
            (Err(error), None) => {
                let retry = EmitErrorKind::EndpointRetry { retry_after: None };
                assert_eq!(error.kind, retry, "{error}");
                assert!(receiver.got().is_empty());
            }
            (other, _) => panic!("{offers:?} {wants:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_certificate_gets_it() {
    for offers in [&["h2"][..], &["http/1.1"]] {
        let receiver = receiver(offers, true).await;
        let mut config = trusting(&receiver);
        config.client_certificate = client("client");
        let mut emitter = WebhookEmitter::new(config.clone()).unwrap();
        emitter.emit(&batch(2)).await.unwrap();
        assert_eq!(receiver.got().len(), 1);
        // Without one, or with one of somebody else, nothing gets through.
        for other in [None, client("stranger")] {
            config.client_certificate = other;
            let error = WebhookEmitter::new(config.clone())
                .unwrap()
                .emit(&batch(2))
                .await
                .unwrap_err();
            let retry = EmitErrorKind::EndpointRetry { retry_after: None };
            assert_eq!(error.kind, retry, "{error}");
        }
        assert_eq!(receiver.got().len(), 1);
    }
}

#[tokio::test]
async fn a_client_certificate_is_loaded_at_the_start() {
    let files = |chain: &str, key: &str| {
        Some(ClientCertificate {
            chain: fixture(chain),
            key: fixture(key),
        })
    };
    for (certificate, words) in [
        (files("none.pem", "client.key"), "none.pem"),
        (files("client.key", "client.key"), "no certificate in it"),
        (files("client.pem", "none.key"), "none.key"),
        (files("client.pem", "client.pem"), "client.pem"),
        // A key that belongs to another certificate.
        (files("client.pem", "stranger.key"), "client.pem"),
    ] {
        let mut config = WebhookConfig::new("hook", "https://example.com/");
        config.ca_file = Some(fixture("ca.pem"));
        config.client_certificate = certificate;
        let error = WebhookEmitter::new(config).unwrap_err().to_string();
        assert!(error.contains("client certificate"), "{error}");
        assert!(error.contains(words), "{error}");
    }
    let mut config = WebhookConfig::new("hook", "http://localhost/");
    config.client_certificate = client("client");
    let error = WebhookEmitter::new(config).unwrap_err().to_string();
    assert!(error.contains("use https"), "{error}");
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
