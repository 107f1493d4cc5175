//! Answers: the text as it came, for programs, and the value in it, for tables.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// A JSON value with its own text, so that `-o json` shows numbers and key order as the API wrote them.
#[derive(Debug, Clone)]
pub(crate) struct Json {
    pub(crate) text: String,
    pub(crate) value: Value,
}

impl Json {
    /// Reads one JSON value; nothing when it is none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        Some(Self { value: serde_json::from_str(text).ok()?, text: text.to_owned() })
    }

    /// The text of an object with one more member at its end; other values stay as they are.
    pub(crate) fn text_with(&self, key: &str, value: &Value) -> String {
        let Some(members) = self.text.trim().strip_suffix('}').filter(|_| self.value.is_object()) else {
            return self.text.clone();
        };
        let comma = if self.value.as_object().is_some_and(|object| object.is_empty()) { "" } else { "," };
        format!("{members}{comma}{}:{value}}}", Value::from(key))
    }
}

/// The items of a list, gathered from its pages.
#[derive(Debug, Default)]
pub(crate) struct List {
    texts: Vec<String>,
    pub(crate) items: Vec<Value>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    #[serde(default)]
    next_cursor: Option<String>,
}

impl List {
    /// Adds a page. Returns its cursor (nothing on the last page), or nothing at all when it is no page.
    pub(crate) fn add(&mut self, page: &Json) -> Option<Option<String>> {
        let page: Page<'_> = serde_json::from_str(&page.text).ok()?;
        for item in page.data {
            self.items.push(serde_json::from_str(item.get()).ok()?);
            self.texts.push(item.get().to_owned());
        }
        Some(page.next_cursor)
    }

    /// The items as one JSON array.
    pub(crate) fn text(&self) -> String {
        format!("[{}]", self.texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_added_at_the_end() {
        for (text, expected) in [
            (r#"{"b":1.0,"a":{}}"#, r#"{"b":1.0,"a":{},"k":"v\""}"#),
            ("{ }\n", r#"{ "k":"v\""}"#),
            ("[1]", "[1]"),
        ] {
            let json = Json::parse(text.as_bytes()).expect("json");
            assert_eq!(json.text_with("k", &json!("v\"")), expected);
        }
    }

    #[test]
    fn pages_join_to_one_array() {
        let mut list = List::default();
        let first = Json::parse(br#"{"data":[{"b":1,"a":2}],"next_cursor":"x"}"#).expect("json");
        let last = Json::parse(br#"{"data":[{"a":1e400}],"next_cursor":null}"#);
        assert_eq!(list.add(&first), Some(Some("x".to_owned())));
        assert!(last.is_none(), "no number that cannot be held");
        let last = Json::parse(br#"{"data":[3]}"#).expect("json");
        assert_eq!(list.add(&last), Some(None));
        assert_eq!(list.text(), r#"[{"b":1,"a":2},3]"#);
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for text in [r#"{"items":[]}"#, "[]", r#"{"data":{}}"#] {
            let page = Json::parse(text.as_bytes()).expect("json");
            assert_eq!(List::default().add(&page), None, "{text}");
        }
    }
}
