//! Versioned wire forms of events (`docs/formats/envelope.md`).
//!
//! Each form has its own module and its own version; none depends on how events look in memory.
//! Text forms are written straight from the encoded rows into the caller's buffer.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use cdc_core::envelope::{Encoder, Format};
//! use cdc_core::testing;
//!
//! let mut line = Vec::new();
//! Encoder::new(Format::Json).encode(&testing::source(), &testing::insert(1, 0, 7), &mut line)?;
//! assert!(line.ends_with(br#""after":{"id":7,"name":"name","total":"1.50"}}"#));
//! # }
//! # Ok::<_, cdc_core::envelope::EncodeError>(())
//! ```

mod cloudevents;
pub mod compact;
mod debezium;
mod image;
mod json;
mod raw_json;
mod readable;
mod spelled;
mod text;
mod time;
mod value;

use std::fmt;

pub use readable::readable;

use crate::row::RowError;
use crate::{ChangeEvent, Op, SourceInfo};
use value::Spelling;

/// A wire form of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Our JSON, version 1.
    #[default]
    Json,
    /// Debezium's JSON.
    Debezium,
    /// CloudEvents 1.0 in JSON.
    CloudEvents,
    /// The compact binary form.
    Bincode,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Json, Self::Debezium, Self::CloudEvents, Self::Bincode];

    /// The name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Debezium => "debezium",
            Self::CloudEvents => "cloudevents",
            Self::Bincode => "bincode",
        }
    }

    /// The format with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// True if documents hold no raw line feed, so that lines separate them.
    pub const fn is_text(self) -> bool {
        !matches!(self, Self::Bincode)
    }

    /// The media type of one document.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::Debezium => "application/json",
            Self::CloudEvents => "application/cloudevents+json",
            Self::Bincode => "application/vnd.weftkit.cdc.event+bincode",
        }
    }

    /// The media type of a JSON array of documents, or of concatenated compact events.
    pub const fn batch_content_type(self) -> &'static str {
        match self {
            Self::CloudEvents => "application/cloudevents-batch+json",
            other => other.content_type(),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How numbers are written that a reader with 64-bit floats only would change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NumberStyle {
    /// Integers outside ±(2^53 - 1) and all decimals as strings: no reader loses a digit.
    #[default]
    Safe,
    /// Integers and decimals as JSON numbers whatever their size; the reader must keep them whole.
    Plain,
}

impl NumberStyle {
    /// The name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Plain => "plain",
        }
    }

    /// The style with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Safe, Self::Plain]
            .into_iter()
            .find(|style| style.name() == name)
    }
}

/// Options of `json`, and of the data of `cloudevents`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonOptions {
    /// How numbers are written. Default [`NumberStyle::Safe`].
    pub numbers: NumberStyle,
}

/// Options of `debezium`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebeziumOptions {
    /// Wraps each document as `{"schema":null,"payload":...}`, for Kafka Connect's `JsonConverter`
    /// with `schemas.enable=true`. Default false.
    pub payload_wrapper: bool,
}

/// Appends text as a JSON string, with quotes, on one line; for what stands around events.
pub fn json_string(out: &mut Vec<u8>, text: &str) {
    text::string(out, text);
}

/// Appends a time as JSON documents spell commit times: RFC 3339, six digits of fraction, `Z`;
/// without quotes. `micros` counts from 1970-01-01T00:00:00Z.
pub fn rfc3339_micros(out: &mut Vec<u8>, micros: i64) {
    time::commit_time(out, micros);
}

