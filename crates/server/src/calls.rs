//! Answers what other nodes ask of this one. Who may ask what is in [`crate::authorize`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use insula_container::NodeRuntime;
use insula_control::Control;
use insula_env::{Disk, clock};
use insula_identity::{Lifetimes, Material, NodeDirectory, RegionAuthority};
use insula_rpc::{Caller, Code, Handler, Method, Peers, Status, StreamSink, decode_request, encode_response};
use insula_state::{Domain, GlobalState, RegionState};
use insula_telemetry::chain;
use insula_types::{NodeId, Revision, codec};
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use crate::{
    authorize::{self, Asking, Standing},
    digests::Digests,
    edge_requests::EdgeRequests,
    exec::Execs,
    follow::{self, Feed, Gives},
    group::StateGroup,
    images,
    latency::LatencyMap,
    lives,
    logs::{LOG_BYTES_MAX, Logs},
    members::Members,
    methods::{
        ASK_IMAGES_MAX, AskDigest, AskImages, AskLatency, AskLives, AskRequests, Barrier, FetchBlob, Led, ListImages,
        ListSnapshots, MakeSnapshot, MeasureUse, OpenSecrets, Propose, ProposeRequest, ReadDigests, ReadLogs, Recall,
        Relay, RelayRequest, RemoveImage, RemoveSnapshot, Renew, RenewCertificate, RenewCertificateRequest,
        RenewCertificateResponse, RestoreSnapshot, SendInput, StartExec, StartOneOff, StateName, TakeAuthority,
        TakeAuthorityRequest, TellAddresses, TellAddressesResponse, WatchState,
    },
    secrets::Opener,
    snapshots::Snapshots,
    usage::Meter,
};

/// Time between two looks at whether this node can still tell others what is new.
const PART_LOOK: Duration = Duration::from_secs(1);
/// How long a copy that is all there may be is looked at for something that the caller lacks.
const PRESENT_LOOK: Duration = Duration::from_millis(50);
/// Longest that a caller may make this node try.
const LIMIT_MAX: Duration = Duration::from_secs(10);

/// Answers the `rpc` protocol.
pub(crate) struct Calls {
    pub node: NodeId,
    pub region: Arc<StateGroup<RegionState>>,
    pub global: Arc<StateGroup<GlobalState>>,
    /// Whether this node hears of the global state from another region.
    pub feed: Feed,
    pub control: Arc<Control>,
    pub members: Members,
    pub directory: NodeDirectory,
    pub material: Material,
    pub logs: Arc<dyn Logs>,
    pub execs: Execs,
    pub snapshots: Snapshots,
    /// Measures this node.
    pub meter: Meter,
    /// Asks this node's edge.
    pub edge_requests: EdgeRequests,
    /// How far other nodes and regions are.
    pub latency: LatencyMap,
    /// Knows what regions have of services.
    pub digests: Digests,
    /// Opens secrets.
    pub secrets: Opener,
    pub runtime: NodeRuntime,
    pub disk: Arc<dyn Disk>,
    pub lifetimes: Lifetimes,
    pub clock: insula_env::Clock,
    /// Other nodes, for what is brought to them.
    pub peers: Peers,
}

