//! Many instances on one node.

use anyhow::{Context, Result};

use super::{Line, ms};
use crate::{
    lab::{Lab, output},
    starts::many::Many,
};

/// Instances on the node.
const COUNT: &str = "300";
/// Memory of one instance's shim.
const SHIM_MIB_BUDGET: f64 = 1.0;

/// Measures in the network of the lab's services.
pub(super) fn measure(lab: &Lab) -> Result<Vec<Line>> {
    eprintln!("starting {COUNT} containers on one node …");
    let image = lab.run(&["image", "bench"])?;
    let mut command = lab.command_at("services", &lab.programs().bench);
    let said = output(command.args(["many", "--count", COUNT, "--image", image.trim()]), "")?;
    let many: Many = serde_json::from_str(&said).with_context(|| format!("understand {said}"))?;
    let line = |what: &str, measured, unit, budget| Line {
        what: format!("{COUNT} instances on a node, {what}"),
        measured,
        budget,
        unit,
        peer: None,
    };
    Ok(vec![
        line("until all run", ms(many.all_us) / 1000.0, "s", None),
        line("memory of a shim", many.shim_mib, "MiB", Some(SHIM_MIB_BUDGET)),
        line("growth of the agent for each", many.agent_mib * 1024.0, "KiB", None),
    ])
}
