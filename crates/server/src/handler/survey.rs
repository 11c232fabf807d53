//! Where the next instance of a service would go, by this node's copy of the region's state.

use insula_api::{
    Answer,
    wire::{PlacementSurvey, Standing, SurveyedNode, Versioned},
};
use insula_control::explain;
use insula_types::ServiceRef;

use super::{
    NodeApi,
    apps::{no_such_app, no_such_service},
};

impl NodeApi {
    pub(super) fn survey_nodes(&self, service: ServiceRef) -> Answer<Versioned<PlacementSurvey>> {
        self.region.replica().read_at(|region, revision| {
            let is_app = region.definitions.contains(&service.app);
            let missing = || if is_app { no_such_service(&service) } else { no_such_app(&service.app) };
            let surveyed = explain::placement(region, &service).ok_or_else(missing)?;
            let nodes = surveyed.into_iter().filter_map(|one| {
                let (standing, why_not) = match one.verdict {
                    Ok(standing) => (Some(standing), String::new()),
                    Err(why) => (None, why.to_string()),
                };
                let standing = standing.map(|standing| Standing {
                    in_group: standing.in_group,
                    on_node: standing.on_node,
                    lacks: standing.lacks as u32,
                    free_percent: standing.free_percent,
                });
                Some(SurveyedNode { node: region.nodes.get(&one.node)?.name.clone(), standing, why_not })
            });
            let nodes = nodes.collect();
            let waiting = region.shortfalls.get(&service).map(|row| row.text(&service));
            Ok(Versioned { revision, value: PlacementSurvey { service, nodes, waiting } })
        })
    }
}
