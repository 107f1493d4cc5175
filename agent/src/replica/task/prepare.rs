//! Getting ready for a start: a port, a driver, the GPUs, the model, the image. It takes as long as it takes, tells how
//! far it is, and can be given up at any moment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::duration::human;
use nebula_core::ids::ReplicaId;
use nebula_core::runtime::Driver;
use tokio::sync::mpsc;

use super::{News, Task};
use crate::driver::docker::{Docker, EngineStatus};
use crate::models::ModelError;
use crate::progress::Reporter;
use crate::replica::machine::{Entry, Event, FailureReason};
use crate::replica::manager::Inner;
use crate::replica::spec::Spec;
use crate::runtimes;

/// Tries of what may go well a little later.
pub(super) const TRIES: u32 = 3;
/// Before the second try; doubles before the third.
pub(super) const RETRY_FIRST: Duration = Duration::from_secs(10);
/// How long an Engine is waited for that hangs, or has gone away.
const ENGINE_WAIT: Duration = Duration::from_secs(15 * 60);

/// How long an agent that has just started may take to learn its GPUs.
const GPUS_WAIT: Duration = Duration::from_secs(30);

/// What one attempt needs, as it was found.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) attempt: u32,
    pub(super) port: u16,
    pub(super) driver: Driver,
    pub(super) gpu_uuids: Vec<String>,
    /// Where the model was fetched to, if it was.
    pub(super) local_model: Option<PathBuf>,
}

/// Why it is not ready.
#[derive(Debug)]
pub(super) struct Unprepared {
    reason: FailureReason,
    pub(super) message: String,
    /// It may go well a little later.
    passing: bool,
}

impl Unprepared {
    fn lasting(message: impl ToString) -> Self {
        Self { reason: FailureReason::Prepare, message: message.to_string(), passing: false }
    }

    fn image(error: &impl ToString) -> Self {
        let message = without("image_pull: ", error.to_string());
        Self { reason: FailureReason::ImagePull, message, passing: false }
    }

    fn gpu(message: String) -> Self {
        Self { reason: FailureReason::Gpu, message: without("gpu: ", message), passing: false }
    }
}

impl From<ModelError> for Unprepared {
    fn from(error: ModelError) -> Self {
        let passing = error.is_retryable();
        Self { reason: FailureReason::Model, message: error.message().to_owned(), passing }
    }
}

/// The reason of a failure is told beside its message, not in it.
pub(super) fn without(prefix: &str, message: String) -> String {
    message.strip_prefix(prefix).map(str::to_owned).unwrap_or(message)
}

/// One preparation.
struct Preparation {
    shared: Arc<Inner>,
    spec: Arc<Spec>,
    replica: ReplicaId,
    attempt: u32,
    /// The port it had, or wants; 0: any.
    port: u16,
    /// It was healthy once.
    has_run: bool,
    reporter: Reporter,
    own: mpsc::Sender<News>,
}

impl Task {
    /// Begins to prepare an attempt. One that is under way is given up.
    pub(super) fn prepare(&mut self, attempt: u32) {
        self.abort_preparation();
        let state = self.machine.state();
        let preparation = Preparation {
            shared: Arc::clone(&self.shared),
            spec: Arc::clone(self.machine.spec()),
            replica: state.replica,
            attempt,
            port: state.port,
            has_run: state.ever_healthy,
            reporter: self.reporter.clone(),
            own: self.own.0.clone(),
        };
        self.preparing = Some(self.tell(preparation.run()));
    }

    pub(super) fn abort_preparation(&mut self) {
        if let Some(preparing) = self.preparing.take() {
            preparing.abort();
        }
    }
}

impl Preparation {
    async fn run(self) -> News {
        let attempt = self.attempt;
        let mut wait = RETRY_FIRST;
        let mut tries = 1;
        loop {
            let failed = match self.once().await {
                Ok(ready) => return News::Ready(ready),
                Err(failed) => failed,
            };
            let Unprepared { reason, message, passing } = failed;
            if !passing || tries == TRIES {
                let message = if passing { format!("{message}; tried {TRIES} times") } else { message };
                return News::Event(Event::PrepareFailed { attempt, reason, message });
            }
            tracing::warn!(replica_id = %self.replica, error = message, tries, "replica not prepared");
            self.reporter.say(None, format!("{message}; trying again in {}", human(wait)));
            tokio::time::sleep(wait).await;
            wait *= 2;
            tries += 1;
        }
    }

