//! The composition root: the only place that knows every part. It starts them in order and stops them in the
//! opposite one.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use arc_swap::ArcSwap;
use nebula_core::clock::Clock;
use nebula_core::exit::{Exit, Fatal};
use nebula_core::telemetry::READY_TARGET;
use nebula_core::telemetry::access::AccessLog;
use nebula_core::token::{Secret, TokenKind};
use tokio::signal::unix::{SignalKind, signal};

use self::sockets::Reserved;
use crate::actors::handle::Handle;
use crate::actors::registry::machine::Timing;
use crate::actors::route::machine::Outcome as Seen;
use crate::actors::route::{Ended, RouteActor};
use crate::actors::system::{Parts, System};
use crate::actors::tree::Tree;
use crate::actors::watchdog::Watchdog;
use crate::config::{Config, StoreCommand};
use crate::domain::route::{GateState, RouteTable};
use crate::grpc::agent_client::GrpcAgents;
use crate::grpc::server::GrpcServer;
use crate::http::api::Api;
use crate::http::openai::{AllowOrigins, Gateway, Limits, Outcome, OutcomeKind, Outcomes, Wakes};
use crate::http::server;
use crate::ports::Store;
use crate::store::{EmbeddedStore, Options, maintenance};

mod edges;
mod sockets;

/// A running control plane.
pub struct App {
    /// For clients and operators.
    pub http_addr: SocketAddr,
    /// For agents.
    pub grpc_addr: SocketAddr,
    /// The operator's token.
    pub admin_token: Secret,
    /// The actor system.
    pub system: System,
    http: ServerHandle,
    grpc: GrpcServer,
    store: EmbeddedStore,
    access: AccessLog,
    _watchdog: Watchdog,
}

/// Checks of a configuration what only its users know; nothing is made, opened or sent.
///
/// # Errors
/// `Config`: nebulad would not start with it.
pub fn check(config: &Config) -> Result<(), Fatal> {
    edges::of(config, SocketAddr::new(config.bind, config.http_port)).map(drop)
}

impl App {
    /// Starts everything. When this resolves, requests are answered.
    ///
    /// # Errors
    /// When the configuration cannot be, the data directory cannot be used, a port is taken, or a core actor cannot be
    /// built.
    pub async fn start(config: Config) -> Result<Self, Fatal> {
        check(&config)?;
        sockets::allow_many_files();
        for warning in &config.warnings {
            tracing::warn!(warning, "configuration");
        }
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(version, data_dir = %config.data_dir.display(), "nebulad starts");
        let options = Options { allow_any_filesystem: config.allow_any_filesystem, ..Options::default() };
        let store = EmbeddedStore::open(&config.data_dir, options)?;
        let admin_token = admin_token(&config)?;
        let http_port = Reserved::take(config.bind, config.http_port, "--http-port")?;
        let grpc_port = Reserved::take(config.bind, config.grpc_port, "--grpc-port")?;
        let (http_addr, grpc_addr) = (http_port.address()?, grpc_port.address()?);
        let http_listener = http_port.listen()?;

        let routes = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
        let system = System::start(Parts {
            tree: Tree::new(Clock::start()),
            store: Arc::new(store.clone()),
            agents: Arc::new(GrpcAgents::default()),
            routes: routes.clone(),
            timing: Timing {
                heartbeat_interval: config.heartbeat_interval,
                heartbeat_timeout: config.heartbeat_timeout,
                restart_grace: config.restart_grace,
            },
            gateway_domain: config.gateway_domain.clone(),
            edges: edges::of(&config, http_addr)?,
        })
        .await
        .map_err(|error| Fatal::new(Exit::Disk, format!("cannot start from the data directory: {error}")))?;

        let access = config.access_log.map_or_else(AccessLog::off, AccessLog::to_stderr);
        let form = config.access_log.unwrap_or_default();
        let gateway = Gateway {
            prefix: config.api_prefix.clone(),
            routes: routes.clone(),
            routes_changed: system.routes_changed.clone(),
            keys: system.keys.clone(),
            usage: system.usage.clone(),
            access: (access.clone(), form),
            clock: system.tree.clock(),
            admin: admin_token.hash(),
            limits: Limits {
                max_body_bytes: config.max_body_bytes,
                upstream_timeout: config.upstream_timeout,
                upstream_idle_timeout: config.upstream_idle_timeout,
                hold: config.hold_starting,
                keepalive: config.sse_keepalive,
            },
            origins: AllowOrigins::new(config.cors_allow_origins.clone()),
            outcomes: outcomes(routes, system.route.clone()),
            wakes: wakes(&system),
        };
        let api = Api {
            system: system.clone(),
            admin: admin_token.hash(),
            gateway_url: format!("http://{http_addr}{}", config.api_prefix),
            config: config.redacted(),
        };
        let http = server::build(http_listener, gateway, api, config.shutdown_grace)?;
        let handle = http.handle();
        actix_rt::spawn(async move {
            if let Err(error) = http.await {
                tracing::error!(%error, "http server ended");
            }
        });
        // Agents that call while nobody can answer are refused and come again one by one; queued, they would all come
        // at the same moment.
        let grpc = GrpcServer::start(grpc_port.listen()?, &system.tree, config.heartbeat_interval)?;
        tracing::info!(target: READY_TARGET, %grpc_addr, %http_addr, "nebulad is ready");
        let watchdog = Watchdog::start(system.tree.clone(), Box::new(end_stuck))?;
        let http = handle;
        Ok(Self { http_addr, grpc_addr, admin_token, system, http, grpc, store, access, _watchdog: watchdog })
    }

