//! The content of a message: a string, or parts that are text, images or sound.

use super::json::{Fields, Object, each, is_object, is_text, quote, text};
use super::messages::invalid;
use super::refusal;
use crate::adapter::Refusal;

const PART: [&str; 4] = ["type", "text", "image_url", "input_audio"];

/// How an image may begin that comes with the request.
const IMAGES: [&str; 5] = [
    "data:image/jpeg;base64",
    "data:image/jpg;base64",
    "data:image/png;base64",
    "data:image/webp;base64",
    // Without a type it is what Ollama itself takes.
    "data:;base64",
];

/// Writes `content` and `images`. Texts are joined by line ends: one message stays one, as roles are counted by them.
pub(super) fn put(content: &str, object: &mut Object<'_>) -> Result<(), Refusal> {
    if is_text(content) {
        object.json("content", content);
        return Ok(());
    }
    let mut parts = Parts::default();
    each(content, &invalid(), |json| parts.add(json))?;
    let out = object.name("content");
    out.push(b'"');
    out.extend_from_slice(&parts.text);
    out.push(b'"');
    if !parts.images.is_empty() {
        parts.images.push(b']');
        object.name("images").extend_from_slice(&parts.images);
    }
    Ok(())
}

#[derive(Default)]
struct Parts {
    /// JSON of a string, without its quotes.
    text: Vec<u8>,
    has_text: bool,
    /// JSON of an array, without its end.
    images: Vec<u8>,
}

impl Parts {
    fn add(&mut self, json: &str) -> Result<(), Refusal> {
        let part = Fields::of(json, &PART).ok_or_else(invalid)?;
        match part.get("type").and_then(text).as_deref() {
            Some("text") => self.add_text(part.get("text").ok_or_else(invalid)?),
            Some("image_url") => {
                let json = part.get("image_url").ok_or_else(invalid)?;
                let inside = is_object(json).then(|| Fields::of(json, &["url"])?.get("url"));
                let url = inside.unwrap_or(Some(json)).and_then(text).ok_or_else(invalid)?;
                self.add_data(image(&url)?);
                Ok(())
            }
            Some("input_audio") => {
                let sound = part.get("input_audio").and_then(|json| Fields::of(json, &["data"])?.get("data"));
                self.add_data(&sound.and_then(text).ok_or_else(invalid)?);
                Ok(())
            }
            _ => Err(invalid()),
        }
    }

    /// Joins the JSON of strings, so that nothing is unescaped and escaped again.
    fn add_text(&mut self, json: &str) -> Result<(), Refusal> {
        let inner = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).ok_or_else(invalid)?;
        if self.has_text {
            self.text.extend_from_slice(b"\\n");
        }
        self.has_text = true;
        self.text.extend_from_slice(inner.as_bytes());
        Ok(())
    }

    fn add_data(&mut self, base64: &str) {
        self.images.push(if self.images.is_empty() { b'[' } else { b',' });
        quote(&mut self.images, base64);
    }
}

/// The base64 of an image that comes with the request.
fn image(url: &str) -> Result<&str, Refusal> {
    let scheme = url.split(':').next().unwrap_or_default();
    if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") {
        let message = "image URLs are not currently supported, please use base64 encoded data instead";
        return Err(refusal(Some("messages"), message));
    }
    let (kind, data) = url.split_once(',').unwrap_or((url, ""));
    if IMAGES.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
        return Ok(data);
    }
    Err(refusal(
        Some("messages"),
        "invalid image input: it must be JPEG, PNG or WebP as a data: URL with base64",
    ))
}