    async fn once(&self) -> Result<Ready, Unprepared> {
        self.reporter.clear();
        let port = self.claim().await?;
        let driver = self.driver().await?;
        let gpu_uuids = self.gpus().await?;
        if driver == Driver::Process {
            self.program().await?;
        }
        let (spec, reporter) = (&self.spec, &self.reporter);
        let fetching = self.shared.models.fetch(spec, reporter);
        let local_model = self.told("fetching", "fetched", fetching).await?;
        reporter.clear();
        let ready = Ready { attempt: self.attempt, port, driver, gpu_uuids, local_model };
        if let Some(image) = self.check(&ready).await? {
            self.image(&image).await?;
        }
        reporter.clear();
        Ok(ready)
    }

    async fn claim(&self) -> Result<u16, Unprepared> {
        let (shared, replica, port) = (Arc::clone(&self.shared), self.replica, self.port);
        blocking(move || shared.ports.claim(replica, port).map_err(Unprepared::lasting)).await
    }

    /// How it is run. An Engine that hangs counts as one that is there, and is waited for; so does one that has gone.
    async fn driver(&self) -> Result<Driver, Unprepared> {
        let status = self.shared.drivers.engine().await;
        let is_there = !matches!(status, EngineStatus::Absent { .. }) || self.expects_engine();
        let (shared, spec) = (Arc::clone(&self.shared), Arc::clone(&self.spec));
        let driver = blocking(move || {
            let chosen = runtimes::choose_driver(&spec, shared.node_driver, is_there, &shared.tools);
            chosen.map_err(Unprepared::lasting)
        });
        let driver = driver.await?;
        if driver == Driver::Docker {
            self.engine().await?;
        }
        Ok(driver)
    }

    /// Whether an Engine that is away will be back: it was there before, or the replica has run and the machine may just
    /// be coming up. On a machine that never had one, who deployed hears of it soon.
    fn expects_engine(&self) -> bool {
        self.has_run || self.shared.drivers.docker().has_answered()
    }

    async fn engine(&self) -> Result<(), Unprepared> {
        until_engine(self.shared.drivers.docker(), &self.reporter, self.expects_engine()).await
    }

    async fn gpus(&self) -> Result<Vec<String>, Unprepared> {
        if self.spec.gpu_devices.is_empty() {
            return Ok(Vec::new());
        }
        self.shared.gpus.first_look(GPUS_WAIT).await;
        self.shared.gpus.resolve(&self.spec.gpu_devices).map_err(Unprepared::gpu)
    }

    /// Looks for what a process needs beside its model, before that is fetched.
    async fn program(&self) -> Result<(), Unprepared> {
        let (shared, spec) = (Arc::clone(&self.shared), Arc::clone(&self.spec));
        blocking(move || runtimes::check_program(&spec, &shared.tools).map_err(Unprepared::lasting)).await
    }

    /// Looks whether all that is left to have is there. The image, if it is to be a container.
    async fn check(&self, ready: &Ready) -> Result<Option<String>, Unprepared> {
        let (shared, spec, ready) = (Arc::clone(&self.shared), Arc::clone(&self.spec), ready.clone());
        blocking(move || {
            let (tools, model) = (&shared.tools, ready.local_model.as_deref());
            match ready.driver {
                Driver::Process => {
                    runtimes::plan(&spec, ready.port, tools, &ready.gpu_uuids, model).map(|_| None)
                }
                Driver::Docker => {
                    let plan = runtimes::container_plan(&spec, ready.port, tools, &ready.gpu_uuids, model);
                    plan.map(|plan| Some(plan.image))
                }
            }
            .map_err(Unprepared::lasting)
        })
        .await
    }

