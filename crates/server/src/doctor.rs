//! Grades what was found on this node: well, worth a look, or bad, each with what to do. Pure; `handler::doctor` looks.

use std::time::Duration;

use insula_api::wire::{Check, Grade, GroupStatus};
use insula_types::{Level, NodeId, Revision, text::utc};

/// Free shares of the disk, in percent: below the first somebody should look, below the second writes will fail soon.
/// Images and logs of one deploy may take some percent.
const DISK_FREE_PERCENT: (u64, u64) = (15, 5);
/// Clock differences that are worth a look, and that are bad: certificates are valid from a minute before their issue on.
const CLOCK_MS: (u64, u64) = (500, 30_000);
/// Open files that a node with many connections may need.
const OPEN_FILES: u64 = 65_536;

/// Space where the data is.
pub(crate) fn disk(free_bytes: u64, total_bytes: u64) -> Check {
    const SUBJECT: &str = "disk space";
    const ADVICE: &str = "make room on the data directory's disk, or give it a larger one";
    let percent = free_bytes.saturating_mul(100).checked_div(total_bytes).unwrap_or(0);
    let found = format!("{percent} % of {} GiB are free", total_bytes >> 30);
    match percent {
        percent if percent < DISK_FREE_PERCENT.1 => Check::not_ok(SUBJECT, Grade::Bad, found, ADVICE),
        percent if percent < DISK_FREE_PERCENT.0 => Check::not_ok(SUBJECT, Grade::Warn, found, ADVICE),
        _ => Check::ok(SUBJECT, found),
    }
}

/// How far this clock is ahead of the leader's, in milliseconds; none when no leader has told.
pub(crate) fn clock(ahead_ms: Option<i64>) -> Check {
    const SUBJECT: &str = "clock";
    const ADVICE: &str = "let a time service (chrony, systemd-timesyncd) set the clocks of all nodes";
    let Some(ahead_ms) = ahead_ms else {
        let advice = "look at the region group below: no leader has renewed this node's lease yet";
        return Check::not_ok(SUBJECT, Grade::Warn, "not compared with a leader's", advice);
    };
    let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
    let found = format!("{} ms {side} the leader's", ahead_ms.unsigned_abs());
    match ahead_ms.unsigned_abs() {
        off if off >= CLOCK_MS.1 => Check::not_ok(SUBJECT, Grade::Bad, found, ADVICE),
        off if off >= CLOCK_MS.0 => Check::not_ok(SUBJECT, Grade::Warn, found, ADVICE),
        _ => Check::ok(SUBJECT, found),
    }
}

/// The node's certificate: the time until it ends, and its whole life. It is renewed at half.
pub(crate) fn certificate(left: Duration, life: Duration) -> Check {
    const SUBJECT: &str = "certificate";
    let hours = left.as_secs() / 3600;
    let advice = "see the log for why it is not renewed; renewal needs one voter of this region that can be reached";
    if left.is_zero() {
        return Check::not_ok(SUBJECT, Grade::Bad, "it has expired", advice);
    }
    let found = format!("good for {hours} h {} min more", left.as_secs() / 60 % 60);
    match left {
        left if left < life / 6 => Check::not_ok(SUBJECT, Grade::Bad, found, advice),
        left if left < life * 2 / 5 => {
            Check::not_ok(SUBJECT, Grade::Warn, format!("{found}; its renewal is overdue"), advice)
        }
        _ => Check::ok(SUBJECT, found),
    }
}

/// The certificates that this node's own rests on, in pairs of urgency (as `identity` counts it) and what to say; `next` is the
/// first of their ends.
pub(crate) fn authorities(alarms: &[(u8, String)], next: Duration) -> Check {
    const SUBJECT: &str = "authorities";
    let Some((urgency, _)) = alarms.iter().max_by_key(|(urgency, _)| *urgency) else {
        return Check::ok(
            SUBJECT,
            format!("the region's CA and all roots are good for {} days or more", next.as_secs() / 86_400),
        );
    };
    let grade = if *urgency > 2 { Grade::Bad } else { Grade::Warn };
    let said: Vec<_> = alarms.iter().map(|(_, said)| said.as_str()).collect();
    Check::not_ok(SUBJECT, grade, said.join("; "), "`insula ca status` shows how far all nodes are")
}

