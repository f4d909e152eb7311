//! Unix sockets and ways to log in that a server of today no longer offers by default.

use cdc_core::SourceErrorKind;
use cdc_wal::postgres::{PostgresConfig, SqlSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// AuthenticationMD5Password with a salt of `salt`.
const MD5: &[u8] = b"R\0\0\0\x0c\0\0\0\x05salt";
const CLEAR: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
const GSS: &[u8] = b"R\0\0\0\x08\0\0\0\x07";
/// AuthenticationOk, ReadyForQuery.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

async fn startup(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.unwrap();
    let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut startup).await.unwrap();
    startup
}

/// Opens a session with a server that asks `question` and welcomes whoever gives `answer`.
async fn login(
    question: &'static [u8],
    answer: &'static [u8],
) -> Result<(), cdc_core::SourceError> {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(".s.PGSQL.6543")).unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let startup = startup(&mut stream).await;
        let sets = |setting: &[u8]| startup.windows(setting.len()).any(|w| w == setting);
        assert!(sets(b"user\0ann\0") && sets(b"TimeZone\0UTC\0") && sets(b"DateStyle\0ISO\0"));
        stream.write_all(question).await.unwrap();
        let mut given = vec![0; answer.len()];
        if stream.read_exact(&mut given).await.is_ok() {
            assert_eq!(given, answer);
            stream.write_all(WELCOME).await.unwrap();
        }
    });
    let config = PostgresConfig {
        host: directory.path().to_str().unwrap().into(),
        port: 6543,
        user: "ann".into(),
        password: Some("pass".into()),
        ..PostgresConfig::default()
    };
    let session = SqlSession::open(&config).await?;
    session.close().await;
    served.await.unwrap();
    Ok(())
}

#[tokio::test]
async fn clear_and_md5_passwords_are_given() {
    login(CLEAR, b"p\0\0\0\x09pass\0").await.unwrap();
    // "md5" + md5(md5("passann") + "salt")
    login(MD5, b"p\0\0\0\x28md5c1ef7bae5349ae1e986b7e48f83afbad\0")
        .await
        .unwrap();
}

#[tokio::test]
async fn what_cannot_be_answered_is_named() {
    let error = login(GSS, b"never").await.unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Unreachable);
    assert!(error.to_string().contains("method 7"), "{error}");
    let error = login(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"never")
        .await
        .unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Corrupt);
    assert!(
        error.to_string().contains("is this a PostgreSQL server"),
        "{error}"
    );
}
