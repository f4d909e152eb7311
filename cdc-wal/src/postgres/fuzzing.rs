//! Fuzz targets of the replication stream.

use cdc_core::row::{RowImage, RowWriter};
use cdc_core::{Lsn, Position};

use super::assemble::Assembler;
use super::decode::{Message, copy_data, message};
use super::relation::{OwnedDef, Table};
use super::types::{Kind, Scalar, Types};
use super::value::{self, Scratch};

const SCALARS: [Scalar; 15] = [
    Scalar::Bool,
    Scalar::Int,
    Scalar::UInt,
    Scalar::Float32,
    Scalar::Float64,
    Scalar::Decimal,
    Scalar::Text,
    Scalar::Bytes,
    Scalar::Uuid,
    Scalar::Json,
    Scalar::Date,
    Scalar::Time,
    Scalar::Timestamp,
    Scalar::TimestampTz,
    Scalar::Vector,
];

/// A stream: messages, each behind its length in two bytes, put together to transactions as far as
/// they make sense. Rows that come of it are valid, and positions ascend.
pub(crate) fn pgoutput(data: &[u8]) {
    let _envelope = copy_data(data);
    let _message = message(data);
    let mut assembler = Assembler::new(Position::before(Lsn(1)));
    let mut last = None;
    let mut rest = data;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (bytes, after) = after.split_at(length);
        rest = after;
        let Ok(message) = message(bytes) else {
            assembler.restart();
            // A transaction that was open comes again.
            last = last.min(Some(assembler.covered()));
            continue;
        };
        if let Message::Relation(def) = &message {
            let def = OwnedDef::from(def);
            let table = Table::new(&def, &Types::new(), &[0], None);
            assembler.define(&def, table);
        }
        if assembler.push(&message, 77).is_err() {
            return;
        }
        let (events, end) = assembler.take();
        for event in &events {
            assert!(
                last.is_none_or(|last| event.position > last),
                "out of order"
            );
            last = Some(event.position);
            assert!(event.position <= end || !event.last, "behind its end");
            for row in [event.before.row(), event.after.row()]
                .into_iter()
                .flatten()
            {
                row.validate().expect("a row of ours");
            }
        }
    }
}

/// The text of a value, as every type: always exactly one valid value.
pub(crate) fn value(data: &[u8]) {
    let Some((pick, text)) = data.split_first() else {
        return;
    };
    let scalar = SCALARS[usize::from(pick & 0x0f) % SCALARS.len()];
    let kind = match pick >> 4 {
        0..8 => Kind::Scalar(scalar),
        8..12 => Kind::Array(scalar, b','),
        _ => Kind::Array(scalar, b';'),
    };
    let mut buffer = Vec::new();
    let mut row = RowWriter::new(&mut buffer);
    value::write(&mut row, &mut Scratch::default(), kind, text);
    assert_eq!(row.count(), 1);
    row.finish();
    RowImage::from_bytes(buffer.into())
        .validate()
        .expect("a row of ours");
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    use super::decode::tests::Build;
    let messages = [
        Build::relation(7, "t", b'd', &[(true, "id", 20), (false, "v", 25)]),
        Build::begin(10, 3),
        Build::insert(7, &[Some("1"), Some("value")]),
        Build::insert(7, &[Some("2"), None]),
        Build::commit(10),
        Build::tag(b'M').u8(0).u64(15).name("p").u32(1).u8(9).0,
    ];
    let mut stream = Vec::new();
    for message in &messages {
        stream.extend(u16::try_from(message.len()).expect("short").to_le_bytes());
        stream.extend_from_slice(message);
    }
    let mut seeds = vec![("pgoutput", "stream".to_owned(), stream)];
    let mut keepalive = vec![b'k'];
    keepalive.extend([0; 17]);
    seeds.push(("pgoutput", "keepalive".to_owned(), keepalive));
    let texts: [(u8, &str); 12] = [
        (0, "t"),
        (1, "-9223372036854775808"),
        (4, "1e-324"),
        (5, "-123456789012345678901234567890.0010"),
        (7, "\\xdeadbeef"),
        (8, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        (9, "{\"a\" : [1, 2]}"),
        (10, "0044-03-15 BC"),
        (12, "294276-12-31 23:59:59.999999"),
        (13, "2026-03-29 01:30:00.5+01:30"),
        (14, "[1,-2.5,3e8]"),
        (0x86, "{\"a,b\",NULL,{x},\"q\\\"\\\\\"}"),
    ];
    for (n, (pick, text)) in texts.into_iter().enumerate() {
        let bytes = [&[pick][..], text.as_bytes()].concat();
        seeds.push(("pg-value", n.to_string(), bytes));
    }
    seeds
}
