//! The access log: one line for each request, to standard error, in the form of all other log lines.
//!
//! Whoever answers requests only appends to a buffer. One thread writes it out, many lines with one call, so that a
//! request costs no system call and waits for no reader of the log. The buffer is bounded: lines that do not fit are
//! dropped, counted, and told of at most once a second.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{LogFormat, plain};
use crate::clock::{Clock, wall_now};

/// What may wait to be written, in bytes: a quarter of a second at 20,000 requests a second.
const WAITING_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// Dropped lines are told of this often at most.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long [`AccessLog::close`] waits for the reader of the log.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Room for a usual line.
const LINE_BYTES: usize = 512;

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many lines this process has dropped because they were not written fast enough.
#[must_use]
pub fn dropped_total() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// A number.
    Number(u64),
    /// Yes or no.
    Bool(bool),
    /// A time, written as milliseconds with three decimals.
    Millis(Duration),
}

/// A line in the making. It must be given no secret: nothing is redacted here.
#[derive(Debug)]
pub struct Line {
    format: LogFormat,
    text: String,
}

impl Line {
    /// A line at level `INFO`.
    #[must_use]
    pub fn new(format: LogFormat, message: &str) -> Self {
        Self::at("INFO", format, message)
    }

    fn at(level: &str, format: LogFormat, message: &str) -> Self {
        let mut text = String::with_capacity(LINE_BYTES);
        // Writing to a string does not fail.
        let _ = match format {
            LogFormat::Text => write!(text, "level={level} msg="),
            LogFormat::Json => {
                write!(text, "{{\"time\":\"{}\",\"level\":\"{level}\",\"msg\":", wall_now().rfc3339())
            }
        };
        quote(&mut text, message);
        Self { format, text }
    }

    /// Adds a field. Its name is one of ours and needs no quotes.
    pub fn field(&mut self, name: &str, value: Value<'_>) {
        let (before, after) = match self.format {
            LogFormat::Text => (" ", "="),
            LogFormat::Json => (",\"", "\":"),
        };
        let text = &mut self.text;
        for part in [before, name, after] {
            text.push_str(part);
        }
        let written = match value {
            Value::Text(value) if self.format == LogFormat::Text && plain(value) => text.write_str(value),
            Value::Text(value) => {
                quote(text, value);
                Ok(())
            }
            Value::Number(number) => write!(text, "{number}"),
            Value::Bool(answer) => write!(text, "{answer}"),
            Value::Millis(time) => {
                let micros = time.as_micros();
                write!(text, "{}.{:03}", micros / 1_000, micros % 1_000)
            }
        };
        // Writing to a string does not fail.
        let _ = written;
    }

    /// The whole line, with its end.
    #[must_use]
    pub fn end(mut self) -> String {
        self.text.push_str(if self.format == LogFormat::Json { "}\n" } else { "\n" });
        self.text
    }
}

/// Where access lines go. Clones share it; with the last one its thread ends.
#[derive(Clone, Debug)]
pub struct AccessLog(Option<Arc<Open>>);

impl AccessLog {
    /// Lines go to standard error; what is told besides them is in this form.
    #[must_use]
    pub fn to_stderr(format: LogFormat) -> Self {
        Self::to(Box::new(io::stderr()), format)
    }

    /// Lines go nowhere.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    fn to(out: Box<dyn Write + Send>, format: LogFormat) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Writer { shared: Arc::clone(&shared), out, format };
        let started = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run());
        if let Err(error) = started {
            tracing::error!(%error, "no thread for the access log: it is not written");
            return Self::off();
        }
        Self(Some(Arc::new(Open { shared })))
    }

    /// Whether anything is logged.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Logs a whole line, or several. Waits for nobody.
    pub fn write(&self, line: String) {
        if let Some(open) = &self.0 {
            open.shared.put(&line);
        }
    }

    /// Writes out what was logged so far and takes nothing more. Blocks, for a second at most.
    pub fn close(&self) {
        if let Some(open) = &self.0 {
            open.shared.close();
            open.shared.wait_until_done();
        }
    }
}

/// Ends the thread when nobody is left who could log.
#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Something has changed in `waiting`.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whole lines.
    lines: Vec<u8>,
    /// Lines that did not fit and that nobody was told of.
    dropped: u64,
    closed: bool,
    /// The thread has written everything and ends.
    done: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &str) {
        let mut waiting = self.lock();
        if waiting.closed {
            return;
        }
        if waiting.lines.len() + line.len() > WAITING_BYTES_MAX {
            waiting.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line.as_bytes());
        drop(waiting);
        // The thread sleeps only while there is nothing to write.
        if first {
            self.changed.notify_all();
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn wait_until_done(&self) {
        let waited = self.changed.wait_timeout_while(self.lock(), CLOSE_WAIT, |waiting| !waiting.done);
        drop(waited);
    }

    /// Waits for lines and then for more of them. None when it was closed and nothing is left.
    fn take(&self, empty: Vec<u8>) -> Option<(Vec<u8>, u64)> {
        let idle = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.closed;
        let waiting = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let gathering = |waiting: &mut Waiting| !waiting.closed;
        let waited = self.changed.wait_timeout_while(waiting, GATHER, gathering);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        if waiting.lines.is_empty() && waiting.dropped == 0 {
            return None;
        }
        Some((std::mem::replace(&mut waiting.lines, empty), std::mem::take(&mut waiting.dropped)))
    }

    fn done(&self) {
        self.lock().done = true;
        self.changed.notify_all();
    }
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    out: Box<dyn Write + Send>,
    format: LogFormat,
}

impl Writer {
    fn run(mut self) {
        let clock = Clock::start();
        let (mut buffer, mut dropped, mut told) = (Vec::new(), 0, None);
        while let Some((lines, more)) = self.shared.take(std::mem::take(&mut buffer)) {
            // Who cannot write its log has nobody to complain to. Nothing else writes between the lines.
            let _ = self.out.write_all(&lines);
            dropped += more;
            let now = clock.now();
            if dropped > 0 && told.is_none_or(|at| now.since(at) >= TELL_EVERY) {
                self.tell(std::mem::take(&mut dropped));
                told = Some(now);
            }
            buffer = lines;
            buffer.clear();
        }
        if dropped > 0 {
            self.tell(dropped);
        }
        let _ = self.out.flush();
        self.shared.done();
    }

    fn tell(&mut self, dropped: u64) {
        let mut line = Line::at("WARN", self.format, "access log lines dropped");
        line.field("lines", Value::Number(dropped));
        let _ = self.out.write_all(line.end().as_bytes());
    }
}

/// Adds a JSON string.
fn quote(line: &mut String, text: &str) {
    line.push('"');
    let special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    if text.bytes().any(special) {
        for c in text.chars() {
            match c {
                '"' => line.push_str("\\\""),
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                c if c < ' ' => drop(write!(line, "\\u{:04x}", u32::from(c))),
                c => line.push(c),
            }
        }
    } else {
        line.push_str(text);
    }
    line.push('"');
}

#[cfg(test)]
mod tests;
