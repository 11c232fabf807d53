//! `insula image import`: sends an archive, or a directory as one, piece by piece.

use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use insula_api::{Client, wire::ImageImported};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    Exit, Failure,
    args::ImageImportArgs,
    output::{say, say_json},
    table::clean,
};

/// Bytes that are read at once.
const PIECE_LEN: usize = 256 << 10;
/// Pieces that wait to be sent, at most.
const PIECES_MAX: usize = 4;
/// How often the spinner turns.
const TURN_EVERY: Duration = Duration::from_millis(100);

/// An import whose archive has been opened.
pub struct Import {
    args: ImageImportArgs,
    source: Source,
}

/// Where an archive comes from.
enum Source {
    Stdin,
    File(File),
    Layout(Layout),
}

/// A directory that is an OCI image layout: names and files of what is sent of it, in the order in which it is sent.
struct Layout(Vec<(String, PathBuf)>);

/// Opens what is to be sent.
pub fn open(args: ImageImportArgs) -> Result<Import, Failure> {
    let source = match args.file.as_str() {
        "-" => Ok(Source::Stdin),
        file => source(Path::new(file)),
    };
    let source = source.map_err(|error| Failure::usage(format!("cannot read {}: {error}", args.file)))?;
    Ok(Import { args, source })
}

fn source(path: &Path) -> io::Result<Source> {
    if path.is_dir() { Ok(Source::Layout(Layout::find(path)?)) } else { Ok(Source::File(File::open(path)?)) }
}

impl Layout {
    fn find(directory: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for name in ["oci-layout", "index.json"] {
            let path = directory.join(name);
            if !path.is_file() {
                return Err(io::Error::other(format!("it is no OCI image layout: it has no {name}")));
            }
            files.push((name.to_owned(), path));
        }
        let mut blobs = Vec::new();
        for entry in fs::read_dir(directory.join("blobs/sha256"))? {
            let entry = entry?;
            // What is called otherwise is no blob.
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.len() == 64 && entry.path().is_file() {
                blobs.push((format!("blobs/sha256/{name}"), entry.path()));
            }
        }
        blobs.sort();
        files.extend(blobs);
        Ok(Self(files))
    }

    /// Writes it as a tar file.
    fn pack(&self, to: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(BufWriter::with_capacity(PIECE_LEN, to));
        for (name, path) in &self.0 {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(0o644);
            // One that grows meanwhile must not shift what follows.
            tar.append_data(&mut header, name, file.take(size))?;
        }
        tar.into_inner()?.flush()
    }
}

/// What is read goes to the sender in pieces.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source {
    fn copy(self, to: Pieces) -> io::Result<()> {
        match self {
            Self::Stdin => copy(io::stdin().lock(), to),
            Self::File(file) => copy(file, to),
            Self::Layout(layout) => layout.pack(to),
        }
    }

    /// Bytes that will be sent, where that is known.
    fn len(&self) -> Option<u64> {
        match self {
            Self::File(file) => file.metadata().ok().filter(fs::Metadata::is_file).map(|meta| meta.len()),
            Self::Stdin | Self::Layout(_) => None,
        }
    }
}

fn copy(mut from: impl Read, mut to: Pieces) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_LEN];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            read => to.write_all(&buffer[..read])?,
        }
    }
}

pub async fn run(client: &Client, import: Import) -> Result<(), Failure> {
    let Import { args, source } = import;
    let progress = Progress::new(args.json.json, source.len());
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    // Why the archive cannot be read any further.
    let unread = Arc::new(Mutex::new(None));
    let failed = Arc::clone(&unread);
    #[allow(
        clippy::disallowed_methods,
        reason = "a read of standard input cannot be given up; it ends with the program"
    )]
    std::thread::spawn(move || {
        if let Err(error) = source.copy(Pieces(pieces.clone())) {
            *failed.lock() = Some(error.to_string());
            // A node that does not want more says so itself.
            pieces.blocking_send(Err(error)).ok();
        }
    });
    let shown = progress.clone();
    let archive = stream::unfold(received, async |mut received| Some((received.recv().await?, received)));
    let archive = archive.inspect(move |piece| match piece {
        Ok(piece) => shown.add(piece.len() as u64),
        Err(_) => shown.end(),
    });
    let imported = client.import_image(args.name.as_deref(), Box::pin(archive)).await;
    progress.end();
    let imported = imported.map_err(|error| match (&error, unread.lock().take()) {
        (insula_api::ClientError::CutOff { .. }, Some(why)) => {
            Failure::new(Exit::Failed, format!("cannot read {}: {why}; nothing of it is kept", args.file))
        }
        _ => Failure::from(error),
    })?;
    if args.json.json { say_json(&imported) } else { say(&told(&imported)) }
}

