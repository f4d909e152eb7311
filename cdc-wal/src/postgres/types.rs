//! PostgreSQL types: how a column's text becomes a value, and the name people read.

use std::collections::HashMap;
use std::sync::Arc;

/// How one text value is written into a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scalar {
    Bool,
    Int,
    UInt,
    Float32,
    Float64,
    Decimal,
    /// Also everything this reader has no better form for: enums, intervals, ranges, ...
    Text,
    Bytes,
    Uuid,
    Json,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    /// pgvector's `vector`.
    Vector,
}

/// How a column's text is written into a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Scalar(Scalar),
    /// An array; the byte between its elements (`;` for `box`, else `,`).
    Array(Scalar, u8),
}

/// What is known about a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TypeInfo {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
}

/// Built-in types with a fixed oid: oid, oid of its array, name, form.
const BUILTIN: &[(u32, u32, &str, Scalar)] = &[
    (16, 1000, "bool", Scalar::Bool),
    (17, 1001, "bytea", Scalar::Bytes),
    (18, 1002, "char", Scalar::Text),
    (19, 1003, "name", Scalar::Text),
    (20, 1016, "int8", Scalar::Int),
    (21, 1005, "int2", Scalar::Int),
    // Arrays to the catalog, but written without braces.
    (22, 1006, "int2vector", Scalar::Text),
    (30, 1013, "oidvector", Scalar::Text),
    (23, 1007, "int4", Scalar::Int),
    (25, 1009, "text", Scalar::Text),
    (26, 1028, "oid", Scalar::UInt),
    (28, 1011, "xid", Scalar::UInt),
    (114, 199, "json", Scalar::Json),
    (142, 143, "xml", Scalar::Text),
    (700, 1021, "float4", Scalar::Float32),
    (701, 1022, "float8", Scalar::Float64),
    (790, 791, "money", Scalar::Text),
    (829, 1040, "macaddr", Scalar::Text),
    (869, 1041, "inet", Scalar::Text),
    (650, 651, "cidr", Scalar::Text),
    (774, 775, "macaddr8", Scalar::Text),
    (1042, 1014, "bpchar", Scalar::Text),
    (1043, 1015, "varchar", Scalar::Text),
    (1082, 1182, "date", Scalar::Date),
    (1083, 1183, "time", Scalar::Time),
    (1114, 1115, "timestamp", Scalar::Timestamp),
    (1184, 1185, "timestamptz", Scalar::TimestampTz),
    (1186, 1187, "interval", Scalar::Text),
    (1266, 1270, "timetz", Scalar::Text),
    (1560, 1561, "bit", Scalar::Text),
    (1562, 1563, "varbit", Scalar::Text),
    (1700, 1231, "numeric", Scalar::Decimal),
    (2950, 2951, "uuid", Scalar::Uuid),
    (3614, 3643, "tsvector", Scalar::Text),
    (3802, 3807, "jsonb", Scalar::Json),
    (5069, 271, "xid8", Scalar::UInt),
];

/// Types known so far: the built-in ones, and those looked up in the catalog.
#[derive(Debug)]
pub(crate) struct Types(HashMap<u32, TypeInfo>);

impl Types {
    /// Most types from the catalog kept at once; a source with more looks them up again.
    const CATALOG_MAX: usize = 16_384;

    pub(crate) fn new() -> Self {
        let mut types = HashMap::with_capacity(BUILTIN.len() * 2);
        for &(oid, array, name, scalar) in BUILTIN {
            let info = |name: String, kind| TypeInfo {
                name: name.into(),
                kind,
            };
            types.insert(oid, info(name.to_owned(), Kind::Scalar(scalar)));
            types.insert(array, info(format!("{name}[]"), Kind::Array(scalar, b',')));
        }
        Self(types)
    }

    pub(crate) fn get(&self, oid: u32) -> Option<&TypeInfo> {
        self.0.get(&oid)
    }

    pub(crate) fn insert(&mut self, oid: u32, info: TypeInfo) {
        if self.0.len() >= Self::CATALOG_MAX {
            *self = Self::new();
        }
        self.0.insert(oid, info);
    }
}

/// The type as people write it: `numeric(10,2)`, `varchar(40)[]`, `public.mood`.
pub(crate) fn display_name(name: &str, modifier: i32) -> String {
    if modifier < 0 {
        return name.to_owned();
    }
    let (base, array) = match name.strip_suffix("[]") {
        Some(base) => (base, "[]"),
        None => (name, ""),
    };
    let with = |arguments: String| format!("{base}({arguments}){array}");
    match base {
        "numeric" if modifier >= 4 => {
            let packed = modifier - 4;
            let precision = (packed >> 16) & 0xffff;
            // Eleven bits, signed: since version 15 the scale may be negative.
            let scale = ((packed & 0x7ff) ^ 1024) - 1024;
            with(format!("{precision},{scale}"))
        }
        "varchar" | "bpchar" if modifier >= 4 => with((modifier - 4).to_string()),
        "time" | "timestamp" | "timestamptz" | "timetz" | "bit" | "varbit" => {
            with(modifier.to_string())
        }
        "vector" | "public.vector" => with(modifier.to_string()),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_modifiers() {
        for (name, modifier, shown) in [
            ("int8", -1, "int8"),
            ("numeric", -1, "numeric"),
            ("numeric", ((10 << 16) | 2) + 4, "numeric(10,2)"),
            ("numeric", ((5 << 16) | (-3 & 0x7ff)) + 4, "numeric(5,-3)"),
            ("numeric[]", ((10 << 16) | 2) + 4, "numeric(10,2)[]"),
            ("varchar", 44, "varchar(40)"),
            ("bpchar[]", 5, "bpchar(1)[]"),
            ("timestamptz", 3, "timestamptz(3)"),
            ("bit", 8, "bit(8)"),
            ("interval", 99, "interval"),
        ] {
            assert_eq!(display_name(name, modifier), shown);
        }
    }

    #[test]
    fn no_oid_stands_twice() {
        assert_eq!(Types::new().0.len(), BUILTIN.len() * 2);
    }
}
