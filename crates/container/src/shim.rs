//! Starting shims and speaking with them. What is said is in [`protocol`].

#[allow(dead_code, reason = "the other half is used by the shim")]
pub(crate) mod protocol;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{OpenOptionsExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use insula_env::{clock, net};
use insula_types::{InstanceId, SecretValues};
use rustix::process::Pid;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::Command,
};
use zeroize::Zeroizing;

use self::protocol::{Reply, Request};
use crate::{Error, record::Home};

/// The executable, as it is carried.
static SHIM: &[u8] = include_bytes!(env!("INSULA_SHIM"));
const PREFIX: &str = "insula-shim-";
/// How long a start may take: far above what is measured, since a machine may be busy with hundreds.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a shim may take to answer what it answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest line from a shim in bytes.
const REPLY_LEN_MAX: u64 = 16 << 10;

/// Writes the executable into `directory`, named by its content, and returns its path. Others there are of older
/// versions; their processes keep running without the name.
pub(crate) fn install(directory: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let name = format!("{PREFIX}{}", &hex::encode(Sha256::digest(SHIM))[..16]);
    let path = directory.join(&name);
    if !fs::metadata(&path).is_ok_and(|meta| meta.len() == SHIM.len() as u64) {
        let temporary = directory.join(".new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o700).open(&temporary)?;
        file.write_all(SHIM)?;
        file.sync_all()?;
        drop(file);
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
        fs::rename(&temporary, &path)?;
    }
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_name() != *name && entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(path)
}

/// A shim that runs.
#[derive(Debug)]
pub(crate) struct Process {
    pub pid: Pid,
    /// The directory of its instance.
    pub home: PathBuf,
    /// It looks after one command.
    pub is_exec: bool,
}

/// The shims of the instances of a data directory, told by their command lines. Blocks.
pub(crate) fn processes(data_dir: &Path) -> Vec<Process> {
    let (program, instances) = (data_dir.join("shim").join(PREFIX), data_dir.join("instances"));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let shims = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let mut arguments = line.split(|byte| *byte == 0);
        arguments.next()?.starts_with(program.as_os_str().as_bytes()).then_some(())?;
        let first = arguments.next()?;
        let is_exec = first == b"--exec";
        let home = PathBuf::from(OsStr::from_bytes(if is_exec { arguments.next()? } else { first }));
        home.starts_with(&instances).then_some(Process { pid, home, is_exec })
    });
    shims.collect()
}

/// Whether a process keeps a file system still for an agent of this data directory, this one or an earlier one. Blocks.
pub(crate) fn is_any_freezing(data_dir: &Path) -> bool {
    let program = data_dir.join("shim").join(PREFIX);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| {
        let mut arguments = line.split(|byte| *byte == 0);
        arguments.next().is_some_and(|first| first.starts_with(program.as_os_str().as_bytes()))
            && arguments.next() == Some(b"--freeze")
    })
}

/// Starts a shim for the instance whose directory is complete, and waits until the instance runs.
/// `secrets` go to it through its standard input: never onto a disk.
pub(crate) async fn launch(
    executable: &Path,
    instance: InstanceId,
    home: &Home,
    secrets: Option<&SecretValues>,
) -> Result<protocol::Running, Error> {
    let told = secrets.filter(|secrets| !secrets.is_empty()).map(encode);
    let failed = |why: String| Error::Shim { instance, why };
    let mut child = Command::new(executable)
        .arg(home.path())
        .env_clear()
        .stdin(if told.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("start {}: {error}", executable.display())))?;
    let mut output = child.stdout.take().map(BufReader::new).ok_or_else(|| failed("it has no output".to_owned()))?;
    let input = child.stdin.take();
    let said = clock::timeout(START_MAX, async {
        if let (Some(mut input), Some(told)) = (input, told) {
            // One that does not take it says why.
            input.write_all(&told).await.ok();
        }
        let reply = read_reply(&mut output).await;
        // The process that we started has left the shim behind.
        child.wait().await.ok();
        reply
    })
    .await
    .map_err(|_| failed(format!("said nothing within {START_MAX:?}")))?;
    match said {
        Ok(Some(Reply { running: Some(running), .. })) => Ok(running),
        Ok(Some(Reply { error: Some(error), .. })) => Err(failed(error)),
        Ok(_) => Err(failed("ended without a word".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Names and values, as [`protocol`] says.
fn encode(secrets: &SecretValues) -> Zeroizing<Vec<u8>> {
    let values: BTreeMap<&str, &str> = secrets.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    Zeroizing::new(serde_json::to_vec(&values).expect("a map of texts is written into memory without error"))
}

/// What a shim says, or the lack of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It answered.
    Reply(Reply),
    /// There is no shim, or it ended without answering.
    Gone,
}

/// Asks for something that is answered at once.
pub(crate) async fn ask(instance: InstanceId, home: &Home, request: &Request) -> Result<Answer, Error> {
    clock::timeout(ANSWER_MAX, converse(home, request))
        .await
        .unwrap_or_else(|_| Err(silent()))
        .map_err(|error| Error::Shim { instance, why: format!("ask it: {error}") })
}

/// Asks for something that is answered when the instance has ended.
pub(crate) async fn ask_for_end(instance: InstanceId, home: &Home, request: &Request) -> Result<Answer, Error> {
    converse(home, request).await.map_err(|error| Error::Shim { instance, why: format!("wait for its end: {error}") })
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ANSWER_MAX:?}"))
}

async fn converse(home: &Home, request: &Request) -> io::Result<Answer> {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    let result = async {
        let mut stream = connect(home).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        read_reply(&mut BufReader::new(stream)).await
    };
    match result.await {
        Ok(Some(reply)) => Ok(Answer::Reply(reply)),
        Ok(None) => Ok(Answer::Gone),
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe) => {
            Ok(Answer::Gone)
        }
        Err(error) => Err(error),
    }
}

/// A socket's name may have 107 bytes; a data directory may lie deeper. The way through a descriptor is short.
async fn connect(home: &Home) -> io::Result<UnixStream> {
    let directory = File::open(home.path())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/shim.sock", directory.as_raw_fd()));
    net::connect_unix(&path, ANSWER_MAX).await
}

/// One line; none at the end of the stream.
async fn read_reply(stream: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Reply>> {
    let mut line = Vec::new();
    stream.take(REPLY_LEN_MAX).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
