//! What a replica's runtimes wrote: per try a file, cut to its last megabyte or two. Of the last ten tries something is
//! kept: the newest two whole, of those before their last lines.
//!
//! A process writes into the file itself, in append mode; what a container writes is appended here. When the file has
//! grown over its limit, its end is copied beside it and the file emptied. Offsets count all bytes that were ever
//! written, so that a reader keeps its place.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nebula_core::telemetry::redact;

/// A file larger than this is cut.
const PART_MAX: u64 = 1024 * 1024;
/// How much is looked at first for the last lines, in bytes; four times as much when they are longer.
const TAIL_FIRST: u64 = 64 * 1024;
/// Longer lines are cut.
const LINE_MAX: usize = 64 * 1024;
/// Tries whose logs are kept.
const TRIES_KEPT: usize = 10;
/// Of these the newest so many are kept whole.
const WHOLE_KEPT: usize = 2;
/// What is kept of each of the others: the last lines, within so many bytes.
const TRIMMED_LINES: usize = 200;
const TRIMMED_BYTES: u64 = 256 * 1024;
const SUFFIX: &str = ".log";
const OLD_SUFFIX: &str = ".log.1";

/// The logs of one replica.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: PathBuf,
    tries: Mutex<BTreeMap<u32, Arc<Log>>>,
}

/// The log of one try.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    old_path: PathBuf,
    layout: Mutex<Layout>,
}

/// Which bytes are where: the old part ends at `base`, the current file starts there.
#[derive(Debug)]
struct Layout {
    old_len: u64,
    base: u64,
}

impl Logs {
    /// The logs in a directory, which is made when it is first needed.
    pub(crate) fn open(dir: PathBuf) -> Self {
        let names = fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let numbers = names.filter_map(|name| name.strip_suffix(SUFFIX)?.strip_prefix("try-")?.parse().ok());
        let tries = numbers.map(|number| (number, Arc::new(Log::open(&dir, number)))).collect();
        Self { dir, tries: Mutex::new(tries) }
    }

    /// The log of a new try and the file into which its process writes. Older tries shrink, and at last leave.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn begin(&self, number: u32) -> io::Result<(Arc<Log>, File)> {
        make_dir(&self.dir)?;
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let log = Arc::clone(tries.entry(number).or_insert_with(|| Arc::new(Log::open(&self.dir, number))));
        while tries.len() > TRIES_KEPT
            && let Some((_, old)) = tries.pop_first()
        {
            old.remove();
        }
        for old in tries.values().rev().skip(WHOLE_KEPT) {
            old.trim();
        }
        let file = log.file()?;
        Ok((log, file))
    }

    /// The log of a try, whether or not anything was written.
    pub(crate) fn of(&self, number: u32) -> Arc<Log> {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tries.entry(number).or_insert_with(|| Arc::new(Log::open(&self.dir, number))))
    }

    /// The newest try's log, or with `previous` the one before it.
    pub(crate) fn newest(&self, previous: bool) -> Option<(u32, Arc<Log>)> {
        let tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        tries.iter().rev().nth(usize::from(previous)).map(|(number, log)| (*number, Arc::clone(log)))
    }
}

impl Log {
    fn open(dir: &Path, number: u32) -> Self {
        let old_path = dir.join(format!("try-{number}{OLD_SUFFIX}"));
        let old_len = fs::metadata(&old_path).map_or(0, |found| found.len());
        let layout = Mutex::new(Layout { old_len, base: old_len });
        Self { path: dir.join(format!("try-{number}{SUFFIX}")), old_path, layout }
    }

