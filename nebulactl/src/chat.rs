//! `chat`: one message to a model, the answer as it arrives.

use std::io::{IsTerminal, Read};
use std::time::Duration;

use nebula_core::exit::{Exit, Fatal};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::api::{Api, ApiError, content_type, message_of};
use crate::cli::ChatArgs;
use crate::failure::{Result, failed};
use crate::output::Output;
use crate::sse;

/// How long a model may be silent. nebulad's own limits are shorter and end with a reason; this one is for a
/// connection that nobody answers for any more.
const SILENCE_MAX: Duration = Duration::from_secs(3_600);
/// The longest prompt read from standard input.
const PROMPT_MAX_BYTES: u64 = 32 << 20;

/// Sends the message and prints the answer.
pub(crate) async fn run(api: &Api, output: &Output, args: &ChatArgs) -> Result<()> {
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => read_prompt(output)?,
    };
    if prompt.trim().is_empty() {
        let fatal = Fatal::new(Exit::Usage, "the message is empty");
        return Err(fatal.hint("`nebulactl chat MODEL \"hello\"`, or write it to standard input").into());
    }
    let stream = !args.no_stream && !output.is_json();
    let mut body = json!({
        "model": args.model,
        "messages": [{ "role": "user", "content": prompt }],
        "stream": stream,
    });
    if let (Some(limit), Some(body)) = (args.max_tokens, body.as_object_mut()) {
        body.insert("max_tokens".to_owned(), limit.into());
    }
    let url = api.url(&["v1", "chat", "completions"])?;
    let response = api
        .accepted(Method::POST, &url, Some(&body), SILENCE_MAX)
        .await
        .map_err(|error| advise(error, &args.model))?;
    // A server that cannot stream may answer with the whole completion.
    if stream && content_type(&response) == "text/event-stream" {
        return print_stream(api, output, response).await;
    }
    let completion = api.json_body(&url, "POST", response, SILENCE_MAX).await?;
    if let Some(message) = message_of(&completion.value) {
        return Err(failed(message).into());
    }
    if output.is_json() {
        return output.json(&completion.text);
    }
    let Some(answer) = completion.value.pointer("/choices/0/message/content") else {
        return Err(ApiError::no_json(&url, "POST", "no completion").into());
    };
    let mut printer = Printer::new(output);
    printer.print(answer.as_str().unwrap_or_default())?;
    printer.end()
}

fn read_prompt(output: &Output) -> Result<String> {
    let input = std::io::stdin();
    if input.is_terminal() {
        output.note("write your message and end it with Ctrl-D");
    }
    let mut bytes = Vec::new();
    input
        .lock()
        .take(PROMPT_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(format!("standard input cannot be read: {error}")))?;
    if bytes.len() as u64 > PROMPT_MAX_BYTES {
        return Err(failed(format!("the message is longer than {} MiB", PROMPT_MAX_BYTES >> 20)).into());
    }
    String::from_utf8(bytes).map_err(|_| failed("standard input is not UTF-8 text").into())
}

fn advise(error: ApiError, model: &str) -> ApiError {
    let hint = match error.status {
        Some(StatusCode::NOT_FOUND) => {
            "`nebulactl models` lists the models that are served to you".to_owned()
        }
        Some(StatusCode::SERVICE_UNAVAILABLE) => {
            format!("`nebulactl get {model}` shows what it is waiting for")
        }
        _ => return error,
    };
    ApiError { fatal: error.fatal.hint(hint), ..error }
}

async fn print_stream(api: &Api, output: &Output, mut response: Response) -> Result<()> {
    let mut printer = Printer::new(output);
    let mut answer = Answer::default();
    let end = read_stream(api, &mut response, &mut answer, &mut printer).await;
    // What came before a failure ends with a line break too, so that the error stands on its own line.
    printer.end()?;
    end
}

async fn read_stream(
    api: &Api,
    response: &mut Response,
    answer: &mut Answer,
    printer: &mut Printer<'_>,
) -> Result<()> {
    let mut reader = sse::Reader::default();
    loop {
        let piece = api.piece(response, Some(SILENCE_MAX)).await?;
        let over = piece.is_none();
        let events = match piece {
            Some(piece) => reader.feed(&piece).map_err(|_| failed("the answer has an event without end"))?,
            None => std::mem::take(&mut reader).finish().into_iter().collect(),
        };
        for event in events {
            match answer.take(&event) {
                Step::Text(text) => printer.print(&text)?,
                Step::Nothing => {}
                Step::Done => return Ok(()),
                Step::Failed(message) => return Err(failed(message).into()),
            }
        }
        if over {
            return answer.end().map_err(|message| failed(message).into());
        }
    }
}

/// What one event of the stream means.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Text(String),
    Nothing,
    Done,
    Failed(String),
}

/// An answer that arrives in events.
#[derive(Debug, Default)]
struct Answer {
    finished: bool,
}

impl Answer {
    fn take(&mut self, event: &str) -> Step {
        if event.trim() == "[DONE]" {
            return Step::Done;
        }
        let Ok(chunk) = serde_json::from_str::<Value>(event) else {
            return Step::Failed("the answer has an event that is no JSON".to_owned());
        };
        if let Some(message) = message_of(&chunk) {
            return Step::Failed(message);
        }
        let choice = chunk.pointer("/choices/0");
        self.finished |=
            choice.and_then(|choice| choice.get("finish_reason")).is_some_and(|why| !why.is_null());
        match choice.and_then(|choice| choice.pointer("/delta/content")).and_then(Value::as_str) {
            Some(text) if !text.is_empty() => Step::Text(text.to_owned()),
            _ => Step::Nothing,
        }
    }

    /// The stream ended without `[DONE]`, which some engines leave out: well only if the model had finished.
    fn end(&self) -> std::result::Result<(), String> {
        if self.finished { Ok(()) } else { Err("the answer broke off before its end".to_owned()) }
    }
}

/// Prints an answer in pieces and ends it with a line break.
struct Printer<'a> {
    output: &'a Output,
    open_line: bool,
}

impl<'a> Printer<'a> {
    fn new(output: &'a Output) -> Self {
        Self { output, open_line: false }
    }

    fn print(&mut self, text: &str) -> Result<()> {
        let Some(last) = text.chars().next_back() else { return Ok(()) };
        self.open_line = last != '\n';
        if self.output.is_terminal() {
            // A model must not be able to steer the terminal.
            let harmless = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
            return self.output.text(&text.chars().filter(harmless).collect::<String>());
        }
        self.output.text(text)
    }

    fn end(self) -> Result<()> {
        if self.open_line { self.output.text("\n") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_understood() {
        let mut answer = Answer::default();
        for (event, step) in [
            (r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#, Step::Nothing),
            (r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":null}]}"#, Step::Text("hi".to_owned())),
            (r#"{"choices":[],"usage":{"total_tokens":3},"error":null}"#, Step::Nothing),
            ("[DONE]", Step::Done),
            (r#"{"error":{"message":"upstream\nbroke"}}"#, Step::Failed("upstream broke".to_owned())),
            (r#"{"error":"broke"}"#, Step::Failed("broke".to_owned())),
            ("{", Step::Failed("the answer has an event that is no JSON".to_owned())),
        ] {
            assert_eq!(answer.take(event), step, "{event}");
        }
    }

    #[test]
    fn a_stream_without_its_end_is_well_only_if_the_model_had_finished() {
        let mut answer = Answer::default();
        answer.take(r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":null}]}"#);
        assert!(answer.end().is_err());
        answer.take(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#);
        assert!(answer.end().is_ok());
    }
}
