//! A node's files: `identity/` (id, key, chain, roots) and `keys/` (authorities, on voters only).
//!
//! Every file is replaced atomically with mode 0600. The id file names the hash of the public key, so that an id never
//! goes on with another key (rule R9); what does not fit together is refused with a way out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use insula_env::{Disk, Rng};
use insula_types::{NodeId, codec};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Credentials, Error, NodeKey, RegionAuthority, credentials::SigningKey, pem};

const ID: &str = "identity/node.json";
const KEY: &str = "identity/node.key";
const CHAIN: &str = "identity/chain.pem";
const ROOTS: &str = "identity/roots.pem";
const REGION_CA: &str = "keys/region-ca.pem";
const ROOT_CA: &str = "keys/root-ca.sealed";
const NEXT_ROOT_CA: &str = "keys/root-ca.next";

const WIPE: &str = "restore identity/ from a copy, or wipe it and join again with a new id";

/// Content of the id file.
#[derive(Serialize, Deserialize)]
struct IdFile {
    node: NodeId,
    key_sha256: String,
}

/// The sealed key of a root that is trusted and not yet used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRoot {
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub root: String,
    /// The key, sealed.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
}

/// The identity files below a data directory.
#[derive(Debug, Clone)]
pub struct NodeDirectory {
    data: PathBuf,
    disk: Arc<dyn Disk>,
}

impl NodeDirectory {
    /// Files below `data`, the node's data directory. Touches nothing yet.
    pub fn new(data: &Path, disk: Arc<dyn Disk>) -> Self {
        Self { data: data.to_owned(), disk }
    }

    /// The node's id and key; made, when there are none.
    ///
    /// # Errors
    /// As [`load_key`](Self::load_key), but for missing files.
    pub fn load_or_create_key(&self, rng: &Rng) -> Result<NodeKey, Error> {
        match (self.read(ID)?, self.read(KEY)?) {
            (Some(id), Some(key)) => self.bind(&id, &key),
            (None, key) => {
                if self.read(CHAIN)?.is_some() {
                    return Err(self.missing(ID, WIPE));
                }
                // A key alone was left by a crash below, before anyone heard of it.
                drop(key);
                let key = NodeKey::generate(rng)?;
                self.write(KEY, pem::write_key(key.key().pkcs8()).as_bytes())?;
                let id = IdFile { node: key.id(), key_sha256: key.public_hash() };
                let id = serde_json::to_vec_pretty(&id).map_err(|error| Error::damaged(ID, error))?;
                self.write(ID, &id)?;
                Ok(key)
            }
            (Some(_), None) => Err(self.missing(KEY, WIPE)),
        }
    }

    /// The node's id and key.
    ///
    /// # Errors
    /// [`Error::Missing`] before they were made; [`Error::Damaged`]; [`Error::Mismatch`] when the key is another one.
    pub fn load_key(&self) -> Result<NodeKey, Error> {
        let remedy = "run `insula init` or `insula join` first";
        let id = self.read(ID)?.ok_or_else(|| self.missing(ID, remedy))?;
        let key = self.read(KEY)?.ok_or_else(|| self.missing(KEY, WIPE))?;
        self.bind(&id, &key)
    }

    fn bind(&self, id: &[u8], key: &[u8]) -> Result<NodeKey, Error> {
        let id: IdFile = serde_json::from_slice(id).map_err(|error| Error::damaged(self.name(ID), error))?;
        let what = self.name(KEY);
        let key = NodeKey::new(id.node, SigningKey::from_pkcs8(&what, &pem::read_key(&what, key)?)?);
        if key.public_hash() == id.key_sha256 {
            return Ok(key);
        }
        Err(Error::Mismatch { what, other: self.name(ID), remedy: WIPE })
    }

    /// Whether the node has a certificate.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be read.
    pub fn is_joined(&self) -> Result<bool, Error> {
        Ok(self.read(CHAIN)?.is_some())
    }

