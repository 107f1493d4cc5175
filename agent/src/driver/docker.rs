//! The Docker driver: runtimes as containers of a Docker Engine.
//!
//! Every container carries labels that say whose it is: which agent made it, for which replica and which attempt. So
//! a later agent finds it again, and what another agent or a person made is never touched. The Engine may be absent,
//! hang or restart at any time; whoever watches a container waits that out.

mod containers;
mod create;
mod credentials;
mod engine;
mod events;
mod exec;
mod hijack;
mod image;
mod labels;
mod output;
mod progress;
mod refusal;
mod status;
mod tape;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nebula_core::clock::Clock;
use nebula_core::exit::Fatal;
use tokio::sync::{broadcast, watch as channel};

pub(crate) use self::containers::Fit;
pub(crate) use self::create::StartError;
use self::engine::{Engine, Host};
use self::events::Notice;
pub(crate) use self::exec::{Channel, ExecError, ExecSession, ExecSpec};
use self::image::Flights;
pub(crate) use self::labels::ContainerName;
pub(crate) use self::status::EngineStatus;
use self::tape::Tapes;

/// Notices that a slow watcher may miss; it looks by itself then.
const NOTICES: usize = 256;

/// What the driver needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the Engine is: `unix://`, `tcp://` or `http://`. None: `DOCKER_HOST`, else the usual socket.
    pub(crate) host: Option<String>,
    /// Tells this agent's containers from those of others.
    pub(crate) agent_id: String,
    /// Memory that one container may take, in bytes. None: the machine's, less a tenth.
    pub(crate) memory_limit: Option<u64>,
    /// Against which the status tells times.
    pub(crate) clock: Clock,
}

/// How long pulls wait; only tests change it.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Before the second try of a pull; doubles before the third.
    retry_after: Duration,
    /// Without a byte, after which a pull is given up.
    stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { retry_after: Duration::from_secs(10), stall: Duration::from_secs(120) }
    }
}

/// The driver. Cheap to clone; made even when no Engine is there.
#[derive(Clone)]
pub(crate) struct Docker(Arc<Inner>);

struct Inner {
    engine: Engine,
    agent_id: String,
    node_id: Mutex<String>,
    memory_limit: Option<u64>,
    clock: Clock,
    patience: Patience,
    status: channel::Sender<EngineStatus>,
    notices: broadcast::Sender<Notice>,
    /// How often the Engine went away.
    outages: AtomicU64,
    flights: Flights,
    tapes: Mutex<Tapes>,
}

impl fmt::Debug for Docker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Docker").field("engine", &self.0.engine).finish_non_exhaustive()
    }
}

impl Docker {
    /// The driver for an Engine that need not be there yet.
    ///
    /// # Errors
    /// When the address of the Engine is malformed.
    pub(crate) fn new(settings: Settings) -> Result<Self, Fatal> {
        Self::with_patience(settings, Patience::default())
    }

    fn with_patience(settings: Settings, patience: Patience) -> Result<Self, Fatal> {
        let Settings { host, agent_id, memory_limit, clock } = settings;
        let host = host.or_else(|| std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()));
        let engine = Engine::new(host.map_or(Ok(Host::usual()), |host| host.parse())?);
        Ok(Self(Arc::new(Inner {
            engine,
            agent_id,
            node_id: Mutex::default(),
            memory_limit: memory_limit.or_else(most_of_memory),
            clock,
            patience,
            status: channel::Sender::new(EngineStatus::Unknown),
            notices: broadcast::Sender::new(NOTICES),
            outages: AtomicU64::new(0),
            flights: Mutex::new(HashMap::new()),
            tapes: Mutex::new(HashMap::new()),
        })))
    }

    /// Looks after the Engine: whether it answers, and what it says of this agent's containers. Never resolves.
    pub(crate) async fn run(self) {
        tokio::join!(self.keep_looking(), self.follow_events());
    }

    /// What is known of the Engine.
    pub(crate) fn status(&self) -> EngineStatus {
        self.0.status.borrow().clone()
    }

    /// For those who follow the status.
    pub(crate) fn subscribe(&self) -> channel::Receiver<EngineStatus> {
        self.0.status.subscribe()
    }

    /// Says under which id this node is registered; it stands in the labels of the containers that follow.
    pub(crate) fn set_node_id(&self, node_id: String) {
        *self.0.node_id.lock().unwrap_or_else(PoisonError::into_inner) = node_id;
    }

    fn node_id(&self) -> String {
        self.0.node_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn outages(&self) -> u64 {
        self.0.outages.load(Ordering::Acquire)
    }

    /// Whether an Engine has answered in this agent's life. One that goes away then comes back, most likely.
    pub(crate) fn has_answered(&self) -> bool {
        self.status().is_ready() || self.outages() > 0
    }

    fn count_outage(&self) {
        self.0.outages.fetch_add(1, Ordering::AcqRel);
    }
}

/// The machine's memory less a tenth, in bytes, if the system says.
fn most_of_memory() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.total_memory()).filter(|total| *total > 0).map(|total| total - total / 10)
}

#[cfg(test)]
mod tests;
