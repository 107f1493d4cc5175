//! Streams: lines of JSON to events. Every object is told at once; what is held is at most the beginning of one line.

use std::borrow::Cow;

use bytes::Bytes;

use super::generation::{Kind, Reply};
use super::json::Object;
use super::lines::Lines;
use super::logprobs::Logprob;
use super::said::{Said, ToolCall};
use super::{LINE_MAX, calls, error, head, logprobs};
use crate::adapter::{Incoming, Passing, Tally, Unfinished};

const DONE: &[u8] = b"data: [DONE]\n\n";

/// Turns one stream into events.
pub(super) struct Stream {
    lines: Lines,
    events: Events,
    /// It is compressed and cannot be read.
    is_opaque: bool,
}

/// The events of one stream.
struct Events {
    reply: Reply,
    state: State,
    /// The beginning of every event: `data: {…,"choices":[`. Empty before the first one.
    head: Vec<u8>,
    /// How many tool calls were told.
    calls: usize,
    /// How many characters the tokens with log probabilities have had.
    offset: usize,
    tally: Tally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// It was told as complete.
    Done,
    /// An error was told.
    Failed,
}

/// What one chunk of a chat says, as JSON.
#[derive(Default)]
struct Delta<'s, 'a> {
    reasoning: Option<&'a str>,
    content: Option<&'a str>,
    tool_calls: &'s [ToolCall<'a>],
}

impl Stream {
    pub(super) fn new(reply: Reply) -> Self {
        Self::with_line_max(reply, LINE_MAX)
    }

    pub(super) fn with_line_max(reply: Reply, max: usize) -> Self {
        let events = Events {
            reply,
            state: State::Open,
            head: Vec::new(),
            calls: 0,
            offset: 0,
            tally: Tally::default(),
        };
        Self { lines: Lines::new(max), events, is_opaque: false }
    }
}

impl Passing for Stream {
    fn begin(&mut self, incoming: Incoming) -> bool {
        self.is_opaque = incoming == Incoming::Opaque;
        incoming == Incoming::Other
    }

    fn pass(&mut self, data: Bytes) -> Bytes {
        if self.is_opaque {
            return data;
        }
        let mut out = Vec::with_capacity(data.len().saturating_mul(2));
        let events = &mut self.events;
        if events.state == State::Open && self.lines.feed(&data, |line| events.line(line, &mut out)).is_err()
        {
            events.fail(None, &mut out);
        }
        out.into()
    }

    fn finish(&mut self) -> Result<Bytes, Unfinished> {
        if self.is_opaque {
            return Ok(Bytes::new());
        }
        let mut out = Vec::new();
        self.events.line(&self.lines.last(), &mut out);
        match self.events.state {
            State::Done => Ok(out.into()),
            State::Open => Err(Unfinished { told: false }),
            // What a last line without an end says comes too late to be told: whoever hears of the failure tells it.
            State::Failed => Err(Unfinished { told: out.is_empty() }),
        }
    }

    fn tally(&self) -> Tally {
        self.events.tally
    }
}

