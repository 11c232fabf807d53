//! `insula token create`.

use std::time::Duration;

use insula_api::{
    Client,
    wire::{ApiTokenBody, JoinTokenBody, TokenRole},
};

use crate::{
    Failure,
    args::{RoleArg, TokenArgs},
    output::{say, say_json},
};

/// Lives of tokens unless told: machines join at once, people work for months.
const JOIN_TTL: Duration = Duration::from_secs(3600);
const API_TTL: Duration = Duration::from_secs(90 * 86_400);

/// Prints the line to paste, alone, so that scripts can take it.
pub async fn create(client: &Client, args: TokenArgs) -> Result<(), Failure> {
    let ttl = args.ttl.unwrap_or(if args.api { API_TTL } else { JOIN_TTL });
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    if args.api {
        let role = match args.role {
            RoleArg::Viewer => TokenRole::Viewer,
            RoleArg::Deployer => TokenRole::Deployer,
            RoleArg::Admin => TokenRole::Admin,
        };
        let created = client.create_api_token(&ApiTokenBody { name: args.name, role, ttl_ms }).await?;
        return if args.json.json { say_json(&created) } else { say(&format!("{}\n", created.value.context)) };
    }
    let body = JoinTokenBody { region: args.region, ttl_ms, uses: args.uses };
    let created = client.create_join_token(&body).await?;
    if args.json.json { say_json(&created) } else { say(&format!("{}\n", created.value.token)) }
}
