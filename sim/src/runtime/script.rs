//! What the made-up model says: from a question to pieces ("tokens"), with no notion of any API or of time.

use serde_json::{Value, json};

use super::sample;

/// A request for an answer, as either API puts it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ask {
    /// What the user said last; it is quoted in the answer.
    pub(crate) said: String,
    /// Size of all that was sent.
    pub(crate) prompt_tokens: u64,
    /// Tokens after which the answer is cut.
    pub(crate) limit: Option<u64>,
    /// Texts before which the answer ends.
    pub(crate) stops: Vec<String>,
    /// What kind of answer is wanted.
    pub(crate) form: Form,
}

/// What kind of answer is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Form {
    /// Prose.
    #[default]
    Text,
    /// One JSON object, of any shape.
    Json,
    /// JSON that fits this schema.
    Schema(Value),
    /// A call of this tool.
    Tool(Tool),
}

/// A tool that is to be called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// The schema of its arguments.
    pub(crate) parameters: Value,
    /// The caller named it: then the answer's reason to finish is `stop`, as with the engines.
    pub(crate) named: bool,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    ToolCalls,
}

impl Finish {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// An answer, worked out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Script {
    /// The tokens: of the text, or of the arguments of the tool call.
    pub(crate) pieces: Vec<String>,
    /// The tool that is called, if the answer is a call.
    pub(crate) tool: Option<String>,
    pub(crate) finish: Finish,
    pub(crate) prompt_tokens: u64,
}

impl Script {
    /// The whole text, or the whole arguments.
    pub(crate) fn text(&self) -> String {
        self.pieces.concat()
    }

    pub(crate) fn completion_tokens(&self) -> u64 {
        self.pieces.len() as u64
    }
}

/// Writes the answer; prose gets `tokens` tokens, JSON as many as it takes.
pub(crate) fn write(ask: Ask, tokens: u32) -> Script {
    let (pieces, tool, end) = match ask.form {
        Form::Text => (prose(&ask.said, tokens as usize), None, Finish::Stop),
        Form::Json => {
            let answer = json!({ "answer": opening(&ask.said), "simulated": true });
            (slices(&answer.to_string()), None, Finish::Stop)
        }
        Form::Schema(schema) => (slices(&sample::instance(&schema).to_string()), None, Finish::Stop),
        Form::Tool(tool) => {
            let end = if tool.named { Finish::Stop } else { Finish::ToolCalls };
            (slices(&sample::arguments(&tool.parameters).to_string()), Some(tool.name), end)
        }
    };
    let (pieces, finish) = cut(pieces, ask.limit, &ask.stops, end);
    Script { pieces, tool, finish, prompt_tokens: ask.prompt_tokens }
}

/// The number of tokens that a text counts as: its words.
pub(crate) fn count_tokens(text: &str) -> u64 {
    if !text.is_ascii() {
        return text.split_whitespace().count() as u64;
    }
    // Prompts may be long. Without branches, and summed in bytes, many are counted at once.
    const TOGETHER: usize = 128;
    let space = |byte: u8| (byte == b' ') | (byte.wrapping_sub(9) < 5);
    let begins = |(one, next): (&u8, &u8)| u8::from(space(*one) & !space(*next));
    let (bytes, after) = (text.as_bytes(), text.as_bytes().get(1..).unwrap_or_default());
    let parts = bytes.chunks(TOGETHER).zip(after.chunks(TOGETHER));
    let sums = parts.map(|(one, next)| u64::from(one.iter().zip(next).map(begins).sum::<u8>()));
    let first = bytes.first().is_some_and(|byte| !space(*byte));
    sums.sum::<u64>() + u64::from(first)
}

/// How much of the user's words is quoted, in characters.
const QUOTE_MAX: usize = 60;

/// Said again and again until an answer is as long as it should be. Has letters of two and three bytes,
/// so that whoever splits bytes badly is found out.
const FILLER: &str = "Each word here is one token, sent when its time has come – as a real engine would do it. \
                      Nothing was computed: the same question gets the same answer, naïve but reliable. \
                      Use it to watch streams, limits and failures → all without a GPU. ";

fn opening(said: &str) -> String {
    // A word has a character at least.
    let words: Vec<&str> = said.split_whitespace().take(QUOTE_MAX).collect();
    let quote: String = words.join(" ").chars().take(QUOTE_MAX).collect();
    if quote.is_empty() {
        "This is a simulated answer from nebula-sim; no model was run.".to_owned()
    } else {
        format!("This is a simulated answer from nebula-sim; no model was run. You said: “{quote}”.")
    }
}

