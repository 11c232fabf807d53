//! A tiny OCI image around the machine's static busybox, and a registry of a few lines that serves it.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use insula_container::ImageRef;
use insula_env::net;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const APPLETS: [&str; 16] = [
    "wget", "sh", "httpd", "sleep", "cat", "echo", "id", "ls", "kill", "dd", "true", "false", "touch", "mount", "seq",
    "grep",
];

/// One entry of a layer.
pub enum File<'a> {
    Directory(&'a str),
    /// A directory with this mode, of this user and group.
    Owned(&'a str, u32, u64),
    Plain(&'a str, u32, Vec<u8>),
    Link(&'a str, &'a str),
    Hard(&'a str, &'a str),
    Device(&'a str),
    /// A sparse file with nothing in it but so many bytes of a hole.
    Hole(&'a str, u64),
    /// A name as it stands, which the tar library would refuse to write.
    Raw(&'a str, Vec<u8>),
}

pub enum Pack {
    Plain,
    Gzip,
    Zstd,
}

/// A layer: compressed bytes, and the digest of the plain ones.
#[derive(Clone)]
pub struct Layer {
    pub bytes: Vec<u8>,
    pub diff_id: String,
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub fn layer(files: &[File<'_>], pack: &Pack) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_000_000_000);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        match file {
            File::Directory(name) => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, name, std::io::empty()).unwrap();
            }
            File::Owned(name, mode, owner) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_uid(*owner);
                header.set_gid(*owner);
                tar.append_data(&mut header, name, std::io::empty()).unwrap();
            }
            File::Plain(name, mode, bytes) => {
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, name, &bytes[..]).unwrap();
            }
            File::Link(name, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, name, target).unwrap();
            }
            File::Hard(name, target) => {
                header.set_entry_type(tar::EntryType::Link);
                tar.append_link(&mut header, name, target).unwrap();
            }
            File::Device(name) => {
                header.set_entry_type(tar::EntryType::Char);
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
                tar.append_data(&mut header, name, std::io::empty()).unwrap();
            }
            File::Hole(name, size) => {
                let number = [[0x80, 0, 0, 0].as_slice(), &size.to_be_bytes()].concat();
                header.set_entry_type(tar::EntryType::GNUSparse);
                header.set_path(name).unwrap();
                let gnu = header.as_gnu_mut().unwrap();
                gnu.realsize.copy_from_slice(&number);
                gnu.sparse[0].offset.copy_from_slice(&number);
                gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
                header.set_cksum();
                tar.append(&header, std::io::empty()).unwrap();
            }
            File::Raw(name, bytes) => {
                header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
                header.set_size(bytes.len() as u64);
                header.set_cksum();
                tar.append(&header, &bytes[..]).unwrap();
            }
        }
    }
    let plain = tar.into_inner().unwrap();
    let diff_id = digest(&plain);
    let bytes = match pack {
        Pack::Plain => plain,
        Pack::Zstd => zstd::encode_all(&plain[..], 3).unwrap(),
        Pack::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        }
    };
    Layer { bytes, diff_id }
}

/// Busybox with a web page in the upper layer, which also takes away what the lower one has.
pub fn busybox() -> Vec<Layer> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| std::fs::read(path).ok());
    let busybox = busybox.expect("busybox: apt-get install busybox-static");
    let mut lower = vec![
        File::Directory("bin/"),
        File::Plain("bin/busybox", 0o755, busybox),
        File::Directory("etc/"),
        File::Plain("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n".to_vec()),
        File::Directory("old/"),
        File::Plain("old/hidden", 0o644, b"below".to_vec()),
        File::Plain("removed", 0o644, b"below".to_vec()),
        File::Directory("www/"),
        File::Plain("www/index.html", 0o644, b"below".to_vec()),
        File::Directory("tmp/"),
    ];
    let links: Vec<String> = APPLETS.iter().map(|applet| format!("bin/{applet}")).collect();
    lower.extend(links.iter().map(|link| File::Link(link, "busybox")));
    let upper = [
        File::Plain("www/index.html", 0o644, b"hello from an image\n".to_vec()),
        File::Plain(".wh.removed", 0o644, Vec::new()),
        File::Plain("old/.wh..wh..opq", 0o644, Vec::new()),
        File::Plain("old/new", 0o644, b"above".to_vec()),
        File::Hard("old/same", "old/new"),
    ];
    vec![layer(&lower, &Pack::Gzip), layer(&upper, &Pack::Zstd)]
}

