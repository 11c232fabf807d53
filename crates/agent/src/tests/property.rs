//! Random events against the core: a model of the runtime stands behind it.

use std::collections::BTreeMap;

use insula_container::{Ended, Observed, ObservedState, Running};
use insula_env::{Rng, clock::Instant};
use proptest::prelude::*;

use super::*;
use crate::{Action, Core, Event};

/// What is there in the model, and which jobs are under way.
#[derive(Default)]
struct Model {
    running: BTreeMap<InstanceId, bool>,
    under_way: Vec<Action>,
    /// What was there when the look under way was asked for: the oldest that it may tell.
    looked: BTreeMap<InstanceId, bool>,
}

#[derive(Debug, Clone)]
enum Input {
    Assign(Vec<(u64, u8)>),
    Finish(prop::sample::Index, bool),
    Crash(u64),
    Wait(u64),
}

fn inputs() -> impl Strategy<Value = Input> {
    prop_oneof![
        1 => prop::collection::btree_map(0..5u64, 0..4u8, 0..5).prop_map(|m| Input::Assign(m.into_iter().collect())),
        6 => (any::<prop::sample::Index>(), prop::bool::weighted(0.8)).prop_map(|(i, ok)| Input::Finish(i, ok)),
        1 => (0..5u64).prop_map(Input::Crash),
        2 => (1..20_000u64).prop_map(Input::Wait),
    ]
}

fn placements(list: &[(u64, u8)]) -> Vec<Placement> {
    let desired = |kind| [Desired::Run, Desired::Run, Desired::Drain, Desired::Stop][usize::from(kind) % 4];
    list.iter().map(|(id, kind)| Placement { desired: desired(*kind), ..placement(*id, NODE) }).collect()
}

impl Model {
    /// Takes actions on; fails when one is begun for an instance that has one under way.
    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            if let Some(id) = job_of(&action) {
                assert!(!self.under_way.iter().any(|other| job_of(other) == Some(id)), "two jobs at once: {action:?}");
            }
            match &action {
                Action::Start(p) => {
                    assert!(!self.running.contains_key(&p.instance), "started while it is there: {}", p.instance);
                    assert_eq!(p.desired, Desired::Run, "started though not wanted: {}", p.instance);
                }
                Action::List { .. } => self.looked = self.running.clone(),
                Action::Remove(id) => assert_ne!(self.running.get(id), Some(&true), "removed while it runs: {id}"),
                _ => {}
            }
            self.under_way.push(action);
        }
    }

    fn finish(&mut self, action: Action, is_well: bool) -> Event {
        let result = |error: &str| if is_well { Ok(()) } else { Err(error.to_owned()) };
        match action {
            Action::List { at } => {
                let ended = Ended { exit: Exit::Code(1), is_oom_killed: false, at_ms: 0 };
                let list = self.looked.iter().map(|(id, runs)| Observed {
                    instance: *id,
                    config_hash: String::new(),
                    state: if *runs { ObservedState::Running(running()) } else { ObservedState::Ended(ended.clone()) },
                });
                Event::Observed { at, list: if is_well { Ok(list.collect()) } else { Err("no".into()) } }
            }
            Action::Pull(p) => Event::Pulled(p.instance, result("no registry")),
            Action::Start(p) => {
                // A failed start may leave remains.
                self.running.insert(p.instance, is_well);
                Event::Started(p.instance, result("no shim").map(|()| running()))
            }
            Action::Stop(id, _) => {
                if is_well {
                    self.running.insert(id, false);
                }
                Event::Stopped(id, result("hangs"))
            }
            Action::Remove(id) => {
                if is_well {
                    self.running.remove(&id);
                }
                Event::Removed(id, result("busy"))
            }
            Action::Probe(id, ..) => Event::Probed(id, result("503")),
        }
    }
}

fn job_of(action: &Action) -> Option<InstanceId> {
    match action {
        Action::Pull(p) | Action::Start(p) => Some(p.instance),
        Action::Stop(id, _) | Action::Remove(id) => Some(*id),
        Action::List { .. } | Action::Probe(..) => None,
    }
}

fn running() -> Running {
    Running { pid: 1, started_ms: 0, endpoints: BTreeMap::new() }
}

proptest! {
    #[test]
    fn never_two_of_one_and_in_the_end_what_is_wanted(
        there in prop::collection::btree_map(0..7u64, any::<bool>(), 0..4),
        events in prop::collection::vec(inputs(), 0..120),
    ) {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        clock.block_on(async {
            let mut now: Instant = Clock::simulated(0).now();
            let mut core = Core::new(NodeId::new(NODE), Rng::from_seed(3), now);
            let running = there.into_iter().map(|(id, runs)| (InstanceId::new(id), runs)).collect();
            let mut model = Model { running, ..Model::default() };
            let mut assigned = Vec::new();
            model.take(core.step(now, 0, Event::Kept(Vec::new())));
            for input in events {
                let event = match input {
                    Input::Assign(list) => {
                        assigned = placements(&list);
                        Event::Assigned(assigned.clone())
                    }
                    Input::Finish(_, _) if model.under_way.is_empty() => Event::Tick,
                    Input::Finish(which, is_well) => {
                        let action = model.under_way.remove(which.index(model.under_way.len()));
                        model.finish(action, is_well)
                    }
                    Input::Crash(id) => {
                        if let Some(runs) = model.running.get_mut(&InstanceId::new(id)) {
                            *runs = false;
                        }
                        Event::Ended
                    }
                    Input::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        Event::Tick
                    }
                };
                model.take(core.step(now, 0, event));
            }
            // From here on all goes well: what is wanted runs, and nothing else is there.
            model.take(core.step(now, 0, Event::Assigned(assigned.clone())));
            for _ in 0..600 {
                while !model.under_way.is_empty() {
                    let action = model.under_way.remove(0);
                    let event = model.finish(action, true);
                    model.take(core.step(now, 0, event));
                }
                now += Duration::from_secs(1);
                model.take(core.step(now, 0, Event::Tick));
            }
            for placement in &assigned {
                let runs = model.running.get(&placement.instance).copied();
                match placement.desired {
                    Desired::Run => assert_eq!(runs, Some(true), "{} shall run", placement.instance),
                    Desired::Drain => assert_ne!(runs, Some(false), "{} left its remains", placement.instance),
                    Desired::Stop => assert_eq!(runs, None, "{} shall be gone", placement.instance),
                }
            }
            for id in model.running.keys() {
                assert!(assigned.iter().any(|p| p.instance == *id), "{id} is left though nobody wants it");
            }
        });
    }
}
