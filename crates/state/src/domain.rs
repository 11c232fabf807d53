//! What a replicated state is: typed objects under typed keys, changed by typed commands.

use std::fmt::Debug;

use insula_types::{Agreed, ClusterId, Incarnation, Level, Revision};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::level::NotYet;

/// One replicated state: the region's or the world's.
pub trait Domain: Default + Debug + Send + Sync + 'static {
    /// "region" or "global", for messages.
    const NAME: &'static str;
    /// What can be asked of it. Variants are only ever added (rule R5).
    type Command: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static;
    /// What a command answers.
    type Reply: Serialize + DeserializeOwned + Clone + Debug + PartialEq + Send + Sync + 'static;
    /// Names one object.
    type Key: Serialize + DeserializeOwned + Clone + Debug + Ord + Send + Sync + 'static;
    /// One object.
    type Object: Serialize + DeserializeOwned + Clone + Debug + PartialEq + Send + Sync + 'static;

    /// Decides on a command: reads `self`, writes into `out`. `at_ms` is the leader's wall clock, never going back.
    ///
    /// # Errors
    /// [`Rejection`] when the command does not fit the present state; then nothing changes.
    fn apply(
        &self,
        command: &Self::Command,
        at_ms: u64,
        revision: Revision,
        out: &mut Changes<Self>,
    ) -> Result<Self::Reply, Rejection>;

    /// Takes over one change; the only way that objects get in and out.
    fn absorb(&mut self, revision: Revision, key: Self::Key, object: Option<Self::Object>);

    /// All objects, each with its key and the revision that last changed it, in key order within a kind.
    fn objects(&self) -> Vec<(Self::Key, Revision, Self::Object)>;

    /// The kind of object that a key names, in the plural, for people.
    fn kind(key: &Self::Key) -> &'static str;

    /// Gives the object that says which life of the state this is another life; leaves others as they are.
    fn set_incarnation(object: &mut Self::Object, incarnation: Incarnation);

    /// Of which cluster and which life of it the state is; none before it was founded.
    fn origin(&self) -> Option<(&ClusterId, Incarnation)>;

    /// From which level on programs know a command.
    fn needs(command: &Self::Command) -> Level;

    /// What the programs of this state have agreed on; none while it is the first level.
    fn agreed(&self) -> Option<&Agreed>;

    /// The level that is agreed on.
    fn level(&self) -> Level {
        self.agreed().map_or(Level::FIRST, |agreed| agreed.level)
    }

    /// Whether a command may be proposed. Once true it stays so, since the level only rises. `apply` does not ask.
    ///
    /// # Errors
    /// [`NotYet`], when somebody may have to apply it who does not know it.
    fn admits(&self, command: &Self::Command) -> Result<(), NotYet>;
}

/// One object put (`Some`) or removed (`None`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<K, O> {
    /// Which object.
    pub key: K,
    /// Its new value, or none when it is removed.
    pub object: Option<O>,
}

/// What one command changed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Batch<D: Domain> {
    /// The revision that these changes made.
    pub revision: Revision,
    /// In the order that they were made.
    pub changes: Vec<Change<D::Key, D::Object>>,
}

/// Collects what a command changes; absorbed only when the command succeeds.
#[derive(Debug)]
pub struct Changes<D: Domain>(Vec<Change<D::Key, D::Object>>);

impl<D: Domain> Changes<D> {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Puts an object.
    pub fn put(&mut self, key: D::Key, object: D::Object) {
        self.0.push(Change { key, object: Some(object) });
    }

    /// Removes an object.
    pub fn remove(&mut self, key: D::Key) {
        self.0.push(Change { key, object: None });
    }

    pub(crate) fn into_vec(self) -> Vec<Change<D::Key, D::Object>> {
        self.0
    }
}

/// Why a command was refused. Part of the replicated outcome: a retry gets the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// For programs.
    pub code: RejectionCode,
    /// For people.
    pub message: String,
    /// Which conflict it is, from level 6 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Conflict>,
}

/// Kinds of [`Rejection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionCode {
    /// The object is not there.
    NotFound,
    /// Something else has changed or owns it.
    Conflict,
    /// The command makes no sense here.
    Invalid,
    /// The credential is unknown, expired or used up.
    Forbidden,
    /// Another request has the first half of its name; from level 6 on.
    Reused,
}

/// What stands against a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// The app is at another release than the caller saw.
    ReleaseChanged,
    /// Another app owns the host and path.
    RouteTaken,
    /// A release that may have to run needs the secret.
    SecretInUse,
    /// The regions' keys are not those that the value was sealed to, or there are none yet.
    SecretsNotReady,
    /// The deployment is over, or past what is asked for.
    NothingToSteer,
    /// There is a volume of that name.
    VolumeExists,
    /// Other volumes of the same instance are on another node.
    VolumeElsewhere,
    /// A volume is never made smaller.
    VolumeNotSmaller,
    /// An instance is placed with the volume.
    VolumeInUse,
    /// The node has changed since the caller saw it.
    NodeChanged,
    /// Instances are on the node.
    NodeInUse,
    /// The node is up.
    NodeIsUp,
    /// Roots are replaced step by step, and this is not the next step.
    RootOutOfTurn,
    /// There is a region of that name, or one is being added.
    RegionExists,
    /// What only nodes ask for; their callers tell it apart by what they have asked.
    Ours,
}

impl Rejection {
    /// The object is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { code: RejectionCode::NotFound, message: message.into(), conflict: None }
    }

    /// Something else has changed or owns it.
    pub fn conflict(conflict: Conflict, message: impl Into<String>) -> Self {
        Self { code: RejectionCode::Conflict, message: message.into(), conflict: Some(conflict) }
    }

    /// The command makes no sense here.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: RejectionCode::Invalid, message: message.into(), conflict: None }
    }

    /// The credential is unknown, expired or used up.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { code: RejectionCode::Forbidden, message: message.into(), conflict: None }
    }

    /// Another request has the first half of its name.
    pub fn reused(message: impl Into<String>) -> Self {
        Self { code: RejectionCode::Reused, message: message.into(), conflict: None }
    }
}
