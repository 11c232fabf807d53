//! Reads definition files: TOML, JSON, and Compose files with what belongs to them, the environment and `.env`.

mod dotenv;

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
};

use insula_types::{
    AppDefinition, AppName, DefinitionError,
    definition::{ComposeContext, Composed, DEFINITION_LEN_MAX, Format, Places},
};

use crate::{
    Exit, Failure,
    args::{FileArgs, FormatArg},
    table::clean,
};

/// The definition where nobody names one.
pub const FILE_DEFAULT: &str = "insula.toml";
/// Files as Compose looks for them.
const COMPOSE_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

/// Reads and checks a definition, and where its values are in its file; warnings are said at once, on standard error.
/// What it is read for, as errors say it: `deploy` or `config check`.
pub fn read(args: &FileArgs, purpose: &str) -> Result<(AppDefinition, Places), Failure> {
    let file = args.file.as_str();
    let (name, text) = if file == "-" { ("standard input", text_of(io::stdin())) } else { (file, open(file)) };
    let text = text.map_err(|error| {
        let failure = Failure::usage(format!("cannot read {name}: {error}"));
        if error.kind() != io::ErrorKind::NotFound {
            return failure;
        }
        let compose = COMPOSE_FILES.iter().find(|compose| file == FILE_DEFAULT && Path::new(compose).exists());
        match compose {
            Some(compose) => failure.hint(&format!("there is a {compose}: insula {purpose} {compose}")),
            None => failure.hint(&format!("name the definition file: insula {purpose} FILE")),
        }
    })?;
    let is_compose = args.format == Some(FormatArg::Compose) || args.format.is_none() && is_yaml(name);
    if !is_compose {
        let format = format_of(name, &text, args.format);
        let mut definition = AppDefinition::parse(&text, format).map_err(|error| refused(name, &error))?;
        if let Some(app) = &args.app {
            definition.app = app.clone();
        }
        return Ok((definition, Places::of(&text, format)));
    }
    let directory = directory(file);
    let beside = match &directory {
        Some(directory) => dotenv::read(&directory.join(".env"))?,
        None => BTreeMap::new(),
    };
    let variable = |name: &str| std::env::var(name).ok().or_else(|| beside.get(name).cloned());
    let directory = directory.as_ref().and_then(|directory| directory.file_name()?.to_str());
    let read = compose(name, &text, args.app.clone(), directory, &variable)?;
    for warning in &read.warnings {
        eprintln!("warning: {name}: {}", clean(&warning.to_string()));
    }
    Ok((read.definition, read.places))
}

fn is_yaml(name: &str) -> bool {
    name.ends_with(".yml") || name.ends_with(".yaml")
}

/// Where a file is; of standard input, where we are.
fn directory(file: &str) -> Option<PathBuf> {
    let parent = if file == "-" { Path::new("") } else { Path::new(file).parent()? };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    parent.canonicalize().ok()
}

fn open(file: &str) -> io::Result<String> {
    text_of(std::fs::File::open(file)?)
}

/// Reads one byte more than allowed, so that the check of the length sees what is too long.
fn text_of(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    input.take(DEFINITION_LEN_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn format_of(name: &str, text: &str, format: Option<FormatArg>) -> Format {
    let is_json = match format {
        Some(format) => format == FormatArg::Json,
        None => name.ends_with(".json") || (!name.ends_with(".toml") && text.trim_start().starts_with('{')),
    };
    if is_json { Format::Json } else { Format::Toml }
}

fn compose(
    name: &str,
    text: &str,
    app: Option<AppName>,
    directory: Option<&str>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Composed, Failure> {
    let composed = AppDefinition::parse_compose(text, &ComposeContext { app, directory, variable });
    composed.map_err(|error| refused(name, &error))
}

fn refused(name: &str, error: &DefinitionError) -> Failure {
    let mut said = format!("{name} is not valid");
    for line in error.to_string().lines() {
        said.push_str(&format!("\n  {line}"));
    }
    Failure::new(Exit::Usage, said)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn parse(name: &str, text: &str, format: Option<FormatArg>) -> Result<AppDefinition, Failure> {
        AppDefinition::parse(text, format_of(name, text, format)).map_err(|error| refused(name, &error))
    }

    #[test]
    fn a_wrong_definition_says_where_and_exits_2() {
        let failure = parse("insula.toml", "app = \"shop\"\n[services.web]\nimgae = \"x\"\n", None).expect_err("wrong");
        assert_eq!(failure.exit, Exit::Usage);
        expect![[r#"
            insula.toml is not valid
              line 2, column 1: services.web: it needs an image, or a command with runtime = "process"
              line 3, column 1: services.web.imgae: unknown key; did you mean "image"?"#]]
        .assert_eq(&failure.to_string());
        assert!(parse("-", " {", None).expect_err("no JSON").to_string().contains("not valid JSON"));
        assert!(parse("-", " {", Some(FormatArg::Toml)).expect_err("no TOML").to_string().contains("not valid TOML"));
    }

    #[test]
    fn a_compose_file_says_where_too() {
        let failure = compose("compose.yaml", "services: { web: { build: . } }", None, Some("shop"), &|_| None);
        let failure = failure.expect_err("wrong");
        assert_eq!(failure.exit, Exit::Usage);
        expect![[r#"
            compose.yaml is not valid
              line 1, column 27: services.web.build: not supported: build the image, push it or bring it by `insula image import`, and write its name under image"#]].assert_eq(&failure.to_string());
    }

    #[test]
    fn a_file_is_in_a_directory() {
        let here = directory("-").expect("a directory");
        assert_eq!(directory("compose.yaml").as_ref(), Some(&here));
        assert_eq!(directory("./compose.yaml"), Some(here));
        assert_eq!(directory("/compose.yaml").as_deref(), Some(Path::new("/")));
        assert_eq!(directory("/there/is/no/such/file"), None);
    }
}
