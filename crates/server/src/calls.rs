//! Answers what other nodes ask of this one. Each method decides what its caller may ask for.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use insula_control::Control;
use insula_identity::{Lifetimes, NodeDirectory, RegionAuthority};
use insula_rpc::{Caller, Code, Handler, Method, Status, StreamSink, decode_request, encode_response};
use insula_state::{Domain, GlobalState, RegionCommand, RegionState, Replica};
use insula_telemetry::chain;
use insula_types::{NodeId, Revision, codec};
use serde_bytes::ByteBuf;

use crate::{
    group::StateGroup,
    logs::{LOG_BYTES_MAX, Logs},
    methods::{
        Barrier, Led, Propose, ProposeRequest, ReadLogs, Renew, RenewCertificate, RenewCertificateRequest,
        RenewCertificateResponse, StateName, TakeAuthority, TakeAuthorityRequest, WatchState,
    },
};

/// Longest that a caller may make this node try.
const LIMIT_MAX: Duration = Duration::from_secs(10);

/// Answers the `rpc` protocol.
pub(crate) struct Calls {
    pub node: NodeId,
    pub region: Arc<StateGroup<RegionState>>,
    pub global: Arc<StateGroup<GlobalState>>,
    pub control: Arc<Control>,
    pub directory: NodeDirectory,
    pub logs: Arc<dyn Logs>,
    pub lifetimes: Lifetimes,
    pub clock: insula_env::Clock,
}

#[async_trait]
impl Handler for Calls {
    async fn call(&self, caller: &Caller, method: u16, body: Bytes) -> Result<Bytes, Status> {
        self.check_region(caller)?;
        match method {
            Propose::ID => {
                let request = decode_request::<Propose>(&body)?;
                Ok(encode_response::<Propose>(&self.propose(caller, request).await?))
            }
            Barrier::ID => {
                let request = decode_request::<Barrier>(&body)?;
                let limit = Duration::from_millis(request.deadline_ms).min(LIMIT_MAX);
                let answer = match request.state {
                    StateName::Region => self.region.barrier(limit).await,
                    StateName::Global => self.global.barrier(limit).await,
                };
                Ok(encode_response::<Barrier>(&answer))
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
                self.take_authority(caller, &request)?;
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
            other => Err(Status::unknown_method(other)),
        }
    }

    async fn stream(&self, caller: &Caller, method: u16, body: Bytes, sink: StreamSink) -> Result<(), Status> {
        self.check_region(caller)?;
        if method != WatchState::ID {
            return Err(Status::unknown_method(method));
        }
        let request = decode_request::<WatchState>(&body)?;
        match request.state {
            StateName::Region => stream_updates(self.region.replica(), request.from, sink).await,
            StateName::Global => stream_updates(self.global.replica(), request.from, sink).await,
        }
    }
}

impl Calls {
    /// Regions do not reach into each other's control.
    fn check_region(&self, caller: &Caller) -> Result<(), Status> {
        let own = self.region.replica().read(|region| region.meta.as_ref().map(|meta| meta.region.clone()));
        match own {
            Some(own) if own != caller.identity.region => {
                Err(Status::permission_denied(format!("region {} may not call region {own}", caller.identity.region)))
            }
            _ => Ok(()),
        }
    }

    async fn propose(&self, caller: &Caller, request: ProposeRequest) -> Result<Led<ByteBuf>, Status> {
        let limit = Duration::from_millis(request.deadline_ms).min(LIMIT_MAX);
        let command = request.command.into_vec();
        match request.state {
            StateName::Region => {
                may_propose(caller.identity.node, &command)?;
                Ok(self.region.propose(request.request, command, limit).await)
            }
            StateName::Global => Ok(self.global.propose(request.request, command, limit).await),
        }
    }

    /// Takes the region CA's key. Only a voter of the region gives it: nobody else has it.
    fn take_authority(&self, caller: &Caller, request: &TakeAuthorityRequest) -> Result<(), Status> {
        let authority = RegionAuthority::import(&request.region_authority)
            .map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
        let issued = authority.identity();
        if issued.region != caller.identity.region || issued.cluster != caller.identity.cluster {
            return Err(Status::permission_denied("the key is another region's"));
        }
        let keep = || -> Result<(), insula_identity::Error> {
            self.directory.save_region_authority(&authority)?;
            self.directory.save_sealed_root(&request.sealed_root)
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
        let Some(address) = address else {
            return Err(Status::permission_denied(format!("{node} is not a member of this region")));
        };
        let chain_of = authority.issue_node(&request.request, node, &[address], &self.lifetimes, self.clock.wall());
        let certificates = chain_of.map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
        Ok(RenewCertificateResponse { chain: certificates.iter().map(|cert| ByteBuf::from(cert.to_vec())).collect() })
    }
}

/// A node reports of itself alone. Everything else it may ask for on behalf of its API's callers, whose roles it has
/// checked.
fn may_propose(node: NodeId, command: &[u8]) -> Result<(), Status> {
    let command: RegionCommand =
        codec::decode(command).map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
    let about = match &command {
        RegionCommand::ReportStatus { node, .. } => *node,
        RegionCommand::UpdateNode { id, .. } => *id,
        // Taking in a machine or founding is done by the node that was asked, as leader or through this one.
        RegionCommand::Init { .. } => return Err(Status::permission_denied("only a region's first node founds it")),
        _ => return Ok(()),
    };
    if about == node {
        return Ok(());
    }
    Err(Status::permission_denied(format!("{node} may not report for {about}")))
}

async fn stream_updates<D: Domain>(
    replica: &Arc<Replica<D>>,
    from: Option<Revision>,
    sink: StreamSink,
) -> Result<(), Status> {
    let mut watch = replica.watch(from);
    loop {
        let update = watch.next().await;
        sink.send_item::<WatchState>(&ByteBuf::from(codec::encode(&update))).await?;
    }
}
