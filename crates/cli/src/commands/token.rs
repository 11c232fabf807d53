//! `insula token create`, `list` and `rm`.

use std::time::Duration;

use insula_api::{
    Client,
    wire::{ApiTokenBody, JoinTokenBody, Token, TokenKind, TokenRole},
};
use insula_types::TokenId;

use crate::{
    Failure,
    args::{RoleArg, TokenArgs},
    commands::ca::read_key,
    output::{age, say, say_json, width},
    table::Table,
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
    let recovery_key =
        args.recovery_key_file.map(|file| Ok::<_, Failure>(read_key(&file)?.recovery_key)).transpose()?;
    let (region, continent) = (args.region, args.continent);
    let body = JoinTokenBody { region, continent, recovery_key, ttl_ms, uses: args.uses };
    let created = client.create_join_token(&body).await?;
    if args.json.json { say_json(&created) } else { say(&format!("{}\n", created.value.token)) }
}

pub async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let list = client.tokens().await?;
    if json { say_json(&list) } else { say(&token_table(&list.items, client.env().clock.wall_ms()).render(width())) }
}

fn token_table(tokens: &[Token], now_ms: u64) -> Table {
    let mut table = Table::new(&["TOKEN", "FOR", "NAME", "USES LEFT", "ENDS IN"]);
    for token in tokens {
        let purpose = match (token.kind, token.role, &token.region) {
            (TokenKind::Join, _, Some(region)) => format!("found {region}"),
            (TokenKind::Join, ..) => "join".to_owned(),
            (TokenKind::Api, Some(TokenRole::Admin), _) => "api, admin".to_owned(),
            (TokenKind::Api, Some(TokenRole::Deployer), _) => "api, deployer".to_owned(),
            (TokenKind::Api, ..) => "api, viewer".to_owned(),
        };
        let ends = if token.expires_ms <= now_ms { "has ended".to_owned() } else { age(token.expires_ms, now_ms) };
        let uses = token.uses_left.map_or_else(String::new, |uses| uses.to_string());
        table.row([token.id.clone(), purpose, token.name.clone().unwrap_or_default(), uses, ends]);
    }
    table
}

pub async fn remove(client: &Client, id: TokenId) -> Result<(), Failure> {
    let removed = client.remove_token(id).await?.value;
    let what = match removed.kind {
        TokenKind::Api => "the API takes it no more",
        TokenKind::Join => "nobody joins with it any more",
    };
    say(&format!("token {} has ended: {what}\n", removed.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_listed_with_what_they_are_good_for() {
        let api = Token {
            id: "a1".into(),
            kind: TokenKind::Api,
            name: Some("ci".into()),
            role: Some(TokenRole::Deployer),
            uses_left: None,
            region: None,
            expires_ms: 7_200_000,
        };
        let (kind, name, role, uses_left) = (TokenKind::Join, None, None, Some(3));
        let join = Token { id: "b2".into(), kind, name, role, uses_left, region: None, expires_ms: 1 };
        let founding = Token {
            id: "c3".into(),
            uses_left: Some(1),
            region: "nrt".parse().ok(),
            expires_ms: 7_200_000,
            ..join.clone()
        };
        let text = token_table(&[api, founding, join], 3_600_000).render(None);
        let expected = "TOKEN  FOR            NAME  USES LEFT  ENDS IN\n\
                        a1     api, deployer  ci               60m\n\
                        c3     found nrt            1          60m\n\
                        b2     join                 3          has ended\n";
        assert_eq!(text, expected);
    }
}
