use insula_container::DiskFill;
use insula_env::Clock;

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
    assert!(looks.watch.states.is_empty(), "it is gone");
    let new = Pressure { oom_kills: 1, ..Pressure::default() };
    looks.seen.instances.insert(InstanceId::new(2), new);
    assert_eq!(looks.at(20), [(Squeeze::Memory, true)], "a new one's counters begin with it");
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
