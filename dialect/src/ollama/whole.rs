//! Answers that come in one piece.

use bytes::Bytes;

use super::generation::{Kind, Reply};
use super::json::Object;
use super::said::Said;
use super::{calls, head, logprobs};
use crate::adapter::{Tally, Whole};

/// Makes OpenAI's answer of Ollama's.
pub(super) struct Generated {
    reply: Reply,
}

impl Generated {
    pub(super) fn new(reply: Reply) -> Self {
        Self { reply }
    }
}

impl Whole for Generated {
    fn translate(&self, body: &[u8]) -> Option<(Bytes, Tally)> {
        let said = Said::of(std::str::from_utf8(body).ok()?)?;
        if !said.done || said.error.is_some() {
            return None;
        }
        let mut out = Vec::with_capacity(body.len());
        let mut object = Object::open(&mut out);
        head::put(&self.reply, said.created(), false, &mut object);
        let choices = object.name("choices");
        choices.push(b'[');
        let mut choice = Object::open(choices);
        choice.json("index", "0");
        match self.reply.kind {
            Kind::Chat => self.put_message(&said, &mut choice)?,
            Kind::Text => put_text(&said, &mut choice),
        }
        choice.close();
        out.push(b']');
        let mut object = Object::resume(&mut out);
        let usage = said.usage();
        head::put_usage(usage, &mut object);
        object.close();
        Some((out.into(), Tally { usage: Some(usage), pieces: 0 }))
    }
}

impl Generated {
    fn put_message(&self, said: &Said<'_>, choice: &mut Object<'_>) -> Option<()> {
        let told = said.message.as_ref()?;
        let mut message = Object::open(choice.name("message"));
        message.json("role", told.role());
        message.json("content", told.content().unwrap_or("\"\""));
        message.json("refusal", "null");
        message.maybe("reasoning", told.thinking());
        let mut count = 0;
        if !told.tool_calls().is_empty() {
            calls::put(told.tool_calls(), &mut count, &self.reply, message.name("tool_calls"));
        }
        message.close();
        match said.logprobs.as_deref() {
            Some(tokens) if !tokens.is_empty() => logprobs::put_chat(tokens, choice.name("logprobs")),
            _ => choice.json("logprobs", "null"),
        }
        choice.json("finish_reason", said.finish_reason(count > 0));
        Some(())
    }
}

fn put_text(said: &Said<'_>, choice: &mut Object<'_>) {
    choice.json("text", said.response().unwrap_or("\"\""));
    match said.logprobs.as_deref() {
        Some(tokens) if !tokens.is_empty() => logprobs::put_text(tokens, &mut 0, choice.name("logprobs")),
        _ => choice.json("logprobs", "null"),
    }
    choice.json("finish_reason", said.finish_reason(false));
}
