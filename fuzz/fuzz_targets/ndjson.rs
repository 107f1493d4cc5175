//! Ollama's lines of JSON: the same events come of them however the bytes are split, each is whole and well formed, and
//! `[DONE]` is only said of what was complete.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use nebula_core::runtime::RuntimeKind;
use nebula_dialect::{Answer, Asked, Incoming, Surface, Tally, Unfinished, adapter, scan};
use serde_json::Value;

const CHAT: &[u8] = b"{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}";
const TEXT: &[u8] =
    b"{\"model\":\"m\",\"stream\":true,\"prompt\":\"a\",\"stream_options\":{\"include_usage\":true}}";

fuzz_target!(|data: &[u8]| {
    let Some((choice, lines)) = data.split_first() else { return };
    let (surface, body) = if choice & 1 == 0 { (Surface::Chat, CHAT) } else { (Surface::Completions, TEXT) };
    let size = usize::from(choice >> 1) + 1;
    let (whole, end) = passed(surface, body, std::iter::once(lines));
    let (split, end_split) = passed(surface, body, lines.chunks(size));
    assert_eq!(String::from_utf8_lossy(&whole), String::from_utf8_lossy(&split), "in pieces of {size}");
    assert_eq!(end, end_split);
    let done = well_formed(&whole);
    assert_eq!(done, end.1.is_ok(), "it ends with [DONE] if it is complete, and only then");
    let telling = whole.windows(15).any(|window| window == b"data: {\"error\":");
    assert!(end.1 != Err(Unfinished { told: true }) || telling, "it says that the client knows why");
});

fn passed<'a>(
    surface: Surface,
    body: &'static [u8],
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<u8>, (Tally, Result<(), Unfinished>)) {
    let scan = scan::scan(body).expect("a model");
    let body = Bytes::from_static(body);
    let asked = Asked { surface, body: &body, scan: &scan, served_name: "m", nonce: 7 };
    let Answer::Passing(mut passing) =
        adapter(RuntimeKind::Ollama).outgoing(&asked).expect("no refusal").answer
    else {
        panic!("it passes")
    };
    assert!(passing.begin(Incoming::Other), "an event stream goes out");
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&passing.pass(Bytes::copy_from_slice(piece)));
    }
    let finished = passing.finish().map(|last| out.extend_from_slice(&last));
    (out, (passing.tally(), finished))
}

/// Looks at every event; whether the last one is `[DONE]`.
fn well_formed(out: &[u8]) -> bool {
    let text = std::str::from_utf8(out).expect("events are UTF-8");
    assert!(text.is_empty() || text.ends_with("\n\n"), "an event without its end: {text:?}");
    let mut done = false;
    for event in text.split_terminator("\n\n") {
        assert!(!done, "something follows [DONE]: {text:?}");
        let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("no event: {event:?}"));
        assert!(!data.contains(['\n', '\r']), "two lines: {data:?}");
        if data == "[DONE]" {
            done = true;
        } else if let Err(error) = serde_json::from_str::<Value>(data) {
            // Text of the engine's is handed on as it wrote it, however odd; only the shape is ours.
            assert!(data.starts_with('{') && data.ends_with('}'), "{error}: {data}");
        }
    }
    done
}
