//! A value that fits a JSON schema, for structured answers and tool calls. Covers what schemas of such
//! requests use: types, enums, references, combinations, ranges and lengths; patterns are not honoured.

use serde_json::{Map, Value, json};

/// How deep schemas are followed: recursive ones would not end.
const DEPTH_MAX: usize = 16;
/// How deep optional properties are filled in.
const OPTIONAL_DEPTH_MAX: usize = 4;
/// The most items or characters that are made up to reach a minimum.
const MINIMUM_MAX: u64 = 64;
/// The most values that one instance has: nested arrays and shared references multiply.
const VALUES_MAX: usize = 2_000;

/// A value that fits `schema`.
pub(crate) fn instance(schema: &Value) -> Value {
    Sampler { root: schema, values_left: VALUES_MAX }.value(schema, 0, "value")
}

/// An object for a tool's parameters, even where the schema is none.
pub(crate) fn arguments(schema: &Value) -> Value {
    match instance(schema) {
        object @ Value::Object(_) if schema.is_object() => object,
        _ => Value::Object(Map::new()),
    }
}

struct Sampler<'s> {
    root: &'s Value,
    values_left: usize,
}

impl<'s> Sampler<'s> {
    fn value(&mut self, schema: &Value, depth: usize, name: &str) -> Value {
        if depth > DEPTH_MAX || self.values_left == 0 {
            return Value::Null;
        }
        self.values_left -= 1;
        if let Some(fixed) = fixed(schema) {
            return fixed.clone();
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|path| self.resolve(path)) {
            return self.value(target, depth + 1, name);
        }
        if let Some(first) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.get(0)) {
            return self.value(first, depth + 1, name);
        }
        if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
            return self.value(&merged(schema, parts), depth + 1, name);
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, depth, name),
            "string" => Value::String(text(schema, name)),
            "integer" => json!(number(schema).ceil() as i64),
            "number" => json!(number(schema)),
            "boolean" => Value::Bool(true),
            _ => Value::Null,
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let mut object = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            if depth < OPTIONAL_DEPTH_MAX || required.contains(&name.as_str()) {
                object.insert(name.clone(), self.value(property, depth + 1, name));
            }
        }
        for name in required {
            if !object.contains_key(name) {
                object.insert(name.to_owned(), Value::String(text(&Value::Null, name)));
            }
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &Value, depth: usize, name: &str) -> Value {
        if let Some(items) = schema.get("prefixItems").and_then(Value::as_array) {
            return items.iter().map(|item| self.value(item, depth + 1, name)).collect();
        }
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(1);
        let most = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let any = json!({ "type": "string" });
        let item = schema.get("items").filter(|items| items.is_object()).unwrap_or(&any);
        (0..least.min(most).min(MINIMUM_MAX)).map(|_| self.value(item, depth + 1, name)).collect()
    }

    /// Only references inside the schema itself (`#/…`) are followed.
    fn resolve(&self, path: &str) -> Option<&'s Value> {
        self.root.pointer(path.strip_prefix('#')?)
    }
}

fn fixed(schema: &Value) -> Option<&Value> {
    schema.get("const").or_else(|| schema.get("enum")?.get(0))
}

/// The first type that is not null, or what the keywords hint at.
fn kind(schema: &Value) -> &str {
    let first = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        Some(kind) => kind.as_str(),
        None if schema.get("items").is_some() => Some("array"),
        None => Some("object"),
    };
    first.unwrap_or("null")
}

fn merged(schema: &Value, parts: &[Value]) -> Value {
    let mut whole = schema.as_object().cloned().unwrap_or_default();
    whole.remove("allOf");
    for (key, value) in parts.iter().filter_map(Value::as_object).flatten() {
        match (whole.get_mut(key), value) {
            (Some(Value::Object(have)), Value::Object(more)) => have.extend(more.clone()),
            (Some(Value::Array(have)), Value::Array(more)) => have.extend(more.clone()),
            _ => drop(whole.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(whole)
}

fn text(schema: &Value, name: &str) -> String {
    let mut text = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => "2024-01-01T00:00:00Z".to_owned(),
        Some("date") => "2024-01-01".to_owned(),
        Some("time") => "00:00:00Z".to_owned(),
        Some("email") => "someone@example.com".to_owned(),
        Some("uri" | "url") => "https://example.com".to_owned(),
        Some("uuid") => "00000000-0000-4000-8000-000000000000".to_owned(),
        _ => format!("simulated {name}"),
    };
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0).min(MINIMUM_MAX);
    while (text.chars().count() as u64) < least {
        text.push('.');
    }
    if let Some(most) = schema.get("maxLength").and_then(Value::as_u64) {
        text = text.chars().take(usize::try_from(most).unwrap_or(usize::MAX)).collect();
    }
    text
}

fn number(schema: &Value) -> f64 {
    let bound = |key| schema.get(key).and_then(Value::as_f64);
    let least = bound("minimum").or_else(|| bound("exclusiveMinimum").map(|least| least + 1.0));
    let most = bound("maximum").or_else(|| bound("exclusiveMaximum").map(|most| most - 1.0));
    let wanted = least.unwrap_or(1.0).max(1.0);
    match most {
        Some(most) if wanted > most => least.unwrap_or(most),
        _ => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_its_properties_with_their_types() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": { "type": "string", "maxLength": 4 },
                "unit": { "enum": ["celsius", "kelvin"] },
                "days": { "type": "integer", "minimum": 3, "maximum": 5 },
                "tags": { "type": "array", "items": { "type": "boolean" }, "minItems": 2 },
                "note": { "type": ["null", "string"], "format": "date" },
                "where": { "$ref": "#/$defs/place" },
            },
            "required": ["city", "extra"],
            "$defs": { "place": { "anyOf": [{ "type": "number" }, { "type": "null" }] } },
        });
        let want = json!({
            "city": "simu", "unit": "celsius", "days": 3, "tags": [true, true], "note": "2024-01-01",
            "where": 1.0, "extra": "simulated extra",
        });
        assert_eq!(instance(&schema), want);
    }

    #[test]
    fn parts_of_a_schema_are_joined() {
        let schema = json!({ "allOf": [
            { "type": "object", "properties": { "a": { "type": "string" } } },
            { "properties": { "b": { "const": 7 } } },
        ]});
        assert_eq!(instance(&schema), json!({ "a": "simulated a", "b": 7 }));
    }

    #[test]
    fn schemas_without_end_come_to_one() {
        let node = json!({
            "type": "object",
            "properties": { "next": { "$ref": "#" }, "more": { "type": "array", "items": { "$ref": "#" } } },
            "required": ["next", "more"],
        });
        assert!(instance(&node).is_object());
        let wide = json!({ "type": "array", "minItems": 64, "items": { "$ref": "#" } });
        assert!(instance(&wide).is_array());
        assert_eq!(instance(&json!({ "$ref": "#" })), Value::Null);
    }

    #[test]
    fn ranges_are_kept() {
        for (schema, want) in [
            (json!({ "maximum": -2 }), -2.0),
            (json!({ "minimum": -9, "maximum": -2 }), -9.0),
            (json!({ "exclusiveMinimum": 4 }), 5.0),
            (json!({ "maximum": 8 }), 1.0),
        ] {
            assert!((number(&schema) - want).abs() < f64::EPSILON, "{schema}");
        }
    }

    #[test]
    fn arguments_are_always_an_object() {
        for schema in [json!(null), json!("x"), json!({ "type": "string" }), json!({})] {
            assert_eq!(arguments(&schema), json!({}), "{schema}");
        }
    }
}
