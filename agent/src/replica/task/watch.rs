//! Following what runs: its end, its health, its progress, its GPUs.

use std::sync::Arc;

use nebula_core::duration::human;
use nebula_core::ids::ReplicaId;
use tokio::sync::mpsc;

use super::prepare::{RETRY_FIRST, TRIES, without};
use super::{News, Task, guard, tail};
use crate::driver::logs::Log;
use crate::gpu::Gpus;
use crate::progress::Reporter;
use crate::replica::health;
use crate::replica::machine::{Event, FailureReason};
use crate::replica::manager::Inner;
use crate::replica::spec::{Instance, Spec};
use crate::runtimes;

/// What is needed to follow an attempt.
struct Following {
    shared: Arc<Inner>,
    spec: Arc<Spec>,
    replica: ReplicaId,
    attempt: u32,
    port: u16,
    instance: Instance,
    log: Arc<Log>,
    reporter: Reporter,
    gpu_uuids: Vec<String>,
    own: mpsc::Sender<News>,
}

impl Task {
    pub(super) fn watch(&mut self, attempt: u32, instance: Instance) {
        let (state, log) = (self.machine.state(), self.logs.of(attempt));
        let (replica, port) = (state.replica, state.port);
        let (drivers, child) = (self.shared.drivers.clone(), self.child.take());
        self.watcher = Some(self.tell(async move {
            let ended = drivers.watch(instance, child, replica, port, log).await;
            News::Event(Event::Exited { attempt, ended })
        }));
    }

    /// Asks for its health until it is healthy, and follows its progress meanwhile.
    pub(super) fn probe(&mut self, attempt: u32) {
        self.abort_probe();
        let Some(following) = self.following(attempt) else { return };
        self.probe = Some(self.tell(async move {
            let event = tokio::select! {
                event = following.until_ready() => event,
                event = following.until_gpu_lost() => event,
                event = following.progress() => event,
            };
            News::Event(event)
        }));
    }

    /// Asks whether it still answers, for as long as it runs.
    pub(super) fn guard(&mut self, attempt: u32) {
        self.abort_probe();
        let Some(following) = self.following(attempt) else { return };
        self.probe = Some(self.tell(async move {
            let event = tokio::select! {
                event = following.guard() => event,
                event = following.until_gpu_lost() => event,
            };
            News::Event(event)
        }));
    }

    pub(super) fn abort_probe(&mut self) {
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
    }

    fn following(&self, attempt: u32) -> Option<Following> {
        let state = self.machine.state();
        let ready = self.ready.as_ref().filter(|ready| ready.attempt == attempt);
        Some(Following {
            shared: Arc::clone(&self.shared),
            spec: Arc::clone(self.machine.spec()),
            replica: state.replica,
            attempt,
            port: state.port,
            instance: state.phase.instance()?,
            log: self.logs.of(attempt),
            reporter: self.reporter.clone(),
            gpu_uuids: ready.map(|ready| ready.gpu_uuids.clone()).unwrap_or_default(),
            own: self.own.0.clone(),
        })
    }
}

impl Following {
    async fn tell(&self, event: Event) {
        // A task that has ended needs no news.
        let _ = self.own.send(News::Event(event)).await;
    }

    async fn until_ready(&self) -> Event {
        let (attempt, health) = (self.attempt, runtimes::health(self.spec.runtime));
        health::until_ready(self.port, health, self.instance.process(), self.replica).await;
        match self.load().await {
            Ok(()) => Event::Healthy { attempt },
            Err(message) => Event::Broken { attempt, reason: FailureReason::Model, message },
        }
    }

    /// Has a runtime that comes up without its model load it.
    async fn load(&self) -> Result<(), String> {
        let Some(tag) = runtimes::model_to_load(&self.spec) else { return Ok(()) };
        let mut wait = RETRY_FIRST;
        let mut tries = 1;
        loop {
            let name = &self.spec.served_name;
            let loading = self.shared.models.load_into_ollama(self.port, &tag, name, &self.reporter);
            let Err(error) = loading.await else { return Ok(()) };
            let message = without("model: ", error.to_string());
            if !error.is_retryable() {
                return Err(message);
            }
            if tries == TRIES {
                return Err(format!("{message}; tried {TRIES} times"));
            }
            tracing::warn!(replica_id = %self.replica, error = message, tries, "model not loaded");
            self.reporter.say(None, format!("{message}; trying again in {}", human(wait)));
            tokio::time::sleep(wait).await;
            wait *= 2;
            tries += 1;
        }
    }

    /// Tells whatever gets on, in the log or in what is reported. Never resolves.
    async fn progress(&self) -> Event {
        let mut tail = tail::Tail::new(Arc::clone(&self.log));
        let mut last = self.reporter.newest();
        loop {
            tokio::time::sleep(tail::LOOK_EVERY).await;
            let runtime = self.spec.runtime;
            let said = tail.next(move |line| runtimes::progress(runtime, line)).await;
            if let Some(progress) = said {
                self.reporter.say(progress.percent, progress.message);
            }
            let now = self.reporter.newest();
            if now != last && !now.message.is_empty() {
                self.tell(Event::Progressed { attempt: self.attempt }).await;
            }
            last = now;
        }
    }

    /// Tells when it answers nothing any more, and when it does again. Never resolves.
    async fn guard(&self) -> Event {
        let attempt = self.attempt;
        let path = runtimes::health(self.spec.runtime).path;
        // The way to a container leads through the Engine, which takes it along when it is stopped or upgraded.
        let docker = self.shared.drivers.docker();
        let is_excused = || self.instance.container().is_some() && !docker.status().is_ready();
        let tell = |news| {
            self.tell(match news {
                guard::News::Silent(message) => Event::Silent { attempt, message },
                guard::News::Excused => Event::Excused { attempt },
                guard::News::Answering => Event::Answering { attempt },
            })
        };
        guard::guard(self.port, path, guard::ASK_EVERY, is_excused, tell).await;
        std::future::pending().await
    }

    /// Resolves when a GPU that it uses is lost.
    async fn until_gpu_lost(&self) -> Event {
        let wanted = &self.spec.gpu_devices;
        if wanted.is_empty() {
            return std::future::pending().await;
        }
        let mut changes = self.shared.gpus.subscribe();
        let mut uuids = self.gpu_uuids.clone();
        loop {
            if let Some(message) = lost(&self.shared.gpus, wanted, &uuids) {
                return Event::Broken { attempt: self.attempt, reason: FailureReason::Gpu, message };
            }
            // An agent that has just started may know its GPUs later than its replicas.
            if uuids.is_empty() {
                uuids = self.shared.gpus.resolve(wanted).unwrap_or_default();
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// What is wrong with one of some GPUs; they are named by their UUIDs or, as long as these are not known, by index.
fn lost(gpus: &Gpus, indices: &[u32], uuids: &[String]) -> Option<String> {
    let inventory = gpus.inventory();
    let mut used = inventory.gpus.iter().filter(|gpu| {
        if uuids.is_empty() { indices.contains(&gpu.index) } else { uuids.contains(&gpu.uuid) }
    });
    used.find(|gpu| gpu.is_lost).map(|gpu| {
        let problem = gpu.problem.as_deref().unwrap_or("is lost");
        format!("gpu {}: {problem}", gpu.index)
    })
}
