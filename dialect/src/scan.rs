//! Finds what routing needs in a request's body without building the document, and changes only the bytes that the
//! engine must see otherwise. Every other byte stays as the client wrote it.

mod skip;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

pub(crate) use self::skip::{Invalid, Skipper};

/// Most tokens that a prompt is taken for: the bytes of a picture are no words.
const PROMPT_ESTIMATE_MAX: u64 = 128 * 1024;
/// Bytes of a token, about.
const TOKEN_BYTES: u64 = 4;
/// How much of a prompt that is a text counts for [`Scan::affinity`], in bytes.
const AFFINITY_BYTES: usize = 1024;

/// Why a body cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// It is not one JSON object; the text says why.
    #[error("{0}")]
    InvalidJson(String),
    /// `model` is missing or no string.
    #[error("\"model\" is missing or not a string")]
    MissingModel,
}

/// What routing needs of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// The model that the client names.
    pub model: String,
    /// The answer shall be a stream.
    pub streams: bool,
    /// How many tokens the prompt has, about.
    pub prompt_estimate: u64,
    /// Where the model stands in the body: as a JSON string with its quotes, or as it is.
    at: Range<usize>,
    is_json: bool,
    /// What makes a stream tell its usage; nothing when the client asks for that itself, or in a way that only the
    /// engine can judge.
    ask: Option<Edit>,
    prompt: Prompt,
}

/// Bytes of the body and what they become.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edit {
    at: Range<usize>,
    text: Cow<'static, str>,
}

/// Where the prompt stands.
#[derive(Debug, PartialEq, Eq)]
enum Prompt {
    Messages(Range<usize>),
    Text(Range<usize>),
}

/// Where the values of the keys stand that matter; of several the last.
#[derive(Default)]
struct Members {
    model: Option<Range<usize>>,
    stream: Option<Range<usize>>,
    stream_options: Option<Range<usize>>,
    messages: Option<Range<usize>>,
    prompt: Option<Range<usize>>,
    input: Option<Range<usize>>,
}

/// Reads a body: one JSON object and nothing after it. Of two equal keys the last one counts, as engines read it,
/// however it is escaped: whoever is let in for one model must not be served another.
///
/// # Errors
/// When it is something else, or names no model.
pub fn scan(body: &[u8]) -> Result<Scan, ScanError> {
    let found = members(body).map_err(|Invalid| ScanError::InvalidJson(why_invalid(body)))?;
    let at = found.model.ok_or(ScanError::MissingModel)?;
    let model = text(body, &at).map_err(|Invalid| ScanError::MissingModel)?.into_owned();
    let streams = found.stream.as_ref().is_some_and(|stream| bytes(body, stream) == b"true");
    let ask =
        found.stream.filter(|_| streams).and_then(|stream| ask_usage(body, &stream, found.stream_options));
    let prompt = (found.messages.map(Prompt::Messages))
        .or(found.prompt.or(found.input).map(Prompt::Text))
        .unwrap_or(Prompt::Text(0..body.len()));
    let prompt_estimate = (prompt.range().len() as u64 / TOKEN_BYTES).min(PROMPT_ESTIMATE_MAX);
    Ok(Scan { model, streams, prompt_estimate, at, is_json: true, ask, prompt })
}

impl Scan {
    /// Of a body in which the model stands as it is, and whose prompt is no text.
    #[must_use]
    pub fn of_text(model: &str, at: Range<usize>) -> Self {
        Self {
            model: model.to_owned(),
            streams: false,
            prompt_estimate: 0,
            at,
            is_json: false,
            ask: None,
            prompt: Prompt::Text(0..usize::MAX),
        }
    }

    /// The body with `name` for the model.
    #[must_use]
    pub fn with_model(&self, body: &Bytes, name: &str) -> Bytes {
        self.for_engine(body, name, false).0
    }

    /// The body with `name` for the model. With `ask_usage` a stream is asked for its usage: the second is whether
    /// the client has not asked for it.
    #[must_use]
    pub fn for_engine(&self, body: &Bytes, name: &str, ask_usage: bool) -> (Bytes, bool) {
        let model = (self.model != name).then(|| {
            let name = if self.is_json { serde_json::Value::from(name).to_string() } else { name.to_owned() };
            Edit { at: self.at.clone(), text: name.into() }
        });
        let ask = self.ask.clone().filter(|_| ask_usage);
        let asks = ask.is_some();
        let mut edits = [model, ask];
        edits.sort_by_key(|edit| edit.as_ref().map(|edit| edit.at.start));
        (edited(body, edits.into_iter().flatten()), asks)
    }

    /// Is the same for two bodies whose prompts begin alike, which one engine may then have cached: `messages` up to
    /// the end of the first one from the user, or the beginning of `prompt` or `input`.
    #[must_use]
    pub fn affinity(&self, body: &[u8]) -> u64 {
        let prefix = match &self.prompt {
            Prompt::Messages(at) => at.start..first_user_message(body, at).unwrap_or(at.end),
            Prompt::Text(at) => at.start..at.end.min(at.start + AFFINITY_BYTES).min(body.len()),
        };
        hash(bytes(body, &prefix))
    }
}

impl Prompt {
    fn range(&self) -> &Range<usize> {
        let (Self::Messages(at) | Self::Text(at)) = self;
        at
    }
}

