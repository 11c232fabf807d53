//! Sessions of commands, over both listeners.

use std::{sync::atomic::Ordering, time::Duration};

use insula_api::{Client, ClientError, Code, ExecSession, Role};
use insula_env::clock;
use insula_types::{ExecExit, ExecInput, ExecOutput, ExecSpec, InstanceId, ServiceRef, WindowSize};

use crate::fake::{Fake, World};

/// Longer than it takes to notice that a token has ended.
const DEADLINE: Duration = Duration::from_secs(20);

fn spec(program: &str) -> ExecSpec {
    ExecSpec { command: vec![program.to_owned()], terminal: None, has_input: true }
}

async fn begin(client: &Client) -> ExecSession {
    client.exec(InstanceId::new(7), &spec("echo")).await.expect("it runs")
}

async fn next(session: &mut ExecSession) -> Option<ExecOutput> {
    clock::timeout(DEADLINE, session.output.recv()).await.expect("in time")
}

fn refusal(result: Result<ExecSession, ClientError>) -> Code {
    match result {
        Err(ClientError::Problem(problem)) => problem.code,
        other => panic!("expected a problem, found {other:?}"),
    }
}

async fn ended(world: &World, count: usize) {
    let all = async {
        while world.fake.ended_execs.load(Ordering::SeqCst) < count {
            clock::sleep(Duration::from_millis(5)).await;
        }
    };
    clock::timeout(DEADLINE, all).await.expect("the command hears that its caller left");
}

#[tokio::test]
async fn a_session_goes_both_ways_and_ends_with_the_commands_end() {
    let world = World::start(Fake::default()).await;
    for client in [world.client("deployer-token"), world.local()] {
        let mut session = begin(&client).await;
        let sent: Vec<u8> = (0..3_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let input = session.input.clone();
        let all = async {
            for piece in sent.chunks(60_000) {
                input.send(ExecInput::Data(piece.to_vec())).await.expect("taken");
            }
            input.send(ExecInput::Resize(WindowSize { rows: 1, columns: 2 })).await.expect("taken");
            input.send(ExecInput::End).await.expect("taken");
            // Nobody hears it any more; it must not cost the command's last words.
            input.send(ExecInput::Data(vec![0; 60_000])).await.ok();
        };
        let mut came = Vec::new();
        let read = async {
            while let Some(output) = next(&mut session).await {
                match output {
                    ExecOutput::Stdout(data) => came.extend(data),
                    ExecOutput::Stderr(text) => assert_eq!(text, b"Resize(WindowSize { rows: 1, columns: 2 })"),
                    ExecOutput::Exit(exit) => return Some(exit),
                    other => panic!("{other:?}"),
                }
            }
            None
        };
        let ((), exit) = tokio::join!(all, read);
        assert_eq!(exit, Some(ExecExit::Code(7)));
        assert!(came == sent, "{} bytes of {}", came.len(), sent.len());
        assert_eq!(next(&mut session).await, None);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_refusal_is_a_problem_and_nothing_is_begun() {
    let world = World::start(Fake::default()).await;
    let id = InstanceId::new(7);
    assert_eq!(refusal(world.client("viewer-token").exec(id, &spec("echo")).await), Code::Forbidden);
    assert_eq!(refusal(world.client("nobody").exec(id, &spec("echo")).await), Code::Unauthorized);
    assert_eq!(refusal(world.local().exec(id, &spec("other")).await), Code::Conflict);
    assert_eq!(refusal(world.local().exec(id, &spec("")).await), Code::InvalidRequest);
    let plain = world.raw("POST /v1/instances/i-00000007/exec", r#"{"command":["echo"]}"#).await;
    assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("Upgrade: insula-exec/1"), "{plain}");
    world.stop().await;
}

fn shop() -> ServiceRef {
    ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"))
}

#[tokio::test]
async fn an_instance_of_its_own_is_for_deployers_and_says_whether_it_came_to_be() {
    let world = World::start(Fake::default()).await;
    let shop = shop();
    assert_eq!(refusal(world.client("viewer-token").run(&shop, &spec("echo")).await), Code::Forbidden);
    assert_eq!(refusal(world.client("nobody").run(&shop, &spec("echo")).await), Code::Unauthorized);
    assert_eq!(refusal(world.local().run(&shop, &spec("")).await), Code::InvalidRequest);
    let other = ServiceRef { service: "db".parse().expect("a name"), ..shop.clone() };
    assert_eq!(refusal(world.client("deployer-token").run(&other, &spec("echo")).await), Code::NoSuchService);
    let plain = world.raw("POST /v1/apps/shop/services/web/run", r#"{"command":["echo"]}"#).await;
    assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("Upgrade: insula-exec/1"), "{plain}");

    for client in [world.client("deployer-token"), world.local()] {
        let mut session = client.run(&shop, &spec("echo")).await.expect("it is begun");
        assert_eq!(next(&mut session).await, Some(ExecOutput::Started));
        assert_eq!(next(&mut session).await, Some(ExecOutput::Exit(ExecExit::Code(7))));
        let mut session = client.run(&shop, &spec("fail")).await.expect("it is begun");
        assert_eq!(next(&mut session).await, Some(ExecOutput::Failed("no image".to_owned())));
    }
    ended(&world, 4).await;
    // Who leaves while it is made is missed as well.
    drop(world.local().run(&shop, &spec("wait")).await.expect("it is begun"));
    ended(&world, 5).await;
    world.stop().await;
}

#[tokio::test]
async fn a_command_hears_when_its_caller_leaves_and_the_caller_when_its_token_ends() {
    let world = World::start(Fake::default()).await;
    drop(begin(&world.local()).await);
    ended(&world, 1).await;
    let mut session = begin(&world.client("deployer-token")).await;
    let token = world.token("deployer-token").to_owned();
    world.fake.tokens.lock().insert(token, Role::Viewer);
    let Some(ExecOutput::Failed(why)) = next(&mut session).await else { panic!("it goes on") };
    assert!(why.contains("token"), "{why}");
    assert_eq!(next(&mut session).await, None);
    ended(&world, 2).await;
    world.stop().await;
}
