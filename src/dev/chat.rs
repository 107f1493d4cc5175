//! The first question, asked as any client would ask it: over HTTP, through the gateway.

use std::future::poll_fn;
use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use bytes::Bytes;
use nebula_core::address::HostPort;
use nebula_core::clock::{Clock, Tick};
use nebula_core::exit::{Exit, Fatal};
use nebula_relay::{Call, CallBody, Client, RequestHead};
use serde_json::{Value, json};

/// How long the model may take to its first token, and between two.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// The largest error answer that is read.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// How much of an answer is asked for.
const TOKENS: u32 = 64;

fn failed(what: impl Into<String>) -> Fatal {
    Fatal::new(Exit::Failed, what)
}

/// Streams the answer to standard output; returns the time to its first piece.
pub(super) async fn stream(
    gateway: SocketAddr,
    prefix: &str,
    model: &str,
    prompt: &str,
) -> Result<Duration, Fatal> {
    let clock = Clock::start();
    let body = json!({
        "model": model,
        "stream": true,
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": prompt}],
    });
    let address: HostPort = gateway.to_string().parse().map_err(|_| failed("the gateway has no address"))?;
    let path = format!("{prefix}/chat/completions");
    let head = RequestHead::new(&Method::POST, &path, None);
    let call = Call {
        address: &address,
        head: head.header(&CONTENT_TYPE, &HeaderValue::from_static("application/json")),
        body: CallBody::Bytes(Bytes::from(body.to_string())),
        first_byte_timeout: ANSWER_TIMEOUT,
    };
    let answer = Client::new()
        .send(call)
        .await
        .map_err(|error| failed(format!("the gateway did not answer: {error}")))?;
    if !answer.status.is_success() {
        let status = answer.status;
        let text = answer.collect(ERROR_BYTES_MAX, ANSWER_TIMEOUT).await.unwrap_or_default();
        return Err(failed(format!("the gateway answered {status}: {}", String::from_utf8_lossy(&text))));
    }
    let mut body = pin!(answer.relay(ANSWER_TIMEOUT, |_| Bytes::new()));
    let mut reader = Reader::default();
    let mut first = None;
    while let Some(chunk) = poll_fn(|cx| Pin::as_mut(&mut body).poll_next(cx)).await {
        let chunk = chunk.map_err(|error| failed(format!("the answer broke off: {error}")))?;
        for piece in reader.take(&chunk)? {
            first.get_or_insert_with(|| clock.now().since(Tick(0)));
            // Nobody may be reading any more; that is no error of ours.
            let mut out = std::io::stdout();
            let _ = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        }
    }
    match first {
        Some(first) if reader.done => Ok(first),
        Some(_) => Err(failed("the answer broke off")),
        None => Err(failed("the answer was empty")),
    }
}

/// Finds the pieces of text in an event stream.
#[derive(Default)]
struct Reader {
    line: Vec<u8>,
    done: bool,
}

impl Reader {
    fn take(&mut self, chunk: &[u8]) -> Result<Vec<String>, Fatal> {
        let mut pieces = Vec::new();
        for byte in chunk {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data == b"[DONE]" {
                self.done = true;
                continue;
            }
            let event: Value =
                serde_json::from_slice(data).map_err(|_| failed("the answer is no event stream"))?;
            if let Some(why) = event.pointer("/error/message") {
                return Err(failed(format!("the answer broke off: {}", why.as_str().unwrap_or("no reason"))));
            }
            let piece = event.pointer("/choices/0/delta/content").and_then(Value::as_str);
            pieces.extend(piece.map(str::to_owned));
        }
        Ok(pieces.into_iter().filter(|piece| !piece.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_however_the_stream_is_cut() {
        let stream =
            b"data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\r\n\r\n: comment\n\ndata: [DONE]\n\n";
        for cut in 0..stream.len() {
            let mut reader = Reader::default();
            let (one, two) = stream.split_at(cut);
            let mut pieces = reader.take(one).expect("a stream");
            pieces.extend(reader.take(two).expect("a stream"));
            assert_eq!((pieces.concat().as_str(), reader.done), ("Hi", true));
        }
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        let stream = b"data: {\"error\":{\"message\":\"upstream broke\"}}\n\n";
        let error = Reader::default().take(stream).expect_err("an error");
        assert!(error.message.contains("upstream broke"));
    }
}
