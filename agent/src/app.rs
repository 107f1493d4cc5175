//! Joins the parts: the order in which they start, and the order in which they stop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::clock::Clock;
use nebula_core::exit::{Exit, Fatal};
use nebula_core::ids::NodeId;
use nebula_store::{OnDamage, Options, Store};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::config::Config;
use crate::driver::Drivers;
use crate::driver::docker::{self, Docker};
use crate::gpu::Gpus;
use crate::host::{self, Host};
use crate::models::{self, Models};
use crate::offers::{self, Offers};
use crate::ports::Ports;
use crate::proxy::table::Routes;
use crate::registrar::commands::Commands;
use crate::registrar::{Heard, Identity, Registrar};
use crate::replica::machine::Policy;
use crate::replica::manager::{Parts, Replicas};
use crate::runtimes::Tools;
use crate::store::commands::Done;
use crate::store::{self, StoreError};
use crate::{agent_id, grpc, metrics, proxy};

/// Memory for the store's pages.
const STORE_CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// Space the store keeps in reserve, in bytes.
const STORE_BALLAST_BYTES: u64 = 8 * 1024 * 1024;
/// Where replicas have their directories, inside the data directory.
const REPLICAS_DIR: &str = "replicas";
/// Where models are kept unless the configuration says otherwise, inside the data directory.
const MODELS_DIR: &str = "models";
/// How long the first registration waits for a look at the GPUs, so that it offers all. What runs already is not
/// kept waiting: a driver that hangs must not keep the proxy from serving.
const GPU_LOOK_LIMIT: Duration = Duration::from_secs(5);
/// How long a part may take to stop once it was told to.
const PART_GRACE: Duration = Duration::from_secs(7);

/// An agent that runs.
pub struct Running {
    /// Where the agent's gRPC listens.
    pub grpc_addr: SocketAddr,
    /// Where the auth proxy listens.
    pub proxy_addr: SocketAddr,
    /// Where the metrics are.
    pub metrics_addr: SocketAddr,
    agent: Arc<Agent>,
    leave_runtimes: bool,
    stop_grpc: watch::Sender<bool>,
    stop_registrar: watch::Sender<bool>,
    grpc: JoinHandle<()>,
    registrar: JoinHandle<()>,
    /// What only looks: at the machine, at the Engine, at which runtimes and which models are here.
    lookers: [JoinHandle<()>; 4],
    servers: [actix_web::dev::ServerHandle; 2],
}

/// Kills an agent's runtimes, whatever else goes on.
#[derive(Clone)]
pub struct Killer(Replicas);

impl Killer {
    /// See [`Running::kill_now`].
    pub fn kill_now(&self) {
        self.0.kill_now();
    }
}

/// The three listeners.
struct Listeners {
    grpc: TcpListener,
    proxy: TcpListener,
    metrics: TcpListener,
}

/// Starts an agent on the current actix system. It serves when this resolves, registered or not.
///
/// # Errors
/// When the data directory or a port cannot be used.
pub async fn start(config: Config) -> Result<Running, Fatal> {
    let clock = Clock::start();
    let tools = Tools {
        sim_command: config.sim_command.clone(),
        python: config.python.clone(),
        model_dir: Some(model_dir(&config)),
        fs_roots: config.model_roots.clone(),
    };
    let store = open_store(&config).await?;
    let listeners = Listeners {
        grpc: listen(config.bind, config.grpc_port, "--grpc-port")?,
        proxy: listen(config.bind, config.proxy_port, "--proxy-port")?,
        metrics: listen(config.bind, config.metrics_port, "--metrics-port")?,
    };
    let docker = docker(&config, clock)?;
    let engine = tokio::spawn(docker.clone().run());
    let gpus = Gpus::start(config.nvml_lib.clone());
    let stored_id = store::node_id(&store).await.map_err(|error| unreadable(&config, &error))?;
    if let Some(node_id) = config.node_id.as_ref().or(stored_id.as_ref()) {
        docker.set_node_id(node_id.to_string());
    }
    let routes = Arc::new(Routes::default());
    let changed = Arc::new(Notify::new());
    let offers = Offers::default();
    let looking = tokio::spawn(offers::follow(
        tools.clone(),
        config.driver,
        docker.subscribe(),
        offers.clone(),
        Arc::clone(&changed),
    ));
    let parts = Parts {
        store: store.clone(),
        routes: Arc::clone(&routes),
        changed: Arc::clone(&changed),
        ports: Ports::new(config.port_range.clone(), &config.data_dir),
        tools,
        drivers: Drivers::new(docker.clone()),
        models: Models::new(models::Settings::from_environment(
            model_dir(&config),
            config.model_roots.clone(),
        )),
        gpus: gpus.clone(),
        node_driver: config.driver.into(),
        dir: config.data_dir.join(REPLICAS_DIR),
        clock,
        policy: policy(&config),
    };
    let replicas = Replicas::load(parts).await.map_err(|error| unreadable(&config, &error))?;
    let done = Done::load(store.clone()).await.map_err(|error| unreadable(&config, &error))?;
    let agent = Arc::new(Agent {
        replicas: replicas.clone(),
        host: Host::new(),
        docker,
        gpus,
        store,
        clock,
        started: clock.now(),
        offers,
        heard: Heard::default(),
        registration: watch::Sender::new(None),
    });
    agent.tell_gpus_whose_processes_are_ours();
    let identity = identity(&config, stored_id, &listeners)?;
    let commands = Commands::new(replicas, done);
    let registrar = Registrar::new(Arc::clone(&agent), identity, commands, changed);
    serve(&config, listeners, agent, routes, registrar, [engine, looking])
}

