//! Reading and writing JSON without building documents: what only moves is copied as its text, so that numbers,
//! escapes and the order of keys stay as they were written.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::adapter::Refusal;

/// The fields of one object that somebody asked for. Of two with the same name the last counts, as engines read it;
/// one that is null counts as absent.
pub(super) struct Fields<'a> {
    names: &'static [&'static str],
    values: Vec<Option<&'a str>>,
    /// There were fields with other names.
    pub(super) others: bool,
}

impl<'a> Fields<'a> {
    /// Reads one object. None when `json` is something else.
    pub(super) fn of(json: &'a str, names: &'static [&'static str]) -> Option<Self> {
        let mut document = serde_json::Deserializer::from_str(json);
        let fields = Self { names, values: vec![None; names.len()], others: false };
        let fields = document.deserialize_map(FieldsVisitor(fields)).ok()?;
        document.end().ok().map(|()| fields)
    }

    /// The JSON of one of the fields.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let at = self.names.iter().position(|known| *known == name)?;
        self.values.get(at).copied().flatten()
    }
}

struct FieldsVisitor<'a>(Fields<'a>);

impl<'de> Visitor<'de> for FieldsVisitor<'de> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        while let Some(at) = map.next_key_seed(NameSeed(self.0.names))? {
            if let Some(value) = at.and_then(|at| self.0.values.get_mut(at)) {
                *value = Some(map.next_value::<&'de RawValue>()?.get()).filter(|json| *json != "null");
            } else {
                map.next_value::<IgnoredAny>()?;
                self.0.others = true;
            }
        }
        Ok(self.0)
    }
}

/// Where a key stands among the names, once unescaped.
struct NameSeed(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}

/// Hands over the JSON of each element of an array, one after the other.
///
/// # Errors
/// The first refusal, or `no_array` when `json` is something else.
pub(super) fn each<'a>(
    json: &'a str,
    no_array: &Refusal,
    take: impl FnMut(&'a str) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut refusal = None;
    let elements = Elements { take, refusal: &mut refusal };
    let read = serde_json::Deserializer::from_str(json).deserialize_seq(elements);
    read.map_err(|_| refusal.unwrap_or_else(|| no_array.clone()))
}

struct Elements<'r, F> {
    take: F,
    refusal: &'r mut Option<Refusal>,
}

impl<'de, F: FnMut(&'de str) -> Result<(), Refusal>> Visitor<'de> for Elements<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(element) = sequence.next_element::<&'de RawValue>()? {
            if let Err(refusal) = (self.take)(element.get()) {
                *self.refusal = Some(refusal);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// What a JSON string says; None when it is no string.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    // A borrowed form first: a `Cow` would always be read into a string of its own.
    match serde_json::from_str::<&str>(json) {
        Ok(text) => Some(Cow::Borrowed(text)),
        Err(_) => serde_json::from_str::<String>(json).ok().map(Cow::Owned),
    }
}

/// Whether the JSON of a value is that of a string.
pub(super) fn is_text(json: &str) -> bool {
    json.starts_with('"')
}

/// Whether the JSON of a value is that of an object.
pub(super) fn is_object(json: &str) -> bool {
    json.starts_with('{')
}

/// Whether the JSON of a value is that of an array without elements.
pub(super) fn is_empty_array(json: &str) -> bool {
    json.strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with(']'))
}

/// Writes one object, field by field.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl<'o> Object<'o> {
    /// Begins it.
    pub(super) fn open(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    /// Goes on with one that has fields already.
    pub(super) fn resume(out: &'o mut Vec<u8>) -> Self {
        Self { out, is_empty: false }
    }

    /// Writes a field's name; its value goes to what this returns. The name needs no escapes.
    pub(super) fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// Writes a field whose value is JSON already.
    pub(super) fn json(&mut self, name: &str, json: &str) {
        self.name(name).extend_from_slice(json.as_bytes());
    }

    /// The same, where there is a value.
    pub(super) fn maybe(&mut self, name: &str, json: Option<&str>) {
        if let Some(json) = json {
            self.json(name, json);
        }
    }

    /// Writes a field whose value is a string.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        quote(self.name(name), text);
    }

    /// Ends it.
    pub(super) fn close(self) {
        self.out.push(b'}');
    }
}

/// Writes a string as JSON.
pub(super) fn quote(out: &mut Vec<u8>, text: &str) {
    // Writing a string to memory cannot fail.
    serde_json::to_writer(out, text).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_field_counts_escaped_or_not_and_null_is_none() {
        let fields =
            Fields::of(r#"{"a":1,"x":{},"\u0061": 1.0e2 ,"b":null}"#, &["a", "b", "c"]).expect("fields");
        assert_eq!((fields.get("a"), fields.get("b"), fields.get("c")), (Some("1.0e2"), None, None));
        assert!(fields.others);
        for json in ["[]", "1", "\"a\"", "{", "{} {}"] {
            assert!(Fields::of(json, &["a"]).is_none(), "{json}");
        }
    }

    #[test]
    fn elements_come_as_they_were_written_until_one_is_refused() {
        let refusal = |message: &str| Refusal { message: message.to_owned(), param: None, code: None };
        let mut seen = Vec::new();
        let read = each("[1.50, {\"a\" : 1},3]", &refusal("no array"), |json| {
            seen.push(json);
            if json == "3" { Err(refusal("three")) } else { Ok(()) }
        });
        assert_eq!((read, seen), (Err(refusal("three")), vec!["1.50", "{\"a\" : 1}", "3"]));
        assert_eq!(each("{}", &refusal("no array"), |_| Ok(())), Err(refusal("no array")));
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(Fields::of(&deep, &["a"]).is_some());
        assert!(Fields::of(&deep, &["b"]).is_some());
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.text("a", "\"\n\u{1}é");
        object.maybe("b", None);
        object.maybe("c", Some("1e5"));
        object.close();
        assert_eq!(out, "{\"a\":\"\\\"\\n\\u0001é\",\"c\":1e5}".as_bytes());
    }
}
