//! `.env` beside a Compose file: values of variables that the environment does not have.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use crate::Failure;

/// Longest `.env`, in bytes.
const LEN_MAX: u64 = 64 << 10;

/// Reads the file, if it is there.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let Ok(file) = File::open(path) else { return Ok(BTreeMap::new()) };
    let refuse = |why: String| Failure::usage(format!("cannot read {}: {why}", path.display()));
    let mut text = String::new();
    file.take(LEN_MAX + 1).read_to_string(&mut text).map_err(|error| refuse(error.to_string()))?;
    if text.len() as u64 > LEN_MAX {
        return Err(refuse(format!("it has more than {LEN_MAX} bytes")));
    }
    parse(&text).map_err(refuse)
}

/// Lines of `NAME=value`, as Compose takes them: with comments, `export`, and quotes around values.
fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| format!("line {}: {why}", index + 1);
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("expected NAME=value"))?;
        let name = name.trim_end();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(wrong("a variable's name has letters, digits and underscores"));
        }
        all.insert(name.to_owned(), value_of(value.trim_start()).map_err(wrong)?);
    }
    Ok(all)
}

fn value_of(text: &str) -> Result<String, &'static str> {
    if let Some(rest) = text.strip_prefix('\'') {
        let (value, _) = rest.split_once('\'').ok_or("a quotation mark ' is not closed on the same line")?;
        return Ok(value.to_owned());
    }
    let value = match text.strip_prefix('"') {
        Some(rest) => quoted(rest)?,
        None => {
            let end = if text.starts_with('#') { Some(0) } else { text.find(" #") };
            text[..end.unwrap_or(text.len())].trim_end().to_owned()
        }
    };
    if value.contains('$') {
        return Err("variables in values of .env are not put in; write the value out, or between ' and '");
    }
    Ok(value)
}

fn quoted(text: &str) -> Result<String, &'static str> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next() {
            Some('"') => return Ok(value),
            Some('\\') => match chars.next() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some(c) => value.push(c),
                None => break,
            },
            Some(c) => value.push(c),
            None => break,
        }
    }
    Err("a quotation mark \" is not closed on the same line")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_compose_reads_them() {
        let text =
            "# of the shop\n\nTAG=7 # seven\nexport A = x y \nB='a # $b'\nC=\"a\\nb\" # two lines\nD=\nE=#\nF=a#b\n";
        let all = parse(text).expect("valid");
        let expected = [("A", "x y"), ("B", "a # $b"), ("C", "a\nb"), ("D", ""), ("E", ""), ("F", "a#b"), ("TAG", "7")];
        assert_eq!(all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
        assert_eq!(parse("A\n"), Err("line 1: expected NAME=value".to_owned()));
        assert_eq!(parse("A=1\nB='x\n"), Err("line 2: a quotation mark ' is not closed on the same line".to_owned()));
        assert!(parse("A=$B").is_err() && parse("a-b=1").is_err() && parse("A=\"x").is_err());
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing() {
        assert_eq!(read(Path::new("/there/is/no/such/.env")).ok(), Some(BTreeMap::new()));
    }
}
