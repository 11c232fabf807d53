//! What `fuzz/` needs of the insides: reads as what registries, people, shims and disks give is read. An error is a finding.

use std::{collections::BTreeMap, fmt::Debug};

use insula_types::{
    ByteSize, InstanceId, PortSpec, Protocol, ReleaseNumber, Resources, ServiceRef, ServiceSpec, TmpfsSpec, VolumeSpec,
};
use serde::{Serialize, de::DeserializeOwned};

pub use crate::image::fuzz::{Area, digest_of, document_seeds, documents};
use crate::{
    InstanceConfig, NodeLabels,
    record::Record,
    shim::protocol::{Config, Exec, Exit, OciRuntime, Reply, Request, Running, Stop, VERSION, Work},
};

/// One of each line and file of the protocol between agent and shim.
pub fn shim_seeds() -> Vec<Vec<u8>> {
    let stop = Stop { signal: 15, grace_ms: 10_000 };
    let running = Running { version: VERSION, pid: 7, start_ticks: 8, started_ms: 9 };
    let exit = Exit { version: VERSION, code: Some(1), signal: None, is_oom_killed: false, at_ms: 9 };
    let env: BTreeMap<String, String> = [("KEY".to_owned(), "value".to_owned())].into();
    let process =
        Work::Process { command: vec!["true".to_owned()], env: env.clone(), open_files_max: 1024, has_secrets: true };
    let container = Work::Container {
        id: "i-00000001".to_owned(),
        oom_counter: Some("/sys/fs/cgroup/memory.events".to_owned()),
        output_owner: Some((1, 2)),
        netns: Some("netns".to_owned()),
        is_held: false,
        has_init: true,
        runtime: Some(OciRuntime { path: "/usr/sbin/runc".to_owned(), arguments: vec!["--debug".to_owned()] }),
    };
    let exec = Exec {
        version: VERSION,
        command: vec!["ls".to_owned()],
        env,
        terminal: Some((24, 80)),
        has_input: true,
        enter_cgroups: vec!["/sys/fs/cgroup/pids/x/cgroup.procs".to_owned()],
        own_cgroup: "/sys/fs/cgroup/pids/x/exec-1".to_owned(),
        hang_up_ms: 2000,
    };
    let mut seeds = vec![write(&running), write(&exit), write(&exec)];
    seeds.extend([process, container].map(|work| write(&Config { version: VERSION, work, log_bytes_max: 1, stop })));
    let requests = [Request::Status, Request::Signal { signal: 1 }, Request::Stop(stop), Request::Wait];
    seeds.extend(requests.iter().map(write));
    let refused = Reply { error: Some("why".to_owned()), ..Reply::default() };
    let ended = Reply { exit: Some(exit), ..Reply::default() };
    seeds.extend([refused, ended, Reply { running: Some(running), ..Reply::default() }].iter().map(write));
    seeds.extend(record().map(|record| write(&record)));
    seeds
}

/// What the agent writes down of an instance; none when a name in it is none.
fn record() -> Option<Record> {
    let name = "data".parse().ok()?;
    let spec = ServiceSpec {
        image: Some(format!("registry.example/shop@sha256:{}", "0".repeat(64))),
        command: vec!["serve".to_owned()],
        env: [("KEY".to_owned(), "value".to_owned())].into(),
        ports: vec![PortSpec { name: "http".parse().ok()?, port: 80, protocol: Protocol::Http }],
        resources: Resources { disk: Some(ByteSize::mib(64)), files: Some(1024), ..Resources::default() },
        tmpfs: vec![TmpfsSpec { path: "/run".to_owned(), size: ByteSize::mib(64) }],
        volumes: vec![VolumeSpec { name, path: "/data".to_owned(), size: ByteSize::mib(64) }],
        has_init: true,
        ..ServiceSpec::default()
    };
    let node = NodeLabels { name: "n1".parse().ok()?, region: "fra".parse().ok()?, datacenter: "fra1".parse().ok()? };
    let service = ServiceRef { app: "shop".parse().ok()?, service: "web".parse().ok()? };
    let (instance, release) = (InstanceId::new(1), ReleaseNumber(1));
    Some(Record {
        config: InstanceConfig { instance, service, release, spec, node, slot: Some(0), contents: Default::default() },
        address: Some([10, 77, 0, 2].into()),
        ports: [("http".parse().ok()?, 80)].into(),
        cgroup: Some("/insula/i-00000001".to_owned()),
        users: Some(1 << 20),
        is_one_off: false,
    })
}

fn write(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Reads a line or a file as each of those that there are. Gives what became of it, in words.
///
/// # Errors
/// When one does not survive its own writing.
pub fn shim(input: &[u8]) -> Result<String, String> {
    let said = [
        survives::<Request>(input)?,
        survives::<Reply>(input)?,
        survives::<Exec>(input)?,
        survives::<Config>(input)?,
        survives::<Running>(input)?,
        survives::<Exit>(input)?,
        survives::<Record>(input)?,
    ];
    // What it was taken for, or else why for nothing.
    let taken: String =
        (1..).zip(&said).filter(|(_, why)| why.is_none()).map(|(number, _)| format!("as{number}")).collect();
    Ok(if taken.is_empty() { said.into_iter().flatten().collect::<Vec<_>>().join("; ") } else { taken })
}

/// Why it cannot be read, if it cannot.
fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) -> Result<Option<String>, String> {
    let read = match serde_json::from_slice::<T>(input) {
        Ok(read) => read,
        Err(error) => return Ok(Some(error.to_string())),
    };
    match serde_json::from_slice::<T>(&write(&read)) {
        Ok(again) if again == read => Ok(None),
        other => Err(format!("{read:?} is read back as {other:?}")),
    }
}
