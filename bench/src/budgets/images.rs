//! Cold pulls of an image with thousands of files, unpacking included: from its registry beside skopeo and umoci on a disk
//! of the same kind, and from another node.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use insula_env::Clock;
use serde_json::{Value, json};

use super::Line;
use crate::lab::{Lab, LabNode, output};

/// Rounds; the median counts.
const ROUNDS: usize = 3;
/// What the layers are made of: directories of this machine, and what lets the image run.
const LAYERS: [&[&str]; 4] = [&["bin/busybox"], &["usr/include"], &["usr/lib/python3.11"], &["usr/lib/python3"]];
/// How long a pull may take.
const PULLED_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Ours takes at most as long as the peer.
const RATIO_BUDGET: f64 = 1.0;

/// Measures on three nodes, of which one pulls from the registry and one from that node; the third one's disk is the peer's.
pub(super) fn measure(lab: &Lab) -> Result<Vec<Line>> {
    let work = std::env::temp_dir().join(format!("insula-bench-images-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let measured = (0..ROUNDS).map(|round| self::round(lab, &work, round)).collect::<Result<Vec<_>>>();
    fs::remove_dir_all(&work).ok();
    let rounds = measured?;
    let median = |pick: fn(&Round) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(pick).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (unpacked_mib, packed_mib) = (median(|round| round.unpacked_mib), median(|round| round.packed_mib));
    let (registry, tools, node) =
        (median(|round| round.registry_s), median(|round| round.tools_s), median(|round| round.node_s));
    let line = |what: String, measured, budget, unit, peer| Line { what, measured, budget, unit, peer };
    let tools_of = |value| Some(("skopeo + umoci".to_owned(), value));
    Ok(vec![
        line(
            format!(
                "cold pull and unpack, {packed_mib:.0} MiB in {} layers, {unpacked_mib:.0} MiB unpacked",
                LAYERS.len()
            ),
            registry,
            Some(RATIO_BUDGET * tools),
            "s",
            tools_of(tools),
        ),
        line(
            "  unpacked in a second (more is better)".into(),
            unpacked_mib / registry,
            None,
            "MiB/s",
            tools_of(unpacked_mib / tools),
        ),
        line("  the same from another node".into(), node, None, "s", Some(("from the registry".to_owned(), registry))),
    ])
}

/// What one round took, in seconds.
struct Round {
    registry_s: f64,
    node_s: f64,
    tools_s: f64,
    packed_mib: f64,
    unpacked_mib: f64,
}

fn round(lab: &Lab, work: &Path, round: usize) -> Result<Round> {
    eprintln!("pulling an image, round {} of {ROUNDS} …", round + 1);
    let [first, second, third] = <[LabNode; 3]>::try_from(lab.nodes()?).ok().context("the lab has three nodes")?;
    let (image, packed, unpacked) = push(lab, work, round)?;
    for node in [&second, &third] {
        lab.on(&first.name, &["drain", &node.name, "--yes", "--wait", "2m"], "")?;
    }
    let app = format!("pulled-{round}");
    let definition = format!(
        "app = \"{app}\"\n[services.one]\nimage = \"{image}\"\ncommand = [\"/bin/busybox\", \"sleep\", \"100000\"]\nscale = 1\n\
         resources = {{ cpu = \"50m\", memory = \"32MiB\", pids = 8 }}\n"
    );
    lab.on(&first.name, &["deploy", "-", "--wait", "5m"], &definition)?;
    let registry = pulled(lab, &first, &image)?;
    ensure!(registry.from_nodes == 0, "{} of the image came from another node", registry.from_nodes);
    // It shall keep the second copy now, and there is a node that has it.
    lab.on(&first.name, &["uncordon", &second.name], "")?;
    let node = pulled(lab, &second, &image)?;
    ensure!(node.from_nodes > 0, "nothing of the image came from the other node");
    let tools_s = by_tools(lab, &third, &image)?;
    lab.on(&first.name, &["rm", &app, "--yes"], "")?;
    lab.on(&first.name, &["uncordon", &third.name], "")?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(Round {
        registry_s: registry.seconds,
        node_s: node.seconds,
        tools_s,
        packed_mib: mib(packed),
        unpacked_mib: mib(unpacked),
    })
}

/// A pull, as the node's log tells it.
struct Pull {
    seconds: f64,
    from_nodes: u64,
}

/// Waits until a node has pulled the image.
fn pulled(lab: &Lab, node: &LabNode, image: &str) -> Result<Pull> {
    let deadline = Clock::real().now() + PULLED_WITHIN;
    loop {
        let console = lab.console(&node.name)?;
        let of_image = |what: &str| {
            console
                .lines()
                .rfind(|line| line.contains(what) && line.contains(&format!("image={image}")))
                .map(str::to_owned)
        };
        if let Some((begun, ended)) = of_image("image pull begins").zip(of_image("image is present")) {
            let field = ended.split("from_nodes_bytes=").nth(1).and_then(|rest| rest.split_whitespace().next());
            let from_nodes = field.and_then(|number| number.parse().ok()).context("a log line without its numbers")?;
            return Ok(Pull { seconds: second_of_day(&ended)? - second_of_day(&begun)?, from_nodes });
        }
        if Clock::real().now() > deadline {
            bail!("{} has not pulled {image} within {PULLED_WITHIN:?}", node.name);
        }
        sleep(LOOK_EVERY);
    }
}

/// The time of day that a log line begins with, in seconds.
fn second_of_day(line: &str) -> Result<f64> {
    let time = line.split_once('T').and_then(|(_, rest)| rest.split_once('Z')).map(|(time, _)| time);
    let mut parts = time.into_iter().flat_map(|time| time.split(':')).map(str::parse::<f64>);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(hours)), Some(Ok(minutes)), Some(Ok(seconds))) => Ok(hours * 3600.0 + minutes * 60.0 + seconds),
        _ => bail!("a log line without a time: {line}"),
    }
}

