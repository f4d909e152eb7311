//! TLS by rustls, HTTP/1.1 only.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::WebhookConfigError;

/// TLS to one host.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Tls {
    /// Trusts the authorities in `ca_file`, or else the operating system's.
    pub(crate) fn new(host: &str, ca_file: Option<&Path>) -> Result<Self, WebhookConfigError> {
        let server =
            ServerName::try_from(host.to_owned()).map_err(|_| WebhookConfigError::Url {
                what: "its host is no name that a certificate can have",
            })?;
        let roots = roots(ca_file)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| WebhookConfigError::Authorities {
                from: "the TLS library".to_owned(),
                what: error.to_string(),
            })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            connector: Arc::new(config).into(),
            server,
        })
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.server.clone(), stream).await
    }
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
