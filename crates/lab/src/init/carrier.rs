//! The process that moves packets between regions: what the router does not hand to the region itself goes into a tunnel device, waits
//! here as [`crate::wan`] says, and comes back out of it. It hears of other shapes through a socket, one JSON document a connection.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clap::Args;
use insula_env::{Clock, Rng, clock::Instant};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::prctl::set_timerslack,
};

use super::report;
use crate::{
    Error,
    error::Attempt,
    network::WAN,
    wan::{Next, Shape, Wan, Way},
};

/// Greatest IP packet, in bytes.
const PACKET_LEN_MAX: usize = 65_535;
/// What is answered when the shapes are in force.
pub(crate) const DONE: &[u8] = b"ok";

/// What it must know.
#[derive(Debug, Clone, Args)]
pub struct Carrier {
    /// Process that holds the router's network namespace.
    #[arg(long)]
    pub network: i32,
    /// The socket to listen on.
    #[arg(long)]
    pub control: PathBuf,
}

mod call {
    /// `struct ifreq` of <linux/if.h>, as far as it matters here.
    #[repr(C)]
    pub(super) struct Request {
        pub name: [u8; 16],
        pub flags: i16,
        pub rest: [u8; 22],
    }

    // <linux/if_tun.h>: TUNSETIFF takes a pointer to an ifreq, though it is declared with an int.
    nix::ioctl_write_ptr_bad!(set_interface, nix::request_code_write!(b'T', 202, size_of::<i32>()), Request);
}

/// `IFF_TUN | IFF_NO_PI` of <linux/if_tun.h>: whole IP packets and nothing before them.
const FLAGS: i16 = 0x0001 | 0x1000;

pub(super) fn be_carrier(carrier: &Carrier) -> Result<(), Error> {
    let path = format!("/proc/{}/ns/net", carrier.network);
    let network = File::open(&path).attempt(|| format!("open {path}"))?;
    setns(&network, CloneFlags::CLONE_NEWNET).attempt(|| format!("enter {path}"))?;
    let device = open_tunnel()?;
    let what = || format!("listen on {}", carrier.control.display());
    let listener = UnixListener::bind(&carrier.control).attempt(what)?;
    // Else the kernel lets timers of several come together, up to 50 µs late.
    set_timerslack(1).attempt(|| "ask for exact timers".to_owned())?;
    report("ready")?;
    let shared = Shared { wan: Mutex::new(Wan::new(Rng::from_os())), is_new: Condvar::new(), clock: Clock::real() };
    let begin = shared.clock.now();
    std::thread::scope(|scope| {
        scope.spawn(|| ends(shared.take(&device, begin)));
        scope.spawn(|| ends(shared.give(&device, begin)));
        for stream in listener.incoming() {
            // A caller that is cut off tries again.
            if let Err(error) = stream.and_then(|stream| shared.shape(stream)) {
                eprintln!("lab-init: shape the network between regions: {error}");
            }
        }
    });
    Ok(())
}

/// Without its packets a region would be cut off in a way that nobody asked for.
fn ends(result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("lab-init: carry packets between regions: {error}");
        std::process::exit(1);
    }
}

fn open_tunnel() -> Result<File, Error> {
    let what = || "make a tunnel device (/dev/net/tun)".to_owned();
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").attempt(what)?;
    let mut request = call::Request { name: [0; 16], flags: FLAGS, rest: [0; 22] };
    request.name[..WAN.len()].copy_from_slice(WAN.as_bytes());
    // SAFETY: the kernel reads an ifreq, as large as this one (40 bytes), and writes nothing beyond it.
    unsafe { call::set_interface(device.as_raw_fd(), &raw const request) }.attempt(what)?;
    Ok(device)
}

struct Shared {
    wan: Mutex<Wan>,
    /// A packet came that may be due before the others.
    is_new: Condvar,
    clock: Clock,
}

impl Shared {
    fn wan(&self) -> MutexGuard<'_, Wan> {
        self.wan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the router hands over.
    fn take(&self, mut device: &File, begin: Instant) -> io::Result<()> {
        let mut packet = vec![0; PACKET_LEN_MAX];
        loop {
            let len = device.read(&mut packet)?;
            self.wan().take(self.clock.now() - begin, &packet[..len]);
            self.is_new.notify_one();
        }
    }

    /// Hands over what arrives.
    fn give(&self, mut device: &File, begin: Instant) -> io::Result<()> {
        let mut wan = self.wan();
        loop {
            let now = self.clock.now() - begin;
            wan = match wan.next(now) {
                Next::Packet(packet) => {
                    drop(wan);
                    match device.write(&packet) {
                        // The device is not up yet, or its queue is full: a packet is lost, as packets are.
                        Err(error)
                            if [Errno::EIO, Errno::ENOBUFS]
                                .contains(&Errno::from_raw(error.raw_os_error().unwrap_or(0))) => {}
                        other => drop(other?),
                    }
                    self.wan()
                }
                Next::At(due) => self.is_new.wait_timeout(wan, due - now).unwrap_or_else(PoisonError::into_inner).0,
                Next::Idle => self.is_new.wait(wan).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn shape(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let shapes: Vec<(Way, Shape)> = serde_json::from_str(&text)?;
        self.wan().shape(shapes);
        stream.write_all(DONE)
    }
}
