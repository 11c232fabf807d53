//! Secrets of apps: set, listed, removed. Values come in here, are sealed here, and never leave.

use std::collections::BTreeMap;

use insula_api::{
    Answer, Caller, Code, Problem, SetSecretRequest,
    wire::{List, Secret, SecretRemoved, SecretSet, Versioned},
};
use insula_identity::{SecretPlace, seal_secret};
use insula_state::{GlobalCommand, GlobalState, global::GlobalReply};
use insula_types::{AppName, RegionName, RequestId, SecretName, SecretVersion};
use serde_bytes::ByteBuf;

use super::NodeApi;

impl NodeApi {
    pub(super) fn list_secrets(&self, app: &AppName) -> List<Secret> {
        self.global.replica().read_at(|global, revision| {
            let items = global.secrets_of(app).filter_map(|(name, secret)| {
                let (version, value) = secret.versions.iter().next_back()?;
                Some(Secret {
                    name: name.clone(),
                    version: *version,
                    set_ms: value.set_ms,
                    by: value.by.clone(),
                    running: running(global, app, name),
                })
            });
            List { revision, items: items.collect() }
        })
    }

    pub(super) async fn put_secret(&self, request: SetSecretRequest) -> Answer<Versioned<SecretSet>> {
        let SetSecretRequest { app, name, value, caller, request } = request;
        let cluster = self.material.identity().cluster;
        let keys: Vec<(RegionName, ByteBuf)> = self
            .global
            .read(|global| global.sealing_keys.iter().map(|(region, key)| (region.clone(), key.clone())).collect());
        let mut sealed = BTreeMap::new();
        for (region, key) in keys {
            let place = SecretPlace { cluster: &cluster, region: &region, app: &app, name: &name };
            let bytes =
                seal_secret(&key, &place, &value).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
            sealed.insert(region, ByteBuf::from(bytes));
        }
        let by = self.name_of(&caller);
        let command = GlobalCommand::SetSecret { app: app.clone(), name: name.clone(), sealed, by };
        let committed = self.change(&self.global, request, &command).await?;
        let GlobalReply::SecretSet { version } = committed.reply else {
            return Err(Problem::new(Code::Internal, "a secret was answered like another command"));
        };
        let running = self.global.read(|global| running(global, &app, &name));
        Ok(Versioned { revision: committed.revision, value: SecretSet { app, name, version, running } })
    }

    pub(super) async fn take_secret_away(
        &self,
        app: AppName,
        name: SecretName,
        request: Option<RequestId>,
    ) -> Answer<Versioned<SecretRemoved>> {
        let command = GlobalCommand::RemoveSecret { app: app.clone(), name: name.clone() };
        let committed = self.change(&self.global, request, &command).await.map_err(|problem| match problem.code {
            Code::NoSuchApp => Problem::new(Code::NoSuchSecret, problem.detail),
            _ => problem,
        })?;
        Ok(Versioned { revision: committed.revision, value: SecretRemoved { app, name } })
    }

    /// Who asks, for people.
    fn name_of(&self, caller: &Caller) -> String {
        match caller {
            Caller::Root => format!("root on {}", self.config.name),
            Caller::Token(None) => "somebody".to_owned(),
            Caller::Token(Some(id)) => self.global.read(|global| {
                let token = global.api_tokens.get(&id.to_string());
                token.map_or_else(|| id.to_string(), |token| format!("{} ({id})", token.name))
            }),
        }
    }
}

/// Which version the release that shall run has, if it has the secret.
fn running(global: &GlobalState, app: &AppName, name: &SecretName) -> Option<SecretVersion> {
    let release = global.current_release(app)?;
    release.specs().filter_map(|spec| spec.secrets.get(name)).max().copied()
}
