//! The one thread that owns the engine: takes what is queued as a group, commits it with one sync, then answers. In
//! between it looks after the disk, exports, and an engine that has to be opened again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use nebula_core::clock::{Clock, Tick};

use crate::{
    disk::{Disk, DiskLevel},
    engine::{EngineError, Exports, Opened, Trouble},
    error::{OpenError, ReadError},
    info::ExportInfo,
    machine::{Effect, Event, Machine},
    quarantine,
    status::{Shared, StoreState, panic_text},
};

mod commit;
mod exporting;
mod group;
mod read;

use exporting::{Ended, Exporting};
use group::Group;
pub(crate) use group::{ExportAsk, Read, Request};

/// How long the thread waits for a request before it looks after the rest.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// The same while another thread finishes an export.
const EXPORT_WAIT: Duration = Duration::from_millis(20);

/// Opens the engine again.
pub(crate) type Reopen<E> = Box<dyn FnMut() -> Result<Opened<E>, OpenError> + Send>;

/// What a writer starts with.
pub(crate) struct Start<E> {
    pub(crate) opened: Opened<E>,
    pub(crate) reopen: Reopen<E>,
    pub(crate) disk: Disk,
    pub(crate) export_every: Option<Duration>,
}

pub(crate) struct Writer<E> {
    engine: Option<E>,
    reopen: Reopen<E>,
    machine: Machine,
    disk: Disk,
    exporting: Exporting,
    shared: Arc<Shared>,
    clock: Clock,
    /// Records set aside since the process started.
    set_aside: u64,
}

