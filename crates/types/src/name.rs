//! Names that users choose. All are DNS labels (RFC 1123 section 2.1), so that every one can stand in a host name.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::definition::nearest;

/// Longest DNS label in bytes (RFC 1035 section 2.3.4).
pub const LABEL_LEN_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a valid {what} name: {why}")]
pub struct NameError {
    /// Kind of name: "app", "service" …
    pub what: &'static str,
    /// The text that was given.
    pub found: String,
    /// What is wrong with it, and what would be right.
    pub why: &'static str,
}

fn check_label(what: &'static str, found: &str) -> Result<(), NameError> {
    let why = if found.is_empty() {
        "it is empty"
    } else if found.len() > LABEL_LEN_MAX {
        "it is longer than 63 characters"
    } else if !found.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "use lower-case letters, digits and hyphens only"
    } else if found.starts_with('-') || found.ends_with('-') {
        "it may not begin or end with a hyphen"
    } else if what == RuntimeName::WHAT && nearest(found, RuntimeName::OWN).is_some() {
        "\"container\" and \"process\" are what every node has; a runtime class needs a name unlike those"
    } else {
        return Ok(());
    };
    Err(NameError { what, found: found.to_owned(), why })
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] unless it is a DNS label in lower case.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check_label($what, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

label!(
    /// An app: what a user owns.
    AppName, "app"
);
label!(
    /// A service of an app: a set of identical instances.
    ServiceName, "service"
);
label!(
    /// A region: an area with its own control plane.
    RegionName, "region"
);
label!(
    /// A continent: a label of regions, for the order of roll-outs and for fail-over.
    ContinentName, "continent"
);
label!(
    /// A data centre: a failure domain inside a region.
    DatacenterName, "datacenter"
);
label!(
    /// A node's name, chosen by its operator; unique in its region. The id is what counts.
    NodeName, "node"
);
label!(
    /// A named port of a service.
    PortName, "port"
);
label!(
    /// A volume of a service.
    VolumeName, "volume"
);
label!(
    /// A snapshot of a volume.
    SnapshotName, "snapshot"
);
label!(
    /// A runtime class: an OCI runtime that nodes may have besides their own way to run containers. Not what a slip makes of
    /// [`RuntimeName::OWN`].
    RuntimeName, "runtime"
);

label!(
    /// A label of nodes.
    LabelName, "label"
);

impl RuntimeName {
    const WHAT: &str = "runtime";
    /// What a definition may say in its place, on every node.
    pub const OWN: [&str; 2] = ["container", "process"];
}

/// A service within its app, written `app/service`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ServiceRef {
    /// The app.
    pub app: AppName,
    /// Its service.
    pub service: ServiceName,
}

impl ServiceRef {
    /// Joins the two names.
    pub fn new(app: AppName, service: ServiceName) -> Self {
        Self { app, service }
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.app, self.service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web", "web-1", "1a", &"x".repeat(63)] {
            assert!(AppName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Web", "-a", "a-", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(AppName::new(bad).is_err(), "{bad}");
        }
        let error = AppName::new("My App").expect_err("space and capitals");
        assert_eq!(
            error.to_string(),
            "\"My App\" is not a valid app name: use lower-case letters, digits and hyphens only"
        );
    }
}
