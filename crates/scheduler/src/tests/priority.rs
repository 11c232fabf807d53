//! Those of higher priority go first, and what gives way is the least that will do.

use super::*;

/// The services of [`names`], by their priorities.
const PRIORITIES: [Priority; 4] = [Priority(90), Priority(50), Priority(45), Priority(10)];

/// What runs on the nodes of a world, as it might give way; half of it is ready.
fn holders<'a>(world: &World, snapshot: &Snapshot<'a>) -> Vec<Holder<'a>> {
    let holder = |(id, taken): (usize, &Taken<'a>)| Holder {
        instance: InstanceId::new(1000 + id as u64),
        node: taken.node,
        service: taken.service,
        resources: taken.resources,
        priority: PRIORITIES[usize::from(world.taken[id].0)],
        is_ready: id % 2 == 0,
    };
    snapshot.taken.iter().enumerate().map(holder).collect()
}

fn without<'a>(snapshot: &Snapshot<'a>, holders: &[Holder<'a>], gone: &BTreeSet<InstanceId>) -> Snapshot<'a> {
    let stays = snapshot.taken.iter().zip(holders).filter(|(_, holder)| !gone.contains(&holder.instance));
    Snapshot { nodes: snapshot.nodes.clone(), taken: stays.map(|(taken, _)| taken.clone()).collect() }
}

fn finds_room(snapshot: &Snapshot<'_>, one: &Wanted<'_>) -> bool {
    schedule(snapshot, std::slice::from_ref(one)).remove(&one.instance).is_some_and(|found| found.is_ok())
}

fn unlimited(names: &Names) -> BTreeMap<&ServiceRef, Spare> {
    names.services.iter().map(|service| (service, Spare { all: usize::MAX, ready: usize::MAX })).collect()
}

#[test]
fn the_higher_goes_first_whatever_its_size() {
    let names = names();
    let world = World { nodes: vec![up(0)], taken: vec![], wanted: vec![(1, 3000, 64), (0, 1000, 64)] };
    let (snapshot, mut wanted) = world.snapshot(&names);
    let places = |wanted: &[Wanted<'_>]| schedule(&snapshot, wanted).into_values().map(|one| one.is_ok()).collect();
    let alike: Vec<bool> = places(&wanted);
    assert_eq!(alike, [true, false], "the larger one first");
    wanted[1].priority = Priority(51);
    let places: Vec<bool> = places(&wanted);
    assert_eq!(places, [false, true]);
}

#[test]
fn of_the_least_important_as_few_as_will_do() {
    let names = names();
    // 3600m each to give. On both, `db` (45) and `job` (10); on the second the `job` is large enough alone.
    let taken = vec![
        (2, 0, 2000, 64, true),
        (3, 0, 600, 64, true),
        (3, 0, 1000, 64, true),
        (2, 1, 1000, 64, true),
        (3, 1, 700, 64, true),
        (3, 1, 1900, 64, true),
    ];
    let world = World { nodes: vec![up(0), up(1)], taken, wanted: vec![(0, 1500, 64)] };
    let (snapshot, mut wanted) = world.snapshot(&names);
    wanted[0].priority = Priority(90);
    let holders = holders(&world, &snapshot);
    let mut spare = unlimited(&names);
    let ask = |wanted: &Wanted<'_>, spare: &BTreeMap<&ServiceRef, Spare>| {
        let giving = make_room(&snapshot, wanted, &holders, spare)?;
        Some((giving.node.get(), giving.instances.iter().map(|id| id.get() - 1000).collect::<Vec<_>>()))
    };
    assert_eq!(ask(&wanted[0], &spare), Some((1, vec![5])), "one is fewer than two");
    wanted[0].resources.cpu = CpuMillis(2000);
    assert_eq!(ask(&wanted[0], &spare), Some((1, vec![4, 5])), "two of 10 rather than one of 45");
    wanted[0].priority = Priority(19);
    assert_eq!(ask(&wanted[0], &spare), None, "not clearly higher");
    wanted[0].priority = Priority(20);
    assert_eq!(ask(&wanted[0], &spare), Some((1, vec![4, 5])));
    spare.insert(&names.services[3], Spare { all: 1, ready: 1 });
    assert_eq!(ask(&wanted[0], &spare), None, "it cannot spare two");
    wanted[0].priority = Priority(90);
    assert_eq!(ask(&wanted[0], &spare), Some((0, vec![0])));
    wanted[0].resources.cpu = CpuMillis(3601);
    assert_eq!(ask(&wanted[0], &unlimited(&names)), None, "more than there is");
    wanted[0].resources.cpu = CpuMillis(0);
    assert_eq!(ask(&wanted[0], &unlimited(&names)), None, "there is room for that");
}

#[test]
fn a_node_on_which_too_much_is_taken_gives_what_is_too_much_too() {
    let names = names();
    // 3600m to give, and 4600m are taken: it has become smaller.
    let taken = vec![(3, 0, 1500, 64, true), (3, 0, 1500, 64, true), (1, 0, 1600, 64, true)];
    let world = World { nodes: vec![up(0)], taken, wanted: vec![(0, 500, 64)] };
    let (snapshot, mut wanted) = world.snapshot(&names);
    wanted[0].priority = Priority(40);
    let holders = holders(&world, &snapshot);
    let giving = make_room(&snapshot, &wanted[0], &holders, &unlimited(&names)).expect("both");
    assert_eq!(giving.instances.len(), 1);
    wanted[0].resources.cpu = CpuMillis(501);
    let giving = make_room(&snapshot, &wanted[0], &holders, &unlimited(&names)).expect("both");
    assert_eq!(giving.instances.len(), 2);
}

proptest! {
    #[test]
    fn no_lower_one_is_placed_where_a_higher_one_of_equal_need_is_refused(world in worlds()) {
        let names = names();
        let (snapshot, mut wanted) = world.snapshot(&names);
        for (one, (service, ..)) in wanted.iter_mut().zip(&world.wanted) {
            one.priority = PRIORITIES[usize::from(*service)];
            // Of equal need.
            one.resources = size(300, 256);
        }
        let decisions = schedule(&snapshot, &wanted);
        let least_placed = wanted.iter().filter(|one| decisions[&one.instance].is_ok()).map(|one| one.priority).min();
        let most_refused = wanted.iter().filter(|one| decisions[&one.instance].is_err()).map(|one| one.priority).max();
        if let (Some(placed), Some(refused)) = (least_placed, most_refused) {
            prop_assert!(placed >= refused, "{placed} was placed, {refused} was not");
        }
    }

    #[test]
    fn what_gives_way_is_enough_needed_and_the_least_important(world in worlds(), service in 0..3usize, need in 200..6000u32) {
        let names = names();
        let (snapshot, _) = world.snapshot(&names);
        let holders = holders(&world, &snapshot);
        let spare = unlimited(&names);
        let wanted = Wanted {
            priority: PRIORITIES[service],
            ..wanted_of(InstanceId::new(0), &names.services[service], size(need, u64::from(need)), &names.anywhere)
        };
        // What would do if all went that are no more important than this.
        let would_do = |most: u8| {
            let gone = holders.iter().filter(|one| one.priority.0 <= most).map(|one| one.instance).collect();
            finds_room(&without(&snapshot, &holders, &gone), &wanted)
        };
        let clearly_lower = wanted.priority.0 - Priority::CLEAR;
        match make_room(&snapshot, &wanted, &holders, &spare) {
            None => prop_assert!(finds_room(&snapshot, &wanted) || !would_do(clearly_lower), "there was a way"),
            Some(giving) => {
                prop_assert!(!finds_room(&snapshot, &wanted), "nothing had to go");
                let given = |id: &InstanceId| holders.iter().find(|one| one.instance == *id).expect("a holder");
                prop_assert!(giving.instances.iter().all(|id| given(id).node == giving.node));
                let most = giving.instances.iter().map(|id| given(id).priority).max().expect("some");
                prop_assert!(wanted.priority.is_clearly_above(most));
                prop_assert!(most.0 == 0 || !would_do(most.0 - 1), "less important ones would have done");
                prop_assert!(finds_room(&without(&snapshot, &holders, &giving.instances), &wanted), "not enough");
                for id in &giving.instances {
                    let mut fewer = giving.instances.clone();
                    fewer.remove(id);
                    prop_assert!(!finds_room(&without(&snapshot, &holders, &fewer), &wanted), "one too many");
                }
            }
        }
    }
}
