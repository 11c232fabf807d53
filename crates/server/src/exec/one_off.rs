//! One-off instances: made for one command on a node that has room, and gone with it. What is run is the service as the node
//! itself knows it. Nothing of them is in the region's state, so each node counts its own.

use std::time::Duration;

use insula_agent::Secrets;
use insula_api::{ExecFar, ExecSession};
use insula_container::{Contents, Exec, ImageRef, InstanceConfig, Runtime};
use insula_control::one_off;
use insula_env::clock;
use insula_rpc::{Code, Status, StreamSink};
use insula_telemetry::chain;
use insula_types::{ExecOutput, ExecSpec, InstanceId, NodeId, ReleaseNumber, SecretValues, ServiceRef, ServiceSpec};
use tokio::sync::mpsc;

use super::{Execs, Inbox, pump, refused, send};
use crate::methods::{StartOneOff, StartOneOffRequest};

/// Longest that a command in a one-off instance may run: one that is forgotten must not hold its room for ever.
const RUN_MAX: Duration = Duration::from_hours(24);
/// How long its image may take to come, as for every instance.
const PULL_MAX: Duration = Duration::from_secs(900);
/// How long another node may take to begin.
const BEGIN_MAX: Duration = Duration::from_secs(960);

impl Execs {
    /// Makes an instance of a service on a node, and runs a command in it. Answers before it runs, since the image may have to
    /// come first: [`ExecOutput::Started`] says that it does, and [`ExecOutput::Failed`] without that why not.
    pub(crate) fn begin_one_off(&self, node: NodeId, service: ServiceRef, spec: ExecSpec) -> ExecSession {
        let (session, far) = ExecSession::new();
        let execs = self.clone();
        self.tasks.spawn("command in a one-off instance", async move {
            let output = far.output.clone();
            let done = match node == execs.node {
                true => execs.run_here(&service, &spec, far).await,
                false => execs.run_there(node, service, spec, far).await,
            };
            if let Err(status) = done {
                let name = execs.region.read(|region| region.nodes.get(&node).map(|node| node.name.to_string()));
                let why = format!("on node {}: {status}", name.unwrap_or_else(|| node.to_string()));
                output.send(ExecOutput::Failed(why)).await.ok();
            }
        });
        session
    }

    async fn run_here(&self, service: &ServiceRef, spec: &ExecSpec, far: ExecFar) -> Result<(), Status> {
        let exec = tokio::select! {
            made = self.make_one_off(service, spec) => made?,
            () = far.output.closed() => return Ok(()),
        };
        far.output.send(ExecOutput::Started).await.ok();
        pump_for(RUN_MAX, exec, far).await;
        Ok(())
    }

    async fn run_there(&self, node: NodeId, service: ServiceRef, spec: ExecSpec, far: ExecFar) -> Result<(), Status> {
        let session = self.rng.next();
        let request = StartOneOffRequest { session, service, spec };
        let outputs = tokio::select! {
            outputs = self.ask::<StartOneOff>(node, &request, BEGIN_MAX) => outputs?,
            () = far.output.closed() => return Ok(()),
        };
        far.output.send(ExecOutput::Started).await.ok();
        self.relay(node, session, outputs, far).await;
        Ok(())
    }

    /// Answers another node: makes an instance here, and runs a command in it for as long as the stream lives.
    pub(crate) async fn serve_one_off(
        &self,
        caller: NodeId,
        request: StartOneOffRequest,
        sink: StreamSink,
    ) -> Result<(), Status> {
        let sink = sink.patient();
        let (session, far) = ExecSession::new();
        let inbox = Inbox { next: tokio::sync::Mutex::new(0), input: session.input };
        let _registered = self.register((caller, request.session), inbox)?;
        let exec = self.make_one_off(&request.service, &request.spec).await?;
        send::<StartOneOff>(&sink, session.output, pump_for(RUN_MAX, exec, far)).await
    }

    /// Begins a command in an instance of its own on this node.
    async fn make_one_off(&self, service: &ServiceRef, spec: &ExecSpec) -> Result<Exec, Status> {
        let (release, wanted, instance) = self.look_up(service)?;
        if let Some(image) = &wanted.image {
            let image: ImageRef = image.parse().map_err(|error| refused(&error))?;
            let pulled = clock::timeout(PULL_MAX, self.runtime.ensure_image(&image)).await;
            let late = |_| Status::new(Code::DeadlineExceeded, format!("{image} did not come within {PULL_MAX:?}"));
            pulled.map_err(late)?.map_err(|error| refused(&error))?;
        }
        let node = self.labels.clone();
        let contents = self.contents(service, &wanted).await?;
        let service = service.clone();
        let config = InstanceConfig { instance, service, release, spec: wanted, node, slot: None, contents };
        self.runtime.run(&config, spec).await.map_err(|error| refused(&error))
    }

    /// What is in the files of a service, as this node knows it, and its secrets.
    async fn contents(&self, service: &ServiceRef, spec: &ServiceSpec) -> Result<Contents, Status> {
        let files = self.region.read(|region| {
            let of = |hash| Some((hash, region.contents.get(&(service.app.clone(), hash))?.as_str().into()));
            spec.files.iter().filter_map(|file| of(file.content)).collect()
        });
        let secrets = match spec.secrets.is_empty() {
            true => SecretValues::new(),
            false => self.secrets.open(&service.app, &spec.secrets).await.map_err(Status::internal)?,
        };
        Ok(Contents { files, secrets })
    }

    /// A service as this node knows it, which has room for one more instance, and an id that no other has.
    fn look_up(&self, service: &ServiceRef) -> Result<(ReleaseNumber, ServiceSpec, InstanceId), Status> {
        let one_offs = self.runtime.one_offs();
        self.region.read(|region| {
            let definition = region.definitions.get(&service.app);
            let wanted = definition.and_then(|found| Some((found.release, found.services.get(&service.service)?)));
            let (release, wanted) = wanted.ok_or_else(|| {
                Status::retryable(Code::FailedPrecondition, format!("this node does not know {service} yet"))
            })?;
            one_off::admit(region, service, &wanted.spec, self.node, &one_offs)
                .map_err(|error| Status::new(Code::FailedPrecondition, chain(&error)))?;
            let mut ids = std::iter::repeat_with(|| InstanceId::new(self.rng.next()));
            let instance = ids.find(|id| !region.placements.contains(id));
            Ok((release, wanted.spec.clone(), instance.expect("there are more numbers than instances")))
        })
    }
}

/// As [`pump`], for so long at most.
async fn pump_for(limit: Duration, exec: Exec, far: ExecFar) {
    let output: mpsc::Sender<ExecOutput> = far.output.clone();
    if clock::timeout(limit, pump(exec, far)).await.is_err() {
        let why = format!("it was ended after {} hours, the longest that it may run", limit.as_secs() / 3600);
        output.send(ExecOutput::Failed(why)).await.ok();
    }
}
