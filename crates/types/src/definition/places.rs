//! Where the values of a definition are in the text that it was read from, for those who find something wrong with it later.

use std::collections::BTreeMap;

use super::{
    DefinitionProblem, Format,
    fields::join,
    problem::Problems,
    tree::{self, Tree, Value},
};

/// Places of values by their key paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    text: String,
    at: BTreeMap<String, usize>,
}

impl Places {
    /// Those of a definition; of a text that is none, there are none.
    #[must_use]
    pub fn of(text: &str, format: Format) -> Self {
        tree::read(text, format, &mut Problems::default()).map_or_else(Self::default, |tree| Self::of_tree(text, &tree))
    }

    pub(super) fn of_tree(text: &str, tree: &Tree) -> Self {
        let mut places = Self { text: text.to_owned(), at: BTreeMap::new() };
        places.add("", tree);
        places
    }

    fn add(&mut self, path: &str, tree: &Tree) {
        match &tree.value {
            Value::Table(entries) => entries.iter().for_each(|entry| self.add(&join(path, &entry.key), &entry.value)),
            Value::List(items) => {
                items.iter().enumerate().for_each(|(index, item)| self.add(&format!("{path}[{index}]"), item));
            }
            _ => {}
        }
        self.at.insert(path.to_owned(), tree.at);
    }

    /// Says of problems in which line and column they are: those of the value, else of the nearest one around it.
    pub fn fill(&self, problems: &mut [DefinitionProblem]) {
        for problem in problems {
            let mut path = problem.path.as_str();
            let at = loop {
                match (self.at.get(path), path.rfind(['.', '['])) {
                    (Some(at), _) => break Some(*at),
                    (None, Some(end)) => path = &path[..end],
                    (None, None) => break None,
                }
            };
            let mut found = Problems::default();
            at.into_iter().for_each(|at| found.add(at, "", ""));
            if let Some(place) = found.list(&self.text).first() {
                (problem.line, problem.column) = (place.line, place.column);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_places() {
        let toml = "app = \"shop\"\n[services.web]\nimage = \"a\"\n  regions = [\"fra\", \"was\"]\n";
        let json =
            "{\"app\": \"shop\",\n \"services\": {\"web\": {\"image\": \"a\",\n  \"regions\": [\"fra\", \"was\"]}}}";
        let place = |text: &str, format, path: &str| {
            let message = String::new();
            let mut problems = [DefinitionProblem { path: path.to_owned(), line: 0, column: 0, message }];
            Places::of(text, format).fill(&mut problems);
            (problems[0].line, problems[0].column)
        };
        for (path, in_toml, in_json) in [
            ("services.web.image", (3, 9), (2, 32)),
            ("services.web.regions[1]", (4, 21), (3, 22)),
            ("services.web.regions[2].x", (4, 13), (3, 14)),
            ("services.db.image", (2, 2), (2, 14)),
        ] {
            assert_eq!(place(toml, Format::Toml, path), in_toml, "{path}");
            assert_eq!(place(json, Format::Json, path), in_json, "{path}");
        }
        assert_eq!(place("no TOML", Format::Toml, "services.web"), (0, 0));
    }
}
