//! One blob on its way to the disk: hashed as it comes, and taken up again where it broke off, from whatever source, also
//! by a later process.

use std::{path::PathBuf, sync::Arc};

use futures::{Stream, StreamExt, pin_mut};
use sha2::{Digest, Sha256};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::progress::Progress;
use crate::Error;

/// How much of what is there is read at once.
const READ_LEN: usize = 256 << 10;

/// A blob of which the beginning is on the disk.
pub(super) struct Download {
    path: PathBuf,
    file: File,
    size: u64,
    digest: String,
    hash: Sha256,
    written: u64,
    /// A source sent more than the blob has.
    is_overfull: bool,
    progress: Arc<Progress>,
}

/// Why a source gave no more.
#[derive(Debug)]
pub(super) enum Broken<E> {
    /// The source.
    Source(E),
    /// Our own disk.
    Disk(Error),
}

impl Download {
    /// Begins, or takes up what an earlier attempt has left at `path`.
    pub async fn open(path: PathBuf, digest: &str, size: u64, progress: Arc<Progress>) -> Result<Self, Error> {
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path).await;
        let file = opened.map_err(Error::file("open", &path))?;
        let (digest, hash) = (digest.to_owned(), Sha256::new());
        let mut download = Self { path, file, size, digest, hash, written: 0, is_overfull: false, progress };
        let mut buffer = vec![0; READ_LEN];
        loop {
            let read = download.file.read(&mut buffer).await.map_err(Error::file("read", &download.path))?;
            download.hash.update(&buffer[..read]);
            download.written += read as u64;
            download.progress.add(read as u64);
            if read > 0 && download.written <= size {
                continue;
            }
            // A crash may have left anything.
            if download.written >= size && download.fault().is_some() {
                download.restart().await?;
            }
            return Ok(download);
        }
    }

    /// Bytes that are there: where a source has to begin.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Takes what a source gives, until it ends or has given enough.
    pub async fn take<E>(&mut self, stream: impl Stream<Item = Result<impl AsRef<[u8]>, E>>) -> Result<(), Broken<E>> {
        pin_mut!(stream);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(Broken::Source)?;
            let chunk = chunk.as_ref();
            if self.written + chunk.len() as u64 > self.size {
                self.is_overfull = true;
                return Ok(());
            }
            self.hash.update(chunk);
            let written = self.file.write_all(chunk).await;
            written.map_err(Error::file("write", &self.path)).map_err(Broken::Disk)?;
            self.written += chunk.len() as u64;
            self.progress.add(chunk.len() as u64);
        }
        Ok(())
    }

    /// What is wrong with what is there; none: it is the whole blob.
    pub fn fault(&self) -> Option<&'static str> {
        if self.is_overfull || self.written > self.size {
            return Some("more than its size was sent");
        }
        if self.written < self.size {
            return Some("less than its size was sent");
        }
        let is_right = format!("sha256:{}", hex::encode(self.hash.clone().finalize())) == self.digest;
        (!is_right).then_some("other bytes were sent")
    }

    /// Forgets what is there: it is not what it should be.
    pub async fn restart(&mut self) -> Result<(), Error> {
        let emptied = async {
            self.file.flush().await?;
            self.file.set_len(0).await?;
            File::options().write(true).open(&self.path).await
        };
        self.file = emptied.await.map_err(Error::file("empty", &self.path))?;
        self.hash = Sha256::new();
        self.progress.take_back(self.written);
        self.written = 0;
        self.is_overfull = false;
        Ok(())
    }

    /// Leaves what is there to the next attempt; nothing, when there is nothing.
    pub async fn leave(mut self) {
        self.file.flush().await.ok();
        if self.written == 0 {
            fs::remove_file(&self.path).await.ok();
        }
    }

    /// The file, with all that was taken.
    pub async fn into_file(mut self) -> Result<(std::fs::File, PathBuf), Error> {
        self.file.flush().await.map_err(Error::file("write", &self.path))?;
        Ok((self.file.into_std().await, self.path))
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn chunks(parts: &[&[u8]]) -> impl Stream<Item = Result<Vec<u8>, &'static str>> {
        stream::iter(parts.iter().map(|part| Ok(part.to_vec())).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn what_broke_off_goes_on_also_in_another_process() {
        let dir = tempfile::tempdir().expect("directory");
        let (path, blob) = (dir.path().join("part"), b"0123456789".as_slice());
        let digest = super::super::store::digest_of(blob);
        let mut first = Download::open(path.clone(), &digest, 10, Arc::default()).await.expect("opened");
        let cut = stream::iter([Ok(&blob[..4]), Err("cut")]);
        assert!(matches!(first.take(cut).await, Err(Broken::Source("cut"))));
        assert_eq!((first.written(), first.fault()), (4, Some("less than its size was sent")));
        first.into_file().await.expect("written");

        let mut second = Download::open(path.clone(), &digest, 10, Arc::default()).await.expect("opened");
        assert_eq!(second.written(), 4);
        second.take(chunks(&[b"45", b"6789"])).await.expect("taken");
        assert_eq!(second.fault(), None);
        drop(second.into_file().await.expect("written"));
        assert_eq!(std::fs::read(&path).expect("there"), blob);
    }

    #[tokio::test]
    async fn what_is_wrong_is_forgotten() {
        let dir = tempfile::tempdir().expect("directory");
        let (path, blob) = (dir.path().join("part"), b"0123456789".as_slice());
        let digest = super::super::store::digest_of(blob);
        std::fs::write(&path, b"more than the blob has").expect("written");
        let mut download = Download::open(path.clone(), &digest, 10, Arc::default()).await.expect("opened");
        assert_eq!(download.written(), 0, "a file that cannot be its beginning");
        download.take(chunks(&[b"x123456789"])).await.expect("taken");
        assert_eq!(download.fault(), Some("other bytes were sent"));
        download.restart().await.expect("emptied");
        download.take(chunks(&[blob, b"."])).await.expect("taken");
        assert_eq!(download.fault(), Some("more than its size was sent"));
        download.restart().await.expect("emptied");
        download.take(chunks(&[blob])).await.expect("taken");
        assert_eq!(download.fault(), None);
        drop(download.into_file().await.expect("written"));
        assert_eq!(std::fs::read(&path).expect("there"), blob);
    }
}
