//! Logs to standard error, as text (`level=INFO msg="…" key=value`) or JSON, with credentials redacted.
//! Requests have a log of their own: [`access`].

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;

pub mod access;

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `level=INFO msg="…" key=value`.
    #[default]
    Text,
    /// One JSON object a line: `time`, `level`, `msg` and the fields.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("unknown log format \"{text}\"; known: text, json")),
        }
    }
}

/// The least severe level that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What an operator wants to follow.
    #[default]
    Info,
    /// What may need attention.
    Warn,
    /// What a human must act on.
    Error,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            _ => Err(format!("unknown log level \"{text}\"; known: debug, info, warn, error")),
        }
    }
}

/// The target of the line that says a program is ready; shown even where only warnings are.
pub const READY_TARGET: &str = "ready";

/// Starts logging for this process. A second call changes nothing.
pub fn init(level: LogLevel, format: LogFormat) {
    let filter = match level {
        LogLevel::Debug => {
            "info,nebulad=debug,nebula_agent=debug,nebula_core=debug,nebula_store=debug,nebula_relay=debug"
        }
        LogLevel::Info => {
            "warn,ready=info,nebulad=info,nebula_agent=info,nebula_core=info,nebula_store=info,nebula_relay=info"
        }
        LogLevel::Warn => "warn,ready=info",
        LogLevel::Error => "error",
    };
    let installed = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .event_format(Lines(format))
        .try_init();
    if installed.is_ok() {
        log_panics();
    }
}

/// Panics are logged as errors where they happen; supervisors decide what follows.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = panic_text(info.payload());
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        last_panic::set(&message, &location);
        tracing::error!(panic = message, location, "a part panicked");
    }));
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// The message of the panic that is unwinding on this thread, for those who are dropped by it.
pub mod last_panic {
    use std::cell::RefCell;

    thread_local! {
        static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    }

    pub(super) fn set(message: &str, location: &str) {
        LAST.with(|last| {
            if let Ok(mut last) = last.try_borrow_mut() {
                *last = Some(format!("{message} ({location})"));
            }
        });
    }

    /// Takes the message, if a panic happened on this thread since the last call.
    #[must_use]
    pub fn take() -> Option<String> {
        LAST.with(|last| last.try_borrow_mut().ok().and_then(|mut last| last.take()))
    }
}

struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level().as_str();
        let line = match self.0 {
            LogFormat::Text => text_line(level, &fields),
            LogFormat::Json => json_line(level, fields),
        };
        writeln!(writer, "{line}")
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = redact(text),
            (name, Value::String(text)) => {
                drop(self.rest.insert(name.to_owned(), Value::String(redact(text))))
            }
            (name, value) => drop(self.rest.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::String(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

fn text_line(level: &str, fields: &Fields) -> String {
    let mut line = format!("level={level} msg={}", quoted(&fields.message));
    for (name, value) in &fields.rest {
        let text = match value {
            Value::String(text) if plain(text) => text.clone(),
            Value::String(text) => quoted(text),
            other => other.to_string(),
        };
        let _ = write!(line, " {name}={text}");
    }
    line
}

fn json_line(level: &str, fields: Fields) -> String {
    let mut object = Map::new();
    object.insert("time".to_owned(), clock::wall_now().rfc3339().into());
    object.insert("level".to_owned(), level.into());
    object.insert("msg".to_owned(), fields.message.into());
    object.extend(fields.rest);
    Value::Object(object).to_string()
}

fn plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'=' | b'\\'))
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Cuts whatever looks like one of our credentials down to its prefix.
#[must_use]
pub fn redact(text: String) -> String {
    const PREFIXES: [&str; 5] = ["nbtok_", "nbgw_", "nbkey_", "nbadm_", "nbjoin_"];
    if !PREFIXES.iter().any(|prefix| text.contains(prefix)) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((at, prefix)) = PREFIXES.iter().filter_map(|p| rest.find(p).map(|at| (at, p))).min() {
        let (before, from) = rest.split_at(at + prefix.len());
        out.push_str(before);
        let secret = from.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        if secret > 0 {
            out.push('…');
        }
        rest = from.split_at(secret).1;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_cut() {
        let line = redact("token nbtok_abc123 and key=nbkey_x_y_z, then nbadm_".to_owned());
        assert_eq!(line, "token nbtok_… and key=nbkey_…, then nbadm_");
    }

    #[test]
    fn text_lines_have_the_documented_form() {
        let mut fields = Fields { message: "nebulad is ready".to_owned(), rest: Map::new() };
        fields.rest.insert("grpc_addr".to_owned(), "127.0.0.1:9090".into());
        fields.rest.insert("why".to_owned(), "two words".into());
        fields.rest.insert("count".to_owned(), 3.into());
        assert_eq!(
            text_line("INFO", &fields),
            r#"level=INFO msg="nebulad is ready" count=3 grpc_addr=127.0.0.1:9090 why="two words""#
        );
    }

    #[test]
    fn text_lines_stay_one_line() {
        let fields = Fields { message: "a\nb".to_owned(), rest: Map::new() };
        assert_eq!(text_line("WARN", &fields), r#"level=WARN msg="a\nb""#);
    }
}
