//! Embeddings: `/embeddings` to `/api/embed`. Ollama has floats only; base64, which OpenAI's own client asks for by
//! itself, is made here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::json::{Fields, Object, each, is_text, text};
use super::{options, refusal};
use crate::adapter::{Answer, Asked, Outgoing, Refusal, Tally, Usage, Whole};

const FIELDS: [&str; 5] = ["input", "dimensions", "encoding_format", "keep_alive", "truncate"];

pub(super) fn outgoing(asked: &Asked<'_>, body: &str) -> Result<Outgoing, Refusal> {
    let request = Fields::of(body, &FIELDS).ok_or_else(|| refusal(None, "The body is not a JSON object."))?;
    let base64 = wants_base64(&request)?;
    let (input, count) = input(request.get("input"))?;
    let mut out = Vec::with_capacity(body.len().saturating_add(128));
    let mut object = Object::open(&mut out);
    object.text("model", asked.served_name);
    object.json("input", input);
    object.maybe("dimensions", request.get("dimensions"));
    object.json("keep_alive", options::keep_alive(request.get("keep_alive"))?);
    // What does not fit is an error rather than another text's vector.
    object.json("truncate", if options::flag(&request, "truncate")? { "true" } else { "false" });
    object.close();
    let answer = Vectors { model: asked.scan.model.clone(), base64, count };
    Ok(Outgoing { path: "/api/embed", body: out.into(), answer: Answer::Whole(Box::new(answer)) })
}

fn wants_base64(request: &Fields<'_>) -> Result<bool, Refusal> {
    let Some(json) = request.get("encoding_format") else { return Ok(false) };
    let said = text(json);
    let said = said.as_deref().unwrap_or(json);
    if said.eq_ignore_ascii_case("base64") {
        return Ok(true);
    }
    if said.is_empty() || said.eq_ignore_ascii_case("float") {
        return Ok(false);
    }
    let said: String = said.chars().take(64).collect();
    let message =
        format!("Invalid value for 'encoding_format' = {said}. Supported values: ['float', 'base64'].");
    Err(refusal(Some("encoding_format"), message))
}

/// What is embedded, and how many texts it is.
fn input(json: Option<&str>) -> Result<(&str, usize), Refusal> {
    let wrong = |message: &str| refusal(Some("input"), message);
    let json = json.ok_or_else(|| wrong("invalid input"))?;
    if is_text(json) {
        // Ollama takes an empty string for no input at all.
        return Ok((if json == "\"\"" { "[\"\"]" } else { json }, 1));
    }
    let mut count: usize = 0;
    each(json, &wrong("invalid input"), |element| {
        count = count.saturating_add(1);
        if is_text(element) {
            return Ok(());
        }
        Err(wrong("input must be text: the model's runtime takes no tokens."))
    })?;
    if count == 0 { Err(wrong("invalid input")) } else { Ok((json, count)) }
}

/// Makes OpenAI's list of Ollama's vectors.
struct Vectors {
    model: String,
    base64: bool,
    /// How many there must be.
    count: usize,
}

#[derive(serde::Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    embeddings: &'a RawValue,
    prompt_eval_count: Option<u64>,
}

impl Whole for Vectors {
    fn translate(&self, body: &[u8]) -> Option<(Bytes, Tally)> {
        let said: Said<'_> = serde_json::from_slice(body).ok()?;
        let mut out = Vec::with_capacity(body.len());
        let mut object = Object::open(&mut out);
        object.json("object", "\"list\"");
        self.put_data(said.embeddings.get(), object.name("data"))?;
        object.text("model", &self.model);
        let tokens = said.prompt_eval_count.unwrap_or_default();
        let mut usage = Object::open(object.name("usage"));
        usage.json("prompt_tokens", &tokens.to_string());
        usage.json("total_tokens", &tokens.to_string());
        usage.close();
        object.close();
        let usage = Usage { prompt: tokens, completion: 0 };
        Some((out.into(), Tally { usage: Some(usage), pieces: 0 }))
    }
}

impl Vectors {
    fn put_data(&self, embeddings: &str, out: &mut Vec<u8>) -> Option<()> {
        let nonsense = refusal(None, "nonsense");
        let mut index: usize = 0;
        out.push(b'[');
        each(embeddings, &nonsense, |vector| {
            if index > 0 {
                out.push(b',');
            }
            let mut object = Object::open(out);
            object.json("object", "\"embedding\"");
            object.json("index", &index.to_string());
            if self.base64 {
                object.text("embedding", &STANDARD.encode(packed(vector, &nonsense)?));
            } else {
                object.json("embedding", vector);
            }
            object.close();
            index = index.saturating_add(1);
            Ok(())
        })
        .ok()?;
        out.push(b']');
        (index == self.count).then_some(())
    }
}

/// A vector's numbers, each as four bytes, the lowest first.
fn packed(vector: &str, nonsense: &Refusal) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    each(vector, nonsense, |number| {
        let number = number.parse().ok().filter(|number: &f32| number.is_finite());
        bytes.extend_from_slice(&number.ok_or_else(|| nonsense.clone())?.to_le_bytes());
        Ok(())
    })?;
    Ok(bytes)
}
