//! What becomes of instances that end by themselves, as their services say.

use std::collections::BTreeMap;

use insula_container::{Observed, ObservedState, Running};
use insula_types::{HookKind, RestartPolicy, RestartSpec};

use super::*;
use crate::core::{self, Action, Core};

fn with_policy(policy: RestartPolicy, has_ports: bool) -> Placement {
    let mut placement = placement(1, NODE);
    placement.spec.restart.policy = policy;
    if !has_ports {
        placement.spec.ports.clear();
        placement.spec.health = None;
    }
    placement
}

/// Runs one until it is ready, and lets it end.
async fn ended(placement: Placement, exit: Exit) -> Bench {
    let mut bench = Bench::new();
    bench.place(&[placement]);
    bench.start();
    bench.until("ready", |b| b.is_ready(1)).await;
    bench.runtime.crash(InstanceId::new(1), exit);
    bench
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_well_is_left_so_and_its_remains_too() {
    for policy in [RestartPolicy::OnFailure, RestartPolicy::Never] {
        let mut bench = ended(with_policy(policy, false), Exit::Code(0)).await;
        bench.until("over", |b| b.status(1).is_some_and(|s| s.phase == Phase::Stopped)).await;
        let status = bench.status(1).expect("reported");
        assert!(status.is_ready, "it has done all that was wanted");
        assert!(status.message.contains(policy.as_str()), "{}", status.message);
        // The next agent sees that, too: it is no work that is done twice.
        clock::sleep(Duration::from_secs(120)).await;
        bench.reports.last.lock().clear();
        bench.start();
        bench.until("seen again", |b| b.status(1).is_some_and(|s| s.phase == Phase::Stopped && s.is_ready)).await;
        assert_eq!((bench.starts(1), bench.runtime.present()), (1, vec![InstanceId::new(1)]));
        bench.place(&[stop(1)]);
        bench.until("taken away", |b| b.runtime.present().is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_can_be_reached_is_not_ready_when_it_has_ended() {
    let bench = ended(with_policy(RestartPolicy::OnFailure, true), Exit::Code(0)).await;
    bench.until("over", |b| b.status(1).is_some_and(|s| s.phase == Phase::Stopped && !s.is_ready)).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_on_failure_only() {
    let bench = ended(with_policy(RestartPolicy::OnFailure, false), Exit::Code(1)).await;
    bench.until("started again", |b| b.starts(1) == 2 && b.is_ready(1)).await;
    let bench = ended(with_policy(RestartPolicy::Never, false), Exit::Signal(9)).await;
    bench.until("over", |b| b.status(1).is_some_and(|s| s.phase == Phase::Stopped && !s.is_ready)).await;
    clock::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.starts(1), 1);
}

#[tokio::test(start_paused = true)]
async fn what_goes_with_its_machine_has_not_ended_by_itself() {
    let mut bench = Bench::new();
    bench.place(&[with_policy(RestartPolicy::Never, false)]);
    bench.start();
    bench.until("ready", |b| b.is_ready(1)).await;
    bench.runtime.power_off();
    bench.start();
    bench.until("started again", |b| b.starts(1) == 2 && b.is_ready(1)).await;
}

#[tokio::test(start_paused = true)]
async fn waits_are_those_of_the_service() {
    let mut placement = with_policy(RestartPolicy::Always, false);
    let span = Duration::from_secs(40);
    placement.spec.restart = RestartSpec { backoff_min: span, backoff_max: span, ..RestartSpec::default() };
    let bench = ended(placement, Exit::Code(1)).await;
    let before = bench.env.clock.now();
    bench.until("started again", |b| b.starts(1) == 2).await;
    assert!(bench.env.clock.now() - before > Duration::from_secs(25));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_anew_says_nothing_before_it_has_looked() {
    let now = Clock::simulated(0).now();
    let mut core = Core::new(NodeId::new(NODE), Rng::from_seed(3), now);
    let placement = with_policy(RestartPolicy::Always, false);
    let instance = placement.instance;
    let actions = core.step(now, 0, core::Event::Kept(vec![placement.clone()]));
    let [Action::List { at }] = actions[..] else { panic!("{actions:?}") };
    core.step(now, 0, core::Event::Assigned(vec![placement]));
    assert_eq!(core.statuses(), BTreeMap::new(), "it may run");
    let running = Running { pid: 1, started_ms: 0, endpoints: BTreeMap::new() };
    let observed = Observed { instance, config_hash: String::new(), state: ObservedState::Running(running) };
    core.step(now, 0, core::Event::Observed { at, list: Ok(vec![observed]) });
    assert!(core.statuses()[&instance].is_ready);
}

/// An instance that runs a hook.
fn with_hook() -> Placement {
    let mut placement = with_policy(RestartPolicy::Never, false);
    placement.hook = Some(HookKind::Before);
    placement
}

#[tokio::test(start_paused = true)]
async fn a_hook_says_how_it_ended_and_is_not_begun_again() {
    let mut bench = ended(with_hook(), Exit::Code(3)).await;
    bench.until("over", |b| b.status(1).is_some_and(|s| s.phase == Phase::Stopped && !s.is_ready)).await;
    assert_eq!(bench.status(1).expect("reported").message, "ended with exit code 3");
    // An agent of another program that takes over sees the same.
    bench.reports.last.lock().clear();
    bench.start();
    bench.until("seen again", |b| b.status(1).is_some_and(|s| s.phase == Phase::Stopped)).await;
    assert_eq!((bench.starts(1), bench.status(1).expect("reported").restarts), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hook_is_begun_on_the_regions_word_alone() {
    let mut now = Clock::simulated(0).now();
    let mut core = Core::new(NodeId::new(NODE), Rng::from_seed(3), now);
    let plain = Placement { hook: None, instance: InstanceId::new(2), ..with_hook() };
    let actions = core.step(now, 0, core::Event::Kept(vec![with_hook(), plain]));
    let [Action::List { at }] = actions[..] else { panic!("{actions:?}") };
    now += core::LEARN_WAIT * 2;
    let begun = |actions: Vec<Action>| {
        let ids = actions.into_iter().filter_map(|action| match action {
            Action::Pull(placement) | Action::Start(placement) => Some(placement.instance.get()),
            _ => None,
        });
        ids.collect::<Vec<_>>()
    };
    assert_eq!(begun(core.step(now, 0, core::Event::Observed { at, list: Ok(Vec::new()) })), [2]);
    assert_eq!(begun(core.step(now, 0, core::Event::Assigned(vec![with_hook()]))), [1]);
}
