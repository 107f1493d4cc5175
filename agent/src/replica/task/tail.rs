//! Reading what a runtime writes while it starts, for what it says about its progress. Bounded however much comes.

use std::sync::Arc;
use std::time::Duration;

use crate::driver::logs::Log;

/// Between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// At most this much is read at a look, in bytes; what comes before it is passed over.
const READ_MAX: u64 = 64 * 1024;
/// A line that is not whole yet is kept up to here.
const PART_MAX: usize = 16 * 1024;

/// A place in a log.
pub(super) struct Tail {
    log: Arc<Log>,
    at: u64,
    /// The beginning of a line of which the rest has not come yet.
    part: Vec<u8>,
}

impl Tail {
    /// From the end of what is there, or for a short log from its beginning.
    pub(super) fn new(log: Arc<Log>) -> Self {
        Self { log, at: 0, part: Vec::new() }
    }

    /// The last of what the new lines say. A progress bar that rewrites its line counts as lines.
    pub(super) async fn next<T: Send + 'static>(
        &mut self,
        says: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let (log, at, mut part) = (Arc::clone(&self.log), self.at, std::mem::take(&mut self.part));
        let reading = tokio::task::spawn_blocking(move || {
            let from = at.max(log.end().saturating_sub(READ_MAX));
            if from > at {
                part.clear();
            }
            let mut next = from;
            // What is read at once lies in one of the log's two files.
            while next - from < READ_MAX
                && let Ok((bytes, after)) = log.read(next, READ_MAX)
                && !bytes.is_empty()
            {
                part.extend_from_slice(&bytes);
                next = after;
            }
            let said = newest(&mut part, says);
            (said, next, part)
        });
        // A panic in there has been logged; the next look goes on from the same place.
        let (said, next, part) = reading.await.ok()?;
        (self.at, self.part) = (next, part);
        said
    }
}

/// What the last whole line says that says anything. The rest stays.
fn newest<T>(part: &mut Vec<u8>, says: impl Fn(&str) -> Option<T>) -> Option<T> {
    let ends = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let whole = part.iter().rposition(ends).map_or(0, |at| at + 1);
    let lines: Vec<u8> = part.drain(..whole).collect();
    if part.len() > PART_MAX {
        part.clear();
    }
    lines.split(ends).rev().find_map(|line| says(&String::from_utf8_lossy(line)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::logs::Logs;

    #[tokio::test]
    async fn whole_lines_are_read_once_and_a_flood_is_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, _file) = Logs::open(dir.path().join("r")).begin(1).expect("begins");
        let mut tail = Tail::new(Arc::clone(&log));
        let says = |line: &str| line.strip_prefix("at ").map(str::to_owned);
        assert_eq!(tail.next(says).await, None);
        log.append(b"noise\nat 1\nat 2\nnoise\nat").expect("writes");
        assert_eq!(tail.next(says).await.as_deref(), Some("2"));
        assert_eq!(tail.next(says).await, None);
        log.append(b" 3\rat 4\r").expect("writes");
        assert_eq!(tail.next(says).await.as_deref(), Some("4"));
        log.append(&vec![b'x'; 3_000_000]).expect("writes");
        log.append(b"\nat 5\n\xff\xfe\n").expect("writes");
        assert_eq!(tail.next(says).await.as_deref(), Some("5"));
        assert!(tail.part.is_empty());
        log.append(&vec![b'y'; 60_000]).expect("writes");
        assert_eq!(tail.next(says).await, None);
        assert!(tail.part.len() <= PART_MAX);
    }
}
