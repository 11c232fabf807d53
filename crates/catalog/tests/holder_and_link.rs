//! The holder and the link to it, over real files and a real Unix socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use insula_catalog::{
    Catalog, CatalogFile, CatalogInstance, FarRegion, Holder, Offered, RouteTarget,
    link::{Acknowledged, Dataplane, Link, LinkError, listen},
};
use insula_env::{
    Clock, Env, Rng, TaskGroup, beat,
    clock::{sleep, timeout},
    memory::MemoryDisk,
    net::bind_unix,
};
use insula_types::{
    ClusterId, HttpRequestId, Incarnation, InstanceId, NodeId, RegionName, Remembered, Revision, ServiceRef, Traffic,
};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(20);

fn whom() -> (ClusterId, RegionName, NodeId) {
    (ClusterId::new(1), "fra".parse().expect("name"), NodeId::new(1))
}

fn catalog(incarnation: u64, revision: u64) -> Catalog {
    let (cluster, region, own) = whom();
    Catalog {
        incarnation: Incarnation(incarnation),
        revision: Revision(revision),
        ..Catalog::empty(cluster, region, own)
    }
}

/// One with an instance on a node that is not there.
fn unfit(revision: u64) -> Catalog {
    let mut catalog = catalog(1, revision);
    let service = ServiceRef::new("shop".parse().expect("name"), "web".parse().expect("name"));
    let instance = CatalogInstance {
        node: NodeId::new(99),
        is_ready: true,
        was_ready: true,
        is_draining: false,
        is_first: false,
        release: None,
        ports: BTreeMap::new(),
        h2c: BTreeSet::new(),
        endpoints: BTreeMap::new(),
    };
    catalog.services.entry(service).or_default().instances.insert(InstanceId::new(1), instance);
    catalog
}

fn holder() -> Arc<Holder> {
    let (cluster, region, own) = whom();
    Holder::new(cluster, region, own)
}

async fn until<T>(seen: &mut watch::Receiver<T>, is_right: impl FnMut(&T) -> bool) {
    timeout(LIMIT, seen.wait_for(is_right)).await.expect("within the limit").expect("the sender lives");
}

#[test]
fn revisions_only_go_up_within_an_incarnation() {
    let holder = holder();
    assert!(holder.current().is_empty());
    assert_eq!(holder.offer(catalog(1, 5)), Offered::Taken);
    assert_eq!(holder.offer(catalog(1, 5)), Offered::Kept);
    assert_eq!(holder.offer(catalog(1, 4)), Offered::Kept);
    assert!(matches!(holder.offer(unfit(6)), Offered::Rejected(_)), "unfit");
    assert!(matches!(holder.offer(Catalog { own: NodeId::new(2), ..catalog(1, 6) }), Offered::Rejected(_)), "not mine");
    assert_eq!(holder.current().revision, Revision(5), "the last good one stays");
    assert_eq!(holder.offer(catalog(2, 1)), Offered::Taken, "a newer incarnation begins anew");
    assert_eq!(holder.offer(catalog(1, 9)), Offered::Kept, "and the older one is over");
}