fn told(imported: &ImageImported) -> String {
    format!(
        "{} is on {}: {}, {} of it new\nWrite into the definition:\nimage = \"{}\"\n",
        clean(imported.image.split_once('@').map_or(&imported.image, |(name, _)| name)),
        imported.node_name,
        HumanBytes(imported.size_bytes),
        HumanBytes(imported.new_bytes),
        clean(&imported.image)
    )
}

/// How far it is, on a terminal.
#[derive(Clone)]
struct Progress {
    bar: Option<ProgressBar>,
    len: Option<u64>,
}

impl Progress {
    fn new(is_silent: bool, len: Option<u64>) -> Self {
        if is_silent || !io::stderr().is_terminal() {
            return Self { bar: None, len };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TURN_EVERY);
        Self { bar: Some(bar), len }
    }

    fn add(&self, sent: u64) {
        let Some(bar) = &self.bar else { return };
        bar.inc(sent);
        bar.set_message(progress_text(bar.position(), self.len));
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn progress_text(sent: u64, len: Option<u64>) -> String {
    match len {
        Some(len) if sent < len => format!("{} of {} sent", HumanBytes(sent), HumanBytes(len)),
        Some(_) => format!("{} sent; the node checks and unpacks it", HumanBytes(sent)),
        None => format!("{} sent; then the node checks and unpacks it", HumanBytes(sent)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_layout_is_packed_the_same_way_each_time_and_without_what_is_no_part_of_it() {
        let dir = tempfile::tempdir().expect("directory");
        let blobs = dir.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("directory");
        let refused = |expected: &str| {
            let error = source(dir.path()).err().expect("no layout").to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused("it has no oci-layout");
        fs::write(dir.path().join("oci-layout"), "{}").expect("file");
        refused("it has no index.json");
        fs::write(dir.path().join("index.json"), "{\"manifests\":[]}").expect("file");
        fs::write(dir.path().join("private"), "secret").expect("file");
        fs::write(blobs.join("notes"), "secret").expect("file");
        for digit in ["b", "a"] {
            fs::write(blobs.join(digit.repeat(64)), digit.repeat(1000)).expect("file");
        }
        let packed = || {
            let mut bytes = Vec::new();
            Layout::find(dir.path()).expect("a layout").pack(&mut bytes).expect("packed");
            bytes
        };
        let bytes = packed();
        assert_eq!(bytes, packed());
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().expect("a tar file").map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            (entry.path().expect("a name").display().to_string(), text)
        });
        let expected = [
            ("oci-layout".to_owned(), "{}".to_owned()),
            ("index.json".to_owned(), "{\"manifests\":[]}".to_owned()),
            (format!("blobs/sha256/{}", "a".repeat(64)), "a".repeat(1000)),
            (format!("blobs/sha256/{}", "b".repeat(64)), "b".repeat(1000)),
        ];
        assert_eq!(entries.collect::<BTreeMap<_, _>>(), BTreeMap::from(expected));
    }

    #[test]
    fn progress_is_told_in_words() {
        assert_eq!(progress_text(1 << 20, Some(3 << 20)), "1.00 MiB of 3.00 MiB sent");
        assert_eq!(progress_text(3 << 20, Some(3 << 20)), "3.00 MiB sent; the node checks and unpacks it");
        assert_eq!(progress_text(1 << 20, None), "1.00 MiB sent; then the node checks and unpacks it");
        let imported = ImageImported {
            image: "docker.io/library/shop@sha256:aa".to_owned(),
            size_bytes: 3 << 20,
            new_bytes: 1 << 20,
            node: insula_types::NodeId::new(1),
            node_name: "n1".parse().expect("a name"),
        };
        let expected = "docker.io/library/shop is on n1: 3.00 MiB, 1.00 MiB of it new\n\
                        Write into the definition:\nimage = \"docker.io/library/shop@sha256:aa\"\n";
        assert_eq!(told(&imported), expected);
    }
}
