//! The compact binary form: one self-contained event (`docs/formats/envelope.md`).
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 4 | length of the header |
//! | 4 | length of the row before |
//! | 4 | length of the row after |
//! | 4 | length of the row of engine extras |
//! | | the header: names and numbers, in bincode 2's `standard` configuration |
//! | | the rows, as they are in memory and in the log |
//!
//! Lengths are little-endian. An event says how long it is, so events can follow each other
//! without separator; [`encoded_len`] splits such a stream. There is no checksum: files and
//! protocols around it have their own.

use std::sync::Arc;

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use bincode::de::{BorrowDecode, BorrowDecoder, Decode, Decoder};
use bincode::enc::{Encode, Encoder};
use bincode::error as bin;
use bytes::Bytes;

use super::EncodeError;
use crate::row::{RowError, RowImage, RowWriter};
use crate::{
    Cause, ChangeEvent, Column, EngineKind, Image, Lineage, Lsn, Meta, Op, Position, Relation,
    SourceInfo, SourceKind, Transaction,
};

/// The version written; older ones stay readable.
pub const VERSION: u8 = 1;

/// Length of the part in front of the header.
pub const PREFIX_LEN: usize = 1 + 4 * 4;

/// Longest header in bytes: names and numbers, not rows.
pub const HEADER_MAX: usize = 4 << 20;

/// Most engine extras of one event.
pub const META_MAX: usize = 1024;

/// Spelled out, since byte order and integer encoding are part of the format.
type Config = Configuration<LittleEndian, Varint, Limit<HEADER_MAX>>;
const CONFIG: Config = config::standard().with_limit::<HEADER_MAX>();
/// Bytes are not a compact event. Names the place, never contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a newer version of this software.
    #[error(
        "decode a compact event: it has version {version}, this build reads up to {VERSION}; upgrade to read it"
    )]
    Version {
        /// The version found.
        version: u8,
    },
    /// There are fewer bytes than the event says it has.
    #[error("decode a compact event: {have} of {need} bytes are there")]
    CutOff {
        /// Bytes given.
        have: usize,
        /// Bytes the event has.
        need: usize,
    },
    /// There are bytes behind the event.
    #[error("decode a compact event: {extra} bytes follow it")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A part is not what it should be.
    #[error("decode a compact event: {what}")]
    Malformed {
        /// Which part and why.
        what: &'static str,
    },
    /// The row of engine extras is damaged.
    #[error("decode the engine extras of a compact event")]
    Meta {
        /// What was wrong with it.
        #[source]
        cause: RowError,
    },
}

/// Image kinds by format number.
const fn image_kind(image: &Image) -> u8 {
    match image {
        Image::Absent => 0,
        Image::Full(_) => 1,
        Image::Key(_) => 2,
        Image::Partial(_) => 3,
    }
}

/// The header while writing.
struct HeaderOut<'a> {
    source: &'a SourceInfo,
    event: &'a ChangeEvent,
}

/// A list's length, as bincode writes it for collections.
fn count<E: Encoder>(encoder: &mut E, count: usize) -> Result<(), bin::EncodeError> {
    (count as u64).encode(encoder)
}

impl Encode for HeaderOut<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), bin::EncodeError> {
        let Self { source, event } = self;
        let relation = &*event.relation;
        (source.lineage.kind as u8).encode(encoder)?;
        source.lineage.source_id.encode(encoder)?;
        source.lineage.timeline.encode(encoder)?;
        (*source.name).encode(encoder)?;
        (*source.database).encode(encoder)?;
        event.position.commit.0.encode(encoder)?;
        event.position.ordinal.encode(encoder)?;
        event.last.encode(encoder)?;
        (event.op as u8).encode(encoder)?;
        (event.cause as u8).encode(encoder)?;
        event.transaction.id.encode(encoder)?;
        event.transaction.commit_micros.encode(encoder)?;
        (relation.engine as u8).encode(encoder)?;
        (*relation.schema).encode(encoder)?;
        (*relation.table).encode(encoder)?;
        relation.version.encode(encoder)?;
        count(encoder, relation.columns.len())?;
        for column in &relation.columns {
            (*column.name).encode(encoder)?;
            (*column.type_name).encode(encoder)?;
        }
        count(encoder, relation.key.len())?;
        for ordinal in &relation.key {
            ordinal.encode(encoder)?;
        }
        image_kind(&event.before).encode(encoder)?;
        image_kind(&event.after).encode(encoder)?;
        event.meta.is_some().encode(encoder)?;
        if let Some(meta) = &event.meta {
            count(encoder, meta.0.len())?;
            for (name, _) in &meta.0 {
                (**name).encode(encoder)?;
            }
        }
        Ok(())
    }
}