fn serve(
    config: &Config,
    listeners: Listeners,
    agent: Arc<Agent>,
    routes: Arc<Routes>,
    registrar: Registrar,
    [engine, looking]: [JoinHandle<()>; 2],
) -> Result<Running, Fatal> {
    let (grpc_addr, proxy_addr, metrics_addr) =
        (local(&listeners.grpc)?, local(&listeners.proxy)?, local(&listeners.metrics)?);
    let cannot = |error: std::io::Error| Fatal::new(Exit::Failed, format!("cannot serve: {error}"));
    let proxy = proxy::serve(listeners.proxy, routes).map_err(cannot)?;
    let metrics = metrics::serve(listeners.metrics, Arc::clone(&agent)).map_err(cannot)?;
    let servers = [proxy.handle(), metrics.handle()];
    for server in [proxy, metrics] {
        actix_rt::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "an HTTP server ended");
            }
        });
    }
    let (stop_grpc, grpc_stopped) = watch::channel(false);
    let (stop_registrar, registrar_stopped) = watch::channel(false);
    let serving = grpc::serve(listeners.grpc, Arc::clone(&agent), grpc_stopped);
    let grpc = tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "gRPC server ended");
        }
    });
    let watching = Arc::clone(&agent);
    let host = tokio::spawn(async move { watching.host.watch().await });
    let held = agent.replicas.shared().models.clone();
    let models = tokio::spawn(async move { held.watch().await });
    let (gpus, offers) = (agent.gpus.clone(), agent.offers.clone());
    let deregister = config.deregister_on_stop;
    let registrar = tokio::spawn(async move {
        tokio::join!(gpus.first_look(GPU_LOOK_LIMIT), offers.first_look());
        registrar.run(registrar_stopped, deregister).await;
    });
    Ok(Running {
        grpc_addr,
        proxy_addr,
        metrics_addr,
        agent,
        leave_runtimes: config.leave_runtimes,
        stop_grpc,
        stop_registrar,
        grpc,
        registrar,
        lookers: [host, models, engine, looking],
        servers,
    })
}

impl Running {
    /// This node's id; none before the first registration.
    #[must_use]
    pub fn node_id(&self) -> Option<NodeId> {
        self.agent.registration.borrow().as_ref().map(|registration| registration.node_id.clone())
    }

