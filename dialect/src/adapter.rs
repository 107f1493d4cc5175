//! How a kind of engine is spoken to.

use bytes::Bytes;
use nebula_core::runtime::RuntimeKind;

use crate::ollama::Ollama;
use crate::passthrough::PassThrough;
use crate::scan::Scan;
use crate::surface::Surface;

/// Speaks to one kind of engine. Has no state; what one request needs is in its [`Answer`].
pub trait Adapter: Sync {
    /// The request in the engine's words.
    ///
    /// # Errors
    /// When the engine cannot do what is asked, and the client should hear why.
    fn outgoing(&self, asked: &Asked<'_>) -> Result<Outgoing, Refusal>;

    /// What the client hears of an error of the engine, where that is not what the engine said. `body` may be cut.
    fn told(&self, status: u16, body: &[u8]) -> Option<Told>;
}

/// The adapter for a kind of engine.
#[must_use]
pub fn adapter(runtime: RuntimeKind) -> &'static dyn Adapter {
    match runtime {
        // An older front end of Triton refuses fields that it does not know.
        RuntimeKind::Triton => &PassThrough { asks_for_usage: false },
        RuntimeKind::Vllm | RuntimeKind::Tgi | RuntimeKind::Llamacpp | RuntimeKind::Sim => {
            &PassThrough { asks_for_usage: true }
        }
        RuntimeKind::Ollama => &Ollama,
    }
}

/// What a client asks.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Where.
    pub surface: Surface,
    /// The body, which `scan` belongs to.
    pub body: &'a Bytes,
    /// What the body says.
    pub scan: &'a Scan,
    /// The name under which the engine serves the model.
    pub served_name: &'a str,
    /// Random, for ids that an adapter has to make.
    pub nonce: u128,
}

/// A request in an engine's words.
pub struct Outgoing {
    /// The path, without a query.
    pub path: &'static str,
    /// The body.
    pub body: Bytes,
    /// What becomes of a good answer. One of an error is told by [`Adapter::told`].
    pub answer: Answer,
}

/// What becomes of a good answer.
pub enum Answer {
    /// It passes while it comes.
    Passing(Box<dyn Passing>),
    /// It must be there as a whole before anything can be said.
    Whole(Box<dyn Whole>),
}

/// What the engine's answer is, as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// `text/event-stream`, not compressed: data comes as whole events.
    Events,
    /// Anything else that can be read: data comes as it was read.
    Other,
    /// It is compressed and passes as it is.
    Opaque,
}

/// An answer that passes while it comes. Memory is bounded whatever comes.
pub trait Passing {
    /// Called once, before any data. Answers whether what goes out is an event stream although what comes in is none.
    fn begin(&mut self, incoming: Incoming) -> bool;

    /// What the client gets for the next data; may be empty.
    fn pass(&mut self, data: Bytes) -> Bytes;

    /// What still follows after the last byte has come in order.
    ///
    /// # Errors
    /// When the answer lacks its end.
    fn finish(&mut self) -> Result<Bytes, Unfinished>;

    /// What is known of its tokens so far.
    fn tally(&self) -> Tally;
}

/// The answer has ended before it was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The engine has told the client why, so that nothing need follow.
    pub told: bool,
}

/// An answer that is translated as a whole.
pub trait Whole {
    /// The answer in the client's words (JSON), and its tokens. None when it makes no sense.
    fn translate(&self, body: &[u8]) -> Option<(Bytes, Tally)>;
}

/// What is known of the tokens of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// What the engine says.
    pub usage: Option<Usage>,
    /// Pieces of text that have passed in a stream: about one token each.
    pub pieces: u64,
}

/// Tokens, as an engine counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt: u64,
    /// Of the answer.
    pub completion: u64,
}

/// A request that an engine cannot do: told as 400 `invalid_request_error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For people; a sentence.
    pub message: String,
    /// Which parameter.
    pub param: Option<&'static str>,
    /// For programs.
    pub code: Option<&'static str>,
}

/// An error in OpenAI's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The HTTP status.
    pub status: u16,
    /// `type`.
    pub kind: &'static str,
    /// `code`.
    pub code: &'static str,
    /// `param`.
    pub param: Option<&'static str>,
    /// For people. May hold the engine's own words, which the caller still checks.
    pub message: String,
    /// Asking again later may help.
    pub retry: bool,
}
