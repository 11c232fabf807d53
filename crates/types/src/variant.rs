//! What a service is in a region that overrides it.

use serde::{Deserialize, Serialize};

use crate::{Priority, ServiceSpec, UpdateSpec};

/// A service as one region's override makes it: the whole of it, so that whoever derives from it merges nothing. What regions cannot
/// override, its image and how often it was restarted, is not in it: that is the service's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceVariant {
    /// How to run an instance, without an image.
    pub spec: ServiceSpec,
    /// How it goes from one release to the next.
    #[serde(default, skip_serializing_if = "UpdateSpec::is_usual")]
    pub update: UpdateSpec,
    /// How important it is.
    #[serde(default, skip_serializing_if = "Priority::is_usual")]
    pub priority: Priority,
}

impl ServiceVariant {
    /// A service, as a region would have it that overrides nothing.
    #[must_use]
    pub fn new(spec: &ServiceSpec, update: &UpdateSpec, priority: Priority) -> Self {
        let spec = ServiceSpec { image: None, restarted: 0, ..spec.clone() };
        Self { spec, update: update.clone(), priority }
    }

    /// How to run an instance of it, where `service` is what other regions run.
    #[must_use]
    pub fn spec_for(&self, service: &ServiceSpec) -> ServiceSpec {
        ServiceSpec { image: service.image.clone(), restarted: service.restarted, ..self.spec.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_and_the_restarts_are_those_of_the_service() {
        let service = ServiceSpec { image: Some("r/a".to_owned()), restarted: 3, ..ServiceSpec::default() };
        let mut variant = ServiceVariant::new(&service, &UpdateSpec::default(), Priority::USUAL);
        assert_eq!((variant.spec.image.as_ref(), variant.spec.restarted), (None, 0));
        assert_eq!(variant.spec_for(&service), service);
        variant.spec.command = vec!["b".to_owned()];
        let of_region = variant.spec_for(&ServiceSpec { restarted: 4, ..service.clone() });
        assert_eq!(of_region, ServiceSpec { restarted: 4, command: vec!["b".to_owned()], ..service });
    }
}
