//! Reads the files that a service gives to its instances.

use std::collections::BTreeMap;

use super::required;
use crate::{
    ContentHash, FileSpec,
    definition::{fields::Item, keys, problem::Problems, syntax, tree::Value},
};

/// Files of a service: each is a mount of each instance.
const FILES_MAX: usize = 64;
/// Bytes of all files of a service. A definition holds no more than that anyway.
const CONTENT_LEN_MAX: usize = 256 << 10;

/// Reads them, and puts what is in them into `contents`.
pub(super) fn read(
    item: &Item<'_>,
    contents: &mut BTreeMap<ContentHash, String>,
    problems: &mut Problems,
) -> Vec<FileSpec> {
    let mut files: Vec<FileSpec> = Vec::new();
    let mut len = 0;
    for item in item.items(FILES_MAX, problems) {
        let Some((file, content)) = file(&item, problems) else { continue };
        len += content.len();
        let is_above = |above: &str, below: &str| below.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'));
        if files.iter().any(|other| other.path == file.path) {
            item.refuse(problems, format!("{} is there twice; give each file its own path", file.path));
        } else if let Some(other) =
            files.iter().find(|other| is_above(&other.path, &file.path) || is_above(&file.path, &other.path))
        {
            let why = format!("{} and {} cannot both be files: one is in the other", other.path, file.path);
            item.refuse(problems, why);
        } else {
            contents.insert(file.content, content.to_owned());
            files.push(file);
        }
    }
    if len > CONTENT_LEN_MAX {
        item.refuse(problems, format!("they contain {len} bytes together, at most {CONTENT_LEN_MAX} are allowed"));
    }
    files
}

fn file<'t>(item: &Item<'t>, problems: &mut Problems) -> Option<(FileSpec, &'t str)> {
    let fields = item.fields(&keys::FILE, problems)?;
    let path = required(item, &fields, "path", problems)
        .and_then(|item| item.checked(syntax::check_file_path, problems).map(str::to_owned));
    let content = required(item, &fields, "content", problems).and_then(|item| item.text(problems));
    let mode = fields.get("mode").map_or(Some(FileSpec::MODE_DEFAULT), |item| mode(&item, problems));
    let content = content?;
    Some((FileSpec { path: path?, mode: mode?, content: ContentHash::of(content) }, content))
}

/// Permissions as `chmod` takes them. A number would be read as decimal.
fn mode(item: &Item<'_>, problems: &mut Problems) -> Option<u32> {
    let text = match &item.tree.value {
        Value::Text(text) => Some(text.as_str()),
        _ => None,
    };
    let digits = text.filter(|text| (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b)));
    let mode = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok()).filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        let found = item.tree.value.describe();
        item.refuse(
            problems,
            format!("found {found}, expected permissions in octal digits, like \"0644\" or \"0755\""),
        );
    }
    mode
}