/// `tokens` tokens of prose that end like a sentence.
fn prose(said: &str, tokens: usize) -> Vec<String> {
    let opening = format!("{} ", opening(said));
    let mut pieces: Vec<String> = opening
        .split_inclusive(' ')
        .chain(FILLER.split_inclusive(' ').cycle())
        .take(tokens)
        .map(str::to_owned)
        .collect();
    if let Some(last) = pieces.last_mut() {
        last.truncate(last.trim_end().trim_end_matches([',', ';', ':', '.', '→', '–']).len());
        last.push('.');
    }
    pieces
}

/// JSON in pieces of a few characters, about as an engine would send it.
fn slices(text: &str) -> Vec<String> {
    /// Characters in a token, roughly.
    const SLICE: usize = 4;
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(SLICE).map(|slice| slice.iter().collect()).collect()
}

/// Ends an answer at its limit or before the first stop text, whichever comes first.
fn cut(mut pieces: Vec<String>, limit: Option<u64>, stops: &[String], end: Finish) -> (Vec<String>, Finish) {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let finish = if limit < pieces.len() { Finish::Length } else { end };
    pieces.truncate(limit);
    let text = pieces.concat();
    let stop = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
    let Some(mut left) = stop else { return (pieces, finish) };
    pieces.retain_mut(|piece| {
        piece.truncate(left.min(piece.len()));
        left -= piece.len();
        !piece.is_empty()
    });
    (pieces, Finish::Stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(said: &str) -> Ask {
        Ask { said: said.to_owned(), ..Ask::default() }
    }

    #[test]
    fn prose_is_repeatable_says_that_it_is_simulated_and_has_the_wanted_length() {
        for tokens in [1, 2, 10, 32, 500] {
            let script = write(ask("hello there"), tokens);
            assert_eq!(script, write(ask("hello there"), tokens));
            assert_eq!(script.completion_tokens(), u64::from(tokens));
            assert_eq!(script.finish, Finish::Stop);
            assert!(script.text().ends_with('.'));
        }
        let text = write(ask("hello  there"), 32).text();
        assert!(text.contains("simulated") && text.contains("“hello there”"), "{text}");
    }

    #[test]
    fn tokens_are_words() {
        for text in ["", " ", "a", " a", "a ", "a b", "\ta\r\n\u{b}b\u{c} c ", "a\u{1f}b", "é b", "a\u{a0}b"]
        {
            assert_eq!(count_tokens(text), text.split_whitespace().count() as u64, "{text:?}");
        }
    }

    #[test]
    fn the_limit_cuts_and_is_no_cut_where_it_just_fits() {
        let limited = |limit| write(Ask { limit: Some(limit), ..ask("hi") }, 10);
        assert_eq!((limited(3).pieces.len(), limited(3).finish), (3, Finish::Length));
        assert_eq!((limited(10).pieces.len(), limited(10).finish), (10, Finish::Stop));
        assert_eq!((limited(0).pieces.len(), limited(0).finish), (0, Finish::Length));
    }

    #[test]
    fn a_stop_text_ends_the_answer_before_it_even_across_tokens() {
        let whole = write(ask(""), 32).text();
        for stop in ["simulated", "is a sim", "; no", "This"] {
            let script = write(Ask { stops: vec!["zzz".to_owned(), stop.to_owned()], ..ask("") }, 32);
            let want = whole.split(stop).next().unwrap();
            assert_eq!((script.text().as_str(), script.finish), (want, Finish::Stop), "{stop}");
            assert!(script.pieces.iter().all(|piece| !piece.is_empty()));
        }
    }

    #[test]
    fn a_stop_text_beyond_the_limit_does_not_count() {
        let script = write(Ask { limit: Some(2), stops: vec!["simulated".to_owned()], ..ask("") }, 32);
        assert_eq!((script.text().as_str(), script.finish), ("This is ", Finish::Length));
    }

    #[test]
    fn json_and_tool_calls_are_json_whatever_the_token_count() {
        let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
        let tool = Tool { name: "weather".to_owned(), parameters: schema.clone(), named: false };
        for form in [Form::Json, Form::Schema(schema), Form::Tool(tool)] {
            let script = write(Ask { form, ..ask("say \"é\"") }, 1);
            let value: Value = serde_json::from_str(&script.text()).expect("JSON");
            assert!(value.is_object(), "{value}");
        }
    }

    #[test]
    fn a_named_tool_stops_and_a_chosen_one_calls() {
        for (named, finish) in [(true, Finish::Stop), (false, Finish::ToolCalls)] {
            let tool = Tool { name: "f".to_owned(), parameters: Value::Null, named };
            let script = write(Ask { form: Form::Tool(tool), ..ask("") }, 1);
            assert_eq!((script.tool.as_deref(), script.text().as_str()), (Some("f"), "{}"));
            assert_eq!(script.finish, finish);
        }
    }
}
