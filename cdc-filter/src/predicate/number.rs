//! Exact comparison of numbers of different kinds.

use std::cmp::Ordering;
use std::fmt::Write as _;

/// A number as a row or a literal holds it.
#[derive(Clone, Copy)]
pub(super) enum Number<'a> {
    Int(i128),
    Decimal(&'a str),
    Float32(f32),
    Float64(f64),
}

/// What comparing two values says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    Ordered(Ordering),
    /// Both are known and neither equal nor ordered (NaN, null).
    Unordered,
    /// Both are known and differ; their kind has no order.
    Different,
    /// Their types do not compare, or one is malformed.
    Unknown,
}

impl From<Option<Ordering>> for Compared {
    fn from(ordering: Option<Ordering>) -> Self {
        ordering.map_or(Self::Unordered, Self::Ordered)
    }
}

pub(super) fn compare(a: Number<'_>, b: Number<'_>) -> Compared {
    use Number::{Decimal, Float32, Float64, Int};
    match (a, b) {
        (Int(a), Int(b)) => Compared::Ordered(a.cmp(&b)),
        (Decimal(a), Decimal(b)) => digits(a, b),
        (Int(a), Decimal(b)) => digits(Stack::integer(a).as_str(), b),
        (Int(a), Float64(b)) => integer_with_float(a, b),
        (Int(a), Float32(b)) => integer_with_float(a, f64::from(b)),
        (Decimal(a), Float64(b)) => {
            float(a).map_or(Compared::Unknown, |a: f64| a.partial_cmp(&b).into())
        }
        (Decimal(a), Float32(b)) => {
            float(a).map_or(Compared::Unknown, |a: f32| a.partial_cmp(&b).into())
        }
        (Float32(a), Float32(b)) => a.partial_cmp(&b).into(),
        (Float64(a), Float64(b)) => a.partial_cmp(&b).into(),
        (Float32(a), Float64(b)) => f64::from(a).partial_cmp(&b).into(),
        (a @ (Decimal(_) | Float32(_) | Float64(_)), b) => match compare(b, a) {
            Compared::Ordered(ordering) => Compared::Ordered(ordering.reverse()),
            other => other,
        },
    }
}

/// The float nearest to the digits. Only text that is a decimal is read.
fn float<F: std::str::FromStr>(text: &str) -> Option<F> {
    Parsed::read(text)?;
    text.trim_start_matches('+').parse().ok()
}

/// Exact: the float's whole part is compared as an integer, then what is behind the point.
fn integer_with_float(a: i128, b: f64) -> Compared {
    if b.is_nan() {
        return Compared::Unordered;
    }
    // Integers of rows have 64 bits: anything beyond 2^65 is above or below all of them.
    if b.abs() >= 36_893_488_147_419_103_232.0 {
        return Compared::Ordered(if b > 0.0 {
            Ordering::Less
        } else {
            Ordering::Greater
        });
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked to be within 2^65, and whole"
    )]
    let whole = b.trunc() as i128;
    Compared::Ordered(a.cmp(&whole).then_with(|| {
        let fraction = b.fract();
        0.0f64.partial_cmp(&fraction).unwrap_or(Ordering::Equal)
    }))
}

fn digits(a: &str, b: &str) -> Compared {
    let (Some(a), Some(b)) = (Parsed::read(a), Parsed::read(b)) else {
        return Compared::Unknown;
    };
    match (a, b) {
        (Parsed::NotANumber, _) | (_, Parsed::NotANumber) => Compared::Unordered,
        (a, b) => Compared::Ordered(a.sign().cmp(&b.sign()).then_with(|| {
            let by_size = a.magnitude().cmp_magnitude(&b.magnitude());
            if a.sign() < 0 {
                by_size.reverse()
            } else {
                by_size
            }
        })),
    }
}

/// A decimal taken apart: nothing is copied.
#[derive(Clone, Copy)]
enum Parsed<'a> {
    NotANumber,
    Infinite { negative: bool },
    Finite { negative: bool, size: Magnitude<'a> },
}

impl<'a> Parsed<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (negative, body) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if body.eq_ignore_ascii_case("nan") {
            return Some(Self::NotANumber);
        }
        if body.eq_ignore_ascii_case("infinity") || body.eq_ignore_ascii_case("inf") {
            return Some(Self::Infinite { negative });
        }
        let (mantissa, exponent) = match body.find(['e', 'E']) {
            Some(at) => (&body[..at], exponent(&body[at + 1..])?),
            None => (body, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction)
        {
            return None;
        }
        let size = Magnitude::new(whole.as_bytes(), fraction.as_bytes(), exponent);
        Some(Self::Finite { negative, size })
    }

    fn sign(&self) -> i8 {
        match *self {
            Self::NotANumber => 0,
            Self::Finite { size, .. } if size.is_zero() => 0,
            Self::Infinite { negative } | Self::Finite { negative, .. } => {
                if negative {
                    -1
                } else {
                    1
                }
            }
        }
    }

    fn magnitude(&self) -> Magnitude<'a> {
        match *self {
            Self::Finite { size, .. } => size,
            Self::NotANumber | Self::Infinite { .. } => Magnitude {
                first: b"1",
                second: b"",
                leading: i64::MAX,
            },
        }
    }
}

/// Up to nine digits: more could only be written to cause trouble.
fn exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let size: i64 = digits.parse().ok()?;
    Some(if text.starts_with('-') { -size } else { size })
}

/// Digits without leading zeros, and the power of ten of the first one.
#[derive(Clone, Copy)]
struct Magnitude<'a> {
    first: &'a [u8],
    second: &'a [u8],
    leading: i64,
}