    /// Has the image pulled. What fails because the Engine went away is begun again when it is back.
    async fn image(&self, image: &str) -> Result<(), Unprepared> {
        let docker = self.shared.drivers.docker();
        loop {
            let bringing = docker.ensure_image(image, &self.reporter);
            let Err(error) = self.told("pulling", "pulled", bringing).await else { return Ok(()) };
            if docker.status().is_ready() {
                return Err(Unprepared::image(&error));
            }
            tracing::warn!(replica_id = %self.replica, %error, "docker engine went away during a pull");
            self.engine().await?;
        }
    }

    /// Does something and writes two lines in the journal about it, if it has anything to say on its way.
    async fn told<T, E: ToString>(
        &self,
        begins: &'static str,
        ends: &'static str,
        doing: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut progress = self.reporter.subscribe();
        let mut doing = std::pin::pin!(doing);
        let speaks = async {
            let word = progress.wait_for(|word| !word.message.is_empty()).await;
            word.map(|word| word.message.clone()).unwrap_or_default()
        };
        let first = tokio::select! {
            biased;
            done = &mut doing => return done,
            first = speaks => first,
        };
        self.note(begins, first).await;
        let done = doing.await;
        if done.is_ok() {
            self.note(ends, "it is on this node now".to_owned()).await;
        }
        done
    }

    async fn note(&self, kind: &'static str, message: String) {
        let entry = Entry { kind, message };
        // A task that has ended needs no journal.
        let _ = self.own.send(News::Event(Event::Noted { attempt: self.attempt, entry })).await;
    }
}

/// Waits for the Engine; for one that is away only with `is_expected`.
pub(super) async fn until_engine(
    docker: &Docker,
    reporter: &Reporter,
    is_expected: bool,
) -> Result<(), Unprepared> {
    let mut status = docker.subscribe();
    let waiting = async {
        loop {
            let now = status.borrow_and_update().clone();
            match now {
                EngineStatus::Ready { .. } => return Ok(()),
                EngineStatus::Absent { error } if !is_expected => {
                    return Err(Unprepared { passing: true, ..Unprepared::lasting(error) });
                }
                EngineStatus::Absent { error } | EngineStatus::Unresponsive { error, .. } => {
                    reporter.say(None, format!("waits for the Docker Engine: {error}"));
                }
                EngineStatus::Unknown => reporter.say(None, "waits for the Docker Engine"),
            }
            if status.changed().await.is_err() {
                return Err(Unprepared::lasting("the agent is stopping"));
            }
        }
    };
    tokio::time::timeout(ENGINE_WAIT, waiting).await.unwrap_or_else(|_| {
        let limit = human(ENGINE_WAIT);
        Err(Unprepared::lasting(format!("the Docker Engine did not answer within {limit}; restart it")))
    })
}

/// Runs something that may block.
async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, Unprepared> + Send + 'static,
) -> Result<T, Unprepared> {
    let looking = tokio::task::spawn_blocking(look).await;
    looking.unwrap_or_else(|_| Err(Unprepared::lasting("the agent failed while it looked")))
}

#[cfg(test)]
mod tests {
    use nebula_core::clock::Clock;

    use super::*;
    use crate::driver::docker::Settings;

    #[tokio::test]
    async fn an_engine_that_is_away_is_waited_for_only_when_it_will_be_back() {
        let docker = Docker::new(Settings {
            host: Some("unix:///nowhere/docker.sock".to_owned()),
            agent_id: "agent".to_owned(),
            memory_limit: None,
            clock: Clock::start(),
        });
        let docker = docker.expect("a driver");
        let looking = tokio::spawn(docker.clone().run());
        let reporter = Reporter::default();
        let never_there = until_engine(&docker, &reporter, false).await.expect_err("nobody is there");
        assert!(never_there.passing && never_there.message.contains("cannot be reached"));
        let mut told = reporter.subscribe();
        let says = told.wait_for(|word| word.message.starts_with("waits for the Docker Engine: "));
        tokio::select! {
            _ = until_engine(&docker, &reporter, true) => panic!("nobody is there"),
            said = says => assert!(said.is_ok()),
        }
        assert!(!docker.has_answered());
        looking.abort();
    }
}
