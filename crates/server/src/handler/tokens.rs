//! Tokens: with which machines join or found a region, and with which callers prove themselves.

use std::net::SocketAddr;

use insula_api::{
    Answer, Code, Problem, Role,
    wire::{
        ApiTokenBody, ApiTokenCreated, JoinTokenBody, JoinTokenCreated, List, Token, TokenKind, TokenRemoved,
        TokenRole, Versioned,
    },
};
use insula_identity::{ApiToken, JoinToken, root_hash};
use insula_state::{
    Domain, GlobalCommand, GlobalState, RegionCommand, RegionState, Replica, global,
    global::{Invitation, Phase},
    region,
};
use insula_telemetry::chain;
use insula_types::{Incarnation, Node, RegionName, RequestId, Revision, TokenId};
use serde_bytes::ByteBuf;

use super::NodeApi;
use crate::trust;

/// Addresses named in a join token; the joining machine tries them in turn.
const ADDRESSES_MAX: usize = 8;

impl NodeApi {
    pub(super) fn role_of(&self, text: &str) -> Answer<Role> {
        let refuse = |detail: &str| Problem::new(Code::Unauthorized, detail);
        let token = ApiToken::parse(text).map_err(|error| refuse(&error.to_string()))?;
        let now = self.clock.wall_ms();
        self.global.read(|global| {
            let known = global.api_tokens.get(&token.id.to_string());
            let known = known.filter(|known| token.secret.matches(&known.secret_hash));
            let known = known.ok_or_else(|| refuse("the token is unknown or was removed"))?;
            if known.expires_ms <= now {
                return Err(refuse("the token has expired: make a new one with `insula token create --api`"));
            }
            Ok(match known.role {
                global::Role::Viewer => Role::Viewer,
                global::Role::Deployer => Role::Deployer,
                global::Role::Admin => Role::Admin,
            })
        })
    }

    fn root(&self) -> Answer<insula_identity::RootHash> {
        let roots = self.material.roots();
        roots.first().map(root_hash).ok_or_else(|| Problem::new(Code::Internal, "this node trusts no root"))
    }

    pub(super) async fn make_join_token(
        &self,
        body: JoinTokenBody,
        request: Option<RequestId>,
    ) -> Answer<Versioned<JoinTokenCreated>> {
        let own = &self.config.region;
        if let Some(other) = body.region.clone().filter(|asked| asked != own) {
            return self.invite_region(other, body, request).await;
        }
        if body.continent.is_some() || body.recovery_key.is_some() {
            let detail = format!("region {own} is there already: a continent and a recovery key are for a new region");
            return Err(Problem::new(Code::RegionExists, detail));
        }
        let addresses = self.region.read(|region| self.addresses_of(region, |node| node.health.is_up()));
        let token = self.new_join_token(own, addresses)?;
        let expires_ms = self.clock.wall_ms().saturating_add(body.ttl_ms);
        let stored = region::JoinToken {
            id: token.id.to_string(),
            secret_hash: token.secret_hash(),
            expires_ms,
            uses_left: body.uses,
        };
        let id = stored.id.clone();
        let committed = self.change(&self.region, request, &RegionCommand::CreateJoinToken(stored)).await?;
        shall_show(self.region.replica(), committed.revision, |region| region.join_tokens.contains(&id))?;
        let value = JoinTokenCreated {
            token: token.reveal(),
            id: token.id.to_string(),
            region: own.clone(),
            expires_ms,
            uses: body.uses,
        };
        Ok(Versioned { revision: committed.revision, value })
    }

    fn new_join_token(&self, region: &RegionName, addresses: Vec<SocketAddr>) -> Answer<JoinToken> {
        let cluster = self.material.identity().cluster;
        JoinToken::new(region.clone(), cluster, self.root()?, addresses, &self.rng)
            .map_err(|error| Problem::new(Code::Internal, error.to_string()))
    }

    /// Where a machine that joins may ask: this node first.
    fn addresses_of(&self, region: &RegionState, is_meant: impl Fn(&Node) -> bool) -> Vec<SocketAddr> {
        let own = region.nodes.get(&self.node).map(|node| node.address).unwrap_or(self.config.advertise.widest());
        let others = region.nodes.values().filter(|node| is_meant(node)).map(|node| node.address);
        std::iter::once(own).chain(others.filter(|address| *address != own)).take(ADDRESSES_MAX).collect()
    }

