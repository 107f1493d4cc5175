//! What is known of the store without its engine: its exports and the log of batches, and the state they add up to.

use std::collections::BTreeMap;

use crate::{
    engine::Writes,
    error::OpenError,
    exports::{
        self, Listed,
        file::{self, ExportError},
    },
    info::ExportInfo,
    layout::Layout,
    redo::Survey,
    seq,
};

/// The exports and the log of a store.
pub(crate) struct History {
    /// Newest first; not checked.
    pub(crate) exports: Vec<Listed>,
    pub(crate) redo: Survey,
}

/// The state that the history adds up to.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// All entries, the number of the last write not among them.
    pub(crate) entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Nothing is missing up to the number that was asked for.
    pub(crate) whole: bool,
    /// The export it starts from; none if it starts from the very first batch.
    pub(crate) export: Option<ExportInfo>,
}

impl History {
    /// Reads the names of the exports, and the whole log.
    pub(crate) fn read(layout: &Layout) -> Result<Self, OpenError> {
        let exports =
            exports::list(&layout.exports()).map_err(|error| OpenError::io(layout.exports(), error))?;
        let redo = Survey::read(&layout.redo()).map_err(|error| OpenError::io(layout.redo(), error))?;
        Ok(Self { exports, redo })
    }

    /// Whether the directory never held a store: a batch or an export is only made of an engine that is in its place.
    pub(crate) fn is_empty(&self) -> bool {
        self.exports.is_empty() && self.redo.last() == 0
    }

    /// The number of the last write in the newest export, by its name; 0 if there is none.
    pub(crate) fn exported(&self) -> u64 {
        self.exports.first().map_or(0, |newest| newest.seq)
    }

    /// The highest number that any name tells of. Unlike what is in the files it is not checked by anything.
    pub(crate) fn named(&self) -> u64 {
        let begun = self.redo.files.last().map_or(0, |(first, _)| first.saturating_sub(1));
        self.exported().max(begun)
    }

    /// Whether there may have been writes after `last`, the last one that is known of: the mark, which said `noted`,
    /// and the end of the log are both gone or damaged; or a name tells of later writes.
    pub(crate) fn may_lack_more(&self, noted: u64, last: u64) -> bool {
        (noted == 0 && !self.redo.end_is_known) || self.named() > last
    }

    /// The number of the last write that must be in the engine if `known` was durable: the highest that the log and
    /// the good exports tell.
    pub(crate) fn top(&self, known: u64) -> u64 {
        let known = known.max(self.redo.last());
        // Damage must not make a number up, so an export counts only after it was checked. Mostly none is beyond.
        let beyond = self.exports.iter().take_while(|export| export.seq > known);
        beyond
            .filter_map(|export| file::read(&export.path).ok())
            .map(|(info, _)| info.seq)
            .fold(known, u64::max)
    }

    /// The state after batch `last`: the newest good export and the batches after it. Nothing if there is no good
    /// export and the log does not start with the first batch.
    ///
    /// # Errors
    /// If the newest good export is of a newer version of the program.
    pub(crate) fn truth(&self, layout: &Layout, last: u64) -> Result<Option<Truth>, OpenError> {
        let mut truth = Truth::default();
        let mut base = None;
        for listed in self.exports.iter().filter(|export| export.seq <= last) {
            match file::read(&listed.path) {
                Ok((info, entries)) => {
                    truth.entries = entries.into_iter().collect();
                    base = Some(info.seq);
                    truth.export = Some(info);
                    break;
                }
                Err(ExportError::Newer { path, found, known }) => {
                    return Err(OpenError::NewerSchema { path, found, known });
                }
                Err(error) => tracing::warn!(%error, "export not used"),
            }
        }
        if base.is_none() && !self.redo.covers(0, 1) {
            return Ok(None);
        }
        let base = base.unwrap_or(0);
        truth.whole = self.redo.covers(base, last);
        self.redo
            .replay(base, last, |_, writes| {
                truth.apply(writes);
                Ok::<(), std::io::Error>(())
            })
            .map_err(|error| OpenError::io(layout.redo(), error))?;
        truth.entries.remove(seq::KEY);
        Ok(Some(truth))
    }
}

impl Truth {
    fn apply(&mut self, writes: Writes) {
        for (key, value) in writes {
            match value {
                Some(value) => self.entries.insert(key, value),
                None => self.entries.remove(&key),
            };
        }
    }
}
