//! The system calls of containers: those that programs need are allowed, by name, all others refused. What is withheld
//! widens the way into the kernel, or asks for rights that no container has (as in Docker's default profile).
//!
//! A call that this list does not know fails as in an older kernel (`ENOSYS`), so that the C library uses what was there
//! before; one that is withheld on purpose fails for lack of permission (`EPERM`).

use oci_spec::{
    OciSpecError,
    runtime::{
        Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
        LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
    },
};
use rustix::io::Errno;

/// Flags of clone(2) that make namespaces: in a user namespace of its own a program would have every capability.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
/// Address families that are not separated by network namespaces: the kernel's crypto, and the machine's own hypervisor.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// What personality(2) may be asked for: Linux, its 32-bit forms, and what there is (`PER_LINUX32`, `UNAME26`).
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// The filter. Only for the machine's own kind of calls: each further kind costs milliseconds at every start.
pub(crate) fn profile() -> Result<LinuxSeccomp, OciSpecError> {
    let native = if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };
    let mut calls = vec![allow(ALLOWED, Vec::new())?, withhold(WITHHELD, Errno::PERM, Vec::new())?];
    // libcontainer 0.7 takes the second number for the mask, runc and the specification the first.
    let no_namespaces = argument(LinuxSeccompOperator::ScmpCmpMaskedEq, 0, Some(CLONE_NAMESPACES))?;
    calls.push(allow("clone", vec![no_namespaces])?);
    for bit in (0..u64::BITS).map(|bit| 1 << bit).filter(|bit| CLONE_NAMESPACES & bit != 0) {
        let asked_for = argument(LinuxSeccompOperator::ScmpCmpMaskedEq, bit, Some(bit))?;
        calls.push(withhold("clone", Errno::PERM, vec![asked_for])?);
    }
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpGt, ScmpCmpLt};
    for (operator, family) in [(ScmpCmpLt, AF_ALG), (ScmpCmpEq, AF_ALG + 1), (ScmpCmpGt, AF_VSOCK)] {
        calls.push(allow("socket", vec![argument(operator, family, None)?])?);
    }
    for family in [AF_ALG, AF_VSOCK] {
        calls.push(withhold("socket", Errno::AFNOSUPPORT, vec![argument(ScmpCmpEq, family, None)?])?);
    }
    for personality in PERSONALITIES {
        calls.push(allow("personality", vec![argument(ScmpCmpEq, personality, None)?])?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(number(Errno::NOSYS))
        .architectures(vec![native])
        .syscalls(calls)
        .build()
}

fn allow(names: &str, arguments: Vec<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let call = LinuxSyscallBuilder::default().names(owned(names)).action(LinuxSeccompAction::ScmpActAllow);
    if arguments.is_empty() { call.build() } else { call.args(arguments).build() }
}

fn withhold(names: &str, error: Errno, arguments: Vec<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let call = LinuxSyscallBuilder::default().names(owned(names)).action(LinuxSeccompAction::ScmpActErrno);
    let call = call.errno_ret(number(error));
    if arguments.is_empty() { call.build() } else { call.args(arguments).build() }
}

/// A condition on the first argument.
fn argument(operator: LinuxSeccompOperator, value: u64, other: Option<u64>) -> Result<LinuxSeccompArg, OciSpecError> {
    let argument = LinuxSeccompArgBuilder::default().index(0_usize).op(operator).value(value);
    other.into_iter().fold(argument, LinuxSeccompArgBuilder::value_two).build()
}

fn owned(names: &str) -> Vec<String> {
    names.split_whitespace().map(str::to_owned).collect()
}

fn number(errno: Errno) -> u32 {
    errno.raw_os_error().unsigned_abs()
}

const WITHHELD: &str = "\
    acct add_key bpf clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick \
    get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kexec_file_load kexec_load \
    keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at \
    open_tree perf_event_open pivot_root quotactl quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node \
    setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog umount2 unshare uselib userfaultfd ustat \
    vhangup";

const ALLOWED: &str = "\
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chroot clock_getres \
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 \
    epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 \
    fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr \
    flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv \
    futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid \
    getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit \
    getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init \
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get \
    ioprio_set kcmp kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat \
    listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create \
    memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr \
    mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock \
    munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_getfd pidfd_open \
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 \
    process_madvise process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read \
    readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 \
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
    rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr \
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam \
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto \
    set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority \
    setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown \
    sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync sync_file_range syncfs \
    sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create \
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice \
    wait4 waitid write writev";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_in_two_lists() {
        let (allowed, withheld) = (owned(ALLOWED), owned(WITHHELD));
        assert!(allowed.is_sorted() && withheld.is_sorted());
        let special = ["clone", "clone3", "personality", "socket"].map(str::to_owned);
        for call in withheld.iter().chain(&special) {
            assert!(!allowed.contains(call), "{call}");
        }
    }
}
