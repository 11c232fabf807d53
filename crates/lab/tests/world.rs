//! Real labs, with a stand-in for the program: what they leave behind, what peers see of a kill, a power cut, a cut.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use insula_lab::{Lab, LabConfig, LinkShape, Rate, RegionShape, Target, init, members, traces};
use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sched::{CloneFlags, setns},
    sys::signal::Signal,
    unistd::geteuid,
};

/// Within which everything that is awaited must come.
const SOON: Duration = Duration::from_secs(20);
/// An answer within the lab takes microseconds: no answer for so long is silence.
const SILENCE: Duration = Duration::from_millis(700);

const STANDIN: &str = env!("CARGO_BIN_EXE_lab-standin");

/// A lab of its own for each test, gone at the end however the test ends.
struct Fixture {
    lab: Option<Lab>,
    config: LabConfig,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new(shape: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !geteuid().is_root() {
            eprintln!("skipped: a lab needs root");
            return None;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut config = LabConfig::new(&name, Path::new(STANDIN));
        config.dir = dir.path().join("lab");
        config.regions = shape.split(',').map(|shape| shape.parse::<RegionShape>().expect("shape")).collect();
        Some(Self { lab: None, config, _dir: dir })
    }

    fn up(shape: &str) -> Option<Self> {
        let mut fixture = Self::new(shape)?;
        fixture.lab = Some(Lab::up(&fixture.config).expect("up"));
        for node in fixture.lab().nodes().expect("nodes") {
            let mut touch = fixture.lab().command(&node.name, "sh").expect("command");
            // Synced: a power cut loses what is not.
            let script = format!("touch {0} && sync {0}", init::CONFIG);
            assert!(touch.args(["-c", &script]).status().expect("touch").success());
            soon("the server", || fixture.role(&node.name, Target::Server).is_some());
            soon("the dataplane", || fixture.role(&node.name, Target::Dataplane).is_some());
        }
        Some(fixture)
    }

    fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("it is up")
    }

    fn role(&self, node: &str, target: Target) -> Option<i32> {
        let status = self.lab().status().expect("status").into_iter().find(|status| status.plan.name == node)?;
        if target == Target::Server { status.server } else { status.dataplane }
    }

    fn address(&self, node: &str, port: u16) -> SocketAddr {
        let nodes = self.lab().nodes().expect("nodes");
        let plan = nodes.iter().find(|plan| plan.name == node).expect("node");
        SocketAddr::from((plan.address, port))
    }

    /// Runs on a thread that is in a place's network.
    fn at<T: Send>(&self, place: &str, work: impl FnOnce() -> T + Send) -> T {
        let mut child = self
            .lab()
            .command(place, "sleep")
            .expect("command")
            .arg("60")
            .spawn()
            .expect("start a process in the place");
        // `nsenter` may not have entered yet.
        let own = fs::read_link("/proc/self/ns/net").expect("own namespace");
        let path = format!("/proc/{}/ns/net", child.id());
        soon("the process to enter", || fs::read_link(&path).is_ok_and(|there| there != own));
        let namespace = fs::File::open(&path).expect("open namespace");
        let result = std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("enter");
                work()
            });
            inside.join().expect("no panic")
        });
        child.kill().expect("end it");
        child.wait().expect("collect it");
        result
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let down = Lab::down(&self.config.name, &self.config.dir);
        if !std::thread::panicking() {
            down.expect("down");
            assert_nothing_left(&self.config);
        }
    }
}

fn assert_nothing_left(config: &LabConfig) {
    assert_eq!(members(&config.dir), []);
    assert_eq!(traces::cgroups(&config.name), Vec::<PathBuf>::new());
    assert!(!config.dir.exists());
    let text = config.dir.display().to_string();
    assert!(!fs::read_to_string("/proc/self/mountinfo").expect("mounts").contains(&text));
    let loops = fs::read_dir("/sys/block").expect("devices").flatten();
    let mut backing = loops.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    assert!(!backing.any(|file| file.contains(&text)));
}

fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = insula_env::Clock::real().now() + SOON;
    while !holds() {
        assert!(insula_env::Clock::real().now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a byte and waits for it to come back.
fn echo(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    stream.set_read_timeout(Some(SILENCE)).expect("timeout");
    stream.write_all(b"x").map_err(|error| error.kind())?;
    match stream.read(&mut [0]) {
        Ok(0) => Err(ErrorKind::UnexpectedEof),
        Ok(_) => Ok(()),
        Err(error) => Err(error.kind()),
    }
}

/// What a new connection meets.
fn knock(to: SocketAddr) -> Result<(), ErrorKind> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE).map_err(|error| error.kind())?;
    echo(&mut stream)
}

#[test]
fn what_is_left_behind_keeps_nothing_of_who_started_it() {
    let (mut read, write) = std::io::pipe().expect("a pipe");
    // As a shell hands them on, and `flock` its lock.
    fcntl(&write, FcntlArg::F_SETFD(FdFlag::empty())).expect("handed on to every process");
    let Some(fixture) = Fixture::up("fra:1") else { return };
    fixture.lab().power_off(&["n1"]).expect("off");
    fixture.lab().power_on("n1").expect("on");
    drop(write);
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe");
    assert_eq!(read.read(&mut [0]).map_err(|error| error.kind()), Ok(0), "somebody in the lab keeps its other end");
}

#[test]
fn the_manager_restarts_the_server_and_leaves_the_dataplane_alone() {
    let Some(fixture) = Fixture::up("fra:1") else { return };
    let (server, dataplane) = (fixture.role("n1", Target::Server), fixture.role("n1", Target::Dataplane));
    let status = fs::read_to_string(format!("/proc/{}/status", server.expect("it runs"))).expect("status");
    assert!(status.contains("SigBlk:\t0000000000000000"), "it hears every signal: {status}");
    fixture.lab().kill("n1", Target::Server, Signal::SIGKILL).expect("kill");
    soon("another server", || fixture.role("n1", Target::Server).is_some_and(|now| Some(now) != server));
    assert_eq!(fixture.role("n1", Target::Dataplane), dataplane);
    fixture.lab().stop_server("n1").expect("stop");
    assert_eq!(fixture.role("n1", Target::Server), None);
    assert_eq!(fixture.role("n1", Target::Dataplane), dataplane);
    fixture.lab().start_server("n1").expect("start");
    soon("the server again", || fixture.role("n1", Target::Server).is_some());
    fixture.lab().kill("n1", Target::Dataplane, Signal::SIGKILL).expect("kill");
    soon("no dataplane", || fixture.role("n1", Target::Dataplane).is_none());
    assert!(fixture.lab().kill("n1", Target::Dataplane, Signal::SIGKILL).is_err(), "there is none to kill");
}

#[test]
fn a_kill_is_heard_and_a_power_cut_is_not() {
    let Some(fixture) = Fixture::up("fra:3") else { return };
    let (near, far) = (fixture.address("n2", 7443), fixture.address("n3", 7443));
    let written = |node: &str| {
        let mut show = fixture.lab().command(node, "cat").expect("command");
        String::from_utf8(show.arg("/var/lib/insula/kept").output().expect("run").stdout).expect("text")
    };
    let mut write = fixture.lab().command("n2", "sh").expect("command");
    let script = "hostname > /var/lib/insula/kept; touch /etc/insula/own /usr/own";
    assert!(write.args(["-c", script]).status().expect("run").success());
    assert_eq!(written("n2"), "n2\n");
    assert_eq!(written("n1"), "", "every node has its own disk");
    assert!(!Path::new("/usr/own").exists() && !Path::new("/etc/insula/own").exists());

    fixture.at("n1", || {
        assert_eq!(knock(near), Ok(()));
        assert_eq!(knock(far), Ok(()));
        let mut open = TcpStream::connect_timeout(&near, SOON).expect("connect");
        assert_eq!(echo(&mut open), Ok(()));
        fixture.lab().kill("n2", Target::All, Signal::SIGKILL).expect("kill");
        let heard = echo(&mut open);
        assert!(matches!(heard, Err(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)), "{heard:?}");
        assert_eq!(knock(near), Err(ErrorKind::ConnectionRefused));

        let mut open = TcpStream::connect_timeout(&far, SOON).expect("connect");
        assert_eq!(echo(&mut open), Ok(()));
        fixture.lab().power_off(&["n3"]).expect("power off");
        assert_eq!(echo(&mut open), Err(ErrorKind::WouldBlock), "not a word");
        let met = knock(far);
        assert!(matches!(met, Err(ErrorKind::TimedOut | ErrorKind::HostUnreachable)), "{met:?}");
    });
    let power = || fixture.lab().status().expect("status").iter().map(|node| node.power).collect::<Vec<_>>();
    assert_eq!(power(), ["on", "killed", "off"]);
    assert!(fixture.lab().power_off(&["n3"]).is_err(), "it is off");
    fixture.lab().power_on("n2").expect("on");
    fixture.lab().power_on("n3").expect("on");
    assert_eq!(power(), ["on", "on", "on"]);
    assert_eq!(written("n2"), "n2\n", "the disk outlives the power");
    fixture.at("n1", || {
        soon("the near node", || knock(near).is_ok());
        soon("the far node", || knock(far).is_ok());
    });
}

