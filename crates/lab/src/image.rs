//! Images for the lab's registry: a small real one (static busybox that serves one page), and those made of any archive.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256, digest as hash};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use insula_env::Rng;
use serde_json::{Value, json};

use crate::{Error, Lab, error::Attempt, services};

/// Where Debian's `busybox-static` and its like are.
const BUSYBOX: [&str; 2] = ["/usr/bin/busybox", "/bin/busybox"];
/// Limit on one read or write while talking to the registry.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer of the registry that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Largest layer that is taken: it is held in memory.
const LAYER_BYTES_MAX: u64 = 1 << 30;
/// Where the image listens.
pub const TINY_PORT: u16 = 8080;

/// What process 1 of the image does. As such it ignores signals that it has no handler for, so it has one.
const START: &str = r#"#!/bin/busybox sh
for dir in /www /tmp /dev/shm; do
  if /bin/busybox touch "$dir/index.html" 2>/dev/null; then www=$dir; break; fi
done
echo "instance=$INSULA_INSTANCE node=$INSULA_NODE version=$VERSION" > "$www/index.html"
echo ok > "$www/healthz"
echo "serving $www on port ${PORT:-8080} as version $VERSION"
/bin/busybox httpd -f -p "${PORT:-8080}" -h "$www" &
trap 'kill $!; exit 0' TERM INT
wait $!
"#;

/// An image of one layer, ready to be pushed.
#[derive(Debug, Clone)]
pub struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(hash(&SHA256, bytes)))
}

/// Builds an image that serves, on port 8080, a page with its instance, node and this version; `/healthz` besides.
/// The same version gives the same digest. `ballast` bytes that cannot be compressed make it as large as real ones are.
///
/// # Errors
/// [`Error::Missing`] without a static busybox on this machine.
pub fn tiny(version: &str, ballast: usize) -> Result<Image, Error> {
    let busybox = BUSYBOX.iter().find_map(|path| fs::read(path).ok());
    let busybox = busybox.ok_or(Error::Missing { program: "busybox", package: "busybox-static" })?;
    let tar = tree(&busybox, version, ballast).attempt(|| "pack the image's layer".to_owned())?;
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    let layer = packer.write_all(&tar).and_then(|()| packer.finish()).attempt(|| "compress the layer".to_owned())?;
    let run = json!({
        "Env": ["PATH=/bin", format!("VERSION={version}")],
        "Cmd": ["/start"],
        "WorkingDir": "/",
        "ExposedPorts": { format!("{TINY_PORT}/tcp"): {} },
    });
    Ok(describe(layer, &digest(&tar), &run))
}

/// An image whose one layer is the compressed archive (`.tar.gz`) in that file. `run` says what is run and how: the `config` of
/// an OCI image configuration.
///
/// # Errors
/// [`Error::System`] when it cannot be read, is too large, or is not compressed with gzip.
pub fn of_archive(path: &Path, run: &Value) -> Result<Image, Error> {
    let what = || format!("read the layer {}", path.display());
    let mut layer = Vec::new();
    File::open(path).and_then(|file| file.take(LAYER_BYTES_MAX + 1).read_to_end(&mut layer)).attempt(what)?;
    if layer.len() as u64 > LAYER_BYTES_MAX {
        return Err(Error::Invalid(format!("{} is larger than {LAYER_BYTES_MAX} bytes", path.display())));
    }
    let (mut archive, mut hash, mut piece) = (MultiGzDecoder::new(&layer[..]), Context::new(&SHA256), vec![0; 1 << 16]);
    loop {
        let read = archive.read(&mut piece).attempt(what)?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
    }
    let diff_id = format!("sha256:{}", hex::encode(hash.finish()));
    Ok(describe(layer, &diff_id, run))
}

/// Its configuration and manifest; `diff_id` is the digest of the layer before it was compressed.
fn describe(layer: Vec<u8>, diff_id: &str, run: &Value) -> Image {
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    })
    .to_string()
    .into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest(&layer),
            "size": layer.len(),
        }],
    })
    .to_string()
    .into_bytes();
    Image { layer, config, manifest }
}

