//! TLS on the connection, by rustls with the ring provider.

use std::sync::Arc;

use cdc_core::{SourceError, SourceErrorKind};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::{PostgresConfig, SslMode};
use super::connection::Stream;
use super::error::broken;

fn refuse(what: String) -> SourceError {
    SourceError::new(SourceErrorKind::Configuration, what)
}

/// Encrypts the connection, checking the certificate as the mode says.
pub(crate) async fn wrap(
    config: &PostgresConfig,
    stream: TcpStream,
    attempted: &str,
) -> Result<Stream, SourceError> {
    let connector = TlsConnector::from(Arc::new(client(config)?));
    let name = ServerName::try_from(config.host.clone())
        .map_err(|e| refuse(format!("{attempted}: the host is no name TLS can use: {e}")))?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(SourceError::new(
                SourceErrorKind::Unreachable,
                format!(
                    "{attempted} with sslmode={}: {error}; check sslrootcert and the server's certificate",
                    config.ssl_mode.name()
                ),
            )
            .with_cause(error))
        }
        Err(error) => Err(broken(attempted, error)),
    }
}

fn client(config: &PostgresConfig) -> Result<ClientConfig, SourceError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| refuse(format!("set up TLS: {e}")))?;
    let checked = config.ssl_root_cert.is_some()
        || matches!(config.ssl_mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let check = if checked {
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(config)?), provider.clone())
                .build()
                .map_err(|e| refuse(format!("set up TLS: {e}; check sslrootcert")))?;
        Some((inner, config.ssl_mode == SslMode::VerifyFull))
    } else {
        None
    };
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { provider, check }))
        .with_no_client_auth())
}

fn roots(config: &PostgresConfig) -> Result<RootCertStore, SourceError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &config.ssl_root_cert {
        let failed = |e: &dyn std::fmt::Display| {
            refuse(format!(
                "read certificates from {}: {e}; check sslrootcert",
                path.display()
            ))
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| failed(&e))? {
            roots
                .add(certificate.map_err(|e| failed(&e))?)
                .map_err(|e| failed(&e))?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
    }
    if roots.is_empty() {
        return Err(refuse(
            "set up TLS: no certificate authority was found; install ca-certificates or set sslrootcert".into(),
        ));
    }
    Ok(roots)
}

/// libpq's meaning of the modes: nothing, the authority, or the authority and the name.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// The check of authorities, and whether the name counts.
    check: Option<(Arc<WebPkiServerVerifier>, bool)>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some((inner, name_counts)) = &self.check else {
            return Ok(ServerCertVerified::assertion());
        };
        let outcome =
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match outcome {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !name_counts => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
