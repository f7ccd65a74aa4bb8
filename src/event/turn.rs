//! Owns what an ordered delivery carries from its turn to its settlement, and how versions compare.

use std::cmp::Ordering;

use crate::clock::Timestamp;

/// What is known of a delivery with a key when its turn comes, and is stored with what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Steady time at which it had no other delivery of its key before it any more: giving up counts from here.
    pub begun: Option<Timestamp>,
    /// The hash of its key.
    pub key: u64,
    /// Its version.
    pub version: Option<Version>,
}

/// The version of an event: a number with all its digits, or a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// A JSON number, as it was written.
    Number(Box<str>),
    /// A text.
    Text(Box<str>),
}

impl Version {
    /// How two versions compare: numbers by value, whatever their length, texts byte by byte. A number and a text can't
    /// be compared.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => Some(numbers(one, other)),
            (Self::Text(one), Self::Text(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }

    /// Whether it is older than another. False if they can't be compared.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.compare(other) == Some(Ordering::Less)
    }

    /// For people.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Number(text) | Self::Text(text) => text,
        }
    }
}

/// Compares two JSON numbers by value with all their digits.
fn numbers(one: &str, other: &str) -> Ordering {
    let (one, other) = (Decimal::of(one), Decimal::of(other));
    match (one.sign(), other.sign()) {
        (sign, same) if sign == same => {
            let size = one.point.cmp(&other.point).then_with(|| one.digits.cmp(&other.digits));
            match sign {
                0 => Ordering::Equal,
                1 => size,
                _ => size.reverse(),
            }
        }
        (sign, other) => sign.cmp(&other),
    }
}

/// `0.digits × 10^point`, without zeros at either end.
struct Decimal {
    negative: bool,
    digits: String,
    point: i64,
}

impl Decimal {
    fn of(text: &str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole, fraction].concat();
        let leading = all.len() - all.trim_start_matches('0').len();
        let exponent: i64 = exponent.parse().unwrap_or(i64::from(i32::MAX));
        let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
        let point = length(whole).saturating_add(exponent).saturating_sub(i64::try_from(leading).unwrap_or(i64::MAX));
        Self { negative, digits: all.trim_matches('0').to_owned(), point }
    }

    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Version {
        Version::Number(text.into())
    }

    #[test]
    fn numbers_compare_by_value_with_all_their_digits_and_texts_byte_by_byte() {
        let ascending = [
            "-1e3",
            "-12",
            "-0.5",
            "0",
            "0.05",
            "0.5",
            "1",
            "1.5",
            "2",
            "10",
            "99",
            "1e2",
            "101",
            "9007199254740992",
            "9007199254740993",
            "1e400",
        ];
        for (at, one) in ascending.iter().enumerate() {
            for (to, other) in ascending.iter().enumerate() {
                assert_eq!(number(one).compare(&number(other)), Some(at.cmp(&to)), "{one} and {other}");
            }
        }
        assert_eq!(number("1.50").compare(&number("15e-1")), Some(Ordering::Equal));
        assert_eq!(number("-0").compare(&number("0.0")), Some(Ordering::Equal));
        let text = |text: &str| Version::Text(text.into());
        assert!(text("2026-01-02").is_older_than(&text("2026-01-10")));
        assert_eq!(text("1").compare(&number("1")), None);
        assert!(!text("0").is_older_than(&number("1")));
    }
}
