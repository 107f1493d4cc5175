//! The scan of a request's body: accepts exactly what `serde_json` accepts, finds the same model, and changes only what
//! it says that it changes.
#![no_main]

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use nebula_dialect::{Scan, ScanError, scan};
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

fuzz_target!(|body: &[u8]| {
    let body = Bytes::copy_from_slice(body);
    match (scan::scan(&body), expected(&body)) {
        (Ok(found), Expected::Model(model)) => {
            assert_eq!(found.model, model);
            changes_only_what_it_must(&body, &found);
        }
        (Err(ScanError::MissingModel), Expected::NoModel) => {}
        (Err(ScanError::InvalidJson(_)), Expected::Invalid) => {}
        (found, expected) => panic!("{found:?} for {expected:?}"),
    }
});

#[derive(Debug)]
enum Expected {
    Model(String),
    NoModel,
    Invalid,
}

/// What a parser that everybody uses makes of the body.
fn expected(body: &[u8]) -> Expected {
    struct LastModel;

    impl<'de> Visitor<'de> for LastModel {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut model = None;
            while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                if key == "model" {
                    model = Some(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(model)
        }
    }

    let mut document = serde_json::Deserializer::from_slice(body);
    let Ok(model) = document.deserialize_map(LastModel) else { return Expected::Invalid };
    if document.end().is_err() {
        return Expected::Invalid;
    }
    match model.map(|raw| serde_json::from_str::<String>(raw.get())) {
        Some(Ok(model)) => Expected::Model(model),
        _ => Expected::NoModel,
    }
}

fn changes_only_what_it_must(body: &Bytes, found: &Scan) {
    assert_eq!(found.with_model(body, &found.model), body);
    assert_eq!(found.affinity(body), found.affinity(body));
    assert!(found.prompt_estimate <= body.len() as u64);
    let renamed = found.with_model(body, "another/\"name\"");
    let again = scan::scan(&renamed).expect("still one object");
    assert_eq!(again.model, "another/\"name\"");
    // Back again, as far as the name was written plainly: every other byte is where it was.
    let back = again.with_model(&renamed, &found.model);
    let written = Value::from(found.model.as_str()).to_string();
    if body.windows(written.len()).any(|window| window == written.as_bytes()) {
        assert!(back == body || back.len() <= body.len() + written.len());
    }

    let (asking, asks) = found.for_engine(body, &found.model, true);
    assert!(found.streams || !asks, "only streams are asked");
    assert_eq!(asks, asking != *body, "it says whether it has changed anything");
    let (Ok(before), Ok(after)) = (parsed(body), parsed(&asking)) else { return };
    if !asks {
        return assert_eq!(before, after);
    }
    assert_eq!(after["stream_options"]["include_usage"], true);
    assert_eq!(without_the_question(before), without_the_question(after));
}

/// Deep nesting and lone surrogates are beyond this parser, though not beyond engines.
fn parsed(body: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(body)
}

fn without_the_question(mut body: Value) -> Value {
    let object = body.as_object_mut().expect("an object");
    let options = object.remove("stream_options").unwrap_or_default();
    let mut options = options.as_object().cloned().unwrap_or_default();
    options.remove("include_usage");
    object.insert("stream_options".to_owned(), options.into());
    body
}
