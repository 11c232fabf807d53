//! The OCI bundle of a container (runtime specification 1.2): any OCI runtime could run what is written here.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use insula_types::{ByteSize, Resources, ServiceSpec};
use oci_spec::{
    OciSpecError,
    image::{Config, ImageConfiguration},
    runtime::{
        Capabilities, Capability, LinuxBlockIo, LinuxBlockIoBuilder, LinuxBuilder, LinuxCapabilitiesBuilder,
        LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespaceBuilder,
        LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDeviceBuilder, Mount,
        MountBuilder, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
        UserBuilder,
    },
};

use rustix::fs::StatVfsMountFlags;

use crate::{
    cgroup,
    contents::Placed,
    seccomp,
    shim::protocol::INSIDE,
    storage::Disk,
    user::{self, User},
    users::RANGE_LEN,
};

/// Open files of one process, where the node itself may have as many.
const OPEN_FILES_MAX: u64 = 65_536;
/// Weight of one CPU among instances that compete, the kernel's own default, and the bounds that it takes.
const CPU_SHARES_OF_ONE: u64 = 1024;
const CPU_SHARES: (u64, u64) = (2, 262_144);
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What Docker gives by default, but NET_RAW: with it, an instance could send in the name of another.
const CAPABILITIES: [Capability; 13] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Files that tell or change what belongs to the node (as Docker and containerd mask them).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Open files of one process. Not every root may go beyond its own limit (CAP_SYS_RESOURCE).
pub(crate) fn open_files_max(limits: &Resources) -> u64 {
    let wanted = limits.files.map_or(OPEN_FILES_MAX, u64::from);
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    own.map_or(wanted, |own| own.min(wanted))
}

/// What a bundle is made from.
pub(crate) struct Source<'a> {
    pub id: &'a str,
    pub service: &'a ServiceSpec,
    pub image: &'a ImageConfiguration,
    /// Mounted already: names in the image are looked up there.
    pub rootfs: &'a Path,
    pub sysfs: PathBuf,
    /// The id on the node of its root; none: it has no user namespace.
    pub users: Option<u32>,
    pub cgroup: &'a str,
    /// Disks that it may read and write.
    pub disks: &'a [Disk],
    /// Volumes: the path in the container, and where it is mounted on the node.
    pub volumes: &'a [(String, PathBuf)],
    /// Files, read-only: the path in the container, and where it is on the node.
    pub files: &'a [Placed],
    /// Where its secrets are on the node, if it has any.
    pub secrets: Option<PathBuf>,
    /// For a runtime of the node's; none: the library in the shim, which does all this itself.
    pub outside: Option<Outside<'a>>,
    /// `NAME=value`, before what the image says.
    pub env: Vec<String>,
}

/// What a bundle says where a runtime of the node's reads it.
pub(crate) struct Outside<'a> {
    /// The shim's executable, for first processes of ours and for signals.
    pub shim: &'a Path,
    /// The file that keeps the network namespace.
    pub netns: PathBuf,
    /// The container is there for commands of others.
    pub is_held: bool,
}

/// The specification, or why the definition and the image do not make one.
pub(crate) fn spec(source: &Source<'_>) -> Result<Spec, String> {
    let process = process(source)?;
    build(source, process).map_err(|error| format!("its bundle: {error}"))
}

fn process(source: &Source<'_>) -> Result<Process, String> {
    let image = source.image.config().clone().unwrap_or_default();
    let args = arguments(source.service, &image);
    if args.is_empty() {
        return Err("neither the definition nor the image says what to run: give a command".to_owned());
    }
    let args = match &source.outside {
        Some(outside) if outside.is_held => [INSIDE, "--init"].map(str::to_owned).to_vec(),
        Some(_) if source.service.has_init => [INSIDE, "--init"].map(str::to_owned).into_iter().chain(args).collect(),
        _ => args,
    };
    let mut user = user::resolve(source.rootfs, image.user().as_deref().unwrap_or_default())?;
    if source.users.is_some() {
        if user.uid.max(user.gid) >= RANGE_LEN {
            return Err(format!("its user is {}:{}: an app has the ids up to {}", user.uid, user.gid, RANGE_LEN - 1));
        }
        user.groups.retain(|group| *group < RANGE_LEN);
    }
    let mut env = vec![PATH.to_owned()];
    for variable in image.env().iter().flatten().chain(&source.env) {
        let name = variable.split('=').next().unwrap_or_default();
        // The container library takes its whole process down over one without a name, and no program would find it.
        if name.is_empty() {
            continue;
        }
        env.retain(|earlier| earlier.split('=').next() != Some(name));
        env.push(variable.clone());
    }
    let cwd = image.working_dir().clone().filter(|cwd| cwd.starts_with('/')).unwrap_or_else(|| "/".to_owned());
    let files = open_files_max(&source.service.resources);
    build_process(args, env, cwd, &user, files, capabilities(source)).map_err(|error| format!("its process: {error}"))
}

