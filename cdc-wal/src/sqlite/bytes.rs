//! Big-endian numbers and SQLite's variable-length integers, with bounds checked.

/// The big-endian number at `at`; `None` past the end.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let end = at.checked_add(2)?;
    Some(u16::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

/// The big-endian number at `at`; `None` past the end.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

/// A variable-length integer: up to eight bytes of seven bits, high ones first, then a ninth of
/// eight. Gives the value and its length; `None` if the bytes end inside it.
#[inline]
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    if first < 0x80 {
        return Some((u64::from(first), 1));
    }
    let mut value = 0u64;
    for (n, &byte) in bytes.iter().take(8).enumerate() {
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((value, n + 1));
        }
    }
    let last = *bytes.get(8)?;
    Some(((value << 8) | u64::from(last), 9))
}

/// A signed big-endian integer of 1, 2, 3, 4, 6 or 8 bytes.
#[inline]
pub(crate) fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    let start = if negative { -1i64 } else { 0 };
    bytes
        .iter()
        .fold(start, |value, &byte| (value << 8) | i64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_length_integers_are_read() {
        for (bytes, value) in [
            (&[0u8][..], 0u64),
            (&[0x7f], 127),
            (&[0x81, 0], 128),
            (&[0x82, 0x2c], 300),
            (&[0xff; 9], u64::MAX),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1], 1),
        ] {
            assert_eq!(varint(bytes), Some((value, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(varint(&bytes[..cut]), None, "{bytes:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn signed_integers_are_extended() {
        assert_eq!(signed(&[0xff]), -1);
        assert_eq!(signed(&[0x80, 0, 0]), -(1 << 23));
        assert_eq!(signed(&[0, 0x80]), 128);
        assert_eq!(signed(&i64::MIN.to_be_bytes()), i64::MIN);
    }
}
