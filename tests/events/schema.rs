//! As much of JSON Schema as the description uses, and stricter in one point: where a schema names fields, a value has
//! no others, so that what is answered is described.

use nebula_core::clock::WallTime;
use serde_json::Value;

/// Words that say nothing about a value.
const SILENT: [&str; 4] = ["description", "default", "pattern", "minLength"];
/// Words that are understood.
const KNOWN: [&str; 14] = [
    "$ref",
    "type",
    "enum",
    "const",
    "oneOf",
    "anyOf",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "format",
    "minimum",
    "maximum",
    "maxLength",
];

/// Everything about `value` that is not as `schema` says, one line each.
pub(super) fn faults(doc: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let words = schema.as_object().expect("a schema is an object");
    if let Some(unknown) = words.keys().find(|word| !KNOWN.contains(&&***word) && !SILENT.contains(&&***word))
    {
        return vec![format!("{at}: the checker does not know \"{unknown}\"")];
    }
    if let Some(target) = schema["$ref"].as_str() {
        let target = doc.pointer(target.trim_start_matches('#')).expect("what a reference names");
        return faults(doc, target, value, at);
    }
    let (one, any) = (schema["oneOf"].as_array(), schema["anyOf"].as_array());
    if let Some(choices) = one.or(any) {
        let all: Vec<Vec<String>> = choices.iter().map(|choice| faults(doc, choice, value, at)).collect();
        return match all.iter().filter(|faults| faults.is_empty()).count() {
            1 => Vec::new(),
            2.. if any.is_some() => Vec::new(),
            0 => all.into_iter().max_by_key(Vec::len).unwrap_or_default(),
            _ => vec![format!("{at}: {value} is several things at once")],
        };
    }
    let mut found = plain(schema, value, at);
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        let each = values.iter().enumerate();
        found.extend(each.flat_map(|(index, value)| faults(doc, items, value, &format!("{at}[{index}]"))));
    }
    if let Some(fields) = value.as_object() {
        let described = schema["properties"].as_object();
        for name in schema["required"].as_array().into_iter().flatten() {
            if !fields.contains_key(name.as_str().expect("a name")) {
                found.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, value) in fields {
            let at = format!("{at}.{name}");
            match (described.and_then(|described| described.get(name)), schema.get("additionalProperties")) {
                (Some(schema), _) => found.extend(faults(doc, schema, value, &at)),
                (None, Some(schema)) if schema.is_object() => found.extend(faults(doc, schema, value, &at)),
                (None, None) if described.is_none() => {}
                (None, _) => found.push(format!("{at} is not described")),
            }
        }
    }
    found
}

/// What can be said without looking inside.
fn plain(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            found.push(format!("{at}: {value} {what}"));
        }
    };
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect::<Vec<_>>(),
    };
    let is = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    };
    must(kinds.is_empty() || kinds.iter().any(is), &format!("is no {}", kinds.join(" or ")));
    if let Some(words) = schema["enum"].as_array() {
        must(words.contains(value), "is none of the words");
    }
    if let Some(only) = schema.get("const") {
        must(value == only, "is not the only word");
    }
    if let Some(number) = value.as_i64() {
        must(schema["minimum"].as_i64().is_none_or(|least| number >= least), "is too small");
        must(schema["maximum"].as_i64().is_none_or(|most| number <= most), "is too large");
    }
    if let Some(text) = value.as_str() {
        let fits = match schema["format"].as_str() {
            None => true,
            Some("date-time") => WallTime::from_rfc3339(text).is_some(),
            Some("uuid") => text.len() == 36 && text.bytes().filter(|byte| *byte == b'-').count() == 4,
            Some(other) => panic!("there is no format {other}"),
        };
        must(fits, "has another form");
    }
    found
}
