//! What `fuzz/` needs of the insides: reads as what registries, people, shims and disks give is read. An error is a finding.

use std::{collections::BTreeMap, fmt::Debug};

use serde::{Serialize, de::DeserializeOwned};

pub use crate::image::fuzz::{Area, document_seeds, documents};
use crate::{
    record::Record,
    shim::protocol::{Config, Exec, Exit, Reply, Request, Running, Stop, VERSION, Work},
};

/// One of each line and file of the protocol between agent and shim.
pub fn shim_seeds() -> Vec<Vec<u8>> {
    let stop = Stop { signal: 15, grace_ms: 10_000 };
    let running = Running { version: VERSION, pid: 7, start_ticks: 8, started_ms: 9 };
    let exit = Exit { version: VERSION, code: Some(1), signal: None, is_oom_killed: false, at_ms: 9 };
    let env: BTreeMap<String, String> = [("KEY".to_owned(), "value".to_owned())].into();
    let process = Work::Process { command: vec!["true".to_owned()], env: env.clone(), open_files_max: 1024 };
    let container = Work::Container {
        id: "i-00000001".to_owned(),
        oom_counter: Some("/sys/fs/cgroup/memory.events".to_owned()),
        output_owner: Some((1, 2)),
        netns: Some("netns".to_owned()),
        is_held: false,
        has_init: true,
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
    seeds
}

fn write(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Reads a line or a file as each of those that there are.
///
/// # Errors
/// When one does not survive its own writing.
pub fn shim(input: &[u8]) -> Result<(), String> {
    survives::<Request>(input)?;
    survives::<Reply>(input)?;
    survives::<Exec>(input)?;
    survives::<Config>(input)?;
    survives::<Running>(input)?;
    survives::<Exit>(input)?;
    survives::<Record>(input)
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) -> Result<(), String> {
    let Ok(read) = serde_json::from_slice::<T>(input) else { return Ok(()) };
    match serde_json::from_slice::<T>(&write(&read)) {
        Ok(again) if again == read => Ok(()),
        other => Err(format!("{read:?} is read back as {other:?}")),
    }
}
