//! The agent's side of the conversation with nebulad: registers, then beats, and carries out what it is told.
//!
//! A failure is followed by a fresh connection and a growing, scattered wait, from the first one on
//! ([`nebula_core::timing`] says why these). A node that nebulad does not know, or not fully, is registered again at
//! once, and so is one that offers something else than it has told. A heartbeat that follows no wait: when a replica, a
//! GPU or the Docker Engine has changed, and when commands are to be acknowledged.

pub(crate) mod commands;
mod heard;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::clock::{Clock, wall_now};
use nebula_core::ids::NodeId;
use nebula_core::timing;
use nebula_core::token::Secret;
use nebula_proto::platform_service_client::PlatformServiceClient;
use nebula_proto::{
    DeregisterRequest, HeartbeatRequest, HeartbeatResponse, NodeCapabilities, PlatformConfig,
    RegisterRequest, RegisterResponse,
};
use tokio::sync::{Notify, watch};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use self::commands::Commands;
pub(crate) use self::heard::Heard;
use crate::agent::{Agent, Registration};
use crate::driver::docker::EngineStatus;
use crate::store;

/// Acknowledgements that may wait for the next heartbeat.
const ACKS_MAX: usize = 1_024;

/// What the registrar says of this node.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) control_plane: HostPort,
    /// None: nebulad assigns one.
    pub(crate) node_id: Option<NodeId>,
    pub(crate) node_name: String,
    /// Where nebulad calls back.
    pub(crate) address: HostPort,
    pub(crate) proxy_port: u16,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) join_token: Option<Secret>,
    /// New at each start.
    pub(crate) boot_id: String,
}

/// Registers and beats.
pub(crate) struct Registrar {
    agent: Arc<Agent>,
    identity: Identity,
    commands: Commands,
    /// Told when something changed that nebulad should hear of at once.
    changed: Arc<Notify>,
    /// Ticks when what can be used of the GPUs has changed.
    gpus: watch::Receiver<u64>,
    /// Ticks when the Docker Engine comes or goes.
    engine: watch::Receiver<EngineStatus>,
    /// What nebulad was told that this node offers; when that changes the node is registered anew.
    told: Option<NodeCapabilities>,
    link: Option<PlatformServiceClient<Channel>>,
    registered: bool,
    /// A registration that no good heartbeat has followed yet.
    unproven: bool,
    clock: Clock,
    interval: Duration,
    failures: u32,
    acks: VecDeque<String>,
}

/// When to speak next.
enum Next {
    /// After this, whatever happens.
    After(Duration),
    /// After this, or when something changes.
    AfterOrChange(Duration),
}

impl Registrar {
    pub(crate) fn new(
        agent: Arc<Agent>,
        identity: Identity,
        commands: Commands,
        changed: Arc<Notify>,
    ) -> Self {
        let (gpus, engine) = (agent.gpus.subscribe(), agent.docker.subscribe());
        Self {
            agent,
            identity,
            commands,
            changed,
            gpus,
            engine,
            told: None,
            link: None,
            registered: false,
            unproven: false,
            clock: Clock::start(),
            interval: timing::HEARTBEAT_INTERVAL,
            failures: 0,
            acks: VecDeque::new(),
        }
    }