/// Busybox and this machine's perl, which can call whatever the kernel has.
pub fn perl() -> Vec<Layer> {
    let used = ["libm.so.6", "libc.so.6", "libcrypt.so.1"].map(|name| format!("lib/x86_64-linux-gnu/{name}"));
    let names = ["usr/bin/perl".to_owned(), "lib64/ld-linux-x86-64.so.2".to_owned()].into_iter().chain(used);
    let files: Vec<(String, Vec<u8>)> = names
        .map(|name| {
            let bytes = std::fs::read(format!("/{name}")).unwrap_or_else(|error| panic!("/{name}: {error}"));
            (name, bytes)
        })
        .collect();
    let mut layers = busybox();
    let files: Vec<File<'_>> = files.iter().map(|(name, bytes)| File::Plain(name, 0o755, bytes.clone())).collect();
    layers.push(layer(&files, &Pack::Plain));
    layers
}

/// Whom a registry lets in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Door {
    Open,
    /// Who shows [`USER`] and [`PASSWORD`].
    Basic,
    /// Who shows a token, which `/token` gives to who shows [`USER`] and [`PASSWORD`].
    Bearer,
}

pub const USER: &str = "insula";
pub const PASSWORD: &str = "swordfish";
const TOKEN: &str = "one-hour";

/// Serves what is put in, at the paths of the OCI distribution specification.
pub struct Registry {
    pub address: std::net::SocketAddr,
    content: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Requests for blobs and manifests so far.
    asked: Mutex<Vec<String>>,
    /// Blobs break off after so many bytes.
    cut: Mutex<Option<usize>>,
    /// Bytes of blobs that were sent.
    sent: Mutex<usize>,
    door: Mutex<Door>,
}

