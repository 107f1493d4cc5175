//! Log probabilities of tokens. Ollama's are nearly a chat's; a completion's have an older form.

use serde_json::value::RawValue;

use super::json::{Object, text};
use super::said::Text;

/// One token, or one that might have come instead.
#[derive(serde::Deserialize)]
pub(super) struct Logprob<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    logprob: &'a RawValue,
    bytes: Option<&'a RawValue>,
    top_logprobs: Option<Vec<Self>>,
}

impl Logprob<'_> {
    fn instead(&self) -> &[Self] {
        self.top_logprobs.as_deref().unwrap_or_default()
    }

    fn put(&self, object: &mut Object<'_>) {
        object.json("token", self.token.0);
        object.json("logprob", self.logprob.get());
        object.json("bytes", self.bytes.map_or("null", RawValue::get));
    }
}

/// Writes `logprobs` of a chat. Clients count on every field, Ollama leaves some away.
pub(super) fn put_chat(logprobs: &[Logprob<'_>], out: &mut Vec<u8>) {
    let mut object = Object::open(out);
    put_array(logprobs, object.name("content"), |token, out| {
        let mut object = Object::open(out);
        token.put(&mut object);
        put_array(token.instead(), object.name("top_logprobs"), |token, out| {
            let mut object = Object::open(out);
            token.put(&mut object);
            object.close();
        });
        object.close();
    });
    object.json("refusal", "null");
    object.close();
}

/// Writes `logprobs` of a completion, whose tokens begin `offset` characters into the text. Moves the offset on.
pub(super) fn put_text(logprobs: &[Logprob<'_>], offset: &mut usize, out: &mut Vec<u8>) {
    let mut object = Object::open(out);
    put_array(logprobs, object.name("text_offset"), |token, out| {
        out.extend_from_slice(offset.to_string().as_bytes());
        let length = text(token.token.0).map_or(0, |text| text.chars().count());
        *offset = offset.saturating_add(length);
    });
    put_array(logprobs, object.name("token_logprobs"), |token, out| {
        out.extend_from_slice(token.logprob.get().as_bytes());
    });
    put_array(logprobs, object.name("tokens"), |token, out| out.extend_from_slice(token.token.0.as_bytes()));
    put_array(logprobs, object.name("top_logprobs"), |token, out| {
        out.push(b'{');
        for (at, token) in token.instead().iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(token.token.0.as_bytes());
            out.push(b':');
            out.extend_from_slice(token.logprob.get().as_bytes());
        }
        out.push(b'}');
    });
    object.close();
}

/// Writes an array, each element as `put` does.
pub(super) fn put_array<T>(elements: &[T], out: &mut Vec<u8>, mut put: impl FnMut(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (at, element) in elements.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        put(element, out);
    }
    out.push(b']');
}