    /// Resolves when nebulad has registered this node, with its id.
    pub async fn registered(&self) -> NodeId {
        let mut registration = self.agent.registration.subscribe();
        loop {
            if let Some(known) = registration.borrow_and_update().as_ref() {
                return known.node_id.clone();
            }
            if registration.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when the agent cannot go on: its store has failed. Runtimes are best left running then; the next
    /// agent takes them up.
    pub async fn failed(&self) -> Fatal {
        let mut broken = self.agent.replicas.shared().broken.subscribe();
        // The sender lives as long as we do.
        let _ = broken.wait_for(|broken| *broken).await;
        let reason = self.agent.store.status().failed.unwrap_or_else(|| "a write failed".to_owned());
        Fatal::new(Exit::Disk, format!("the agent's store has failed: {reason}"))
            .hint("check the disk of --data-dir and start the agent again; runtimes keep running meanwhile")
    }

    /// A handle with which all runtimes can be killed, also while [`Running::stop`] is under way.
    #[must_use]
    pub fn killer(&self) -> Killer {
        Killer(self.agent.replicas.clone())
    }

    /// Kills all runtimes at once: SIGKILL to their process groups and to whatever they left. Nothing is waited for,
    /// nothing written down. Blocks for some milliseconds.
    pub fn kill_now(&self) {
        self.killer().kill_now();
    }

    /// Stops in order: no new commands; runtimes end (unless they are to be left), nebulad hears of it; then the
    /// servers and the store.
    pub async fn stop(self) {
        let leave = self.leave_runtimes;
        self.shut_down(leave).await;
    }

    /// Stops and leaves runtimes running.
    pub async fn stop_and_leave(self) {
        self.shut_down(true).await;
    }

    async fn shut_down(self, leave: bool) {
        tracing::info!(leave_runtimes = leave, "nebula-agent is stopping");
        self.stop_grpc.send_replace(true);
        self.agent.replicas.halt(leave).await;
        self.stop_registrar.send_replace(true);
        finish("registrar", self.registrar).await;
        finish("gRPC server", self.grpc).await;
        for looker in &self.lookers {
            looker.abort();
        }
        for server in self.servers {
            // Requests in flight have their own, shorter limit.
            if tokio::time::timeout(PART_GRACE, server.stop(true)).await.is_err() {
                tracing::warn!("an HTTP server did not stop in time");
            }
        }
        let store = self.agent.store.clone();
        // A panic in there has been logged.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        tracing::info!("nebula-agent has stopped");
    }
}

async fn finish(part: &'static str, mut task: JoinHandle<()>) {
    if tokio::time::timeout(PART_GRACE, &mut task).await.is_err() {
        tracing::warn!(part, "part did not stop in time");
        task.abort();
    }
}

async fn open_store(config: &Config) -> Result<Store, Fatal> {
    let dir = config.data_dir.clone();
    let options = Options {
        cache_bytes: STORE_CACHE_BYTES,
        ballast_bytes: STORE_BALLAST_BYTES,
        on_damage: OnDamage::StartEmpty,
        ..Options::default()
    };
    let opening = tokio::task::spawn_blocking(move || Store::open(&dir, options));
    match opening.await {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(Fatal::new(Exit::Failed, "the store could not be opened")),
    }
}

fn unreadable(config: &Config, error: &StoreError) -> Fatal {
    Fatal::new(Exit::Disk, format!("the store in {} cannot be read: {error}", config.data_dir.display()))
        .hint("check the disk, or start with another --data-dir")
}

fn listen(bind: IpAddr, port: u16, flag: &str) -> Result<TcpListener, Fatal> {
    TcpListener::bind((bind, port)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            Fatal::new(Exit::PortTaken, format!("port {port} of {bind} is taken"))
                .hint(format!("stop what listens there, or choose another with {flag} (0 takes a free one)"))
        }
        std::io::ErrorKind::PermissionDenied => {
            Fatal::new(Exit::NotAllowed, format!("port {port} of {bind} may not be used: {error}"))
                .hint(format!("choose a port above 1023 with {flag}"))
        }
        _ => Fatal::new(Exit::Config, format!("cannot listen on port {port} of {bind}: {error}"))
            .hint("check --bind"),
    })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, Fatal> {
    listener
        .local_addr()
        .map_err(|error| Fatal::new(Exit::Failed, format!("listener has no address: {error}")))
}

/// Where models are kept.
fn model_dir(config: &Config) -> PathBuf {
    config.model_dir.clone().unwrap_or_else(|| config.data_dir.join(MODELS_DIR))
}

/// The driver of containers, under this agent's own mark.
fn docker(config: &Config, clock: Clock) -> Result<Docker, Fatal> {
    let agent_id = agent_id::keep(&config.data_dir).map_err(|error| {
        Fatal::new(
            Exit::DataDir,
            format!("the agent's id in {} cannot be kept: {error}", config.data_dir.display()),
        )
        .hint("check the directory's owner and its disk, or choose another --data-dir")
    })?;
    let (host, memory_limit) = (config.docker_host.clone(), config.container_memory);
    Docker::new(docker::Settings { host, agent_id, memory_limit, clock })
}

fn policy(config: &Config) -> Policy {
    Policy { start_deadline: config.start_timeout, grace: config.stop_grace, ..Policy::default() }
}

fn identity(config: &Config, stored: Option<NodeId>, listeners: &Listeners) -> Result<Identity, Fatal> {
    let grpc = local(&listeners.grpc)?;
    let address = match &config.advertise_address {
        Some(address) => address.clone(),
        None => address_of(grpc, &config.control_plane)?,
    };
    Ok(Identity {
        control_plane: config.control_plane.clone(),
        node_id: config.node_id.clone().or(stored),
        node_name: config.node_name.clone().unwrap_or_else(host::name),
        address,
        proxy_port: local(&listeners.proxy)?.port(),
        labels: config.labels.clone(),
        join_token: config.join_token.clone(),
        boot_id: uuid::Uuid::new_v4().to_string(),
    })
}

/// Where nebulad reaches us: the address we listen on, or when that is all of them the one that faces nebulad.
fn address_of(listening: SocketAddr, control_plane: &HostPort) -> Result<HostPort, Fatal> {
    let mut address = listening;
    if listening.ip().is_unspecified() {
        address.set_ip(facing(control_plane).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
    address.to_string().parse().map_err(|error| {
        Fatal::new(Exit::Config, format!("{error}"))
            .hint("say where nebulad calls back with --advertise-address")
    })
}

/// The local address from which packets to nebulad would leave. Nothing is sent.
fn facing(control_plane: &HostPort) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((control_plane.host(), control_plane.port())).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
