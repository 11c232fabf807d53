//! `insula state backup`: whatever happens, the file that was asked for is a whole backup or is not there.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use insula_api::{Client, handler::StateKey};

use crate::{
    Exit, Failure,
    args::{BackupArgs, StateArg},
    output::say,
};

/// Reads a backup whole and says what is in it, or what is wrong with it.
pub type Verify<'a> = dyn Fn(&Path) -> Result<String, String> + 'a;

/// Writes beside the file, reads that back, and only then gives it the name.
pub async fn run(client: &Client, args: &BackupArgs, verify: &Verify<'_>) -> Result<(), Failure> {
    let path = &args.file;
    let mut name =
        path.file_name().ok_or_else(|| Failure::usage(format!("{} names no file", path.display())))?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let made = fill(client, args.state, &new).await.and_then(|()| {
        let said = verify(&new).map_err(|why| Failure::new(Exit::Failed, why))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The new name is durable only once the directory is.
        fs::rename(&new, path).and_then(|()| File::open(parent)?.sync_all()).map_err(failed(path))?;
        Ok(said)
    });
    match made {
        Ok(said) => say(&said),
        Err(failure) => {
            // Half of a backup is of no use; a failure to remove it changes nothing about that.
            fs::remove_file(&new).ok();
            Err(failure)
        }
    }
}

async fn fill(client: &Client, state: StateArg, path: &Path) -> Result<(), Failure> {
    let states: &[StateKey] = match state {
        StateArg::Region => &[StateKey::Region],
        StateArg::Global => &[StateKey::Global],
        StateArg::All => &[StateKey::Global, StateKey::Region],
    };
    // Hashes of tokens are in it: for its owner alone.
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed(path))?;
    for state in states {
        let mut reader = client.backup(*state).await?;
        while let Some(piece) = reader.next().await? {
            file.write_all(&piece).map_err(failed(path))?;
        }
    }
    file.sync_all().map_err(failed(path))
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path: PathBuf = path.to_owned();
    move |error| Failure::new(Exit::Failed, format!("write {}: {error}", path.display()))
}