impl<E: Exports> Writer<E> {
    /// A writer that serves. What `shared` says is what it says.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub(crate) fn new(start: Start<E>, shared: Arc<Shared>) -> Result<Self, EngineError> {
        let clock = Clock::start();
        let Start { opened, reopen, mut disk, export_every } = start;
        let now = clock.now();
        disk.look(now);
        shared.set_disk(disk.status());
        let exporting = Exporting::new(export_every, opened.last_export.as_ref(), now);
        if let Some(last) = &opened.last_export {
            shared.exported(Ok(last.clone()));
        }
        let machine = Machine::new();
        let mut writer = Self { engine: None, reopen, machine, disk, exporting, shared, clock, set_aside: 0 };
        writer.take_up(opened)?;
        Ok(writer)
    }

    /// Serves requests until it is told to close or nobody is left to ask.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            self.tend();
            match requests.recv_timeout(self.pause()) {
                Ok(first) => {
                    let group = Group::collect(first, requests);
                    self.shared.queued.fetch_sub(u64::try_from(group.len()).unwrap_or(0), Relaxed);
                    let close = group.close;
                    self.serve(group);
                    if close {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(ended) = self.exporting.wait() {
            self.end_export(ended);
        }
        self.exporting.engine_gone(ReadError::Closed);
        self.shut();
        if self.shared.state() != StoreState::Failed {
            for request in requests.try_iter() {
                let mut group = Group::default();
                group.add(request);
                group.turn_away(ReadError::Closed);
            }
        }
    }

    /// How long to wait for a request.
    fn pause(&self) -> Duration {
        let pause = if self.exporting.is_running() { EXPORT_WAIT } else { IDLE_WAIT };
        let now = self.clock.now();
        self.machine.deadline().map_or(pause, |deadline| pause.min(deadline.since(now)))
    }

    /// Commits and reads of one group, in this order; its exports are begun afterwards.
    fn serve(&mut self, mut group: Group) {
        if self.engine.is_some() {
            self.guard(|writer| writer.work(&mut group));
            // A commit that is left was begun: nobody knows whether it was applied, and a reply that is dropped says so.
            group.commits.clear();
        }
        if self.shared.state() == StoreState::Reopening {
            group.turn_away(ReadError::Unavailable);
        }
    }

    fn work(&mut self, group: &mut Group) -> Result<(), EngineError> {
        if !group.commits.is_empty() {
            let Self { engine: Some(engine), disk, shared, .. } = self else { return Err(gone()) };
            let allows = |purpose| disk.allows(purpose);
            let verdicts = commit::commit(engine, &mut group.commits, allows, shared)?;
            shared.size_bytes.store(engine.size_bytes(), Relaxed);
            for ((_, reply), verdict) in group.commits.drain(..).zip(verdicts) {
                // Whoever dropped the future does not want to know.
                let _ = reply.send(verdict);
            }
        }
        while let Some(read) = group.reads.pop_front() {
            self.answer(read)?;
        }
        group.exports.drain(..).for_each(|ask| self.exporting.ask(ask));
        Ok(())
    }

    /// What is to be done between two groups.
    fn tend(&mut self) {
        let now = self.clock.now();
        self.disk.look(now);
        self.shared.set_disk(self.disk.status());
        self.happened(Event::Tick, now);
        if let Some(ended) = self.exporting.ended() {
            self.end_export(ended);
        }
        self.guard(Self::begin_export);
    }

    /// Begins an export if one is asked for, due, or wanted by the engine. On a full disk none is made unasked.
    fn begin_export(&mut self) -> Result<(), EngineError> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let (now, unasked) = (self.clock.now(), self.disk.status().level < DiskLevel::Full);
        let wanted = engine.wants_export();
        let Some(next) = self.exporting.next(now, unasked.then_some((engine.seq(), wanted))) else {
            return Ok(());
        };
        match engine.begin_export(next.target()) {
            Ok(finish) => self.exporting.run(next, finish),
            Err(error) => self.end_export(next.failed(error.to_string())),
        }
        Ok(())
    }

    fn end_export(&mut self, ended: Ended) {
        if ended.own {
            self.exporting.note(&ended.result, self.clock.now());
            self.shared.exported(ended.result.clone());
        }
        match &ended.result {
            Ok(info) => {
                let ExportInfo { path, seq, records, bytes, took_ms, .. } = info;
                tracing::info!(path = %path.display(), seq, records, bytes, took_ms, "store exported");
            }
            Err(error) => tracing::warn!(%error, "store not exported"),
        }
        if let (true, true, Ok(info)) = (ended.own, ended.same_engine, &ended.result) {
            let info = info.clone();
            self.guard(|writer| writer.engine()?.exported(&info));
        }
        ended.tell();
    }

    /// Does work on the engine; an error or a panic is what happened to it.
    fn guard(&mut self, work: impl FnOnce(&mut Self) -> Result<(), EngineError>) {
        self.shared.enter();
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self)));
        self.shared.leave();
        let event = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.into(),
            Err(panic) => Event::Panicked(panic_text(panic.as_ref())),
        };
        self.happened(event, self.clock.now());
    }

    fn happened(&mut self, event: Event, now: Tick) {
        for effect in self.machine.step(event, now) {
            match effect {
                Effect::GiveUp(reason) => {
                    if self.shared.state() == StoreState::Ok {
                        tracing::error!(%reason, "store is opened again");
                    }
                    self.shared.reopen(reason);
                    self.exporting.engine_gone(ReadError::Unavailable);
                    self.shut();
                }
                Effect::Release => {
                    self.disk.found_full(now);
                    self.shared.set_disk(self.disk.status());
                }
                Effect::Open => {
                    let event = self.open();
                    self.happened(event, self.clock.now());
                }
                Effect::Serve => {
                    self.shared.serve();
                    tracing::info!("store is open again");
                }
                Effect::Fail(reason) => {
                    self.shared.fail(reason);
                    self.exporting.engine_gone(ReadError::Failed);
                    self.shut();
                }
            }
        }
    }

    fn open(&mut self) -> Event {
        self.shared.enter();
        // An export of the engine before removes files when it is finished, which must not happen under the next one.
        let export = self.exporting.wait();
        let opened = catch_unwind(AssertUnwindSafe(|| (self.reopen)()));
        self.shared.leave();
        if let Some(ended) = export {
            self.end_export(ended);
        }
        match opened {
            Ok(Ok(opened)) => self.take_up(opened).map_or_else(Event::from, |()| Event::Opened),
            Ok(Err(error @ OpenError::DiskFull { .. })) => Event::Full(error.to_string()),
            Ok(Err(error)) => Event::Broken(error.to_string()),
            Err(panic) => Event::Panicked(panic_text(panic.as_ref())),
        }
    }

    /// Takes an engine into use.
    fn take_up(&mut self, opened: Opened<E>) -> Result<(), EngineError> {
        let Opened { engine, restored, .. } = opened;
        self.shared.set_aside.store(quarantine::count(&engine)?, Relaxed);
        self.shared.size_bytes.store(engine.size_bytes(), Relaxed);
        self.shared.set_restored(restored);
        self.engine = Some(engine);
        Ok(())
    }

    fn engine(&mut self) -> Result<&mut E, EngineError> {
        self.engine.as_mut().ok_or_else(gone)
    }

    fn shut(&mut self) {
        let engine = self.engine.take();
        self.shared.enter();
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            tracing::error!("store's engine panicked while closing");
        }
        self.shared.leave();
    }
}

fn gone() -> EngineError {
    EngineError::other("the engine is closed")
}

impl From<EngineError> for Event {
    fn from(error: EngineError) -> Self {
        match error.trouble {
            Trouble::NoSpace => Self::Full(error.text),
            Trouble::Other => Self::Broken(error.text),
        }
    }
}

#[cfg(test)]
mod tests;
