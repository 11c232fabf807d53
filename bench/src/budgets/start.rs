//! Starts of containers whose image is present.

use anyhow::{Context, Result};

use super::{Line, ms};
use crate::{
    lab::{Lab, output},
    starts::Starts,
};

/// Starts that are measured.
const COUNT: &str = "100";
/// From the call to a running process.
const START_MS_BUDGET: f64 = 25.0;

/// Measures ours and runc's, in the network of the lab's services.
pub(super) fn measure(lab: &Lab) -> Result<Vec<Line>> {
    eprintln!("starting {COUNT} containers, and as many by runc …");
    let image = lab.run(&["image", "bench"])?;
    let mut command = lab.command_at("services", &lab.programs().bench);
    let said = output(command.args(["starts", "--count", COUNT, "--image", image.trim()]), "")?;
    let [ours, runc]: [Starts; 2] = serde_json::from_str(&said).with_context(|| format!("understand {said}"))?;
    let line = |what: &str, ours_us: u64, runc_us: u64, budget| Line {
        what: format!("container start, image present, {what}"),
        measured: ms(ours_us),
        budget,
        unit: "ms",
        peer: Some(("runc".to_owned(), ms(runc_us))),
    };
    Ok(vec![line("p50", ours.p50_us, runc.p50_us, Some(START_MS_BUDGET)), line("p99", ours.p99_us, runc.p99_us, None)])
}
