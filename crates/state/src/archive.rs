//! A whole state in a file, for the day on which all voters are lost: written from a copy, read back object by object.
//!
//! ```text
//! file    = archive*                              one for each state
//! archive = "insula-state" version frame* end     version: u32, all numbers big-endian
//! frame   = kind: u8, length: u32, payload        'a' first: About; then 'o': (revision, key, object) each
//! end     = 'e', length: u32, objects: u64, SHA-256 of all bytes of the archive before this frame
//! ```
//!
//! Payloads are MessagePack with named fields. Reading is for any input: sizes are bounded, nothing panics, and nothing is
//! given out before the end and its digest were seen. There is no secret in it that opens anything: of tokens only
//! hashes are part of the state, and keys are not.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use insula_types::{ClusterId, Incarnation, RegionName, Revision, codec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Domain, Row, machine::rows_of};

/// The version of the format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;
/// What an archive begins with.
const MAGIC: &[u8; 12] = b"insula-state";
/// Longest payload of a frame, in bytes. An object comes from one command, and a command has at most 1 MiB.
const FRAME_BYTES_MAX: u32 = 4 << 20;
/// A piece of an archive is given out once it has so many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Each life of a state begins at the next multiple, so that its revisions are beyond all of the lives before it: who
/// has seen one of those is never taken to have seen what came after the restore.
const REVISIONS_PER_LIFE: u64 = 1_000_000_000_000;

const ABOUT: u8 = b'a';
const OBJECT: u8 = b'o';
const END: u8 = b'e';

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Which state: "region" or "global".
    pub state: String,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The region of the node that wrote it.
    pub region: RegionName,
    /// The life of the state.
    pub incarnation: Incarnation,
    /// The revision that it reflects.
    pub revision: Revision,
    /// A leader confirmed that nothing committed before the backup began is missing. Else it may lag behind.
    pub is_confirmed: bool,
    /// The version of the program that wrote it.
    pub version: String,
    /// When it was written, milliseconds since 1970.
    pub taken_ms: u64,
}

/// Why something is no archive, or not a whole one. Nobody can repair it; use another one.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It does not begin like one.
    #[error("byte {at}: this is no backup of a state")]
    Foreign {
        /// Where, from the start of the file.
        at: u64,
    },
    /// A later version wrote it.
    #[error("the backup has format {found}, this program reads up to {FORMAT}: use the version that wrote it")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It ends too early.
    #[error("byte {at}: the backup is cut short")]
    CutShort {
        /// Where it ends.
        at: u64,
    },
    /// It has been changed since it was written.
    #[error("byte {at}: the backup is damaged: {why}")]
    Damaged {
        /// Where that was seen.
        at: u64,
        /// What is wrong.
        why: String,
    },
    /// It is whole, but this version does not know what is in it.
    #[error(
        "the backup of the {state} state has an object that this program does not know: is it older than {version}?"
    )]
    Unknown {
        /// Which state.
        state: String,
        /// The version that wrote it.
        version: String,
        /// Why.
        #[source]
        source: codec::DecodeError,
    },
    /// It cannot be read.
    #[error("read the backup at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Writes an archive: an iterator over its pieces, in order.
#[derive(Debug)]
pub struct Writer<D: Domain> {
    /// Bytes that were not given out yet.
    piece: Vec<u8>,
    objects: std::vec::IntoIter<(D::Key, Revision, D::Object)>,
    digest: Sha256,
    count: u64,
    is_done: bool,
}

impl<D: Domain> Writer<D> {
    /// An archive of these objects, which are all of a state at `about.revision`.
    pub fn new(about: &About, objects: Vec<(D::Key, Revision, D::Object)>) -> Self {
        let mut piece = MAGIC.to_vec();
        piece.extend(FORMAT.to_be_bytes());
        put_frame(&mut piece, ABOUT, &codec::encode(about));
        Self { piece, objects: objects.into_iter(), digest: Sha256::new(), count: 0, is_done: false }
    }
}

impl<D: Domain> Iterator for Writer<D> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.is_done {
            return None;
        }
        let mut piece = std::mem::take(&mut self.piece);
        while piece.len() < PIECE_BYTES {
            let Some((key, revision, object)) = self.objects.next() else {
                self.digest.update(&piece);
                let digest = std::mem::take(&mut self.digest).finalize();
                put_frame(&mut piece, END, &[&self.count.to_be_bytes()[..], &digest].concat());
                self.is_done = true;
                return Some(piece);
            };
            put_frame(&mut piece, OBJECT, &codec::encode(&(revision, &key, &object)));
            self.count += 1;
        }
        self.digest.update(&piece);
        Some(piece)
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    // No state has objects that long; a reader would refuse one.
    out.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(payload);
}

/// Reads the archives of a file, one after the other.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    at: u64,
    digest: Sha256,
}

impl<R: Read> Reader<R> {
    /// From the start of a file.
    pub fn new(input: R) -> Self {
        Self { input, at: 0, digest: Sha256::new() }
    }

