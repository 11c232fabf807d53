//! Images between nodes: parts of them for others, and others as a source for this node. Who has what is asked by `census`;
//! what nobody needs is taken away by `collect`.

mod census;
pub(crate) mod collect;
pub(crate) mod tags;

use std::{
    collections::BTreeSet,
    fmt,
    io::{Read, Seek, SeekFrom},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use insula_agent::copies::{self, OtherImages};
use insula_container::{ImagePeers, ImageRef, NodeRuntime, PeerBytes, PeerError};
use insula_env::Disk;
use insula_rpc::{Caller, Code, Handler, Peers, Status, StreamSink};
use insula_state::{GlobalState, RegionState, Replica};
use insula_types::NodeId;
use serde_bytes::ByteBuf;
use tokio::sync::oneshot;

pub(crate) use census::{Census, Copies, present, remove, stored};

use crate::{
    calls::Calls,
    methods::{FetchBlob, FetchBlobRequest},
};

/// Bytes of a part that are sent at once.
const CHUNK_LEN: usize = 256 << 10;
/// How long another node may take to be reached.
const REACH_LIMIT: Duration = Duration::from_secs(2);

/// The other nodes of the region as a source of images.
pub(crate) struct RegionImages {
    pub node: NodeId,
    pub bulk: Peers,
    pub region: Arc<Replica<RegionState>>,
}

impl fmt::Debug for RegionImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionImages({})", self.node)
    }
}

#[async_trait]
impl ImagePeers for RegionImages {
    fn of(&self, image: &ImageRef) -> Vec<NodeId> {
        self.region.read(|region| copies::sources(region, &image.to_string(), self.node))
    }

    async fn fetch(&self, node: NodeId, digest: &str, offset: u64) -> Result<PeerBytes, PeerError> {
        let request = FetchBlobRequest { digest: digest.to_owned(), offset };
        let items = self.bulk.stream::<FetchBlob>(node, &request, REACH_LIMIT).await;
        let mut items = items.map_err(|status| failed(&status))?;
        let first = match items.next().await {
            None => return Ok(stream::empty().boxed()),
            Some(first) => first.map_err(|status| failed(&status))?,
        };
        let rest = stream::unfold(items, async |mut items| {
            let next = items.next().await?;
            Some((next.map(ByteBuf::into_vec).map_err(|status| failed(&status)), items))
        });
        Ok(stream::iter([Ok(first.into_vec())]).chain(rest).boxed())
    }
}

fn failed(status: &Status) -> PeerError {
    match status.code {
        // One of an earlier version gives nothing.
        Code::NotFound | Code::UnknownMethod => PeerError::Absent,
        _ => PeerError::Failed(status.to_string()),
    }
}

/// Sends a part of an image, as it was fetched.
pub(crate) async fn send(
    runtime: &NodeRuntime,
    disk: &Arc<dyn Disk>,
    request: &FetchBlobRequest,
    sink: StreamSink,
) -> Result<(), Status> {
    let absent = || Status::new(Code::NotFound, format!("{} is not here", request.digest));
    let mut file = runtime.open_blob(&request.digest).ok_or_else(absent)?;
    let unread = |error: std::io::Error| Status::internal(format!("read {}: {error}", request.digest));
    file.seek(SeekFrom::Start(request.offset)).map_err(unread)?;
    loop {
        let (tell, told) = oneshot::channel();
        let read = Box::new(move || {
            let mut chunk = Vec::with_capacity(CHUNK_LEN);
            let read = (&mut file).take(CHUNK_LEN as u64).read_to_end(&mut chunk);
            // The caller may be gone.
            tell.send((file, read.map(|_| chunk))).ok();
        });
        disk.run(read).await;
        let (back, chunk) = told.await.map_err(|_| Status::internal("the disk job ended without a word"))?;
        let chunk = chunk.map_err(unread)?;
        if chunk.is_empty() {
            return Ok(());
        }
        sink.send_item::<FetchBlob>(&ByteBuf::from(chunk)).await?;
        file = back;
    }
}

/// The images of the releases that may have to run.
pub(crate) fn of_live_releases(global: Arc<Replica<GlobalState>>) -> OtherImages {
    Arc::new(move || {
        global.read(|global| {
            let specs = global.live_releases().flat_map(|(_, release)| release.services.values());
            specs.filter_map(|spec| spec.image.clone()).collect::<BTreeSet<_>>()
        })
    })
}

/// Answers the `bulk` protocol: snapshots of groups, and parts of images.
pub(crate) struct Bulk {
    pub groups: Arc<dyn Handler>,
    pub calls: Arc<Calls>,
}

#[async_trait]
impl Handler for Bulk {
    async fn call(&self, caller: &Caller, method: u16, body: Bytes) -> Result<Bytes, Status> {
        self.groups.call(caller, method, body).await
    }

    async fn stream(&self, caller: &Caller, method: u16, body: Bytes, sink: StreamSink) -> Result<(), Status> {
        self.calls.stream(caller, method, body, sink).await
    }
}