    /// Adds a region, and makes the token with which its first machine founds it: the root signs the region's CA, whose key only
    /// the token opens.
    async fn invite_region(
        &self,
        region: RegionName,
        body: JoinTokenBody,
        request: Option<RequestId>,
    ) -> Answer<Versioned<JoinTokenCreated>> {
        if body.uses != 1 {
            let detail = format!("one machine founds region {region}: its token has one use, not {}", body.uses);
            return Err(Problem::new(Code::Conflict, detail));
        }
        self.refuse_unfounded()?;
        let _alone = self.authority.lock().await;
        let Some(recovery_key) = &body.recovery_key else {
            // What stands against it anyhow is said first.
            let phase = self.global.read(|global| global.regions.get(&region).map(|region| region.phase));
            return Err(match phase {
                Some(Phase::Serving | Phase::Leaving) => Problem::new(
                    Code::RegionExists,
                    format!(
                        "a further machine joins region {region} with a token that is made on a node of it (`insula token \
                         create`)"
                    ),
                ),
                _ => Problem::new(
                    Code::Forbidden,
                    format!(
                        "region {region} is new: the root signs its CA, which takes the recovery key (--recovery-key-file FILE)"
                    ),
                ),
            });
        };
        let root = self.open_root(recovery_key)?;
        self.ensure_first_root().await?;
        let lifetimes = self.config.lifetimes();
        let internal = |error: insula_identity::Error| Problem::new(Code::Internal, chain(&error));
        let authority = root.issue_region(&region, &lifetimes, self.clock.wall()).map_err(internal)?;
        // Those who may answer, and this node, which says at once that it cannot where it cannot.
        let voters = self.global_group.raft().voters();
        let addresses = self.region.read(|region| self.addresses_of(region, |node| voters.contains(&node.id)));
        let token = self.new_join_token(&region, addresses)?;
        let expires_ms = self.clock.wall_ms().saturating_add(body.ttl_ms);
        let id = token.id.to_string();
        let invitation = Invitation {
            token: id.clone(),
            secret_hash: token.secret_hash(),
            expires_ms,
            sealed: ByteBuf::from(authority.seal(&token.secret).map_err(internal)?),
            incarnation: Incarnation(self.rng.next()),
            founder: None,
        };
        let command = GlobalCommand::InviteRegion {
            region: region.clone(),
            continent: body.continent,
            root: root.hash().to_string(),
            certificate: ByteBuf::from(authority.certificate().to_vec()),
            invitation: Box::new(invitation),
        };
        let committed = self.change(&self.global, request, &command).await?;
        let is_stored = |global: &GlobalState| global.invitations.get(&region).is_some_and(|known| known.token == id);
        shall_show(self.global.replica(), committed.revision, is_stored)?;
        let value = JoinTokenCreated { token: token.reveal(), id, region, expires_ms, uses: 1 };
        Ok(Versioned { revision: committed.revision, value })
    }

    /// Those of the API first, then those that found regions; each kind in the order of ids.
    pub(super) fn list_tokens(&self) -> List<Token> {
        let join: Vec<_> = self.region.read(|region| region.join_tokens.values().map(join_token).collect());
        self.global.replica().read_at(|global, revision| {
            let mut founding: Vec<_> = global.invitations.iter().map(founding_token).collect();
            founding.sort_by(|a, b| a.id.cmp(&b.id));
            List { revision, items: global.api_tokens.values().map(api_token).chain(founding).chain(join).collect() }
        })
    }

    /// A token that this node does not see may have been removed by the same request, whose answer was lost: the states
    /// are asked all the same.
    pub(super) async fn end_token(&self, id: TokenId, request: Option<RequestId>) -> Answer<Versioned<TokenRemoved>> {
        let id = id.to_string();
        let is_missing = |problem: &Problem| problem.code == Code::NoSuchApp;
        let mut ended = Err(Problem::new(Code::NoSuchApp, ""));
        if self.global.read(|global| global.invitations.values().any(|invitation| invitation.token == id)) {
            let command = GlobalCommand::RemoveInvitation { token: id.clone() };
            ended = self.change(&self.global, request, &command).await.map(|done| (TokenKind::Join, done.revision));
        } else if !self.region.read(|region| region.join_tokens.contains(&id)) {
            let command = GlobalCommand::RemoveApiToken { id: id.clone() };
            ended = self.change(&self.global, request, &command).await.map(|done| (TokenKind::Api, done.revision));
        }
        if ended.as_ref().is_err_and(is_missing) {
            let command = RegionCommand::RemoveJoinToken { id: id.clone() };
            ended = self.change(&self.region, request, &command).await.map(|done| (TokenKind::Join, done.revision));
        }
        let (kind, revision) = ended.map_err(|problem| match is_missing(&problem) {
            true => Problem::new(Code::NoSuchToken, format!("{id}: `insula token list` lists those there are")),
            false => problem,
        })?;
        Ok(Versioned { revision, value: TokenRemoved { id, kind } })
    }