/// The region's nodes: how many there are, and the names of those that are down.
pub(crate) fn nodes(all: usize, down: &[String]) -> Check {
    const SUBJECT: &str = "nodes";
    if down.is_empty() {
        return Check::ok(SUBJECT, format!("{all} of {all} up"));
    }
    let found = format!("{} of {all} up; down: {}", all - down.len(), down.join(", "));
    let advice = "bring them back, or take those that do not come back out: insula node rm NODE";
    Check::not_ok(SUBJECT, Grade::Warn, found, advice)
}

/// What should be listened on here, in pairs of what for and why it cannot be connected to; none: it can.
pub(crate) fn ports(found: &[(String, Option<String>)]) -> Check {
    const SUBJECT: &str = "ports";
    let closed = found.iter().filter_map(|(port, why)| Some(format!("{port}: {}", why.as_ref()?))).collect::<Vec<_>>();
    if closed.is_empty() {
        let open: Vec<_> = found.iter().map(|(port, _)| port.as_str()).collect();
        return Check::ok(SUBJECT, open.join(", "));
    }
    let advice = "see the log of insula dataplane: another program may have the port, or the configuration another one";
    Check::not_ok(SUBJECT, Grade::Bad, closed.join("; "), advice)
}

/// The global state on a node that does not vote on it: since when nobody tells what is new, who told what was refused and why,
/// and what is known.
pub(crate) fn told(alone_since_ms: Option<u64>, refused: Option<(NodeId, String)>, known: Revision) -> Check {
    const SUBJECT: &str = "global state";
    let Some(since_ms) = alone_since_ms else {
        return Check::ok(SUBJECT, format!("told by another node, revision {known}"));
    };
    let mut found = format!("nobody tells of it since {} UTC; revision {known} is known", utc(since_ms));
    let mut advice =
        "see that a region with voters of the global group is reached (`insula regions`); this region goes on alone";
    if let Some((node, why)) = refused {
        found.push_str(&format!("; what {node} tells is refused: {why}"));
        advice = "see why that node lives in the past (`insula doctor` there); this region goes on alone";
    }
    Check::not_ok(SUBJECT, Grade::Warn, found, advice)
}

/// A replicated group as this node sees it, with the number of its voters whose lease holds.
pub(crate) fn group(group: &GroupStatus, up: usize, failed: Option<&str>, now_ms: u64) -> Check {
    let subject = format!("{} group", group.group);
    if let Some(why) = failed {
        let advice = "mend what is said here (most often the disk), then restart insula server";
        return Check::not_ok(&subject, Grade::Bad, format!("stopped on this node: {why}"), advice);
    }
    let (all, quorum) = (group.voters.len(), group.voters.len() / 2 + 1);
    let Some(leader) = &group.leader else {
        let since = group.alone_since_ms.map(|since| format!(" for {} s", now_ms.saturating_sub(since) / 1000));
        let found = format!("no leader{} in term {}: no quorum", since.unwrap_or_default(), group.term);
        let advice = format!("bring up nodes until {quorum} of the {all} voters reach each other; traffic goes on");
        return Check::not_ok(&subject, Grade::Bad, found, advice);
    };
    let name = leader.name.as_ref().map_or_else(|| leader.node.to_string(), ToString::to_string);
    let found = format!("led by {name} in term {}, {up} of {all} voters up", group.term);
    if up < all {
        let left = up.saturating_sub(quorum);
        let advice = format!("bring the voters that are down back: {left} more may fail before changes stop");
        return Check::not_ok(&subject, Grade::Warn, found, advice);
    }
    Check::ok(&subject, found)
}

/// The region's level against the one that this program knows, with names and versions of the nodes that know less; none
/// when nobody does.
pub(crate) fn level(agreed: Level, known: Level, behind: &[(String, String)]) -> Option<Check> {
    let (name, version) = behind.first()?;
    let others = match behind.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let found =
        format!("the region is at level {agreed}, this program knows {known}: held back by {name} ({version}){others}");
    let advice = format!("upgrade or remove {name}{others}; until then what is new in this version is refused");
    Some(Check::not_ok("level", Grade::Warn, found, advice))
}

