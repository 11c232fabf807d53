//! Joining by token over the port.

mod common;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use common::World;
use insula_env::{Beat, Clock, Env, net};
use insula_identity::{AllowAll, Credentials, JoinToken, Lifetimes, Material, NodeKey};
use insula_rpc::{
    Code, Dispatcher, HandedReceiver, JoinError, JoinHandler, JoinRequest, JoinResponse, PortServer, Settings, Status,
    join_client,
};
use insula_types::{Capacity, ClusterId};
use serde_bytes::ByteBuf;

struct Desk {
    world: Arc<World>,
    secret_hash: String,
}

#[async_trait]
impl JoinHandler for Desk {
    async fn join(&self, from: SocketAddr, request: JoinRequest) -> Result<JoinResponse, Status> {
        if !request.secret().is_some_and(|secret| secret.matches(&self.secret_hash)) {
            return Err(Status::permission_denied("the token is not known here"));
        }
        let world = &self.world;
        let chain = world
            .fra
            .issue_node(
                &request.certificate_request,
                request.node,
                &[request.advertise.ip()],
                &Lifetimes::default(),
                world.env.clock.wall(),
            )
            .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
        Ok(JoinResponse {
            chain: chain.iter().map(|der| ByteBuf::from(der.to_vec())).collect(),
            roots: vec![ByteBuf::from(world.root.certificate().to_vec())],
            region: "fra".parse().expect("name"),
            cluster: world.root.cluster().clone(),
            peers: vec![(request.node, from)],
            extra: vec![],
        })
    }
}

struct Region {
    world: Arc<World>,
    address: SocketAddr,
    token: JoinToken,
    _dir: tempfile::TempDir,
}

async fn region() -> Region {
    let world = Arc::new(World::new(1));
    let listener = net::bind(([127, 0, 0, 1], 0).into()).await.expect("bind");
    let address = listener.local_addr().expect("address");
    let token = JoinToken::new(
        "fra".parse().expect("name"),
        ClusterId::new(1),
        world.root.hash(),
        vec![address],
        &world.env.rng,
    )
    .expect("token");
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("port.sock");
    let env: Env = world.env.clone();
    Dispatcher::start(listener, &socket, &env).expect("dispatcher");
    let mut receiver = HandedReceiver::bind(&socket, &env).expect("receiver");
    let desk = Arc::new(Desk { world: Arc::clone(&world), secret_hash: token.secret_hash() });
    let (material, _) = world.material();
    let server = PortServer::new(material, Settings::default()).with_join(desk);
    let tasks = env.clone();
    env.tasks.spawn("port", async move { server.run(&mut receiver, &tasks, Beat::unwatched()).await });
    Region { world, address, token, _dir: dir }
}

fn request(token: &JoinToken, key: &NodeKey) -> JoinRequest {
    JoinRequest::new(
        token,
        key,
        "n1".parse().expect("name"),
        "fra1".parse().expect("name"),
        ([192, 0, 2, 1], 7443).into(),
        Capacity::default(),
    )
    .expect("request")
}

#[tokio::test]
async fn a_machine_joins_by_token_also_when_the_first_address_is_dead() {
    let region = region().await;
    let rng = insula_env::Rng::from_os();
    let key = NodeKey::generate(&rng).expect("key");
    let dead = net::bind(([127, 0, 0, 1], 0).into()).await.expect("bind");
    let mut token = region.token.clone();
    token.addresses.insert(0, dead.local_addr().expect("address"));
    drop(dead);
    let token = JoinToken::parse(&token.reveal()).expect("token");
    let response = join_client(&token, &request(&token, &key), &Clock::real()).await.expect("joined");
    let credentials = Credentials { key, chain: response.chain(), roots: response.roots() };
    let material = Material::new(&credentials, Clock::real(), Arc::new(AllowAll)).expect("material");
    assert_eq!(material.identity().region.as_str(), "fra");
    assert!(material.expires() > region.world.env.clock.wall() + Duration::from_secs(71 * 3600));
}

#[tokio::test]
async fn wrong_tokens_and_wrong_clusters_are_told_apart() {
    let region = region().await;
    let rng = insula_env::Rng::from_os();
    let key = NodeKey::generate(&rng).expect("key");
    let join =
        async |token: &JoinToken| join_client(token, &request(token, &key), &Clock::real()).await.expect_err("refused");
    let mut wrong = region.token.clone();
    wrong.secret = insula_identity::Secret::random(&rng);
    let error = join(&wrong).await;
    assert_eq!(error.to_string(), "the region refused: the token is not known here");

    let mut foreign = region.token.clone();
    foreign.root = World::new(2).root.hash();
    assert!(matches!(join(&foreign).await, JoinError::Unreachable(_)), "the secret is not sent to strangers");

    let mut elsewhere = region.token.clone();
    elsewhere.region = "was".parse().expect("name");
    let error = join(&elsewhere).await;
    assert!(matches!(error, JoinError::Mismatch(address) if address == region.address), "{error}");
}
