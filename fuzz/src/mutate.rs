//! Changes bytes at random.

use insula_env::Rng;

/// Longest input, in bytes: long enough for every shape, short enough for many in a second.
const LEN_MAX: usize = 16 << 10;
/// Changes of one input.
const CHANGES_MAX: u64 = 6;
/// Bytes at which decoders go wrong: ends of ranges, and markers of MessagePack, DER and text.
const BYTES: [u8; 16] = [0, 1, 0x7f, 0x80, 0xff, 0xc0, 0xc4, 0xd9, 0xdb, 0xdd, 0xdf, 0x30, 0x82, b'/', b':', b'-'];
/// Numbers at which lengths go wrong.
const NUMBERS: [u32; 8] = [0, 1, 0x7f, 0xffff, 0x10000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// One of the seeds with a few changes.
pub(crate) fn mutate(seeds: &[Vec<u8>], rng: &Rng) -> Vec<u8> {
    let mut bytes = pick(seeds, rng).cloned().unwrap_or_default();
    for _ in 0..rng.range(1, CHANGES_MAX + 1) {
        change(&mut bytes, seeds, rng);
        bytes.truncate(LEN_MAX);
    }
    bytes
}

pub(crate) fn pick<'a, T>(all: &'a [T], rng: &Rng) -> Option<&'a T> {
    if all.is_empty() { None } else { all.get(rng.range(0, all.len() as u64) as usize) }
}

/// A place in, or right behind, so many bytes.
fn place(len: usize, rng: &Rng) -> usize {
    rng.range(0, len as u64 + 1) as usize
}

/// A short range in so many bytes; longer ones are rarer.
fn stretch(len: usize, rng: &Rng) -> std::ops::Range<usize> {
    let from = place(len, rng);
    let long = if rng.chance(0.1) { len } else { 16 };
    from..(from + place(long, rng)).min(len)
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &Rng) {
    let at = place(bytes.len(), rng);
    match rng.range(0, 9) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.range(0, 8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = pick(&BYTES, rng).copied().unwrap_or_default();
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = rng.next() as u8;
            }
        }
        3 => {
            let number = pick(&NUMBERS, rng).copied().unwrap_or_default().to_be_bytes();
            bytes.iter_mut().skip(at).zip(number).for_each(|(byte, new)| *byte = new);
        }
        4 => {
            bytes.drain(stretch(bytes.len(), rng));
        }
        5 => {
            let twice = bytes[stretch(bytes.len(), rng)].to_vec();
            bytes.splice(at..at, twice);
        }
        6 => {
            let new: Vec<u8> = (0..rng.range(1, 9)).map(|_| rng.next() as u8).collect();
            bytes.splice(at..at, new);
        }
        7 => {
            let Some(other) = pick(seeds, rng) else { return };
            let part = other[stretch(other.len(), rng)].to_vec();
            let hole = stretch(bytes.len(), rng);
            bytes.splice(hole, part);
        }
        _ => bytes.truncate(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_differ_and_are_bounded() {
        let rng = Rng::from_seed(1);
        let seeds = vec![vec![7; 100], Vec::new(), vec![9; LEN_MAX]];
        let inputs: Vec<Vec<u8>> = (0..2000).map(|_| mutate(&seeds, &rng)).collect();
        assert!(inputs.iter().all(|input| input.len() <= LEN_MAX));
        let changed = inputs.iter().filter(|input| !seeds.contains(input)).count();
        assert!(changed > 1500, "{changed} of 2000 are new");
        assert_eq!(mutate(&seeds, &Rng::from_seed(3)), mutate(&seeds, &Rng::from_seed(3)), "the seed says all");
    }
}