/// What the dataplane routes by, against what is committed.
pub(crate) fn catalog(
    is_connected: bool,
    in_use: Option<Revision>,
    rejected: Option<&(Revision, String)>,
    committed: Revision,
) -> Check {
    const SUBJECT: &str = "catalog";
    if !is_connected {
        let advice = "see the log for why insula dataplane does not run; the server starts it again by itself";
        return Check::not_ok(SUBJECT, Grade::Bad, "the dataplane is not connected", advice);
    }
    if let Some((revision, why)) = rejected {
        let found = format!("the dataplane rejected revision {revision}: {why}");
        return Check::not_ok(SUBJECT, Grade::Bad, found, "it serves from its last good one; report this as a fault");
    }
    let known = in_use.unwrap_or(Revision(0));
    let found = format!("the dataplane routes by revision {known} of {committed}");
    if known < committed {
        let advice = "look again; when it stays behind, see the logs of server and dataplane";
        return Check::not_ok(SUBJECT, Grade::Warn, found, advice);
    }
    Check::ok(SUBJECT, found)
}

/// The kernel and what it was told to give us.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub release: String,
    pub is_root: bool,
    pub has_cgroups: bool,
    pub has_overlay: bool,
    pub is_forwarding: bool,
    pub has_nft: bool,
    /// Containers get user namespaces of their own.
    pub has_users: bool,
    /// What containers write to their own roots is bounded.
    pub has_bounded_layers: bool,
    pub open_files: u64,
}

/// Whether containers can run and connections be held.
pub(crate) fn kernel(kernel: &Kernel) -> Check {
    const SUBJECT: &str = "kernel";
    if !kernel.is_root {
        let advice = "run insula server as root for containers; plain processes work as they are";
        return Check::not_ok(SUBJECT, Grade::Warn, format!("Linux {}, not root", kernel.release), advice);
    }
    let needs = [
        (kernel.has_cgroups, "no control groups below /sys/fs/cgroup", "mount them: containers cannot be limited"),
        (kernel.has_overlay, "no overlay file system", "load the module overlay: images cannot be mounted"),
        (kernel.has_nft, "no program nft", "apt-get install nftables: no container starts without its firewall"),
        (kernel.is_forwarding, "net.ipv4.ip_forward is 0", "set it to 1: containers reach nothing outside"),
    ];
    if let Some((_, found, advice)) = needs.iter().find(|(holds, ..)| !holds) {
        return Check::not_ok(SUBJECT, Grade::Bad, format!("Linux {}: {found}", kernel.release), *advice);
    }
    if !kernel.has_users {
        let found = format!("Linux {}: no user namespaces: root in a container is root on this node", kernel.release);
        let advice = "Linux 5.19 or later, the data directory on ext4, xfs or btrfs, and chmod o+x on the directories above it; \
                      the log says which of these is missing";
        return Check::not_ok(SUBJECT, Grade::Warn, found, advice);
    }
    if !kernel.has_bounded_layers {
        let found = format!("Linux {}: no bounded layers: one container can fill this node's disk", kernel.release);
        let advice = "Linux 5.8 or later with loop devices (modprobe loop) and ext4, and apt-get install e2fsprogs; \
                      the log says which of these is missing; then restart insula server";
        return Check::not_ok(SUBJECT, Grade::Warn, found, advice);
    }
    if kernel.open_files < OPEN_FILES {
        let found = format!("Linux {}, at most {} open files", kernel.release, kernel.open_files);
        let advice = format!("let the service manager allow {OPEN_FILES} or more (LimitNOFILE)");
        return Check::not_ok(SUBJECT, Grade::Warn, found, advice);
    }
    Check::ok(SUBJECT, format!("Linux {} gives what containers need", kernel.release))
}

/// What is on the node of instances that are gone, or why that is not known.
pub(crate) fn leftovers(found: Result<Vec<String>, String>) -> Check {
    const SUBJECT: &str = "leftovers";
    const ADVICE: &str = "restart insula server, instances go on: it takes away directories, cgroups and interfaces; what is told \
                          again then is for you: end shims by their id, umount mounts, losetup -d loop devices, and report it \
                          as a fault";
    match found {
        Ok(found) if found.is_empty() => Check::ok(SUBJECT, "nothing is left of instances that are gone"),
        Ok(items) => {
            let found = match items.len() {
                1 => "of an instance that is gone there still is".to_owned(),
                count => format!("of instances that are gone {count} things are still there"),
            };
            Check { items, ..Check::not_ok(SUBJECT, Grade::Warn, found, ADVICE) }
        }
        Err(why) => Check::not_ok(SUBJECT, Grade::Warn, why, "see the log and the kernel's (dmesg) for what hangs"),
    }
}

