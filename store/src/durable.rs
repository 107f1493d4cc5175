//! Any engine, made so that what was synced can always be had back: each batch is numbered, and is in our own log too.
//!
//! **Order of a commit.** `apply` appends the batch to the log of batches and then gives it, with its number, to the
//! engine; `sync` waits for the disk for both. Only then is anybody told. A crash before that leaves the batch in the
//! log, in the engine, in both or in none; the next start brings both to the same number, and whoever was not told
//! learns by reading. After an error nothing is known about the disk any more, so nothing more is written: the engine
//! has to be opened again.

use std::path::PathBuf;

use crate::{
    engine::{Engine, EngineError, Entries, Exports, FinishExport, Writes},
    exports,
    info::ExportInfo,
    layout::Layout,
    mark::Mark,
    redo::Redo,
    seq,
};

/// The log of batches may grow by so much before an export is wanted, in bytes.
pub(crate) const REDO_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// See the top of this file.
pub(crate) struct Durable<E> {
    engine: E,
    layout: Layout,
    redo: Redo,
    mark: Mark,
    /// The number of the last batch.
    seq: u64,
    /// Bytes in the log since the last export was begun.
    redo_bytes: u64,
    /// The log does not reach back to the newest export.
    broken_chain: bool,
    /// An error left it unknown what is on disk.
    failed: bool,
}

impl<E: Engine> Durable<E> {
    /// Goes on after batch `seq`, which is durable in `engine`, with `redo` for what comes next.
    pub(crate) fn new(engine: E, layout: Layout, redo: Redo, mark: Mark, seq: u64) -> Self {
        Self { engine, layout, redo, mark, seq, redo_bytes: 0, broken_chain: false, failed: false }
    }

    /// Tells what the log holds already: its bytes, and whether it lacks something since the newest export.
    pub(crate) fn found_redo(mut self, bytes: u64, broken_chain: bool) -> Self {
        self.redo_bytes = bytes;
        self.broken_chain = broken_chain;
        self
    }

    /// Runs a step after which, if it fails, it is not known what is on disk.
    fn step<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, EngineError>) -> Result<T, EngineError> {
        if self.failed {
            return Err(EngineError::other("an earlier write failed"));
        }
        // A panic counts as well.
        self.failed = true;
        let outcome = step(self)?;
        self.failed = false;
        Ok(outcome)
    }
}

impl<E: Engine> Engine for Durable<E> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine.get(key)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Entries, EngineError> {
        self.engine.scan(prefix)
    }

    fn visit(&self, prefix: &[u8], see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError> {
        self.engine.visit(prefix, see)
    }

    fn apply(&mut self, mut writes: Writes) -> Result<(), EngineError> {
        self.step(|this| {
            let number = this.seq.saturating_add(1);
            let appended = this.redo.append(number, &writes);
            let bytes = appended.map_err(|error| EngineError::io("write to the log of batches", &error))?;
            this.redo_bytes = this.redo_bytes.saturating_add(bytes);
            writes.insert(seq::KEY.to_vec(), Some(seq::sealed(number)));
            this.engine.apply(writes)?;
            this.seq = number;
            Ok(())
        })
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.step(|this| {
            this.engine.sync()?;
            this.redo.sync().map_err(|error| EngineError::io("fdatasync of the log of batches", &error))
        })?;
        // All is durable; an older note only tells less.
        if let Err(error) = self.mark.note(self.seq) {
            tracing::warn!(%error, "mark of the last durable write not updated");
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.engine.size_bytes()
    }
}

impl<E: Engine> Exports for Durable<E> {
    fn begin_export(&mut self, target: Option<PathBuf>) -> Result<FinishExport, EngineError> {
        if target.is_some() {
            return exports::begin(|see| self.engine.visit(b"", see), self.seq, &self.layout, target);
        }
        // A new file now, so that whole files can go as soon as the exports hold all that is in them. Whether this
        // export is ever finished does not matter: files only go by what the exports that are there hold.
        let first = self.seq.saturating_add(1);
        self.redo.rotate(first).map_err(|error| EngineError::io("new log of batches", &error))?;
        let finish = exports::begin(|see| self.engine.visit(b"", see), self.seq, &self.layout, None)?;
        self.redo_bytes = 0;
        Ok(finish)
    }

    fn exported(&mut self, _export: &ExportInfo) -> Result<(), EngineError> {
        self.broken_chain = false;
        Ok(())
    }

    fn seq(&self) -> u64 {
        self.seq
    }

    fn wants_export(&self) -> bool {
        self.broken_chain || self.redo_bytes > REDO_MAX_BYTES
    }
}
