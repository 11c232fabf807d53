//! Reads a whole definition: the app, its services, and what must hold between services.

use std::collections::BTreeMap;

use super::{
    AppDefinition, DEFINITION_LEN_MAX, DefinitionError, Format, SERVICES_MAX,
    fields::Item,
    keys,
    problem::Problems,
    service::{self, Shared},
    tree::{self, Tree},
};
use crate::{AppName, ServiceName};

pub(super) fn app(text: &str, format: Format) -> Result<AppDefinition, DefinitionError> {
    let mut problems = Problems::default();
    let definition = read(text, format, &mut problems);
    finish(text, definition, problems)
}

/// A definition without problems, or these.
pub(super) fn finish(
    text: &str,
    definition: Option<AppDefinition>,
    problems: Problems,
) -> Result<AppDefinition, DefinitionError> {
    match (problems.finish(text), definition) {
        (None, Some(definition)) => Ok(definition),
        (Some(error), _) => Err(error),
        (None, None) => {
            let mut problems = Problems::default();
            problems.add(0, "", "it could not be read");
            Err(problems.finish(text).expect("one problem was added"))
        }
    }
}

fn read(text: &str, format: Format, problems: &mut Problems) -> Option<AppDefinition> {
    if text.len() > DEFINITION_LEN_MAX {
        problems.add(0, "", format!("found {} bytes, at most {DEFINITION_LEN_MAX} are allowed", text.len()));
        return None;
    }
    tree(&tree::read(text, format, problems)?, problems)
}

/// Reads what a text says, whatever it was written in.
pub(super) fn tree(tree: &Tree, problems: &mut Problems) -> Option<AppDefinition> {
    let root = Item { path: String::new(), tree };
    let fields = root.fields(&keys::APP, problems)?;
    let app: Option<AppName> = match fields.get("app") {
        Some(item) => item.parsed(problems),
        None => {
            root.refuse(problems, "the key \"app\" is missing; write app = \"NAME\" first");
            None
        }
    };
    let (mut services, mut shared) = (BTreeMap::new(), Shared::default());
    match fields.get("services") {
        Some(item) => {
            let entries = item.entries(SERVICES_MAX, problems);
            if entries.is_empty() && problems.is_empty() {
                item.refuse(problems, "an app needs at least one service; write [services.NAME]");
            }
            for (name, at, item) in entries {
                let service = service::read(&item, name, &mut shared, problems);
                match (ServiceName::new(name), service) {
                    (Ok(name), Some(service)) => {
                        services.insert(name, service);
                    }
                    (Err(error), _) => problems.add(at, &item.path, error.to_string()),
                    (Ok(_), None) => {}
                }
            }
        }
        None => root.refuse(problems, "an app needs at least one service; write [services.NAME]"),
    }
    Some(AppDefinition { app: app?, services, contents: shared.contents })
}
