use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn value(depth: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(Value::Unavailable),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::UInt),
        any::<u32>().prop_map(|b| Value::Float32(f32::from_bits(b))),
        any::<u64>().prop_map(|b| Value::Float64(f64::from_bits(b))),
        "-?[0-9]{1,40}(\\.[0-9]{1,20})?".prop_map(Value::Decimal),
        ".{0,40}".prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        Just(Value::Json("{\"a\": [1,2]}".into())),
        any::<i32>().prop_map(Value::Date),
        any::<i64>().prop_map(Value::Time),
        any::<i64>().prop_map(Value::Timestamp),
        any::<i64>().prop_map(Value::TimestampTz),
        proptest::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..8)
            .prop_map(Value::Vector),
    ];
    leaf.prop_recursive(depth, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            proptest::collection::vec((".{0,8}", inner), 0..6).prop_map(Value::Map),
        ]
    })
    .boxed()
}

proptest! {
    #[test]
    fn rows_round_trip_bit_exact(values in proptest::collection::vec(value(3), 0..12)) {
        let row = RowImage::from_values(&values);
        row.validate().unwrap();
        prop_assert_eq!(row.column_count().unwrap(), values.len());
        // NaN is not equal to itself, so compare the encoding.
        let again = RowImage::from_values(&row.to_values().unwrap());
        prop_assert_eq!(row, again);
    }

    #[test]
    fn any_bytes_are_safe_to_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let row = RowImage::from_bytes(Bytes::from(bytes));
        let _ = row.validate();
        let _ = row.to_values();
    }

    #[test]
    fn a_damaged_row_never_panics(
        values in proptest::collection::vec(value(3), 1..6), at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let mut bytes = RowImage::from_values(&values).into_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = RowImage::from_bytes(bytes.into()).to_values();
    }

    #[test]
    fn every_proper_prefix_is_refused(values in proptest::collection::vec(value(2), 1..6)) {
        let bytes = RowImage::from_values(&values).into_bytes();
        for end in 0..bytes.len() {
            prop_assert!(RowImage::from_bytes(bytes.slice(..end)).validate().is_err());
        }
    }
}

#[test]
fn nesting_is_bounded() {
    let mut deep = Value::Null;
    for _ in 0..NESTING_MAX + 2 {
        deep = Value::Array(vec![deep]);
    }
    let row = RowImage::from_values(&[deep]);
    assert_eq!(row.validate().unwrap_err().what, "values nested too deep");
    assert!(row.to_values().is_err());
}

#[test]
fn debug_never_shows_contents() {
    let row = RowImage::from_values(&[Value::Text("secret".into())]);
    let shown = format!(
        "{row:?} {:?} {:?}",
        row.get(0).unwrap(),
        row.to_values().unwrap()
    );
    assert!(!shown.contains("secret"), "{shown}");
}
