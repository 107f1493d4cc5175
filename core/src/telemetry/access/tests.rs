//! Lines as their reader sees them.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(10);

const MESSAGE: &str = "gateway request";

fn line(format: LogFormat) -> String {
    let mut line = Line::new(format, MESSAGE);
    line.field("request_id", Value::Text("a.b:c-1"));
    line.field("model", Value::Text("two \"words\""));
    line.field("path", Value::Text("/v1/a\tb\u{1}\nü\\"));
    line.field("status", Value::Number(200));
    line.field("ttft_ms", Value::Millis(Duration::from_micros(1_012_034)));
    line.field("stream", Value::Bool(true));
    line.field("empty", Value::Text(""));
    line.end()
}

fn numbered(number: u64) -> String {
    let mut line = Line::new(LogFormat::Text, MESSAGE);
    line.field("number", Value::Number(number));
    line.end()
}

#[test]
fn text_lines_have_the_form_of_all_others() {
    assert_eq!(
        line(LogFormat::Text),
        "level=INFO msg=\"gateway request\" request_id=a.b:c-1 model=\"two \\\"words\\\"\" \
         path=\"/v1/a\\tb\\u0001\\nü\\\\\" status=200 ttft_ms=1012.034 stream=true empty=\"\"\n"
    );
}

#[test]
fn json_lines_are_objects_with_time_level_and_message() {
    let line = line(LogFormat::Json);
    assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["level"], "INFO");
    assert_eq!(object["msg"], MESSAGE);
    assert_eq!(object["path"], "/v1/a\tb\u{1}\nü\\");
    assert_eq!(object["model"], "two \"words\"");
    assert_eq!((&object["status"], &object["ttft_ms"]), (&200.into(), &1012.034.into()));
    assert_eq!((&object["stream"], &object["empty"]), (&true.into(), &"".into()));
    assert_eq!(object["time"].as_str().map(str::len), Some("2000-02-29T12:34:56.789Z".len()));
}

/// Hands on what is written, and writes only when it may.
struct Reader {
    may: Receiver<()>,
    written: Sender<String>,
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.may.recv_timeout(DEADLINE).map_err(io::Error::other)?;
        self.written.send(String::from_utf8(bytes.to_vec()).unwrap()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn slow_log() -> (AccessLog, Sender<()>, Receiver<String>) {
    let ((go, may), (written, reads)) = (channel(), channel());
    let log = AccessLog::to(Box::new(Reader { may, written }), LogFormat::Text);
    (log, go, reads)
}

#[test]
fn lines_come_whole_and_together_and_all_are_written_at_the_end() {
    let (log, go, reads) = slow_log();
    for number in 0..100 {
        log.write(numbered(number));
    }
    for _ in 0..100 {
        go.send(()).unwrap();
    }
    log.close();
    let batches: Vec<String> = reads.try_iter().collect();
    assert!(batches.iter().all(|batch| batch.ends_with('\n')), "{batches:?}");
    let lines: Vec<String> = batches.concat().lines().map(str::to_owned).collect();
    let wanted: Vec<String> = (0..100).map(|number| numbered(number).trim_end().to_owned()).collect();
    assert_eq!(lines, wanted);
    log.write(numbered(100));
    assert_eq!(reads.try_iter().count(), 0, "nothing comes after the end");
}

#[test]
fn a_reader_that_stands_still_stops_nobody_and_is_told_how_much_was_dropped() {
    let (log, go, reads) = slow_log();
    let before = dropped_total();
    let long = "x".repeat(1_000) + "\n";
    // The first lines are being written, and their reader stands still: so much fits behind them.
    while dropped_total() < before + 10 {
        log.write(long.clone());
    }
    for _ in 0..100 {
        go.send(()).unwrap();
    }
    log.close();
    let text: String = reads.try_iter().collect();
    let told: u64 = text
        .lines()
        .filter_map(|line| line.strip_prefix("level=WARN msg=\"access log lines dropped\" lines="))
        .map(|count| count.parse::<u64>().unwrap())
        .sum();
    assert_eq!(told, dropped_total() - before);
    assert!(text.len() >= WAITING_BYTES_MAX / 2 && text.len() < WAITING_BYTES_MAX * 3, "{}", text.len());
}

#[test]
fn without_an_access_log_nothing_happens() {
    let log = AccessLog::off();
    log.write(numbered(1));
    log.close();
    assert!(!log.is_on());
}
