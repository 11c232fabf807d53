//! What this program says that it knows, and what happens when that is less than the others have agreed on.

use insula_state::{Domain, GlobalState, LEVEL, RegionState, Store};
use insula_types::Agreed;

use crate::Error;

/// The version of this program, with the level of commands that it knows, as its node reports it.
pub(crate) fn version() -> String {
    LEVEL.mark(insula_rpc::PROGRAM_VERSION)
}

/// What a state begins with that this program founds.
pub(crate) fn first() -> Option<Agreed> {
    Agreed::of_version(&version())
}

/// Completes when the programs of the region or of the world have agreed on more than this one knows. A voter's group
/// would not open with such a state; a node that follows others learns of it while it runs.
pub(crate) async fn outgrown(region: &Store<RegionState>, global: &Store<GlobalState>) -> Error {
    tokio::select! {
        error = exceeded(region) => error,
        error = exceeded(global) => error,
    }
}

async fn exceeded<D: Domain>(store: &Store<D>) -> Error {
    let mut changed = store.replica().changed();
    let is_more = |agreed: &&Agreed| agreed.level > store.known();
    loop {
        if let Some(agreed) = store.read(|state| state.agreed().filter(is_more).cloned()) {
            let (own, known) = (insula_rpc::PROGRAM_VERSION, store.known());
            return Error::TooOld { state: D::NAME, own, known, agreed };
        }
        if changed.changed().await.is_err() {
            // The copy is gone, and with it what could exceed this program.
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use futures::FutureExt;
    use insula_env::{Clock, Rng};
    use insula_state::{
        Leadership, ProposeError, Proposer, Replica, Update,
        region::{RegionKey, RegionObject},
    };
    use insula_types::{Level, RequestId, Revision};
    use tokio::sync::watch;

    use super::*;

    #[derive(Debug)]
    struct Nobody;

    #[async_trait]
    impl Proposer for Nobody {
        async fn propose(&self, _: RequestId, _: Vec<u8>, _: std::time::Duration) -> Result<Vec<u8>, ProposeError> {
            Err(ProposeError::Unavailable { why: "nobody is there".into() })
        }
        async fn barrier(&self, _: std::time::Duration) -> Result<(), ProposeError> {
            Err(ProposeError::Unavailable { why: "nobody is there".into() })
        }
        async fn recall(&self, _: RequestId, _: std::time::Duration) -> Result<Option<Vec<u8>>, ProposeError> {
            Ok(None)
        }

        fn leadership(&self) -> watch::Receiver<Leadership> {
            watch::channel(Leadership::default()).1
        }
    }

    fn store<D: Domain>() -> Store<D> {
        Store::new(Replica::new(), Arc::new(Nobody), Clock::simulated(0), Rng::from_seed(1))
    }

    #[tokio::test]
    async fn a_follower_that_learns_of_a_greater_level_says_what_to_install() {
        let (region, global) = (store::<RegionState>(), store::<GlobalState>());
        let follow = |revision, level| {
            let agreed = Agreed { level, version: "9.9.9".into() };
            let object = (RegionKey::Level, Revision(revision), RegionObject::Level(agreed));
            region
                .replica()
                .follow(Update::Reset { revision: Revision(revision), objects: vec![object] })
                .expect("fits");
        };
        follow(1, LEVEL);
        let waiting = outgrown(&region, &global);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none(), "it knows that much");
        follow(2, Level(LEVEL.0 + 1));
        let text = waiting.await.to_string();
        assert!(text.contains("install version 9.9.9 or later"), "{text}");
    }
}