impl<'a> Magnitude<'a> {
    fn new(whole: &'a [u8], fraction: &'a [u8], exponent: i64) -> Self {
        let nonzero = |digits: &[u8]| digits.iter().position(|&d| d != b'0');
        // Lengths are below 4 GiB and exponents below 10^9: nothing here overflows.
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX / 4);
        match (nonzero(whole), nonzero(fraction)) {
            (Some(at), _) => Self {
                first: &whole[at..],
                second: fraction,
                leading: exponent + count(whole.len() - at) - 1,
            },
            (None, Some(at)) => Self {
                first: &fraction[at..],
                second: &[],
                leading: exponent - count(at) - 1,
            },
            (None, None) => Self {
                first: &[],
                second: &[],
                leading: 0,
            },
        }
    }

    const fn is_zero(&self) -> bool {
        self.first.is_empty()
    }

    fn cmp_magnitude(&self, other: &Self) -> Ordering {
        self.leading.cmp(&other.leading).then_with(|| {
            let digits = |m: &Self| m.first.len() + m.second.len();
            let digit = |m: &Self, n: usize| {
                m.first
                    .get(n)
                    .or_else(|| m.second.get(n - m.first.len()))
                    .copied()
                    .unwrap_or(b'0')
            };
            (0..digits(self).max(digits(other)))
                .map(|n| digit(self, n).cmp(&digit(other, n)))
                .find(|ordering| ordering.is_ne())
                .unwrap_or(Ordering::Equal)
        })
    }
}

/// Digits of an integer without the heap.
struct Stack {
    bytes: [u8; 40],
    len: usize,
}

impl Stack {
    fn integer(value: i128) -> Self {
        let mut stack = Self {
            bytes: [0; 40],
            len: 0,
        };
        // The longest i128 has 40 characters.
        let _ = write!(stack, "{value}");
        stack
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl std::fmt::Write for Stack {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(std::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(a: &str, b: &str) -> Compared {
        digits(a, b)
    }

    #[test]
    fn decimals_compare_by_value() {
        let equal = Compared::Ordered(Ordering::Equal);
        let less = Compared::Ordered(Ordering::Less);
        for (a, b, want) in [
            ("1.50", "1.5", equal),
            ("0", "-0.000", equal),
            ("007", "7", equal),
            ("1E+3", "1000", equal),
            ("1e-3", "0.001", equal),
            (".5", "0.50", equal),
            ("99999999999999999999.1", "99999999999999999999.2", less),
            ("-2", "-1", less),
            ("-1", "1", less),
            ("9", "10", less),
            ("0.09", "0.1", less),
            ("1e2", "1e3", less),
            ("-Infinity", "-1e999999999", less),
            ("1e999999999", "Infinity", less),
            ("NaN", "1", Compared::Unordered),
            ("NaN", "NaN", Compared::Unordered),
            ("", "1", Compared::Unknown),
            ("1.2.3", "1", Compared::Unknown),
            ("1e", "1", Compared::Unknown),
            ("1e9999999999", "1", Compared::Unknown),
            ("0x1", "1", Compared::Unknown),
            ("é", "1", Compared::Unknown),
        ] {
            assert_eq!(order(a, b), want, "{a} {b}");
        }
    }

    #[test]
    fn integers_and_floats_compare_exactly() {
        let cmp = |a, b| compare(Number::Int(a), Number::Float64(b));
        let big = 9_007_199_254_740_993; // 2^53 + 1: no float has it
        assert_eq!(
            cmp(big, 9_007_199_254_740_992.0),
            Compared::Ordered(Ordering::Greater)
        );
        assert_eq!(
            cmp(big, 9_007_199_254_740_994.0),
            Compared::Ordered(Ordering::Less)
        );
        assert_eq!(cmp(-1, -1.5), Compared::Ordered(Ordering::Greater));
        assert_eq!(cmp(0, -0.0), Compared::Ordered(Ordering::Equal));
        assert_eq!(cmp(1, f64::INFINITY), Compared::Ordered(Ordering::Less));
        assert_eq!(cmp(1, f64::NAN), Compared::Unordered);
        let tenth = compare(Number::Float32(0.1), Number::Decimal("0.1"));
        assert_eq!(tenth, Compared::Ordered(Ordering::Equal));
    }

    proptest! {
        #[test]
        fn decimals_agree_with_scaled_integers(a in any::<i32>(), b in any::<i32>(), x in 0usize..6, y in 0usize..6) {
            let text = |n: i32, places: usize| {
                let digits = format!("{:0>1$}", i64::from(n).abs(), places + 1);
                let (whole, fraction) = digits.split_at(digits.len() - places);
                format!("{}{whole}.{fraction}", if n < 0 { "-" } else { "" })
            };
            let scaled = |n: i32, places: usize| i128::from(n) * 10i128.pow(6 - u32::try_from(places).unwrap());
            prop_assert_eq!(order(&text(a, x), &text(b, y)), Compared::Ordered(scaled(a, x).cmp(&scaled(b, y))));
        }

        #[test]
        fn integers_and_decimals_agree(a in any::<i64>(), b in any::<u64>()) {
            let (a, b) = (i128::from(a), i128::from(b));
            prop_assert_eq!(compare(Number::Int(a), Number::Decimal(&b.to_string())), Compared::Ordered(a.cmp(&b)));
            prop_assert_eq!(compare(Number::Decimal(&a.to_string()), Number::Int(b)), Compared::Ordered(a.cmp(&b)));
        }

        #[test]
        fn any_text_is_no_panic(a in "[-+0-9.eE]{0,12}|\\PC{0,8}", b in "[-+0-9.eE]{0,12}", f in any::<f64>()) {
            let _ = compare(Number::Decimal(&a), Number::Decimal(&b));
            let _ = compare(Number::Float64(f), Number::Decimal(&a));
        }
    }
}
