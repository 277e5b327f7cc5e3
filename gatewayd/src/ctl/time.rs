//! Times as people read them: local for tables, UTC beside the number in JSON.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

/// Milliseconds since 1970 as local time with its zone; `-` when the calendar does not reach it.
pub(super) fn local(time_ms: u64) -> String {
    in_zone(time_ms, TimeZone::system())
}

fn in_zone(time_ms: u64, zone: TimeZone) -> String {
    match timestamp(time_ms) {
        Some(time) => time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string(),
        None => "-".into(),
    }
}

/// This machine's clock, milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
pub(super) fn utc(time_ms: u64) -> Option<String> {
    timestamp(time_ms).map(|time| format!("{time:.3}"))
}

fn timestamp(time_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(time_ms).ok()?).ok()
}

/// Adds `…_utc` beside every time: keys that end in `time_ms` or `heard_ms`, at any depth.
pub(super) fn add_utc(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(add_utc),
        Value::Object(entries) => {
            entries.values_mut().for_each(add_utc);
            let times: Vec<(String, String)> = entries
                .iter()
                .filter(|(key, _)| key.ends_with("time_ms") || key.ends_with("heard_ms"))
                .filter_map(|(key, time)| Some((key.replace("_ms", "_utc"), utc(time.as_u64()?)?)))
                .collect();
            entries.extend(times.into_iter().map(|(key, time)| (key, Value::String(time))));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_stand_beside_their_numbers() {
        let mut value = json!({
            "time_ms": 1_700_000_000_123_u64,
            "interval_ms": 5,
            "last": [{"last_heard_ms": 0, "block_time_ms": null}],
        });
        add_utc(&mut value);
        let expected = json!({
            "time_ms": 1_700_000_000_123_u64,
            "time_utc": "2023-11-14T22:13:20.123Z",
            "interval_ms": 5,
            "last": [{
                "last_heard_ms": 0,
                "last_heard_utc": "1970-01-01T00:00:00.000Z",
                "block_time_ms": null,
            }],
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn local_time_names_its_zone_and_no_time_is_too_large() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(in_zone(1_700_000_000_123, zone), "2023-11-14 23:13:20 +01");
        assert_eq!(local(u64::MAX), "-");
        assert_eq!(utc(u64::MAX), None);
    }
}
