//! One simulated agent: registers, beats and retries as the real one does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nebula_core::clock::{Clock, wall_now};
use nebula_core::timing;
use nebula_proto::platform_service_client::PlatformServiceClient;
use nebula_proto::{
    AgentHealthStatus, AgentNodeStats, DeregisterRequest, GpuInfo, GpuStats, HeartbeatRequest,
    NodeCapabilities, RegisterRequest,
};
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::chance::Chance;
use super::figures::{Call, Figures, Standing};
use super::links::Links;
use super::node::Node;

/// Memory of one GPU and of a node's host.
const GPU_BYTES: i64 = 80 * 1024 * 1024 * 1024;
const HOST_BYTES: i64 = 1024 * 1024 * 1024 * 1024;
const DISK_BYTES: i64 = 2 * 1024 * 1024 * 1024 * 1024;

/// What all agents share.
pub(crate) struct Fleet {
    pub(crate) clock: Clock,
    pub(crate) figures: Figures,
    pub(crate) links: Links,
    pub(crate) gpus: u32,
    pub(crate) cores: u32,
    /// None: as the control plane says.
    pub(crate) interval: Option<Duration>,
    pub(crate) first_interval: Duration,
    pub(crate) jitter: f64,
    pub(crate) deregister: bool,
    /// None: the default one.
    pub(crate) proxy_port: Option<u16>,
}

/// What an agent and its gRPC endpoint share.
pub(crate) struct Shared {
    pub(crate) name: String,
    node: Mutex<Node>,
    /// Something changed that the control plane should hear of at once.
    pub(crate) changed: Notify,
}

impl Shared {
    pub(crate) fn new(name: String, start_delay: Duration) -> Self {
        Self { name, node: Mutex::new(Node::new(start_delay)), changed: Notify::new() }
    }

    pub(crate) fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the replicas and counts those that run.
    pub(crate) fn change<T>(&self, figures: &Figures, change: impl FnOnce(&mut Node) -> T) -> T {
        let mut node = self.node();
        let was = node.running();
        let answer = change(&mut node);
        let is = node.running();
        drop(node);
        if was != is {
            figures.running(was, is);
        }
        answer
    }
}

/// One agent.
pub(crate) struct Agent {
    number: usize,
    fleet: Arc<Fleet>,
    shared: Arc<Shared>,
    /// Where the control plane calls back.
    address: String,
    boot_id: String,
    chance: Chance,
    interval: Duration,
    standing: Standing,
    ever_registered: bool,
    /// A registration that no good heartbeat has followed yet.
    unproven: bool,
    failures: u32,
}

/// When to speak next.
struct Next {
    after: Duration,
    /// Or earlier, when something changes.
    or_change: bool,
}

impl Next {
    fn after(after: Duration) -> Self {
        Self { after, or_change: false }
    }
}

impl Agent {
    pub(crate) fn new(
        number: usize,
        fleet: Arc<Fleet>,
        shared: Arc<Shared>,
        address: String,
        chance: Chance,
    ) -> Self {
        Self {
            number,
            interval: fleet.first_interval,
            fleet,
            shared,
            address,
            boot_id: uuid::Uuid::new_v4().to_string(),
            chance,
            standing: Standing::default(),
            ever_registered: false,
            unproven: false,
            failures: 0,
        }
    }