/// An event could not be encoded. Never holds row contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// An image is not a well-formed row.
    #[error("encode an event of {relation}")]
    Row {
        /// The table.
        relation: String,
        /// What was wrong with it.
        #[source]
        cause: RowError,
    },
    /// An image does not have one value a column.
    #[error(
        "encode an event of {relation}: its row has {values} values, the table has {columns} columns"
    )]
    ColumnCount {
        /// The table.
        relation: String,
        /// Values in the row.
        values: usize,
        /// Columns of the table.
        columns: usize,
    },
    /// The key names a column that is not there.
    #[error("encode an event of {relation}: its key names column {ordinal} of {columns}")]
    KeyOrdinal {
        /// The table.
        relation: String,
        /// The ordinal in the key, from 0.
        ordinal: u16,
        /// Columns of the table.
        columns: usize,
    },
    /// A part is larger than the format can hold.
    #[error("encode an event of {relation}: {len} {what}, the format holds {max}")]
    TooLarge {
        /// The table.
        relation: String,
        /// Which part, with its unit.
        what: &'static str,
        /// How much there is.
        len: usize,
        /// How much is possible.
        max: usize,
    },
    /// The format has no word for what happened.
    #[error(
        "encode an event of {relation}: the format {format} cannot say {op}; use json, or filter the operation out"
    )]
    Unsupported {
        /// The table.
        relation: String,
        /// The format.
        format: Format,
        /// What happened.
        op: Op,
    },
}

/// Writes events in one format.
///
/// Pure: the same event gives the same bytes, so a retry is identical to the first attempt. Cheap
/// to clone; holds no buffer.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    format: Format,
    json: JsonOptions,
    debezium: DebeziumOptions,
}

impl Encoder {
    /// An encoder with default options.
    pub const fn new(format: Format) -> Self {
        Self {
            format,
            json: JsonOptions {
                numbers: NumberStyle::Safe,
            },
            debezium: DebeziumOptions {
                payload_wrapper: false,
            },
        }
    }

    /// The same encoder with these options for `json` and `cloudevents`.
    #[must_use]
    pub const fn with_json(mut self, options: JsonOptions) -> Self {
        self.json = options;
        self
    }

    /// The same encoder with these options for `debezium`.
    #[must_use]
    pub const fn with_debezium(mut self, options: DebeziumOptions) -> Self {
        self.debezium = options;
        self
    }

    /// The format it writes.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The media type of one document.
    pub const fn content_type(&self) -> &'static str {
        self.format.content_type()
    }

    /// Appends one event, without separator behind it. Text formats never hold a raw line feed
    /// inside a document.
    ///
    /// An event is one document, but for an update that changes the key in `debezium`: that is two
    /// (delete, create) with one line feed between them. [`Encoder::encode_each`] gives them
    /// apart.
    ///
    /// # Errors
    /// [`EncodeError`]; `out` is then as it was.
    pub fn encode(
        &self,
        source: &SourceInfo,
        event: &ChangeEvent,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        let mut first = true;
        let mut separate = |out: &mut Vec<u8>| {
            if !first {
                out.push(b'\n');
            }
            first = false;
        };
        let written = self.write(source, event, out, &mut separate, &mut |_| {});
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    /// Appends the event's documents, one or more, calling `ended` behind each with the buffer, to
    /// put a separator, or to take the document away. Gives how many there were, at least 1.
    ///
    /// # Errors
    /// [`EncodeError`], before `ended` was called at all; `out` is then as it was.
    pub fn encode_each(
        &self,
        source: &SourceInfo,
        event: &ChangeEvent,
        out: &mut Vec<u8>,
        ended: &mut dyn FnMut(&mut Vec<u8>),
    ) -> Result<usize, EncodeError> {
        let start = out.len();
        let mut count = 0;
        let written = self.write(source, event, out, &mut |_| {}, &mut |out| {
            count += 1;
            ended(out);
        });
        if let Err(error) = written {
            out.truncate(start);
            return Err(error);
        }
        Ok(count)
    }

    fn write(
        &self,
        source: &SourceInfo,
        event: &ChangeEvent,
        out: &mut Vec<u8>,
        starts: &mut dyn FnMut(&mut Vec<u8>),
        ended: &mut dyn FnMut(&mut Vec<u8>),
    ) -> Result<(), EncodeError> {
        let spelling = Spelling::json(self.json);
        if self.format == Format::Debezium {
            return debezium::event(out, source, event, self.debezium, starts, ended);
        }
        starts(out);
        match self.format {
            Format::CloudEvents => cloudevents::event(out, source, event, spelling)?,
            Format::Bincode => compact::event(out, source, event)?,
            Format::Json | Format::Debezium => json::event(out, source, event, spelling)?,
        }
        ended(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
