//! An event stream that passes: the same goes out however its events come together, nothing is added, nothing is lost
//! but the usage that only we asked for.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use nebula_core::runtime::RuntimeKind;
use nebula_dialect::{Answer, Asked, Incoming, Passing, Surface, Tally, adapter, scan};

/// The client has asked for usage, and has not.
const BODIES: [&[u8]; 2] = [
    b"{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
    b"{\"model\":\"m\",\"stream\":true}",
];
const SURFACES: [Surface; 4] = [Surface::Chat, Surface::Completions, Surface::Responses, Surface::Messages];

fuzz_target!(|data: &[u8]| {
    let Some((choice, stream)) = data.split_first() else { return };
    let surface = SURFACES[usize::from(choice & 3)];
    let group = usize::from(choice >> 2 & 7) + 1;
    let events = events(stream);
    for (body, asked) in BODIES.into_iter().zip([true, false]) {
        let (whole, told) = passed(body, surface, std::iter::once(stream.to_vec()));
        let (split, told_split) = passed(body, surface, events.chunks(group).map(<[_]>::concat));
        assert_eq!(whole, split, "in groups of {group}");
        assert_eq!(told, told_split);
        if asked {
            assert_eq!(whole, stream, "whoever asked for usage gets every byte");
        } else {
            is_what_came_without_some_events(&whole, &events);
        }
    }
});

fn passed(
    body: &'static [u8],
    surface: Surface,
    pieces: impl Iterator<Item = Vec<u8>>,
) -> (Vec<u8>, (Tally, bool)) {
    let mut passing = passing(body, surface);
    assert!(!passing.begin(Incoming::Events), "it is an event stream already");
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&passing.pass(piece.into()));
    }
    let finished = passing.finish();
    let complete = finished.is_ok();
    out.extend_from_slice(&finished.unwrap_or_default());
    (out, (passing.tally(), complete))
}

fn passing(body: &'static [u8], surface: Surface) -> Box<dyn Passing> {
    let scan = scan::scan(body).expect("a model");
    let body = Bytes::from_static(body);
    let asked = Asked { surface, body: &body, scan: &scan, served_name: "m", nonce: 7 };
    match adapter(RuntimeKind::Vllm).outgoing(&asked).expect("no refusal").answer {
        Answer::Passing(passing) => passing,
        Answer::Whole(_) => panic!("it passes"),
    }
}

/// The events, each with the blank line that ends it; what has no end yet comes last.
fn events(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut found = vec![Vec::new()];
    let mut rest = stream;
    while !rest.is_empty() {
        let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
        let end = match rest.get(length..) {
            Some([b'\r', b'\n', ..]) => 2,
            Some([_, ..]) => 1,
            _ => 0,
        };
        let (line, after) = rest.split_at(length + end);
        found.last_mut().expect("one").extend_from_slice(line);
        if length == 0 {
            found.push(Vec::new());
        }
        rest = after;
    }
    found.retain(|event| !event.is_empty());
    found
}

fn is_what_came_without_some_events(out: &[u8], events: &[Vec<u8>]) {
    let mut rest = out;
    for event in events {
        if let Some(after) = rest.strip_prefix(&event[..]) {
            rest = after;
        } else {
            assert!(
                event.windows(7).any(|window| window == b"\"usage\""),
                "{:?} is lost",
                String::from_utf8_lossy(event)
            );
        }
    }
    assert!(rest.is_empty(), "{:?} was made up", String::from_utf8_lossy(rest));
}