    /// Lives until `stop` says so.
    pub(crate) async fn run(mut self, start_after: Duration, mut stop: watch::Receiver<bool>) {
        let living = async {
            tokio::time::sleep(start_after).await;
            loop {
                let next = self.speak().await;
                self.wait(next).await;
            }
        };
        tokio::select! {
            () = living => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        if self.fleet.deregister && self.standing.registered {
            self.deregister().await;
        }
    }

    async fn wait(&self, next: Next) {
        let clock = self.fleet.clock;
        let until = clock.now().plus(next.after);
        if next.or_change {
            tokio::time::sleep(timing::HEARTBEAT_GAP_MIN.min(next.after)).await;
        }
        loop {
            let now = clock.now();
            if self.shared.change(&self.fleet.figures, |node| node.pass(now)) && next.or_change {
                return;
            }
            if now >= until {
                return;
            }
            let change = self.shared.node().next_change().map_or(until, |at| at.min(until));
            tokio::select! {
                () = tokio::time::sleep(change.since(now)) => {}
                () = self.shared.changed.notified(), if next.or_change => return,
            }
        }
    }

    async fn speak(&mut self) -> Next {
        let begun = self.fleet.clock.now();
        let (call, result) = if self.standing.registered {
            (Call::Heartbeat, self.beat().await)
        } else {
            (Call::Register, self.register().await)
        };
        match result {
            Ok(next) => next,
            Err(error) => self.failed(call, &error, self.fleet.clock.now().since(begun)),
        }
    }

    fn failed(&mut self, call: Call, error: &Status, spent: Duration) -> Next {
        self.fleet.figures.failed(call, format!("{:?}: {}", error.code(), error.message()));
        self.stand(Standing { online: false, ..self.standing });
        if self.standing.registered && error.code() == Code::NotFound {
            self.stand(Standing::default());
            if !std::mem::replace(&mut self.unproven, true) {
                return Next::after(Duration::ZERO);
            }
        }
        self.retry(spent)
    }

    fn retry(&mut self, spent: Duration) -> Next {
        self.failures = self.failures.saturating_add(1);
        Next::after(timing::retry(self.interval, self.failures, spent, self.chance.next()))
    }

    /// Makes a call over the shared connection, within the time that a call has.
    async fn call<T, F>(
        &self,
        what: Option<Call>,
        make: impl FnOnce(PlatformServiceClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let link = self.fleet.links.of(self.number).ok_or_else(|| Status::internal("no connection"))?;
        if let Some(what) = what {
            self.fleet.figures.sent(what);
        }
        let clock = self.fleet.clock;
        let begun = clock.elapsed();
        let answer = match tokio::time::timeout(timing::CALL_DEADLINE, make(link.client.clone())).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        match (&answer, what) {
            (Ok(_), Some(what)) => self.fleet.figures.acked(what, clock.elapsed().saturating_sub(begun)),
            (Ok(_), None) => {}
            (Err(_), _) => self.fleet.links.failed(self.number, &link),
        }
        answer
    }

    async fn register(&mut self) -> Result<Next, Status> {
        let request = RegisterRequest {
            node_id: self.shared.name.clone(),
            node_name: self.shared.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_address: self.address.clone(),
            capabilities: Some(self.capabilities()),
            deployments: self.shared.node().report(),
            boot_id: self.boot_id.clone(),
            proxy_port: self.fleet.proxy_port.map_or(0, i32::from),
            ..RegisterRequest::default()
        };
        let answer = self
            .call(Some(Call::Register), |mut client| async move { client.register(request).await })
            .await?;
        if !answer.success {
            return Err(Status::failed_precondition(answer.error));
        }
        self.take_interval(answer.heartbeat_interval_seconds);
        self.stand(Standing { registered: true, ..self.standing });
        // The first heartbeat follows at once, as the real agent's does.
        Ok(Next::after(Duration::ZERO))
    }

    async fn beat(&mut self) -> Result<Next, Status> {
        let (deployments, acked_command_ids) = {
            let node = self.shared.node();
            (node.report(), node.acks())
        };
        let acked = acked_command_ids.len();
        let request = HeartbeatRequest {
            node_id: self.shared.name.clone(),
            stats: Some(self.stats()),
            health: Some(AgentHealthStatus {
                status: "healthy".to_owned(),
                issues: Vec::new(),
                uptime_seconds: i64::try_from(self.fleet.clock.now().0 / 1_000).unwrap_or(i64::MAX),
            }),
            deployments,
            timestamp: i64::try_from(wall_now().unix_secs()).unwrap_or(i64::MAX),
            acked_command_ids,
            boot_id: self.boot_id.clone(),
        };
        let answer = self
            .call(Some(Call::Heartbeat), |mut client| async move { client.heartbeat(request).await })
            .await?;
        self.take_interval(answer.config.map_or(0, |config| config.heartbeat_interval_seconds));
        let now = self.fleet.clock.now();
        let more = self.shared.change(&self.fleet.figures, |node| {
            node.acknowledged(acked);
            for command in answer.commands {
                let done = node.obey(command, now);
                self.fleet.figures.command(done.word());
            }
            !node.acks().is_empty()
        });
        if answer.reregister {
            self.stand(Standing { registered: false, ..self.standing });
            if !std::mem::replace(&mut self.unproven, true) {
                return Ok(Next::after(Duration::ZERO));
            }
            return Ok(self.retry(timing::CALL_DEADLINE));
        }
        self.unproven = false;
        self.failures = 0;
        self.stand(Standing { registered: true, online: true });
        if more {
            return Ok(Next::after(timing::HEARTBEAT_GAP_MIN));
        }
        let after = timing::scattered(self.interval, self.fleet.jitter, self.chance.next());
        Ok(Next { after, or_change: true })
    }

    async fn deregister(&self) {
        let request = DeregisterRequest {
            node_id: self.shared.name.clone(),
            reason: "the simulation ended".to_owned(),
        };
        // It is over: whoever did not hear it sees the silence.
        let _ = self.call(None, |mut client| async move { client.deregister(request).await }).await;
    }

    fn take_interval(&mut self, asked_seconds: i32) {
        let asked = timing::asked_interval(asked_seconds);
        self.interval = self.fleet.interval.or(asked).unwrap_or(self.interval);
    }

    fn stand(&mut self, is: Standing) {
        let was = std::mem::replace(&mut self.standing, is);
        if was == is {
            return;
        }
        let first = is.registered && !self.ever_registered;
        self.ever_registered |= is.registered;
        self.fleet.figures.standing(was, is, first, self.interval);
    }

    fn gpu_uuid(&self, index: u32) -> String {
        format!("GPU-{:08x}-{index:04x}", self.number)
    }

    fn capabilities(&self) -> NodeCapabilities {
        let gpu = |index: u32| GpuInfo {
            uuid: self.gpu_uuid(index),
            name: "Simulated GPU".to_owned(),
            memory_bytes: GPU_BYTES,
            index: index as i32,
            ..GpuInfo::default()
        };
        NodeCapabilities {
            gpus: (0..self.fleet.gpus).map(gpu).collect(),
            total_memory_bytes: HOST_BYTES,
            available_memory_bytes: HOST_BYTES,
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            cpu_cores: self.fleet.cores as i32,
            ..NodeCapabilities::default()
        }
    }

    fn stats(&self) -> AgentNodeStats {
        let busy = self.shared.node().running() as f32;
        let gpu = |index: u32| GpuStats {
            uuid: self.gpu_uuid(index),
            name: "Simulated GPU".to_owned(),
            utilization_percent: (busy * 10.0).min(100.0),
            memory_total_bytes: GPU_BYTES,
            ..GpuStats::default()
        };
        AgentNodeStats {
            cpu_usage_percent: busy.min(100.0),
            memory_used_bytes: HOST_BYTES / 10,
            memory_total_bytes: HOST_BYTES,
            gpu_stats: (0..self.fleet.gpus).map(gpu).collect(),
            disk_free_bytes: Some(DISK_BYTES / 2),
            disk_total_bytes: Some(DISK_BYTES),
            models: Vec::new(),
        }
    }
}