#[async_trait]
impl Handler for Calls {
    async fn call(&self, caller: &Caller, method: u16, body: Bytes) -> Result<Bytes, Status> {
        self.check(caller, method)?;
        match method {
            Propose::ID | Barrier::ID | Recall::ID => self.answer_as_leader(&asking(caller), method, &body).await,
            Relay::ID => {
                let request = decode_request::<Relay>(&body)?;
                Ok(encode_response::<Relay>(&self.relay(asking(caller), request).await?))
            }
            Renew::ID => {
                let renewal = decode_request::<Renew>(&body)?;
                let answer = match self.control.renew(caller.identity.node, &renewal) {
                    Ok(granted) => Led::Done(granted),
                    Err(_) => Led::Elsewhere(self.region.raft().leadership().borrow().leader),
                };
                Ok(encode_response::<Renew>(&answer))
            }
            TakeAuthority::ID => {
                let request = decode_request::<TakeAuthority>(&body)?;
                self.take_authority(&request)?;
                Ok(encode_response::<TakeAuthority>(&()))
            }
            ReadLogs::ID => {
                let request = decode_request::<ReadLogs>(&body)?;
                let bytes_max = request.bytes_max.min(LOG_BYTES_MAX);
                let log = self.logs.read(self.node, request.instance, bytes_max).await;
                let log = log.map_err(|why| Status::new(Code::NotFound, why))?;
                Ok(encode_response::<ReadLogs>(&ByteBuf::from(log.to_vec())))
            }
            RenewCertificate::ID => {
                let request = decode_request::<RenewCertificate>(&body)?;
                Ok(encode_response::<RenewCertificate>(&self.renew_certificate(caller, &request)?))
            }
            AskLives::ID => {
                decode_request::<AskLives>(&body)?;
                Ok(encode_response::<AskLives>(&lives::lives(self.region.raft(), self.global.raft())))
            }
            TellAddresses::ID => {
                let request = decode_request::<TellAddresses>(&body)?;
                self.members.hear(request.known);
                Ok(encode_response::<TellAddresses>(&TellAddressesResponse { known: self.members.tell() }))
            }
            AskImages::ID => {
                let request = decode_request::<AskImages>(&body)?;
                if request.images.len() > ASK_IMAGES_MAX {
                    let why = format!("{} images are named, and {ASK_IMAGES_MAX} may be", request.images.len());
                    return Err(Status::new(Code::InvalidArgument, why));
                }
                Ok(encode_response::<AskImages>(&images::present(&self.runtime, request.images)))
            }
            ListImages::ID => {
                decode_request::<ListImages>(&body)?;
                Ok(encode_response::<ListImages>(&images::stored(&self.runtime)?))
            }
            RemoveImage::ID => {
                let request = decode_request::<RemoveImage>(&body)?;
                Ok(encode_response::<RemoveImage>(&images::remove(&self.runtime, &request).await?))
            }
            OpenSecrets::ID => {
                let request = decode_request::<OpenSecrets>(&body)?;
                Ok(encode_response::<OpenSecrets>(&self.secrets.serve(caller.identity.node, &request)?))
            }
            SendInput::ID => {
                let request = decode_request::<SendInput>(&body)?;
                self.execs.take_input(caller.identity.node, request).await?;
                Ok(encode_response::<SendInput>(&()))
            }
            ListSnapshots::ID => {
                decode_request::<ListSnapshots>(&body)?;
                Ok(encode_response::<ListSnapshots>(&self.snapshots.stored().await?))
            }
            MeasureUse::ID => {
                let request = decode_request::<MeasureUse>(&body)?;
                Ok(encode_response::<MeasureUse>(&self.meter.tell(&request).await?))
            }
            AskRequests::ID => {
                let request = decode_request::<AskRequests>(&body)?;
                Ok(encode_response::<AskRequests>(&self.edge_requests.tell(&request.id).await?))
            }
            AskLatency::ID => {
                let request = decode_request::<AskLatency>(&body)?;
                let own = self.material.identity().region;
                let may_see_nodes = authorize::may_ask_of(StateName::Region, &asking(caller), &own).is_ok();
                Ok(encode_response::<AskLatency>(&self.latency.tell(request.with_nodes && may_see_nodes)))
            }
            AskDigest::ID => {
                let request = decode_request::<AskDigest>(&body)?;
                Ok(encode_response::<AskDigest>(&self.digests.tell(&request)?))
            }
            ReadDigests::ID => {
                let request = decode_request::<ReadDigests>(&body)?;
                Ok(encode_response::<ReadDigests>(&self.digests.tell_all(&request)))
            }
            MakeSnapshot::ID => {
                let request = decode_request::<MakeSnapshot>(&body)?;
                Ok(encode_response::<MakeSnapshot>(&self.snapshots.make_here(&request).await?))
            }
            RestoreSnapshot::ID => {
                let request = decode_request::<RestoreSnapshot>(&body)?;
                self.snapshots.restore_here(&request).await?;
                Ok(encode_response::<RestoreSnapshot>(&()))
            }
            RemoveSnapshot::ID => {
                let request = decode_request::<RemoveSnapshot>(&body)?;
                Ok(encode_response::<RemoveSnapshot>(&self.snapshots.remove_here(&request).await?))
            }
            other => Err(Status::unknown_method(other)),
        }
    }

    async fn stream(&self, caller: &Caller, method: u16, body: Bytes, sink: StreamSink) -> Result<(), Status> {
        self.check(caller, method)?;
        match method {
            WatchState::ID => {
                let request = decode_request::<WatchState>(&body)?;
                authorize::may_ask_of(request.state, &asking(caller), &self.material.identity().region)?;
                match request.state {
                    StateName::Region => {
                        let gives = || Gives::of_log(self.region.raft().takes_part());
                        stream_updates(&self.region, request.from, sink, gives).await
                    }
                    StateName::Global => {
                        stream_updates(&self.global, request.from, sink, || self.gives_global(caller)).await
                    }
                }
            }
            FetchBlob::ID => {
                let request = decode_request::<FetchBlob>(&body)?;
                images::send(&self.runtime, &self.disk, &request, sink).await
            }
            StartExec::ID => {
                let request = decode_request::<StartExec>(&body)?;
                self.execs.serve(caller.identity.node, request, sink).await
            }
            StartOneOff::ID => {
                let request = decode_request::<StartOneOff>(&body)?;
                self.execs.serve_one_off(caller.identity.node, request, sink).await
            }
            other => Err(Status::unknown_method(other)),
        }
    }
}

