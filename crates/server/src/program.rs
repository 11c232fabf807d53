//! The program of this process, and its start in place of itself.

use std::{
    env, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use tracing::info;

use crate::Error;

/// How often in a row the server has started again because a group had stopped; for the next one.
const MENDED: &str = "INSULA_MENDED";
/// What Linux puts after the path of a program whose file was replaced (proc_pid_exe(5)).
const REPLACED: &str = " (deleted)";

/// The file to start this program from: the one that it was started from, or what has replaced it since, as an upgrade does.
///
/// # Errors
/// When the system does not tell.
pub(crate) fn path() -> io::Result<PathBuf> {
    env::current_exe().map(|found| in_its_place(&found).unwrap_or(found))
}

fn in_its_place(found: &Path) -> Option<PathBuf> {
    let place = PathBuf::from(found.to_str()?.strip_suffix(REPLACED)?);
    (!found.exists() && place.exists()).then_some(place)
}

/// Puts this program anew in place of the process, with the same arguments: whoever watches over it sees it go on.
/// Returns only when that fails.
pub(crate) fn start_again(mended: u32) -> Error {
    info!("starting again");
    let program = path().unwrap_or_else(|_| "/proc/self/exe".into());
    let source = Command::new(&program).args(env::args_os().skip(1)).env(MENDED, mended.to_string()).exec();
    Error::File { attempt: "start again", path: program, source }
}

/// What the process before has told [`start_again`].
pub(crate) fn mended() -> u32 {
    env::var(MENDED).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_program_is_found_in_its_place() {
        let directory = tempfile::tempdir().expect("directory");
        let place = directory.path().join("insula");
        let told = directory.path().join("insula (deleted)");
        assert_eq!(in_its_place(&told), None, "nothing has replaced it");
        std::fs::write(&place, "new").expect("written");
        assert_eq!(in_its_place(&told), Some(place.clone()));
        assert_eq!(in_its_place(&place), None);
        std::fs::write(&told, "really named so").expect("written");
        assert_eq!(in_its_place(&told), None);
    }
}
