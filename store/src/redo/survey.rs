//! What the log of batches holds: which numbers are there, and what could not be read.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    engine::Writes,
    redo::{MAGIC, frame::Frames},
};

/// What was found in the log's files.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The files that could be read, and the number that each was started with, in order.
    pub(crate) files: Vec<(u64, PathBuf)>,
    /// What could not be read, one line for each file.
    pub(crate) flaws: Vec<String>,
    /// Bytes in all files.
    pub(crate) bytes: u64,
    /// There is a last file, and it holds batches and nothing else: no batch came after it.
    pub(crate) end_is_known: bool,
    numbers: Ranges,
}

impl Survey {
    /// Reads all files in `dir`; none if it is missing. A file that cannot be read is a flaw, no error: the engine may
    /// be whole without it.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let mut survey = Self::default();
        for (first, path) in files(dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    survey.end_is_known = false;
                    survey.flaws.push(format!("{name}: {error}"));
                    continue;
                }
            };
            survey.bytes = survey.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            let mut frames = frames_in(&bytes);
            frames.by_ref().for_each(|frame| survey.numbers.add(frame.seq));
            survey.end_is_known = frames.skipped == 0;
            if frames.skipped > 0 {
                survey.flaws.push(format!("{name}: {} bytes are no batches", frames.skipped));
            }
            survey.files.push((first, path));
        }
        Ok(survey)
    }

    /// The highest number in the log, 0 if there is none.
    pub(crate) fn last(&self) -> u64 {
        self.numbers.0.last().map_or(0, |(_, last)| *last)
    }

    /// Whether every batch after `after` up to `last` is there.
    pub(crate) fn covers(&self, after: u64, last: u64) -> bool {
        after >= last || self.numbers.0.iter().any(|range| range.0 <= after + 1 && last <= range.1)
    }

    /// Hands over the batches after `after` in their order, up to `last`.
    pub(crate) fn replay<E: From<io::Error>>(
        &self,
        after: u64,
        last: u64,
        mut take: impl FnMut(u64, Writes) -> Result<(), E>,
    ) -> Result<(), E> {
        for (_, path) in &self.files {
            let bytes = std::fs::read(path)?;
            for frame in frames_in(&bytes).filter(|frame| after < frame.seq && frame.seq <= last) {
                if let Some(writes) = frame.writes() {
                    take(frame.seq, writes)?;
                }
            }
        }
        Ok(())
    }
}

/// The frames behind a file's magic. A damaged magic is skipped like any other bytes.
fn frames_in(bytes: &[u8]) -> Frames<'_> {
    Frames::new(bytes.strip_prefix(&MAGIC).unwrap_or(bytes))
}

/// The log's files in `dir` by the number in their name, in order.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let first = name.and_then(|name| name.strip_suffix(".redo")?.parse().ok());
        files.extend(first.map(|first| (first, path)));
    }
    files.sort();
    Ok(files)
}

/// Numbers as ranges without a gap, in order.
#[derive(Debug, Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Numbers come in order; one that does not is already there or starts a range of its own.
    fn add(&mut self, number: u64) {
        match self.0.last_mut() {
            Some((_, last)) if number == last.saturating_add(1) => *last = number,
            Some((first, last)) if (*first..=*last).contains(&number) => {}
            _ => self.0.push((number, number)),
        }
        self.0.sort_unstable();
    }
}
