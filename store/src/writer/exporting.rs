//! Exports while the store runs: in turn, on a timer or when asked. The thread of the store writes the entries; waiting
//! for the disk is done by another one.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    time::Duration,
};

use nebula_core::clock::{Tick, wall_now};

use super::group::ExportAsk;
use crate::{
    engine::FinishExport,
    error::{ExportFailed, ReadError},
    info::ExportInfo,
};

/// Exports that may wait for one that runs.
const WAITING_MAX: usize = 8;
/// The pause after an export that failed, before one is made again by itself.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// When exports are made, and the one that is being made.
pub(super) struct Exporting {
    every: Option<Duration>,
    due: Option<Tick>,
    /// After a failure nothing is tried by itself before this.
    not_before: Tick,
    exported_seq: Option<u64>,
    waiting: VecDeque<ExportAsk>,
    running: Option<Running>,
}

/// An export whose entries are written.
struct Running {
    ask: Option<ExportAsk>,
    done: Receiver<io::Result<ExportInfo>>,
    /// It is among the store's own.
    own: bool,
    /// The engine that wrote it is still the one in use.
    same_engine: bool,
}

/// An export that has ended.
pub(super) struct Ended {
    ask: Option<ExportAsk>,
    pub(super) own: bool,
    pub(super) same_engine: bool,
    pub(super) result: Result<ExportInfo, String>,
}

/// What to export next.
pub(super) enum Next {
    Asked(ExportAsk),
    Due,
}

impl Exporting {
    /// The first one is due when `last` is old enough.
    pub(super) fn new(every: Option<Duration>, last: Option<&ExportInfo>, now: Tick) -> Self {
        let age = last.map(|last| Duration::from_millis(wall_now().0.saturating_sub(last.at.0)));
        let wait = |every: Duration| age.map_or(Duration::ZERO, |age| every.saturating_sub(age));
        Self {
            every,
            due: every.map(|every| now.plus(wait(every))),
            not_before: now,
            exported_seq: last.map(|last| last.seq),
            waiting: VecDeque::new(),
            running: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Takes a request in; a queue that is full turns it away.
    pub(super) fn ask(&mut self, ask: ExportAsk) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(ask);
        } else {
            ask.turn_away(ReadError::Overloaded);
        }
    }

    /// What to begin now: what was asked for, or one that is due. `unasked` is nothing when only what was asked for is
    /// made, and else the number of the last write and whether the engine wants an export before its time; without a
    /// write since the last export, none is due.
    pub(super) fn next(&mut self, now: Tick, unasked: Option<(u64, bool)>) -> Option<Next> {
        if self.running.is_some() {
            return None;
        }
        if let Some(ask) = self.waiting.pop_front() {
            return Some(Next::Asked(ask));
        }
        let (seq, wanted) = unasked?;
        let due = self.due.is_some_and(|due| now >= due);
        if now < self.not_before || !(due || wanted) {
            return None;
        }
        self.due = self.every.map(|every| now.plus(every));
        (wanted || self.exported_seq != Some(seq)).then_some(Next::Due)
    }

    /// Lets another thread finish an export.
    pub(super) fn run(&mut self, next: Next, finish: FinishExport) {
        let (own, ask) = (next.target().is_none(), next.ask());
        let (report, done) = sync_channel(1);
        self.running = Some(Running { ask, done, own, same_engine: true });
        let work = move || {
            // Nobody listens when the store was closed meanwhile.
            let _ = report.send(finish());
        };
        // Without a thread the work is dropped, and that shows like one that ended early.
        if let Err(error) = std::thread::Builder::new().name("store-export".to_owned()).spawn(work) {
            tracing::warn!(%error, "thread of an export not started");
        }
    }

    /// The export that has ended, if one has.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        let result = match self.running.as_ref()?.done.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err("its thread ended early".to_owned()),
            Ok(result) => result.map_err(|error| error.to_string()),
        };
        self.take(result)
    }

    /// Waits for the export that runs, if one does.
    pub(super) fn wait(&mut self) -> Option<Ended> {
        let result = match self.running.as_ref()?.done.recv() {
            Err(_) => Err("its thread ended early".to_owned()),
            Ok(result) => result.map_err(|error| error.to_string()),
        };
        self.take(result)
    }

    fn take(&mut self, result: Result<ExportInfo, String>) -> Option<Ended> {
        let Running { ask, own, same_engine, .. } = self.running.take()?;
        Some(Ended { ask, own, same_engine, result })
    }

    /// Notes how an export of the store's own ended.
    pub(super) fn note(&mut self, result: &Result<ExportInfo, String>, now: Tick) {
        match result {
            Ok(info) => {
                self.exported_seq = Some(info.seq);
                self.due = self.every.map(|every| now.plus(every));
            }
            Err(_) => {
                self.not_before = now.plus(RETRY_AFTER);
                self.due = self.every.map(|_| self.not_before);
            }
        }
    }

    /// The engine is given up: nothing that waits can be begun.
    pub(super) fn engine_gone(&mut self, why: ReadError) {
        self.waiting.drain(..).for_each(|ask| ask.turn_away(why));
        if let Some(running) = &mut self.running {
            running.same_engine = false;
        }
    }
}

impl Ended {
    /// Tells whoever asked.
    pub(super) fn tell(self) {
        if let Some(ask) = self.ask {
            let _ = ask.reply.send(self.result.map_err(ExportFailed::Failed));
        }
    }
}

impl Next {
    /// The file it is to become, unless it is one of the store's own.
    pub(super) fn target(&self) -> Option<PathBuf> {
        match self {
            Self::Asked(ask) => ask.target.clone(),
            Self::Due => None,
        }
    }

    /// An export that could not be begun.
    pub(super) fn failed(self, error: String) -> Ended {
        Ended { own: self.target().is_none(), ask: self.ask(), same_engine: true, result: Err(error) }
    }

    fn ask(self) -> Option<ExportAsk> {
        match self {
            Self::Asked(ask) => Some(ask),
            Self::Due => None,
        }
    }
}
