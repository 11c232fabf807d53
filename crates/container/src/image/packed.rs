//! Reads packed files from anybody: plain, gzip or zstd, and the headers of a tar file within a bound.

use std::{
    cell::Cell,
    io::{self, BufReader, Cursor, Read},
    rc::Rc,
};

use tar::{Entries, Entry};

/// Headers of one entry, at most: long names and attributes are read whole into memory.
const HEADER_BYTES_MAX: u64 = 1 << 20;
const READ_BUFFER_LEN: usize = 256 << 10;

/// Decompresses by what the bytes begin with: names and media types lie now and then.
pub(super) fn decoder<'a>(mut packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(4);
    (&mut packed).take(4).read_to_end(&mut magic)?;
    let whole = BufReader::with_capacity(READ_BUFFER_LEN, Cursor::new(magic.clone()).chain(packed));
    Ok(match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}

/// The reader of a tar file, which counts what is read of it while [`Headers::next`] looks for an entry.
pub(super) struct Metered<R> {
    inner: R,
    headers: Headers,
}

/// What the headers of an entry may still have; none: its content is being read.
#[derive(Clone, Default)]
pub(super) struct Headers(Rc<Cell<Option<u64>>>);

impl<R: Read> Metered<R> {
    pub fn new(inner: R) -> (Self, Headers) {
        let headers = Headers::default();
        (Self { inner, headers: headers.clone() }, headers)
    }

    /// What it reads from.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(left) = self.headers.0.get() {
            let left = left.checked_sub(read as u64).ok_or_else(|| {
                let said = format!("the name or the attributes of an entry have more than {HEADER_BYTES_MAX} bytes");
                io::Error::new(io::ErrorKind::InvalidData, said)
            })?;
            self.headers.0.set(Some(left));
        }
        Ok(read)
    }
}

impl Headers {
    /// The next entry. The content of the one before has been read.
    pub fn next<'a, R: Read>(&self, entries: &mut Entries<'a, R>) -> Option<io::Result<Entry<'a, R>>> {
        self.0.set(Some(HEADER_BYTES_MAX));
        let next = entries.next();
        self.0.set(None);
        next
    }
}
