//! What is fuzzed: each target with its seeds, and what reads an input.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use anyhow::{Context, Result};
use bytes::BytesMut;
use clap::ValueEnum;
use futures::FutureExt;
use insula_api::exec::frame as exec_frame;
use insula_catalog::{Catalog, frame};
use insula_container::fuzz;
use insula_edge::fuzz as edge;
use insula_env::{Clock, Env, Rng};
use insula_identity::{
    AllowAll, ApiToken, CertificateDer, Credentials, JoinToken, Lifetimes, Material, NodeIdentity, NodeKey,
    RegionAuthority, RegionCaIdentity, RootAuthority,
};
use insula_state::{
    About, Domain, GlobalState, Machine, RegionCommand, RegionState, Replica, archive,
    region::{JoinToken as JoinRecord, NodeDuty, RegionMeta},
    seal,
};
use insula_types::{
    ByteSize, Capacity, ClusterId, CpuMillis, ExecExit, ExecInput, ExecOutput, Incarnation, Node, NodeHealth, NodeId,
    RequestId, Revision, SignalNumber, WindowSize, codec,
};

use crate::{definitions, http, json, mutate::mutate, tape};

/// What can be fuzzed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Frames between nodes
    Frames,
    /// The first message of a connection
    Hello,
    /// Raft's messages and log records
    Raft,
    /// Rows of a stored state or a snapshot
    Rows,
    /// Commands from the log
    Commands,
    /// Join tokens and API tokens
    Tokens,
    /// Names in certificates
    Names,
    /// Certificates
    Certificates,
    /// Requests for certificates
    Requests,
    /// Catalogs and their frames
    Catalogs,
    /// Backups of states
    Backups,
    /// Frames between a command in an instance and its caller
    Sessions,
    /// Manifests of images, lists of them, and configurations
    Images,
    /// Layers of images: tar streams
    Layers,
    /// Archives of `insula image import`
    Archives,
    /// What agent and shim say to each other, and their files
    Shims,
    /// HTTP requests of clients to the edge
    Http,
    /// HTTP responses of instances to the edge
    Responses,
    /// Definitions in TOML and in JSON
    Definitions,
    /// Compose files
    Compose,
}

type Read = Box<dyn FnMut(&[u8]) -> Result<String, String>>;
/// Makes an input of seeds.
type Change = fn(&[Vec<u8>], &Rng) -> Vec<u8>;

/// Seeds, how they are changed, and what reads an input: it tells what became of that; an error is a finding.
pub(crate) struct Reader {
    pub(crate) seeds: Vec<Vec<u8>>,
    pub(crate) change: Change,
    pub(crate) read: Read,
}

impl Reader {
    /// One that does not tell what becomes of inputs.
    fn new(seeds: Vec<Vec<u8>>, mut read: impl FnMut(&[u8]) -> Result<(), String> + 'static) -> Self {
        Self::telling(seeds, mutate, move |input| read(input).map(|()| String::new()))
    }

    fn telling(
        seeds: Vec<Vec<u8>>,
        change: Change,
        read: impl FnMut(&[u8]) -> Result<String, String> + 'static,
    ) -> Self {
        Self { seeds, change, read: Box::new(read) }
    }
}

impl Target {
    /// As it is typed.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(crate) fn reader(self) -> Result<Reader> {
        Ok(match self {
            Self::Frames => Reader::new(insula_rpc::fuzz::frame_seeds(), insula_rpc::fuzz::frames),
            Self::Hello => Reader::new(insula_rpc::fuzz::hello_seeds(), insula_rpc::fuzz::hello),
            Self::Raft => Reader::new(insula_raft::fuzz::seeds(), insula_raft::fuzz::messages),
            Self::Rows => Reader::new(rows()?, load),
            Self::Commands => Reader::new(commands(), apply),
            Self::Tokens => tokens(),
            Self::Names => names(),
            Self::Certificates => certificates()?,
            Self::Requests => requests()?,
            Self::Catalogs => Reader::new(catalogs()?, read_catalog),
            Self::Backups => Reader::new(backups()?, restore),
            Self::Sessions => Reader::new(sessions()?, read_session),
            Self::Images => {
                let area = area()?;
                Reader::telling(fuzz::document_seeds(), json::change, move |input| {
                    let area = &area;
                    fuzz::documents(&area.0, input)
                })
            }
            Self::Layers => {
                let area = area()?;
                Reader::telling(area.0.layer_seeds()?, tape::change, move |input| {
                    let area = &area;
                    area.0.layer(input)
                })
            }
            Self::Archives => {
                let area = area()?;
                Reader::telling(area.0.archive_seeds()?, tape::change, move |input| {
                    let area = &area;
                    area.0.archive(input)
                })
            }
            Self::Shims => Reader::telling(fuzz::shim_seeds(), json::change, fuzz::shim),
            Self::Http => Reader::telling(edge::request_seeds(), http::change, edge::requests),
            Self::Responses => Reader::telling(edge::response_seeds(), http::change, edge::responses),
            Self::Definitions => Reader::telling(definitions::seeds(), mutate, definitions::read),
            Self::Compose => {
                Reader::telling(definitions::compose_seeds(), definitions::change_lines, definitions::compose)
            }
        })
    }
}

