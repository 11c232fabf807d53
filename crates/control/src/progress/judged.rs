//! What a deployment's services make of requests, and what is not known of that.

use std::time::Duration;

use insula_types::{CanarySpec, Deployment, RegionalService, ServiceRef};

use super::Part;
use crate::{
    gate,
    traffic::{Compared, Counted},
};

/// A service that is judged by what the edges have counted.
pub(super) struct Judged<'a> {
    service: ServiceRef,
    wanted: &'a RegionalService,
    canary: &'a CanarySpec,
    compared: Compared,
}

/// What is missing to judge a service.
pub(super) struct Lack {
    /// In words, to come behind "waits for".
    pub(super) what: String,
    /// How long it may be missing.
    pub(super) deadline: Duration,
}

impl Judged<'_> {
    /// That it fails too much, in words.
    pub(super) fn fails(&self, deployment: &Deployment) -> Option<String> {
        gate::too_many(&self.service, deployment, self.canary, self.compared)
    }

    /// What edges that are not heard of may have counted, unless the others' requests are enough to judge by. To a service without
    /// routes no edge sends any.
    pub(super) fn lack(&self, deployment: &Deployment, unheard: &[&str]) -> Option<Lack> {
        let is_enough = self.compared.new.requests >= gate::REQUESTS_MIN || self.wanted.spec.routes.is_empty();
        if is_enough || unheard.is_empty() {
            return None;
        }
        let edges = if unheard.len() == 1 { "edge" } else { "edges" };
        let what = format!(
            "what the {edges} of {} may have counted of release {} of {}: the others got too few requests to judge it by",
            unheard.join(", "),
            deployment.release,
            self.service,
        );
        Some(Lack { what, deadline: self.wanted.update.deadline })
    }
}

/// The services whose new instances are judged by the requests that they fail. What leads back to an earlier release is not judged.
pub(super) fn judged<'a>(deployment: &Deployment, parts: &[Part<'a>], counted: &Counted) -> Vec<Judged<'a>> {
    let Some(good) = deployment.from.as_ref().map(|from| from.release) else { return Vec::new() };
    if deployment.is_return || deployment.state.is_over() {
        return Vec::new();
    }
    let of_part = |part: &Part<'a>| {
        let canary = gate::canary(&part.wanted.update)?;
        let service = ServiceRef::new(deployment.app.clone(), part.name.clone());
        // Instances of a release between the two count where they run the same as this one.
        let of_new = part.new.iter().map(|(placement, _)| placement.release);
        let new = of_new.chain([deployment.release]).filter(|release| *release > good).collect();
        let compared = counted.compare(&service, &new, good);
        Some(Judged { service, wanted: part.wanted, canary, compared })
    };
    parts.iter().filter_map(of_part).collect()
}
