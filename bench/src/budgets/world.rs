//! A lab to measure in: three nodes with their own copies of the program.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// Name of the lab.
const NAME: &str = "bench";

/// A lab, taken down when dropped.
#[derive(Debug)]
pub struct World {
    program: PathBuf,
}

/// A node, as `insula lab status --json` tells.
#[derive(Debug, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its server, by the machine's process number.
    pub server: Option<u32>,
    /// Its dataplane.
    pub dataplane: Option<u32>,
}

impl World {
    /// Makes it.
    ///
    /// # Errors
    /// As `insula lab up` says.
    pub fn up(program: &Path) -> anyhow::Result<Self> {
        let world = Self { program: program.to_owned() };
        world.lab(&["down"])?;
        eprintln!("making a lab of three nodes …");
        world.lab(&["up", "--regions", "fra:3"])?;
        Ok(world)
    }

    /// `insula lab …`; what it wrote.
    ///
    /// # Errors
    /// What it complained about.
    pub fn lab(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        let output = command.args(["lab", "--name", NAME]).args(arguments).output();
        let output = output.with_context(|| format!("start {}", self.program.display()))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "insula lab {arguments:?} failed ({}): {complaint}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Its nodes.
    ///
    /// # Errors
    /// When the lab does not say.
    pub fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        let said = self.lab(&["status", "--json"])?;
        serde_json::from_str(&said).with_context(|| format!("understand insula lab status: {said}"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.lab(&["down"]) {
            eprintln!("the lab {NAME} still stands: {error:#}");
        }
    }
}
