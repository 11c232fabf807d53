//! Checks that crates import each other as the table in ARCHITECTURE.md says: arrows down only, no circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::run::{cargo, top};

/// Where the table is.
const DOCUMENT: &str = "ARCHITECTURE.md";
/// What the table's heading begins with.
const HEADING: &str = "| layer | crate | imports (ours) |";

/// Crate → the crates of ours that it imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Compares the table with the manifests.
///
/// # Errors
/// What differs, and what to do about it.
pub(crate) fn check() -> Result<()> {
    let text = std::fs::read_to_string(top().join(DOCUMENT)).with_context(|| format!("read {DOCUMENT}"))?;
    let real = manifests()?;
    let (order, written) = table(&text, |name| real.contains_key(name))?;
    let mut wrong = compare(&order, &written, &real);
    wrong.extend(upward(&order, &real));
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}

/// The rows of the table: crates from the lowest up, and what each says it imports. What stands apart may be outside of
/// the workspace, and is then left out.
fn table(text: &str, is_member: impl Fn(&str) -> bool) -> Result<(Vec<String>, Imports)> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(HEADING));
    ensure!(lines.next().is_some(), "{DOCUMENT} has no table that begins with {HEADING:?}");
    let mut order = Vec::new();
    let mut imports = Imports::new();
    let mut is_apart = false;
    for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [layer, name, uses, ..] = cells[..] else { bail!("{DOCUMENT}: a row with too few cells: {line}") };
        is_apart = layer == "apart" || is_apart && layer.is_empty();
        if is_apart && !is_member(name) {
            continue;
        }
        let uses = uses.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "–").map(str::to_owned);
        order.push(name.to_owned());
        imports.insert(name.to_owned(), uses.collect());
    }
    Ok((order, imports))
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// What the packages of the workspace import of each other, tests apart.
fn manifests() -> Result<Imports> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed ({})", output.status);
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("understand cargo metadata")?;
    let short = |name: &str| name.strip_prefix("insula-").unwrap_or(name).to_owned();
    let names: BTreeSet<_> = metadata.packages.iter().map(|package| package.name.clone()).collect();
    let imports = |package: &Package| {
        let ours = |dependency: &&Dependency| dependency.kind.is_none() && names.contains(&dependency.name);
        package.dependencies.iter().filter(ours).map(|dependency| short(&dependency.name)).collect()
    };
    Ok(metadata.packages.iter().map(|package| (short(&package.name), imports(package))).collect())
}

fn compare(order: &[String], written: &Imports, real: &Imports) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, imports) in real {
        let Some(said) = written.get(name) else {
            wrong.push(format!("crate {name} is not in the table of {DOCUMENT}: add a row at its layer"));
            continue;
        };
        for extra in imports.difference(said) {
            wrong.push(format!("crate {name} imports {extra}, which {DOCUMENT} does not allow"));
        }
        for missing in said.difference(imports) {
            wrong.push(format!("{DOCUMENT} says that {name} imports {missing}, which it does not"));
        }
    }
    wrong.extend(
        order
            .iter()
            .filter(|name| !real.contains_key(*name))
            .map(|name| format!("{DOCUMENT} has a row for crate {name}, which does not exist")),
    );
    wrong
}

/// Imports that do not point up the table, which also rules out circles.
fn upward(order: &[String], real: &Imports) -> Vec<String> {
    let place = |name: &String| order.iter().position(|other| other == name);
    let mut wrong = Vec::new();
    for (name, imports) in real {
        for import in imports {
            if let (Some(own), Some(other)) = (place(name), place(import))
                && other >= own
            {
                wrong.push(format!("crate {name} imports {import}, which stands below it: imports point up the table"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(pairs: &[(&str, &[&str])]) -> Imports {
        pairs.iter().map(|(name, uses)| ((*name).to_owned(), uses.iter().map(|u| (*u).to_owned()).collect())).collect()
    }

    #[test]
    fn the_table_is_read_and_differences_are_named() {
        let text = "| layer | crate | imports (ours) | what it is |\n|---|---|---|---|\n| a | low | – | x |\n| b | high | low | y |\n| apart | shim | – | z |\n| | tool | low | z |\n";
        let (order, written) = table(text, |name| name != "shim").expect("a table");
        assert_eq!(order, ["low", "high", "tool"]);
        assert!(
            compare(&order, &written, &imports(&[("low", &[]), ("high", &["low"]), ("tool", &["low"])])).is_empty()
        );
        let real = imports(&[("low", &["high"]), ("high", &[]), ("tool", &["low"]), ("new", &[])]);
        assert_eq!(compare(&order, &written, &real).len(), 3);
        assert_eq!(
            upward(&order, &real),
            ["crate low imports high, which stands below it: imports point up the table"]
        );
    }
}
