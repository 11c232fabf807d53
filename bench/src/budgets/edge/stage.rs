//! What is measured: a node whose edge leads to one instance, and two other proxies in front of the same instance. All are
//! ended, and their files removed, when it is dropped.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use insula_env::Clock;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    budgets::processes::ticks,
    interrupt::hears,
    lab::{Programs, output},
};

/// The host whose requests lead to the instance.
pub(super) const HOST: &str = "bench.example";
/// The core of the proxies, and that of the instance and the clients.
const CORE_PROXY: &str = "0";
pub(super) const CORE_OTHERS: &str = "1";
/// How long a part may take to answer.
const WITHIN: Duration = Duration::from_secs(30);
/// Where each listens: below the ports that the kernel gives away.
const EDGE: SocketAddr = at(18080);
const NGINX: SocketAddr = at(18081);
const HAPROXY: SocketAddr = at(18082);
const INSTANCE: SocketAddr = at(18083);

const fn at(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Keeps connections on both sides and says whom requests are from, as the edge does.
fn nginx_conf(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; tcp_nodelay on;\n\
         upstream instance {{ server {INSTANCE}; keepalive 128; keepalive_requests 1000000000; }}\n\
         server {{ listen {NGINX}; location / {{\n\
         proxy_pass http://instance; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host; }} }} }}\n"
    )
}

fn haproxy_conf() -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout client 60s\n  timeout server 60s\n\
         \x20 timeout connect 5s\n  option forwardfor\n  http-reuse always\n\
         listen bench\n  bind {HAPROXY}\n  server instance {INSTANCE}\n"
    )
}

/// One that is measured.
pub(super) struct Proxy {
    pub address: SocketAddr,
    pids: Vec<u32>,
}

impl Proxy {
    /// Processor time that it has used, in ticks.
    pub(super) fn ticks(&self) -> Result<u64> {
        self.pids.iter().map(|pid| ticks(*pid)).sum()
    }
}

/// All that runs. Of the proxies the edge comes first.
pub(super) struct Stage {
    proxies: Option<[Proxy; 3]>,
    children: Vec<Child>,
    dir: PathBuf,
}

impl Stage {
    pub(super) fn set(programs: &Programs) -> Result<Self> {
        for address in [EDGE, NGINX, HAPROXY, INSTANCE] {
            // One that is left over would take a part of the requests unseen.
            TcpListener::bind(address).with_context(|| format!("something listens on {address} already"))?;
        }
        let dir = std::env::temp_dir().join(format!("insula-bench-edge-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let mut stage = Self { proxies: None, children: Vec::new(), dir };
        stage.start(programs).with_context(|| format!("insula dev said last:\n{}", stage.log_tail()))?;
        Ok(stage)
    }

    pub(super) fn proxies(&self) -> &[Proxy; 3] {
        self.proxies.as_ref().expect("it has been set")
    }

    fn start(&mut self, programs: &Programs) -> Result<()> {
        let (edge, node) = (EDGE.to_string(), self.dir.join("node"));
        let insula = programs.insula.as_os_str();
        let server =
            self.spawn(&[insula, "dev".as_ref(), "--edge".as_ref(), edge.as_ref(), "--data".as_ref(), node.as_ref()])?;
        let definition = format!(
            "app = \"bench\"\n[services.web]\nruntime = \"process\"\n\
             command = [\"/usr/bin/taskset\", \"-c\", \"{CORE_OTHERS}\", \"{}\", \"origin\", \"--also\", \"{INSTANCE}\"]\n\
             ports = [{{ name = \"http\", port = 8080, protocol = \"http\" }}]\n\
             routes = [{{ host = \"{HOST}\", path = \"/\" }}]\n",
            programs.bench.display()
        );
        let insula = |arguments: &[&str], input: &str| {
            let mut command = Command::new(&programs.insula);
            output(command.args(arguments).env("INSULA_SOCKET", node.join("run/api.sock")), input)
        };
        until("insula dev answers", || insula(&["nodes"], "").map(drop))?;
        insula(&["deploy", "-", "--wait", "1m"], &definition)?;

        let (nginx_file, haproxy_file) = (self.dir.join("nginx.conf"), self.dir.join("haproxy.cfg"));
        fs::write(&nginx_file, nginx_conf(&self.dir))?;
        fs::write(&haproxy_file, haproxy_conf())?;
        let nginx = self.spawn(&["/usr/sbin/nginx".as_ref(), "-c".as_ref(), nginx_file.as_ref()])?;
        let haproxy = self.spawn(&["/usr/sbin/haproxy".as_ref(), "-f".as_ref(), haproxy_file.as_ref()])?;
        let mut proxies = Vec::new();
        for (address, pid) in [(EDGE, server), (NGINX, nginx), (HAPROXY, haproxy)] {
            until(&format!("{address} takes connections"), || Ok(TcpStream::connect(address).map(drop)?))?;
            let pids = if address == EDGE { vec![dataplane_of(pid)?] } else { family_of(pid)? };
            proxies.push(Proxy { address, pids });
        }
        self.proxies = proxies.try_into().ok();
        Ok(())
    }

    /// Starts a program on the proxies' core.
    fn spawn(&mut self, line: &[&std::ffi::OsStr]) -> Result<u32> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).context("open a log")?;
        let mut command = Command::new("taskset");
        command.args(["-c", CORE_PROXY]).args(line).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = hears(&mut command).spawn().with_context(|| format!("start {line:?}"))?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &self.children {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).ok();
        }
        let clock = Clock::real();
        let deadline = clock.now() + WITHIN;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && clock.now() < deadline {
                sleep(Duration::from_millis(50));
            }
            child.kill().ok();
            child.wait().ok();
        }
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn until(what: &str, is_so: impl Fn() -> Result<()>) -> Result<()> {
    let clock = Clock::real();
    let deadline = clock.now() + WITHIN;
    while let Err(error) = is_so() {
        if clock.now() > deadline {
            bail!("waited in vain until {what}: {error:#}");
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The process and those that it has started.
fn family_of(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(std::iter::once(pid).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect())
}

/// The dataplane that a server has started, from whichever of its threads.
fn dataplane_of(server: u32) -> Result<u32> {
    let threads = fs::read_dir(format!("/proc/{server}/task")).context("look at the server")?.flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<u32> = children
        .flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let is_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"dataplane")
    };
    let found: Vec<u32> = pids.into_iter().filter(is_it).collect();
    ensure!(found.len() == 1, "the server has the dataplanes {found:?}");
    Ok(found[0])
}