#[test]
fn cuts_are_silent_directed_and_outlive_the_power() {
    let Some(fixture) = Fixture::up("fra:3") else { return };
    let lab = fixture.lab();
    let [one, near, far] = ["n1", "n2", "n3"].map(|node| fixture.address(node, 7443));
    let reaches = |from: &str, to| fixture.at(from, || knock(to));
    for (name, other) in [("n2", near), ("n3", far)] {
        lab.cut("n1", name, false).expect("cut");
        assert_eq!(reaches("n1", other), Err(ErrorKind::TimedOut));
        assert_eq!(reaches(name, one), Err(ErrorKind::TimedOut));
        lab.heal(Some((name, "n1"))).expect("heal");
        assert_eq!(reaches("n1", other), Ok(()));
    }
    lab.cut("fra1", "fra2", true).expect("cut");
    lab.power_off(&["n3"]).expect("off");
    lab.power_on("n3").expect("on");
    soon("the server", || fixture.role("n3", Target::Server).is_some());
    // Packets to n3 are lost; those from n3 arrive, which a connection cannot show, and an unanswered one can.
    assert_eq!(reaches("n2", far), Err(ErrorKind::TimedOut));
    assert_eq!(reaches("n1", near), Ok(()));
    let heard = fixture.at("n1", || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:9999").expect("bind");
        socket.set_read_timeout(Some(SOON)).expect("timeout");
        fixture.at("n3", || {
            let other = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
            other.send_to(b"x", SocketAddr::from((one.ip(), 9999))).expect("send");
        });
        socket.recv(&mut [0]).map_err(|error| error.kind())
    });
    assert_eq!(heard, Ok(1));
    lab.heal(None).expect("heal");
    assert_eq!(reaches("n2", far), Ok(()));
    assert!(lab.cut("n1", "n9", false).is_err());
}