/// Program and arguments: the service's command, or the image's program with the arguments of the service or its own.
fn arguments(service: &ServiceSpec, image: &Config) -> Vec<String> {
    if !service.command.is_empty() {
        return service.command.clone();
    }
    let given = if service.args.is_empty() { image.cmd().clone().unwrap_or_default() } else { service.args.clone() };
    image.entrypoint().clone().unwrap_or_default().into_iter().chain(given).collect()
}

fn capabilities(source: &Source<'_>) -> Capabilities {
    let mut all: Capabilities = CAPABILITIES.into_iter().collect();
    // With a user namespace no device that it makes can be opened; version 1 of control groups refuses them.
    if source.users.is_none() && cgroup::is_unified() {
        all.remove(&Capability::Mknod);
    }
    all
}

fn build_process(
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    user: &User,
    files: u64,
    all: Capabilities,
) -> Result<Process, OciSpecError> {
    // Another user than root gets them only through files that carry them.
    let now = if user.uid == 0 { all.clone() } else { Capabilities::new() };
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(all)
        .effective(now.clone())
        .permitted(now)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()?;
    let files = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(files).hard(files).build()?;
    let mut builder = UserBuilder::default().uid(user.uid).gid(user.gid);
    if !user.groups.is_empty() {
        builder = builder.additional_gids(user.groups.clone());
    }
    ProcessBuilder::default()
        .terminal(false)
        .user(builder.build()?)
        .args(args)
        .env(env)
        .cwd(cwd)
        .capabilities(capabilities)
        .rlimits(vec![files])
        .no_new_privileges(true)
        .build()
}

fn build(source: &Source<'_>, process: Process) -> Result<Spec, OciSpecError> {
    let mut namespaces = Vec::new();
    for kind in [LinuxNamespaceType::Pid, LinuxNamespaceType::Ipc, LinuxNamespaceType::Uts, LinuxNamespaceType::Mount] {
        namespaces.push(LinuxNamespaceBuilder::default().typ(kind).build()?);
    }
    if cgroup::is_unified() {
        namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Cgroup).build()?);
    }
    // Sandboxes look for it here. From within a user namespace of its own no runtime could enter it: the shim calls it there.
    if let (Some(outside), None) = (&source.outside, source.users) {
        let typ = LinuxNamespaceType::Network;
        namespaces.push(LinuxNamespaceBuilder::default().typ(typ).path(outside.netns.clone()).build()?);
    }
    let mut linux = LinuxBuilder::default();
    if let Some(first) = source.users {
        namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User).build()?);
        let range = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(first).size(RANGE_LEN).build()?;
        linux = linux.uid_mappings(vec![range]).gid_mappings(vec![range]);
    }
    let linux = linux
        .namespaces(namespaces)
        .cgroups_path(source.cgroup)
        .resources(resources(source)?)
        .seccomp(seccomp::profile()?)
        .masked_paths(MASKED.map(str::to_owned))
        .readonly_paths(READ_ONLY.map(str::to_owned))
        .build()?;
    SpecBuilder::default()
        .version("1.0.2")
        .hostname(source.id)
        .root(RootBuilder::default().path(source.rootfs).readonly(source.service.is_read_only).build()?)
        .process(process)
        .mounts(mounts(source)?)
        .linux(linux)
        .build()
}