    /// Keeps a certificate chain and the trusted roots.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save_certificates(&self, chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]) -> Result<(), Error> {
        // Roots first: a crash in between leaves a chain that still leads to one of them.
        self.write(ROOTS, pem::write_certificates(roots).as_bytes())?;
        self.write(CHAIN, pem::write_certificates(chain).as_bytes())
    }

    /// Everything that the node shows and checks with.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`] or [`Error::Mismatch`], naming the piece. Whether the chain leads to a root
    /// is checked by [`Material`](crate::Material).
    pub fn load(&self) -> Result<Credentials, Error> {
        let key = self.load_key()?;
        let remedy = "the node has not joined: run `insula init` or `insula join`";
        let chain = self.read(CHAIN)?.ok_or_else(|| self.missing(CHAIN, remedy))?;
        let roots = self.read(ROOTS)?.ok_or_else(|| self.missing(ROOTS, "copy it from another node of the cluster"))?;
        Ok(Credentials {
            key,
            chain: pem::read_certificates(&self.name(CHAIN), &chain)?,
            roots: pem::read_certificates(&self.name(ROOTS), &roots)?,
        })
    }

    /// Keeps the region CA's key; only for local voters.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save_region_authority(&self, authority: &RegionAuthority) -> Result<(), Error> {
        self.write(REGION_CA, authority.export().as_bytes())
    }

    /// The region CA's key. `None` on nodes that do not hold it.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Damaged`].
    pub fn load_region_authority(&self) -> Result<Option<RegionAuthority>, Error> {
        self.read(REGION_CA)?.map(|text| RegionAuthority::import(&text)).transpose()
    }

    /// Forgets the region CA's key, when the node is a voter no longer.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn remove_region_authority(&self) -> Result<(), Error> {
        self.remove(REGION_CA)
    }

    /// Keeps the sealed root key; only for global voters.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save_sealed_root(&self, sealed: &[u8]) -> Result<(), Error> {
        self.write(ROOT_CA, sealed)
    }

    /// The sealed root key. `None` on nodes that do not hold it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn load_sealed_root(&self) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.read(ROOT_CA)?.map(|bytes| bytes.to_vec()))
    }

    /// Forgets the sealed root key.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn remove_sealed_root(&self) -> Result<(), Error> {
        self.remove(ROOT_CA)
    }

    /// Keeps the sealed key of the next root; only for global voters.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save_next_root(&self, next: &NextRoot) -> Result<(), Error> {
        self.write(NEXT_ROOT_CA, &codec::encode(next))
    }

    /// The sealed key of the next root, if there is one.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Damaged`].
    pub fn load_next_root(&self) -> Result<Option<NextRoot>, Error> {
        let Some(bytes) = self.read(NEXT_ROOT_CA)? else { return Ok(None) };
        codec::decode(&bytes).map(Some).map_err(|error| Error::damaged(self.name(NEXT_ROOT_CA), error))
    }

    /// Makes the next root the one whose sealed key is kept, when it is the one with this hash.
    ///
    /// # Errors
    /// As [`load_next_root`](Self::load_next_root).
    pub fn promote_next_root(&self, root: &str) -> Result<(), Error> {
        match self.load_next_root()? {
            Some(next) if next.root == root => {
                self.save_sealed_root(&next.sealed)?;
                self.remove(NEXT_ROOT_CA)
            }
            _ => Ok(()),
        }
    }

    fn name(&self, file: &str) -> String {
        self.data.join(file).display().to_string()
    }

    fn missing(&self, file: &str, remedy: &'static str) -> Error {
        Error::Missing { path: self.data.join(file), remedy }
    }

    fn read(&self, file: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let path = self.data.join(file);
        match self.disk.read(&path) {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { attempt: "read", path, source }),
        }
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.data.join(file);
        self.disk.write_atomic(&path, bytes).map_err(|source| Error::File { attempt: "write", path, source })
    }

    fn remove(&self, file: &str) -> Result<(), Error> {
        let path = self.data.join(file);
        self.disk.remove(&path).map_err(|source| Error::File { attempt: "remove", path, source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use insula_env::RealDisk;

    use super::*;
    use crate::fixture::{World, credentials};

    struct Place {
        dir: tempfile::TempDir,
        rng: Rng,
        files: NodeDirectory,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().expect("temporary directory");
        let files = NodeDirectory::new(dir.path(), Arc::new(RealDisk));
        Place { dir, rng: Rng::from_seed(1), files }
    }

    impl Place {
        fn path(&self, file: &str) -> PathBuf {
            self.dir.path().join(file)
        }

        /// Joined, with everything in place.
        fn joined() -> Self {
            let place = place();
            let world = World::new(1);
            let key = place.files.load_or_create_key(&place.rng).expect("key");
            let credentials = credentials(&world, "fra", key);
            place.files.save_certificates(&credentials.chain, &credentials.roots).expect("save");
            place
        }
    }

    #[test]
    fn a_node_keeps_its_id_and_key() {
        let place = place();
        let first = place.files.load_or_create_key(&place.rng).expect("create");
        let second = place.files.load_or_create_key(&place.rng).expect("load");
        assert_eq!((first.id(), first.public_hash()), (second.id(), second.public_hash()));
        for file in [ID, KEY] {
            let mode = std::fs::metadata(place.path(file)).expect("file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let other = NodeDirectory::new(&place.dir.path().join("other"), Arc::new(RealDisk));
        assert_ne!(other.load_or_create_key(&place.rng).expect("create").id(), first.id());
    }

    #[test]
    fn a_crash_while_creating_leaves_nothing_in_the_way() {
        let place = place();
        place.files.load_or_create_key(&place.rng).expect("create");
        std::fs::remove_file(place.path(ID)).expect("as if the second write had not come");
        let key = place.files.load_or_create_key(&place.rng).expect("create again");
        assert_eq!(place.files.load_key().expect("load").id(), key.id());
    }

    #[test]
    fn missing_pieces_are_named() {
        for (file, expected) in [(ID, "node.json is missing"), (KEY, "node.key is missing")] {
            let place = Place::joined();
            std::fs::remove_file(place.path(file)).expect("remove");
            for error in [
                place.files.load().expect_err("missing").to_string(),
                place.files.load_or_create_key(&place.rng).expect_err("not made anew").to_string(),
            ] {
                assert!(error.contains(expected), "{error}");
            }
        }
        for (file, expected) in [(CHAIN, "has not joined"), (ROOTS, "copy it from another node")] {
            let place = Place::joined();
            std::fs::remove_file(place.path(file)).expect("remove");
            let error = place.files.load().expect_err("missing").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn damaged_pieces_are_named() {
        for file in [ID, KEY, CHAIN, ROOTS] {
            let place = Place::joined();
            assert!(place.files.load().is_ok());
            std::fs::write(place.path(file), "-----BEGIN").expect("damage");
            let error = place.files.load().expect_err("damaged");
            assert!(matches!(&error, Error::Damaged { what, .. } if what.ends_with(file)), "{error}");
        }
    }

    #[test]
    fn another_key_under_the_same_id_is_refused() {
        let place = Place::joined();
        let other = NodeKey::generate(&place.rng).expect("key");
        std::fs::write(place.path(KEY), pem::write_key(other.key().pkcs8()).as_bytes()).expect("swap");
        let error = place.files.load().expect_err("other key");
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    }

    #[test]
    fn authorities_are_kept_and_forgotten() {
        let place = place();
        let world = World::new(1);
        assert!(place.files.load_region_authority().expect("read").is_none());
        let ca = world.region("fra");
        place.files.save_region_authority(&ca).expect("save");
        let loaded = place.files.load_region_authority().expect("read").expect("there");
        assert_eq!(loaded.identity(), ca.identity());
        place.files.remove_region_authority().expect("remove");
        assert!(place.files.load_region_authority().expect("read").is_none());
        place.files.save_sealed_root(b"sealed").expect("save");
        assert_eq!(place.files.load_sealed_root().expect("read").as_deref(), Some(&b"sealed"[..]));
        let next = NextRoot { root: "ab".into(), sealed: b"next".to_vec() };
        place.files.save_next_root(&next).expect("save");
        place.files.promote_next_root("cd").expect("another: left as it is");
        assert_eq!(place.files.load_next_root().expect("read"), Some(next));
        place.files.promote_next_root("ab").expect("promote");
        assert_eq!(place.files.load_sealed_root().expect("read").as_deref(), Some(&b"next"[..]));
        assert_eq!(place.files.load_next_root().expect("read"), None);
        place.files.remove_sealed_root().expect("remove");
        assert!(place.files.load_sealed_root().expect("read").is_none());
    }
}
