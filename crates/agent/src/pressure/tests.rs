use insula_container::DiskFill;
use insula_env::Clock;
use insula_types::{ByteSize, VolumeSpec};

use super::*;

/// Looks of one node, some seconds apart.
struct Looks {
    watch: Watch,
    begun: Instant,
    seen: Seen,
}

impl Looks {
    fn new() -> Self {
        let mut looks = Self { watch: Watch::default(), begun: Clock::real().now(), seen: Seen::default() };
        looks.seen.instances.insert(InstanceId::new(1), Pressure::default());
        assert_eq!(looks.at(0), []);
        looks
    }

    fn one(&mut self) -> &mut Pressure {
        self.seen.instances.get_mut(&InstanceId::new(1)).expect("it is there")
    }

    /// What a look after so many seconds tells.
    fn at(&mut self, seconds: u64) -> Vec<(Squeeze, bool)> {
        let told = self.watch.look(self.begun + Duration::from_secs(seconds), self.seen.clone());
        told.into_iter().map(|(_, squeeze, has_begun)| (squeeze, has_begun)).collect()
    }
}

#[test]
fn each_kind_is_told_when_it_begins_and_when_it_is_over() {
    let check = |expected: Squeeze, press: fn(&mut Pressure), relieve: fn(&mut Pressure)| {
        let mut looks = Looks::new();
        press(looks.one());
        assert_eq!(looks.at(5), [(expected.clone(), true)]);
        press(looks.one());
        assert_eq!(looks.at(10), [], "told once");
        relieve(looks.one());
        assert_eq!(looks.at(60), [], "it may begin again");
        assert_eq!(looks.at(71), [(expected, false)]);
        assert_eq!(looks.at(80), []);
    };
    check(Squeeze::Processes, |one| one.forks_refused += 3, |_| {});
    check(Squeeze::Memory, |one| one.oom_kills += 1, |_| {});
    check(Squeeze::Log, |one| one.log_lines_dropped += 1000, |_| {});
    check(
        Squeeze::Bytes(None),
        |one| one.disks = vec![DiskFill { volume: None, bytes_percent: 95, files_percent: 1 }],
        |one| one.disks[0].bytes_percent = 94,
    );
    check(
        Squeeze::Files(Some("data".to_owned())),
        |one| one.disks = vec![DiskFill { volume: Some("data".to_owned()), bytes_percent: 1, files_percent: 100 }],
        |one| one.disks[0].files_percent = 1,
    );
}

#[test]
fn a_short_burst_is_not_held_back_most_of_the_time() {
    let mut looks = Looks::new();
    let mut run = |seconds, periods, throttled| {
        looks.one().cpu_periods += periods;
        looks.one().cpu_throttled += throttled;
        looks.at(seconds)
    };
    assert_eq!(run(5, 50, 50), []);
    assert_eq!(run(10, 50, 10), []);
    assert_eq!(run(15, 50, 40), []);
    assert_eq!(run(20, 4, 4), [], "it hardly ran");
    assert_eq!(run(25, 50, 40), []);
    assert_eq!(run(30, 50, 26), [(Squeeze::Cpu, true)]);
}

#[test]
fn what_comes_and_goes_is_told_rarely() {
    let mut looks = Looks::new();
    let mut told = 0;
    // An hour in which it is wrong for five seconds every hundred.
    for turn in 1..36 {
        looks.one().forks_refused += 1;
        told += looks.at(turn * 100).len();
        told += looks.at(turn * 100 + 90).len();
    }
    assert_eq!(told, 12, "begun and over, every ten minutes");
}

#[test]
fn what_was_before_is_not_told_now() {
    let mut looks = Looks::new();
    looks.watch = Watch::default();
    looks.one().forks_refused = 100;
    assert_eq!(looks.at(5), [], "counted before this program began");
    looks.one().forks_refused = 1;
    assert_eq!(looks.at(10), [(Squeeze::Processes, true)], "started again");
    looks.seen.instances.clear();
    assert_eq!(looks.at(15), []);
    assert_eq!(looks.at(609), []);
    assert!(!looks.watch.states.is_empty(), "it may come back, and is not to be told of again");
    assert_eq!(looks.at(610), []);
    assert!(looks.watch.states.is_empty(), "it is gone");
    let new = Pressure { oom_kills: 1, ..Pressure::default() };
    looks.seen.instances.insert(InstanceId::new(2), new);
    assert_eq!(looks.at(620), [(Squeeze::Memory, true)], "a new one's counters begin with it");
}