fn resources(source: &Source<'_>) -> Result<LinuxResources, OciSpecError> {
    let limits = source.service.resources;
    let shares = (u64::from(limits.cpu.0) * CPU_SHARES_OF_ONE / 1000).clamp(CPU_SHARES.0, CPU_SHARES.1);
    let cpu = cgroup::Bandwidth::of(limits.cpu);
    let mut bandwidth = LinuxCpuBuilder::default().shares(shares).quota(cpu.quota_us as i64).period(cpu.period_us);
    if cgroup::can_burst() {
        bandwidth = bandwidth.burst(cpu.burst_us());
    }
    let memory = i64::try_from(limits.memory.0).unwrap_or(i64::MAX);
    let mut resources = LinuxResourcesBuilder::default()
        .cpu(bandwidth.build()?)
        // The second counts memory and swap together: no swap.
        .memory(LinuxMemoryBuilder::default().limit(memory).swap(memory).build()?)
        .pids(LinuxPidsBuilder::default().limit(i64::from(limits.pids)).build()?)
        .devices(vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?]);
    if let Some(rate) = limits.io {
        resources = resources.block_io(throttle(source.disks, rate)?);
    }
    if cgroup::is_unified() {
        // All of an instance goes when the kernel must kill a part of it.
        let mut files = HashMap::from([("memory.oom.group".to_owned(), "1".to_owned())]);
        if Path::new("/proc/swaps").exists() {
            // No swap. libcontainer takes the 0 that is left beside the memory for "not set".
            files.insert("memory.swap.max".to_owned(), "0".to_owned());
        }
        resources = resources.unified(files);
    }
    resources.build()
}

/// The same rate for what is read from each disk, and for what is written.
fn throttle(disks: &[Disk], rate: ByteSize) -> Result<LinuxBlockIo, OciSpecError> {
    let of =
        |disk: &Disk| LinuxThrottleDeviceBuilder::default().major(disk.major).minor(disk.minor).rate(rate.0).build();
    let devices: Vec<_> = disks.iter().map(of).collect::<Result<_, _>>()?;
    LinuxBlockIoBuilder::default().throttle_read_bps_device(devices.clone()).throttle_write_bps_device(devices).build()
}

/// Options for what cannot be written to. In a user namespace nobody may run what could not be run outside.
fn read_only(at: &Path) -> &'static [&'static str] {
    match rustix::fs::statvfs(at) {
        Ok(found) if found.f_flag.contains(StatVfsMountFlags::NOEXEC) => &["bind", "nosuid", "nodev", "noexec", "ro"],
        _ => &["bind", "nosuid", "nodev", "ro"],
    }
}

fn mounts(source: &Source<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let sysfs = source.sysfs.to_string_lossy();
    let table: [(&str, &str, &str, &[&str]); 6] = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "bind", &sysfs, &["bind", "nosuid", "noexec", "nodev", "ro"]),
    ];
    let mount = |(destination, kind, source, options): (&str, &str, &str, &[&str])| {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        MountBuilder::default().destination(destination).typ(kind).source(source).options(options).build()
    };
    let mut mounts: Vec<Mount> = table.into_iter().map(mount).collect::<Result<_, _>>()?;
    if let Some(outside) = &source.outside {
        let options = ["bind", "nosuid", "nodev", "ro"];
        mounts.push(mount((INSIDE, "bind", &outside.shim.to_string_lossy(), &options))?);
    }
    let own = mounts.len();
    for tmpfs in &source.service.tmpfs {
        let size = format!("size={}", tmpfs.size.0);
        mounts.push(mount((&tmpfs.path, "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777", &size]))?);
    }
    for (path, at) in source.volumes {
        mounts.push(mount((path, "bind", &at.to_string_lossy(), &["bind", "nosuid", "nodev"]))?);
    }
    for (path, at) in source.files {
        mounts.push(mount((path, "bind", &at.to_string_lossy(), read_only(at)))?);
    }
    if let Some(at) = &source.secrets {
        let options = ["bind", "nosuid", "nodev", "noexec", "ro"];
        mounts.push(mount(("/run/secrets", "bind", &at.to_string_lossy(), &options))?);
    }
    // What is mounted within another goes on top of it.
    mounts[own..].sort_by(|one, other| one.destination().cmp(other.destination()));
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_take_the_place_of_those_of_the_image_and_a_command_of_all() {
        let mut image = Config::default();
        image.set_entrypoint(Some(vec!["entry".to_owned()]));
        image.set_cmd(Some(vec!["own".to_owned()]));
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let plain = ServiceSpec::default();
        assert_eq!(arguments(&plain, &image), words(&["entry", "own"]));
        let given = ServiceSpec { args: words(&["a", "b"]), ..ServiceSpec::default() };
        assert_eq!(arguments(&given, &image), words(&["entry", "a", "b"]));
        // A one-off instance has its command, whatever the service gives the image's program.
        let command = ServiceSpec { command: words(&["c"]), ..given };
        assert_eq!(arguments(&command, &image), words(&["c"]));
    }
}