    pub(super) async fn make_api_token(
        &self,
        body: ApiTokenBody,
        request: Option<RequestId>,
    ) -> Answer<Versioned<ApiTokenCreated>> {
        let token = ApiToken::new(&self.rng);
        let expires_ms = self.clock.wall_ms().saturating_add(body.ttl_ms);
        let stored = global::ApiToken {
            id: token.id.to_string(),
            name: body.name,
            role: match body.role {
                TokenRole::Viewer => global::Role::Viewer,
                TokenRole::Deployer => global::Role::Deployer,
                TokenRole::Admin => global::Role::Admin,
            },
            secret_hash: token.secret_hash(),
            expires_ms,
        };
        let id = stored.id.clone();
        let committed = self.change(&self.global, request, &GlobalCommand::PutApiToken(stored)).await?;
        shall_show(self.global.replica(), committed.revision, |global| global.api_tokens.contains(&id))?;
        let context = insula_api::Context {
            addresses: vec![self.config.api.to_string()],
            // All that are trusted, so that it lives through a replacement that is under way.
            ca_sha256: self.material.roots().iter().map(trust::hash).collect::<Vec<_>>().join(","),
            token: token.reveal(),
        };
        let value =
            ApiTokenCreated { token: token.reveal(), context: context.reveal(), id: token.id.to_string(), expires_ms };
        Ok(Versioned { revision: committed.revision, value })
    }
}

/// Refuses to show a token that is not stored: the request was carried out before, with a token of its own. A copy of the
/// state that is not so far yet cannot tell.
fn shall_show<D: Domain>(replica: &Replica<D>, since: Revision, is_stored: impl FnOnce(&D) -> bool) -> Answer<()> {
    replica.read_at(|state, revision| {
        if revision < since || is_stored(state) {
            return Ok(());
        }
        let detail = "the token was made, and its answer is not kept: remove the token that is listed and not known to you \
                      (`insula token list`, `insula token rm`), and make another under another Idempotency-Key";
        Err(Problem { revision: Some(since), ..Problem::new(Code::AlreadyDone, detail) })
    })
}

fn api_token(token: &global::ApiToken) -> Token {
    let role = match token.role {
        global::Role::Viewer => TokenRole::Viewer,
        global::Role::Deployer => TokenRole::Deployer,
        global::Role::Admin => TokenRole::Admin,
    };
    Token {
        id: token.id.clone(),
        kind: TokenKind::Api,
        name: Some(token.name.clone()),
        role: Some(role),
        uses_left: None,
        region: None,
        expires_ms: token.expires_ms,
    }
}

fn join_token(token: &region::JoinToken) -> Token {
    Token {
        id: token.id.clone(),
        kind: TokenKind::Join,
        name: None,
        role: None,
        uses_left: Some(token.uses_left),
        region: None,
        expires_ms: token.expires_ms,
    }
}

fn founding_token((region, invitation): (&RegionName, &Invitation)) -> Token {
    Token {
        id: invitation.token.clone(),
        kind: TokenKind::Join,
        name: None,
        role: None,
        uses_left: Some(invitation.founder.is_none().into()),
        region: Some(region.clone()),
        expires_ms: invitation.expires_ms,
    }
}

#[cfg(test)]
mod tests {
    use insula_state::Update;

    use super::*;

    #[test]
    fn only_a_token_that_is_stored_is_shown() {
        let replica = Replica::<RegionState>::new();
        replica.follow(Update::Reset { revision: Revision(7), objects: Vec::new() }).expect("it follows");
        shall_show(&replica, Revision(7), |_| true).expect("stored");
        shall_show(&replica, Revision(8), |_| false).expect("this copy cannot tell");
        let problem = shall_show(&replica, Revision(6), |_| false).expect_err("another one was stored");
        assert_eq!((problem.code, problem.revision), (Code::AlreadyDone, Some(Revision(6))));
    }
}