impl Calls {
    /// What this node knows of a caller, and whether it may call the method at all.
    fn check(&self, caller: &Caller, method: u16) -> Result<(), Status> {
        let (own, node) = (self.material.identity().region, caller.identity.node);
        let (is_removed, is_member) = self.region.replica().read(|region| {
            let is_member = region.meta.as_ref().map(|_| region.nodes.contains(&node));
            (region.tombstones.contains(&node), is_member)
        });
        let voters = self.region.raft().voters();
        let is_voter = (!voters.is_empty()).then(|| voters.contains(&node));
        let is_of_region = caller.identity.region == own;
        let is_of_world = self.global.replica().read(|global| {
            let is_listed = global.regions.contains(&caller.identity.region);
            global.meta.as_ref().map(|_| is_listed)
        });
        let standing = Standing { is_of_region, is_of_world, is_removed, is_member, is_voter };
        authorize::may_call(method, &caller.identity, &own, standing)
    }

    /// What a caller gets of this node's copy of the global state.
    fn gives_global(&self, caller: &Caller) -> Gives {
        let is_of_region = caller.identity.region == self.material.identity().region;
        let votes = |node| self.region.raft().voters().contains(&node);
        let is_voter = self.region.raft().takes_part() && votes(self.node);
        let takes_part = self.global.raft().takes_part();
        follow::gives_global(takes_part, is_voter, self.feed.is_fed(), is_of_region, votes(caller.identity.node))
    }

    /// What only a leader answers, to a node.
    async fn answer_as_leader(&self, node: &Asking, method: u16, body: &[u8]) -> Result<Bytes, Status> {
        let own = self.material.identity().region;
        match method {
            Propose::ID => {
                let request = decode_request::<Propose>(body)?;
                authorize::may_ask_of(request.state, node, &own)?;
                Ok(encode_response::<Propose>(&self.propose(node, request).await?))
            }
            Barrier::ID => {
                let request = decode_request::<Barrier>(body)?;
                authorize::may_ask_of(request.state, node, &own)?;
                let limit = Duration::from_millis(request.deadline_ms).min(LIMIT_MAX);
                let answer = match request.state {
                    StateName::Region => self.region.barrier(limit).await,
                    StateName::Global => self.global.barrier(limit).await,
                };
                Ok(encode_response::<Barrier>(&answer))
            }
            Recall::ID => {
                let request = decode_request::<Recall>(body)?;
                authorize::may_ask_of(request.state, node, &own)?;
                let limit = Duration::from_millis(request.deadline_ms).min(LIMIT_MAX);
                let answer = match request.state {
                    StateName::Region => self.region.recall(request.request, limit).await,
                    StateName::Global => self.global.recall(request.request, limit).await,
                };
                Ok(encode_response::<Recall>(&answer))
            }
            other => Err(Status::unknown_method(other)),
        }
    }

    /// Brings a node's request to the leader; as the leader, answers what a voter brings.
    async fn relay(&self, caller: Asking, request: RelayRequest) -> Result<Led<ByteBuf>, Status> {
        let own = self.material.identity().region;
        authorize::may_ask_of(request.state, &caller, &own)?;
        let raft = match request.state {
            StateName::Region => self.region.raft(),
            StateName::Global => self.global.raft(),
        };
        let is_voter = authorize::is_voter(&caller, &own, &raft.voters());
        let brought = request.asking.map(|node| Asking { node, region: request.region.clone().unwrap_or(own) });
        let asking = authorize::may_relay(caller, is_voter, brought)?;
        let leadership = *raft.leadership().borrow();
        if leadership.is_me {
            let answer = self.answer_as_leader(&asking, request.method, &request.body).await?;
            return Ok(Led::Done(ByteBuf::from(answer)));
        }
        // What was brought once is not brought on.
        let Some(leader) = leadership.leader.filter(|_| request.asking.is_none()) else {
            return Ok(Led::Elsewhere(leadership.leader));
        };
        // Half of the time is left to those who may know another way, where this node is cut off, too.
        if !self.peers.connects(leader, Duration::from_millis(request.deadline_ms / 2).min(LIMIT_MAX)).await {
            return Ok(Led::Elsewhere(Some(leader)));
        }
        let limit = Duration::from_millis(request.deadline_ms).min(LIMIT_MAX);
        let brought = RelayRequest { asking: Some(asking.node), region: Some(asking.region), ..request };
        let mut leaderships = raft.leadership();
        let follows_another = leaderships.wait_for(|now| now.leader != Some(leader));
        tokio::select! {
            biased;
            answer = self.peers.call::<Relay>(leader, &brought, limit) => answer,
            // The caller begins anew; what was brought takes effect once.
            _ = follows_another => Ok(Led::Unknown(format!("{leader} does not lead any more"))),
        }
    }

