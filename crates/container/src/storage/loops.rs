//! Loop devices: files that the kernel shows as disks. No program is started for them. All calls block.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use linux_raw_sys::loop_device::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LOOP_CONFIGURE, LOOP_CTL_GET_FREE, loop_config,
};
use parking_lot::Mutex;
use rustix::io::Errno;

/// Says which device is free.
const CONTROL: &str = "/dev/loop-control";
/// How often a device is looked for: other nodes that share the kernel, and `mount`, take some as well.
const TRIES: usize = 100;
/// Bytes of one block, as in the file systems that we make. Whatever the disk below has, it is a multiple of that.
pub(super) const BLOCK_LEN: u64 = 4096;

/// What is free is asked, and taken, by one thread at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A device that shows a file. It lets go of it once this is dropped and nothing of it is mounted any more, whoever unmounts it,
/// and whether or not this process lives.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    _held: File,
}

impl LoopDevice {
    /// Shows a file that no other device shows, and that is a whole number of blocks long. What is written goes past the page
    /// cache, where the file system below can do that: it is in memory once, and that counts as the instance's.
    pub fn attach(file: &File) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL).map_err(|error| of_control(&error))?;
        // The kernel does this when it attaches a file; here others need not wait for it.
        file.sync_data()?;
        let _turn = TURN.lock();
        for _ in 0..TRIES {
            // SAFETY: it takes no argument; the descriptor is open.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE.into()) };
            if number < 0 {
                return Err(of_control(&io::Error::last_os_error()));
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("loop device {} cannot be opened: {error}", path.display()))
            })?;
            match configure(&device, file) {
                Ok(()) => return Ok(Self { path, _held: device }),
                // Somebody was faster.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "others took each loop device that was free"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn configure(device: &File, file: &File) -> io::Result<()> {
    // SAFETY: numbers and arrays of numbers, for which zero is a value.
    let mut config: loop_config = unsafe { std::mem::zeroed() };
    config.fd = file.as_raw_fd().unsigned_abs();
    config.block_size = BLOCK_LEN as u32;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR as u32 | LO_FLAGS_DIRECT_IO as u32;
    // SAFETY: it reads such a structure, which lives through the call; both descriptors are open.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE.into(), &raw const config) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match Errno::from_io_error(&error) {
        Some(Errno::INVAL | Errno::NOTTY) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("{error}: this takes Linux 5.8 or later")))
        }
        _ => Err(error),
    }
}

fn of_control(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{CONTROL}: {error}: does the kernel have the module loop?"))
}

/// Whether a file or directory is in the file system of an image that a loop device shows.
pub(super) fn is_of(file: &File, image: &Path) -> io::Result<bool> {
    let device = file.metadata()?.dev();
    let shown = format!("/sys/dev/block/{}:{}/loop/backing_file", libc::major(device), libc::minor(device));
    match std::fs::read_to_string(shown) {
        Ok(file) => Ok(Path::new(file.trim_end_matches('\n')) == image),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
