//! Dates and times as ISO 8601 text.
//!
//! The calendar is proleptic Gregorian. Years 0000 to 9999 have four digits (year 0000 is 1 BC);
//! all others have a sign and at least six digits (`+012345`, `-000043` is 44 BC), which is the
//! expanded form of ISO 8601 as ECMAScript writes it.

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Year, month and day of a day number counted from 1970-01-01.
///
/// Howard Hinnant's `civil_from_days`: years start in March, so the leap day comes last.
const fn civil(days: i64) -> (i64, u8, u8) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + (month <= 2) as i64;
    (year, small(month), small(day))
}

/// A number known to be below 256: a month, a day, an hour, ...
#[expect(clippy::cast_sign_loss, reason = "callers pass 0..=99")]
const fn small(number: i64) -> u8 {
    (number & 0xff) as u8
}

#[inline]
const fn two(number: u8) -> [u8; 2] {
    [b'0' + number / 10 % 10, b'0' + number % 10]
}

/// The two digits of each number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0u8;
    while number < 100 {
        pairs[number as usize] = two(number);
        number += 1;
    }
    pairs
};

fn padded(out: &mut Vec<u8>, number: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number).as_bytes();
    for _ in digits.len()..width {
        out.push(b'0');
    }
    out.extend_from_slice(digits);
}

/// Appends `YYYY-MM-DD`.
pub(super) fn date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        let [century, rest] = [two(small(year / 100)), two(small(year % 100))];
        out.extend_from_slice(&[century[0], century[1], rest[0], rest[1]]);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        padded(out, year.unsigned_abs(), 6);
    }
    let [month, day] = [two(month), two(day)];
    out.extend_from_slice(&[b'-', month[0], month[1], b'-', day[0], day[1]]);
}

/// Appends `HH:MM:SS`, and `.ffffff` if there is a fraction or `always` is set.
///
/// Intervals outside one day, which some engines allow, have a sign or more digits.
fn clock(out: &mut Vec<u8>, micros: i64, always: bool) {
    if micros < 0 {
        out.push(b'-');
    }
    let micros = micros.unsigned_abs();
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let [minutes, seconds] = [minutes, seconds].map(|n| two(u8::try_from(n).unwrap_or_default()));
    match u8::try_from(hours) {
        Ok(hours @ 0..=99) => out.extend_from_slice(&two(hours)),
        _ => padded(out, hours, 2),
    }
    out.extend_from_slice(&[b':', minutes[0], minutes[1], b':', seconds[0], seconds[1]]);
    if fraction != 0 || always {
        out.push(b'.');
        padded(out, fraction, 6);
    }
}

/// Appends a time of day.
pub(super) fn time(out: &mut Vec<u8>, micros: i64) {
    clock(out, micros, false);
}

/// Days from 1970-01-01 to 0000-01-01, and the number of days in the years 0000 to 9999.
const YEAR_ZERO: i64 = -719_528;
const USUAL_DAYS: i64 = 3_652_425;

/// A moment of the years 0000 to 9999 as `YYYY-MM-DDTHH:MM:SS.ffffff`, in one piece, and if it has
/// a fraction. Small unsigned numbers only: this runs several times an event.
#[inline]
fn usual(micros: i64) -> Option<([u8; 26], bool)> {
    let since = micros.checked_sub(YEAR_ZERO * MICROS_PER_DAY)?;
    let since = u64::try_from(since).ok()?;
    let (days, micros) = (since / 86_400_000_000, since % 86_400_000_000);
    if days >= USUAL_DAYS.unsigned_abs() {
        return None;
    }
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let [days, seconds, fraction] =
        [days, seconds, fraction].map(|n| u32::try_from(n).unwrap_or_default());
    // As `civil`, with years from 1 March of year -400, so that nothing is negative.
    let shifted = days + 146_097 - 60;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next) = match month_from_march {
        0..=9 => (month_from_march + 3, 0),
        _ => (month_from_march - 9, 1),
    };
    let year = era * 400 + year_of_era + next - 400;
    let mut text = *b"0000-00-00T00:00:00.000000";
    let mut put = |at: usize, number: u32| {
        // Callers stay below 100; the bound only spares a check.
        let [tens, ones] = PAIRS[number.min(99) as usize];
        (text[at], text[at + 1]) = (tens, ones);
    };
    put(0, year / 100);
    put(2, year % 100);
    put(5, month);
    put(8, day);
    put(11, seconds / 3600);
    put(14, seconds / 60 % 60);
    put(17, seconds % 60);
    put(20, fraction / 10_000);
    put(22, fraction / 100 % 100);
    put(24, fraction % 100);
    Some((text, fraction != 0))
}