/// A task: its name, restarts, and age and limit of its last beat in milliseconds.
type SeenTask<'a> = (&'a str, u64, Option<(u64, u64)>);

/// The tasks of one process, by its name.
pub(crate) fn tasks<'a>(process: &str, tasks: impl Iterator<Item = SeenTask<'a>>) -> Check {
    let subject = format!("tasks of {process}");
    let (mut count, mut silent, mut restarted) = (0, Vec::new(), Vec::new());
    for (name, restarts, beat) in tasks {
        count += 1;
        if beat.is_some_and(|(age, limit)| age > limit) {
            silent.push(name.to_owned());
        }
        if restarts > 0 {
            restarted.push(format!("{name} {restarts} times"));
        }
    }
    if !silent.is_empty() {
        let found = format!("no sign of life of {}", silent.join(", "));
        let advice = "the watchdog starts it again within seconds; its report is in watchdog/ of the data directory";
        return Check::not_ok(&subject, Grade::Bad, found, advice);
    }
    if !restarted.is_empty() {
        let found = format!("{count} run; started again: {}", restarted.join(", "));
        return Check::not_ok(&subject, Grade::Warn, found, "see the log for why they ended");
    }
    Check::ok(&subject, format!("{count} run, none was started again"))
}

#[cfg(test)]
mod tests {
    use insula_api::wire::Leader;
    use insula_types::Term;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_containers_need_is_told_when_it_is_missing() {
        let all = Kernel {
            release: "6.1.0".to_owned(),
            is_root: true,
            has_cgroups: true,
            has_overlay: true,
            is_forwarding: true,
            has_nft: true,
            has_users: true,
            has_bounded_layers: true,
            open_files: OPEN_FILES,
        };
        assert_eq!(kernel(&all).grade, Grade::Ok);
        let without_layers = kernel(&Kernel { has_bounded_layers: false, release: all.release.clone(), ..all });
        assert_eq!(without_layers.grade, Grade::Warn);
        assert!(without_layers.found.contains("fill this node's disk"), "{}", without_layers.found);
        let without_users = kernel(&Kernel { has_users: false, release: all.release.clone(), ..all });
        assert_eq!(without_users.grade, Grade::Warn);
        assert!(without_users.found.contains("root in a container is root on this node"), "{}", without_users.found);
        let without_nft = kernel(&Kernel { has_nft: false, ..all });
        assert_eq!((without_nft.grade, without_nft.found.as_str()), (Grade::Bad, "Linux 6.1.0: no program nft"));
    }

    #[test]
    fn what_others_would_miss_is_told() {
        let day = Duration::from_secs(86_400);
        let graded = |check: Check| (check.grade, check.found);
        let good = "the region's CA and all roots are good for 90 days or more".to_owned();
        assert_eq!(graded(authorities(&[], day * 90)), (Grade::Ok, good));
        let alarm = |urgency| (urgency, format!("urgency {urgency}"));
        assert_eq!(graded(authorities(&[alarm(1), alarm(2)], day)), (Grade::Warn, "urgency 1; urgency 2".to_owned()));
        assert_eq!(authorities(&[alarm(1), alarm(3)], day).grade, Grade::Bad);
        assert_eq!(graded(nodes(3, &[])), (Grade::Ok, "3 of 3 up".to_owned()));
        assert_eq!(graded(nodes(3, &["n2".to_owned()])), (Grade::Warn, "2 of 3 up; down: n2".to_owned()));
        let port = |name: &str, why: Option<&str>| (name.to_owned(), why.map(str::to_owned));
        let open = [port("edge on a:80", None), port("nodes on a:7443", None)];
        assert_eq!(graded(ports(&open)), (Grade::Ok, "edge on a:80, nodes on a:7443".to_owned()));
        let closed = [port("edge on a:80", Some("refused")), port("nodes on a:7443", None)];
        assert_eq!(graded(ports(&closed)), (Grade::Bad, "edge on a:80: refused".to_owned()));
    }

