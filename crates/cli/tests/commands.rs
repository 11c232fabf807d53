//! The commands from outside the crate, as the binary calls them: parsed, run, judged by exit code.

use std::process::ExitCode;

use clap::Parser;
use insula_cli::{Cli, Command, Exit};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

/// Exit codes cannot be compared, only printed.
fn code(exit: ExitCode) -> String {
    format!("{exit:?}")
}

fn run(line: &str) -> String {
    let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    match cli.command {
        Command::Api(command) => code(insula_cli::run(&cli.connect, command)),
        other => panic!("{line} is {other:?}"),
    }
}

#[test]
fn a_node_that_does_not_answer_exits_5() {
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("none.sock");
    for command in ["apps", "ps", "nodes", "status", "events", "rm shop --yes", "scale shop/web 3", "token create"] {
        let said = run(&format!("insula --socket {} {command}", socket.display()));
        assert_eq!(said, code(Exit::Unreachable.into()), "{command}");
    }
}

#[test]
fn a_command_that_is_not_run_exits_125() {
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("none.sock");
    for target in ["shop/web", "i-00000001"] {
        let said = run(&format!("insula --socket {} exec {target} -- true", socket.display()));
        assert_eq!(said, code(Exit::NotRun.into()), "{target}");
    }
    for target in ["shop/web", "shop"] {
        let said = run(&format!("insula --socket {} run {target} -- true", socket.display()));
        assert_eq!(said, code(Exit::NotRun.into()), "{target}");
    }
}

#[test]
fn an_invalid_definition_exits_2_before_any_node_is_asked() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("insula.toml");
    std::fs::write(&file, "app = \"shop\"\n").expect("file");
    let socket = dir.path().join("none.sock");
    let line = format!("insula --socket {} deploy {}", socket.display(), file.display());
    assert_eq!(run(&line), code(Exit::Usage.into()));
    std::fs::write(&file, "app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = [\"a\"]\n").expect("file");
    assert_eq!(run(&line), code(Exit::Unreachable.into()));
    assert_eq!(run("insula --socket /none deploy /none.toml"), code(Exit::Usage.into()));
    assert_eq!(run("insula --context nonsense apps"), code(Exit::Usage.into()));
}

#[test]
fn an_image_that_cannot_be_read_exits_2_before_any_node_is_asked() {
    let dir = tempfile::tempdir().expect("directory");
    let (socket, image) = (dir.path().join("none.sock"), dir.path().join("image.tar"));
    let import =
        |file: &std::path::Path| format!("insula --socket {} image import {}", socket.display(), file.display());
    assert_eq!(run(&import(&image)), code(Exit::Usage.into()), "there is none");
    assert_eq!(run(&import(dir.path())), code(Exit::Usage.into()), "a directory that is no layout");
    std::fs::write(&image, "x").expect("file");
    assert_eq!(run(&import(&image)), code(Exit::Unreachable.into()));
}

#[test]
fn wrong_usage_is_refused_by_the_parser() {
    for line in [
        "insula",
        "insula frobnicate",
        "insula scale shop 3",
        "insula scale shop/web 5000",
        "insula scale shop/web each",
        "insula plan",
        "insula plan --if-lost node",
        "insula logs",
        "insula logs Shop",
        "insula exec shop/web",
        "insula exec shop -- ls",
        "insula exec -t -T shop/web -- ls",
        "insula run shop/web",
        "insula run i/",
        "insula run -t -T shop/web -- ls",
        "insula rm",
        "insula explain instance 7",
        "insula token create --role admin",
        "insula token create --uses 0",
        "insula deploy --wait soon",
        "insula deploy --detach --plan",
        "insula init --region fra",
        "insula init --region fra --datacenter fra1",
        "insula node find n2",
        "insula image import",
        "insula --context x --socket y apps",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    for line in [
        "insula dev",
        "insula init --region fra --datacenter fra1 --advertise 192.0.2.7",
        "insula join insula-join-1.x --datacenter fra1 --name n2 --advertise 192.0.2.7:7443",
        "insula server --config /etc/insula/insula.toml",
        "insula dataplane",
        "insula lab up --regions fra:3",
        "insula logs shop/web -f --tail 10",
        "insula scale shop/web each-node",
        "insula plan --if-lost datacenter fra1 --json",
        "insula logs --instance i-00000001",
        "insula exec -it shop/web -- sh -c true",
        "insula exec i-00000001 -- ls -l",
        "insula run -it shop -- sh",
        "insula run shop/web -T -i -- cat -",
        "insula events -f --since 41 --json",
        "insula status shop --json",
        "insula deploy - --plan --json",
        "insula token create --api --role admin --ttl 90d",
        "insula node show fra-1",
        "insula node reload",
        "insula node find 192.0.2.7",
        "insula image import - --name shop --json",
        "insula init --region fra --datacenter fra1 --advertise 192.0.2.7 --advertise datacenter=10.0.0.7:7443",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).expect_err("is refused"));
    }
}