/// Where images are read, with what removes it.
fn area() -> Result<(fuzz::Area, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    Ok((fuzz::Area::new(directory.path().to_owned(), Env::real("fuzz").disk)?, directory))
}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

fn node(id: u64) -> Result<Node> {
    Ok(Node {
        id: NodeId::new(id),
        name: format!("n{id}").parse()?,
        region: "fra".parse()?,
        datacenter: "fra1".parse()?,
        address: "192.0.2.1:7443".parse()?,
        capacity: Capacity { cpu: CpuMillis(4000), memory: ByteSize::mib(4096) },
        version: "1".to_owned(),
        health: NodeHealth::Up,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 1,
    })
}

/// Commands of several shapes, in an order in which each is taken.
fn history() -> Result<Vec<RegionCommand>> {
    let meta = RegionMeta { cluster: ClusterId::new(1), region: "fra".parse()?, incarnation: Incarnation(1) };
    let token = JoinRecord { id: "t".into(), secret_hash: "7".into(), expires_ms: u64::MAX, uses_left: 9 };
    let join = |id| -> Result<RegionCommand> {
        let node = Box::new(node(id)?);
        Ok(RegionCommand::Join { token: "t".into(), secret_hash: "7".into(), node })
    };
    let duty = RegionCommand::SetNodeDuty { id: NodeId::new(2), duty: NodeDuty::Drain };
    Ok(vec![
        RegionCommand::Init { meta, node: Box::new(node(1)?) },
        RegionCommand::CreateJoinToken(token),
        join(2)?,
        join(3)?,
        RegionCommand::SetNodeHealth { id: NodeId::new(3), health: NodeHealth::Down { since_ms: 5 } },
        RegionCommand::TakeControl { node: NodeId::new(1) },
        RegionCommand::Controlled { epoch: 1, command: Box::new(duty) },
        RegionCommand::RemoveNode { id: NodeId::new(3), reason: "wiped".into() },
    ])
}

fn sealed() -> Vec<Vec<u8>> {
    let history = history().unwrap_or_default();
    let seal_one = |(index, command)| seal(RequestId(index as u64, 1), index as u64, codec::encode(&command));
    history.into_iter().enumerate().map(seal_one).collect()
}

/// Rows as a snapshot has them: the length of the key, the key, the value.
fn rows() -> Result<Vec<Vec<u8>>> {
    let mut machine: Machine<RegionState> = Machine::new(Replica::new());
    let mut seeds = Vec::new();
    for command in sealed() {
        let applied = machine.apply(&command).context("apply a well-formed command")?;
        for row in applied.rows {
            let key_len = u8::try_from(row.key.len()).context("a key of a row")?;
            seeds.push([&[key_len][..], &row.key, &row.value.unwrap_or_default()].concat());
        }
    }
    Ok(seeds)
}

fn load(input: &[u8]) -> Result<(), String> {
    let Some((key_len, rest)) = input.split_first() else { return Ok(()) };
    let (key, value) = rest.split_at(usize::from(*key_len).min(rest.len()));
    let row = || [(key.to_vec(), value.to_vec())];
    let mut region: Machine<RegionState> = Machine::new(Replica::new());
    if region.load(row()).is_ok() {
        // What was taken has to bear the next command.
        sealed().iter().for_each(|command| drop(region.apply(command)));
    }
    let mut global: Machine<GlobalState> = Machine::new(Replica::new());
    drop(global.load(row()));
    Ok(())
}

fn commands() -> Vec<Vec<u8>> {
    sealed()
}

fn apply(input: &[u8]) -> Result<(), String> {
    let mut region: Machine<RegionState> = Machine::new(Replica::new());
    for command in sealed().iter().take(6) {
        region.apply(command).map_err(|error| error.to_string())?;
    }
    let before = region.revision();
    if region.apply(input).is_err() && region.revision() != before {
        return Err("a refused command has changed something".to_owned());
    }
    let mut global: Machine<GlobalState> = Machine::new(Replica::new());
    drop(global.apply(input));
    Ok(())
}

