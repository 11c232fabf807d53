//! Changes tar files and keeps what a reader looks at first right: the place of each header, its checksum, and, in an
//! archive of an image, the digests by which files are named.

use std::ops::Range;

use insula_container::fuzz::digest_of;
use insula_env::Rng;

use crate::{
    json,
    mutate::{mutate, pick},
};

/// Length of a header, and of what everything is rounded up to.
const BLOCK: usize = 512;
/// Places in a header (POSIX.1-1988, "ustar").
const NAME: Range<usize> = 0..100;
const SIZE: Range<usize> = 124..136;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: Range<usize> = 157..257;
/// Entries that are looked at, at most.
const ENTRIES_MAX: usize = 64;
/// Changes of one file.
const CHANGES_MAX: u64 = 5;
/// How often digests are put right: a manifest names a configuration, and an index the manifest.
const ROUNDS: usize = 4;
/// Kinds of entries: those of POSIX, long names and sparse files of GNU tar, attributes of pax, and one that there is not.
const KINDS: &[u8] = b"01234567\0xgLKSDVMA";
/// Names that lead out, through links, away from the file, or nowhere.
const NAMES: &[&str] = &[
    "..",
    "../canary",
    "/canary",
    "link",
    "link/canary",
    "link/../..",
    "d",
    "d/",
    "d/file",
    "d/file/below",
    "hard",
    "./",
    ".",
    "",
    "/",
    "d/.wh.file",
    ".wh.link",
    ".wh.d",
    "d/.wh..wh..opq",
    ".wh..wh..opq",
    ".wh.",
    ".wh..",
    ".wh...",
    "a//b",
    "a/./b",
    "index.json",
    "manifest.json",
    "oci-layout",
    "blobs/sha256/x",
    "\u{7f}\n",
];

/// A header and what follows it.
struct Entry {
    header: [u8; BLOCK],
    content: Vec<u8>,
}

/// A seed with a few entries changed; now and then with a few bytes, as they come.
pub(crate) fn change(seeds: &[Vec<u8>], rng: &Rng) -> Vec<u8> {
    let Some(seed) = pick(seeds, rng).filter(|_| rng.chance(0.85)) else { return mutate(seeds, rng) };
    let mut entries = split(seed);
    if entries.is_empty() {
        return mutate(seeds, rng);
    }
    for _ in 0..rng.range(1, CHANGES_MAX + 1) {
        change_one(&mut entries, seeds, rng);
    }
    let mut bytes = join(&entries);
    if rng.chance(0.9) {
        rename_digests(&mut bytes);
    }
    put_checksums(&mut bytes);
    bytes
}

fn change_one(entries: &mut Vec<Entry>, seeds: &[Vec<u8>], rng: &Rng) {
    let place = rng.range(0, entries.len() as u64) as usize;
    let Some(entry) = entries.get_mut(place) else { return };
    match rng.range(0, 9) {
        0 => entry.header[KIND] = pick(KINDS, rng).copied().unwrap_or_default(),
        1 | 2 => {
            let field = if rng.chance(0.6) { NAME } else { LINK };
            let text = match pick(NAMES, rng) {
                Some(name) if rng.chance(0.7) => name.as_bytes().to_vec(),
                _ => mutate(&[entry.header[field.clone()].to_vec()], rng),
            };
            put(&mut entry.header[field], &text);
        }
        3 => {
            let at = rng.range(0, BLOCK as u64) as usize;
            entry.header[at] = rng.next() as u8;
        }
        4 | 5 => {
            let content = [entry.content.clone()];
            let is_json = content[0].first().is_some_and(|byte| b"{[".contains(byte));
            entry.content = if is_json { json::change(&content, rng) } else { mutate(&content, rng) };
            put_size(entry);
        }
        6 => {
            let other = pick(seeds, rng).map(|seed| split(seed)).unwrap_or_default();
            let count = other.len() as u64;
            let taken = (count > 0).then(|| rng.range(0, count) as usize);
            entries.splice(
                place..place,
                other.into_iter().enumerate().filter(|(at, _)| Some(*at) == taken).map(|it| it.1),
            );
        }
        7 => {
            let other = rng.range(0, entries.len() as u64) as usize;
            entries.swap(place, other);
        }
        _ => drop(entries.remove(place)),
    }
    entries.truncate(ENTRIES_MAX);
    if entries.is_empty() {
        *entries = pick(seeds, rng).map(|seed| split(seed)).unwrap_or_default();
    }
}