/// The body with changes, which come in order and apart.
fn edited(body: &Bytes, edits: impl Iterator<Item = Edit> + Clone) -> Bytes {
    if edits.clone().next().is_none() {
        return body.clone();
    }
    let longer: usize = edits.clone().map(|edit| edit.text.len()).sum();
    let mut out = BytesMut::with_capacity(body.len() + longer);
    let mut done = 0;
    for edit in edits {
        out.extend_from_slice(bytes(body, &(done..edit.at.start)));
        out.extend_from_slice(edit.text.as_bytes());
        done = edit.at.end;
    }
    out.extend_from_slice(bytes(body, &(done..body.len())));
    out.freeze()
}

fn bytes<'a>(body: &'a [u8], at: &Range<usize>) -> &'a [u8] {
    body.get(at.clone()).unwrap_or_default()
}

/// The string that stands there, unescaped.
fn text<'a>(body: &'a [u8], at: &Range<usize>) -> Result<Cow<'a, str>, Invalid> {
    /// Borrowed where it has no escapes.
    #[derive(serde::Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let raw = bytes(body, at);
    match raw.strip_prefix(b"\"").and_then(|raw| raw.strip_suffix(b"\"")) {
        Some(plain) if !plain.contains(&b'\\') => {
            std::str::from_utf8(plain).map(Cow::Borrowed).map_err(|_| Invalid)
        }
        _ => serde_json::from_slice::<Text<'_>>(raw).map(|text| text.0).map_err(|_| Invalid),
    }
}

fn members(body: &[u8]) -> Result<Members, Invalid> {
    let mut skip = Skipper::new(body, 0);
    let mut found = Members::default();
    skip.expect(b'{')?;
    let mut is_first = true;
    while let Some(key) = skip.key(is_first)? {
        is_first = false;
        let value = skip.value()?;
        match &*text(body, &key)? {
            "model" => {
                std::str::from_utf8(bytes(body, &value)).map_err(|_| Invalid)?;
                found.model = Some(value);
            }
            "stream" => found.stream = Some(value),
            "stream_options" => found.stream_options = Some(value),
            "messages" => found.messages = Some(value),
            "prompt" => found.prompt = Some(value),
            "input" => found.input = Some(value),
            _ => {}
        }
    }
    skip.end()?;
    Ok(found)
}

/// What makes the body ask for usage, whose last `stream` and `stream_options` stand there.
fn ask_usage(body: &[u8], stream: &Range<usize>, options: Option<Range<usize>>) -> Option<Edit> {
    let Some(options) = options else {
        let text = ",\"stream_options\":{\"include_usage\":true}".into();
        return Some(Edit { at: stream.end..stream.end, text });
    };
    if bytes(body, &options) == b"null" {
        return Some(Edit { at: options, text: "{\"include_usage\":true}".into() });
    }
    let mut skip = Skipper::new(body, options.start);
    skip.expect(b'{').ok()?;
    let inside = skip.position();
    let mut include = None;
    let mut is_empty = true;
    while let Some(key) = skip.key(is_empty).ok()? {
        is_empty = false;
        let value = skip.value().ok()?;
        if text(body, &key).is_ok_and(|key| key == "include_usage") {
            include = Some(value);
        }
    }
    match include {
        Some(value) if matches!(bytes(body, &value), b"false" | b"null") => {
            Some(Edit { at: value, text: "true".into() })
        }
        Some(_) => None,
        None => {
            let text = if is_empty { "\"include_usage\":true" } else { "\"include_usage\":true," };
            Some(Edit { at: inside..inside, text: text.into() })
        }
    }
}

/// Where the first message from the user ends.
fn first_user_message(body: &[u8], messages: &Range<usize>) -> Option<usize> {
    let mut skip = Skipper::new(body, messages.start);
    skip.expect(b'[').ok()?;
    let mut is_first = true;
    while skip.element(is_first).ok()? {
        is_first = false;
        if skip.peek() != b'{' {
            skip.value().ok()?;
            continue;
        }
        skip.expect(b'{').ok()?;
        let mut of_user = false;
        let mut is_first = true;
        while let Some(key) = skip.key(is_first).ok()? {
            is_first = false;
            let value = skip.value().ok()?;
            if text(body, &key).is_ok_and(|key| key == "role") {
                of_user = text(body, &value).is_ok_and(|role| role == "user");
            }
        }
        if of_user {
            return Some(skip.position());
        }
    }
    None
}

/// Spreads well and is quick; no secret depends on it.
fn hash(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(slot, byte)| *slot = *byte);
    let words = words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word));
    let mixed = words.fold(bytes.len() as u64, |hash, word| (hash ^ word).wrapping_mul(ODD).rotate_left(29));
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(ODD);
    mixed ^ mixed >> 29
}

/// In the words of `serde_json`, which reads a bad body again.
fn why_invalid(body: &[u8]) -> String {
    struct Object;

    impl<'de> Visitor<'de> for Object {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while map.next_entry::<Cow<'de, str>, IgnoredAny>()?.is_some() {}
            Ok(())
        }
    }

    let mut document = serde_json::Deserializer::from_slice(body);
    match document.deserialize_map(Object).and_then(|()| document.end()) {
        Err(error) => error.to_string(),
        Ok(()) => "\"model\" is not UTF-8".to_owned(),
    }
}

#[cfg(test)]
mod tests;