fn tokens() -> Reader {
    let rng = Rng::from_seed(1);
    let mut seeds = vec![ApiToken::new(&rng).reveal().into_bytes()];
    if let Ok(authority) = RootAuthority::create(ClusterId::new(1), &Lifetimes::default(), SystemTime::UNIX_EPOCH)
        && let (Ok(region), Ok(four), Ok(six)) = ("fra".parse(), "192.0.2.1:7443".parse(), "[2001:db8::1]:1".parse())
        && let Ok(token) = JoinToken::new(region, ClusterId::new(1), authority.hash(), vec![four, six], &rng)
    {
        seeds.push(token.reveal().into_bytes());
    }
    Reader::new(seeds, |input| {
        let text = text(input);
        drop(ApiToken::parse(&text));
        match JoinToken::parse(&text) {
            Ok(token)
                if JoinToken::parse(&token.reveal()).ok().as_ref().map(JoinToken::secret_hash)
                    != Some(token.secret_hash()) =>
            {
                Err("a token does not survive its own writing".to_owned())
            }
            _ => Ok(()),
        }
    })
}

fn names() -> Reader {
    let seeds = ["node/n-7f3a9c20b1d4e865", "ca"];
    let cluster = ClusterId::new(1);
    let mut seeds: Vec<Vec<u8>> =
        seeds.iter().map(|rest| format!("spiffe://{cluster}/region/fra/{rest}").into_bytes()).collect();
    if let Ok(region) = "fra".parse() {
        seeds.push(NodeIdentity { cluster, region, node: NodeId::new(7) }.to_string().into_bytes());
    }
    Reader::new(seeds, |input| {
        let text = text(input);
        if let Ok(name) = text.parse::<NodeIdentity>()
            && name.to_string() != text
        {
            return Err(format!("{text:?} is read as {name}"));
        }
        match text.parse::<RegionCaIdentity>() {
            Ok(name) if name.to_string() != text => Err(format!("{text:?} is read as {name}")),
            _ => Ok(()),
        }
    })
}

/// An authority, a key, and its certificate and its issuer's.
fn issued() -> Result<(RegionAuthority, RootAuthority, NodeKey, Vec<CertificateDer<'static>>)> {
    let (lifetimes, now) = (Lifetimes::default(), Clock::real().wall());
    let root = RootAuthority::create(ClusterId::new(1), &lifetimes, now)?;
    let region = root.issue_region(&"fra".parse()?, &lifetimes, now)?;
    let key = NodeKey::generate(&Rng::from_os())?;
    let chain = region.issue_node(&key.request()?, key.id(), &["192.0.2.1".parse()?], &lifetimes, now)?;
    Ok((region, root, key, chain))
}

fn certificates() -> Result<Reader> {
    let (_, root, key, chain) = issued()?;
    let seeds = chain.iter().chain([root.certificate()]).map(|certificate| certificate.to_vec()).collect();
    let mut credentials = Credentials { key, chain: chain.clone(), roots: vec![root.certificate().clone()] };
    let read = move |input: &[u8]| {
        for place in 0..chain.len() {
            credentials.chain.clone_from(&chain);
            credentials.chain[place] = CertificateDer::from(input.to_vec());
            if let Ok(material) = Material::new(&credentials, Clock::real(), Arc::new(AllowAll)) {
                drop((material.identity(), material.expires(), material.renew_at()));
            }
        }
        Ok(())
    };
    Ok(Reader::new(seeds, read))
}

fn requests() -> Result<Reader> {
    let (region, _, key, _) = issued()?;
    let seeds = vec![key.request()?];
    let id = key.id();
    let read = move |input: &[u8]| {
        drop(region.issue_node(input, id, &[], &Lifetimes::default(), Clock::real().wall()));
        Ok(())
    };
    Ok(Reader::new(seeds, read))
}

fn catalogs() -> Result<Vec<Vec<u8>>> {
    let mut state = RegionState::default();
    let mut machine: Machine<RegionState> = Machine::new(Replica::new());
    let mut seeds = vec![codec::encode(&Catalog::empty(ClusterId::new(1), "fra".parse()?, NodeId::new(1)))];
    for command in sealed() {
        let applied = machine.apply(&command).context("apply a well-formed command")?;
        drop(applied);
    }
    state.meta = Some(RegionMeta { cluster: ClusterId::new(1), region: "fra".parse()?, incarnation: Incarnation(1) });
    for id in 1..=3 {
        use insula_state::region::{RegionKey, RegionObject};
        let node = node(id)?;
        state.absorb(Revision(id), RegionKey::Node(node.id), Some(RegionObject::Node(node)));
    }
    seeds.extend(Catalog::derive(&state, Revision(4), NodeId::new(1)).map(|catalog| codec::encode(&catalog)));
    Ok(seeds)
}

