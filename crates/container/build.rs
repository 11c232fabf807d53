//! Builds `shim/`, which this crate carries as `SHIM` (`env!("INSULA_SHIM")` is its path at build time).
//!
//! Always the same way, whatever the profile of the caller: release, static, not position-independent (why:
//! docs/adr/2026-11-21-shim.md). The result stays in the workspace's target directory; cargo does nothing the second time.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Where `libseccomp.a` may be, after `INSULA_LIBSECCOMP_DIR`.
const LIBSECCOMP_DIRS: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// Static, and at a fixed address: ten sleeping shims then share all of their code.
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";

fn main() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("this crate is two levels down");
    let shim = workspace.join("shim");
    for watched in ["shim/src", "shim/Cargo.toml", "shim/Cargo.lock", "crates/container/src/shim/protocol.rs"] {
        println!("cargo:rerun-if-changed={}", workspace.join(watched).display());
    }
    println!("cargo:rerun-if-env-changed=INSULA_LIBSECCOMP_DIR");

    let target = env::var("TARGET").expect("cargo sets TARGET for build scripts");
    let target_dir = target_dir().join("shim");
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--quiet", "--target", &target])
        .arg("--manifest-path")
        .arg(shim.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", libseccomp_dir())
        // What cargo set for the caller is not meant for this build.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CLIPPY_ARGS")
        .status()
        .expect("cargo can be started, it started us");
    assert!(status.success(), "the shim does not build: see above");
    println!("cargo:rustc-env=INSULA_SHIM={}", target_dir.join(target).join("release/insula-shim").display());
}

/// The caller's target directory: `OUT_DIR` is `<target>/[<triple>/]<profile>/build/<package>/out`.
fn target_dir() -> PathBuf {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let above_build = out.ancestors().nth(4).expect("OUT_DIR lies in a target directory");
    let triple = env::var("TARGET").unwrap_or_default();
    if above_build.ends_with(&triple) { above_build.parent().unwrap_or(above_build) } else { above_build }.to_owned()
}

fn libseccomp_dir() -> PathBuf {
    env::var_os("INSULA_LIBSECCOMP_DIR")
        .map(PathBuf::from)
        .or_else(|| LIBSECCOMP_DIRS.iter().map(PathBuf::from).find(|dir| dir.join("libseccomp.a").exists()))
        .expect("libseccomp.a: apt-get install libseccomp-dev, or set INSULA_LIBSECCOMP_DIR")
}
