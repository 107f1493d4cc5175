//! How far the fetching of a model has got, file by file, for all who wait for it.

use std::sync::Arc;
use std::time::Duration;

use nebula_core::bytes::human as size;
use nebula_core::clock::Tick;
use tokio::sync::watch;

/// Where one file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileStatus {
    Waiting,
    Downloading,
    Checking,
    Done,
}

impl FileStatus {
    /// The name on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Downloading => "downloading",
            Self::Checking => "checking",
            Self::Done => "done",
        }
    }
}

/// One file, or one layer of a model of Ollama's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) name: Arc<str>,
    /// Bytes in all.
    pub(crate) total: u64,
    /// Bytes that are here.
    pub(crate) done: u64,
    pub(crate) status: FileStatus,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Board {
    /// What is being done; empty while files say it.
    pub(crate) stage: Arc<str>,
    pub(crate) files: Vec<FileState>,
}

impl Board {
    /// Bytes that are here, and in all.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.files.iter().fold((0, 0), |(done, total), file| {
            (u64::saturating_add(done, file.done), u64::saturating_add(total, file.total))
        })
    }

    /// Bytes that are still to come.
    pub(crate) fn remaining(&self) -> u64 {
        let (done, total) = self.bytes();
        total.saturating_sub(done)
    }
}

/// The side that writes. Clones write on the same board.
#[derive(Clone, Debug)]
pub(super) struct Chalk(watch::Sender<Board>);

impl Chalk {
    pub(super) fn new() -> (Self, watch::Receiver<Board>) {
        let (sender, board) = watch::channel(Board::default());
        (Self(sender), board)
    }

    /// What is being done, before and beside files.
    pub(super) fn stage(&self, stage: &str) {
        self.0.send_modify(|board| board.stage = stage.into());
    }

    /// The files that are to come.
    pub(super) fn files(&self, files: Vec<FileState>) {
        self.0.send_modify(|board| *board = Board { stage: "".into(), files });
    }

    /// Changes one file; an unknown one is nobody's.
    pub(super) fn file(&self, at: usize, change: impl FnOnce(&mut FileState)) {
        self.0.send_modify(|board| {
            if let Some(file) = board.files.get_mut(at) {
                change(file);
            }
        });
    }

    /// Sets how far a layer is that may not have been heard of, with at most `most` of them.
    pub(super) fn layer(&self, stage: &str, name: &str, done: u64, total: u64, most: usize) {
        self.0.send_modify(|board| {
            board.stage = stage.into();
            let status = if done >= total { FileStatus::Done } else { FileStatus::Downloading };
            if let Some(file) = board.files.iter_mut().find(|file| *file.name == *name) {
                (file.total, file.done, file.status) = (total, done, status);
            } else if board.files.len() < most {
                board.files.push(FileState { name: name.into(), total, done, status });
            }
        });
    }
}

/// Of the last rate that was seen, this much stays in the next one.
const RATE_MEMORY: f64 = 0.8;
/// A rate is measured over at least this long.
const RATE_EVERY: Duration = Duration::from_secs(1);

/// How fast it goes, smoothed.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Tick, u64)>,
    /// Bytes in a second.
    rate: Option<f64>,
}

impl Pace {
    /// Takes in that `done` bytes are here by `now`; returns bytes in a second once that can be said.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(super) fn step(&mut self, now: Tick, done: u64) -> Option<f64> {
        let Some((then, before)) = self.last else {
            self.last = Some((now, done));
            return None;
        };
        let passed = now.since(then);
        if done < before {
            (self.last, self.rate) = (Some((now, done)), None);
        } else if passed >= RATE_EVERY {
            let newest = (done - before) as f64 / passed.as_secs_f64();
            let rate = self.rate.map_or(newest, |rate| rate * RATE_MEMORY + newest * (1.0 - RATE_MEMORY));
            (self.last, self.rate) = (Some((now, done)), Some(rate));
        }
        self.rate
    }
}

/// One line for people, and the bytes that make a percentage of it.
pub(super) fn line(what: &str, board: &Board, rate: Option<f64>) -> (u64, u64, String) {
    let (done, total) = board.bytes();
    if total == 0 {
        return (
            0,
            0,
            if board.stage.is_empty() { what.to_owned() } else { format!("{what}: {}", board.stage) },
        );
    }
    let all =
        |status| board.files.iter().all(|file| file.status == status || file.status == FileStatus::Done);
    if done >= total && all(FileStatus::Checking) {
        return (done, total, format!("{what}: checking {}", size(total)));
    }
    let pace = match rate.filter(|rate| *rate >= 1.0) {
        Some(rate) => format!(", {}/s, {} left", size(whole(rate)), left(total.saturating_sub(done), rate)),
        None => String::new(),
    };
    (done, total, format!("{what}: {} of {}{pace}", size(done), size(total)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people, not negative"
)]
fn whole(rate: f64) -> u64 {
    rate as u64
}

#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn left(bytes: u64, rate: f64) -> String {
    match whole((bytes as f64 / rate).ceil()) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(done: u64, total: u64, status: FileStatus) -> FileState {
        FileState { name: "a".into(), total, done, status }
    }

    #[test]
    fn the_line_says_how_much_how_fast_and_how_long() {
        use FileStatus::{Checking, Done, Downloading};
        let mut board = Board { stage: "asking the hub".into(), files: Vec::new() };
        assert_eq!(line("org/name", &board, None), (0, 0, "org/name: asking the hub".to_owned()));
        board.files = vec![file(1 << 20, 4 << 20, Downloading), file(1 << 20, 1 << 20, Done)];
        assert_eq!(line("x", &board, None).2, "x: 2.0 MiB of 5.0 MiB");
        let (done, total, text) = line("x", &board, Some(1024.0 * 1024.0));
        assert_eq!((done, total, &*text), (2 << 20, 5 << 20, "x: 2.0 MiB of 5.0 MiB, 1.0 MiB/s, 3 s left"));
        board.files = vec![file(5, 5, Checking), file(1, 1, Done)];
        assert_eq!(line("x", &board, Some(1.0)).2, "x: checking 6 B");
        assert_eq!(board.remaining(), 0);
    }

    #[test]
    fn the_pace_is_smoothed_and_begins_anew_when_bytes_are_thrown_away() {
        let mut pace = Pace::default();
        assert_eq!(pace.step(Tick(0), 0), None);
        assert_eq!(pace.step(Tick(500), 500), None);
        assert_eq!(pace.step(Tick(1_000), 1_000), Some(1_000.0));
        assert_eq!(pace.step(Tick(2_000), 1_000), Some(800.0));
        assert_eq!(pace.step(Tick(3_000), 10), None);
    }
}
