//! What a status means: the one table from answer to error kind.

use std::time::Duration;

use cdc_core::{EmitErrorKind, RETRY_AFTER_MAX};

/// `None` for success, else the kind of error.
///
/// | Status | Kind |
/// |---|---|
/// | 2xx | success |
/// | 400, 409, 413, 415, 422 | event |
/// | 408, 425, 429, 5xx but 501 and 505 | endpoint, retry |
/// | everything else: 3xx (never followed), 401, 403, 404, 405, 410, 501, 505, ... | endpoint, stop |
///
/// A status nobody expects stops rather than blaming an event: stopping loses nothing.
pub(crate) fn classify(status: u16, retry_after: Option<Duration>) -> Option<EmitErrorKind> {
    match status {
        200..=299 => None,
        400 | 409 | 413 | 415 | 422 => Some(EmitErrorKind::Event),
        501 | 505 => Some(EmitErrorKind::EndpointStop),
        408 | 425 | 429 | 500..=599 => Some(EmitErrorKind::EndpointRetry { retry_after }),
        _ => Some(EmitErrorKind::EndpointStop),
    }
}

/// What a person should do about a kind, for the end of a message.
pub(crate) const fn remedy(kind: EmitErrorKind, status: u16) -> &'static str {
    match (kind, status) {
        (EmitErrorKind::EndpointRetry { .. }, _) => "the batch will be sent again",
        (EmitErrorKind::Event, 413) => "it refuses bodies of this size: lower batch_size",
        (EmitErrorKind::Event, _) => "it refuses this content",
        (_, 300..=399) => "redirects are not followed: set `url` to where it points",
        (_, 401 | 403) => "check its secrets and headers",
        (_, 404 | 405) => "check `url`",
        (_, 410) => "it says that it is gone for good: remove it, or set another `url`",
        _ => "it will refuse until somebody changes it",
    }
}

/// How long `Retry-After` asks to wait: seconds, or a date taken against `now` (seconds since
/// 1970). A date in the past means no wait; text that is neither means nothing. At most
/// [`RETRY_AFTER_MAX`].
pub(crate) fn retry_after(text: &str, now: i64) -> Option<Duration> {
    let text = text.trim();
    let seconds = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // Too many digits is a long time.
        text.parse().unwrap_or(u64::MAX)
    } else {
        u64::try_from(http_date(text)?.saturating_sub(now)).unwrap_or(0)
    };
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Seconds since 1970 of an HTTP date, in any of the three forms a recipient must accept:
/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`.
pub(crate) fn http_date(text: &str) -> Option<i64> {
    let mut words = text.split([' ', ',', '-']).filter(|word| !word.is_empty());
    let _weekday = words.next()?;
    let (a, b, c, d) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (day, month, year, clock) = if a.starts_with(|c: char| c.is_ascii_digit()) {
        if words.next() != Some("GMT") {
            return None;
        }
        (a, b, c, d)
    } else {
        (b, a, d, c)
    };
    if words.next().is_some() {
        return None;
    }
    let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    .iter()
    .position(|name| *name == month)?;
    let month = i64::try_from(month).ok()? + 1;
    let number = |text: &str, len: std::ops::RangeInclusive<usize>| {
        let digits = len.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<i64>().ok()).flatten()
    };
    let day = number(day, 1..=2)?;
    let year = match number(year, 2..=4)? {
        short @ 0..=69 if year.len() == 2 => 2000 + short,
        short if year.len() == 2 => 1900 + short,
        full if year.len() == 4 => full,
        _ => return None,
    };
    let mut parts = clock.split(':').map(|part| number(part, 2..=2));
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some()
        || hours > 23
        || minutes > 59
        || seconds > 60
        || !(1..=31).contains(&day)
    {
        return None;
    }
    // Days from civil: years that start in March put the leap day last.
    let y = if month <= 2 { year - 1 } else { year };
    let of_era = y.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        y.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_status_has_its_kind() {
        let wait = Some(Duration::from_secs(7));
        let retry = Some(EmitErrorKind::EndpointRetry { retry_after: wait });
        let stop = Some(EmitErrorKind::EndpointStop);
        for status in 100..=999u16 {
            let want = match status {
                200..=299 => None,
                400 | 409 | 413 | 415 | 422 => Some(EmitErrorKind::Event),
                408 | 425 | 429 => retry,
                501 | 505 => stop,
                500..=599 => retry,
                _ => stop,
            };
            assert_eq!(classify(status, wait), want, "{status}");
        }
        for status in [301, 302, 304, 307, 308, 401, 403, 404, 405, 410] {
            assert_eq!(classify(status, None), stop, "{status}");
        }
    }

    #[test]
    fn retry_after_in_every_form() {
        let now = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT
        let seconds = |n| Some(Duration::from_secs(n));
        for (text, want) in [
            ("120", seconds(120)),
            (" 0 ", seconds(0)),
            ("99999999999999999999999", seconds(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", seconds(60)),
            ("Sunday, 06-Nov-94 08:49:39 GMT", seconds(2)),
            ("Sun Nov  6 08:49:47 1994", seconds(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", seconds(0)),
            ("Sun, 06 Nov 2094 08:49:37 GMT", seconds(3600)),
            ("soon", None),
            ("", None),
            ("-5", None),
            ("1.5", None),
            ("Sun, 06 Nov 1994 08:50:37 CET", None),
            ("Sun, 06 Nov 1994 25:50:37 GMT", None),
        ] {
            assert_eq!(retry_after(text, now), want, "{text}");
        }
        assert_eq!(
            http_date("Sun, 22 Nov 2026 13:05:07 GMT"),
            Some(1_795_352_707)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in "\\PC{0,40}|[A-Za-z]{3}, [0-9]{1,2} Nov [0-9]{2,4} [0-9:]{5,9} GMT", now in any::<i64>()) {
            let _ = retry_after(&text, now);
        }
    }
}
