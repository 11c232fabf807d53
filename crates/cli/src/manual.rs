//! `insula completions` and `insula man`: what shells and manuals know of the commands, made from the commands themselves.

use std::fs;

use clap::CommandFactory;

use crate::{
    Cli, Exit, Failure,
    args::{CompletionArgs, ManArgs},
    output::say,
};

/// Prints the script for a shell.
///
/// # Errors
/// When nobody takes what is printed.
pub fn print_completions(args: &CompletionArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "insula", &mut script);
    say(&String::from_utf8_lossy(&script))
}

/// Writes a page for each command, but for those that people do not type.
///
/// # Errors
/// When they cannot be written there.
pub fn write_pages(args: &ManArgs) -> Result<(), Failure> {
    let directory = &args.directory;
    let written = fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    written.map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot write manual pages into {}: {error}", directory.display()))
            .hint("name a directory that you may write to: insula man DIRECTORY")
    })?;
    say(&format!("manual pages are in {0}: man -l {0}/insula.1\n", directory.display()))
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_command_that_people_type_has_a_page() {
        let directory = tempfile::tempdir().expect("directory");
        write_pages(&ManArgs { directory: directory.path().join("man1") }).expect("written");
        let page = |name: &str| fs::read_to_string(directory.path().join("man1").join(format!("{name}.1")));
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let text = page(&format!("insula-{}", command.get_name())).expect("a page");
            assert!(text.contains(".SH SYNOPSIS"), "{}: {text}", command.get_name());
        }
        assert!(page("insula-volume-snapshot-create").is_ok(), "also below others");
        assert!(page("insula-dataplane").is_err(), "nobody types that");
        let file = directory.path().join("file");
        fs::write(&file, "").expect("written");
        let refused = write_pages(&ManArgs { directory: file }).expect_err("no directory");
        assert_eq!(refused.exit, Exit::Failed);
    }

    #[test]
    fn shells_know_all_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "insula", &mut script);
            let script = String::from_utf8(script).expect("text");
            for command in ["deploy", "rollback", "if-lost", "snapshot"] {
                assert!(script.contains(command), "{shell} does not know {command}");
            }
        }
    }
}
