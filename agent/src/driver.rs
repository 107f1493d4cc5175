//! What runs a replica: a child process of the agent, or a container of a Docker Engine.
//!
//! Either outlives an agent that dies, and the next agent finds it. A process leads its own process group, writes its
//! output straight into its log, and carries its replica's id in its environment. A container carries labels, and its
//! output is copied into the log.

pub(crate) mod docker;
pub(crate) mod exec;
pub(crate) mod logs;
pub(crate) mod process;
pub(crate) mod procfs;
pub(crate) mod programs;
pub(crate) mod sockets;

use std::sync::Arc;
use std::time::Duration;

use nebula_core::ids::ReplicaId;
use tokio::process::Child;

use self::docker::{ContainerName, Docker, EngineStatus, Fit};
use self::logs::Log;
use self::process::Watched;
use crate::replica::machine::Signal;
use crate::replica::spec::{ContainerRef, Ended, Instance};

/// How long the first answer of the Engine is waited for when an agent starts: without it nobody knows whether there
/// is one.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How long it may take to learn how a container ended that does not run any more.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long all containers together may take to be killed when the agent ends at once.
const KILL_LIMIT: Duration = Duration::from_secs(3);

/// What is left of something that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It runs.
    Running(Instance),
    /// It does not run any more, or never did.
    Nothing(Ended),
    /// It ran as something else than what is wanted, and was removed.
    Other,
    /// The Engine does not say.
    Unknown,
}

/// All drivers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Drivers {
    docker: Docker,
}

impl Drivers {
    pub(crate) fn new(docker: Docker) -> Self {
        Self { docker }
    }

    /// The containers.
    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// What is known of the Engine, as soon as something is known, within some seconds.
    pub(crate) async fn engine(&self) -> EngineStatus {
        let mut status = self.docker.subscribe();
        let known = status.wait_for(|status| *status != EngineStatus::Unknown);
        match tokio::time::timeout(FIRST_ANSWER, known).await {
            Ok(Ok(status)) => status.clone(),
            Ok(Err(_)) | Err(_) => self.docker.status(),
        }
    }

    /// Looks for what an earlier agent wrote down. With a name, a container's labels must be those of it.
    pub(crate) async fn look(
        &self,
        instance: Instance,
        name: Option<&ContainerName>,
        replica: ReplicaId,
        log: &Arc<Log>,
    ) -> Left {
        match instance {
            Instance::Process(process) => {
                let alive = tokio::task::spawn_blocking(move || procfs::is_alive(process));
                if alive.await.unwrap_or(false) {
                    return Left::Running(instance);
                }
                let rebooted = process.boot != procfs::boot();
                Left::Nothing(Ended { blameless: rebooted, ..Ended::default() })
            }
            Instance::Container(container) => {
                if !self.engine().await.is_ready() {
                    return Left::Unknown;
                }
                self.look_for_container(container, name, replica, log).await
            }
        }
    }

    async fn look_for_container(
        &self,
        container: ContainerRef,
        name: Option<&ContainerName>,
        replica: ReplicaId,
        log: &Arc<Log>,
    ) -> Left {
        match self.docker.fits(container, name).await {
            Ok(Fit::Running) => Left::Running(Instance::Container(container)),
            Ok(Fit::Other) => Left::Other,
            Ok(Fit::Ended) => {
                let end = self.docker.watch(container, replica, Arc::clone(log));
                tokio::time::timeout(END_LIMIT, end).await.map_or(Left::Unknown, Left::Nothing)
            }
            Err(_) => Left::Unknown,
        }
    }

    /// Looks for what an agent was just making when it died.
    pub(crate) async fn find(&self, name: &ContainerName) -> Left {
        let (replica, attempt) = (name.replica, name.attempt);
        let found = tokio::task::spawn_blocking(move || process::find(replica, attempt)).await;
        if let Ok(Some(process)) = found {
            return Left::Running(Instance::Process(process));
        }
        match self.engine().await {
            EngineStatus::Ready { .. } => match self.docker.find(name).await {
                Ok(Some(container)) => Left::Running(Instance::Container(container)),
                Ok(None) => Left::Nothing(Ended::default()),
                Err(_) => Left::Unknown,
            },
            EngineStatus::Unknown | EngineStatus::Absent { .. } | EngineStatus::Unresponsive { .. } => {
                Left::Unknown
            }
        }
    }

    /// Resolves when it has ended. What it writes is in the log. `child`: the process, if it is our own child.
    pub(crate) async fn watch(
        &self,
        instance: Instance,
        child: Option<Child>,
        replica: ReplicaId,
        port: u16,
        log: Arc<Log>,
    ) -> Ended {
        let process = match instance {
            Instance::Process(process) => process,
            Instance::Container(container) => return self.docker.watch(container, replica, log).await,
        };
        let ours = child.filter(|child| child.id() == Some(process.pid));
        let watched = ours.map_or(Watched::Adopted(process), Watched::Child);
        let ended = process::watch(watched, replica, log).await;
        let looking = tokio::task::spawn_blocking(move || sockets::is_taken(port, process, replica));
        let port_taken = looking.await.unwrap_or(false);
        Ended { port_taken, ..ended }
    }

    /// Tells it to end. Does not wait for an Engine that hangs.
    pub(crate) fn signal(&self, instance: Instance, signal: Signal) {
        match instance {
            Instance::Process(process) => process::signal(process, signal),
            Instance::Container(container) => {
                let docker = self.docker.clone();
                // It takes no longer than one call to the Engine may.
                tokio::spawn(async move { docker.signal(container, signal).await });
            }
        }
    }

    /// Ends and removes whatever a replica still has.
    pub(crate) async fn sweep(&self, replica: ReplicaId) {
        // A panic in there has been logged.
        let _ = tokio::task::spawn_blocking(move || process::sweep(replica)).await;
        if self.docker.status().is_ready() {
            self.docker.sweep(replica).await;
        }
    }

    /// Kills all of these at once, and what processes of these replicas there are besides. Blocks for some
    /// milliseconds, with containers for some seconds at worst.
    pub(crate) fn kill_now(&self, instances: &[Instance], replicas: &[ReplicaId]) {
        for process in instances.iter().filter_map(|instance| instance.process()) {
            process::signal(process, Signal::Kill);
        }
        // What is left: one that was just being made, and those that went to a group of their own.
        for replica in replicas {
            process::sweep(*replica);
        }
        let containers: Vec<ContainerRef> =
            instances.iter().filter_map(|instance| instance.container()).collect();
        if containers.is_empty() {
            return;
        }
        let docker = self.docker.clone();
        // A thread of its own: this one may belong to a runtime, which must not be entered twice.
        let killing = std::thread::spawn(move || docker.kill_blocking(&containers, KILL_LIMIT));
        if killing.join().is_err() {
            tracing::error!("containers not killed");
        }
    }
}
