//! Times people write: RFC 3339, or an age.

use crate::config::parse_duration;

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// What a time looks like, for help.
pub(crate) const TIME_HELP: &str =
    "write an RFC 3339 time such as 2026-11-22T13:05:00Z, or an age such as -15m";

/// Microseconds since 1970 of an RFC 3339 time, or of an age (`-15m`) before `now`. `None` if it
/// is neither, or outside the years 1970 to 9999.
pub(crate) fn parse(text: &str, now: i64) -> Option<i64> {
    if let Some(age) = text.strip_prefix('-') {
        let age = i64::try_from(parse_duration(age)?.as_micros()).ok()?;
        return now.checked_sub(age).filter(|micros| *micros >= 0);
    }
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (clock, zone) = split_zone(time)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => 31,
    };
    let sound = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days).contains(&day)
        && hour < 24
        && minute < 60
        // A leap second is the last one of its minute again.
        && second <= 60;
    if !sound || fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let seconds = hour * 3600 + minute * 60 + second.min(59) - zone;
    let micros = days_since_1970(year, month, day) * DAY + seconds * 1_000_000 + micros;
    (micros >= 0).then_some(micros)
}

/// The clock, and the seconds its zone is ahead of UTC.
fn split_zone(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let at = time.rfind(['+', '-'])?;
    let (clock, zone) = time.split_at_checked(at)?;
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let [hours, minutes] = numbers(zone.get(1..)?, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some((clock, sign * (hours * 3600 + minutes * 60)))
}

/// Exactly these many numbers, each of exactly so many digits.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// Days of the Gregorian calendar, by the count of days in March-based years.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let in_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + in_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::envelope::rfc3339_micros;
    use proptest::prelude::*;

    #[test]
    fn times_and_ages() {
        let now = 1_795_352_707_123_456;
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-22T13:05:07.123456Z", Some(now)),
            ("2026-11-22 13:05:07.123456789z", Some(now)),
            ("2026-11-22T15:05:07.123456+02:00", Some(now)),
            ("2026-11-22T08:35:07.123456-04:30", Some(now)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000)),
            ("2023-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-22T24:00:00Z", None),
            ("2026-11-22T13:05:07", None),
            ("2026-11-22", None),
            ("2026-11-22T13:05:07.Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("-15m", Some(now - 900_000_000)),
            ("-", None),
            ("-99999999d", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse(text, now), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(micros in 0i64..253_402_300_799_000_000) {
            let mut text = Vec::new();
            rfc3339_micros(&mut text, micros);
            prop_assert_eq!(parse(std::str::from_utf8(&text).unwrap(), 0), Some(micros));
        }

        #[test]
        fn any_text_is_safe(text in "\\PC{0,40}", like in "[0-9TtZz:+. -]{0,40}") {
            let _ = parse(&text, 0);
            let _ = parse(&like, i64::MAX);
        }
    }
}
