//! TLS by rustls.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{ClientCertificate, WebhookConfig, WebhookConfigError};

/// TLS to one host.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Tls {
    /// Trusts the authorities in `ca_file`, or else the operating system's, and shows the client
    /// certificate to a receiver that asks for one.
    pub(crate) fn new(host: &str, config: &WebhookConfig) -> Result<Self, WebhookConfigError> {
        let server =
            ServerName::try_from(host.to_owned()).map_err(|_| WebhookConfigError::Url {
                what: "its host is no name that a certificate can have",
            })?;
        let roots = roots(config.ca_file.as_deref())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| WebhookConfigError::Authorities {
                from: "the TLS library".to_owned(),
                what: error.to_string(),
            })?
            .with_root_certificates(roots);
        let mut client = match &config.client_certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = client_certificate(files)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| unusable(&files.chain, &error))?
            }
        };
        client.alpn_protocols = config.http_version.offers();
        Ok(Self {
            connector: Arc::new(client).into(),
            server,
        })
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.server.clone(), stream).await
    }
}

fn unusable(path: &Path, what: &dyn std::fmt::Display) -> WebhookConfigError {
    WebhookConfigError::ClientCertificate {
        file: path.display().to_string(),
        what: what.to_string(),
    }
}

fn client_certificate(
    files: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), WebhookConfigError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.chain)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(&files.chain, &error))?;
    if chain.is_empty() {
        return Err(unusable(&files.chain, &"there is no certificate in it"));
    }
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, &error))?;
    Ok((chain, key))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, WebhookConfigError> {
    let mut roots = RootCertStore::empty();
    let (from, what) = match ca_file {
        Some(path) => {
            let from = path.display().to_string();
            let refuse = |what: String| WebhookConfigError::Authorities {
                from: from.clone(),
                what,
            };
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|e| refuse(e.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|e| refuse(e.to_string()))?;
                roots.add(certificate).map_err(|e| refuse(e.to_string()))?;
            }
            (from, "there is no certificate in it".to_owned())
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            // Some systems carry certificates that cannot be read; the others still count.
            roots.add_parsable_certificates(found.certs);
            let errors: Vec<_> = found
                .errors
                .iter()
                .take(3)
                .map(ToString::to_string)
                .collect();
            let what = format!(
                "none were found ({}); install them, or set ca_file",
                errors.join("; ")
            );
            ("the operating system".to_owned(), what)
        }
    };
    if roots.is_empty() {
        return Err(WebhookConfigError::Authorities { from, what });
    }
    Ok(roots)
}
