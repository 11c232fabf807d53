//! The stories of `cargo xtask demo`, told by the programs as they were built for tests: real nodes, containers, disks,
//! faults. A broken promise fails them; a time only when it is beyond twice its budget.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use insula_bench::{
    interrupt::Interrupt,
    lab::Programs,
    story::{Story, Telling, tell},
};
use nix::unistd::geteuid;

/// Requests per second and edge: what a machine that runs other tests too can do.
const RATE: u32 = 30;

/// Kills of the storm; hundreds by `cargo xtask demo storm -- --kills 500`.
const KILLS: u32 = 25;

/// One story at a time, also where one process runs all tests (`cargo test`): each takes the whole machine.
static ALONE: Mutex<()> = Mutex::new(());

fn tell_it(story: Story, name: &str) {
    if story != Story::OneNode && !geteuid().is_root() {
        eprintln!("skipped: {name} needs root");
        return;
    }
    let programs = Programs::in_dir(&built()).expect("programs");
    if story == Story::Upgrade && programs.next.is_none() {
        eprintln!("skipped: {name} needs insula-next: `cargo xtask test` builds it");
        return;
    }
    play(story, name, &programs);
}

/// The directory of built programs: tests lie in `deps/` below it.
fn built() -> PathBuf {
    let own = std::env::current_exe().expect("path of this program");
    own.ancestors().nth(2).expect("the directory of built programs").to_owned()
}

fn play(story: Story, name: &str, programs: &Programs) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let telling = Telling {
        check: true,
        node: None,
        rate: RATE,
        name: format!("e2e-{name}"),
        rounds: 1,
        kills: KILLS,
        seed: None,
        keep: false,
    };
    let interrupt = Interrupt::hold_back().expect("signals");
    tell(story, programs, &telling, &interrupt).expect("a story with a good end");
}

#[test]
fn an_app_outlives_a_power_cut() {
    tell_it(Story::PowerCut, "power-cut");
}

#[test]
fn server_and_dataplane_are_killed_on_each_node() {
    tell_it(Story::Kills, "kills");
}

#[test]
fn a_storm_of_kills_leaves_nothing_but_what_shall_run() {
    tell_it(Story::Storm, "storm");
}

#[test]
fn edges_serve_without_any_server() {
    tell_it(Story::NoServers, "no-servers");
}

#[test]
fn an_app_is_replaced_without_a_registry() {
    tell_it(Story::NoRegistry, "no-registry");
}

#[test]
fn a_volume_outlives_its_instances() {
    tell_it(Story::Volume, "volume");
}

/// `cargo xtask demo stock` installs what it needs. Downloads much: not among the tests of every change.
#[test]
#[ignore = "makes images of Debian's packages, from its mirror"]
fn unchanged_images_run_under_full_isolation() {
    tell_it(Story::Stock, "stock");
}

/// `cargo xtask demo published` installs what it needs. Downloads much, as the one before.
#[test]
#[ignore = "makes images of Debian's packages, from its mirror"]
fn a_published_compose_file_runs_and_keeps_its_data() {
    tell_it(Story::Published, "published");
}

#[test]
fn a_whole_region_is_switched_off_and_on() {
    tell_it(Story::Blackout, "blackout");
}

#[test]
fn an_app_outlives_the_loss_of_all_states() {
    tell_it(Story::Restored, "restored");
}

#[test]
fn nodes_are_reached_elsewhere() {
    tell_it(Story::Moved, "moved");
}

#[test]
fn nodes_go_to_a_later_version_and_back() {
    tell_it(Story::Upgrade, "upgrade");
}

#[test]
fn each_node_is_drained_in_turn() {
    tell_it(Story::Drain, "drain");
}

#[test]
fn broken_releases_end_as_before() {
    tell_it(Story::Broken, "broken");
}

#[test]
fn canaries_are_judged_rightly_under_faults() {
    tell_it(Story::Judged, "judged");
}

/// `cargo xtask demo deadlocks` builds the program for it. Ten minutes: not among the tests of every change.
#[test]
#[ignore = "needs the program of `cargo xtask demo deadlocks`, in target/planted"]
fn a_deadlock_in_each_loop_is_healed() {
    let planted = built().parent().expect("the target directory").join("planted");
    play(Story::Deadlocks, "deadlocks", &Programs::in_dir(&planted).expect("programs with planted deadlocks"));
}

#[test]
fn certificates_rotate_and_the_root_is_replaced_under_traffic() {
    tell_it(Story::Certificates, "certificates");
}

#[test]
fn one_node_outlives_the_loss_of_each_part() {
    tell_it(Story::OneNode, "one-node");
}