fn tree(busybox: &[u8], version: &str, ballast: usize) -> std::io::Result<Vec<u8>> {
    let mut filling = vec![0; ballast];
    Rng::from_seed(ballast as u64).fill(&mut filling);
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for (dir, mode) in [("bin", 0o755), ("www", 0o1777), ("tmp", 0o1777), ("etc", 0o755)] {
        tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), format!("{dir}/"), &[][..])?;
    }
    let mut link = header(tar::EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut link, "bin/sh", "busybox")?;
    for (path, mode, bytes) in [
        ("bin/busybox", 0o755, busybox),
        ("start", 0o755, START.as_bytes()),
        ("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n"),
        // Versions share no layer, as those of real apps do not.
        ("etc/version", 0o644, version.as_bytes()),
        ("ballast", 0o644, &filling),
    ] {
        if bytes.is_empty() {
            continue;
        }
        tar.append_data(&mut header(tar::EntryType::Regular, mode, bytes.len() as u64), path, bytes)?;
    }
    tar.into_inner()
}

/// Puts an image into the lab's registry as `name:tag`; gives its reference by digest, `host:port/name@sha256:…`.
///
/// # Errors
/// When the registry does not answer or refuses.
pub fn push(lab: &Lab, image: &Image, name: &str, tag: &str) -> Result<String, Error> {
    lab.in_services(|| {
        let registry = services::registry();
        for blob in [&image.layer, &image.config] {
            let started = request(registry, "POST", &format!("/v2/{name}/blobs/uploads/"), "", &[])?;
            let location = started.header("location").unwrap_or_default();
            let path = location.find("/v2/").map_or(location, |from| &location[from..]);
            let joint = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{joint}digest={}", digest(blob));
            request(registry, "PUT", &path, "application/octet-stream", blob)?;
        }
        let kind = "application/vnd.oci.image.manifest.v1+json";
        request(registry, "PUT", &format!("/v2/{name}/manifests/{tag}"), kind, &image.manifest)?;
        Ok(format!("{registry}/{name}@{}", digest(&image.manifest)))
    })
}

struct Answer {
    head: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.head.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// One request on a connection of its own; an answer that is no success is an error.
fn request(to: SocketAddr, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Answer, Error> {
    let what = || format!("{method} http://{to}{path}");
    let mut stream = TcpStream::connect_timeout(&to, REGISTRY_TIMEOUT).attempt(what)?;
    stream.set_read_timeout(Some(REGISTRY_TIMEOUT)).attempt(what)?;
    stream.set_write_timeout(Some(REGISTRY_TIMEOUT)).attempt(what)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).attempt(what)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).attempt(what)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let is_success = answer.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
    if is_success {
        let head = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(head, _)| head).to_owned();
        return Ok(Answer { head });
    }
    Err(Error::Command { command: what(), said: answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_version_gives_the_same_image() {
        // Needs busybox-static, as every test of the lab does; without it there is nothing to compare.
        let Ok(one) = tiny("v1", 0) else {
            eprintln!("skipped: no static busybox");
            return;
        };
        assert_eq!(one.manifest, tiny("v1", 0).expect("built").manifest);
        assert_ne!(one.manifest, tiny("v2", 0).expect("built").manifest);
    }

    #[test]
    fn an_archive_becomes_a_layer_as_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("layer.tar.gz");
        let tar = tree(b"no busybox", "v1", 0).expect("packed");
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(&tar).expect("compressed");
        fs::write(&path, packer.finish().expect("compressed")).expect("written");
        let image = of_archive(&path, &json!({ "Cmd": ["/start"], "StopSignal": "SIGQUIT" })).expect("an image");
        let config: Value = serde_json::from_slice(&image.config).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&tar));
        assert_eq!(config["config"]["StopSignal"], "SIGQUIT");

        fs::write(&path, &tar).expect("written");
        of_archive(&path, &json!({})).expect_err("not compressed");
    }
}
