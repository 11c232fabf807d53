//! Commands in instances, those that are made for one included (`one_off`), on this node and on others: output comes as a stream over `bulk`, input goes in calls over `rpc`,
//! numbered, so that one that is sent again counts once. The stream is the session: with it, the command ends.

mod one_off;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use insula_api::{ExecFar, ExecSession};
use insula_container::{Error, Exec, ExecOrder, ExecStdin, ExecStdout, Exit, NodeLabels, NodeRuntime, Runtime};
use insula_env::{Rng, TaskGroup, clock};
use insula_rpc::{Code, Method, Peers, Settings, Status, StreamSink, TypedStream};
use insula_state::{RegionState, Store};
use insula_telemetry::chain;
use insula_types::{ExecExit, ExecInput, ExecOutput, ExecSpec, InstanceId, NodeId};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    methods::{SendInput, SendInputRequest, StartExec, StartExecRequest},
    secrets::Opener,
};

/// Bytes of output that are sent at once.
const PIECE_LEN: usize = 32 << 10;
/// How long another node may take to be reached.
const REACH_LIMIT: Duration = Duration::from_secs(2);
/// How long a command may take to begin there: shorter than callers of the API wait.
const START_LIMIT: Duration = Duration::from_secs(12);
/// How long one call with input waits for a command that does not read; then it is sent again.
const INPUT_LIMIT: Duration = Duration::from_secs(5);
/// Wait before input is sent again that did not arrive.
const INPUT_PAUSE: Duration = Duration::from_millis(200);
/// How long the last output of an ended command is waited for: something else may have its pipes open.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// What a shell sends when a user types the end of the input.
const END_OF_TRANSMISSION: u8 = 4;

/// How connections with sessions are used: they are replaced as often as others, but what runs on one may go on for longer.
pub(crate) fn settings() -> Settings {
    Settings { age_grace: Duration::from_secs(3600), ..Settings::default() }
}

/// Runs commands in instances.
#[derive(Clone)]
pub(crate) struct Execs {
    node: NodeId,
    labels: NodeLabels,
    runtime: NodeRuntime,
    /// What services are, for instances that are made for a command.
    region: Store<RegionState>,
    /// For input.
    rpc: Peers,
    /// For output; with [`settings`].
    bulk: Peers,
    /// For instances that are made for a command.
    secrets: Opener,
    tasks: TaskGroup,
    rng: Arc<Rng>,
    /// Sessions of other nodes' callers with commands here.
    inboxes: Arc<Mutex<Inboxes>>,
}

/// By the caller's node, and its name for the session.
type Inboxes = BTreeMap<(NodeId, u64), Arc<Inbox>>;

/// Where input of a session arrives.
struct Inbox {
    /// The number of the next input. Held while that is handed on, so that the order stays.
    next: tokio::sync::Mutex<u64>,
    input: mpsc::Sender<ExecInput>,
}

impl Execs {
    pub(crate) fn new(
        (node, labels): (NodeId, NodeLabels),
        runtime: NodeRuntime,
        region: Store<RegionState>,
        (rpc, bulk): (Peers, Peers),
        secrets: Opener,
        tasks: TaskGroup,
        rng: Rng,
    ) -> Self {
        Self { node, labels, runtime, region, rpc, bulk, secrets, tasks, rng: Arc::new(rng), inboxes: Arc::default() }
    }

    /// Runs a command in an instance of a node.
    ///
    /// # Errors
    /// [`Status`] when it does not run.
    pub(crate) async fn begin(
        &self,
        node: NodeId,
        instance: InstanceId,
        spec: ExecSpec,
    ) -> Result<ExecSession, Status> {
        let (session, far) = ExecSession::new();
        if node == self.node {
            let exec = self.runtime.exec(instance, &spec).await.map_err(|error| refused(&error))?;
            self.tasks.spawn("command in an instance", pump(exec, far));
            return Ok(session);
        }
        let id = self.rng.next();
        let request = StartExecRequest { session: id, instance, spec };
        let outputs = self.ask::<StartExec>(node, &request, START_LIMIT).await?;
        let execs = self.clone();
        self.tasks.spawn("command in an instance elsewhere", async move { execs.relay(node, id, outputs, far).await });
        Ok(session)
    }