fn read_catalog(input: &[u8]) -> Result<(), String> {
    // Reading from memory never waits.
    let mut framed = [&(input.len() as u32).to_be_bytes()[..], input].concat();
    for bytes in [input, framed.as_mut_slice()] {
        let mut stream: &[u8] = bytes;
        let Some(Ok(catalog)) = frame::read::<Catalog>(&mut stream, 1 << 20).now_or_never() else { continue };
        if catalog.check().is_ok() {
            let nodes: BTreeSet<NodeId> = catalog.peers_in_use();
            if nodes.contains(&catalog.own) {
                return Err("a node is its own peer".to_owned());
            }
        }
        if codec::decode::<Catalog>(&codec::encode(&catalog)).ok().as_ref() != Some(&catalog) {
            return Err("a catalog does not survive its own writing".to_owned());
        }
    }
    Ok(())
}

/// A backup of a region, and one of two states.
fn backups() -> Result<Vec<Vec<u8>>> {
    let replica: Arc<Replica<RegionState>> = Replica::new();
    let mut machine = Machine::new(Arc::clone(&replica));
    for command in sealed() {
        machine.apply(&command).context("apply a well-formed command")?;
    }
    let about = |state: &str| -> Result<About> {
        Ok(About {
            state: state.to_owned(),
            cluster: ClusterId::new(1),
            region: "fra".parse()?,
            incarnation: Incarnation(1),
            revision: machine.revision(),
            is_confirmed: true,
            version: "1".to_owned(),
            taken_ms: 1,
        })
    };
    let objects = replica.read(Domain::objects);
    let region =
        archive::Writer::<RegionState>::new(&about(RegionState::NAME)?, objects).flatten().collect::<Vec<u8>>();
    let global = archive::Writer::<GlobalState>::new(&about(GlobalState::NAME)?, Vec::new()).flatten();
    Ok(vec![region.clone(), region.into_iter().chain(global).collect()])
}

fn restore(input: &[u8]) -> Result<(), String> {
    let mut reader = archive::Reader::new(input);
    while let Ok(Some(archive)) = reader.next_archive() {
        let (life, after) = (Incarnation(2), Revision(9));
        if let Ok(objects) = archive.objects::<RegionState>() {
            let (_, rows) = objects.into_rows(life, after, 1);
            let mut machine: Machine<RegionState> = Machine::new(Replica::new());
            let rows = rows.into_iter().filter_map(|row| Some((row.key, row.value?)));
            machine.load(rows).map_err(|error| format!("what was restored cannot be loaded: {error}"))?;
            sealed().iter().for_each(|command| drop(machine.apply(command)));
        }
        drop(archive.objects::<GlobalState>());
    }
    Ok(())
}

/// What goes to a command, and what comes from it.
fn sessions() -> Result<Vec<Vec<u8>>> {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let signal = SignalNumber::try_from(15).map_err(anyhow::Error::msg)?;
    let size = WindowSize { rows: 24, columns: 80 };
    for frame in [ExecInput::Data(b"ls\n".to_vec()), ExecInput::Resize(size), ExecInput::Signal(signal), ExecInput::End]
    {
        exec_frame::encode(&frame, &mut input);
    }
    exec_frame::encode_alive(&mut input);
    for frame in [
        ExecOutput::Started,
        ExecOutput::Stdout(b"file\n".to_vec()),
        ExecOutput::Stderr(b"no".to_vec()),
        ExecOutput::Failed("why".to_owned()),
        ExecOutput::Exit(ExecExit::Signal(9)),
        ExecOutput::Exit(ExecExit::Code(1)),
    ] {
        exec_frame::encode(&frame, &mut output);
    }
    Ok(vec![input.to_vec(), output.to_vec()])
}

fn read_session(input: &[u8]) -> Result<(), String> {
    read_frames::<ExecInput>(input)?;
    read_frames::<ExecOutput>(input)
}

/// What reads must read the same after it is written again.
fn read_frames<F: exec_frame::Frame + PartialEq + std::fmt::Debug>(input: &[u8]) -> Result<(), String> {
    let mut buffer = BytesMut::from(input);
    while let Ok(Some(frame)) = exec_frame::decode::<F>(&mut buffer) {
        let mut again = BytesMut::new();
        exec_frame::encode(&frame, &mut again);
        match exec_frame::decode::<F>(&mut again) {
            Ok(Some(read)) if read == frame && again.is_empty() => {}
            other => return Err(format!("{frame:?} is read as {other:?}")),
        }
    }
    Ok(())
}
