//! The catalog in use: read without a lock, replaced as a whole, kept on disk behind the traffic's back.

use std::sync::Arc;

use arc_swap::ArcSwap;
use insula_env::{Beat, Env, Rng, beat};
use insula_types::{ClusterId, NodeId, RegionName};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{Catalog, CatalogFile, CheckError};

/// What became of a catalog that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It is in use now.
    Taken,
    /// What is in use is the same or newer.
    Kept,
    /// It is not fit; the last good one stays.
    Rejected(CheckError),
}

/// Holds the catalog in use. Always there, if only an empty one.
#[derive(Debug)]
pub struct Holder {
    current: ArcSwap<Catalog>,
    /// Taken while deciding on a replacement, so that two offers cannot cross.
    deciding: Mutex<()>,
    changed: watch::Sender<Arc<Catalog>>,
}

impl Holder {
    /// A holder with nothing in it yet.
    pub fn new(cluster: ClusterId, region: RegionName, own: NodeId) -> Arc<Self> {
        let empty = Arc::new(Catalog::empty(cluster, region, own));
        Arc::new(Self {
            current: ArcSwap::new(Arc::clone(&empty)),
            deciding: Mutex::new(()),
            changed: watch::Sender::new(empty),
        })
    }

    /// A holder with what the file has, which keeps every later catalog there. A damaged or foreign file is told of and
    /// counts as none: the server pushes a fresh one as soon as it runs.
    pub fn open(file: CatalogFile, cluster: ClusterId, region: RegionName, own: NodeId, env: &Env) -> Arc<Self> {
        let holder = Self::new(cluster, region, own);
        let mut on_disk = None;
        match file.load() {
            Ok(None) => info!(path = %file.path().display(), "no catalog on disk yet"),
            Ok(Some(catalog)) => {
                let (incarnation, revision) = (catalog.incarnation, catalog.revision);
                match holder.offer(catalog) {
                    Offered::Taken | Offered::Kept => {
                        on_disk = Some(holder.current());
                        info!(%incarnation, %revision, "serving from the catalog on disk");
                    }
                    Offered::Rejected(why) => warn!(%revision, %why, "the catalog on disk is not used"),
                }
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, cause, "starting with an empty catalog");
            }
        }
        let (keeper, rng) = (Arc::clone(&holder), env.rng.clone());
        let on_disk = Arc::new(Mutex::new(on_disk));
        env.tasks.supervise("catalog file", beat::DISK, move |beat| {
            keep(Arc::clone(&keeper), file.clone(), Arc::clone(&on_disk), rng.clone(), beat)
        });
        holder
    }

    /// The catalog in use.
    pub fn current(&self) -> Arc<Catalog> {
        self.current.load_full()
    }

    /// Sees every change; only the newest is kept for a slow reader.
    pub fn watch(&self) -> watch::Receiver<Arc<Catalog>> {
        self.changed.subscribe()
    }

    /// Offers a catalog: taken when it is fit, for this node, and newer than what is in use.
    pub fn offer(&self, catalog: Catalog) -> Offered {
        let _deciding = self.deciding.lock();
        let current = self.current.load_full();
        if let Err(why) = is_for(&current, &catalog).and_then(|()| catalog.check()) {
            return Offered::Rejected(why);
        }
        let (offered, in_use) = ((catalog.incarnation, catalog.revision), (current.incarnation, current.revision));
        // Other regions change without the own one's state: of one revision what comes later is newer.
        if offered < in_use || offered == in_use && catalog.says_the_same_as(&current) {
            return Offered::Kept;
        }
        let catalog = Arc::new(catalog);
        debug!(revision = %catalog.revision, "catalog taken");
        self.current.store(Arc::clone(&catalog));
        self.changed.send_replace(catalog);
        Offered::Taken
    }
}

fn is_for(current: &Catalog, offered: &Catalog) -> Result<(), CheckError> {
    let whom = |catalog: &Catalog| format!("{} of {} in cluster {}", catalog.own, catalog.region, catalog.cluster);
    let (found, own) = (whom(offered), whom(current));
    if found == own { Ok(()) } else { Err(CheckError::NotMine { found, own }) }
}

/// Writes the newest catalog to disk, again and again. Apart from taking it, so that a slow disk delays no traffic. One
/// that says nothing new is not written: most revisions of the region's state mean nothing to traffic.
async fn keep(holder: Arc<Holder>, file: CatalogFile, on_disk: Arc<Mutex<Option<Arc<Catalog>>>>, rng: Rng, beat: Beat) {
    const RETRY: std::time::Duration = std::time::Duration::from_secs(2);
    let mut watch = holder.watch();
    // What came before this task did is looked at too.
    watch.mark_changed();
    while beat.idle(watch.changed()).await.is_ok() {
        let catalog = Arc::clone(&watch.borrow_and_update());
        let is_known = on_disk.lock().as_ref().is_some_and(|known| catalog.says_the_same_as(known));
        if catalog.is_empty() || is_known {
            continue;
        }
        match file.store(Arc::clone(&catalog)).await {
            Ok(()) => *on_disk.lock() = Some(catalog),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, cause, "traffic goes on; a restart now would serve from an older catalog");
                insula_env::clock::sleep(rng.jitter(RETRY)).await;
                watch.mark_changed();
            }
        }
    }
}
