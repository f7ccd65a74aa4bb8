//! Owns durations, rates and times as they are typed, and sizes, ages and times as they are printed.

use std::time::Duration;

use super::Failure;
use crate::admin::Timestamp;

/// `500ms`, `10s`, `5m`, `2h`, `7d` in milliseconds.
pub(super) fn duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration: use a number and ms, s, m, h or d, for example 10m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// The time of a probation: from a second to a day.
pub(super) fn probation_ms(text: &str) -> Result<u64, String> {
    let ms = duration_ms(text)?;
    if (1_000..=86_400_000).contains(&ms) { Ok(ms) } else { Err("use a time from 1s to 1d".to_owned()) }
}

/// `100/s`, `30/m`, `10/h` as microseconds between two.
pub(super) fn interval_us(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no rate: use a number of deliveries a second, minute or hour, for example 100/s");
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let unit: u64 = match unit {
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return Err(wrong()),
    };
    let number = number.parse::<u64>().ok().filter(|number| (1..=1_000_000).contains(number)).ok_or_else(wrong)?;
    Ok(unit / number)
}

/// RFC 3339 with a zone, or a duration ago.
pub(super) fn time(text: &str, now: Timestamp) -> Option<Timestamp> {
    let ago = || duration_ms(text).ok().map(|ms| now.before(Duration::from_millis(ms)));
    Timestamp::parse_rfc3339(text).or_else(ago)
}

/// A time that is given for an option.
pub(super) fn moment(name: &str, text: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    text.map(|text| {
        time(text, now).ok_or_else(|| {
            Failure::usage(format!("--{name} {text:?}: use RFC 3339 with a zone, or 10m for 10 minutes ago"))
        })
    })
    .transpose()
}

/// `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let mut unit = "B";
    let mut scaled = bytes as f64;
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{scaled:.1} {unit}") }
}

/// `3d 4h`, `5m 10s`, `0s`: the two largest units.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let start = units.iter().position(|(_, length)| seconds >= *length).unwrap_or(units.len() - 1);
    let mut left = seconds;
    let parts = units.iter().skip(start).take(2).map(|(unit, length)| {
        let count = left / length;
        left %= length;
        (count, unit)
    });
    let parts: Vec<(u64, &&str)> = parts.collect();
    let shown = parts.iter().enumerate().filter(|(index, (count, _))| *index == 0 || *count > 0);
    shown.map(|(_, (count, unit))| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_rates_and_times_are_taken_in_their_one_form() {
        for (text, expected) in
            [("500ms", 500), ("10s", 10_000), ("10m", 600_000), ("2h", 7_200_000), ("7d", 604_800_000)]
        {
            assert_eq!(duration_ms(text), Ok(expected));
        }
        for text in ["10", "m", "", "1.5s", "-1s", "10 m", "99999999999999999999s", "1w"] {
            assert!(duration_ms(text).is_err(), "{text}");
        }
        assert_eq!((probation_ms("1s"), probation_ms("1d")), (Ok(1_000), Ok(86_400_000)));
        assert!(probation_ms("999ms").is_err() && probation_ms("2d").is_err());
        assert_eq!(interval_us("100/s"), Ok(10_000));
        assert_eq!(interval_us("30/m"), Ok(2_000_000));
        for text in ["100", "0/s", "x/s", "1/d", "/s"] {
            assert!(interval_us(text).is_err(), "{text}");
        }
        let now = Timestamp::from_millis(1_000_000);
        assert_eq!(time("10s", now), Some(Timestamp::from_millis(990_000)));
        assert_eq!(time("1970-01-01T00:00:01Z", now), Some(Timestamp::from_millis(1_000)));
        assert_eq!(time("1970-01-01T00:00:01", now), None);
    }

    #[test]
    fn sizes_and_spans_are_short() {
        for (bytes, expected) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 30, "20.0 GiB")] {
            assert_eq!(size(bytes), expected);
        }
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (310, "5m 10s"), (90_000, "1d 1h"), (86_400 * 3, "3d")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
    }
}