    async fn propose(&self, asking: &Asking, request: ProposeRequest) -> Result<Led<ByteBuf>, Status> {
        let limit = Duration::from_millis(request.deadline_ms).min(LIMIT_MAX);
        let command = request.command.into_vec();
        let own = self.material.identity().region;
        match request.state {
            StateName::Region => {
                let is_voter = authorize::is_voter(asking, &own, &self.region.raft().voters());
                let decoded = decode(&command)?;
                authorize::may_propose_region(asking.node, is_voter, &decoded)?;
                match self.region.too_early(&decoded) {
                    Some(refused) => Ok(refused),
                    None => Ok(self.region.propose(request.request, command, limit).await),
                }
            }
            StateName::Global => {
                let is_voter = authorize::is_voter(asking, &own, &self.global.raft().voters());
                let decoded = decode(&command)?;
                authorize::may_propose_global(asking, &own, is_voter, &decoded)?;
                match self.global.too_early(&decoded) {
                    Some(refused) => Ok(refused),
                    None => Ok(self.global.propose(request.request, command, limit).await),
                }
            }
        }
    }

    /// Takes the region CA's key.
    fn take_authority(&self, request: &TakeAuthorityRequest) -> Result<(), Status> {
        let authority = RegionAuthority::import(&request.region_authority)
            .map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
        let own_chain = self.material.chain();
        let own_ca = own_chain.get(1).ok_or_else(|| Status::internal("this node's chain has no CA"))?;
        authorize::is_own_authority(&self.material.identity(), own_ca, &authority)?;
        let keep = || -> Result<(), insula_identity::Error> {
            self.directory.save_region_authority(&authority)?;
            if !request.sealed_root.is_empty() {
                self.directory.save_sealed_root(&request.sealed_root)?;
            }
            request.next_root.as_ref().map_or(Ok(()), |next| self.directory.save_next_root(next))
        };
        keep().map_err(|error| Status::internal(chain(&error)))
    }

    /// Signs a new certificate for the identity that the caller has just proven.
    fn renew_certificate(
        &self,
        caller: &Caller,
        request: &RenewCertificateRequest,
    ) -> Result<RenewCertificateResponse, Status> {
        let authority = self.directory.load_region_authority().map_err(|error| Status::internal(chain(&error)))?;
        let Some(authority) = authority else {
            return Err(Status::retryable(Code::FailedPrecondition, "this node does not hold the region's key"));
        };
        let node = caller.identity.node;
        let address = self.region.replica().read(|region| region.nodes.get(&node).map(|node| node.address.ip()));
        let key = insula_identity::request_key_hash(&request.request)
            .map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
        if self.region.replica().read(|region| region.keys.get(&node).is_some_and(|bound| *bound != key)) {
            return Err(Status::permission_denied(format!("{node} has another key: a node keeps its key for life")));
        }
        let Some(address) = address else {
            return Err(Status::permission_denied(format!("{node} is not a member of this region")));
        };
        let chain_of = authority.issue_node(&request.request, node, &[address], &self.lifetimes, self.clock.wall());
        let certificates = chain_of.map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
        Ok(RenewCertificateResponse { chain: certificates.iter().map(|cert| ByteBuf::from(cert.to_vec())).collect() })
    }
}

fn decode<T: DeserializeOwned>(command: &[u8]) -> Result<T, Status> {
    codec::decode(command).map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))
}

/// A caller, as one that asks for something about a state.
fn asking(caller: &Caller) -> Asking {
    Asking { node: caller.identity.node, region: caller.identity.region.clone() }
}

/// Sends updates for as long as this node's copy is one to give; see [`crate::follow`].
async fn stream_updates<D: Domain>(
    group: &StateGroup<D>,
    from: Option<Revision>,
    sink: StreamSink,
    gives: impl Fn() -> Gives,
) -> Result<(), Status> {
    let mut watch = group.replica().watch(from);
    let mut is_first = true;
    loop {
        let (look, why) = match gives() {
            Gives::All => (PART_LOOK, None),
            Gives::Present => {
                (PRESENT_LOOK, (!is_first).then_some("nobody tells this node what is new either: ask another one"))
            }
            Gives::Nothing => (PART_LOOK, Some("this node follows others itself, ask a voter")),
        };
        if let Some(why) = why {
            return Err(Status::retryable(Code::FailedPrecondition, why));
        }
        is_first = false;
        // A look now and then, should nothing change for long.
        let Ok(update) = clock::timeout(look, watch.next()).await else { continue };
        sink.send_item::<WatchState>(&ByteBuf::from(codec::encode(&update))).await?;
    }
}