    /// Takes no new requests, waits for those in flight (bounded by the shutdown grace), and closes the store.
    pub async fn stop(self) {
        self.system.journal.close();
        server::stop(&self.http).await;
        self.grpc.stop().await;
        // Whatever was answered until now has been added to the sums.
        self.system.flush_usage().await;
        let (store, access) = (self.store, self.access);
        let _ = tokio::task::spawn_blocking(move || {
            access.close();
            store.close();
        })
        .await;
    }

    /// Resolves when this process can do no good any more: the store has failed for good, or an actor without which
    /// nothing works is down for good.
    pub async fn failed(&self) -> Fatal {
        tokio::select! {
            why = self.store_failed() => Fatal::new(Exit::Disk, format!("the store has failed, nothing more can be made durable: {why}"))
                .hint("look at the kernel's log and the disk's free space, then start nebulad again"),
            cause = self.system.tree.fallen() => Fatal::new(Exit::Failed, format!("actor {cause}"))
                .hint("this is a fault of nebulad, please report it; what is stored is safe, start nebulad again"),
        }
    }

    async fn store_failed(&self) -> String {
        /// How often the store is looked at.
        const LOOK: std::time::Duration = std::time::Duration::from_millis(500);
        loop {
            let report = self.store.report();
            if report.state == "failed" {
                return report.reason.unwrap_or_default();
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Serves until SIGTERM, SIGINT or SIGHUP; a second signal ends the process at once.
///
/// # Errors
/// As [`App::start`], or when the disk or an actor fails for good while serving.
pub async fn run(config: Config) -> Result<(), Fatal> {
    let mut signals = Signals::listen()?;
    let app = tokio::select! {
        app = App::start(config) => app?,
        () = signals.next() => {
            tracing::info!("stopped before it was ready");
            return Ok(());
        }
    };
    let failed = tokio::select! {
        () = signals.next() => None,
        fatal = app.failed() => Some(fatal),
    };
    tracing::info!("stopping; requests in flight are waited for, a second signal ends at once");
    tokio::select! {
        () = app.stop() => {}
        // Whoever hears of a failure sends a signal, and is told of the failure all the same.
        () = signals.next() => match &failed {
            Some(fatal) => end_stuck(fatal),
            None => end_at_once(),
        },
    }
    failed.map_or(Ok(()), Err)
}

/// Does something with the store of a nebulad that is stopped; answers in one line. Blocks.
///
/// # Errors
/// When the store, or the export, is not what it should be.
pub fn maintain(data_dir: &Path, command: StoreCommand) -> Result<String, Fatal> {
    match command {
        StoreCommand::Export { file } => maintenance::export(data_dir, &file),
        StoreCommand::Import { file, force } => maintenance::import(data_dir, &file, force),
        StoreCommand::Verify { file: Some(file) } => maintenance::verify_export(&file),
        StoreCommand::Verify { file: None } => maintenance::verify(data_dir),
    }
}

/// Ends the process without waiting for those who could end it in order.
#[expect(
    clippy::disallowed_methods,
    reason = "the thread that would return an exit code may be the one that is stuck"
)]
fn end_stuck(fatal: &Fatal) {
    fatal.report();
    std::process::exit(i32::from(fatal.exit as u8));
}

/// Ends the process without waiting for anything: what a second signal asks for.
#[expect(clippy::disallowed_methods, reason = "threads that still serve would be waited for otherwise")]
pub(crate) fn end_at_once() {
    tracing::warn!("ended at once by a signal that came while stopping");
    std::process::exit(i32::from(Exit::Failed as u8));
}

/// SIGTERM, SIGINT and SIGHUP.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on the signals come here.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn listen() -> Result<Self, Fatal> {
        let of = |kind| {
            signal(kind).map_err(|error| Fatal::new(Exit::Failed, format!("cannot take signals: {error}")))
        };
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hangup: of(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// The token that was given, else the one in the data directory, made at the first start.
fn admin_token(config: &Config) -> Result<Secret, Fatal> {
    if let Some(token) = &config.admin_token {
        return Ok(token.clone());
    }
    let path = config.data_dir.join("admin.token");
    let unusable = |error: std::io::Error| {
        Fatal::new(Exit::DataDir, format!("cannot use {}: {error}", path.display()))
            .hint("it holds the operator's token and must be readable and writable by nebulad alone")
    };
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => {
            keep_private(&path);
            Ok(Secret::from_text(text.trim()))
        }
        Ok(_) => write_token(&path).map_err(unusable)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_token(&path).map_err(unusable)?,
        Err(error) => Err(unusable(error)),
    }
}

/// Takes others' access to the token away, should somebody have given it.
fn keep_private(path: &Path) {
    let mode = fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        let mended = fs::set_permissions(path, fs::Permissions::from_mode(0o600)).is_ok();
        tracing::warn!(path = %path.display(), mended, "others could read the admin token");
    }
}

/// Makes the token's file whole or not at all.
fn write_token(path: &Path) -> std::io::Result<Result<Secret, Fatal>> {
    let token = match Secret::generate(TokenKind::Admin) {
        Ok(token) => token,
        Err(error) => return Ok(Err(Fatal::new(Exit::Failed, error.to_string()))),
    };
    let temporary = path.with_extension("token.tmp");
    let mut file =
        fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{}", token.expose())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    tracing::info!(path = %path.display(), "admin token made");
    Ok(Ok(token))
}

/// Hands the gateway's observations to the routes' actors. Good news of a replica whose gate is open is no news.
fn outcomes(routes: Arc<ArcSwap<RouteTable>>, actors: Handle<RouteActor>) -> Outcomes {
    Outcomes::to(move |outcome: Outcome| {
        let table = routes.load();
        let Some(route) = table.by_id(outcome.route) else { return };
        let seen = match outcome.kind {
            OutcomeKind::Ok => {
                let endpoint = route.endpoints.iter().find(|endpoint| endpoint.replica_id == outcome.replica);
                if endpoint.is_none_or(|endpoint| endpoint.gate.state() == GateState::Open) {
                    return;
                }
                Seen::Answered
            }
            OutcomeKind::ConnectFailed | OutcomeKind::Timeout | OutcomeKind::ServerError => Seen::Failed,
            OutcomeKind::Saturated => Seen::Saturated,
        };
        actors.tell(&crate::actors::route::path(&route.name), Ended(outcome.replica, seen));
    })
}

/// Wakes deployments that sleep.
fn wakes(system: &System) -> Wakes {
    let (wake, progress) = (system.clone(), system.clone());
    Wakes::to(move |id| wake.wake(id), move |id| progress.progress_of(id))
}

#[cfg(test)]
mod tests;