/// Appends `YYYY-MM-DDTHH:MM:SS[.ffffff]`.
pub(super) fn timestamp(out: &mut Vec<u8>, micros: i64) {
    match usual(micros) {
        Some((text, true)) => out.extend_from_slice(&text),
        Some((text, false)) => out.extend_from_slice(&text[..19]),
        None => expanded(out, micros, false),
    }
}

/// Length of a commit's time in the years 0000 to 9999.
pub(super) const COMMIT_LEN: usize = 27;

/// Appends `YYYY-MM-DDTHH:MM:SS.ffffffZ`, always with six digits of fraction.
pub(super) fn commit_time(out: &mut Vec<u8>, micros: i64) {
    match usual(micros) {
        Some((text, _)) => out.extend_from_slice(&text),
        None => expanded(out, micros, true),
    }
    out.push(b'Z');
}

fn expanded(out: &mut Vec<u8>, micros: i64, always: bool) {
    date(out, micros.div_euclid(MICROS_PER_DAY));
    out.push(b'T');
    clock(out, micros.rem_euclid(MICROS_PER_DAY), always);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (20_779, "2026-11-22"),
            (2_932_896, "9999-12-31"),
            (2_932_897, "+010000-01-01"),
            (-719_528, "0000-01-01"),
            (-719_529, "-000001-12-31"),
            (-719_162, "0001-01-01"),
            (2_145_042_905, "+5874897-12-31"),
            (i64::from(i32::MIN) + 1, "-5877641-06-24"),
        ] {
            assert_eq!(text(|out| date(out, days)), expected, "{days}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_its_predecessor() {
        let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
        let (mut year, mut month, mut day) = (1900, 1, 1);
        for days in -25_567..121_000 {
            assert_eq!(civil(days), (year, month, day));
            let length = match month {
                2 => 28 + u8::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn the_short_way_agrees_with_the_long_one() {
        let day = MICROS_PER_DAY;
        let edges = [
            YEAR_ZERO - 1,
            YEAR_ZERO,
            -1,
            0,
            11_015,
            YEAR_ZERO + USUAL_DAYS,
        ];
        let every = (YEAR_ZERO..YEAR_ZERO + USUAL_DAYS).step_by(13);
        for days in edges.into_iter().chain(every) {
            for micros in [days * day - 1, days * day, days * day + 45_296_000_789] {
                let long = text(|out| expanded(out, micros, true));
                assert_eq!(text(|out| commit_time(out, micros)), long + "Z");
                let long = text(|out| expanded(out, micros, false));
                assert_eq!(text(|out| timestamp(out, micros)), long);
            }
        }
    }

    #[test]
    fn times() {
        for (micros, expected) in [
            (0, "00:00:00"),
            (86_399_999_999, "23:59:59.999999"),
            (86_400_000_000, "24:00:00"),
            (1, "00:00:00.000001"),
            (-3_600_000_000, "-01:00:00"),
            (838 * 3_600_000_000, "838:00:00"),
            (i64::MIN, "-2562047788:00:54.775808"),
        ] {
            assert_eq!(text(|out| time(out, micros)), expected, "{micros}");
        }
    }

    #[test]
    fn timestamps() {
        for (micros, expected) in [
            (0, "1970-01-01T00:00:00"),
            (-1, "1969-12-31T23:59:59.999999"),
            (1_795_352_707_123_456, "2026-11-22T13:05:07.123456"),
            (i64::MAX, "+294247-01-10T04:00:54.775807"),
            (i64::MIN, "-290308-12-21T19:59:05.224192"),
        ] {
            assert_eq!(text(|out| timestamp(out, micros)), expected, "{micros}");
        }
        assert_eq!(
            text(|out| commit_time(out, 1_000_000)),
            "1970-01-01T00:00:01.000000Z"
        );
    }
}
