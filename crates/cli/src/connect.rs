//! Finds the cluster: what the caller says, then what the environment says, then a node on this machine.

use std::path::{Path, PathBuf};

use clap::Args;
use insula_api::{Client, Context};
use insula_env::Env;

use crate::{Exit, Failure};

/// Sockets of a node that was set up with `init` or `join`.
const NODE_SOCKETS: [&str; 2] = ["/run/insula/api.sock", "/var/lib/insula/run/api.sock"];

/// Which cluster.
#[derive(Debug, Clone, Default, Args)]
pub struct ConnectArgs {
    /// Which cluster: the line that `insula token create --api` prints [env: INSULA_CONTEXT]
    #[arg(long, global = true, value_name = "LINE", conflicts_with = "socket", help_heading = "Which cluster")]
    pub context: Option<String>,
    /// A node's own socket [env: INSULA_SOCKET]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Which cluster")]
    pub socket: Option<PathBuf>,
}

/// Where `insula dev` keeps its data unless told otherwise.
#[must_use]
pub fn dev_dir() -> PathBuf {
    dev_dir_in(&|name| std::env::var(name).ok())
}

fn dev_dir_in(variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let data = variable("XDG_DATA_HOME").filter(|dir| dir.starts_with('/')).map(PathBuf::from);
    let home = || variable("HOME").filter(|dir| dir.starts_with('/')).map(|home| Path::new(&home).join(".local/share"));
    data.or_else(home).unwrap_or_else(|| PathBuf::from("/var/tmp")).join("insula/dev")
}

/// A caller of the cluster that the arguments, the environment or this machine name.
pub fn find(env: &Env, args: &ConnectArgs, variable: &dyn Fn(&str) -> Option<String>) -> Result<Client, Failure> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(line) = &args.context {
        return from_line(env, "--context", line);
    }
    if let Some(path) = &args.socket {
        return Ok(Client::from_socket(env.clone(), path));
    }
    if let Some(line) = variable("INSULA_CONTEXT") {
        return from_line(env, "INSULA_CONTEXT", &line);
    }
    if let Some(addresses) = variable("INSULA_API") {
        return from_parts(env, &addresses, variable("INSULA_TOKEN"), variable("INSULA_CA"));
    }
    if let Some(path) = variable("INSULA_SOCKET") {
        return Ok(Client::from_socket(env.clone(), path));
    }
    let dev = dev_dir_in(&variable).join("run/api.sock");
    let sockets: Vec<PathBuf> = NODE_SOCKETS.iter().map(PathBuf::from).chain([dev]).collect();
    match sockets.iter().find(|path| path.exists()) {
        Some(path) => Ok(Client::from_socket(env.clone(), path)),
        None => Err(none_found(&sockets)),
    }
}

fn none_found(sockets: &[PathBuf]) -> Failure {
    let sockets: Vec<_> = sockets.iter().map(|path| path.display().to_string()).collect();
    Failure::new(Exit::Unreachable, "no cluster found; tried:")
        .hint("--context and INSULA_CONTEXT: not given")
        .hint("INSULA_API with INSULA_TOKEN and INSULA_CA: not given")
        .hint("--socket and INSULA_SOCKET: not given")
        .hint(&format!("a node on this machine: nothing at {} (or no right to see it)", sockets.join(", ")))
        .hint("start one with `insula dev`, or paste the line that `insula token create --api` prints on a node")
}

fn from_line(env: &Env, origin: &str, line: &str) -> Result<Client, Failure> {
    let usage = |error: insula_api::ContextError| Failure::usage(format!("{origin}: {error}"));
    let context: Context = line.parse().map_err(usage)?;
    Client::from_context(env.clone(), &context).map_err(usage)
}

fn from_parts(env: &Env, addresses: &str, token: Option<String>, ca: Option<String>) -> Result<Client, Failure> {
    let (Some(token), Some(ca_sha256)) = (token, ca) else {
        return Err(Failure::usage("INSULA_API is given without INSULA_TOKEN or INSULA_CA")
            .hint("set all three (INSULA_CA is the SHA-256 of the cluster's root), or INSULA_CONTEXT alone"));
    };
    let address = |text: &str| text.trim().trim_start_matches("https://").trim_end_matches('/').to_owned();
    let context = Context { addresses: addresses.split(',').map(address).collect(), ca_sha256, token };
    Client::from_context(env.clone(), &context).map_err(|error| Failure::usage(format!("INSULA_API: {error}")))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn found(args: &ConnectArgs, variables: &[(&str, &str)]) -> String {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        match find(&Env::real("test"), args, &variable) {
            Ok(client) => client.target(),
            Err(failure) => format!("{:?}: {failure}", failure.exit),
        }
    }

    #[test]
    fn what_is_said_goes_before_what_is_there() {
        let socket = ConnectArgs { socket: Some("/a.sock".into()), context: None };
        assert_eq!(found(&socket, &[("INSULA_CONTEXT", "x")]), "/a.sock");
        assert_eq!(found(&ConnectArgs::default(), &[("INSULA_SOCKET", "/b.sock")]), "/b.sock");
        let context = ConnectArgs { context: Some("insula-ctx-1.????".to_owned()), socket: None };
        expect!["Usage: --context: it is not a context: it is cut or mistyped; `insula token create --api` on a node prints one"].assert_eq(&found(&context, &[]));
        expect![[r#"
            Usage: INSULA_API is given without INSULA_TOKEN or INSULA_CA
              set all three (INSULA_CA is the SHA-256 of the cluster's root), or INSULA_CONTEXT alone"#]]
        .assert_eq(&found(&ConnectArgs::default(), &[("INSULA_API", "https://a.example:7480")]));
        let dir = tempfile::tempdir().expect("directory");
        let home = dir.path().display().to_string();
        let said = found(&ConnectArgs::default(), &[("HOME", &home)]);
        if NODE_SOCKETS.iter().any(|path| Path::new(path).exists()) {
            eprintln!("skipped: this machine is a node");
        } else {
            expect![[r#"
                Unreachable: no cluster found; tried:
                  --context and INSULA_CONTEXT: not given
                  INSULA_API with INSULA_TOKEN and INSULA_CA: not given
                  --socket and INSULA_SOCKET: not given
                  a node on this machine: nothing at /run/insula/api.sock, /var/lib/insula/run/api.sock, HOME/.local/share/insula/dev/run/api.sock (or no right to see it)
                  start one with `insula dev`, or paste the line that `insula token create --api` prints on a node"#]].assert_eq(&said.replace(&home, "HOME"));
        }
        let dev = dir.path().join(".local/share/insula/dev/run");
        std::fs::create_dir_all(&dev).expect("directory");
        std::fs::write(dev.join("api.sock"), "").expect("file");
        assert!(found(&ConnectArgs::default(), &[("HOME", &home)]).ends_with("api.sock"));
    }
}
