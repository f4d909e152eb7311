//! The body of a request.

use std::io::Write as _;

use bytes::Bytes;
use cdc_core::EventBatch;
use cdc_core::envelope::{DebeziumOptions, EncodeError, Encoder, Format, JsonOptions};
use flate2::Compression;
use flate2::write::GzEncoder;

/// How a batch becomes a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// A JSON array of events, `application/json`.
    #[default]
    Array,
    /// One JSON event a line, `application/x-ndjson`.
    Ndjson,
    /// One JSON event, `application/json`: a request an event.
    Json,
    /// A JSON array of CloudEvents, `application/cloudevents-batch+json`.
    CloudEventsBatch,
    /// A JSON array of Debezium change records, `application/json`.
    Debezium,
}

impl Body {
    /// Every form.
    pub const ALL: [Self; 5] = [
        Self::Array,
        Self::Ndjson,
        Self::Json,
        Self::CloudEventsBatch,
        Self::Debezium,
    ];

    /// The name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Array => "array",
            Self::Ndjson => "ndjson",
            Self::Json => "json",
            Self::CloudEventsBatch => "cloudevents-batch",
            Self::Debezium => "debezium",
        }
    }

    /// The form with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|body| body.name() == name)
    }

    /// The value of `content-type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::CloudEventsBatch => "application/cloudevents-batch+json",
            Self::Array | Self::Json | Self::Debezium => "application/json",
        }
    }

    const fn format(self) -> Format {
        match self {
            Self::Array | Self::Ndjson | Self::Json => Format::Json,
            Self::CloudEventsBatch => Format::CloudEvents,
            Self::Debezium => Format::Debezium,
        }
    }
}

/// A batch cannot become a body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("the body has more than {max} bytes, see body_bytes_max")]
    TooLarge { max: usize },
    #[error("the body `json` holds one event")]
    NotOne,
    #[error("compress the body")]
    Gzip(#[source] std::io::Error),
}

/// Makes bodies.
#[derive(Clone, Debug)]
pub(crate) struct BodyWriter {
    body: Body,
    encoder: Encoder,
    gzip: bool,
    bytes_max: usize,
}

impl BodyWriter {
    pub(crate) fn new(
        body: Body,
        json: JsonOptions,
        debezium: DebeziumOptions,
        gzip: bool,
        bytes_max: Option<usize>,
    ) -> Self {
        Self {
            body,
            encoder: Encoder::new(body.format())
                .with_json(json)
                .with_debezium(debezium),
            gzip,
            bytes_max: bytes_max.unwrap_or(usize::MAX),
        }
    }

    /// The same bytes for the same batch.
    pub(crate) fn write(&self, batch: &EventBatch) -> Result<Bytes, BodyError> {
        let (open, between, close): (&[u8], u8, &[u8]) = match self.body {
            Body::Array | Body::CloudEventsBatch | Body::Debezium => (b"[", b',', b"]"),
            Body::Ndjson => (b"", b'\n', b"\n"),
            Body::Json if batch.len() == 1 => (b"", b',', b""),
            Body::Json => return Err(BodyError::NotOne),
        };
        let mut out = Vec::with_capacity(batch.encoded_len().saturating_mul(2).min(1 << 20));
        out.extend_from_slice(open);
        for event in batch.events() {
            self.encoder
                .encode_each(batch.source(), event, &mut out, &mut |out| {
                    out.push(between);
                })?;
            // Behind each event, so that one batch never takes much more memory than it may.
            if out.len() - 1 + close.len() > self.bytes_max {
                return Err(BodyError::TooLarge {
                    max: self.bytes_max,
                });
            }
        }
        // The separator behind the last document.
        out.pop();
        out.extend_from_slice(close);
        if !self.gzip {
            return Ok(out.into());
        }
        let mut gzip = GzEncoder::new(Vec::with_capacity(out.len() / 4), Compression::fast());
        let compressed = gzip
            .write_all(&out)
            .and_then(|()| gzip.finish())
            .map_err(BodyError::Gzip)?;
        Ok(compressed.into())
    }
}
