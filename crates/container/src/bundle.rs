//! The OCI bundle of a container (runtime specification 1.2): any OCI runtime could run what is written here.

use std::path::{Path, PathBuf};

use insula_types::ServiceSpec;
use oci_spec::{
    OciSpecError,
    image::ImageConfiguration,
    runtime::{
        Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDeviceCgroupBuilder,
        LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder,
        LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimitBuilder, PosixRlimitType, Process,
        ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
    },
};

use crate::{cgroup, seccomp, user, users::RANGE_LEN};

/// Open files of one process, where the node itself may have as many.
const OPEN_FILES_MAX: u64 = 65_536;
/// Length of one period of CPU time in microseconds, the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel takes no smaller quota.
const CPU_QUOTA_US_MIN: i64 = 1000;
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
pub(crate) fn open_files_max() -> u64 {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    own.map_or(OPEN_FILES_MAX, |own| own.min(OPEN_FILES_MAX))
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
    /// `NAME=value`, before what the image says.
    pub env: Vec<String>,
}

/// The specification, or why the definition and the image do not make one.
pub(crate) fn spec(source: &Source<'_>) -> Result<Spec, String> {
    let process = process(source)?;
    build(source, process).map_err(|error| format!("its bundle: {error}"))
}

fn process(source: &Source<'_>) -> Result<Process, String> {
    let image = source.image.config().clone().unwrap_or_default();
    let args = if source.service.command.is_empty() {
        let entrypoint = image.entrypoint().clone().unwrap_or_default();
        entrypoint.into_iter().chain(image.cmd().clone().unwrap_or_default()).collect()
    } else {
        source.service.command.clone()
    };
    if args.is_empty() {
        return Err("neither the definition nor the image says what to run: give a command".to_owned());
    }
    let (uid, gid) = user::resolve(source.rootfs, image.user().as_deref().unwrap_or_default())?;
    if source.users.is_some() && uid.max(gid) >= RANGE_LEN {
        return Err(format!("its user is {uid}:{gid}: an app has the ids up to {}", RANGE_LEN - 1));
    }
    let mut env = vec![PATH.to_owned()];
    for variable in image.env().iter().flatten().chain(&source.env) {
        let name = variable.split('=').next().unwrap_or_default();
        env.retain(|earlier| earlier.split('=').next() != Some(name));
        env.push(variable.clone());
    }
    let cwd = image.working_dir().clone().filter(|cwd| cwd.starts_with('/')).unwrap_or_else(|| "/".to_owned());
    build_process(args, env, cwd, uid, gid).map_err(|error| format!("its process: {error}"))
}

fn build_process(
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    uid: u32,
    gid: u32,
) -> Result<Process, OciSpecError> {
    let all: Capabilities = CAPABILITIES.into_iter().collect();
    // Another user than root gets them only through files that carry them.
    let now = if uid == 0 { all.clone() } else { Capabilities::new() };
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(all)
        .effective(now.clone())
        .permitted(now)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()?;
    let files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(open_files_max())
        .hard(open_files_max())
        .build()?;
    ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(uid).gid(gid).build()?)
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
    let mut linux = LinuxBuilder::default();
    if let Some(first) = source.users {
        namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User).build()?);
        let range = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(first).size(RANGE_LEN).build()?;
        linux = linux.uid_mappings(vec![range]).gid_mappings(vec![range]);
    }
    let linux = linux
        .namespaces(namespaces)
        .cgroups_path(source.cgroup)
        .resources(resources(source.service)?)
        .seccomp(seccomp::profile()?)
        .masked_paths(MASKED.map(str::to_owned))
        .readonly_paths(READ_ONLY.map(str::to_owned))
        .build()?;
    SpecBuilder::default()
        .version("1.0.2")
        .hostname(source.id)
        .root(RootBuilder::default().path(source.rootfs).readonly(false).build()?)
        .process(process)
        .mounts(mounts(&source.sysfs)?)
        .linux(linux)
        .build()
}

fn resources(service: &ServiceSpec) -> Result<LinuxResources, OciSpecError> {
    let limits = service.resources;
    let quota = (i64::from(limits.cpu.0) * CPU_PERIOD_US as i64 / 1000).max(CPU_QUOTA_US_MIN);
    let memory = i64::try_from(limits.memory.0).unwrap_or(i64::MAX);
    let mut resources = LinuxResourcesBuilder::default()
        .cpu(LinuxCpuBuilder::default().quota(quota).period(CPU_PERIOD_US).build()?)
        // The second counts memory and swap together: no swap.
        .memory(LinuxMemoryBuilder::default().limit(memory).swap(memory).build()?)
        .pids(LinuxPidsBuilder::default().limit(i64::from(limits.pids)).build()?)
        .devices(vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?]);
    if cgroup::is_unified() {
        // All of an instance goes when the kernel must kill a part of it.
        resources = resources.unified([("memory.oom.group".to_owned(), "1".to_owned())]);
    }
    resources.build()
}

fn mounts(sysfs: &Path) -> Result<Vec<Mount>, OciSpecError> {
    let sysfs = sysfs.to_string_lossy();
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
    table.into_iter().map(mount).collect()
}