#[test]
fn regions_are_as_far_apart_as_is_said() {
    let Some(fixture) = Fixture::up("fra:2,was:1,nrt:1") else { return };
    let lab = fixture.lab();
    let [near, far, other] = ["n2", "n3", "n4"].map(|node| fixture.address(node, 7443));
    let clock = insula_env::Clock::real();
    // To a new connection and back, and once more for what is sent on it.
    let knock_takes = |from: &str, to| {
        fixture.at(from, || {
            let begun = clock.now();
            knock(to).map(|()| (clock.now() - begun).as_millis() as u64)
        })
    };
    let rtt = |time_ms| LinkShape { rtt: Some(Duration::from_millis(time_ms)), ..LinkShape::default() };
    lab.link("fra", "was", rtt(120), false).expect("a link");
    for (from, to, least, most) in
        [("n1", far, 240, 400), ("n3", near, 240, 400), ("n1", near, 0, 100), ("n1", other, 0, 100)]
    {
        let took = knock_takes(from, to).expect("an answer");
        assert!((least..most).contains(&took), "{from} to {to} and back twice: {took} ms");
    }
    // What lies in no region is near to all of them.
    let registry = SocketAddr::from((insula_lab::config::SERVICES_ADDRESS, insula_lab::config::REGISTRY_PORT));
    let begun = clock.now();
    fixture.at("n3", || TcpStream::connect_timeout(&registry, SILENCE)).expect("the registry answers");
    assert!(clock.now() - begun < SILENCE);

    lab.link("was", "fra", rtt(20), true).expect("a link that is quicker back");
    let took = knock_takes("n1", far).expect("an answer");
    assert!((140..260).contains(&took), "{took} ms");

    lab.cut("fra", "was", false).expect("cut");
    assert_eq!(knock_takes("n1", far), Err(ErrorKind::TimedOut));
    assert!(knock_takes("n1", other).is_ok());
    lab.heal(None).expect("heal");
    assert!(knock_takes("n1", far).is_ok());

    lab.link("fra", "nrt", LinkShape { loss_ppm: Some(1_000_000), ..LinkShape::default() }, true).expect("a bad link");
    assert_eq!(knock_takes("n1", other), Err(ErrorKind::TimedOut));
    lab.link("fra", "nrt", LinkShape { loss_ppm: Some(0), rate: Some(Rate(Some(8_000_000))), ..rtt(0) }, false)
        .expect("a slow link");
    let took = fixture.at("n1", || {
        let mut stream = TcpStream::connect_timeout(&other, SOON).expect("connect");
        stream.set_read_timeout(Some(SOON)).expect("timeout");
        let begun = clock.now();
        let mut reader = stream.try_clone().expect("clone");
        // Half a megabyte, of which each byte comes back: half a second each way at a megabyte a second, together.
        std::thread::scope(|scope| {
            scope.spawn(move || reader.read_exact(&mut vec![0; 512 << 10]).expect("all comes back"));
            stream.write_all(&vec![b'x'; 512 << 10]).expect("sent");
        });
        (clock.now() - begun).as_millis() as u64
    });
    assert!((500..4000).contains(&took), "{took} ms");
    assert!(lab.link("fra", "fra", rtt(1), false).is_err() && lab.link("fra", "ams", rtt(1), false).is_err());
}

#[test]
fn a_paused_node_is_silent_and_goes_on() {
    let Some(fixture) = Fixture::up("fra:2") else { return };
    let to = fixture.address("n2", 7443);
    fixture.at("n1", || {
        let mut open = TcpStream::connect_timeout(&to, SOON).expect("connect");
        assert_eq!(echo(&mut open), Ok(()));
        fixture.lab().pause("n2").expect("pause");
        assert_eq!(echo(&mut open), Err(ErrorKind::WouldBlock));
        fixture.lab().resume("n2").expect("resume");
        soon("the answer", || open.read(&mut [0]).is_ok());
    });
    fixture.lab().pause("n2").expect("pause");
    fixture.lab().power_off(&["n2"]).expect("a paused node can lose its power");
}

#[test]
fn up_lets_go_of_who_called_it() {
    let Some(fixture) = Fixture::new("fra:1") else { return };
    let mut up = Command::new(STANDIN);
    up.args(["lab", "--name", &fixture.config.name, "up", "--bare", "--dir"]).arg(&fixture.config.dir);
    // Ends only when nothing that was started holds the pipes any more.
    let output = up.stdin(Stdio::null()).output().expect("run");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("n1"));
}

#[test]
fn down_removes_what_a_crash_of_up_left() {
    let Some(fixture) = Fixture::new("fra:3") else { return };
    let (name, dir) = (fixture.config.name.clone(), fixture.config.dir.clone());
    // Killed ever later on its way: before anything, between namespaces, between nodes.
    for stage in [0, 1, 3, 5, 7] {
        let mut up = Command::new(STANDIN)
            .args(["lab", "--name", &name, "up", "--bare", "--dir"])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start");
        soon("that much of the lab", || {
            members(&dir).len() >= stage || up.try_wait().is_ok_and(|ended| ended.is_some())
        });
        up.kill().expect("kill");
        up.wait().expect("collect");
        fs::create_dir_all(format!("/sys/fs/cgroup/pids/insula-lab-{name}-n1/inner")).ok();
        Lab::down(&name, &dir).expect("down");
        assert_nothing_left(&fixture.config);
    }
    assert!(!Lab::down(&name, &dir).expect("nothing is there"), "and it says so");
}