/// Appends one event.
pub(super) fn event(
    out: &mut Vec<u8>,
    source: &SourceInfo,
    event: &ChangeEvent,
) -> Result<(), EncodeError> {
    let too_large = |what, len, max| EncodeError::TooLarge {
        relation: event.relation.qualified_name(),
        what,
        len,
        max,
    };
    let length = |what, len: usize| {
        u32::try_from(len)
            .map(u32::to_le_bytes)
            .map_err(|_| too_large(what, len, u32::MAX as usize))
    };
    if event.relation.columns.len() > Relation::COLUMNS_MAX {
        let len = event.relation.columns.len();
        return Err(too_large("columns", len, Relation::COLUMNS_MAX));
    }
    for &ordinal in &event.relation.key {
        if usize::from(ordinal) >= event.relation.columns.len() {
            return Err(EncodeError::KeyOrdinal {
                relation: event.relation.qualified_name(),
                ordinal,
                columns: event.relation.columns.len(),
            });
        }
    }
    let entries = event.meta.as_ref().map_or(0, |meta| meta.0.len());
    if entries > META_MAX {
        return Err(too_large("engine extras", entries, META_MAX));
    }
    let start = out.len();
    out.reserve(256 + event.encoded_len());
    out.push(VERSION);
    out.extend_from_slice(&[0; PREFIX_LEN - 1]);
    bincode::encode_into_std_write(HeaderOut { source, event }, out, CONFIG).map_err(|_| {
        EncodeError::TooLarge {
            relation: event.relation.qualified_name(),
            what: "bytes of header",
            len: HEADER_MAX,
            max: HEADER_MAX,
        }
    })?;
    let header = out.len() - start - PREFIX_LEN;
    if header > HEADER_MAX {
        return Err(too_large("bytes of header", header, HEADER_MAX));
    }
    let [before, after] = [&event.before, &event.after].map(|image| {
        let row = image.row().map_or(&[][..], |row| row.as_bytes());
        out.extend_from_slice(row);
        row.len()
    });
    let meta_at = out.len();
    if let Some(meta) = &event.meta {
        let mut row = RowWriter::new(out);
        for (_, value) in &meta.0 {
            row.value(value);
        }
        row.finish();
    }
    let lengths = [
        length("bytes of header", header)?,
        length("bytes of the row before", before)?,
        length("bytes of the row after", after)?,
        length("bytes of engine extras", out.len() - meta_at)?,
    ];
    for (index, bytes) in lengths.into_iter().enumerate() {
        let at = start + 1 + 4 * index;
        out[at..at + 4].copy_from_slice(&bytes);
    }
    Ok(())
}

/// Lengths in front of an event.
struct Prefix {
    header: usize,
    before: usize,
    after: usize,
    meta: usize,
}

impl Prefix {
    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let have = bytes.len();
        let cut = DecodeError::CutOff {
            have,
            need: PREFIX_LEN,
        };
        let Some((&version, rest)) = bytes.split_first() else {
            return Err(cut);
        };
        if version > VERSION {
            return Err(DecodeError::Version { version });
        }
        if version == 0 {
            return Err(malformed("version 0 does not exist"));
        }
        let (lengths, _) = rest.as_chunks::<4>();
        let &[header, before, after, meta, ..] = lengths else {
            return Err(cut);
        };
        let [header, before, after, meta] =
            [header, before, after, meta].map(|b| u32::from_le_bytes(b) as usize);
        if header > HEADER_MAX {
            return Err(malformed("the header is longer than any can be"));
        }
        Ok(Self {
            header,
            before,
            after,
            meta,
        })
    }

    fn total(&self) -> Result<usize, DecodeError> {
        [self.header, self.before, self.after, self.meta]
            .into_iter()
            .try_fold(PREFIX_LEN, usize::checked_add)
            .ok_or_else(|| malformed("its lengths are longer than memory"))
    }
}

/// Length in bytes of the event that starts `bytes`, of which at least [`PREFIX_LEN`] must be
/// there; for splitting a stream of events.
///
/// # Errors
/// [`DecodeError`] if no event starts so.
pub fn encoded_len(bytes: &[u8]) -> Result<usize, DecodeError> {
    Prefix::read(bytes)?.total()
}

#[cold]
const fn malformed(what: &'static str) -> DecodeError {
    DecodeError::Malformed { what }
}

/// The header while reading; checked value by value.
struct HeaderIn<'a> {
    lineage: (u8, [u8; 16], u32),
    name: &'a str,
    database: &'a str,
    position: (u64, u32),
    last: bool,
    op: u8,
    cause: u8,
    transaction: (u64, i64),
    engine: u8,
    schema: &'a str,
    table: &'a str,
    version: u32,
    columns: Vec<Column>,
    key: Vec<u16>,
    images: (u8, u8),
    meta: Option<Vec<Arc<str>>>,
}

/// Reads a list's length and refuses one above `max` before anything is reserved.
fn counted<D: Decoder>(decoder: &mut D, max: usize) -> Result<usize, bin::DecodeError> {
    let count = u64::decode(decoder)?;
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= max)
        .ok_or(bin::DecodeError::Other("a list is longer than any can be"))
}

