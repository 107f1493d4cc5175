//! How many tokens an engine says that it has used.

pub(crate) mod whole;

use std::ops::Range;

use crate::adapter::Usage;
use crate::scan::{Invalid, Skipper};

/// What an engine has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    prompt: Option<u64>,
    completion: Option<u64>,
}

/// What an event of a stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) counts: Counts,
    /// It says nothing else: it has no choices.
    pub(crate) alone: bool,
}

impl Counts {
    /// Of a `usage` object, in the words of any of OpenAI's and Anthropic's APIs.
    pub(crate) fn of(usage: &[u8]) -> Self {
        let mut counts = Self::default();
        let mut total = None;
        // What follows a mistake is not read.
        let _ = each_member(usage, 0, |key, value| {
            let number = || std::str::from_utf8(usage.get(value)?).ok()?.parse().ok();
            match key {
                b"prompt_tokens" | b"input_tokens" => counts.prompt = number(),
                b"completion_tokens" | b"output_tokens" => counts.completion = number(),
                b"total_tokens" => total = number(),
                _ => {}
            }
        });
        // Some rerankers tell only the sum.
        let rest = total.map(|total: u64| total.saturating_sub(counts.completion.unwrap_or(0)));
        Self { prompt: counts.prompt.or(rest), ..counts }
    }

    /// Adds what was said later. Engines that tell their usage several times count up.
    pub(crate) fn add(&mut self, later: Self) {
        self.prompt = self.prompt.max(later.prompt);
        self.completion = self.completion.max(later.completion);
    }

    /// Nothing when nothing was said.
    pub(crate) fn usage(self) -> Option<Usage> {
        (self != Self::default())
            .then(|| Usage { prompt: self.prompt.unwrap_or(0), completion: self.completion.unwrap_or(0) })
    }
}

impl Said {
    /// By the JSON of an event: a chunk with `usage`, or an event with the `response` or `message` that has it.
    pub(crate) fn in_event(json: &[u8]) -> Option<Self> {
        let mut usage = None;
        let mut inner = None;
        let mut no_choices = false;
        each_member(json, 0, |key, value| match key {
            b"usage" => usage = Some(value),
            b"response" | b"message" => inner = Some(value),
            b"choices" => no_choices = is_empty_array(json.get(value).unwrap_or_default()),
            _ => {}
        })
        .ok()?;
        let is_object = |at: &Range<usize>| json.get(at.start) == Some(&b'{');
        if let Some(usage) = usage.filter(is_object) {
            return Some(Self { counts: Counts::of(json.get(usage)?), alone: no_choices });
        }
        let inner = inner.filter(is_object)?;
        let mut usage = None;
        each_member(json, inner.start, |key, value| {
            if key == b"usage" {
                usage = Some(value);
            }
        })
        .ok()?;
        Some(Self { counts: Counts::of(json.get(usage.filter(is_object)?)?), alone: false })
    }
}

/// Calls `each` for the members of the object at `start`: its key as it is written, and where its value stands.
fn each_member(json: &[u8], start: usize, mut each: impl FnMut(&[u8], Range<usize>)) -> Result<(), Invalid> {
    let mut skip = Skipper::new(json, start);
    skip.expect(b'{')?;
    let mut is_first = true;
    while let Some(key) = skip.key(is_first)? {
        is_first = false;
        let value = skip.value()?;
        each(json.get(key.start + 1..key.end - 1).unwrap_or_default(), value);
    }
    Ok(())
}

fn is_empty_array(value: &[u8]) -> bool {
    let inside = value.strip_prefix(b"[").and_then(|value| value.strip_suffix(b"]"));
    inside.is_some_and(|inside| inside.trim_ascii().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u64, completion: u64) -> Option<Usage> {
        Some(Usage { prompt, completion })
    }

    #[test]
    fn usage_is_read_in_every_api_s_words() {
        for (text, told) in [
            (r#"{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}"#, usage(3, 4)),
            (
                r#"{ "prompt_tokens" : 3 , "prompt_tokens_details":{"cached_tokens":2},"completion_tokens":4}"#,
                usage(3, 4),
            ),
            (r#"{"prompt_tokens":3,"total_tokens":3}"#, usage(3, 0)),
            (r#"{"total_tokens":3}"#, usage(3, 0)),
            (
                r#"{"input_tokens":3,"output_tokens":4,"output_tokens_details":{"reasoning_tokens":1}}"#,
                usage(3, 4),
            ),
            (r#"{"output_tokens":4}"#, usage(0, 4)),
            (r#"{"prompt_tokens":null,"completion_tokens":4}"#, usage(0, 4)),
            (r#"{"prompt_tokens":-3,"completion_tokens":4.5}"#, None),
            (r#"{"type":"duration","seconds":3}"#, None),
            ("{}", None),
            ("", None),
            (r#"{"prompt_tokens":3,"#, usage(3, 0)),
        ] {
            assert_eq!(Counts::of(text.as_bytes()).usage(), told, "{text}");
        }
    }

    #[test]
    fn events_of_every_engine_tell_their_usage() {
        for (text, told, alone) in [
            // vLLM, llama.cpp, TGI: a last chunk of its own.
            (
                r#"{"id":"x","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
                usage(1, 2),
                true,
            ),
            (
                r#"{"choices":[ ],"usage":{"completion_tokens":2,"prompt_tokens":1},"timings":{"prompt_n":1}}"#,
                usage(1, 2),
                true,
            ),
            // TGI without being asked, vLLM's continuous statistics, llama.cpp before it had the option.
            (
                r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
                usage(1, 2),
                false,
            ),
            (r#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#, usage(1, 2), false),
            (
                r#"{"type":"response.completed","response":{"id":"r","usage":{"input_tokens":1,"output_tokens":2}}}"#,
                usage(1, 2),
                false,
            ),
            (
                r#"{"type":"message_start","message":{"usage":{"input_tokens":1,"output_tokens":2}}}"#,
                usage(1, 2),
                false,
            ),
            (r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":2}}"#, usage(0, 2), false),
        ] {
            let said = Said::in_event(text.as_bytes()).expect(text);
            assert_eq!((said.counts.usage(), said.alone), (told, alone), "{text}");
        }
        for text in [
            r#"{"choices":[],"usage":null}"#,
            r#"{"choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":9}"}}]}"#,
            r#"{"choices":[{"usage":{"prompt_tokens":9}}]}"#,
            r#"{"response":{"metadata":{"usage":{"prompt_tokens":9}}}}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":9}"#,
            "[DONE]",
        ] {
            assert_eq!(Said::in_event(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_said_several_times_counts_up() {
        let mut counts = Counts::default();
        for text in [r#"{"input_tokens":5,"output_tokens":1}"#, r#"{"input_tokens":0,"output_tokens":7}"#] {
            counts.add(Counts::of(text.as_bytes()));
        }
        assert_eq!(counts.usage(), usage(5, 7));
    }
}