    /// Asks another node to run a command, and waits for its word that it does.
    async fn ask<M: Method<Response = ExecOutput>>(
        &self,
        node: NodeId,
        request: &M::Request,
        limit: Duration,
    ) -> Result<TypedStream<M>, Status> {
        let mut outputs = self.bulk.stream::<M>(node, request, REACH_LIMIT).await?;
        match clock::timeout(limit, outputs.next()).await {
            Ok(Some(Ok(ExecOutput::Started))) => Ok(outputs),
            Ok(Some(Err(status))) => Err(status),
            Ok(_) => Err(Status::new(Code::Protocol, "the node does not say whether the command runs")),
            Err(_) => Err(Status::new(Code::DeadlineExceeded, format!("it did not begin within {limit:?}"))),
        }
    }

    /// Carries between a command of another node and its caller, until either leaves.
    async fn relay<M: Method<Response = ExecOutput>>(
        &self,
        node: NodeId,
        session: u64,
        outputs: TypedStream<M>,
        far: ExecFar,
    ) {
        let ExecFar { input, output } = far;
        tokio::select! {
            () = take_output(outputs, &output) => {}
            () = self.send_input(node, session, input) => {}
            () = output.closed() => {}
        }
    }

    /// Brings input to the node of the command, in order, each when the one before has been taken. Ends when the caller does.
    async fn send_input(&self, node: NodeId, session: u64, mut input: mpsc::Receiver<ExecInput>) {
        let mut number = 0;
        while let Some(input) = input.recv().await {
            let request = SendInputRequest { session, number, input };
            while let Err(status) = self.rpc.call::<SendInput>(node, &request, INPUT_LIMIT).await {
                if !status.retryable {
                    // The session is over there; its last output tells how.
                    return std::future::pending().await;
                }
                clock::sleep(INPUT_PAUSE).await;
            }
            number += 1;
        }
    }

    /// Answers another node: runs a command here for as long as the stream lives.
    pub(crate) async fn serve(
        &self,
        caller: NodeId,
        request: StartExecRequest,
        sink: StreamSink,
    ) -> Result<(), Status> {
        // A user's terminal may stand still for as long as the user likes.
        let sink = sink.patient();
        let (session, far) = ExecSession::new();
        let inbox = Inbox { next: tokio::sync::Mutex::new(0), input: session.input };
        let _registered = self.register((caller, request.session), inbox)?;
        let exec = self.runtime.exec(request.instance, &request.spec).await.map_err(|error| refused(&error))?;
        send::<StartExec>(&sink, session.output, pump(exec, far)).await
    }

    fn register(&self, key: (NodeId, u64), inbox: Inbox) -> Result<Registered<'_>, Status> {
        match self.inboxes.lock().entry(key) {
            Entry::Occupied(_) => Err(Status::new(Code::InvalidArgument, "there is such a session already")),
            Entry::Vacant(free) => {
                free.insert(Arc::new(inbox));
                Ok(Registered { execs: self, key })
            }
        }
    }

    /// Takes input from another node. Returns when the command's side has room for more.
    pub(crate) async fn take_input(&self, caller: NodeId, request: SendInputRequest) -> Result<(), Status> {
        let inbox = self.inboxes.lock().get(&(caller, request.session)).cloned();
        let inbox = inbox.ok_or_else(|| Status::new(Code::NotFound, "there is no such session"))?;
        let mut next = inbox.next.lock().await;
        if request.number < *next {
            // It has come before, and the answer was lost.
            return Ok(());
        }
        if request.number > *next {
            let why = format!("input {} comes before input {next}", request.number);
            return Err(Status::new(Code::InvalidArgument, why));
        }
        let taken = inbox.input.send(request.input).await;
        taken.map_err(|_| Status::new(Code::NotFound, "the command has ended"))?;
        *next += 1;
        Ok(())
    }
}

/// A session that takes input while this lives.
struct Registered<'a> {
    execs: &'a Execs,
    key: (NodeId, u64),
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.execs.inboxes.lock().remove(&self.key);
    }
}

