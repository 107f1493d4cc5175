//! Requests for text: `/chat/completions` to `/api/chat`, and `/completions` to `/api/generate`.

use super::json::{Fields, Object, each, is_text};
use super::options::{self, FIELDS, flag, only_one};
use super::stream::Stream;
use super::whole::Generated;
use super::{messages, refusal, tools};
use crate::adapter::{Answer, Asked, Outgoing, Refusal};

/// Which of the two calls is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Text,
}

/// What the answer takes from the request.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    /// As the client named it.
    pub(super) model: String,
    /// For the ids.
    pub(super) nonce: u128,
    /// A stream ends with its usage.
    pub(super) usage: bool,
}

impl Reply {
    /// The answer's `id`.
    pub(super) fn id(&self) -> String {
        let prefix = match self.kind {
            Kind::Chat => "chatcmpl",
            Kind::Text => "cmpl",
        };
        format!("{prefix}-{:032x}", self.nonce)
    }

    /// The `id` of the tool call number `at`, where Ollama gives none.
    pub(super) fn call_id(&self, at: usize) -> String {
        let at = u128::try_from(at).unwrap_or_default();
        // 24 digits, like OpenAI's.
        format!("call_{:024x}", self.nonce.wrapping_add(at) & (u128::MAX >> 32))
    }
}

/// A chat.
pub(super) fn chat(asked: &Asked<'_>, body: &str) -> Result<Outgoing, Refusal> {
    let request = fields(body)?;
    only_one(&request, "n")?;
    if request.get("functions").is_some() {
        return Err(refusal(Some("functions"), "functions is not supported; say them as tools."));
    }
    let mut out = Vec::with_capacity(body.len().saturating_add(512));
    let mut object = Object::open(&mut out);
    object.text("model", asked.served_name);
    messages::put(request.get("messages"), object.name("messages"))?;
    if let Some(tools) = tools::offered(request.get("tools"), request.get("tool_choice"))? {
        object.json("tools", &tools);
    }
    if flag(&request, "logprobs")? {
        object.json("logprobs", "true");
        object.maybe("top_logprobs", request.get("top_logprobs"));
    }
    finish(asked, &request, object, Kind::Chat).map(|answer| outgoing("/api/chat", out, answer))
}

/// A completion.
pub(super) fn completion(asked: &Asked<'_>, body: &str) -> Result<Outgoing, Refusal> {
    let request = fields(body)?;
    only_one(&request, "n")?;
    only_one(&request, "best_of")?;
    if flag(&request, "echo")? {
        return Err(refusal(Some("echo"), "echo is not supported by the model's runtime."));
    }
    let mut out = Vec::with_capacity(body.len().saturating_add(512));
    let mut object = Object::open(&mut out);
    object.text("model", asked.served_name);
    object.json("prompt", prompt(request.get("prompt"))?);
    if let Some(suffix) = request.get("suffix") {
        if !is_text(suffix) {
            return Err(refusal(Some("suffix"), "suffix must be a string."));
        }
        object.json("suffix", suffix);
    }
    // Of the legacy call this is how many alternatives are told for each token.
    if let Some(alternatives) = request.get("logprobs") {
        let number = alternatives.parse::<f64>();
        let number = number.map_err(|_| refusal(Some("logprobs"), "logprobs must be a number."))?;
        if number > 0.0 {
            object.json("logprobs", "true");
            object.json("top_logprobs", alternatives);
        }
    }
    finish(asked, &request, object, Kind::Text).map(|answer| outgoing("/api/generate", out, answer))
}

fn fields(body: &str) -> Result<Fields<'_>, Refusal> {
    Fields::of(body, &FIELDS).ok_or_else(|| refusal(None, "The body is not a JSON object."))
}

/// Writes the rest of the request, and says what becomes of the answer.
fn finish(
    asked: &Asked<'_>,
    request: &Fields<'_>,
    mut object: Object<'_>,
    kind: Kind,
) -> Result<Answer, Refusal> {
    options::put(request, &mut object)?;
    let streams = flag(request, "stream")?;
    // Ollama streams unless told not to.
    object.json("stream", if streams { "true" } else { "false" });
    object.close();
    let usage = request.get("stream_options").map(|json| {
        let wrong = || refusal(Some("stream_options"), "stream_options must be an object.");
        flag(&Fields::of(json, &["include_usage"]).ok_or_else(wrong)?, "include_usage")
    });
    let usage = usage.transpose()?.unwrap_or(false);
    let reply = Reply { kind, model: asked.scan.model.clone(), nonce: asked.nonce, usage };
    Ok(if streams {
        Answer::Passing(Box::new(Stream::new(reply)))
    } else {
        Answer::Whole(Box::new(Generated::new(reply)))
    })
}

fn outgoing(path: &'static str, body: Vec<u8>, answer: Answer) -> Outgoing {
    Outgoing { path, body: body.into(), answer }
}

/// A string, or an array of one.
fn prompt(json: Option<&str>) -> Result<&str, Refusal> {
    let wrong = |message: &str| refusal(Some("prompt"), message);
    let json = json.ok_or_else(|| wrong("You must provide a prompt."))?;
    if is_text(json) {
        return Ok(json);
    }
    let mut only = None;
    each(json, &wrong("prompt must be a string."), |element| {
        if !is_text(element) {
            return Err(wrong("prompt must be text: the model's runtime takes no tokens."));
        }
        match only.replace(element) {
            None => Ok(()),
            Some(_) => Err(wrong("prompt must be one string: the model's runtime answers one at a time.")),
        }
    })?;
    only.ok_or_else(|| wrong("prompt must not be empty."))
}
