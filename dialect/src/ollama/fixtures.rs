//! What the tests of this adapter need.

use bytes::Bytes;
use serde_json::Value;

use super::Ollama;
use crate::adapter::{Adapter, Answer, Asked, Incoming, Outgoing, Passing, Refusal, Tally, Unfinished};
use crate::scan::scan;
use crate::surface::Surface;

/// The name under which clients ask, and the one under which Ollama knows the model.
pub(super) const MODEL: &str = "org/demo";
pub(super) const TAG: &str = "demo:1b";
pub(super) const NONCE: u128 = 0xabc;
/// The id that an answer to a chat has by that.
pub(super) const CHAT_ID: &str = "chatcmpl-00000000000000000000000000000abc";

/// A request whose body is an object with these members besides the model.
pub(super) fn ask(surface: Surface, members: &str) -> Result<Outgoing, Refusal> {
    let separator = if members.is_empty() { "" } else { "," };
    let body = Bytes::from(format!("{{\"model\":\"{MODEL}\"{separator}{members}}}"));
    ask_bytes(surface, &body)
}

pub(super) fn ask_bytes(surface: Surface, body: &Bytes) -> Result<Outgoing, Refusal> {
    let scan = scan(body).expect("a model");
    Ollama.outgoing(&Asked { surface, body, scan: &scan, served_name: TAG, nonce: NONCE })
}

/// What Ollama is sent, as text.
pub(super) fn sent_text(surface: Surface, members: &str) -> String {
    let outgoing = ask(surface, members).unwrap_or_else(|refusal| panic!("{members}: {refusal:?}"));
    String::from_utf8(outgoing.body.to_vec()).expect("UTF-8")
}

/// What Ollama is sent.
pub(super) fn sent(surface: Surface, members: &str) -> Value {
    let text = sent_text(surface, members);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Why a request is refused.
pub(super) fn refused(surface: Surface, members: &str) -> Refusal {
    ask(surface, members).err().unwrap_or_else(|| panic!("not refused: {members}"))
}

/// Members of a chat that make a whole request of others.
pub(super) fn chat_with(members: &str) -> String {
    format!("\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]{}{members}", comma(members))
}

/// The same for a completion.
pub(super) fn prompt_with(members: &str) -> String {
    format!("\"prompt\":\"hi\"{}{members}", comma(members))
}

fn comma(members: &str) -> &str {
    if members.is_empty() { "" } else { "," }
}

/// What becomes of a stream.
pub(super) fn passing(surface: Surface, members: &str) -> Box<dyn Passing> {
    match ask(surface, members).map(|outgoing| outgoing.answer) {
        Ok(Answer::Passing(mut passing)) => {
            assert!(passing.begin(Incoming::Other), "events come of no events");
            passing
        }
        Ok(Answer::Whole(_)) => panic!("no stream: {members}"),
        Err(refusal) => panic!("{refusal:?}"),
    }
}

/// What becomes of a whole answer.
pub(super) fn whole(surface: Surface, members: &str, answer: &str) -> Option<(Value, Tally)> {
    match ask(surface, members).map(|outgoing| outgoing.answer) {
        Ok(Answer::Whole(whole)) => whole
            .translate(answer.as_bytes())
            .map(|(body, tally)| (serde_json::from_slice(&body).expect("JSON"), tally)),
        Ok(Answer::Passing(_)) => panic!("a stream: {members}"),
        Err(refusal) => panic!("{refusal:?}"),
    }
}

/// What the client hears of a stream that comes in these pieces, and how it ended.
pub(super) fn streamed<'a>(
    mut passing: Box<dyn Passing>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (String, Result<(), Unfinished>, Tally) {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&passing.pass(Bytes::copy_from_slice(piece)));
    }
    let end = passing.finish().map(|rest| out.extend_from_slice(&rest));
    (String::from_utf8(out).expect("UTF-8"), end, passing.tally())
}

/// The data of the events of a stream.
pub(super) fn events(stream: &str) -> Vec<Value> {
    let events = stream.split_inclusive("\n\n").map(|event| {
        let data = event.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n"));
        let data = data.unwrap_or_else(|| panic!("no event: {event:?}"));
        assert!(!data.contains(['\n', '\r']), "{data:?}");
        if data == "[DONE]" { Value::from(data) } else { serde_json::from_str(data).expect(data) }
    });
    events.collect()
}
