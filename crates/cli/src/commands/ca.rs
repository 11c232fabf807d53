//! `insula ca`.

use std::{path::Path, time::Duration};

use insula_api::{
    Client, ClientError, Code,
    wire::{CaRootState, CaStatus, RecoveryBody, RootBody},
};
use insula_env::clock;

use crate::{
    Failure,
    args::CaCommand,
    output::{age, say, say_json, width},
    table::Table,
};

/// How long the nodes may take to trust a new root.
const TRUST_WITHIN: Duration = Duration::from_secs(60);
/// Between two attempts to take it into use.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Longest recovery key that is read, in bytes.
const KEY_LEN_MAX: usize = 256;

pub async fn run(client: &Client, command: CaCommand) -> Result<(), Failure> {
    match command {
        CaCommand::Status(args) => status(client, args.json).await,
        CaCommand::RenewRegion(args) => {
            let renewed = client.renew_region(&read_key(&args.recovery_key_file)?).await?.value;
            say(&format!("the region's CA has a new certificate of root {}\n", renewed.root))
        }
        CaCommand::ReplaceRoot(args) => replace(client, &args.recovery_key_file).await,
        CaCommand::ActivateRoot(args) => activate(client, args.root).await,
        CaCommand::RetireRoot => retire(client).await,
    }
}

pub(super) fn read_key(path: &Path) -> Result<RecoveryBody, Failure> {
    let unread = |why: String| Failure::usage(format!("read the recovery key in {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| unread(error.to_string()))?;
    if text.len() > KEY_LEN_MAX {
        return Err(unread(format!("found {} bytes, expected the six groups of six characters alone", text.len())));
    }
    Ok(RecoveryBody { recovery_key: text.trim().to_owned() })
}

async fn replace(client: &Client, key_file: &Path) -> Result<(), Failure> {
    let added = client.add_root(&read_key(key_file)?).await?.value;
    // Before anything else: without it the root that is about to be used could never sign again.
    say(&format!(
        "New recovery key, shown once and kept nowhere. The old one opens nothing once the new root is in use:\n\n    {}\n\n\
         new root {}: nodes learn to trust it\n",
        added.recovery_key, added.root
    ))?;
    activate(client, added.root).await
}

/// Takes a root into use as soon as every node trusts it.
async fn activate(client: &Client, root: String) -> Result<(), Failure> {
    let body = RootBody { root };
    let until = client.env().clock.now() + TRUST_WITHIN;
    loop {
        match client.activate_root(&body).await {
            Ok(_) => break,
            Err(ClientError::Problem(problem))
                if problem.code == Code::Conflict && client.env().clock.now() + LOOK_EVERY < until =>
            {
                clock::sleep(LOOK_EVERY).await;
            }
            Err(error) => {
                return Err(Failure::from(error).hint(&format!(
                    "once every node trusts it (`insula ca status`): insula ca activate-root {}",
                    body.root
                )));
            }
        }
    }
    say("the new root is in use; when `insula ca status` shows every node as current: insula ca retire-root\n")
}

async fn retire(client: &Client) -> Result<(), Failure> {
    let roots = client.authorities().await?.value.roots;
    let Some(root) = roots.into_iter().find(|root| root.state == CaRootState::Retiring) else {
        return Err(Failure::usage("no root retires".to_owned())
            .hint("`insula ca replace-root` puts another in place of the present one"));
    };
    client.retire_root(&RootBody { root: root.sha256.clone() }).await?;
    say(&format!("root {} is trusted no more\n", root.sha256))
}

async fn status(client: &Client, json: bool) -> Result<(), Failure> {
    let status = client.authorities().await?;
    if json { say_json(&status) } else { say(&text(&status.value, client.env().clock.wall_ms(), width())) }
}

fn text(status: &CaStatus, now_ms: u64, width: Option<usize>) -> String {
    let ends = |ms: u64| if ms <= now_ms { "has ended".to_owned() } else { age(ms, now_ms) };
    let mut roots = Table::new(&["STATE", "ENDS IN", "REGION CAS END IN", "ROOT"]);
    for root in &status.roots {
        let state = match root.state {
            CaRootState::Trusted => "trusted",
            CaRootState::Active => "active",
            CaRootState::Retiring => "retiring",
        };
        let regions: Vec<_> = root.regions.iter().map(|(region, ms)| format!("{region} {}", ends(*ms))).collect();
        roots.row([state.to_owned(), ends(root.expires_ms), regions.join(", "), root.sha256.clone()]);
    }
    let mut nodes = Table::new(&["NODE", "UP", "ROOTS TRUSTED", "CURRENT"]);
    let yes = |is_so: bool| if is_so { "yes" } else { "no" }.to_owned();
    for node in &status.nodes {
        nodes.row([node.name.to_string(), yes(node.is_up), node.roots.len().to_string(), yes(node.is_current)]);
    }
    // Not cut: other commands take the whole name of a root.
    format!("{}\n{}", roots.render(None), nodes.render(width))
}
