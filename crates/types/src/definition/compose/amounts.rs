//! Amounts as Compose writes them, and texts that a shell would split.

use std::time::Duration;

use crate::ByteSize;

/// Bytes: a number, whole or not, and a unit that is a power of 1024, as in `512m`, `1.5g`, `64mb`, `100`.
pub(super) fn bytes(text: &str) -> Result<ByteSize, String> {
    let wrong = || format!("found {text:?}, expected an amount of bytes, like 512m or 2g");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(1 << shift).ok_or_else(wrong)?,
        Err(_) => {
            let number: f64 = number.parse().map_err(|_| wrong())?;
            let bytes = number * (1u64 << shift) as f64;
            if !(0.0..9e18).contains(&bytes) {
                return Err(wrong());
            }
            bytes as u64
        }
    };
    Ok(ByteSize(bytes))
}

/// A span of time: numbers with units, as in `1m30s`, `1.5s`, `40ms`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("found {text:?}, expected a span of time, like 10s or 1m30s");
    let mut rest = text;
    let mut total = 0.0f64;
    if rest.is_empty() {
        return Err(wrong());
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(split);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let seconds = match &after[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return Err(wrong()),
        };
        total += number.parse::<f64>().map_err(|_| wrong())? * seconds;
        rest = &after[end..];
    }
    // Whole milliseconds: what a definition can say.
    let millis = (total * 1000.0).round();
    if !(0.0..1e15).contains(&millis) {
        return Err(wrong());
    }
    Ok(Duration::from_millis(millis as u64))
}

/// Processors: `0.5`, `2`; in thousandths, written as a definition takes them.
pub(super) fn cpus(text: &str) -> Result<String, String> {
    let wrong = || format!("found {text:?}, expected a number of processors, like 0.5 or 2");
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let cpus: f64 = Some(text).filter(|_| is_number).and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    let millis = (cpus * 1000.0).round();
    if !(1.0..=512_000.0).contains(&millis) {
        return Err(format!("found {text:?}, expected from 0.001 to 512 processors"));
    }
    Ok(format!("{}m", millis as u64))
}

/// Words as a shell splits them: by blanks, with quotes and backslashes. Nothing else of a shell is done.
pub(super) fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a quotation mark ' is not closed"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some('\n') => {}
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a quotation mark \" is not closed"),
                        },
                        Some(c) => word.push(c),
                        None => return Err("a quotation mark \" is not closed"),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("a backslash is at its end"),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}