    fn remove(&self) {
        for path in [&self.path, &self.old_path] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "old log stays");
            }
        }
    }

    fn file(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)
    }

    /// Appends what a container wrote, and cuts the file when it is too large. Blocks.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let written = match self.file() {
            Ok(mut file) => file.write_all(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_dir(self.path.parent().unwrap_or(Path::new(".")))?;
                self.file().and_then(|mut file| file.write_all(bytes))
            }
            Err(error) => Err(error),
        };
        written.and_then(|()| self.try_cut())
    }

    /// Empties it, because all of it comes again. A reader keeps its place after what was there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn begin_anew(&self) -> io::Result<()> {
        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let len = fs::metadata(&self.path).map_or(0, |found| found.len());
        for path in [&self.path, &self.old_path] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        *layout = Layout { old_len: 0, base: layout.base + len };
        Ok(())
    }

    /// Keeps the last lines only. Nobody writes into it any more.
    fn trim(&self) {
        if let Err(error) = self.try_trim() {
            tracing::warn!(path = %self.path.display(), %error, "old log cannot be cut");
        }
    }

    fn try_trim(&self) -> io::Result<()> {
        let (kept, end) = self.tail(TRIMMED_LINES, TRIMMED_BYTES)?;
        let len = u64::try_from(kept.len()).unwrap_or(u64::MAX);
        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        if layout.old_len == 0 && fs::metadata(&self.path).map_or(0, |found| found.len()) <= len {
            return Ok(());
        }
        fs::write(&self.path, &kept)?;
        match fs::remove_file(&self.old_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        *layout = Layout { old_len: 0, base: end.saturating_sub(len) };
        Ok(())
    }

    /// Cuts the file when it is too large. What is written between the copy and the cut is lost.
    pub(crate) fn cut(&self) {
        if let Err(error) = self.try_cut() {
            tracing::warn!(path = %self.path.display(), %error, "log cannot be cut");
        }
    }

    fn try_cut(&self) -> io::Result<()> {
        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let len = match fs::metadata(&self.path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if len <= PART_MAX {
            return Ok(());
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        file.seek(SeekFrom::Start(len - PART_MAX))?;
        // Not through this program's memory.
        let copied = io::copy(&mut (&file).take(2 * PART_MAX), &mut File::create(&self.old_path)?)?;
        file.set_len(0)?;
        layout.base += len - PART_MAX + copied;
        layout.old_len = copied;
        Ok(())
    }

    /// The offset after the last byte.
    pub(crate) fn end(&self) -> u64 {
        let layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        layout.base + fs::metadata(&self.path).map_or(0, |found| found.len())
    }

    /// At most `max` bytes from an offset, and the offset after them. Bytes that are gone are skipped.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read(&self, from: u64, max: u64) -> io::Result<(Vec<u8>, u64)> {
        let mut bytes = Vec::new();
        let next = self.read_into(&mut bytes, from, max)?;
        Ok((bytes, next))
    }

    fn read_into(&self, bytes: &mut Vec<u8>, from: u64, max: u64) -> io::Result<u64> {
        let layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let first = layout.base - layout.old_len;
        let from = from.max(first);
        let (path, at) = if from < layout.base {
            (&self.old_path, from - first)
        } else {
            (&self.path, from - layout.base)
        };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(from),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(at))?;
        let read = file.take(max).read_to_end(bytes)?;
        Ok(from + u64::try_from(read).unwrap_or(u64::MAX))
    }

    /// The last `lines` lines within the last `max` bytes, each cut to 64 KiB, and the offset after them. Takes memory
    /// for about what it returns, however long the log is.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn tail(&self, lines: usize, max: u64) -> io::Result<(Vec<u8>, u64)> {
        let end = self.end();
        let mut window = TAIL_FIRST.min(max);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let from = end.saturating_sub(window);
            let next = self.read_until(&mut bytes, from, end)?;
            let kept = len_of_last(&bytes, lines);
            // Where all of it is kept, the first line may begin earlier, and others come before it.
            if kept < bytes.len() || window == max || from == 0 {
                return Ok((last_lines(&bytes, kept), next));
            }
            window = window.saturating_mul(4).min(max);
        }
    }

    /// What is there from an offset to another one, and the offset after it. What is written meanwhile is left for
    /// later: whoever writes faster than this reads would go on for ever.
    fn read_until(&self, bytes: &mut Vec<u8>, mut at: u64, end: u64) -> io::Result<u64> {
        while at < end {
            let before = bytes.len();
            at = self.read_into(bytes, at, end - at)?;
            if bytes.len() == before {
                break;
            }
        }
        Ok(at)
    }

    /// The last lines for people: no credentials, no control characters.
    pub(crate) fn last_words(&self, lines: usize, max: usize) -> String {
        let (bytes, _) = self.tail(lines, u64::try_from(max).unwrap_or(u64::MAX)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let plain: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
        redact(crate::text::clip(plain.trim_end().to_owned(), max))
    }
}