    /// Speaks to nebulad until `stop` says so; then reports once more, so that nebulad knows what stops here, and
    /// with `deregister` withdraws the node.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>, deregister: bool) {
        loop {
            let speaking = async {
                let next = self.speak().await;
                self.wait(next).await;
            };
            tokio::select! {
                () = speaking => {}
                // The sender only goes away with the agent.
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        if self.registered
            && let Err(error) = self.last_words(deregister).await
        {
            tracing::debug!(error = error.message(), "last report not sent");
        }
    }

    async fn last_words(&mut self, deregister: bool) -> Result<(), Status> {
        let mut link = self.link()?;
        let request = self.heartbeat_request();
        call(link.heartbeat(request)).await?;
        if deregister {
            let node_id = self.identity.node_id.as_ref().map(ToString::to_string).unwrap_or_default();
            let request = DeregisterRequest { node_id, reason: "the agent was stopped".to_owned() };
            call(link.deregister(request)).await?;
        }
        Ok(())
    }

    async fn wait(&mut self, next: Next) {
        match next {
            Next::After(wait) => tokio::time::sleep(wait).await,
            Next::AfterOrChange(wait) => {
                tokio::time::sleep(timing::HEARTBEAT_GAP_MIN.min(wait)).await;
                let rest = tokio::time::sleep(wait.saturating_sub(timing::HEARTBEAT_GAP_MIN));
                tokio::select! {
                    () = rest => {}
                    () = self.changed.notified() => {}
                    () = ticked(&mut self.gpus) => {}
                    () = ticked(&mut self.engine) => {}
                }
            }
        }
    }

    /// One call, and when to make the next.
    async fn speak(&mut self) -> Next {
        self.registered &= self.told.as_ref() == Some(&offer(self.agent.capabilities()));
        let begun = self.clock.now();
        let (what, result) = if self.registered {
            ("heartbeat", self.beat().await)
        } else {
            ("register", self.register().await)
        };
        match result {
            Ok(next) => next,
            Err(error) => self.failed(what, &error, self.clock.now().since(begun)),
        }
    }

    fn failed(&mut self, what: &'static str, error: &Status, spent: Duration) -> Next {
        self.link = None;
        self.agent.heard.failed();
        let unknown = self.registered && error.code() == Code::NotFound;
        if unknown {
            self.registered = false;
            if !std::mem::replace(&mut self.unproven, true) {
                tracing::info!(error = error.message(), "nebulad does not know this node: registering again");
                return Next::After(Duration::ZERO);
            }
        }
        let wait = self.wait_after_failure(spent);
        tracing::warn!(
            call = what, control_plane = %self.identity.control_plane, code = ?error.code(),
            error = error.message(), failures = self.failures,
            retry_in = nebula_core::duration::human(wait), "call to nebulad failed"
        );
        Next::After(wait)
    }

    /// The connection to nebulad, made anew after a failure.
    fn link(&mut self) -> Result<PlatformServiceClient<Channel>, Status> {
        if let Some(link) = &self.link {
            return Ok(link.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", self.identity.control_plane))
            .map_err(|error| Status::invalid_argument(error.to_string()))?
            .connect_timeout(timing::CONNECT_TIMEOUT)
            .http2_keep_alive_interval(timing::KEEPALIVE_EVERY)
            .keep_alive_timeout(timing::KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let link = PlatformServiceClient::new(endpoint.connect_lazy());
        self.link = Some(link.clone());
        Ok(link)
    }

    async fn register(&mut self) -> Result<Next, Status> {
        let capabilities = self.agent.capabilities();
        let identity = &self.identity;
        let request = RegisterRequest {
            node_id: identity.node_id.as_ref().map_or_else(|| "auto".to_owned(), ToString::to_string),
            node_name: identity.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_address: identity.address.to_string(),
            capabilities: Some(capabilities.clone()),
            deployments: self.agent.deployments(),
            labels: identity.labels.clone().into_iter().collect(),
            join_token: identity
                .join_token
                .as_ref()
                .map(|token| token.expose().to_owned())
                .unwrap_or_default(),
            proxy_port: i32::from(identity.proxy_port),
            boot_id: identity.boot_id.clone(),
        };
        let answer = call(self.link()?.register(request)).await?;
        if !answer.success {
            return Err(Status::failed_precondition(answer.error));
        }
        self.take_registration(answer).await?;
        self.told = Some(offer(capabilities));
        // The first heartbeat follows at once: it brings the commands that wait for this node.
        Ok(Next::After(Duration::ZERO))
    }

    async fn take_registration(&mut self, answer: RegisterResponse) -> Result<(), Status> {
        let node_id: NodeId = answer
            .assigned_node_id
            .parse()
            .map_err(|error| Status::internal(format!("nebulad assigned no usable id: {error}")))?;
        if self.identity.node_id.as_ref() != Some(&node_id)
            && let Err(error) = store::keep_node_id(&self.agent.store, &node_id).await
        {
            tracing::warn!(%node_id, %error, "node id not written down");
        }
        self.take_interval(answer.config.as_ref(), answer.heartbeat_interval_seconds);
        let gateway_subdomain = answer.gateway_subdomain;
        tracing::info!(
            %node_id, gateway_subdomain, interval = nebula_core::duration::human(self.interval),
            "registered with nebulad"
        );
        self.registered = true;
        self.agent.docker.set_node_id(node_id.to_string());
        self.identity.node_id = Some(node_id.clone());
        self.agent.registration.send_replace(Some(Registration { node_id, gateway_subdomain }));
        Ok(())
    }

    fn take_interval(&mut self, config: Option<&PlatformConfig>, otherwise: i32) {
        let asked = config.map(|config| config.heartbeat_interval_seconds).filter(|seconds| *seconds > 0);
        if let Some(interval) = timing::asked_interval(asked.unwrap_or(otherwise)) {
            self.interval = interval;
        }
    }

    fn heartbeat_request(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            node_id: self.identity.node_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            stats: Some(self.agent.stats()),
            health: Some(self.agent.health()),
            deployments: self.agent.deployments(),
            timestamp: i64::try_from(wall_now().unix_secs()).unwrap_or(i64::MAX),
            acked_command_ids: self.acks.iter().cloned().collect(),
            boot_id: self.identity.boot_id.clone(),
        }
    }

    async fn beat(&mut self) -> Result<Next, Status> {
        let request = self.heartbeat_request();
        let acked = request.acked_command_ids.len();
        let answer = call(self.link()?.heartbeat(request)).await?;
        self.agent.heard.acknowledged(self.agent.clock.now());
        self.acks.drain(..acked.min(self.acks.len()));
        self.take_interval(answer.config.as_ref(), 0);
        let reregister = answer.reregister;
        self.carry_out(answer).await;
        if reregister {
            return Ok(self.reregister());
        }
        self.unproven = false;
        self.failures = 0;
        if !self.acks.is_empty() {
            return Ok(Next::After(timing::HEARTBEAT_GAP_MIN));
        }
        Ok(Next::AfterOrChange(timing::heartbeat(self.interval, rand::random())))
    }

    async fn carry_out(&mut self, answer: HeartbeatResponse) {
        for command in answer.commands {
            let id = command.id.clone();
            if self.commands.obey(command).await && self.acks.len() < ACKS_MAX && !self.acks.contains(&id) {
                self.acks.push_back(id);
            }
        }
    }

    /// nebulad lacks part of the picture: it gets the whole of it, at once unless it has just had it.
    fn reregister(&mut self) -> Next {
        self.registered = false;
        if !std::mem::replace(&mut self.unproven, true) {
            tracing::info!("nebulad asks for a new registration");
            return Next::After(Duration::ZERO);
        }
        // It answered: there is no connection that others lost at the same moment.
        Next::After(self.wait_after_failure(timing::CALL_DEADLINE))
    }

    /// Counts a failure of a call that took `spent`, and says how long to wait for the next try.
    fn wait_after_failure(&mut self, spent: Duration) -> Duration {
        self.failures = self.failures.saturating_add(1);
        timing::retry(self.interval, self.failures, spent, rand::random())
    }
}

/// What of a node's capabilities stands for long.
fn offer(capabilities: NodeCapabilities) -> NodeCapabilities {
    NodeCapabilities { available_memory_bytes: 0, ..capabilities }
}

/// Resolves with the next tick; never when there will be none.
async fn ticked<T>(ticks: &mut watch::Receiver<T>) {
    if ticks.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A call that may take so long and no longer.
async fn call<T>(answer: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(timing::CALL_DEADLINE, answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("nebulad did not answer in time")),
    }
}
