//! Dates and times in ISO style: `2024-02-29`, `0044-03-15 BC`, `12:00:00.5`, `infinity`.

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Days since 1970-01-01; the infinities are `i32::MIN` and `i32::MAX`.
pub(super) fn date(text: &[u8]) -> Option<i32> {
    match text {
        b"infinity" => Some(i32::MAX),
        b"-infinity" => Some(i32::MIN),
        _ => {
            let (text, bc) = era(text);
            let (days, rest) = days(text, bc)?;
            rest.is_empty().then_some(())?;
            i32::try_from(days)
                .ok()
                .filter(|d| !matches!(*d, i32::MIN | i32::MAX))
        }
    }
}

/// Microseconds since midnight; `24:00:00` is a whole day.
pub(super) fn time(text: &[u8]) -> Option<i64> {
    let (micros, rest) = clock(text)?;
    rest.is_empty().then_some(micros)
}

/// Microseconds since 1970-01-01T00:00:00; the infinities are `i64::MIN` and `i64::MAX`.
pub(super) fn timestamp(text: &[u8]) -> Option<i64> {
    instant(text, |rest| rest.is_empty().then_some(0))
}

/// As [`timestamp`], in UTC; the text carries its offset.
pub(super) fn timestamp_tz(text: &[u8]) -> Option<i64> {
    instant(text, offset)
}

fn instant(text: &[u8], zone: impl FnOnce(&[u8]) -> Option<i64>) -> Option<i64> {
    match text {
        b"infinity" => return Some(i64::MAX),
        b"-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (text, bc) = era(text);
    let (days, rest) = days(text, bc)?;
    let (micros, rest) = clock(rest.strip_prefix(b" ")?)?;
    let offset = zone(rest)?;
    // Year 294276 counts fewer than 2^63 microseconds from 2000, but not from 1970.
    days.checked_mul(MICROS_PER_DAY)?
        .checked_add(micros)?
        .checked_sub(offset)
        .filter(|m| !matches!(*m, i64::MIN | i64::MAX))
}

fn era(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

/// Digits up to something else; at least `least` and at most 9 of them.
#[inline]
fn number(text: &[u8], least: usize) -> Option<(i64, &[u8])> {
    let length = text.iter().take_while(|b| b.is_ascii_digit()).count();
    if length < least || length > 9 {
        return None;
    }
    let (digits, rest) = text.split_at(length);
    let value = digits.iter().fold(0, |v, d| v * 10 + i64::from(d - b'0'));
    Some((value, rest))
}

#[inline]
fn two_digits(text: &[u8], max: i64) -> Option<(i64, &[u8])> {
    let (&[a, b], rest) = text.split_first_chunk::<2>()?;
    if !a.is_ascii_digit() || !b.is_ascii_digit() {
        return None;
    }
    let value = i64::from(a - b'0') * 10 + i64::from(b - b'0');
    (value <= max).then_some((value, rest))
}

/// `YYYY-MM-DD` and more digits of year, to days since 1970 (proleptic Gregorian).
#[inline]
fn days(text: &[u8], bc: bool) -> Option<(i64, &[u8])> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = two_digits(rest.strip_prefix(b"-")?, 12)?;
    let (day, rest) = two_digits(rest.strip_prefix(b"-")?, 31)?;
    if month == 0 || day == 0 || year == 0 {
        return None;
    }
    // There is no year 0: 1 BC comes before 1 AD.
    let year = if bc { 1 - year } else { year };
    // Years that begin in March put the leap day at their end (Hinnant's days_from_civil).
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some((era * 146_097 + day_of_era - 719_468, rest))
}

/// `HH:MM:SS[.ffffff]` to microseconds.
#[inline]
fn clock(text: &[u8]) -> Option<(i64, &[u8])> {
    let (hours, rest) = two_digits(text, 24)?;
    let (minutes, rest) = two_digits(rest.strip_prefix(b":")?, 59)?;
    let (seconds, mut rest) = two_digits(rest.strip_prefix(b":")?, 60)?;
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let (value, after) = number(fraction, 1)?;
        let digits = fraction.len() - after.len();
        micros = value * 10i64.pow(u32::try_from(6usize.checked_sub(digits)?).ok()?);
        rest = after;
    }
    let total = ((hours * 60 + minutes) * 60 + seconds) * MICROS_PER_SECOND + micros;
    (total <= MICROS_PER_DAY).then_some((total, rest))
}

/// `+HH[:MM[:SS]]` to microseconds.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text.split_first()? {
        (b'+', rest) => (1, rest),
        (b'-', rest) => (-1, rest),
        _ => return None,
    };
    let (hours, mut rest) = two_digits(rest, 16)?;
    let mut seconds = hours * 3600;
    for unit in [60, 1] {
        if let Some(part) = rest.strip_prefix(b":") {
            let (value, after) = two_digits(part, 59)?;
            seconds += value * unit;
            rest = after;
        }
    }
    rest.is_empty()
        .then_some(sign * seconds * MICROS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, days) in [
            ("1970-01-01", Some(0)),
            ("1969-12-31", Some(-1)),
            ("2000-02-29", Some(11_016)),
            ("2024-02-29", Some(19_782)),
            ("0001-01-01", Some(-719_162)),
            ("0001-12-31 BC", Some(-719_163)),
            ("4713-01-01 BC", Some(-2_440_550)),
            ("5874897-12-31", Some(2_145_042_905)),
            ("infinity", Some(i32::MAX)),
            ("-infinity", Some(i32::MIN)),
            ("", None),
            ("2024-2-29", None),
            ("2024-13-01", None),
            ("0000-01-01", None),
            ("2024-02-29 ", None),
            ("99999999999-01-01", None),
        ] {
            assert_eq!(date(text.as_bytes()), days, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, micros) in [
            ("00:00:00", Some(0)),
            ("12:34:56.789", Some(45_296_789_000)),
            ("23:59:59.999999", Some(86_399_999_999)),
            ("24:00:00", Some(86_400_000_000)),
            ("24:00:01", None),
            ("12:34", None),
            ("12:34:56.", None),
            ("12:34:56.1234567", None),
        ] {
            assert_eq!(time(text.as_bytes()), micros, "{text}");
        }
    }

    #[test]
    fn timestamps() {
        for (text, micros) in [
            ("1970-01-01 00:00:00", Some(0)),
            ("1969-12-31 23:59:59.999999", Some(-1)),
            ("2026-11-22 13:05:07.123456", Some(1_795_352_707_123_456)),
            ("0044-03-15 12:00:00 BC", Some(-63_517_780_800_000_000)),
            ("infinity", Some(i64::MAX)),
            ("-infinity", Some(i64::MIN)),
            ("294276-12-31 23:59:59.999999", None),
            ("2026-11-22T13:05:07", None),
            ("2026-11-22 13:05:07+00", None),
        ] {
            assert_eq!(timestamp(text.as_bytes()), micros, "{text}");
        }
        for (text, micros) in [
            ("1970-01-01 00:00:00+00", Some(0)),
            ("1970-01-01 02:00:00+02", Some(0)),
            ("1969-12-31 18:30:00-05:30", Some(0)),
            ("1970-01-01 00:19:32+00:19:32", Some(0)),
            ("0044-03-15 12:00:00+00 BC", Some(-63_517_780_800_000_000)),
            ("1970-01-01 00:00:00", None),
        ] {
            assert_eq!(timestamp_tz(text.as_bytes()), micros, "{text}");
        }
    }
}
