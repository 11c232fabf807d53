//! Small text forms shared by the id types.

/// Crockford's base 32 without check digit, lower case: no i, l, o, u.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Writes `number` with exactly `digits` base-32 digits, most significant first.
pub fn base32(number: u64, digits: u32) -> String {
    (0..digits)
        .rev()
        .map(|place| {
            let shifted = number.checked_shr(place * 5).unwrap_or(0);
            char::from(DIGITS[(shifted & 31) as usize])
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1204, 1_234_567].map(grouped), ["0", "999", "1,204", "1,234,567"]);
    }
}
