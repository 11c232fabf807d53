//! What becomes of each key of a service: the one table of what is read, what is dropped with a word, and what is refused with the
//! nearest way.

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is read elsewhere.
    Read,
    /// It is left out, which changes nothing that counts; why.
    Drop(&'static str),
    /// It is refused; the nearest way.
    Refuse(&'static str),
}

use Fate::{Drop, Read, Refuse};

/// Keys of the file.
pub(super) const FILE: &[(&str, Fate)] = &[
    ("name", Read),
    ("services", Read),
    ("volumes", Read),
    ("configs", Read),
    ("secrets", Read),
    ("version", Drop("the Compose specification has no versions any more")),
    ("networks", Drop("this version has no networks between services")),
    ("include", Refuse("write the whole into one file, as `docker compose config` does")),
    ("models", Refuse("a model is no service here; run one as a service")),
    ("x-insula", Refuse("it is read in services and in volumes; write it there")),
];

/// Keys of a service.
pub(super) const SERVICE: &[(&str, Fate)] = &[
    ("image", Read),
    ("command", Read),
    ("entrypoint", Read),
    ("environment", Read),
    ("ports", Read),
    ("expose", Read),
    ("volumes", Read),
    ("tmpfs", Read),
    ("shm_size", Read),
    ("healthcheck", Read),
    ("deploy", Read),
    ("scale", Read),
    ("cpus", Read),
    ("mem_limit", Read),
    ("pids_limit", Read),
    ("ulimits", Read),
    ("restart", Read),
    ("stop_signal", Read),
    ("stop_grace_period", Read),
    ("configs", Read),
    ("secrets", Read),
    ("init", Read),
    ("read_only", Read),
    ("runtime", Read),
    ("privileged", Read),
    ("build", Read),
    ("profiles", Read),
    ("x-insula", Read),
    ("depends_on", Drop("all services start at once; one that needs another has to try again until that is there")),
    ("links", Drop("this version has no networks between services")),
    ("networks", Drop("this version has no networks between services")),
    ("container_name", Drop("instances have ids of their own")),
    ("hostname", Drop("an instance is named by its id")),
    ("domainname", Drop("an instance is named by its id")),
    ("labels", Drop("nothing here reads them")),
    ("annotations", Drop("nothing here reads them")),
    ("label_file", Drop("nothing here reads it")),
    ("logging", Drop("what instances write is read with `insula logs`")),
    ("stdin_open", Drop("a terminal is asked for with `insula exec` and `insula run`")),
    ("tty", Drop("a terminal is asked for with `insula exec` and `insula run`")),
    ("attach", Drop("what instances write is read with `insula logs`")),
    ("pull_policy", Drop("an image is named by what is in it, so that it never has to be pulled again")),
    ("platform", Drop("an image of several platforms is taken for that of the node")),
    ("cpu_shares", Drop("what a service may use is said by its limits")),
    ("mem_reservation", Drop("the limit is what is reserved")),
    ("mem_swappiness", Drop("instances do not swap")),
    ("memswap_limit", Drop("instances do not swap")),
    ("oom_score_adj", Drop("memory is reserved, and each instance has its own limit")),
    ("cap_drop", Drop("instances have few capabilities anyway")),
    ("develop", Drop("it is for working on the source")),
    ("env_file", Refuse("write it out under environment, as `docker compose config` does")),
    ("extends", Refuse("write the service out, as `docker compose config` does")),
    ("working_dir", Refuse("set WORKDIR in the image")),
    ("user", Refuse("set USER in the image")),
    ("group_add", Refuse("make the user of the image a member of the group")),
    ("network_mode", Refuse("each instance has a network of its own; say under ports what it listens on")),
    ("cap_add", Refuse("instances get no more capabilities; run it without, or on a machine of its own")),
    ("devices", Refuse("instances get no devices of nodes")),
    ("device_cgroup_rules", Refuse("instances get no devices of nodes")),
    ("gpus", Refuse("instances get no devices of nodes")),
    ("security_opt", Refuse("instances are always confined the same way: take it out")),
    ("sysctls", Refuse("settings of the kernel are the node's")),
    ("extra_hosts", Refuse("give addresses to the program by environment or configs")),
    ("dns", Refuse("instances ask what their node asks")),
    ("dns_search", Refuse("instances ask what their node asks")),
    ("dns_opt", Refuse("instances ask what their node asks")),
    ("volumes_from", Refuse("a volume is of one service; give each its own")),
    ("pid", Refuse("instances share nothing with others")),
    ("ipc", Refuse("instances share nothing with others")),
    ("uts", Refuse("instances share nothing with others")),
    ("userns_mode", Refuse("each app has users of its own on a node")),
    ("cgroup", Refuse("instances have control groups of their own")),
    ("cgroup_parent", Refuse("instances have control groups of their own")),
    ("isolation", Refuse("name a class of runtime that nodes have, with runtime")),
    ("storage_opt", Refuse("write x-insula: { resources: { disk: 1GiB } }")),
    ("blkio_config", Refuse("write x-insula: { resources: { io: 20MB/s } }")),
    ("cpuset", Refuse("write how many processors it may use, with cpus")),
    ("cpu_count", Refuse("write how many processors it may use, with cpus")),
    ("cpu_percent", Refuse("write how many processors it may use, with cpus")),
    ("cpu_period", Refuse("write how many processors it may use, with cpus")),
    ("cpu_quota", Refuse("write how many processors it may use, with cpus")),
    ("cpu_rt_period", Refuse("write how many processors it may use, with cpus")),
    ("cpu_rt_runtime", Refuse("write how many processors it may use, with cpus")),
    ("oom_kill_disable", Refuse("memory is reserved, and each instance has its own limit: take it out")),
    ("post_start", Refuse("run it before the program, in the image, or with `insula run`")),
    ("pre_stop", Refuse("let the program do it when it gets the signal to stop")),
    ("provider", Refuse("only services with an image run here")),
    ("models", Refuse("a model is no service here; run one as a service")),
    ("credential_spec", Refuse("it is for Windows")),
    ("mac_address", Refuse("instances are reached through their ports")),
    ("use_api_socket", Refuse("instances do not reach what runs them")),
];

/// Keys of `deploy`.
pub(super) const DEPLOY: &[(&str, Fate)] = &[
    ("mode", Read),
    ("replicas", Read),
    ("resources", Read),
    ("update_config", Read),
    ("placement", Read),
    ("restart_policy", Read),
    ("labels", Drop("nothing here reads them")),
    ("endpoint_mode", Drop("requests come through the edges")),
    ("rollback_config", Drop("a release that fails is taken back as it came: under update_config")),
];

/// Keys of `healthcheck`.
pub(super) const HEALTHCHECK: &[(&str, Fate)] = &[
    ("test", Read),
    ("interval", Read),
    ("timeout", Read),
    ("start_period", Read),
    ("retries", Read),
    ("disable", Read),
    ("start_interval", Drop("the interval is the same from the start")),
];

/// Keys of `deploy.update_config`.
pub(super) const UPDATE: &[(&str, Fate)] = &[
    ("parallelism", Read),
    ("order", Read),
    ("failure_action", Read),
    ("monitor", Read),
    ("delay", Drop("the next instance follows when the one before is good: x-insula: { update: { min_healthy: 5s } }")),
    ("max_failure_ratio", Drop("one instance that never gets ready is enough for a release to fail")),
];

/// Keys of `deploy.restart_policy`.
pub(super) const RESTART: &[(&str, Fate)] = &[
    ("condition", Read),
    ("delay", Read),
    ("max_attempts", Drop("it is tried on, with waits that grow")),
    ("window", Drop("it is tried on, with waits that grow")),
];

/// Keys of `deploy.placement`.
pub(super) const PLACEMENT: &[(&str, Fate)] = &[
    ("constraints", Read),
    ("preferences", Read),
    ("max_replicas_per_node", Drop("instances are spread over nodes and data centres anyway")),
];

/// Keys of `deploy.resources`.
pub(super) const RESOURCES: &[(&str, Fate)] =
    &[("limits", Read), ("reservations", Drop("the limits are what is reserved"))];

/// Keys of `deploy.resources.limits`.
pub(super) const LIMITS: &[(&str, Fate)] = &[("cpus", Read), ("memory", Read), ("pids", Read)];

/// Keys of a volume at the top of a file.
pub(super) const VOLUME: &[(&str, Fate)] = &[
    ("x-insula", Read),
    ("driver", Read),
    ("name", Drop("a volume is named by app, service and its name")),
    ("labels", Drop("nothing here reads them")),
    ("driver_opts", Refuse("volumes are file systems of their own on a node's disk")),
    (
        "external",
        Refuse("a volume belongs to an app; set one aside before with `insula volume create`, and take this out"),
    ),
];