#[test]
fn what_ends_between_two_looks_is_told_for_what_it_lacked_then() {
    let mut looks = Looks::new();
    let id = InstanceId::new(1);
    let refused = |forks_refused| (id, Pressure { forks_refused, ..Pressure::default() });
    looks.one().forks_refused = 7;
    looks.watch = Watch::default();
    looks.seen.ended = vec![refused(9)];
    assert_eq!(looks.at(5), [], "before this program began, perhaps");

    looks.seen.ended = vec![refused(7)];
    looks.one().forks_refused = 0;
    assert_eq!(looks.at(10), [], "nothing since the look before");

    looks.seen.instances.clear();
    looks.seen.ended = vec![refused(0), refused(3)];
    assert_eq!(looks.at(15), [(Squeeze::Processes, true)]);
    // It waits to be started again, longer than what is over takes; and does the same then.
    looks.seen.ended.clear();
    (20..100).for_each(|seconds| assert_eq!(looks.at(seconds), []));
    looks.seen.ended = vec![refused(3)];
    assert_eq!(looks.at(100), [], "told");
    looks.seen.ended.clear();
    assert_eq!(looks.at(190), []);
    looks.seen.instances.insert(id, Pressure::default());
    assert_eq!(looks.at(195), []);
    assert_eq!(looks.at(249), [], "it has not run for a minute yet");
    assert_eq!(looks.at(250), [(Squeeze::Processes, false)]);

    let full = DiskFill { volume: None, bytes_percent: 3, files_percent: 100 };
    looks.seen.ended = vec![(id, Pressure { disks: vec![full], ..Pressure::default() })];
    assert_eq!(looks.at(255), [(Squeeze::Files(None), true)]);
    // What the next run counts begins anew, also where it is the same number.
    looks.seen.ended = vec![(id, Pressure { oom_kills: 1, ..Pressure::default() })];
    looks.one().log_lines_dropped = 4;
    assert_eq!(looks.at(260), [(Squeeze::Memory, true), (Squeeze::Log, true)]);
}

#[test]
fn the_limit_that_was_reached_is_named() {
    let mut spec = ServiceSpec::default();
    spec.resources.disk = Some(ByteSize::mib(32));
    let name = "data".parse().expect("a name");
    spec.volumes = vec![VolumeSpec { name, path: "/data".to_owned(), size: ByteSize::mib(1024) }];
    let data = || Some("data".to_owned());
    for (squeeze, limit) in [
        (Squeeze::Processes, Some("resources.pids = 256")),
        (Squeeze::Memory, Some("resources.memory = \"128MiB\"")),
        (Squeeze::Cpu, Some("resources.cpu = \"250m\"")),
        (Squeeze::Bytes(None), Some("resources.disk = \"32MiB\"")),
        (Squeeze::Files(None), Some("resources.disk = \"32MiB\"")),
        (Squeeze::Bytes(data()), Some("size = \"1GiB\"")),
        (Squeeze::Files(data()), Some("size = \"1GiB\"")),
        (Squeeze::Files(Some("gone".to_owned())), None),
        (Squeeze::Log, None),
    ] {
        assert_eq!(squeeze.limit(&spec).as_deref(), limit, "{squeeze:?}");
    }
    let files = Squeeze::Files(data()).begun();
    assert!(files.contains("files") && files.ends_with("its volume data, however small they are"), "{files}");
}

#[test]
fn many_at_once_are_told_in_turns() {
    let mut looks = Looks::new();
    for number in 2..30 {
        let app = format!("app-{number}").parse().expect("a name");
        looks.seen.refused.insert(app, 1);
    }
    assert_eq!(looks.at(5).len(), TOLD_MAX);
    looks.seen.refused.values_mut().for_each(|count| *count += 1);
    let again = looks.at(10);
    assert_eq!(again.len(), TOLD_MAX);
    assert!(again.iter().all(|told| *told == (Squeeze::Requests, true)));
}