impl Registry {
    pub async fn start() -> Arc<Self> {
        let listener = net::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Arc::new(Self {
            address,
            content: Mutex::default(),
            asked: Mutex::default(),
            cut: Mutex::default(),
            sent: Mutex::default(),
            door: Mutex::new(Door::Open),
        });
        let serving = Arc::clone(&registry);
        #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&serving).answer(stream));
            }
        });
        registry
    }

    async fn answer(self: Arc<Self>, stream: net::TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        stream.read_line(&mut request).await.ok();
        let (mut line, mut from, mut shown) = (String::new(), 0, String::new());
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
            if let Some(range) = line.to_ascii_lowercase().trim_end().strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().unwrap();
            }
            if let Some((_, value)) =
                line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            {
                shown = value.trim_end().to_owned();
            }
            line.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let found = self.content.lock().unwrap().get(&path).cloned();
        self.asked.lock().unwrap().push(path.clone());
        let challenge = self.challenge(&path, &shown);
        let (status, body) = match (path.as_str(), found) {
            _ if challenge.is_some() => ("401 Unauthorized", b"{\"errors\":[]}".to_vec()),
            (path, _) if path.starts_with("/token?") => ("200 OK", format!("{{\"token\":\"{TOKEN}\"}}").into_bytes()),
            ("/v2/", _) => ("200 OK", Vec::new()),
            (_, Some(body)) if from > 0 => ("206 Partial Content", body[from..].to_vec()),
            (_, Some(body)) => ("200 OK", body),
            (_, None) => ("404 Not Found", b"{\"errors\":[]}".to_vec()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Content-Type: application/vnd.oci.image.manifest.v1+json\r\n{}\r\n",
            body.len(),
            challenge.unwrap_or_default(),
        );
        let mut body = if request.starts_with("HEAD") { &[][..] } else { &body };
        if path.contains("/blobs/") {
            body = &body[..self.cut.lock().unwrap().unwrap_or(usize::MAX).min(body.len())];
            *self.sent.lock().unwrap() += body.len();
        }
        stream.write_all(&[head.as_bytes(), body].concat()).await.ok();
        stream.flush().await.ok();
    }

    /// The header of a refusal; none: who shows this comes in.
    fn challenge(&self, path: &str, shown: &str) -> Option<String> {
        let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        let (is_in, challenge) = match *self.door.lock().unwrap() {
            Door::Open => (true, String::new()),
            Door::Bearer if !path.starts_with("/token?") => {
                let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"", self.address);
                (shown == format!("Bearer {TOKEN}"), challenge)
            }
            Door::Basic | Door::Bearer => (shown == basic, "Basic realm=\"test\"".to_owned()),
        };
        (!is_in).then(|| format!("WWW-Authenticate: {challenge}\r\n"))
    }

    /// Lets in others from now on.
    pub fn set_door(&self, door: Door) {
        *self.door.lock().unwrap() = door;
    }

    /// Forgets everything, as if it were gone.
    pub fn clear(&self) {
        self.content.lock().unwrap().clear();
    }

    /// Lets each blob break off after so many bytes, or no more.
    pub fn cut_after(&self, bytes: Option<usize>) {
        *self.cut.lock().unwrap() = bytes;
    }

    /// Bytes of blobs that were sent so far.
    pub fn sent(&self) -> usize {
        *self.sent.lock().unwrap()
    }

    pub fn asked(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|path| path.contains("/blobs/")).count()
    }

    /// Replaces the bytes behind a digest by others: what a broken or hostile registry does.
    pub fn put_blob(&self, digest: &str, bytes: Vec<u8>) {
        self.content.lock().unwrap().insert(format!("/v2/tiny/blobs/{digest}"), bytes);
    }

    /// Adds an image, under its digest and the tag `1`.
    pub fn push(&self, layers: &[Layer]) -> ImageRef {
        self.push_documents(layers, &documents(layers))
    }

    /// The same for one that says more about how it is run.
    pub fn push_saying(&self, layers: &[Layer], says: &serde_json::Value) -> ImageRef {
        self.push_documents(layers, &documents_saying(ARCHITECTURE, layers, says))
    }

    fn push_documents(&self, layers: &[Layer], (config, manifest): &(Vec<u8>, Vec<u8>)) -> ImageRef {
        for bytes in layers.iter().map(|layer| &layer.bytes).chain([config]) {
            self.put_blob(&digest(bytes), bytes.clone());
        }
        let digest = digest(manifest);
        let mut content = self.content.lock().unwrap();
        content.insert("/v2/tiny/manifests/1".to_owned(), manifest.clone());
        content.insert(format!("/v2/tiny/manifests/{digest}"), manifest.clone());
        format!("{}/tiny@{digest}", self.address).parse().unwrap()
    }
}

/// The architecture of this machine, as images name it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// The configuration and the manifest of an image.
pub fn documents(layers: &[Layer]) -> (Vec<u8>, Vec<u8>) {
    documents_for(ARCHITECTURE, layers)
}

pub fn documents_for(architecture: &str, layers: &[Layer]) -> (Vec<u8>, Vec<u8>) {
    documents_saying(architecture, layers, &serde_json::json!({}))
}

fn documents_saying(architecture: &str, layers: &[Layer], says: &serde_json::Value) -> (Vec<u8>, Vec<u8>) {
    let mut config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": ["FROM_IMAGE=yes", "GREETING=hidden"],
            "Cmd": ["httpd", "-f", "-v", "-p", "80", "-h", "/www"],
            "WorkingDir": "/www",
        },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>() },
    });
    for (key, value) in says.as_object().unwrap() {
        config["config"][key] = value.clone();
    }
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": layers.iter().map(|layer| described(&layer.bytes, LAYER)).collect::<Vec<_>>(),
    }))
    .unwrap();
    (config, manifest)
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A descriptor of some bytes.
pub fn described(bytes: &[u8], kind: &str) -> serde_json::Value {
    serde_json::json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}
