//! Webhook emitter of WeftKit CDC: batches of change events as signed HTTP POST requests.
//!
//! What a receiver sees, and what it must do, is in `docs/specs/webhook.md`; in short: Standard
//! Webhooks headers and signatures, a body of JSON events, any 2xx for "I have them".
//!
//! It sends once and reports; retrying, backing off and dead-lettering are the lane's. It follows
//! no redirects, uses no proxy, and connects only to addresses its egress guard allows.
//!
//! # Guarantees
//! A batch counts as delivered only after a 2xx answer that was read to its end. A batch that is
//! sent again has the same `webhook-id` and the same body, byte for byte. Secrets, header values and
//! URL paths appear in no error, log or `Debug` output.
//!
//! ```no_run
//! use cdc_emit_webhook::{Secret, WebhookConfig, WebhookEmitter};
//!
//! let mut config = WebhookConfig::new("orders", "https://example.com/hooks/orders");
//! config.secrets = vec![Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?];
//! let emitter = WebhookEmitter::new(config)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//! - `tls` (default): `https` by rustls, trusting the operating system's certificate authorities.
//! - `http2` (default): HTTP/2 where the receiver offers it.

mod answer;
mod body;
mod config;
mod connect;
mod connection;
mod emitter;
mod guard;
mod pool;
mod sign;
mod status;
#[cfg(feature = "tls")]
mod tls;

pub use body::Body;
pub use config::{
    BATCH_SIZE_MAX, CONNECTIONS_MAX, ClientCertificate, HEADERS_MAX, HttpVersion, WebhookConfig,
    WebhookConfigError,
};
pub use connect::{Resolve, Resolving};
pub use emitter::WebhookEmitter;
pub use guard::refusal;
pub use sign::{Secret, SecretError};
