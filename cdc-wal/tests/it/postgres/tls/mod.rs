//! TLS, against a server of three sentences: yes to TLS, welcome, the answer to one question.

use std::sync::Arc;

use cdc_core::SourceErrorKind;
use cdc_wal::postgres::{PostgresConfig, SqlSession, SslMode};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/postgres/tls/ca.pem");

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap() + 4;
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// AuthenticationOk, ReadyForQuery; then one row for whatever is asked.
async fn welcome(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut length = [0; 4];
    if stream.read_exact(&mut length).await.is_err() {
        return;
    }
    let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut startup).await.unwrap();
    let ready = message(b'Z', b"I");
    let hello = [message(b'R', &[0; 4]), ready.clone()].concat();
    stream.write_all(&hello).await.unwrap();
    let mut question = [0; 64];
    if stream.read(&mut question).await.unwrap_or(0) == 0 {
        return;
    }
    let row = message(b'D', &[0, 1, 0, 0, 0, 3, b'y', b'e', b's']);
    stream.write_all(&[row, ready].concat()).await.unwrap();
    stream.flush().await.unwrap();
    // Until the client goes.
    let _ = stream.read(&mut question).await;
}

/// A server for one connection; its port.
async fn server(tls: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let certificate = CertificateDer::from_pem_slice(include_bytes!("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
        if tls {
            stream.write_all(b"S").await.unwrap();
            if let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
                welcome(stream).await;
            }
        } else {
            stream.write_all(b"N").await.unwrap();
            welcome(stream).await;
        }
    });
    port
}

/// What asking over a connection like this gives.
async fn ask(
    host: &str,
    ssl_mode: SslMode,
    authority: Option<&str>,
    tls: bool,
) -> Result<(), cdc_core::SourceError> {
    let config = PostgresConfig {
        host: host.into(),
        port: server(tls).await,
        ssl_mode,
        ssl_root_cert: authority.map(Into::into),
        ..PostgresConfig::default()
    };
    let mut session = SqlSession::open(&config).await?;
    let rows = session.query("SELECT 'yes'").await?;
    assert_eq!(rows, [[Some("yes".to_owned())]]);
    Ok(())
}

#[tokio::test]
async fn each_mode_checks_what_it_says() {
    use SslMode::{Prefer, Require, VerifyCa, VerifyFull};
    let own = Some(AUTHORITY);
    // The certificate is of `localhost`, by an authority no system knows.
    for (host, mode, authority, works) in [
        ("localhost", Prefer, None, true),
        ("localhost", Require, None, true),
        ("localhost", VerifyFull, own, true),
        ("localhost", VerifyCa, own, true),
        ("127.0.0.1", VerifyCa, own, true),
        ("127.0.0.1", Require, own, true),
        ("127.0.0.1", VerifyFull, own, false),
    ] {
        let outcome = ask(host, mode, authority, true).await;
        assert_eq!(
            outcome.is_ok(),
            works,
            "{host} {mode:?} {authority:?}: {outcome:?}"
        );
        if let Err(error) = outcome {
            assert_eq!(error.kind, SourceErrorKind::Unreachable);
            assert!(error.to_string().contains("sslrootcert"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    // The server's own certificate is no authority of itself.
    let other = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/postgres/tls/server.pem"
    );
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let error = ask("localhost", mode, Some(other), true).await.unwrap_err();
        assert_eq!(
            error.kind,
            SourceErrorKind::Unreachable,
            "{mode:?}: {error}"
        );
    }
    let missing = ask(
        "localhost",
        SslMode::VerifyFull,
        Some("/nowhere/ca.pem"),
        true,
    )
    .await;
    let error = missing.unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Configuration);
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_serves_only_those_who_do_not_insist() {
    ask("localhost", SslMode::Prefer, None, false)
        .await
        .unwrap();
    let error = ask("localhost", SslMode::Require, None, false)
        .await
        .unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Unreachable);
    assert!(error.to_string().contains("ssl = on"), "{error}");
}
