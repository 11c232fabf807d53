//! Changes HTTP messages: words of them are put in, taken out, or come twice; bytes change as everywhere.

use insula_env::Rng;

use crate::mutate::{mutate, pick};

/// Changes of one input.
const CHANGES_MAX: u64 = 5;
/// What readers stumble over.
const WORDS: [&str; 30] = [
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    "\n\n",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "\0",
    "0\r\n\r\n",
    "5\r\n",
    "0\r\n",
    "00",
    "1e\r\n",
    "+",
    "-",
    "0x",
    "\r\n ",
    "content-length: 5\r\n",
    "Content-Length: 0\r\n",
    "content-length : 3\r\n",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "x: 1\r\n",
    "connection: close\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST / HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
];

/// One of the seeds with a few changes.
pub(crate) fn change(seeds: &[Vec<u8>], rng: &Rng) -> Vec<u8> {
    if rng.chance(0.3) {
        return mutate(seeds, rng);
    }
    let mut bytes = pick(seeds, rng).cloned().unwrap_or_default();
    for _ in 0..rng.range(1, CHANGES_MAX + 1) {
        let word = pick(&WORDS, rng).copied().unwrap_or_default();
        // Ends of lines are where it matters.
        let ends: Vec<usize> = (0..=bytes.len()).filter(|at| *at == 0 || bytes[*at - 1] == b'\n').collect();
        let any = rng.range(0, bytes.len() as u64 + 1) as usize;
        let at = if rng.chance(0.6) { pick(&ends, rng).copied().unwrap_or(any) } else { any };
        let gone = if rng.chance(0.4) { rng.range(0, 4) as usize } else { 0 };
        bytes.splice(at..(at + gone).min(bytes.len()), word.bytes());
    }
    bytes
}
