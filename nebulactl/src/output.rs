//! Where things go: data to standard output, everything else to standard error, colour only to terminals.

mod json;
mod table;

use std::io::{self, IsTerminal, Write};

use nebula_core::clock::WallTime;
use serde_json::Value;

pub(crate) use self::table::{Cell, Facts, Table, state};
use crate::cli::Format;
use crate::failure::Result;

/// The way to the user.
pub(crate) struct Output {
    format: Format,
    color: bool,
    terminal: bool,
    /// Standard error is a terminal that can rewrite a line.
    live: bool,
}

impl Output {
    /// The output of this process.
    pub(crate) fn new(format: Format, no_color: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let terminal = io::stdout().is_terminal();
        let live = io::stderr().is_terminal() && !dumb;
        Self { format, color: terminal && !no_color && !set("NO_COLOR") && !dumb, terminal, live }
    }

    /// Whether data is wanted as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether people are watching standard output.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints data as it is, at once.
    pub(crate) fn bytes(&self, data: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(data)?;
        Ok(out.flush()?)
    }

    /// Prints text as it is, at once.
    pub(crate) fn text(&self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Prints a JSON text, indented, with its key order and numbers as they are.
    pub(crate) fn json(&self, text: &str) -> Result<()> {
        self.text(&(json::indented(text) + "\n"))
    }

    /// Prints a table.
    pub(crate) fn table(&self, table: &Table) -> Result<()> {
        self.text(&table.render(self.color))
    }

    /// Prints labelled facts.
    pub(crate) fn facts(&self, facts: &Facts) -> Result<()> {
        self.text(&facts.render(self.color))
    }

    /// Whether people watch standard error on a terminal that can rewrite a line.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Replaces the line that people see on standard error; nothing removes it. Cut at the terminal's edge by the
    /// terminal itself.
    pub(crate) fn rewrite(&self, line: &str) {
        self.errors(format!("\r\u{1b}[2K\u{1b}[?7l{line}\u{1b}[?7h").as_bytes());
    }

    /// Prints what is no data as it is, at once.
    pub(crate) fn errors(&self, data: &[u8]) {
        let mut err = io::stderr().lock();
        // With standard error gone there is nobody to tell.
        let _ = err.write_all(data).and_then(|()| err.flush());
    }

    /// Tells people something that is no data. Programs that read standard output never see it.
    pub(crate) fn note(&self, text: &str) {
        // With standard error gone there is nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// The value at a JSON pointer as text for a table; empty when it is not there, null or no plain value.
pub(crate) fn text_at(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => crate::failure::one_line(text),
        Some(number @ (Value::Number(_) | Value::Bool(_))) => number.to_string(),
        _ => String::new(),
    }
}

/// How long ago the RFC 3339 time at a JSON pointer was; empty when there is none.
pub(crate) fn age_at(value: &Value, pointer: &str) -> String {
    let then = value.pointer(pointer).and_then(Value::as_str).and_then(WallTime::from_rfc3339);
    then.map(|then| age_of(i64::try_from(then.unix_secs()).unwrap_or(i64::MAX))).unwrap_or_default()
}

/// How long ago a moment in unix seconds was; a moment in the future is no time ago.
pub(crate) fn age_of(then: i64) -> String {
    let now = i64::try_from(nebula_core::clock::wall_now().unix_secs()).unwrap_or(i64::MAX);
    crate::quantity::human_age(u64::try_from(now.saturating_sub(then)).unwrap_or(0))
}

/// The items of the array at a JSON pointer; none when there is no array.
pub(crate) fn items_at<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Asks a yes-or-no question when standard input is a terminal; without one the answer is yes.
pub(crate) fn confirmed(question: &str) -> bool {
    let input = io::stdin();
    if !input.is_terminal() {
        return true;
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    // An input that cannot be read has not said yes.
    let read = input.read_line(&mut answer).is_ok();
    read && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}
