//! Makes an image from Debian's packages, as it would be made for any container engine: nothing in it is for Insula.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::lab::output;

/// The release of Debian.
const SUITE: &str = "bookworm";
/// Left out, as in Debian's own slim images.
const WITHOUT: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

/// How an image is made: `image.json` and `setup.sh` of its folder in `bench/stock`.
pub(in crate::story) struct Recipe {
    pub(in crate::story) name: &'static str,
    pub(in crate::story) image: &'static str,
    /// A shell script that gets the root directory once the packages are in it.
    pub(in crate::story) setup: &'static str,
}

/// `image.json`.
#[derive(Deserialize)]
struct Description {
    packages: Vec<String>,
    /// The `config` of an OCI image configuration.
    config: Value,
}

/// An image on disk.
pub(in crate::story) struct Made {
    /// Its only layer, a `.tar.gz`.
    pub(in crate::story) layer: PathBuf,
    pub(in crate::story) config: Value,
    /// Whether the layer was there already.
    pub(in crate::story) is_cached: bool,
}

/// Makes it in `directory`, or finds what was made there by the same recipe. Needs root and Debian's mirror.
pub(in crate::story) fn make(recipe: &Recipe, directory: &Path) -> Result<Made> {
    let description: Description = serde_json::from_str(recipe.image).context("understand its image.json")?;
    let file = |ending: &str| directory.join(format!("{}.{ending}", recipe.name));
    let (layer, script, made_by) = (file("tar.gz"), file("setup.sh"), file("recipe"));
    let packages = description.packages.join(",");
    let this = format!("{SUITE} {packages}\n{}", recipe.setup);
    if layer.exists() && fs::read_to_string(&made_by).is_ok_and(|earlier| earlier == this) {
        return Ok(Made { layer, config: description.config, is_cached: true });
    }
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    fs::write(&script, recipe.setup).with_context(|| format!("write {}", script.display()))?;
    fs::set_permissions(&script, Permissions::from_mode(0o755)).context("make the script executable")?;
    // What was half-made is not taken for an image.
    let new = file("new.tar.gz");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""]);
    command.args(WITHOUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    command.arg(format!("--include={packages}")).arg(format!("--customize-hook={}", script.display()));
    command.arg(SUITE).arg(&new).arg(mirror()?);
    output(&mut command, "").with_context(|| format!("make the image {} of {packages}", recipe.name))?;
    fs::rename(&new, &layer).with_context(|| format!("keep {}", layer.display()))?;
    fs::write(&made_by, this).with_context(|| format!("write {}", made_by.display()))?;
    Ok(Made { layer, config: description.config, is_cached: false })
}

/// Where this machine gets its own packages from; Debian's mirror elsewhere.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]);
    let known = output(command.arg(format!("Codename: {SUITE}")), "").context("ask for the machine's mirror")?;
    let mirror = known.lines().next().unwrap_or("http://deb.debian.org/debian/");
    ensure!(mirror.starts_with("http"), "{mirror} is no mirror that can be fetched from: expected http or https");
    Ok(mirror.to_owned())
}