    /// The next archive, whole and with the digest that it says; none at the end of the file.
    ///
    /// # Errors
    /// [`ArchiveError`]; what follows cannot be read then.
    pub fn next_archive(&mut self) -> Result<Option<Archive>, ArchiveError> {
        self.digest = Sha256::new();
        let start = self.at;
        let magic = self.up_to(MAGIC.len())?;
        if magic.is_empty() && start > 0 {
            return Ok(None);
        }
        if magic != MAGIC {
            let is_start = !magic.is_empty() && MAGIC.starts_with(&magic);
            return Err(if is_start { self.cut_short() } else { ArchiveError::Foreign { at: start } });
        }
        match u32::from_be_bytes(self.array()?) {
            FORMAT => {}
            found if found > FORMAT => return Err(ArchiveError::Newer { found }),
            found => return Err(self.damaged(format!("there is no format {found}"))),
        }
        let (kind, payload) = self.frame()?;
        if kind != ABOUT {
            return Err(self.damaged("it does not say what it is"));
        }
        let about: About = codec::decode(&payload).map_err(|error| self.damaged(error.to_string()))?;
        let mut objects = Vec::new();
        loop {
            let before = self.digest.clone();
            let (kind, payload) = self.frame()?;
            match kind {
                OBJECT => objects.push(payload),
                END => {
                    let said = [&(objects.len() as u64).to_be_bytes()[..], &before.finalize()].concat();
                    let is_whole = payload == said;
                    return if is_whole {
                        Ok(Some(Archive { about, objects }))
                    } else {
                        Err(self.damaged("its digest"))
                    };
                }
                other => return Err(self.damaged(format!("a part of unknown kind {other}"))),
            }
        }
    }

    /// The kind and the payload of the next frame.
    fn frame(&mut self) -> Result<(u8, Vec<u8>), ArchiveError> {
        let [kind] = self.array()?;
        let length = u32::from_be_bytes(self.array()?);
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged(format!("a part of {length} bytes, at most {FRAME_BYTES_MAX} are written")));
        }
        let payload = self.up_to(length as usize)?;
        if payload.len() < length as usize {
            return Err(self.cut_short());
        }
        Ok((kind, payload))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ArchiveError> {
        self.up_to(N)?.try_into().map_err(|_| self.cut_short())
    }

    /// The next bytes; fewer only at the end of the file. Takes no more memory than there are bytes.
    fn up_to(&mut self, length: usize) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(length as u64).read_to_end(&mut bytes);
        read.map_err(|source| ArchiveError::Read { at: self.at, source })?;
        self.at += bytes.len() as u64;
        self.digest.update(&bytes);
        Ok(bytes)
    }

    const fn cut_short(&self) -> ArchiveError {
        ArchiveError::CutShort { at: self.at }
    }

    fn damaged(&self, why: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged { at: self.at, why: why.into() }
    }
}

/// An archive whose digest was right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// What it says of itself.
    pub about: About,
    objects: Vec<Vec<u8>>,
}

impl Archive {
    /// Its objects, when it is one of the state `D`.
    ///
    /// # Errors
    /// [`ArchiveError::Unknown`] when a later version made one of them.
    pub fn objects<D: Domain>(&self) -> Result<Objects<D>, ArchiveError> {
        let unknown = |source| ArchiveError::Unknown {
            state: self.about.state.clone(),
            version: self.about.version.clone(),
            source,
        };
        let objects = self.objects.iter().map(|bytes| {
            let (revision, key, object) = codec::decode::<(Revision, D::Key, D::Object)>(bytes).map_err(unknown)?;
            Ok((key, revision, object))
        });
        Ok(Objects(objects.collect::<Result<_, _>>()?))
    }
}

/// The objects of a state, each with its key and the revision that last changed it.
#[derive(Debug)]
pub struct Objects<D: Domain>(pub Vec<(D::Key, Revision, D::Object)>);

impl<D: Domain> Objects<D> {
    /// How many there are of each kind.
    pub fn kinds(&self) -> BTreeMap<&'static str, u64> {
        let mut kinds = BTreeMap::new();
        for (key, ..) in &self.0 {
            *kinds.entry(D::kind(key)).or_default() += 1;
        }
        kinds
    }

    /// The state that they make.
    pub fn state(&self) -> D {
        let mut state = D::default();
        for (key, revision, object) in &self.0 {
            state.absorb(*revision, key.clone(), Some(object.clone()));
        }
        state
    }

    /// The rows with which a new life of the state begins, as its [`Machine`](crate::Machine) writes them. Answers to
    /// requests of the life before are not among them. `after`: the greatest revision known of any earlier life;
    /// `at_ms`: when the archive was taken.
    pub fn into_rows(mut self, incarnation: Incarnation, after: Revision, at_ms: u64) -> (Revision, Vec<Row>) {
        let revision = next_life(after);
        for (_, changed, object) in &mut self.0 {
            let before = object.clone();
            D::set_incarnation(object, incarnation);
            if *object != before {
                *changed = revision;
            }
        }
        (revision, rows_of::<D>(&self.0, revision, at_ms))
    }
}

/// The first revision of the life of a state after one that came to `revision`.
fn next_life(revision: Revision) -> Revision {
    Revision((revision.0 / REVISIONS_PER_LIFE).saturating_add(1).saturating_mul(REVISIONS_PER_LIFE))
}

#[cfg(test)]
mod tests;
