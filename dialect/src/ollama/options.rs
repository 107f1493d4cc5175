//! What chat and completions have in common: options, the form of the answer, thinking, and how long the model stays.

use std::borrow::Cow;

use super::json::{Fields, Object, each, is_object, is_text, text};
use super::{KEEP_ALIVE, refusal};
use crate::adapter::Refusal;

/// The options that a client may set. How and where the model is loaded (`num_gpu`, `num_thread`, …) is the
/// deployment's to say. Ollama knows most of them by OpenAI's names.
const OPTIONS: [&str; 18] = [
    "num_predict",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "num_ctx",
    "num_keep",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    // No option, but some clients have one place for everything that is Ollama's.
    "keep_alive",
];

/// What Ollama assumes is less than what OpenAI does.
const DEFAULTS: [(&str, &str); 2] = [("temperature", "1.0"), ("top_p", "1.0")];

/// All fields of a chat or a completion that mean something here.
pub(super) const FIELDS: [&str; 41] = [
    "messages",
    "tools",
    "tool_choice",
    "functions",
    "prompt",
    "suffix",
    "echo",
    "best_of",
    "n",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "response_format",
    "reasoning_effort",
    "reasoning",
    "think",
    "chat_template_kwargs",
    "max_tokens",
    "max_completion_tokens",
    "truncate",
    "shift",
    "options",
    "num_predict",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "num_ctx",
    "num_keep",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "keep_alive",
];

/// Writes all of it.
pub(super) fn put(request: &Fields<'_>, object: &mut Object<'_>) -> Result<(), Refusal> {
    let own = own_options(request)?;
    let own = |name: &str| own.as_ref().and_then(|own| own.get(name));
    let mut options = Object::open(object.name("options"));
    for name in OPTIONS.into_iter().filter(|name| *name != "keep_alive") {
        let given = standard(request, name).or_else(|| request.get(name)).or_else(|| own(name));
        let default = DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        if let Some(value) = given.or(default) {
            options.json(name, &option(name, value)?);
        }
    }
    options.close();
    if let Some(format) = format(request)? {
        object.json("format", format);
    }
    if let Some(think) = think(request)? {
        object.json("think", &think);
    }
    object.json("keep_alive", keep_alive(request.get("keep_alive").or_else(|| own("keep_alive")))?);
    // A prompt that does not fit is an error, as it is for OpenAI. Left alone Ollama would drop its beginning.
    for name in ["truncate", "shift"] {
        object.json(name, if flag(request, name)? { "true" } else { "false" });
    }
    Ok(())
}

/// How long the model stays in memory.
pub(super) fn keep_alive(given: Option<&str>) -> Result<&str, Refusal> {
    let given = given.unwrap_or(KEEP_ALIVE);
    let is_number = given.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    if is_number || is_text(given) {
        return Ok(given);
    }
    Err(refusal(Some("keep_alive"), "keep_alive must be a number of seconds or a duration such as \"10m\"."))
}

/// A field that is true or false; false when it is absent.
pub(super) fn flag(request: &Fields<'_>, name: &'static str) -> Result<bool, Refusal> {
    match request.get(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(refusal(Some(name), format!("{name} must be true or false."))),
    }
}

/// Refuses more than one answer to a request.
pub(super) fn only_one(request: &Fields<'_>, name: &'static str) -> Result<(), Refusal> {
    let number = request.get(name).map(|json| json.parse::<f64>());
    match number {
        None => Ok(()),
        Some(Ok(number)) if (number - 1.0).abs() < f64::EPSILON => Ok(()),
        Some(_) => {
            let message = format!("{name} must be 1: the model's runtime gives one answer to a request.");
            Err(refusal(Some(name), message))
        }
    }
}

fn own_options<'a>(request: &Fields<'a>) -> Result<Option<Fields<'a>>, Refusal> {
    let Some(json) = request.get("options") else { return Ok(None) };
    let own = Fields::of(json, &OPTIONS)
        .ok_or_else(|| refusal(Some("options"), "options must be an object of Ollama's options."))?;
    if own.others {
        let message = format!("options holds what a client cannot set; it can set {}.", OPTIONS.join(", "));
        return Err(refusal(Some("options"), message));
    }
    Ok(Some(own))
}