/// Tells another node what a command says while `pump` brings it, [`ExecOutput::Started`] first.
async fn send<M: Method<Response = ExecOutput>>(
    sink: &StreamSink,
    mut output: mpsc::Receiver<ExecOutput>,
    pump: impl Future<Output = ()>,
) -> Result<(), Status> {
    sink.send_item::<M>(&ExecOutput::Started).await?;
    let send = async {
        while let Some(item) = output.recv().await {
            sink.send_item::<M>(&item).await?;
        }
        Ok(())
    };
    let ((), sent) = tokio::join!(pump, send);
    sent
}

/// Why a command does not run, for other nodes and for callers of the API.
fn refused(error: &Error) -> Status {
    let code = match error {
        Error::State { .. } => Code::FailedPrecondition,
        Error::Exec { .. } | Error::Config { .. } => Code::InvalidArgument,
        _ => Code::Internal,
    };
    Status::new(code, chain(error))
}

/// Passes on what another node sends, until its last word.
async fn take_output<M: Method<Response = ExecOutput>>(mut from: TypedStream<M>, to: &mpsc::Sender<ExecOutput>) {
    loop {
        let output = match from.next().await {
            Some(Ok(output)) => output,
            Some(Err(status)) => ExecOutput::Failed(format!("the node of the instance: {status}")),
            None => return,
        };
        let is_last = matches!(output, ExecOutput::Exit(_) | ExecOutput::Failed(_));
        if to.send(output).await.is_err() || is_last {
            return;
        }
    }
}

/// Carries between a command of this node and its caller, until the command has ended and all is said, or the caller leaves,
/// which ends the command.
async fn pump(exec: Exec, far: ExecFar) {
    let Exec { stdin, stdout, stderr, exit, handle } = exec;
    let (exit, ExecFar { mut input, output }) = (exit.shared(), far);
    let is_terminal = stderr.is_none();
    let say = async {
        let errors = async {
            if let Some(stderr) = stderr {
                copy(stderr, ExecOutput::Stderr, &output, exit.clone()).await;
            }
        };
        tokio::join!(copy(stdout, ExecOutput::Stdout, &output, exit.clone()), errors);
        let last = match exit.clone().await {
            Exit::Code(code) => ExecOutput::Exit(ExecExit::Code(code)),
            Exit::Signal(signal) => ExecOutput::Exit(ExecExit::Signal(signal)),
            Exit::Unseen(why) => ExecOutput::Failed(why),
        };
        output.send(last).await.ok();
    };
    let hear = async {
        let mut stdin = stdin;
        while let Some(input) = input.recv().await {
            match input {
                ExecInput::Data(data) => write(&mut stdin, &data).await,
                ExecInput::End if is_terminal => write(&mut stdin, &[END_OF_TRANSMISSION]).await,
                ExecInput::End => stdin = None,
                ExecInput::Resize(size) => handle.order(ExecOrder::Resize(size)).await,
                ExecInput::Signal(signal) => handle.order(ExecOrder::Signal(signal)).await,
            }
        }
    };
    tokio::select! {
        () = say => {}
        () = hear => {}
        () = output.closed() => {}
    }
}

/// Writes what a command reads; one that reads no more gets no more.
async fn write(stdin: &mut Option<ExecStdin>, data: &[u8]) {
    if let Some(open) = stdin
        && open.write_all(data).await.is_err()
    {
        *stdin = None;
    }
}

async fn copy(
    mut from: ExecStdout,
    wrap: fn(Vec<u8>) -> ExecOutput,
    to: &mpsc::Sender<ExecOutput>,
    exit: impl Future<Output = Exit> + Clone,
) {
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let idle_after_end = async {
            exit.clone().await;
            clock::sleep(DRAIN_MAX).await;
        };
        let read = tokio::select! {
            read = from.read(&mut piece) => read.unwrap_or(0),
            () = idle_after_end => 0,
        };
        if read == 0 || to.send(wrap(piece[..read].to_vec())).await.is_err() {
            return;
        }
    }
}
