//! Runtime classes: OCI runtimes that services may name.

use std::{fmt, path::PathBuf};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

/// An OCI runtime, written as its path or as a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassConfig {
    /// Its executable. It must have the command line of runc; where it is missing, the node does not have the class.
    pub path: PathBuf,
    /// Arguments before all others. Default: none.
    pub arguments: Vec<String>,
    /// Whether its containers get a user namespace of their app's. Default: true. False where the runtime cannot, as runsc with
    /// `--network=host`; root in the container is then what the runtime makes of it.
    pub user_namespace: bool,
}

impl<'de> Deserialize<'de> for ClassConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathOrTable)
    }
}

struct PathOrTable;

impl<'de> Visitor<'de> for PathOrTable {
    type Value = ClassConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the path of an OCI runtime, or a table with path, arguments and user_namespace")
    }

    fn visit_str<E>(self, path: &str) -> Result<ClassConfig, E> {
        Ok(ClassConfig { path: path.into(), arguments: Vec::new(), user_namespace: true })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ClassConfig, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            path: PathBuf,
            #[serde(default)]
            arguments: Vec<String>,
            #[serde(default = "yes")]
            user_namespace: bool,
        }
        let Table { path, arguments, user_namespace } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(ClassConfig { path, arguments, user_namespace })
    }
}

const fn yes() -> bool {
    true
}