#[test]
fn a_second_lab_is_refused_and_foreign_files_are_kept() {
    let Some(fixture) = Fixture::up("fra:1") else { return };
    assert!(matches!(Lab::up(&fixture.config), Err(insula_lab::Error::Exists(_))));
    let foreign = tempfile::tempdir().expect("temporary directory");
    fs::write(foreign.path().join("letter"), "dear").expect("write");
    assert!(Lab::down("other", foreign.path()).is_err());
    assert!(foreign.path().join("letter").exists());
}

#[test]
fn the_registry_takes_an_image() {
    let Some(fixture) = Fixture::up("fra:1") else { return };
    let image = insula_lab::image::tiny("v7", 0).expect("image");
    let reference = insula_lab::image::push(fixture.lab(), &image, "tiny", "v7").expect("push");
    let (_, digest) = reference.split_once('@').expect("by digest");
    let answer = fixture.at("n1", || {
        let mut stream = TcpStream::connect_timeout(&insula_lab::services::registry(), SOON).expect("connect");
        let accept = "application/vnd.oci.image.manifest.v1+json";
        let request =
            format!("GET /v2/tiny/manifests/v7 HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("send");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("receive");
        text
    });
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(digest), "{answer}");
}

#[test]
fn disks_fill_stall_lose_what_was_not_synced_and_are_wiped() {
    let Some(fixture) = Fixture::up("fra:2") else { return };
    let lab = fixture.lab();
    let sh = |node: &str, script: &str| {
        let mut command = lab.command(node, "sh").expect("command");
        let output = command.args(["-c", script]).stdin(Stdio::null()).output().expect("run");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let data = "cd /var/lib/insula;";
    assert!(sh("n1", &format!("{data} echo old > synced && sync synced")).0);

    lab.fill_disk("n1").expect("fill");
    assert!(!sh("n1", &format!("{data} head -c 1000000 /dev/zero > more")).0, "there is no room");
    assert!(sh("n2", &format!("{data} head -c 1000000 /dev/zero > more")).0, "the other node's disk has room");
    assert!(sh("n1", "sync -f /var/lib/insula").0);
    lab.mend_disk("n1").expect("mend");
    lab.power_off(&["n1"]).expect("off");
    lab.power_on("n1").expect("on");
    assert!(sh("n1", &format!("{data} head -c 1000000 /dev/zero > more")).0, "there is room again, for good");

    lab.stall_disks(&["n1"]).expect("stall");
    assert!(lab.is_stalled("n1").expect("known") && lab.stall_disks(&["n1"]).is_err() && lab.fill_disk("n1").is_err());
    let mut waiting = lab.command("n1", "sh").expect("command");
    let script = format!("{data} echo late > stalled");
    let mut waiting = waiting.args(["-c", &script]).stdin(Stdio::null()).spawn().expect("start");
    let is_waiting = |pid: u32| {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let pids = children.split_whitespace().map(str::to_owned).chain([pid.to_string()]);
        let waits =
            |pid: String| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") D "));
        pids.into_iter().any(waits)
    };
    soon("the write to wait for the disk", || is_waiting(waiting.id()));
    lab.mend_disk("n1").expect("mend");
    assert!(waiting.wait().expect("ends").success());

    lab.stall_disks(&["n2"]).expect("stall");
    lab.kill("n2", Target::All, Signal::SIGKILL).expect("a stalled disk is in nobody's way");
    lab.power_on("n2").expect("on");
    lab.stall_disks(&["n2"]).expect("a new life has no stall");
    assert!(sh("n1", &format!("{data} echo new > fresh; echo new > synced")).0);
    lab.power_off(&["n1", "n2"]).expect("both at once");
    assert!(lab.wipe_disk("n2").is_ok());
    for node in ["n1", "n2"] {
        lab.power_on(node).expect("on");
    }
    assert!(lab.wipe_disk("n1").is_err(), "it is on");
    // The new content of `synced` was never synced: the old one or none is left, as after a real power cut.
    let (_, left) = sh("n1", &format!("{data} cat synced; ls"));
    assert!(!left.contains("new") && !left.contains("fresh"), "{left}");
    assert_eq!(sh("n2", &format!("{data} ls")).1, "", "another machine's disk");
    // Left to `down`: it must not wait for a stalled disk.
    lab.stall_disks(&["n1"]).expect("stall");
}
