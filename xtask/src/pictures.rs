//! `cargo xtask pictures`: what people see. Makes a lab of three nodes, gives each command of the list below to a terminal, and writes
//! what is on it then to `target/pictures/`, a file for each width with all commands in their order. Nothing is compared: somebody
//! is to read it.

mod list;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::list::{FILES, LIST, Shot};
use crate::{
    packages,
    run::{cargo, hears, run, top},
};

/// Columns of the terminals.
const WIDTHS: [u16; 2] = [80, 120];
/// Rows: of one that shows all that a command says, and of one that people have.
const ROWS_LONG: u16 = 240;
const ROWS_USUAL: u16 = 30;
/// How long a command may take, and how often it is looked at.
const ENDS_WITHIN: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
/// What the terminal shows at the end of a command.
const END: &str = "[ends with ";
/// Stands for the reference of the image that the lab's registry has.
const IMAGE: &str = "IMAGE";

/// How to take pictures.
#[derive(Debug, Args)]
pub(crate) struct PicturesArgs {
    /// Do not build: use what is in target/debug
    #[arg(long)]
    no_build: bool,
    /// Name of the lab
    #[arg(long, default_value = "pictures")]
    name: String,
    /// Leave the lab standing
    #[arg(long)]
    keep: bool,
}

/// Takes all pictures.
///
/// # Errors
/// What cannot be prepared; a command that does not end.
pub(crate) fn pictures(arguments: &PicturesArgs) -> Result<()> {
    packages::ensure(packages::LAB)?;
    packages::ensure(packages::PICTURES)?;
    if !arguments.no_build {
        run("build (dev)", cargo().args(["build", "--quiet", "--package", "insula"]))?;
    }
    let dir = top().join("target/pictures");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let studio = Studio::open(&arguments.name, &dir, arguments.keep)?;
    let paths = WIDTHS.map(|width| dir.join(format!("all.{width}.txt")));
    let mut files = Vec::new();
    for path in &paths {
        files.push(File::create(path).with_context(|| format!("make {}", path.display()))?);
    }
    for shot in LIST {
        println!("{}", shot.line());
        for (width, file) in WIDTHS.into_iter().zip(&mut files) {
            // What changes something is done once.
            if matches!(shot, Shot::Do(_)) && width != WIDTHS[0] {
                continue;
            }
            let seen = studio.take(shot, width)?;
            writeln!(file, "{}\n", seen.trim_end()).context("write what is seen")?;
        }
    }
    paths.iter().for_each(|path| println!("{}", path.display()));
    Ok(())
}

/// A lab, and terminals beside it. Dropped, both are gone.
struct Studio {
    lab: String,
    /// Where the files are that commands name.
    files: PathBuf,
    socket: String,
    is_kept: bool,
}

impl Studio {
    fn open(lab: &str, dir: &Path, is_kept: bool) -> Result<Self> {
        let mut studio = Self { lab: lab.to_owned(), files: dir.join("files"), socket: String::new(), is_kept };
        studio.lab(&["down"])?;
        studio.lab(&["up", "--regions", "fra:3"])?;
        let image = studio.lab(&["image"])?;
        let status: serde_json::Value =
            serde_json::from_str(&studio.lab(&["status", "--json"])?).context("its nodes")?;
        let server = status[0]["server"].as_u64().context("its first node has no server")?;
        // Of the lab's first node, as seen from here: what commands say about files is about ours then.
        studio.socket = format!("/proc/{server}/root/var/lib/insula/run/api.sock");
        fs::create_dir_all(&studio.files).context("make a directory")?;
        for (name, text) in FILES {
            fs::write(studio.files.join(name), text.replace(IMAGE, image.trim())).context("write a file")?;
        }
        // The server ends with its last session, and takes with it what is started just then.
        let kept = studio.tmux(&["new-session", "-d", "-s", "kept", "sleep", "infinity"])?;
        ensure!(kept.status.success(), "tmux: {}", String::from_utf8_lossy(&kept.stderr));
        Ok(studio)
    }

    fn lab(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(top().join("target/debug/insula"));
        let output = command.args(["lab", "--name", &self.lab]).args(arguments).output().context("run insula lab")?;
        ensure!(output.status.success(), "insula lab {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A terminal server of our own, whatever the user's does.
    fn tmux(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("tmux");
        command.args(["-L", &format!("insula-{}", self.lab), "-f", "/dev/null"]).args(arguments);
        let path = format!("{}:{}", top().join("target/debug").display(), std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).env("INSULA_SOCKET", &self.socket).env("INSULA_LAB", &self.lab);
        command.env_remove("TMUX").current_dir(&self.files).stdin(Stdio::null());
        // What runs in its terminals is ended by Ctrl-C.
        hears(&mut command).output().context("run tmux")
    }

    fn take(&self, shot: &Shot, width: u16) -> Result<String> {
        let (rows, until) = match shot {
            Shot::Look(_) | Shot::Do(_) => (ROWS_LONG, END),
            Shot::Watch { until, .. } => (ROWS_USUAL, *until),
        };
        let line = shot.line();
        let quoted = line.replace('\'', "'\\''");
        // Ctrl-C ends the command and not what shows its end. It stays until it has been looked at.
        let script =
            format!("trap : INT; printf '$ %s\\n' '{quoted}'; {line}\nprintf '%s%s]\\n' '{END}' $?; sleep 600");
        let (columns, rows) = (width.to_string(), rows.to_string());
        let started =
            self.tmux(&["new-session", "-d", "-s", "it", "-x", &columns, "-y", &rows, "bash", "-c", &script])?;
        ensure!(started.status.success(), "tmux: {}", String::from_utf8_lossy(&started.stderr));
        let seen = self.wait(until);
        if let Shot::Watch { keys, .. } = shot {
            let typed: Vec<&str> = keys.split(' ').collect();
            self.tmux(&[&["send-keys", "-t", "it"], &typed[..]].concat())?;
            let after = self.wait(END)?;
            self.tmux(&["kill-session", "-t", "it"])?;
            return Ok(format!("{}\n[then {keys}]\n{after}", seen?.trim_end()));
        }
        self.tmux(&["kill-session", "-t", "it"])?;
        seen.with_context(|| format!("at: {line}"))
    }

    /// What is seen as soon as a text is.
    fn wait(&self, until: &str) -> Result<String> {
        let mut seen = String::new();
        for _ in 0..ENDS_WITHIN.as_millis() / POLL.as_millis() {
            let captured = self.tmux(&["capture-pane", "-p", "-t", "it"])?;
            seen = String::from_utf8_lossy(&captured.stdout).into_owned();
            // What is typed has it, too.
            if seen.lines().any(|line| line.contains(until) && !line.starts_with('$')) {
                return Ok(seen);
            }
            thread::sleep(POLL);
        }
        bail!("{until:?} is not seen after {ENDS_WITHIN:?}, but\n{seen}")
    }
}

impl Drop for Studio {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]).ok();
        if self.is_kept {
            println!("the lab is left standing: insula lab --name {} down", self.lab);
        } else {
            self.lab(&["down"]).ok();
        }
    }
}