/// How many bytes the last lines have.
fn len_of_last(bytes: &[u8], lines: usize) -> usize {
    bytes.split_inclusive(is_end).rev().take(lines).map(<[u8]>::len).sum()
}

/// The lines in the last `len` bytes, each within its limit.
fn last_lines(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let last = bytes.get(bytes.len().saturating_sub(len)..).unwrap_or_default();
    for line in last.split_inclusive(is_end) {
        match line.split_at_checked(LINE_MAX) {
            Some((kept, cut)) if cut.len() > 1 => {
                out.extend_from_slice(kept);
                out.extend_from_slice("…\n".as_bytes());
            }
            _ => out.extend_from_slice(line),
        }
    }
    out
}

fn is_end(byte: &u8) -> bool {
    *byte == b'\n'
}

/// Makes a directory that only its owner may enter, with those above it.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn a_large_log_is_cut_and_a_reader_keeps_its_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let logs = Logs::open(dir.path().join("r"));
        let (log, mut file) = logs.begin(1).expect("begins");
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..1500 {
            file.write_all(line.as_bytes()).expect("writes");
        }
        log.cut();
        assert_eq!(log.end(), 1500 * 1024);
        file.write_all(b"after\n").expect("writes");
        let (bytes, next) = log.read(1500 * 1024 - 2, 100).expect("reads");
        assert_eq!((text(&bytes).as_str(), next), ("x\n", 1500 * 1024));
        let (bytes, next) = log.read(next, 100).expect("reads");
        assert_eq!((text(&bytes).as_str(), next), ("after\n", 1500 * 1024 + 6));
        let (_, next) = log.read(0, 10).expect("reads");
        assert_eq!(next, (1500 - 1024) * 1024 + 10, "what is gone is skipped");
        let reopened = Logs::open(dir.path().join("r"));
        let (bytes, _) = reopened.of(1).tail(2, 4096).expect("reads");
        assert_eq!(text(&bytes), format!("{line}after\n"));
    }

    #[test]
    fn something_of_the_last_ten_tries_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let logs = Logs::open(dir.path().join("r"));
        let line = format!("{}\n", "y".repeat(99));
        for number in 1..=12 {
            let (log, mut file) = logs.begin(number).expect("begins");
            writeln!(file, "the first of try {number}").expect("writes");
            file.write_all(line.repeat(3_000).as_bytes()).expect("writes");
            writeln!(file, "the last of try {number}").expect("writes");
            log.cut();
        }
        let last = |log: &Log| log.last_words(1, 99);
        let newest = |previous| logs.newest(previous).map(|(number, log)| (number, last(&log)));
        assert_eq!(newest(false), Some((12, "the last of try 12".to_owned())));
        assert_eq!(newest(true), Some((11, "the last of try 11".to_owned())));
        let lines = |logs: &Logs, number| {
            let (bytes, _) = logs.of(number).tail(usize::MAX, u64::MAX).expect("reads");
            bytes.iter().filter(|byte| **byte == b'\n').count()
        };
        for logs in [&logs, &Logs::open(dir.path().join("r"))] {
            assert_eq!([lines(logs, 12), lines(logs, 11)], [3_002; 2], "whole");
            assert_eq!([lines(logs, 10), lines(logs, 3)], [TRIMMED_LINES; 2]);
            assert_eq!(last(&logs.of(3)), "the last of try 3");
        }
        assert_eq!(lines(&logs, 2), 0, "gone");
        let files = fs::read_dir(dir.path().join("r")).expect("a directory");
        assert_eq!(files.count(), TRIES_KEPT);
    }

    #[test]
    fn a_trimmed_log_is_bounded_whatever_its_lines_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let logs = Logs::open(dir.path().join("r"));
        let (log, _) = logs.begin(1).expect("begins");
        log.append(&[b'\xff'; 1_000_000]).expect("writes");
        let end = log.end();
        for number in 2..=4 {
            logs.begin(number).expect("begins");
        }
        let size = fs::metadata(&log.path).expect("a file").len();
        assert!(size <= TRIMMED_BYTES, "{size}");
        assert_eq!(log.end(), end, "a reader keeps its place");
    }

    #[test]
    fn what_is_appended_is_bounded_and_may_begin_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let logs = Logs::open(dir.path().join("r"));
        // Its directory is not there yet.
        let log = logs.of(1);
        log.append(b"one\ntwo\n").expect("writes");
        assert_eq!(log.last_words(9, 99), "one\ntwo");
        log.begin_anew().expect("empties");
        log.append(b"one\ntwo\nthree\n").expect("writes");
        assert_eq!(log.last_words(9, 99), "one\ntwo\nthree");
        let (bytes, _) = log.read(8, 99).expect("reads");
        assert_eq!(text(&bytes), "one\ntwo\nthree\n", "after what was there");
        let piece = vec![b'x'; 16 * 1024];
        for _ in 0..1_000 {
            log.append(&piece).expect("writes");
        }
        log.append(b"\nthe end\n").expect("writes");
        let files = fs::read_dir(dir.path().join("r")).expect("a directory");
        let sizes = files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len());
        assert!(sizes.sum::<u64>() <= 2 * PART_MAX + 16 * 1024);
        assert_eq!(log.last_words(1, 99), "the end");
    }

    #[test]
    fn last_words_are_for_people() {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, mut file) = Logs::open(dir.path().join("r")).begin(1).expect("begins");
        write!(file, "one\ntwo\n\u{1b}three nbtok_abc \u{7}\nfour").expect("writes");
        assert_eq!(log.last_words(2, 100), "three nbtok_… \nfour");
    }

    #[test]
    fn long_lines_are_cut() {
        let bytes = [&vec![b'y'; LINE_MAX + 10][..], b"\nshort\n"].concat();
        let last = |lines| last_lines(&bytes, len_of_last(&bytes, lines));
        assert_eq!(last(2).len(), LINE_MAX + "…\nshort\n".len());
        assert_eq!(text(&last(1)), "short\n");
    }

    #[test]
    fn the_last_lines_are_found_however_long_they_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, mut file) = Logs::open(dir.path().join("r")).begin(1).expect("begins");
        let line = |number: u64| format!("{number} {}\n", "z".repeat(999));
        for number in 0..2_000 {
            file.write_all(line(number).as_bytes()).expect("writes");
            if number == 1_500 {
                log.cut();
            }
        }
        let end = log.end();
        // Within the first look, beyond it, over both files, and more than there are.
        for lines in [0, 1, 5, 64, 66, 700, 1_400] {
            let (bytes, next) = log.tail(lines, 4 << 20).expect("reads");
            let wanted: String = (2_000 - u64::try_from(lines).expect("small")..2_000).map(line).collect();
            assert_eq!((text(&bytes), next), (wanted, end), "{lines}");
        }
        let (all, _) = log.tail(usize::MAX, u64::MAX).expect("reads");
        assert_eq!(
            u64::try_from(all.len()).expect("small"),
            PART_MAX + end - log.layout.lock().expect("ours").base
        );
        let (part, _) = log.tail(9, 100).expect("reads");
        assert_eq!(part.len(), 100, "never more than what may be taken");
    }
}
