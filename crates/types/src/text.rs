//! Small text forms shared by the id types, and texts for people.

use std::borrow::Cow;

/// Crockford's base 32 without check digit, lower case: no i, l, o, u.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Writes `number` with exactly `digits` base-32 digits, most significant first.
pub fn base32(number: u64, digits: u32) -> String {
    let mut text = vec![0; digits as usize];
    write_base32(number, &mut text);
    text.into_iter().map(char::from).collect()
}

/// The same, with as many digits as there is room for.
pub fn write_base32(number: u64, out: &mut [u8]) {
    for (place, digit) in (0..).zip(out.iter_mut().rev()) {
        let shifted = number.checked_shr(place * 5).unwrap_or(0);
        *digit = DIGITS[(shifted & 31) as usize];
    }
}

/// Reads what [`base32`] wrote. `None` on another character or on overflow of 64 bits.
pub fn parse_base32(text: &str) -> Option<u64> {
    text.bytes().try_fold(0u64, |number, byte| {
        let digit = DIGITS.iter().position(|d| *d == byte)?;
        number.checked_mul(32)?.checked_add(digit as u64)
    })
}

/// Writes a number with a comma between thousands: `1,204`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in UTC, of milliseconds since 1970: `2026-11-21 03:40:00`. Method: days to civil date (H. Hinnant, chrono-compatible algorithms).
pub fn utc(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest % 3600 / 60, rest % 60)
}

/// Stands for what was left out.
const LEFT_OUT: &str = " … ";

/// A text of at most so many bytes, [`LEFT_OUT`] included: of a longer one the middle is left out, since errors say first what was
/// tried, and last why it failed. A limit below that of the sign gives the beginning alone.
pub fn shorten(text: &str, len_max: usize) -> Cow<'_, str> {
    if text.len() <= len_max {
        return Cow::Borrowed(text);
    }
    let Some(room) = len_max.checked_sub(LEFT_OUT.len()) else {
        return Cow::Borrowed(&text[..text.floor_char_boundary(len_max)]);
    };
    let (head, tail) = (text.floor_char_boundary(room / 2), text.ceil_char_boundary(text.len() - room / 2));
    Cow::Owned(format!("{}{LEFT_OUT}{}", &text[..head], &text[tail..]))
}

#[cfg(test)]
mod tests {
    use super::{grouped, shorten, utc};

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_827_696_999), "2000-02-29 12:34:56");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1204, 1_234_567].map(grouped), ["0", "999", "1,204", "1,234,567"]);
    }

    #[test]
    fn the_middle_of_a_long_text_is_left_out() {
        assert_eq!(shorten("pull the image: no such host", 28), "pull the image: no such host");
        assert_eq!(shorten("pull the image: no such host", 25), "pull the i …  such host");
        assert_eq!(shorten("pull", 3), "pul");
        for text in ["ä".repeat(40), "a".repeat(80), "aä€😀".repeat(10)] {
            for len_max in 0..90 {
                let short = shorten(&text, len_max);
                assert!(short.len() <= len_max.min(text.len()), "{short} has {} bytes", short.len());
                assert!(short.len() + 8 > len_max.min(text.len()), "{short} leaves out more than it must");
            }
        }
    }
}
