//! Finding this agent's containers, telling them to end, and removing them.

use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerSummary, ContainerSummaryStateEnum,
};
use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use nebula_core::ids::ReplicaId;

use super::engine::{CALL_LIMIT, CHANGE_LIMIT, Engine, EngineError};
use super::{ContainerName, Docker, labels};
use crate::replica::machine::Signal;
use crate::replica::spec::ContainerRef;

/// Between two looks whether a container is gone.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// What has become of a container that an earlier agent wrote down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It runs.
    Running,
    /// It does not run any more, or is gone: watching it tells how it ended.
    Ended,
    /// It runs, but was made from something else than what is wanted.
    Other,
}

impl Docker {
    /// The container of a replica's attempt, when an agent died between making it and writing down its id. One that
    /// has run and ended counts: watching it tells how. Whatever else the replica has is removed: one that never ran,
    /// one of another attempt or made from something else.
    ///
    /// # Errors
    /// When the Engine does not say.
    pub(crate) async fn find(&self, name: &ContainerName) -> Result<Option<ContainerRef>, EngineError> {
        let mut found = None;
        for summary in self.list(&[(labels::REPLICA, &name.replica.to_string())]).await? {
            let Some(container) = id_of(&summary) else { continue };
            let is_it = summary.labels.as_ref().is_some_and(|labels| name.is_said_by(labels, true));
            if is_it && has_run(&summary) && found.is_none() {
                found = Some(container);
            } else {
                self.remove(container).await?;
            }
        }
        Ok(found)
    }

    /// Whether a container runs, and is what is wanted; without a name anything is.
    ///
    /// # Errors
    /// When the Engine does not say.
    pub(crate) async fn fits(
        &self,
        container: ContainerRef,
        name: Option<&ContainerName>,
    ) -> Result<Fit, EngineError> {
        let Some(found) = self.inspect(container).await? else { return Ok(Fit::Ended) };
        if !found.state.is_some_and(|state| is_up(&state)) {
            return Ok(Fit::Ended);
        }
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        Ok(if name.is_none_or(|name| name.is_said_by(&labels, false)) { Fit::Running } else { Fit::Other })
    }

