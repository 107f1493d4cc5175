//! How an answer is put on the wire: the seam between what is said and the API that it is said in.

use bytes::Bytes;
use nebula_core::clock::WallTime;

use super::error::{Api, ApiError};
use super::plan::Plan;
use super::script::Script;

/// One way to write a [`Script`] as bytes, for one request.
pub(crate) trait Dialect {
    /// The `Content-Type` of a stream.
    fn stream_type(&self) -> &'static str;
    /// The chunk before the first token.
    fn opening(&self, script: &Script) -> Option<Bytes>;
    /// The chunk of one token; none where tokens are held back.
    fn piece(&self, script: &Script, at: usize) -> Option<Bytes>;
    /// The chunks after the last token: finish reason, usage.
    fn closing(&self, script: &Script) -> Vec<Bytes>;
    /// The line that marks the stream as complete.
    fn terminator(&self, script: &Script) -> Bytes;
    /// An error inside a stream.
    fn failure(&self, error: &ApiError) -> Bytes;
    /// The answer in one piece.
    fn whole(&self, script: &Script) -> Bytes;
}

/// What a request is answered with.
pub(crate) enum Answer {
    /// Tokens, one after the other or all at once.
    Tokens { script: Script, dialect: Box<dyn Dialect>, stream: bool },
    /// A finished body, sent after the time to the first token.
    Body(Bytes),
}

/// What an answer depends on besides the request's body.
pub(crate) struct Context<'a> {
    /// The only model there is.
    pub(crate) model: &'a str,
    pub(crate) plan: Plan,
    /// Length of an embedding vector.
    pub(crate) dimensions: u32,
    pub(crate) now: WallTime,
    /// Unique; made part of the answer's id.
    pub(crate) id: String,
}

impl Context<'_> {
    /// Whether `name` is the model that is served. In Ollama a name without a tag means `:latest`.
    pub(crate) fn serves(&self, api: Api, name: &str) -> bool {
        let bare = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_owned();
        name == self.model || (api == Api::Ollama && bare(name) == bare(self.model))
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    //! What the tests of both APIs need.

    use super::super::args::Args;
    use super::*;

    /// A context for the model `demo` at a fixed time.
    pub(crate) fn context() -> Context<'static> {
        let plan = Plan::read(&Args::default(), |_| None).expect("no header");
        Context { model: "demo", plan, dimensions: 8, now: WallTime(1_700_000_000_000), id: "1".to_owned() }
    }

    /// All chunks of a streamed answer.
    pub(crate) fn chunks(answer: Answer) -> Vec<String> {
        let Answer::Tokens { script, dialect, stream: true } = answer else { panic!("no stream") };
        let pieces = (0..script.pieces.len()).filter_map(|at| dialect.piece(&script, at));
        dialect
            .opening(&script)
            .into_iter()
            .chain(pieces)
            .chain(dialect.closing(&script))
            .chain([dialect.terminator(&script)])
            .map(|bytes| String::from_utf8(bytes.to_vec()).expect("UTF-8"))
            .collect()
    }

    /// The body of an answer in one piece.
    pub(crate) fn body(answer: Answer) -> serde_json::Value {
        let bytes = match answer {
            Answer::Tokens { script, dialect, stream: false } => dialect.whole(&script),
            Answer::Tokens { .. } => panic!("a stream"),
            Answer::Body(bytes) => bytes,
        };
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn the_latest_tag_is_optional_in_ollama_only() {
        let context = context();
        assert!(context.serves(Api::Ollama, "demo:latest"));
        assert!(!context.serves(Api::OpenAi, "demo:latest"));
        assert!(context.serves(Api::OpenAi, "demo"));
        assert!(!context.serves(Api::Ollama, "other"));
    }
}
