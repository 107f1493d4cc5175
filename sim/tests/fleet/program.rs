//! What the fleet does and says.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use nebula_proto::agent_service_client::AgentServiceClient;
use nebula_proto::{PlatformCommand, StartRuntimeRequest, StopRuntimeRequest};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::platform::{Heard, Platform};

/// How long anything may take here.
const LONG: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

fn fleet(control_plane: SocketAddr, flags: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nebula-sim"));
    command.args(["fleet", "--control-plane", &control_plane.to_string(), "--ramp", "0"]);
    command.args(flags.split_whitespace()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program")
}

async fn until(what: &str, platform: &Platform, look: impl Fn(&Heard) -> bool) {
    let looking = async {
        while !look(&platform.heard()) {
            sleep(LOOK).await;
        }
    };
    timeout(LONG, looking).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

async fn signal(child: &Child, signal: &str) {
    let pid = child.id().expect("a process").to_string();
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await;
    assert!(sent.expect("kill").success());
}

/// How it ended, its lines, and what it said on stderr.
async fn ended(mut child: Child) -> (Option<i32>, Vec<Value>, String) {
    let (mut out, mut said) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (child.stdout.take().expect("out"), child.stderr.take().expect("err"));
    let reading = async {
        stdout.read_to_string(&mut out).await.expect("text");
        stderr.read_to_string(&mut said).await.expect("text");
        child.wait().await.expect("a status").code()
    };
    let code = timeout(LONG, reading).await.expect("it ends");
    (code, out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(), said)
}

fn command(id: &str, kind: &str, generation: u64) -> PlatformCommand {
    PlatformCommand {
        id: id.to_owned(),
        r#type: kind.to_owned(),
        target_id: "d".to_owned(),
        replica_id: "r".to_owned(),
        generation,
        ..PlatformCommand::default()
    }
}

fn status_of(heard: &Heard, node: &str) -> Vec<String> {
    let beat = heard.heartbeats.get(node);
    beat.map(|beat| beat.deployments.iter().map(|one| one.status.clone()).collect()).unwrap_or_default()
}

#[tokio::test]
async fn agents_register_beat_and_end_in_order() {
    let (platform, address) = Platform::start().await;
    let child = fleet(
        address,
        "--nodes 30 --gpus 2 --agents-per-connection 7 --proxy-port 7777 --deregister --every-second",
    );
    until("each has reported twice", &platform, |heard| heard.beats >= 90 && heard.heartbeats.len() == 30)
        .await;
    signal(&child, "INT").await;
    let (code, lines, said) = ended(child).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let heard = platform.heard();
    assert_eq!((heard.registered.len(), heard.registrations, heard.deregistered.len()), (30, 30, 30));
    let one = &heard.registered["sim-00007"];
    assert_eq!(one.proxy_port, 7777);
    assert_eq!(one.capabilities.as_ref().map(|capabilities| capabilities.gpus.len()), Some(2));
    let addresses: std::collections::BTreeSet<&String> =
        heard.registered.values().map(|one| &one.agent_address).collect();
    assert_eq!(addresses.len(), 30, "each has a port of its own");
    assert!(lines.iter().any(|line| line["kind"] == "second"));
    let last = lines.last().expect("a line");
    assert_eq!(
        (&last["kind"], &last["registered"], &last["online"]),
        (&"final".into(), &30.into(), &30.into())
    );
    assert_eq!(last["heartbeats"]["failed"], 0);
    assert!(last["latency_ms"]["p99"].as_f64() > Some(0.0));
}

#[tokio::test]
async fn commands_of_a_heartbeat_are_carried_out_once_and_acknowledged() {
    let (platform, address) = Platform::start().await;
    let commands = vec![command("c1", "start", 1), command("c1", "start", 1)];
    platform.heard().commands.insert("sim-00000".to_owned(), commands);
    let child = fleet(address, "--nodes 2 --start-delay 100ms");
    until("the replica runs", &platform, |heard| status_of(heard, "sim-00000") == ["running"]).await;
    until("it is acknowledged", &platform, |heard| heard.acked == ["c1"]).await;
    assert_eq!(status_of(&platform.heard(), "sim-00001"), Vec::<String>::new());
    platform.heard().commands.insert("sim-00000".to_owned(), vec![command("c2", "delete", 2)]);
    until("it is gone", &platform, |heard| {
        heard.acked.len() == 2 && status_of(heard, "sim-00000").is_empty()
    })
    .await;
    signal(&child, "TERM").await;
    let (code, lines, _) = ended(child).await;
    assert_eq!(code, Some(0));
    let last = &lines.last().expect("a line")["commands"];
    assert_eq!((&last["start"], &last["repeated"], &last["delete"]), (&1.into(), &1.into(), &1.into()));
}

#[tokio::test]
async fn each_agent_takes_calls_on_a_port_of_its_own() {
    let (platform, address) = Platform::start().await;
    let child = fleet(address, "--nodes 3 --start-delay 50ms");
    until("all are there", &platform, |heard| heard.registered.len() == 3).await;
    let of_second = platform.heard().registered["sim-00001"].agent_address.clone();
    let mut client = AgentServiceClient::connect(format!("http://{of_second}")).await.expect("a connection");
    let (deployment_id, replica_id) = ("d".to_owned(), "r".to_owned());
    let start = StartRuntimeRequest {
        deployment_id: deployment_id.clone(),
        replica_id: replica_id.clone(),
        generation: 4,
        ..StartRuntimeRequest::default()
    };
    assert!(client.start_runtime(start.clone()).await.expect("taken").into_inner().success);
    client.start_runtime(start).await.expect("the same again is no error");
    until("it runs", &platform, |heard| status_of(heard, "sim-00001") == ["running"]).await;
    assert_eq!(status_of(&platform.heard(), "sim-00000"), Vec::<String>::new());
    let stop = |generation| StopRuntimeRequest {
        deployment_id: deployment_id.clone(),
        replica_id: replica_id.clone(),
        generation,
        ..StopRuntimeRequest::default()
    };
    let stale = client.stop_runtime(stop(3)).await.expect_err("an older generation");
    assert_eq!(stale.code(), tonic::Code::FailedPrecondition);
    client.stop_runtime(stop(5)).await.expect("taken");
    until("it is stopped", &platform, |heard| status_of(heard, "sim-00001") == ["stopped"]).await;
    drop(child);
}

#[tokio::test]
async fn an_agent_that_is_forgotten_registers_again() {
    let (platform, address) = Platform::start().await;
    let child = fleet(address, "--nodes 4");
    until("all report", &platform, |heard| heard.heartbeats.len() == 4).await;
    platform.heard().forgotten = 2;
    until("two register again", &platform, |heard| heard.registrations == 6).await;
    let beats = platform.heard().beats;
    until("all go on", &platform, |heard| heard.beats > beats + 8).await;
    drop(child);
}

#[tokio::test]
async fn without_a_control_plane_it_says_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let nobody = nobody.expect("an address");
    let (code, lines, said) = ended(fleet(nobody, "--nodes 2 --duration 1s")).await;
    assert_eq!(code, Some(69));
    assert!(said.contains(&format!("no agent could register with {nobody}")), "{said}");
    assert!(said.contains("hint: start nebulad"), "{said}");
    assert_eq!(lines.last().expect("a line")["registered"], 0);
}
