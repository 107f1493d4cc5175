//! An engine in memory that fails, panics or waits on demand, and a writer around it.

use std::{
    path::Path,
    sync::{Mutex, atomic::AtomicU64, mpsc::Receiver as StdReceiver},
};

use nebula_core::clock::wall_now;
use tokio::sync::oneshot::{self, Receiver as Answered};

use std::path::PathBuf;

use super::super::*;
use crate::{
    ballast::Ballast,
    batch::Batch,
    disk::Space,
    engine::{Engine, Entries, FinishExport, Writes},
    error::{CommitError, ExportFailed},
    handle::Store,
    lock,
    record::Record,
    writer::group::Records,
};

pub(super) const GIB: u64 = 1024 * 1024 * 1024;

#[derive(Default)]
pub(super) struct State {
    /// What is applied, and what of it is durable.
    pub(super) map: Writes,
    pub(super) durable: Writes,
    pub(super) applies: usize,
    pub(super) syncs: usize,
    pub(super) opens: usize,
    /// How the next sync fails.
    pub(super) sync_fails: Option<Trouble>,
    /// So many tries to open find a full disk.
    pub(super) full_opens: usize,
    /// How the next try to open fails then.
    pub(super) open_fails: bool,
    pub(super) restored: Option<crate::Restored>,
    pub(super) read_panics: bool,
    /// `apply` waits for a message on it.
    pub(super) gate: Option<StdReceiver<()>>,
    /// The end of an export waits for a message on it.
    pub(super) export_gate: Option<StdReceiver<()>>,
    pub(super) export_fails: bool,
    pub(super) exports: usize,
    pub(super) exported: usize,
}

/// A map in memory; the test keeps a clone.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    pub(super) fn opened(&self) -> Opened<Self> {
        let restored = self.with(|state| state.restored.clone());
        Opened { engine: self.clone(), restored, last_export: None }
    }

    /// What is there after a crash: only what was durable.
    fn open(&self) -> Result<Opened<Self>, OpenError> {
        let path = Path::new("/fake").to_owned();
        self.with(|state| {
            state.opens += 1;
            if state.full_opens > 0 {
                state.full_opens -= 1;
                return Err(OpenError::DiskFull { path });
            }
            if state.open_fails {
                return Err(OpenError::Damaged { path, reason: "as told".to_owned() });
            }
            state.map = state.durable.clone();
            Ok(())
        })?;
        Ok(self.opened())
    }
}

impl Engine for Fake {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let (panics, value) = self
            .with(|state| (std::mem::take(&mut state.read_panics), state.map.get(key).cloned().flatten()));
        assert!(!panics, "as told");
        Ok(value)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Entries, EngineError> {
        let entries = self.with(|state| state.map.clone());
        let wanted = entries.into_iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(wanted.filter_map(|(key, value)| value.map(|value| (key, value))).collect())
    }

    fn apply(&mut self, writes: Writes) -> Result<(), EngineError> {
        let gate = self.with(|state| {
            state.applies += 1;
            state.map.extend(writes);
            state.gate.take()
        });
        if let Some(gate) = gate {
            let _ = gate.recv();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.with(|state| {
            state.syncs += 1;
            match state.sync_fails.take() {
                None => {
                    state.durable = state.map.clone();
                    Ok(())
                }
                Some(trouble) => Err(EngineError { trouble, text: format!("fdatasync: {trouble:?}") }),
            }
        })
    }

    fn size_bytes(&self) -> u64 {
        4096
    }
}

impl Exports for Fake {
    fn seq(&self) -> u64 {
        self.with(|state| state.applies as u64)
    }

    fn wants_export(&self) -> bool {
        false
    }

    fn begin_export(&mut self, target: Option<PathBuf>) -> Result<FinishExport, EngineError> {
        let (gate, fails, seq) = self.with(|state| {
            state.exports += 1;
            (state.export_gate.take(), state.export_fails, state.applies as u64)
        });
        if fails {
            return Err(EngineError { trouble: Trouble::NoSpace, text: "as told".to_owned() });
        }
        Ok(Box::new(move || {
            if let Some(gate) = gate {
                let _ = gate.recv();
            }
            let path = target.unwrap_or_else(|| "own".into());
            Ok(ExportInfo { path, at: wall_now(), schema: 1, seq, records: 1, bytes: 1, took_ms: 1 })
        }))
    }

    fn exported(&mut self, _: &ExportInfo) -> Result<(), EngineError> {
        self.with(|state| state.exported += 1);
        Ok(())
    }
}

pub(super) fn record(n: u8) -> Record {
    Record { kind: 1, schema: 1, payload: vec![n] }
}

/// What a writer on `fake` starts with, on a volume of 1000 GiB of which `free` bytes are free.
pub(super) fn start_on(fake: &Fake, free: Arc<AtomicU64>, ballast: Ballast) -> Start<Fake> {
    let probe = Box::new(move || Ok(Space { free: free.load(Relaxed), total: 1000 * GIB }));
    let again = fake.clone();
    Start {
        opened: fake.opened(),
        reopen: Box::new(move || again.open()),
        disk: Disk::new(probe, ballast),
        export_every: None,
    }
}

pub(super) fn start(fake: &Fake) -> Start<Fake> {
    let ballast = Ballast::find(Path::new("/no/such/directory"), 0, 0);
    start_on(fake, Arc::new(AtomicU64::new(500 * GIB)), ballast)
}

pub(super) fn writer(fake: &Fake) -> Writer<Fake> {
    Writer::new(start(fake), Arc::default()).unwrap()
}

pub(super) fn store(start: Start<Fake>, dir: &Path) -> Store {
    let shared = Arc::<Shared>::default();
    Store::spawn(Writer::new(start, shared.clone()).unwrap(), shared, lock::acquire(dir).unwrap()).unwrap()
}

pub(super) fn commit(group: &mut Group, batch: Batch) -> Answered<Result<(), CommitError>> {
    let (reply, answer) = oneshot::channel();
    group.add(Request::Commit { batch, reply });
    answer
}

pub(super) fn get(group: &mut Group, key: &str) -> Answered<Result<Option<Record>, ReadError>> {
    let (reply, answer) = oneshot::channel();
    group.add(Request::Read(Read::Get { key: key.into(), reply }));
    answer
}

pub(super) fn scan(group: &mut Group, prefix: &str) -> Answered<Result<Records, ReadError>> {
    let (reply, answer) = oneshot::channel();
    group.add(Request::Read(Read::Scan { prefix: prefix.into(), reply }));
    answer
}

pub(super) fn export(group: &mut Group, target: Option<&str>) -> Answered<Result<ExportInfo, ExportFailed>> {
    let (reply, answer) = oneshot::channel();
    group.add(Request::Export(ExportAsk { target: target.map(Into::into), reply }));
    answer
}

/// What the caller sees: an unanswered request is a failed one.
pub(super) fn committed(mut answer: Answered<Result<(), CommitError>>) -> Result<(), CommitError> {
    answer.try_recv().unwrap_or(Err(CommitError::Failed))
}

/// What the caller sees: an unanswered request is a failed one.
pub(super) fn read<T>(mut answer: Answered<Result<T, ReadError>>) -> Result<T, ReadError> {
    answer.try_recv().unwrap_or(Err(ReadError::Failed))
}

/// Commits one batch by itself.
pub(super) fn commit_now(writer: &mut Writer<Fake>, batch: Batch) -> Result<(), CommitError> {
    let mut group = Group::default();
    let answer = commit(&mut group, batch);
    writer.serve(group);
    committed(answer)
}