impl Events {
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if self.state != State::Open || line.trim_ascii().is_empty() {
            return;
        }
        let Ok(line) = std::str::from_utf8(line) else { return self.fail(None, out) };
        // Between tokens it would be blank in JSON, but ends a line of an event.
        let line =
            if line.contains('\r') { Cow::Owned(line.replace('\r', " ")) } else { Cow::Borrowed(line) };
        match Said::of(&line) {
            None => self.fail(None, out),
            Some(Said { error: Some(error), .. }) => self.fail(Some(error.get()), out),
            Some(said) => self.said(&said, out),
        }
    }

    /// Tells an error, after which nothing more is told.
    fn fail(&mut self, error: Option<&str>, out: &mut Vec<u8>) {
        self.state = State::Failed;
        error::put_event(error, out);
    }

    fn said(&mut self, said: &Said<'_>, out: &mut Vec<u8>) {
        let is_first = self.head.is_empty();
        if is_first {
            self.head = self.beginning(said.created());
        }
        match self.reply.kind {
            Kind::Chat => self.chat(said, is_first, out),
            Kind::Text => self.text(said, out),
        }
        if said.done {
            let usage = said.usage();
            self.tally.usage = Some(usage);
            if self.reply.usage {
                self.event(out, |_, _| {}, |object| head::put_usage(usage, object));
            }
            out.extend_from_slice(DONE);
            self.state = State::Done;
        }
    }

    fn chat(&mut self, said: &Said<'_>, is_first: bool, out: &mut Vec<u8>) {
        let message = said.message.as_ref();
        let reasoning = message.and_then(|message| message.thinking());
        let content = message.and_then(|message| message.content());
        let tool_calls = message.map(|message| message.tool_calls()).unwrap_or_default();
        let tokens = said.logprobs.as_deref().unwrap_or_default();
        let answers = content.is_some() || !tool_calls.is_empty();
        if reasoning.is_some() && answers {
            self.delta(&Delta { reasoning, ..Delta::default() }, tokens, is_first, out);
            self.delta(&Delta { reasoning: None, content, tool_calls }, &[], false, out);
        } else if reasoning.is_some() || answers || !tokens.is_empty() || is_first {
            self.delta(&Delta { reasoning, content, tool_calls }, tokens, is_first, out);
        }
        if said.done {
            let reason = said.finish_reason(self.calls > 0);
            self.choice(out, |_, choice| {
                choice.json("delta", "{}");
                choice.json("finish_reason", reason);
            });
        }
    }

    fn delta(&mut self, delta: &Delta<'_, '_>, tokens: &[Logprob<'_>], is_first: bool, out: &mut Vec<u8>) {
        let is_empty = delta.reasoning.is_none() && delta.content.is_none() && delta.tool_calls.is_empty();
        self.tally.pieces = self.tally.pieces.saturating_add(u64::from(!is_empty));
        self.choice(out, |events, choice| {
            let mut object = Object::open(choice.name("delta"));
            if is_first {
                object.json("role", "\"assistant\"");
            }
            // Clients expect it in the first chunk, and no chunk without anything.
            let blank = (is_first || is_empty).then_some("\"\"");
            object.maybe("content", delta.content.or(blank));
            object.maybe("reasoning", delta.reasoning);
            if !delta.tool_calls.is_empty() {
                calls::put(delta.tool_calls, &mut events.calls, &events.reply, object.name("tool_calls"));
            }
            object.close();
            if !tokens.is_empty() {
                logprobs::put_chat(tokens, choice.name("logprobs"));
            }
            choice.json("finish_reason", "null");
        });
    }

    fn text(&mut self, said: &Said<'_>, out: &mut Vec<u8>) {
        let response = said.response();
        let tokens = said.logprobs.as_deref().unwrap_or_default();
        if response.is_none() && tokens.is_empty() && !said.done {
            return;
        }
        self.tally.pieces = self.tally.pieces.saturating_add(u64::from(response.is_some()));
        let reason = if said.done { said.finish_reason(false) } else { "null" };
        self.choice(out, |events, choice| {
            choice.json("text", response.unwrap_or("\"\""));
            if tokens.is_empty() {
                choice.json("logprobs", "null");
            } else {
                logprobs::put_text(tokens, &mut events.offset, choice.name("logprobs"));
            }
            choice.json("finish_reason", reason);
        });
    }

    /// Writes an event with one choice.
    fn choice(&mut self, out: &mut Vec<u8>, put: impl FnOnce(&mut Self, &mut Object<'_>)) {
        let asks_usage = self.reply.usage;
        let put = |events: &mut Self, out: &mut Vec<u8>| {
            let mut choice = Object::open(out);
            choice.json("index", "0");
            put(events, &mut choice);
            choice.close();
        };
        // Whoever asked for usage gets the field in every chunk.
        self.event(out, put, |object| object.maybe("usage", asks_usage.then_some("null")));
    }

    /// Writes an event: its beginning, its choices, and what follows them.
    fn event(
        &mut self,
        out: &mut Vec<u8>,
        choices: impl FnOnce(&mut Self, &mut Vec<u8>),
        rest: impl FnOnce(&mut Object<'_>),
    ) {
        out.extend_from_slice(&self.head);
        choices(self, out);
        out.push(b']');
        let mut object = Object::resume(out);
        rest(&mut object);
        object.close();
        out.extend_from_slice(b"\n\n");
    }

    /// The same for all events, so that it is written once.
    fn beginning(&self, created: u64) -> Vec<u8> {
        let mut out = b"data: ".to_vec();
        let mut object = Object::open(&mut out);
        head::put(&self.reply, created, true, &mut object);
        object.name("choices").push(b'[');
        out
    }
}
