//! Calls about images, volumes and their snapshots.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::Method;
use http_body_util::StreamBody;
use hyper::body::Frame;
use insula_types::{ByteSize, SnapshotName, VolumeRef};

use super::{CALL_LIMIT, Client, ClientError};
use crate::wire::{
    Image, ImageImported, ImageRemoved, List, Snapshot, SnapshotBody, Snapshots, Versioned, Volume, VolumeBody,
    VolumeSizeBody,
};

/// Longest silence of a node that takes an image in: it unpacks all of it after the last byte has come.
const IMPORT_SILENCE_MAX: Duration = Duration::from_secs(600);

/// How long a copy of a volume is waited for: a little longer than the asked node waits for the volume's.
const COPY_LIMIT: Duration = Duration::from_secs(1810);

impl Client {
    /// Images that nodes have.
    ///
    /// # Errors
    /// As every call here.
    pub async fn images(&self) -> Result<List<Image>, ClientError> {
        self.get("/v1/images").await
    }

    /// Sends an archive with an image to a node, under `name` or the name that it has there. Not repeated: who asks for this
    /// has the archive, and may not have it twice. A node that took nothing and said nothing for `IMPORT_SILENCE_MAX` is
    /// given up.
    ///
    /// # Errors
    /// As every call here; [`ClientError::CutOff`] when `archive` gives an error.
    pub async fn import_image(
        &self,
        name: Option<&str>,
        archive: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    ) -> Result<ImageImported, ClientError> {
        // Finds a node that answers, and knows the token, before anything is sent.
        self.regions().await?;
        let query = name.map(|name| format!("?name={}", escaped(name))).unwrap_or_default();
        let call = self.call(Method::POST, format!("/v1/images{query}"));
        let pieces = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&pieces);
        let body = archive.map_ok(move |piece| {
            counted.fetch_add(1, Ordering::Relaxed);
            Frame::data(piece)
        });
        let mut answer = pin!(self.sent(&call, StreamBody::new(body)));
        let mut seen = 0;
        loop {
            if let Ok(answer) = insula_env::clock::timeout(IMPORT_SILENCE_MAX, &mut answer).await {
                return answer;
            }
            let now = pieces.load(Ordering::Relaxed);
            if now == seen {
                return Err(ClientError::TimedOut { what: call.path.clone(), limit: IMPORT_SILENCE_MAX });
            }
            seen = now;
        }
    }

    /// Removes an image from all nodes, by its exact reference.
    ///
    /// # Errors
    /// As every call here.
    pub async fn remove_image(&self, image: &str) -> Result<Versioned<ImageRemoved>, ClientError> {
        // A reference has no character that a query would have to escape, but for those that no reference has.
        let safe: String = image.chars().filter(|one| one.is_ascii_graphic() && !"&#%+?".contains(*one)).collect();
        self.json(self.call(Method::DELETE, format!("/v1/images?image={safe}"))).await
    }

    /// Volumes of the region.
    ///
    /// # Errors
    /// As every call here.
    pub async fn volumes(&self) -> Result<List<Volume>, ClientError> {
        self.get("/v1/volumes").await
    }

    /// Sets a volume aside on a node, by that one's exact id or name.
    ///
    /// # Errors
    /// As every call here.
    pub async fn create_volume(
        &self,
        volume: &VolumeRef,
        node: &str,
        size: ByteSize,
    ) -> Result<Versioned<Volume>, ClientError> {
        let body = VolumeBody { volume: volume.to_string(), node: node.to_owned(), size };
        self.json(self.call(Method::POST, "/v1/volumes").with_json(&body)).await
    }

    /// Makes a volume larger.
    ///
    /// # Errors
    /// As every call here.
    pub async fn resize_volume(&self, volume: &VolumeRef, size: ByteSize) -> Result<Versioned<Volume>, ClientError> {
        self.json(self.call(Method::PUT, volume_path(volume)).with_json(&VolumeSizeBody { size })).await
    }

    /// Deletes a volume with all that is in it.
    ///
    /// # Errors
    /// As every call here.
    pub async fn delete_volume(&self, volume: &VolumeRef) -> Result<Versioned<Volume>, ClientError> {
        self.json(self.call(Method::DELETE, volume_path(volume))).await
    }

    /// Snapshots of volumes, as the nodes tell of them.
    ///
    /// # Errors
    /// As every call here.
    pub async fn snapshots(&self) -> Result<Snapshots, ClientError> {
        self.get("/v1/snapshots").await
    }

    /// Makes a snapshot of a volume; waits for as long as the copy takes.
    ///
    /// # Errors
    /// As every call here.
    pub async fn create_snapshot(
        &self,
        volume: &VolumeRef,
        snapshot: &SnapshotName,
    ) -> Result<Versioned<Snapshot>, ClientError> {
        let body = SnapshotBody { snapshot: snapshot.clone() };
        let path = format!("{}/snapshots", volume_path(volume));
        self.json_once(self.call(Method::POST, path).with_json(&body), COPY_LIMIT).await
    }

    /// Gives a volume back what it had when a snapshot was made; waits for as long as the copy takes.
    ///
    /// # Errors
    /// As every call here.
    pub async fn restore_snapshot(
        &self,
        volume: &VolumeRef,
        snapshot: &SnapshotName,
    ) -> Result<Versioned<Volume>, ClientError> {
        let path = format!("{}/snapshots/{snapshot}/restore", volume_path(volume));
        self.json_once(self.call(Method::POST, path), COPY_LIMIT).await
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// As every call here.
    pub async fn delete_snapshot(
        &self,
        volume: &VolumeRef,
        snapshot: &SnapshotName,
    ) -> Result<Versioned<Snapshot>, ClientError> {
        let path = format!("{}/snapshots/{snapshot}", volume_path(volume));
        self.json_once(self.call(Method::DELETE, path), CALL_LIMIT).await
    }
}

fn volume_path(volume: &VolumeRef) -> String {
    let VolumeRef { service, name, slot } = volume;
    format!("/v1/apps/{}/services/{}/volumes/{name}.{slot}", service.app, service.service)
}

/// A text as part of a query (RFC 3986, section 2).
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}
