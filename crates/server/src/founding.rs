//! The first start of a region's first node: makes the region's group, of a cluster that begins the global one too, and commits
//! what `insula init` or `insula join` left. Each step may be cut off and is done again by the next start.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use insula_env::{Env, clock};
use insula_identity::Material;
use insula_state::{
    Domain, GlobalCommand, GlobalState, ProposeError, RegionCommand, RegionState, RejectionCode, Store,
    global::{RootState, TrustedRoot},
};
use insula_telemetry::chain;
use insula_types::Node;
use serde_bytes::ByteBuf;
use tracing::{info, warn};

use crate::{Error, group::StateGroup, home::ValueFile, init::Founding, level, trust};

/// How long one commit may take before it is tried again.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);
/// Wait after a failed try.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// Starts the founding, if there is something to found.
///
/// # Errors
/// [`Error::File`] or [`Error::Damaged`] when the founding file cannot be read.
pub(crate) fn start(
    env: &Env,
    file: ValueFile,
    groups: (Arc<StateGroup<RegionState>>, Arc<StateGroup<GlobalState>>),
    stores: (Store<RegionState>, Store<GlobalState>),
    (material, key_sha256): (Material, String),
) -> Result<(), Error> {
    let Some(founding) = file.load::<Founding>()? else { return Ok(()) };
    env.tasks.spawn("founding", async move {
        while let Err(why) = found(&founding, &groups, &stores, (&material, &key_sha256)).await {
            warn!(why, "founding the region failed, trying again");
            clock::sleep(RETRY_WAIT).await;
        }
        match file.remove() {
            Ok(()) => info!(cluster = %founding.region.cluster, region = %founding.region.region, "region founded"),
            Err(error) => warn!(error = %chain(&error), "the founding file stays; founding again does no harm"),
        }
    });
    Ok(())
}

async fn found(
    founding: &Founding,
    (region_group, global_group): &(Arc<StateGroup<RegionState>>, Arc<StateGroup<GlobalState>>),
    (region, global): &(Store<RegionState>, Store<GlobalState>),
    (material, key_sha256): (&Material, &str),
) -> Result<(), String> {
    region_group.raft().initialize_single().await.map_err(|error| chain(&error))?;
    if let Some(meta) = founding.cluster.clone() {
        global_group.raft().initialize_single().await.map_err(|error| chain(&error))?;
        let region = founding.region.region.clone();
        commit(global, &GlobalCommand::Init { meta, region, agreed: level::first() }).await?;
    }
    // The file may have been left by an older program.
    let node = Box::new(Node { version: level::version(), ..founding.node.clone() });
    commit(region, &RegionCommand::Init { meta: founding.region.clone(), node }).await?;
    // With the token, callers come: they find a region.
    if let Some(token) = founding.token.clone() {
        commit(global, &GlobalCommand::PutApiToken(token)).await?;
    }
    // These two wait for the level, should an older program have begun.
    if founding.cluster.is_some() {
        commit(global, &first_root(material)?).await?;
    }
    commit(region, &RegionCommand::BindKey { node: founding.node.id, key_sha256: key_sha256.to_owned() }).await
}

/// Makes the root and the CA certificate that `insula init` made known to the world.
pub(crate) fn first_root(material: &Material) -> Result<GlobalCommand, String> {
    let (roots, chain) = (material.roots(), material.chain());
    let (Some(root), Some(authority)) = (roots.first(), chain.get(1)) else {
        return Err("this node has no root or no CA certificate".to_owned());
    };
    let regions = BTreeMap::from([(material.identity().region, ByteBuf::from(authority.to_vec()))]);
    let certificate = ByteBuf::from(root.to_vec());
    let trusted = TrustedRoot { certificate, state: RootState::Active, regions, added_ms: 0 };
    Ok(GlobalCommand::AddRoot { hash: trust::hash(root), root: trusted })
}

/// Commits one step. A conflict says that an earlier start has done it.
async fn commit<D: Domain>(store: &Store<D>, command: &D::Command) -> Result<(), String> {
    match store.propose(command, COMMIT_LIMIT).await {
        Ok(_) => Ok(()),
        Err(ProposeError::Rejected(rejection)) if rejection.code == RejectionCode::Conflict => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
