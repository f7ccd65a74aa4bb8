//! Owns the written forms of durations (`"10s"`), sizes (`"10MiB"`), rates (`"100/s"`) and byte rates
//! (`"1KiB/s"`), both ways.
//!
//! Promises that what is printed reads back as the same value. Other forms (bare numbers, `MB`, `1h30m`) are refused.

use std::time::Duration;

/// The highest rate of things in a second.
const RATE_MAX: u64 = 1_000_000;

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// The times of rates of attempts.
const PACES: [(&str, u64); 4] = [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZES: [(&str, u64); 5] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &DURATIONS).map(Duration::from_millis).ok_or_else(|| {
        format!("\"{text}\" is no duration; write a whole number with ms, s, m, h or d, such as \"10s\" or \"5d\"")
    })
}

/// A size in bytes: a whole number and `B`, `KiB`, `MiB`, `GiB` or `TiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, &SIZES).ok_or_else(|| {
        format!("\"{text}\" is no size; write a whole number with B, KiB, MiB, GiB or TiB, such as \"10MiB\"")
    })
}

/// Things in a time: a whole number and `/s`, `/m` (or `/min`), `/h` or `/d`; at most so many as [`RATE_MAX`] a second.
pub(super) fn parse_pace(text: &str) -> Result<(u64, Duration), String> {
    let parsed = text.split_once('/').and_then(|(number, unit)| {
        let unit = if unit == "min" { "m" } else { unit };
        let (_, per_ms) = PACES.iter().find(|(name, _)| *name == unit)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let count: u64 = number.parse().ok().filter(|_| is_number)?;
        (1..=RATE_MAX * per_ms / 1_000).contains(&count).then_some((count, Duration::from_millis(*per_ms)))
    });
    parsed.ok_or_else(|| {
        format!("\"{text}\" is no rate; write a whole number in a second, minute, hour or day, such as \"100/s\" or \"30/m\"")
    })
}

/// The form of a number of things in a time.
pub(super) fn show_pace(count: u64, per: Duration) -> String {
    let unit = PACES.iter().find(|(_, ms)| u128::from(*ms) == per.as_millis()).map_or("s", |(name, _)| name);
    format!("{count}/{unit}")
}

/// Bytes in a second: a size and `/s`.
pub(super) fn parse_byte_rate(text: &str) -> Result<u64, String> {
    text.strip_suffix("/s")
        .and_then(|size| parse(size, &SIZES))
        .ok_or_else(|| format!("\"{text}\" is no rate of bytes; write a size a second, such as \"1KiB/s\""))
}

/// Things in a second: a whole number and `/s`.
pub(super) fn parse_rate(text: &str) -> Result<u64, String> {
    text.strip_suffix("/s")
        .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|number| number.parse().ok())
        .filter(|rate| (1..=RATE_MAX).contains(rate))
        .ok_or_else(|| format!("\"{text}\" is no rate; write a whole number a second, such as \"100/s\""))
}

/// The shortest exact form of a duration.
pub(super) fn show_duration(duration: Duration) -> String {
    match u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) {
        0 => "0s".to_owned(),
        ms => show(ms, &DURATIONS),
    }
}

/// The shortest exact form of a size.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let exact = units.iter().rev().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    match (exact, units) {
        (Some((name, factor)), _) => format!("{}{name}", value / factor),
        (None, [(name, _), ..]) => format!("{value}{name}"),
        (None, []) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_in_their_one_form_only() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("5d"), Ok(Duration::from_secs(5 * 86_400)));
        assert_eq!(parse_size("10MiB"), Ok(10 << 20));
        assert_eq!(parse_byte_rate("1KiB/s"), Ok(1024));
        for text in ["", "10", "s", "10 s", "1.5s", "-1s", "10S", "1h30m", "99999999999999999999s", "10sec", "٣s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "10", "10MB", "10mib", "1.5GiB", "16777216TiB", "10 MiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_byte_rate("1KiB").is_err());
        assert_eq!(parse_rate("100/s"), Ok(100));
        for text in ["100", "0/s", "-1/s", "+1/s", "1.5/s", "6/m", "/s", "1000001/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_of_attempts_may_be_slow() {
        for (text, count, seconds) in [("200/s", 200, 1), ("1/m", 1, 60), ("5000/h", 5000, 3600), ("1/d", 1, 86_400)] {
            let parsed = parse_pace(text);
            assert_eq!(parsed, Ok((count, Duration::from_secs(seconds))));
            assert_eq!(show_pace(count, Duration::from_secs(seconds)), text);
        }
        assert_eq!(parse_pace("1/min"), parse_pace("1/m"));
        for text in ["", "1", "/s", "0/s", "-1/s", "1.5/s", "1/ms", "1/S", "1 / s", "1000001/s", "1/s/s"] {
            assert!(parse_pace(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_value() {
        for (ms, text) in [(0, "0s"), (1_500, "1500ms"), (60_000, "1m"), (90_000, "90s"), (432_000_000, "5d")] {
            let duration = Duration::from_millis(ms);
            assert_eq!(show_duration(duration), text);
            assert_eq!(parse_duration(text), Ok(duration));
        }
        assert_eq!(show_size(10 << 20), "10MiB");
        assert_eq!(show_size(1_025), "1025B");
    }
}