impl<'de, C> BorrowDecode<'de, C> for HeaderIn<'de> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, bin::DecodeError> {
        Ok(Self {
            lineage: Decode::decode(decoder)?,
            name: BorrowDecode::borrow_decode(decoder)?,
            database: BorrowDecode::borrow_decode(decoder)?,
            position: Decode::decode(decoder)?,
            last: Decode::decode(decoder)?,
            op: Decode::decode(decoder)?,
            cause: Decode::decode(decoder)?,
            transaction: Decode::decode(decoder)?,
            engine: Decode::decode(decoder)?,
            schema: BorrowDecode::borrow_decode(decoder)?,
            table: BorrowDecode::borrow_decode(decoder)?,
            version: Decode::decode(decoder)?,
            columns: {
                let count = counted(decoder, Relation::COLUMNS_MAX)?;
                let mut columns = Vec::new();
                for _ in 0..count {
                    let name: &str = BorrowDecode::borrow_decode(decoder)?;
                    let type_name: &str = BorrowDecode::borrow_decode(decoder)?;
                    columns.push(Column::new(name, type_name));
                }
                columns
            },
            key: {
                let count = counted(decoder, Relation::COLUMNS_MAX)?;
                let mut key = Vec::new();
                for _ in 0..count {
                    key.push(u16::decode(decoder)?);
                }
                key
            },
            images: Decode::decode(decoder)?,
            meta: if bool::decode(decoder)? {
                let count = counted(decoder, META_MAX)?;
                let mut names = Vec::new();
                for _ in 0..count {
                    let name: &str = BorrowDecode::borrow_decode(decoder)?;
                    names.push(Arc::from(name));
                }
                Some(names)
            } else {
                None
            },
        })
    }
}

fn image(kind: u8, row: Bytes) -> Result<Image, DecodeError> {
    let empty = row.is_empty();
    let row = RowImage::from_bytes(row);
    match kind {
        0 if empty => Ok(Image::Absent),
        0 => Err(malformed("an absent image has bytes")),
        1 => Ok(Image::Full(row)),
        2 => Ok(Image::Key(row)),
        3 => Ok(Image::Partial(row)),
        _ => Err(malformed("the kind of an image is unknown")),
    }
}

/// Reads exactly one event.
///
/// A pure function of the bytes, safe on any: it never panics and its memory is bounded by a
/// small multiple of the input. Rows are slices of `bytes`, checked when they are read.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(bytes: &Bytes) -> Result<(Arc<SourceInfo>, ChangeEvent), DecodeError> {
    let prefix = Prefix::read(bytes)?;
    let (need, have) = (prefix.total()?, bytes.len());
    if have < need {
        return Err(DecodeError::CutOff { have, need });
    }
    if have > need {
        return Err(DecodeError::Trailing { extra: have - need });
    }
    let mut at = PREFIX_LEN;
    let mut part = |length: usize| {
        let slice = bytes.slice(at..at + length);
        at += length;
        slice
    };
    let header = part(prefix.header);
    let (before, after, extras) = (part(prefix.before), part(prefix.after), part(prefix.meta));
    let (header, read) = bincode::borrow_decode_from_slice::<HeaderIn<'_>, _>(&header, CONFIG)
        .map(|(decoded, read)| (decoded, read == header.len()))
        .map_err(|_| malformed("the header is damaged"))?;
    if !read {
        return Err(malformed("the header has bytes left over"));
    }
    let (kind, source_id, timeline) = header.lineage;
    let kind = SourceKind::from_u8(kind).ok_or(malformed("the source kind is unknown"))?;
    let lineage = Lineage::new(kind, source_id, timeline);
    let columns = header.columns.len();
    if header.key.iter().any(|&k| usize::from(k) >= columns) {
        return Err(malformed("a key ordinal is past the last column"));
    }
    let engine = EngineKind::from_u8(header.engine).ok_or(malformed("the engine is unknown"))?;
    let mut relation = Relation::new(
        engine,
        header.schema,
        header.table,
        header.columns,
        header.key,
    );
    relation.version = header.version;
    let meta = match header.meta {
        Some(names) => {
            let values = RowImage::from_bytes(extras)
                .to_values()
                .map_err(|cause| DecodeError::Meta { cause })?;
            if values.len() != names.len() {
                return Err(malformed("engine extras do not match their names"));
            }
            Some(Arc::new(Meta(names.into_iter().zip(values).collect())))
        }
        None if extras.is_empty() => None,
        None => return Err(malformed("engine extras have no names")),
    };
    let (commit, ordinal) = header.position;
    let event = ChangeEvent {
        position: Position::new(Lsn(commit), ordinal),
        relation: Arc::new(relation),
        transaction: Transaction {
            id: header.transaction.0,
            commit_micros: header.transaction.1,
        },
        last: header.last,
        op: Op::from_u8(header.op).ok_or(malformed("the operation is unknown"))?,
        cause: Cause::from_u8(header.cause).ok_or(malformed("the cause is unknown"))?,
        before: image(header.images.0, before)?,
        after: image(header.images.1, after)?,
        meta,
    };
    let source = SourceInfo::new(header.name, header.database, lineage);
    Ok((Arc::new(source), event))
}
