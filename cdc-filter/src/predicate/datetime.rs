//! Dates and times written in predicates, in ISO form.

const DAY_MICROS: i64 = 86_400_000_000;

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub(super) fn date(text: &str) -> Option<i32> {
    let (year, month, day) = match text.as_bytes() {
        [y @ .., b'-', m1, m2, b'-', d1, d2] if (4..=6).contains(&y.len()) => {
            (number(y)?, number(&[*m1, *m2])?, number(&[*d1, *d2])?)
        }
        _ => return None,
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Days from civil: years that start in March put the leap day last.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    i32::try_from(days).ok()
}

/// Microseconds since midnight of `HH:MM`, `HH:MM:SS` or `HH:MM:SS.ffffff`.
pub(super) fn time(text: &str) -> Option<i64> {
    let (clock, fraction) = text
        .split_once('.')
        .map_or((text, None), |(c, f)| (c, Some(f)));
    let (hours, minutes, seconds) = match clock.as_bytes() {
        [h1, h2, b':', m1, m2] if fraction.is_none() => {
            (number(&[*h1, *h2])?, number(&[*m1, *m2])?, 0)
        }
        [h1, h2, b':', m1, m2, b':', s1, s2] => (
            number(&[*h1, *h2])?,
            number(&[*m1, *m2])?,
            number(&[*s1, *s2])?,
        ),
        _ => return None,
    };
    if hours > 24 || minutes > 59 || seconds > 59 {
        return None;
    }
    let mut micros = 0;
    if let Some(digits) = fraction {
        if digits.is_empty() || digits.len() > 6 {
            return None;
        }
        micros = number(digits.as_bytes())?;
        for _ in digits.len()..6 {
            micros *= 10;
        }
    }
    let total = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros;
    (total <= DAY_MICROS).then_some(total)
}

/// Microseconds since 1970-01-01T00:00:00 of a date, or a date and a time with `T` or a space
/// between. With `zoned`, `Z` or `±HH:MM` may follow and nothing means UTC; without, none may.
pub(super) fn timestamp(text: &str, zoned: bool) -> Option<i64> {
    let Some(at) = text.find(['T', ' ', 't']) else {
        return i64::from(date(text)?).checked_mul(DAY_MICROS);
    };
    let (day, clock) = (&text[..at], &text[at + 1..]);
    let (clock, offset_minutes) = match clock.find(['Z', 'z', '+', '-']) {
        None => (clock, 0),
        Some(_) if !zoned => return None,
        Some(zone) => {
            let minutes = match &clock.as_bytes()[zone..] {
                [b'Z' | b'z'] => 0,
                [sign, h1, h2, rest @ ..] => {
                    let minutes = match rest {
                        [] => 0,
                        [b':', m1, m2] | [m1, m2] => number(&[*m1, *m2])?,
                        _ => return None,
                    };
                    let size = number(&[*h1, *h2])? * 60 + minutes;
                    if *sign == b'-' { -size } else { size }
                }
                _ => return None,
            };
            (&clock[..zone], minutes)
        }
    };
    i64::from(date(day)?)
        .checked_mul(DAY_MICROS)?
        .checked_add(time(clock)?)?
        .checked_sub(offset_minutes * 60_000_000)
}

/// Sixteen bytes of a UUID in its printed form, any case.
pub(super) fn uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut digits = 0u128;
    for (at, &byte) in bytes.iter().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            if byte != b'-' {
                return None;
            }
            continue;
        }
        digits = (digits << 4) | u128::from(char::from(byte).to_digit(16)?);
    }
    Some(digits.to_be_bytes())
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |n, digit| {
        digit
            .is_ascii_digit()
            .then(|| n * 10 + i64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments() {
        assert_eq!(date("1970-01-01"), Some(0));
        assert_eq!(date("2000-02-29"), Some(11_016));
        assert_eq!(date("2026-11-22"), Some(20_779));
        assert_eq!(date("1969-12-31"), Some(-1));
        assert_eq!(time("24:00"), Some(DAY_MICROS));
        assert_eq!(time("00:00:01.5"), Some(1_500_000));
        let noon = 20_779 * DAY_MICROS + DAY_MICROS / 2;
        for text in [
            "2026-11-22T12:00:00Z",
            "2026-11-22 12:00",
            "2026-11-22T14:00:00.000000+02:00",
            "2026-11-22T14:00:00+02",
            "2026-11-22T08:30:00-0330",
        ] {
            assert_eq!(timestamp(text, true), Some(noon), "{text}");
        }
        assert_eq!(timestamp("2026-11-22", false), Some(20_779 * DAY_MICROS));
        for bad in [
            "2026-02-29",
            "2026-13-01",
            "26-01-01",
            "2026-1-1",
            "",
            "2026-00-01",
            "1900-02-29",
        ] {
            assert_eq!(date(bad), None, "{bad}");
        }
        for bad in [
            "24:00:01",
            "1:00",
            "12:60",
            "12:00:00.",
            "12:00:00.1234567",
            "12:00.5",
        ] {
            assert_eq!(time(bad), None, "{bad}");
        }
        assert_eq!(timestamp("2026-11-22T12:00:00Z", false), None);
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in "[-+0-9:.TZ ]{0,30}|\\PC{0,30}") {
            let _ = (date(&text), time(&text), timestamp(&text, true), timestamp(&text, false), uuid(&text));
        }

        #[test]
        fn days_follow_each_other(year in 1i64..=9999, month in 1u32..=12, day in 1u32..=30) {
            let text = |d| format!("{year:04}-{month:02}-{d:02}");
            if let (Some(a), Some(b)) = (date(&text(day)), date(&text(day + 1))) {
                prop_assert_eq!(b - a, 1);
            }
        }
    }
}