/// The same by skopeo and umoci, on a node's disk; in seconds.
fn by_tools(lab: &Lab, node: &LabNode, image: &str) -> Result<f64> {
    let place = "/var/lib/insula/peer";
    let script = format!(
        "set -e; rm -rf {place}; mkdir {place}; sync\n\
         skopeo copy -q --insecure-policy --src-tls-verify=false docker://{image} oci:{place}/image:one\n\
         umoci unpack --image {place}/image:one {place}/bundle >/dev/null\n\
         sync -f {place}"
    );
    let begun = Clock::real().now();
    let mut command = lab.command_at(&node.name, Path::new("sh"));
    output(command.args(["-c", &script]), "")?;
    let took = Clock::real().now() - begun;
    let mut clean = lab.command_at(&node.name, Path::new("rm"));
    output(clean.args(["-rf", place]), "")?;
    Ok(took.as_secs_f64())
}

/// Makes an image that no node has parts of, and pushes it; gives its reference, and its bytes packed and unpacked.
fn push(lab: &Lab, work: &Path, round: usize) -> Result<(String, u64, u64)> {
    let layout = work.join(format!("image-{round}"));
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("make {}", blobs.display()))?;
    fs::write(work.join("salt"), format!("{} {round}", std::process::id())).context("write the salt")?;
    let (mut layers, mut diff_ids, mut packed, mut unpacked) = (Vec::new(), Vec::new(), 0, 0);
    for paths in LAYERS {
        let tar = work.join("layer.tar");
        let mut command = Command::new("tar");
        command.arg("-cf").arg(&tar).args(["--sort=name", "-C"]).arg(work).args(["salt", "-C", "/"]).args(paths);
        output(&mut command, "")?;
        unpacked += size(&tar)?;
        diff_ids.push(sha256(&tar)?);
        output(Command::new("gzip").args(["-1", "-n", "-f"]).arg(&tar), "")?;
        let packed_layer = work.join("layer.tar.gz");
        packed += size(&packed_layer)?;
        layers.push(keep(&packed_layer, &blobs, "application/vnd.oci.image.layer.v1.tar+gzip")?);
    }
    let document = |value: &Value, kind: &str| -> Result<Value> {
        let path = work.join("document");
        fs::write(&path, value.to_string()).with_context(|| format!("write {}", path.display()))?;
        keep(&path, &blobs, kind)
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config =
        json!({ "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = document(&config, "application/vnd.oci.image.config.v1+json")?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
    let manifest = document(&manifest, kind)?;
    let digest = manifest["digest"].as_str().context("a manifest without a digest")?.to_owned();
    fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())
        .context("write the layout")?;
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).context("write the index")?;
    let tiny = lab.run(&["image", "bench"])?;
    let registry = tiny.split('/').next().context("a reference without a registry")?;
    let mut copy = lab.command_at("services", Path::new("skopeo"));
    copy.args(["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"]);
    copy.arg(format!("oci:{}", layout.display())).arg(format!("docker://{registry}/pulled:{round}"));
    output(&mut copy, "")?;
    fs::remove_dir_all(&layout).ok();
    Ok((format!("{registry}/pulled@{digest}"), packed, unpacked))
}

fn size(path: &PathBuf) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.len())
}

fn sha256(path: &PathBuf) -> Result<String> {
    let said = output(Command::new("sha256sum").arg(path), "")?;
    let digest = said.split_whitespace().next().context("sha256sum said nothing")?;
    Ok(format!("sha256:{digest}"))
}

/// Moves a file among the blobs, and describes it.
fn keep(path: &PathBuf, blobs: &Path, kind: &str) -> Result<Value> {
    let (digest, size) = (sha256(path)?, size(path)?);
    let blob = blobs.join(digest.trim_start_matches("sha256:"));
    fs::rename(path, &blob).with_context(|| format!("make {}", blob.display()))?;
    Ok(json!({ "mediaType": kind, "digest": digest, "size": size }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_says_when() {
        let line = "2026-11-22T15:04:05.250000Z  INFO insula_container::image::pull: image is present image=a";
        assert_eq!(second_of_day(line).expect("a time"), 15.0 * 3600.0 + 4.0 * 60.0 + 5.25);
        assert!(second_of_day("no time").is_err());
    }
}
