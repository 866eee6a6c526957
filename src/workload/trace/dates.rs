//! Dates as logs write them.

use chrono::{DateTime, NaiveDateTime};

/// Nanoseconds since 1970 of a date and time of day; in UTC where it names no zone.
pub(super) fn date(text: &str) -> Option<u64> {
    date_and_zone(text).map(|(ns, _)| ns)
}

/// As [`date`], and whether it names a zone.
pub(super) fn date_and_zone(text: &str) -> Option<(u64, bool)> {
    let zoned = ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z", "%d/%b/%Y:%H:%M:%S%.f %z"];
    let plain = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
    let (text, is_utc) = text.strip_suffix(" UTC").map_or((text, false), |text| (text, true));
    let of_zone = || DateTime::parse_from_rfc3339(text).ok();
    let of_forms = || zoned.iter().find_map(|form| DateTime::parse_from_str(text, form).ok());
    let (ns, is_zoned) = match of_zone().or_else(of_forms) {
        Some(at) => (at.timestamp_nanos_opt()?, true),
        None => {
            let at =
                plain.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())?;
            (at.and_utc().timestamp_nanos_opt()?, is_utc)
        }
    };
    u64::try_from(ns).ok().map(|ns| (ns, is_zoned))
}

#[cfg(test)]
mod tests {
    use super::{date, date_and_zone};

    #[test]
    fn zones_are_counted() {
        let second = 1_000_000_000;
        let noon = 1_763_294_400 * second;
        for text in [
            "2025-11-16 12:00:00",
            "2025-11-16T12:00:00Z",
            "2025-11-16 12:00:00.000 UTC",
            "2025-11-16T14:00:00.0+02:00",
            "2025-11-16 07:00:00-0500",
            "16/Nov/2025:13:00:00 +0100",
        ] {
            assert_eq!(date(text), Some(noon), "{text}");
        }
        let is_zoned = |text| date_and_zone(text).map(|(_, is_zoned)| is_zoned);
        assert_eq!(is_zoned("2025-11-16 12:00:00"), Some(false));
        assert_eq!(is_zoned("2025-11-16 12:00:00 UTC"), Some(true));
        assert_eq!(is_zoned("2025-11-16T12:00:00Z"), Some(true));
        assert_eq!(date("2025-11-16T12:00:00.25Z"), Some(noon + second / 4));
        for text in ["", "2025-11-16", "12:00", "1969-11-16T12:00:00Z", "noon"] {
            assert_eq!(date(text), None, "{text}");
        }
    }
}
