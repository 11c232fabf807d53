//! Spans of time as users write them: `500ms`, `2s`, `1m`, `1h`.

use std::time::Duration;

use crate::quantity::QuantityError;

/// Units in milliseconds, the largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a whole number with a unit.
///
/// # Errors
/// [`QuantityError`] when it is anything else, or too long for 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let wrong = || QuantityError {
        what: "a span of time",
        found: text.to_owned(),
        expected: "a whole number with a unit, like 500ms, 2s, 1m or 1h",
    };
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    number.checked_mul(*factor).map(Duration::from_millis).ok_or_else(wrong)
}

/// Writes a span in the largest unit that divides it; what is below a millisecond is dropped.
#[must_use]
pub fn format_duration(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (name, factor) = UNITS.iter().find(|(_, factor)| millis.is_multiple_of(*factor)).unwrap_or(&("ms", 1));
    format!("{}{name}", millis / factor)
}
