//! A state of this node as an archive.

use bytes::Bytes;
use futures::{StreamExt, stream};
use insula_api::{Answer, Code, LogStream, Problem};
use insula_state::{About, Domain, Store, archive::Writer};
use insula_types::Revision;

use super::{NodeApi, READ_LIMIT};
use crate::group::StateGroup;

impl NodeApi {
    /// What this node has, with or without a leader.
    pub(super) async fn back_up<D: Domain>(&self, store: &Store<D>, group: &StateGroup<D>) -> Answer<LogStream> {
        let is_confirmed = store.read_linearizable(READ_LIMIT, |_| ()).await.is_ok();
        let (revision, objects) = store.replica().read_at(|state, revision| (revision, state.objects()));
        if revision == Revision(0) {
            let said = format!("this node has no copy of the {} state yet: ask another one", D::NAME);
            return Err(Problem::new(Code::NoLeader, said));
        }
        let about = About {
            state: D::NAME.to_owned(),
            cluster: self.material.identity().cluster,
            region: self.config.region.clone(),
            incarnation: group.raft().config().incarnation,
            revision,
            is_confirmed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            taken_ms: self.clock.wall_ms(),
        };
        Ok(stream::iter(Writer::<D>::new(&about, objects).map(|piece| Ok(Bytes::from(piece)))).boxed())
    }
}
