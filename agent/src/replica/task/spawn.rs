//! Making a replica's process or container.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nebula_core::duration::human;
use nebula_core::runtime::Driver;
use tokio::process::Child;
use tokio::sync::watch;

use super::prepare::{RETRY_FIRST, Ready, TRIES, until_engine};
use super::{News, Task};
use crate::driver::docker::{ContainerName, StartError};
use crate::driver::logs::Logs;
use crate::driver::process;
use crate::progress::Reporter;
use crate::replica::look;
use crate::replica::machine::{Event, Signal};
use crate::replica::manager::Inner;
use crate::replica::spec::{ContainerRef, Instance, ProcessRef, Spec};
use crate::runtimes;

/// What is needed to make a container.
struct Making {
    shared: Arc<Inner>,
    spec: Arc<Spec>,
    logs: Arc<Logs>,
    ready: Ready,
    name: ContainerName,
    reporter: Reporter,
    /// Set when it is not wanted any more.
    unwanted: watch::Receiver<bool>,
}

impl Task {
    /// Makes what the attempt runs as. A process exists when this resolves; of a container the task is told.
    pub(super) async fn spawn(&mut self, attempt: u32) -> Option<Event> {
        let ready = self.ready.clone().filter(|ready| ready.attempt == attempt);
        let Some(ready) = ready else {
            let message = "the agent lost what it had prepared".to_owned();
            return Some(Event::SpawnFailed { attempt, message });
        };
        match ready.driver {
            Driver::Process => Some(self.spawn_process(ready).await),
            Driver::Docker => {
                self.spawn_container(ready);
                None
            }
        }
    }

    async fn spawn_process(&mut self, ready: Ready) -> Event {
        let (attempt, replica) = (ready.attempt, self.machine.state().replica);
        let (spec, shared, logs) =
            (Arc::clone(self.machine.spec()), Arc::clone(&self.shared), Arc::clone(&self.logs));
        // The runtime's handle is needed inside for the child's own readiness.
        let runtime = tokio::runtime::Handle::current();
        let making = tokio::task::spawn_blocking(move || {
            let _inside = runtime.enter();
            make_process(&shared, &spec, &logs, replica, &ready)
        });
        match making.await.unwrap_or_else(|_| Err("the agent failed while it made the process".to_owned())) {
            Ok((child, process)) => {
                self.child = Some(child);
                Event::Spawned { attempt, instance: Instance::Process(process) }
            }
            Err(message) => Event::SpawnFailed { attempt, message },
        }
    }

    fn spawn_container(&mut self, ready: Ready) {
        let unwanted = watch::Sender::new(false);
        let making = Making {
            shared: Arc::clone(&self.shared),
            spec: Arc::clone(self.machine.spec()),
            logs: Arc::clone(&self.logs),
            name: look::name(self.machine.state(), self.machine.spec()),
            ready,
            reporter: self.reporter.clone(),
            unwanted: unwanted.subscribe(),
        };
        self.unwanted = Some(unwanted);
        self.tell(async move { News::Event(making.run().await) });
    }
}

fn make_process(
    shared: &Inner,
    spec: &Spec,
    logs: &Logs,
    replica: nebula_core::ids::ReplicaId,
    ready: &Ready,
) -> Result<(Child, ProcessRef), String> {
    let (attempt, model) = (ready.attempt, ready.local_model.as_deref());
    let plan = runtimes::plan(spec, ready.port, &shared.tools, &ready.gpu_uuids, model);
    let plan = plan.map_err(|error| error.to_string())?;
    let (_, output) = logs.begin(attempt).map_err(|error| format!("its log cannot be made: {error}"))?;
    let cwd = shared.work_dir_of(replica);
    crate::driver::logs::make_dir(&cwd)
        .map_err(|error| format!("its directory {} cannot be made: {error}", cwd.display()))?;
    let (child, process) = process::spawn(&plan, replica, attempt, &cwd, output)
        .map_err(|error| format!("the program {} cannot be run: {error}", plan.program.display()))?;
    if shared.killed.load(Ordering::Acquire) {
        process::signal(process, Signal::Kill);
    }
    Ok((child, process))
}

impl Making {
    /// Makes the container, with more tries when the Engine was away or hung, each when it is back. What was half made is removed by the next try,
    /// by the driver, or at last by the one who looks for strays.
    async fn run(mut self) -> Event {
        let attempt = self.ready.attempt;
        let mut wait = RETRY_FIRST;
        let mut tries = 1;
        loop {
            let message = match self.once().await {
                Ok(container) => {
                    let instance = Instance::Container(container);
                    if self.shared.killed.load(Ordering::Acquire) {
                        self.shared.drivers.signal(instance, Signal::Kill);
                    }
                    return Event::Spawned { attempt, instance };
                }
                Err(StartError::PortTaken(message)) => {
                    self.shared.ports.avoid(self.ready.port);
                    return Event::PortTaken { attempt, message };
                }
                Err(StartError::Refused(message)) => return Event::SpawnFailed { attempt, message },
                Err(StartError::Engine(message)) => message,
            };
            if tries == TRIES {
                return Event::SpawnFailed { attempt, message: format!("{message}; tried {TRIES} times") };
            }
            tracing::warn!(replica_id = %self.name.replica, error = message, tries, "container not made");
            self.reporter.say(None, format!("{message}; trying again in {}", human(wait)));
            let (docker, reporter) = (self.shared.drivers.docker(), &self.reporter);
            let waiting = async {
                tokio::time::sleep(wait).await;
                // It was there a moment ago.
                until_engine(docker, reporter, true).await
            };
            tokio::select! {
                waited = waiting => if let Err(gone) = waited {
                    return Event::SpawnFailed { attempt, message: gone.message };
                },
                _ = self.unwanted.wait_for(|unwanted| *unwanted) => {
                    return Event::SpawnFailed { attempt, message };
                }
            }
            wait *= 2;
            tries += 1;
        }
    }

    async fn once(&self) -> Result<ContainerRef, StartError> {
        let (shared, spec, logs, ready) =
            (Arc::clone(&self.shared), Arc::clone(&self.spec), Arc::clone(&self.logs), self.ready.clone());
        let looking = tokio::task::spawn_blocking(move || {
            logs.begin(ready.attempt).map_err(|error| format!("its log cannot be made: {error}"))?;
            let model = ready.local_model.as_deref();
            let plan = runtimes::container_plan(&spec, ready.port, &shared.tools, &ready.gpu_uuids, model);
            plan.map_err(|error| error.to_string())
        });
        let plan = looking.await.unwrap_or_else(|_| Err("the agent failed while it looked".to_owned()));
        let plan = plan.map_err(StartError::Refused)?;
        self.shared.drivers.docker().start(&plan, &self.name).await
    }
}
