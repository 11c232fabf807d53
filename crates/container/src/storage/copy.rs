//! Copies of files with holes. All calls block.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::{
    fs::{SeekFrom, ioctl_ficlone, seek},
    io::Errno,
};

/// Bytes that are copied at once.
const PIECE_LEN: usize = 1 << 20;

/// Makes `to`, which is empty, share all that `from` has. False: the file system of the two cannot do that.
pub(super) fn share(from: &File, to: &File) -> io::Result<bool> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Copies what `from` has to the same places of `to`, where zeros are, and makes that at least as long. Asks before each piece
/// whether to go on. Nothing of it need be on the disk yet afterwards.
pub(super) fn copy(from: &File, to: &File, mut go_on: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let mut piece = vec![0; PIECE_LEN];
    for (begin, end) in parts(from)? {
        let mut at = begin;
        while at < end {
            go_on()?;
            let len = piece.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let read = from.read_at(&mut piece[..len], at)?;
            if read == 0 {
                break;
            }
            to.write_all_at(&piece[..read], at)?;
            at += read as u64;
        }
    }
    let (wanted, found) = (from.metadata()?.len(), to.metadata()?.len());
    if found < wanted { to.set_len(wanted) } else { Ok(()) }
}

/// Bytes of a file that are no holes: what a copy takes.
pub(super) fn data_len(file: &File) -> io::Result<u64> {
    Ok(parts(file)?.into_iter().map(|(begin, end)| end - begin).sum())
}

/// Where data begins and ends. Space that is set aside and was never written is a hole (lseek(2)).
pub(super) fn parts(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let mut parts = Vec::new();
    let mut at = 0;
    loop {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(parts),
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(begin))?;
        parts.push((begin, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_and_has_the_same_holes() {
        let (from, to) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        let far = 9 << 20;
        from.set_len(32 << 20).expect("a length");
        from.write_all_at(&[7; 100_000], 5).expect("written");
        from.write_all_at(&[9; 3 << 20], far).expect("written");
        copy(&from, &to, || Ok(())).expect("copied");
        assert_eq!(to.metadata().expect("there").len(), 32 << 20);
        let mut found = vec![0; 3 << 20];
        to.read_exact_at(&mut found, far).expect("read");
        assert!(found.iter().all(|byte| *byte == 9));
        to.read_exact_at(&mut found[..10], 0).expect("read");
        assert_eq!(found[..10], [0, 0, 0, 0, 0, 7, 7, 7, 7, 7]);
        let len = data_len(&to).expect("its parts");
        assert!((3 << 20..4 << 20).contains(&len), "holes are not written: {len}");
        assert_eq!(data_len(&from).expect("its parts"), len);
    }

    #[test]
    fn a_copy_ends_when_it_is_told_to() {
        let (from, to) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        from.write_all_at(&[7; 8 << 20], 0).expect("written");
        let mut asked = 0;
        let stop = || {
            asked += 1;
            if asked < 3 { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
        };
        let error = copy(&from, &to, stop).expect_err("it was told to");
        assert_eq!((error.kind(), asked), (io::ErrorKind::TimedOut, 3));
    }
}
