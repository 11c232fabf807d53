//! Starts of containers whose image is present.

use anyhow::{Context, Result};

use super::{Line, ms};
use crate::{
    lab::{Lab, output},
    starts::Measured,
};

/// Starts that are measured one after the other, and at once.
const COUNT: &str = "100";
const AT_ONCE: &str = "40";
/// From the call to a running process.
const P50_MS_BUDGET: f64 = 25.0;
const P99_MS_BUDGET: f64 = 60.0;

/// Measures ours, runc's and podman's, in the network of the lab's services.
pub(super) fn measure(lab: &Lab) -> Result<Vec<Line>> {
    eprintln!("starting {COUNT} containers and {AT_ONCE} at once, and as many by runc and podman …");
    let image = lab.run(&["image", "bench"])?;
    let mut command = lab.command_at("services", &lab.programs().bench);
    let said = output(command.args(["starts", "--count", COUNT, "--at-once", AT_ONCE, "--image", image.trim()]), "")?;
    let [ours, runc, podman]: [Measured; 3] =
        serde_json::from_str(&said).with_context(|| format!("understand {said}"))?;
    // Each figure beside each peer; the budget is looked at once.
    let lines = |what: &str, value: fn(&Measured) -> u64, budget| {
        [("runc", &runc, budget), ("podman without network", &podman, None)].map(|(name, peer, budget)| Line {
            what: format!("container start, image present, {what}"),
            measured: ms(value(&ours)),
            budget,
            unit: "ms",
            peer: Some((name.to_owned(), ms(value(peer)))),
        })
    };
    let figures = [
        lines("p50", |of| of.one_by_one.p50_us, Some(P50_MS_BUDGET)),
        lines("p99", |of| of.one_by_one.p99_us, Some(P99_MS_BUDGET)),
        lines(&format!("{AT_ONCE} at once, p50"), |of| of.at_once.p50_us, None),
        lines(&format!("{AT_ONCE} at once, p99"), |of| of.at_once.p99_us, None),
        lines(&format!("{AT_ONCE} at once, until all run"), |of| of.all_us, None),
    ];
    Ok(figures.into_iter().flatten().collect())
}