/// The value that OpenAI's fields give to an option of another name.
fn standard<'a>(request: &Fields<'a>, option: &str) -> Option<&'a str> {
    (option == "num_predict")
        .then(|| request.get("max_completion_tokens").or_else(|| request.get("max_tokens")))
        .flatten()
}

/// An option as Ollama wants it.
fn option<'a>(name: &str, json: &'a str) -> Result<Cow<'a, str>, Refusal> {
    match name {
        "stop" => stops(json),
        // There it would mean that there is no limit.
        "num_predict" if json == "0" => {
            Err(refusal(Some("max_tokens"), "max_tokens and max_completion_tokens must be at least 1."))
        }
        _ => Ok(Cow::Borrowed(json)),
    }
}

/// Ollama wants an array, also of one.
fn stops(json: &str) -> Result<Cow<'_, str>, Refusal> {
    if is_text(json) {
        return Ok(Cow::Owned(format!("[{json}]")));
    }
    let wrong = || refusal(Some("stop"), "stop must be a string or an array of strings.");
    each(json, &wrong(), |stop| if is_text(stop) { Ok(()) } else { Err(wrong()) })?;
    Ok(Cow::Borrowed(json))
}

fn format<'a>(request: &Fields<'a>) -> Result<Option<&'a str>, Refusal> {
    let param = Some("response_format");
    let Some(json) = request.get("response_format") else { return Ok(None) };
    let wrong =
        || refusal(param, "response_format must be an object with a type: text, json_object or json_schema.");
    let fields = Fields::of(json, &["type", "json_schema"]).ok_or_else(wrong)?;
    let kind = fields.get("type").and_then(text).ok_or_else(wrong)?;
    match kind.trim().to_ascii_lowercase().as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some("\"json\"")),
        "json_schema" => {
            let schema =
                fields.get("json_schema").and_then(|json| Fields::of(json, &["schema"])?.get("schema"));
            let missing =
                || refusal(param, "response_format.json_schema.schema must be a JSON schema, an object.");
            schema.filter(|schema| is_object(schema)).map(Some).ok_or_else(missing)
        }
        _ => Err(wrong()),
    }
}

/// Whether and how hard the model thinks before it answers.
fn think<'a>(request: &Fields<'a>) -> Result<Option<Cow<'a, str>>, Refusal> {
    if let Some(think) = request.get("think") {
        if is_text(think) || matches!(think, "true" | "false") {
            return Ok(Some(Cow::Borrowed(think)));
        }
        return Err(refusal(Some("think"), "think must be true, false or a level such as \"high\"."));
    }
    let reasoning = request.get("reasoning").and_then(|json| Fields::of(json, &["effort"])?.get("effort"));
    if let Some(effort) = reasoning {
        return effort_of(effort, "reasoning").map(Some);
    }
    if let Some(effort) = request.get("reasoning_effort") {
        return effort_of(effort, "reasoning_effort").map(Some);
    }
    let template = request.get("chat_template_kwargs");
    let enabled = template.and_then(|json| Fields::of(json, &["enable_thinking"])?.get("enable_thinking"));
    Ok(enabled.filter(|json| matches!(*json, "true" | "false")).map(Cow::Borrowed))
}

fn effort_of(json: &str, param: &'static str) -> Result<Cow<'static, str>, Refusal> {
    let level = match text(json).as_deref() {
        Some("none") => "false",
        Some("minimal" | "low") => "\"low\"",
        Some("medium") => "\"medium\"",
        Some("high") => "\"high\"",
        Some("max" | "xhigh" | "ultra") => "\"max\"",
        _ => {
            let message = "The effort of reasoning must be none, minimal, low, medium, high, xhigh or max.";
            return Err(refusal(Some(param), message));
        }
    };
    Ok(Cow::Borrowed(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_may_stand_at_the_top_of_a_request() {
        for option in OPTIONS {
            assert!(FIELDS.contains(&option), "{option} is not read");
        }
    }
}