    /// Sends a signal to a container's first process. One that has ended is as wanted.
    pub(crate) async fn signal(&self, container: ContainerRef, signal: Signal) {
        match kill(&self.0.engine, container, signal).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                tracing::warn!(container_id = %container.to_hex(), %error, "container not told to end");
            }
            _ => {}
        }
    }

    /// Removes whatever a replica still has.
    pub(crate) async fn sweep(&self, replica: ReplicaId) {
        if let Err(error) = self.remove_all_of(replica).await {
            tracing::warn!(replica_id = %replica, %error, "containers of a replica may stay");
        }
    }

    /// Removes this agent's containers whose replica is not known. What is known is asked after what there is, so
    /// that one that is just made is safe.
    pub(crate) async fn remove_strays(&self, is_known: impl Fn(ReplicaId) -> bool + Send) {
        let all = match self.list(&[]).await {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(%error, "containers of forgotten replicas not looked for");
                return;
            }
        };
        for summary in all {
            let replica = summary.labels.as_ref().and_then(|labels| labels.get(labels::REPLICA));
            let replica = replica.and_then(|text| text.parse::<ReplicaId>().ok());
            let Some(container) = id_of(&summary).filter(|_| !replica.is_some_and(&is_known)) else {
                continue;
            };
            let container_id = container.to_hex();
            match self.remove(container).await {
                Ok(()) => tracing::info!(container_id, "container of a forgotten replica removed"),
                Err(error) => tracing::warn!(container_id, %error, "container of a forgotten replica stays"),
            }
        }
    }

    /// Kills containers from a plain thread, within a limit, when the agent itself ends at once.
    pub(crate) fn kill_blocking(&self, containers: &[ContainerRef], limit: Duration) {
        if containers.is_empty() {
            return;
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "containers not killed");
                return;
            }
        };
        let engine = &self.0.engine;
        let killing = containers.iter().map(|container| kill(engine, *container, Signal::Kill));
        let all = futures_util::future::join_all(killing);
        match runtime.block_on(async { tokio::time::timeout(limit, all).await }) {
            Ok(answers) => {
                for error in answers.into_iter().filter_map(Result::err) {
                    if !error.is_not_found() && !error.is_conflict() {
                        tracing::error!(%error, "container not killed");
                    }
                }
            }
            Err(_) => tracing::error!(count = containers.len(), "containers not killed in time"),
        }
    }

    pub(super) async fn remove_all_of(&self, replica: ReplicaId) -> Result<(), EngineError> {
        for summary in self.list(&[(labels::REPLICA, &replica.to_string())]).await? {
            if let Some(container) = id_of(&summary) {
                self.remove(container).await?;
            }
        }
        Ok(())
    }

    /// Removes a container with what it keeps to itself, running or not. One that is gone already is as wanted.
    pub(super) async fn remove(&self, container: ContainerRef) -> Result<(), EngineError> {
        let (id, options) =
            (container.to_hex(), RemoveContainerOptionsBuilder::default().force(true).v(true).build());
        let engine = &self.0.engine;
        let removed = engine
            .call("remove a container", CHANGE_LIMIT, |docker| async move {
                docker.remove_container(&id, Some(options)).await
            })
            .await;
        match removed {
            Err(error) if error.is_not_found() => Ok(()),
            // Somebody removes it already.
            Err(error) if error.is_conflict() => self.until_gone(container).await,
            other => other,
        }
    }

    /// Waits until somebody else has removed a container, so that its port is free.
    async fn until_gone(&self, container: ContainerRef) -> Result<(), EngineError> {
        let looking = async {
            while self.inspect(container).await?.is_some() {
                tokio::time::sleep(LOOK_AFTER).await;
            }
            Ok(())
        };
        tokio::time::timeout(CHANGE_LIMIT, looking).await.unwrap_or_else(|_| {
            let host = self.0.engine.host().to_string();
            Err(EngineError::TimedOut { host, what: "remove a container", limit: CHANGE_LIMIT })
        })
    }

    /// What the Engine knows of a container's state; none: it is gone.
    pub(super) async fn state(&self, container: ContainerRef) -> Result<Option<ContainerState>, EngineError> {
        Ok(self.inspect(container).await?.and_then(|found| found.state))
    }

    async fn inspect(
        &self,
        container: ContainerRef,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let id = container.to_hex();
        let asked = self
            .0
            .engine
            .call("describe a container", CALL_LIMIT, |docker| async move {
                docker.inspect_container(&id, None).await
            })
            .await;
        match asked {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All containers of this agent with these labels, running or not.
    pub(super) async fn list(&self, labels: &[(&str, &str)]) -> Result<Vec<ContainerSummary>, EngineError> {
        let mut wanted = vec![(labels::AGENT, self.0.agent_id.as_str())];
        wanted.extend(labels);
        let options =
            ListContainersOptionsBuilder::default().all(true).filters(&labels::filter(&wanted)).build();
        self.0
            .engine
            .call("list its containers", CALL_LIMIT, |docker| async move {
                docker.list_containers(Some(options)).await
            })
            .await
    }
}

async fn kill(engine: &Engine, container: ContainerRef, signal: Signal) -> Result<(), EngineError> {
    let name = match signal {
        Signal::Term => "SIGTERM",
        Signal::Kill => "SIGKILL",
    };
    let (id, options) = (container.to_hex(), KillContainerOptionsBuilder::default().signal(name).build());
    engine
        .call("signal a container", CALL_LIMIT, |docker| async move {
            docker.kill_container(&id, Some(options)).await
        })
        .await
}

pub(super) fn id_of(summary: &ContainerSummary) -> Option<ContainerRef> {
    summary.id.as_deref().and_then(ContainerRef::from_hex)
}

fn has_run(summary: &ContainerSummary) -> bool {
    !matches!(
        summary.state,
        None | Some(ContainerSummaryStateEnum::CREATED | ContainerSummaryStateEnum::REMOVING)
    )
}

/// Whether a listed container runs; a paused one does.
pub(super) fn runs(summary: &ContainerSummary) -> bool {
    matches!(
        summary.state,
        Some(
            ContainerSummaryStateEnum::RUNNING
                | ContainerSummaryStateEnum::PAUSED
                | ContainerSummaryStateEnum::RESTARTING
        )
    )
}

/// Whether a container runs; a paused one does.
pub(super) fn is_up(state: &ContainerState) -> bool {
    state.running == Some(true)
}
