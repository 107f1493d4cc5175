//! Requests for Ollama and its whole answers: never a panic, and what goes out is JSON that says outright whether it
//! streams.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use nebula_core::runtime::RuntimeKind;
use nebula_dialect::{Answer, Asked, Surface, adapter, scan};
use serde_json::Value;
use serde_json::value::RawValue;

const SURFACES: [Surface; 3] = [Surface::Chat, Surface::Completions, Surface::Embeddings];
const PLAIN: &[u8] =
    b"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"prompt\":\"a\",\"input\":[\"a\"]}";

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let surface = SURFACES[usize::from(*choice) % SURFACES.len()];
    let ollama = adapter(RuntimeKind::Ollama);
    if choice & 0x80 == 0 {
        request(surface, Bytes::copy_from_slice(data));
    } else if choice & 0x40 == 0 {
        answer(surface, data);
    } else {
        let told = ollama.told(u16::from(*choice) * 3, data);
        assert!(told.is_none_or(|told| !told.message.is_empty()));
    }
});

fn request(surface: Surface, body: Bytes) {
    let Ok(scan) = scan::scan(&body) else { return };
    let asked = Asked { surface, body: &body, scan: &scan, served_name: "served:1b", nonce: 7 };
    match adapter(RuntimeKind::Ollama).outgoing(&asked) {
        Ok(outgoing) => {
            let Ok(body) = serde_json::from_slice::<Value>(&outgoing.body) else {
                // What comes out of a string of arguments may be JSON that no document holds, such as 1e999.
                let read = serde_json::from_slice::<&RawValue>(&outgoing.body);
                return assert!(read.is_ok(), "{:?} is no JSON", outgoing.body);
            };
            assert_eq!(body["model"], "served:1b");
            if surface != Surface::Embeddings {
                assert_eq!(body["stream"], matches!(outgoing.answer, Answer::Passing(_)));
            }
        }
        Err(refusal) => assert!(!refusal.message.is_empty()),
    }
}

fn answer(surface: Surface, said: &[u8]) {
    let body = Bytes::from_static(PLAIN);
    let scan = scan::scan(&body).expect("a model");
    let asked = Asked { surface, body: &body, scan: &scan, served_name: "m", nonce: 7 };
    let Answer::Whole(whole) = adapter(RuntimeKind::Ollama).outgoing(&asked).expect("no refusal").answer
    else {
        panic!("it is no stream")
    };
    if let Some((told, _)) = whole.translate(said)
        && serde_json::from_slice::<Value>(said).is_ok()
    {
        let told: Value = serde_json::from_slice(&told).expect("JSON of JSON");
        assert!(told.is_object());
    }
}
