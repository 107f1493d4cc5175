//! Finds the model in a request's body without building the document, and replaces its bytes when the runtime knows
//! it by another name. Every other byte stays as the client wrote it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde::de::{Deserialize, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why a body cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// It is not one JSON object; the text says why.
    #[error("{0}")]
    InvalidJson(String),
    /// `model` is missing or no string.
    #[error("\"model\" is missing or not a string")]
    MissingModel,
}

/// What routing needs of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// The model that the client names.
    pub model: String,
    /// Where it stands in the body: as a JSON string with its quotes, or as it is.
    at: Range<usize>,
    is_json: bool,
}

/// Reads a body: one JSON object and nothing after it. Of two `model` keys the last one counts, as engines read it,
/// however it is escaped: whoever is let in for one model must not be served another.
///
/// # Errors
/// When it is something else, or names no model.
pub fn scan(body: &[u8]) -> Result<Scan, ScanError> {
    let invalid = |error: serde_json::Error| ScanError::InvalidJson(error.to_string());
    let mut document = serde_json::Deserializer::from_slice(body);
    let model = document.deserialize_map(LastModel).map_err(invalid)?;
    document.end().map_err(invalid)?;
    let raw = model.ok_or(ScanError::MissingModel)?.get();
    let text: Cow<'_, str> = serde_json::from_str::<Text<'_>>(raw).map_err(|_| ScanError::MissingModel)?.0;
    let start = raw.as_ptr().addr().saturating_sub(body.as_ptr().addr());
    Ok(Scan { model: text.into_owned(), at: start..start + raw.len(), is_json: true })
}

impl Scan {
    /// Of a body in which the model stands as it is.
    #[must_use]
    pub fn of_text(model: &str, at: Range<usize>) -> Self {
        Self { model: model.to_owned(), at, is_json: false }
    }

    /// The body with `name` for the model.
    #[must_use]
    pub fn with_model(&self, body: &Bytes, name: &str) -> Bytes {
        if self.model == name {
            return body.clone();
        }
        let before = body.get(..self.at.start).unwrap_or_default();
        let after = body.get(self.at.end..).unwrap_or_default();
        let name = if self.is_json { serde_json::Value::from(name).to_string() } else { name.to_owned() };
        let mut spliced = BytesMut::with_capacity(before.len() + name.len() + after.len());
        for part in [before, name.as_bytes(), after] {
            spliced.extend_from_slice(part);
        }
        spliced.freeze()
    }
}

/// A string, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct LastModel;

impl<'de> Visitor<'de> for LastModel {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut model = None;
        while let Some(IsModel(is_model)) = map.next_key()? {
            if is_model {
                model = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(model)
    }
}

/// Whether a key is `model`, once unescaped.
struct IsModel(bool);

impl<'de> Deserialize<'de> for IsModel {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl Visitor<'_> for Key {
            type Value = IsModel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<IsModel, E> {
                Ok(IsModel(key == "model"))
            }
        }
        deserializer.deserialize_str(Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(body: &'static str, name: &str) -> Bytes {
        scan(body.as_bytes()).expect("a model").with_model(&Bytes::from_static(body.as_bytes()), name)
    }

    #[test]
    fn the_last_model_counts_and_escapes_do_not_hide_it() {
        for (body, model) in [
            (r#"{"model":"a"}"#, "a"),
            (r#" { "x" : {"model":"no"}, "model" : "a" } "#, "a"),
            (r#"{"model":"a","model":"b"}"#, "b"),
            (r#"{"model":"a","mod\u0065l":"b"}"#, "b"),
            (r#"{"model":"or\u0067\/m"}"#, "org/m"),
            (r#"{"messages":["\"model\":\"x\""],"model":"a"}"#, "a"),
        ] {
            assert_eq!(scan(body.as_bytes()).map(|scan| scan.model), Ok(model.to_owned()), "{body}");
        }
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for body in [
            "",
            " ",
            "[]",
            "null",
            "\"model\"",
            "{",
            "{\"model\":\"a\"",
            "{} {}",
            "{\"model\":\"a\"}x",
            "{'a':1}",
        ] {
            let error = scan(body.as_bytes()).expect_err(body);
            assert!(matches!(error, ScanError::InvalidJson(_)), "{body}: {error:?}");
        }
        assert!(matches!(scan(b"{\"model\":\"\xff\"}"), Err(ScanError::InvalidJson(_))));
    }

    #[test]
    fn a_model_that_is_missing_or_no_string_is_refused() {
        for body in
            ["{}", r#"{"Model":"a"}"#, r#"{"model":1}"#, r#"{"model":null}"#, r#"{"model":"a","model":{}}"#]
        {
            assert_eq!(scan(body.as_bytes()), Err(ScanError::MissingModel), "{body}");
        }
    }

    #[test]
    fn only_the_models_bytes_are_replaced() {
        let body = r#"{ "n":1.0e+2,"model" : "\u0061" , "x":0.30000000000000004,"x":[1 ,2]}"#;
        assert_eq!(spliced(body, "a"), body);
        assert_eq!(
            spliced(body, "org/\"b\""),
            r#"{ "n":1.0e+2,"model" : "org/\"b\"" , "x":0.30000000000000004,"x":[1 ,2]}"#
        );
        assert_eq!(spliced(r#"{"model":"a","model":"b"}"#, "c"), r#"{"model":"a","model":"c"}"#);
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let body = format!("{{\"model\":\"a\",\"x\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(scan(body.as_bytes()).is_ok());
    }
}
