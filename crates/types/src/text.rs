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
