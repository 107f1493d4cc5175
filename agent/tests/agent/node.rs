//! One agent as a process of its own, and what a test wants of it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nebula_core::ids::{DeploymentId, ReplicaId};
use nebula_proto::agent_service_client::AgentServiceClient;
use nebula_proto::{AgentDeploymentStatus, GetDeploymentRequest, StartRuntimeRequest};
use rustix::process::{Pid, Signal};
use tonic::transport::Channel;

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Looks again and again until there is something, for as long as patience lasts.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A data directory that outlives agents. What still runs of its replicas is killed at the end.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.data().join("replicas")).into_iter().flatten().flatten() {
            for pid in processes_of(&entry.file_name().to_string_lossy()) {
                signal(pid, Signal::KILL);
            }
        }
    }
}

/// The processes that belong to a replica.
pub(crate) fn processes_of(replica: &str) -> Vec<u32> {
    let mark = format!("NEBULA_REPLICA={replica}");
    let carries = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|pair| pair == mark.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(carries).collect()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process number");
    let _ = rustix::process::kill_process(pid, signal);
}

/// A command for the program under test, without what the test's own environment would change.
pub(crate) fn program(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nebula-agent"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NEBULA") {
            command.env_remove(name);
        }
    }
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// An agent that has said that it is ready.
pub(crate) struct Node {
    process: Child,
    pub(crate) grpc: SocketAddr,
    pub(crate) proxy: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) api: AgentServiceClient<Channel>,
}

impl Node {
    /// Starts an agent in `home` that speaks to the nebulad at `control_plane`.
    pub(crate) async fn start(home: &Home, control_plane: SocketAddr, more: &[&str]) -> Self {
        let (data, control_plane) = (home.data().display().to_string(), control_plane.to_string());
        let ports = ["--grpc-port", "0", "--proxy-port", "0", "--metrics-port", "0"];
        let where_ = ["--data-dir", &data, "--control-plane", &control_plane, "--log-format", "json"];
        // Tests that run at the same time must not look at the same ports.
        let first = 20_000 + (std::process::id() % 1_000) * 10;
        let range = format!("{first}-{}", first + 9);
        let words = [&ports[..], &where_, &["--port-range", &range], more].concat();
        let mut process = program(&words).spawn().expect("the agent starts");
        let lines = BufReader::new(process.stderr.take().expect("its log"));
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                eprintln!("{line}");
                let fields: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if fields["msg"] == "nebula-agent is ready" {
                    let _ = sender.send(fields);
                }
            }
        });
        let ready = tokio::task::spawn_blocking(move || ready.recv_timeout(PATIENCE)).await;
        let fields = ready.expect("no panic").expect("it gets ready");
        let addr = |name: &str| fields[name].as_str().and_then(|text| text.parse().ok()).expect(name);
        let (grpc, proxy, metrics) = (addr("grpc_addr"), addr("proxy_addr"), addr("metrics_addr"));
        let api = AgentServiceClient::connect(format!("http://{grpc}")).await.expect("it answers");
        Self { process, grpc, proxy, metrics, api }
    }

    /// Tells it to stop and waits until it has.
    pub(crate) async fn stop(self) -> ExitStatus {
        self.stop_with(Signal::TERM).await
    }

    /// The same with another signal.
    pub(crate) async fn stop_with(mut self, by: Signal) -> ExitStatus {
        signal(self.process.id(), by);
        until("the agent stops", async || self.process.try_wait().expect("it can be waited for")).await
    }

    /// Kills it as a crash would.
    pub(crate) async fn crash(mut self) {
        self.process.kill().expect("it can be killed");
        until("the agent is gone", async || self.process.try_wait().expect("it can be waited for")).await;
    }

    /// What it says of a deployment.
    pub(crate) async fn deployment(&self, deployment: &str) -> Option<AgentDeploymentStatus> {
        let request = GetDeploymentRequest { deployment_id: deployment.to_owned() };
        self.api.clone().get_deployment(request).await.ok()?.into_inner().deployment
    }

    /// Waits until a deployment is in a state.
    pub(crate) async fn until(&self, deployment: &str, status: &str) -> AgentDeploymentStatus {
        until(&format!("{deployment} is {status}"), async || {
            self.deployment(deployment).await.filter(|found| found.status == status)
        })
        .await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already gone, or left behind by a test that failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request to start a simulated runtime, as the first generation.
pub(crate) fn sim(name: &str) -> StartRuntimeRequest {
    StartRuntimeRequest {
        deployment_id: DeploymentId::random().to_string(),
        replica_id: ReplicaId::random().to_string(),
        generation: 1,
        runtime: "sim".to_owned(),
        model: name.to_owned(),
        args: ["--ttft", "1ms", "--token-interval", "1ms", "--tokens", "5"].map(str::to_owned).into(),
        is_public: true,
        ..StartRuntimeRequest::default()
    }
}