    #[test]
    fn numbers_are_graded() {
        let grades = |checks: &[Check]| checks.iter().map(|check| check.grade).collect::<Vec<_>>();
        let (ok, warn, bad) = (Grade::Ok, Grade::Warn, Grade::Bad);
        assert_eq!(grades(&[disk(50, 100), disk(14, 100), disk(4, 100), disk(0, 0)]), [ok, warn, bad, bad]);
        assert_eq!(grades(&[Some(-20), None, Some(900), Some(-40_000)].map(clock)), [ok, warn, warn, bad]);
        let left = |hours: u32| certificate(HOUR * hours, HOUR * 72);
        assert_eq!(grades(&[left(70), left(36), left(28), left(11), left(0)]), [ok, ok, warn, bad, bad]);
        let rejected = (Revision(7), "too large".to_owned());
        let catalogs = [
            catalog(true, Some(Revision(8)), None, Revision(8)),
            catalog(true, Some(Revision(7)), None, Revision(8)),
            catalog(true, None, Some(&rejected), Revision(8)),
            catalog(false, Some(Revision(8)), None, Revision(8)),
        ];
        assert_eq!(grades(&catalogs), [ok, warn, bad, bad]);
        let of = |tasks: &[SeenTask<'static>]| super::tasks("server", tasks.iter().copied());
        let all = [of(&[("a", 0, Some((1, 10)))]), of(&[("a", 1, None)]), of(&[("a", 1, Some((11, 10)))])];
        assert_eq!(grades(&all), [ok, warn, bad]);
    }

    #[test]
    fn leftovers_are_listed() {
        let none = leftovers(Ok(Vec::new()));
        assert_eq!((none.grade, none.items, none.advice), (Grade::Ok, Vec::new(), None));
        let all = ["mount /a", "shim 7 of /b"].map(str::to_owned).to_vec();
        let two = leftovers(Ok(all.clone()));
        assert_eq!((two.grade, two.items, two.advice.is_some()), (Grade::Warn, all, true));
        assert!(two.found.contains("2 things"), "{}", two.found);
        assert_eq!(leftovers(Err("read /proc: no".to_owned())).found, "read /proc: no");
    }

    #[test]
    fn the_level_is_told_only_when_somebody_holds_it_back() {
        assert!(level(Level(2), Level(2), &[]).is_none());
        let nodes = ["n2", "n3"].map(|name| (name.to_owned(), "0.1.0".to_owned()));
        let one = level(Level(1), Level(2), &nodes[..1]).expect("n2 holds it back");
        let found = "the region is at level 1, this program knows 2: held back by n2 (0.1.0)";
        assert_eq!((one.grade, one.found.as_str()), (Grade::Warn, found));
        assert!(level(Level(1), Level(2), &nodes).expect("both").found.ends_with("n2 (0.1.0) and 1 more"));
    }

    #[test]
    fn a_group_says_what_is_missing() {
        let mut status = GroupStatus {
            group: "region".to_owned(),
            leader: Some(Leader { node: NodeId::new(1), name: None }),
            term: Term(3),
            revision: Revision(9),
            voters: vec![NodeId::new(1), NodeId::new(2), NodeId::new(3)],
            is_voter: true,
            alone_since_ms: None,
        };
        assert_eq!(group(&status, 3, None, 0).grade, Grade::Ok);
        let one_down = group(&status, 2, None, 0);
        assert_eq!((one_down.grade, one_down.advice.unwrap_or_default().contains("0 more")), (Grade::Warn, true));
        assert_eq!(group(&status, 3, Some("disk full"), 0).grade, Grade::Bad);
        status.leader = None;
        status.alone_since_ms = Some(1000);
        let alone = group(&status, 1, None, 8000);
        assert_eq!((alone.grade, alone.found.as_str()), (Grade::Bad, "no leader for 7 s in term 3: no quorum"));
    }

    #[test]
    fn what_is_refused_of_the_global_state_is_told_with_its_reason() {
        let check = |refused| told(Some(0), refused, Revision(7));
        let why = "it is of life 3, which is over: this node knows of life 5".to_owned();
        let node = NodeId::new(9);
        let said = check(Some((node, why.clone())));
        let found = format!(
            "nobody tells of it since 1970-01-01 00:00:00 UTC; revision 7 is known; what {node} tells is refused: {why}"
        );
        assert_eq!((said.grade, said.found), (Grade::Warn, found));
        assert!(!check(None).found.contains("refused"));
        assert_eq!(told(None, None, Revision(7)).grade, Grade::Ok);
    }
}