/// The entries of a tar file, as far as there are any.
fn split(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_first_chunk::<BLOCK>() {
        if header.iter().all(|byte| *byte == 0) || &header[257..262] != b"ustar" || entries.len() >= ENTRIES_MAX {
            break;
        }
        let size = size_of(header).min(after.len());
        entries.push(Entry { header: *header, content: after[..size].to_vec() });
        rest = after.get(size.next_multiple_of(BLOCK)..).unwrap_or_default();
    }
    entries
}

fn join(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&entry.header);
        bytes.extend_from_slice(&entry.content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

fn size_of(header: &[u8; BLOCK]) -> usize {
    let digits = header[SIZE].iter().skip_while(|byte| **byte == b' ').take_while(|byte| (b'0'..=b'7').contains(*byte));
    digits.fold(0_usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit - b'0')))
}

fn put_size(entry: &mut Entry) {
    let size = format!("{:011o}", entry.content.len());
    put(&mut entry.header[SIZE], size.as_bytes());
}

/// Fills a field with a text and zeros.
fn put(field: &mut [u8], text: &[u8]) {
    field.fill(0);
    field.iter_mut().zip(text).for_each(|(byte, new)| *byte = *new);
}

/// Puts the checksums of all headers right, as a reader comes upon them.
fn put_checksums(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<BLOCK>()) {
        if header.iter().any(|byte| *byte != 0) {
            header[CHECKSUM].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        at = at.saturating_add(BLOCK).saturating_add(size_of(header)).next_multiple_of(BLOCK);
    }
}

/// Gives files that are named by their digest, and what names them, the digest that they have now.
fn rename_digests(bytes: &mut [u8]) {
    for _ in 0..ROUNDS {
        let mut renames = Vec::new();
        for entry in split(bytes) {
            let name = &entry.header[NAME];
            let is_hex = |byte: &u8| byte.is_ascii_hexdigit();
            let Some(at) = (0..=name.len() - 64).find(|at| name[*at..at + 64].iter().all(is_hex)) else { continue };
            let digest = digest_of(&entry.content);
            let new = digest.trim_start_matches("sha256:").as_bytes();
            if name[at..at + 64] != *new {
                renames.push((name[at..at + 64].to_vec(), new.to_vec()));
            }
        }
        if renames.is_empty() {
            return;
        }
        for (old, new) in renames {
            for at in 0..bytes.len().saturating_sub(63) {
                if bytes[at..at + 64] == old[..] {
                    bytes[at..at + 64].copy_from_slice(&new);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, content: &[u8]) -> Entry {
        let mut entry = Entry { header: [0; BLOCK], content: content.to_vec() };
        put(&mut entry.header[NAME], name.as_bytes());
        put(&mut entry.header[257..263], b"ustar\0");
        put_size(&mut entry);
        entry
    }

    #[test]
    fn what_is_changed_is_still_named_by_its_digest() {
        let hex = |content: &[u8]| digest_of(content).trim_start_matches("sha256:").to_owned();
        let layer = entry(&format!("blobs/sha256/{}", hex(b"before")), b"after!");
        let index = entry("index.json", format!("{{\"digest\":\"sha256:{}\"}}", hex(b"before")).as_bytes());
        let mut bytes = join(&[layer, index]);
        rename_digests(&mut bytes);
        put_checksums(&mut bytes);
        let [layer, index] = <[Entry; 2]>::try_from(split(&bytes)).ok().expect("two entries");
        assert!(layer.header[NAME].starts_with(format!("blobs/sha256/{}", hex(b"after!")).as_bytes()));
        assert!(String::from_utf8_lossy(&index.content).contains(&hex(b"after!")));
        assert_ne!(layer.header[CHECKSUM], [0; 8]);
    }

    #[test]
    fn files_differ_and_stay_tar_files() {
        let seeds = vec![join(&[entry("d/", b""), entry("d/file", b"text")]), join(&[entry("a", &[7; 700])])];
        let rng = Rng::from_seed(1);
        let all: Vec<_> = (0..2000).map(|_| change(&seeds, &rng)).collect();
        let changed = all.iter().filter(|bytes| !seeds.contains(bytes)).count();
        let tars = all.iter().filter(|bytes| !split(bytes).is_empty()).count();
        assert!(changed > 1500 && tars > 1500, "{changed} changed, {tars} are tar files");
    }
}
