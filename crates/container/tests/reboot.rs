//! A power cut while instances run, and what the next runtime makes of what is left. It needs a machine whose power can be
//! cut: `cargo xtask vm` boots one twice, and says in `INSULA_BOOT` which boot it is.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::path::Path;

use insula_container::{Exit, ImageRef, ObservedState, Runtime};
use insula_types::InstanceId;
use support::{
    World, container, eventually, get,
    image::{File, Pack, busybox, layer},
    observed, on_machine, process,
};

/// Stays over the power cut.
const DIRECTORY: &str = "/var/lib/insula-test";
/// The image that was pulled last, when the power went.
const LATE: &str = "/var/lib/late";

#[test]
fn after_a_power_cut_instances_are_found_ended_and_start_again() {
    match std::env::var("INSULA_BOOT").as_deref() {
        Ok("1") => on_machine(Path::new(DIRECTORY), before),
        Ok("2") => on_machine(Path::new(DIRECTORY), after),
        _ => eprintln!("skipped: it needs a machine whose power can be cut: cargo xtask vm"),
    }
}

async fn before(world: &World) {
    let agent = world.open().await;
    let image = world.registry.push(&busybox());
    agent.runtime.ensure_image(&image).await.unwrap();
    let running = agent.runtime.start(&container(1, &image, &[])).await.unwrap();
    let address = running.endpoints[&"http".parse().unwrap()];
    eventually("it serves", async || get(address, "/").await).await;
    agent.runtime.start(&process(2, &["/bin/sleep", "1000"])).await.unwrap();
    let short = container(3, &image, &["sh", "-c", "exit 3"]);
    agent.runtime.start(&short).await.unwrap();
    support::end(&agent.runtime, short.instance).await;

    let page = File::Plain("www/index.html", 0o644, b"late\n".to_vec());
    let [lower, upper] = <[_; 2]>::try_from(busybox()).ok().unwrap();
    let late = world.registry.push(&[lower, upper, layer(&[page], &Pack::Plain)]);
    std::fs::write(LATE, late.to_string()).unwrap();
    rustix::fs::sync();

    // From here on, what nobody syncs is lost.
    agent.runtime.start(&container(4, &image, &[])).await.unwrap();
    agent.runtime.ensure_image(&late).await.unwrap();
    agent.crash();
}

async fn after(world: &World) {
    let late: ImageRef = std::fs::read_to_string(LATE).unwrap().parse().unwrap();
    let agent = world.open().await;
    let ended = async |instance| match observed(&agent.runtime, InstanceId::new(instance)).await?.state {
        ObservedState::Ended(ended) => Some(ended),
        ObservedState::Running(running) => panic!("it runs: {running:?}"),
    };
    for instance in [1, 2] {
        let Exit::Unseen(why) = ended(instance).await.unwrap().exit else { panic!("nobody saw it end") };
        assert!(why.contains("the machine was restarted"), "{why}");
    }
    assert_eq!(ended(3).await.unwrap().exit, Exit::Code(3), "it had ended before");
    // Of the last one the record may be lost. Whatever is left of it is no hindrance.
    ended(4).await;
    for instance in 1..=4 {
        agent.runtime.remove(InstanceId::new(instance)).await.unwrap();
    }
    // The bridge and the firewall are for those to come.
    let left: Vec<_> = world.leftovers().await.into_iter().filter(|left| !left.ends_with(" insula0")).collect();
    assert_eq!(left, Vec::<String>::new());

    // The registry of the first boot is gone; what was pulled from it is not, also what was pulled last.
    let image = agent.runtime.images().unwrap().into_iter().map(|found| found.image).find(|found| *found != late);
    for (instance, image, body) in [(1, image.unwrap(), "hello from an image\n"), (4, late, "late\n")] {
        let running = agent.runtime.start(&container(instance, &image, &[])).await.unwrap();
        let address = running.endpoints[&"http".parse().unwrap()];
        assert_eq!(eventually("it serves again", async || get(address, "/").await).await, body);
    }
    agent.runtime.start(&process(2, &["/bin/sleep", "1000"])).await.unwrap();
    agent.runtime.remove_all().await.unwrap();
    assert_eq!(world.leftovers().await, Vec::<String>::new());
    agent.crash();
}