#[test]
fn a_route_must_be_matchable_and_lead_somewhere() {
    let target = RouteTarget {
        service: ServiceRef::new("shop".parse().expect("name"), "web".parse().expect("name")),
        port: "http".parse().expect("name"),
    };
    for (host, path, is_known, expected) in [
        ("shop.example", "/", true, true),
        ("shop.example", "/", false, false),
        ("Shop.example", "/", true, false),
        ("shop.example:80", "/", true, false),
        ("", "/", true, false),
        ("shop.example", "", true, false),
    ] {
        let mut catalog = catalog(1, 1);
        if is_known {
            catalog.services.entry(target.service.clone()).or_default();
        }
        catalog.routes.entry(host.to_owned()).or_default().insert(path.to_owned(), target.clone());
        assert_eq!(catalog.check().is_ok(), expected, "{host:?} {path:?} {is_known}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_serves_from_the_file_and_damage_costs_only_freshness() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = |env: &Env| CatalogFile::new(Arc::clone(&env.disk), dir.path().join("catalog"));
    let (cluster, region, own) = whom();
    let open = |env: &Env| Holder::open(file(env), cluster.clone(), region.clone(), own, env);

    let env = Env::real("first");
    let holder = open(&env);
    assert!(holder.current().is_empty());
    let news = |revision| Catalog { tombstones: [NodeId::new(9)].into(), ..catalog(1, revision) };
    holder.offer(catalog(1, 3));
    holder.offer(news(4));
    let kept = async {
        while !matches!(file(&env).load(), Ok(Some(kept)) if kept.revision == Revision(4)) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, kept).await.expect("the newest is kept");
    assert!(news(4).says_the_same_as(&news(5)) && !news(4).says_the_same_as(&catalog(1, 4)));
    env.tasks.crash();

    let env = Env::real("second");
    assert_eq!(open(&env).current().revision, Revision(4));
    env.tasks.crash();

    let other = Holder::open(file(&env), cluster.clone(), region.clone(), NodeId::new(2), &env);
    assert!(other.current().is_empty(), "the file of another node is not used");

    std::fs::write(dir.path().join("catalog"), b"rubbish").expect("damage");
    let env = Env::real("third");
    let holder = open(&env);
    assert!(holder.current().is_empty());
    assert_eq!(holder.offer(catalog(1, 5)), Offered::Taken);
    env.tasks.crash();
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_says_nothing_new_costs_no_write() {
    let (clock, rng) = (Clock::simulated(0), Rng::from_seed(1));
    let disk = MemoryDisk::new(clock.clone(), rng.clone());
    let env = Env { clock, rng, disk: Arc::new(disk.clone()), tasks: TaskGroup::new("keeper") };
    let (cluster, region, own) = whom();
    let holder = Holder::open(CatalogFile::new(Arc::new(disk.clone()), "catalog"), cluster, region, own, &env);
    let news = |revision, dead| Catalog { tombstones: [NodeId::new(dead)].into(), ..catalog(1, revision) };
    // Time passes only when every task waits, so the keeper has done what it will.
    let syncs = async |offered| {
        assert_eq!(holder.offer(offered), Offered::Taken);
        sleep(Duration::from_secs(1)).await;
        disk.syncs()
    };
    let first = syncs(news(1, 9)).await;
    assert!(first > 0, "what is new is written");
    for revision in 2..20 {
        assert_eq!(syncs(news(revision, 9)).await, first, "revision {revision}");
    }
    assert!(syncs(news(20, 8)).await > first);
    env.tasks.crash();
}

#[derive(Default)]
struct Fake {
    reloads: AtomicU64,
}

impl Dataplane for Fake {
    fn reload_identity(&self) -> Result<(), String> {
        match self.reloads.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err("no such file".to_owned()),
        }
    }
    fn stats(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("requests".to_owned(), 7)])
    }
    fn traffic(&self) -> Traffic {
        Traffic { edge: 5, releases: Vec::new() }
    }
    fn requests(&self, id: &HttpRequestId) -> Remembered {
        Remembered { more: id.as_str().len() as u64, since_ms: 3, ..Remembered::default() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_survives_either_end() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("run/dataplane.sock");
    let server = Env::real("server");
    let link = Link::start(path.clone(), &server);
    assert!(matches!(link.stats().await, Err(LinkError::NotConnected)));
    let mut seen = link.acknowledged();
    // Pushed while nobody listens: only the newest arrives.
    link.push(Arc::new(catalog(1, 1)));
    link.push(Arc::new(catalog(1, 2)));

    let run = |holder: &Arc<Holder>| {
        let env = Env::real("dataplane");
        let listener = bind_unix(&path).expect("bind");
        let (holder, tasks) = (Arc::clone(holder), env.clone());
        env.tasks
            .critical("link", beat::QUICK, |beat| listen(listener, holder, Arc::new(Fake::default()), tasks, beat));
        env
    };
    let first = holder();
    let dataplane = run(&first);
    let in_use = |revision: u64| move |a: &Acknowledged| a.in_use == Some((Incarnation(1), Revision(revision)));
    until(&mut seen, in_use(2)).await;

    // One that is not fit is named, and the last good one stays; the next good one clears it.
    link.push(Arc::new(unfit(3)));
    until(&mut seen, |a| a.rejected.as_ref().is_some_and(|(revision, _)| *revision == Revision(3))).await;
    assert_eq!(first.current().revision, Revision(2));
    link.push(Arc::new(catalog(1, 4)));
    until(&mut seen, |a| a.rejected.is_none() && a.in_use == Some((Incarnation(1), Revision(4)))).await;

    assert_eq!(link.stats().await.expect("stats"), BTreeMap::from([("requests".to_owned(), 7)]));
    assert_eq!(link.traffic().await.expect("traffic").edge, 5);
    let remembered = link.requests(&"a-request".parse().expect("an id")).await.expect("requests");
    assert_eq!((remembered.more, remembered.since_ms), (9, 3));
    link.reload_identity().await.expect("first reload");
    let error = link.reload_identity().await.expect_err("second reload");
    assert_eq!(error.to_string(), "the dataplane could not reload its identity: no such file");

    // The dataplane dies and comes back empty: it gets the newest again, unasked.
    assert!(dataplane.tasks.join(LIMIT).await);
    until(&mut seen, |a| !a.is_connected).await;
    let second = holder();
    let dataplane = run(&second);
    let mut filled = second.watch();
    until(&mut filled, |catalog| catalog.revision == Revision(4)).await;

    // The server dies and comes back behind: what is newer stays in use, and the server hears so.
    assert!(server.tasks.join(LIMIT).await);
    let server = Env::real("server");
    let link = Link::start(path.clone(), &server);
    link.push(Arc::new(catalog(1, 1)));
    until(&mut link.acknowledged(), in_use(4)).await;
    assert_eq!(second.current().revision, Revision(4));
    assert!(dataplane.tasks.join(LIMIT).await && server.tasks.join(LIMIT).await);
}

#[test]
fn what_changes_in_other_regions_is_taken_at_the_same_revision() {
    let holder = holder();
    let with = |revision, is_fresh| {
        let far = FarRegion { is_fresh, ..FarRegion::default() };
        Catalog { far: [("nrt".parse().expect("name"), far)].into(), ..catalog(1, revision) }
    };
    assert_eq!(holder.offer(with(5, true)), Offered::Taken);
    assert_eq!(holder.offer(with(5, true)), Offered::Kept, "it says the same");
    assert_eq!(holder.offer(with(5, false)), Offered::Taken);
    assert_eq!(holder.offer(with(4, true)), Offered::Kept, "the own region's state never goes back");
    assert!(!holder.current().far.values().any(|region| region.is_fresh));
}
