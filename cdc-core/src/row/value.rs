//! Owned values, for transforms and tests; the hot path never builds them.

use std::fmt;

/// One value, owned. The variants are those of [`ValueRef`](super::ValueRef).
///
/// `Debug` prints the type only.
#[derive(Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is described at ValueRef")]
pub enum Value {
    Null,
    Unavailable,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float32(f32),
    Float64(f64),
    Decimal(String),
    Text(String),
    Bytes(Vec<u8>),
    Uuid([u8; 16]),
    Json(String),
    Date(i32),
    Time(i64),
    Timestamp(i64),
    TimestampTz(i64),
    Array(Vec<Value>),
    Map(Vec<(String, Value)>),
    Vector(Vec<f32>),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Unavailable => "Unavailable",
            Self::Bool(_) => "Bool",
            Self::Int(_) => "Int",
            Self::UInt(_) => "UInt",
            Self::Float32(_) => "Float32",
            Self::Float64(_) => "Float64",
            Self::Decimal(_) => "Decimal",
            Self::Text(_) => "Text",
            Self::Bytes(_) => "Bytes",
            Self::Uuid(_) => "Uuid",
            Self::Json(_) => "Json",
            Self::Date(_) => "Date",
            Self::Time(_) => "Time",
            Self::Timestamp(_) => "Timestamp",
            Self::TimestampTz(_) => "TimestampTz",
            Self::Array(_) => "Array",
            Self::Map(_) => "Map",
            Self::Vector(_) => "Vector",
        })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}
