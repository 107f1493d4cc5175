//! Finds the model in a `multipart/form-data` body (RFC 7578), as [`nebula_dialect::scan`] does in a JSON one. What parsers
//! could read in two ways is refused: whoever is let in for one model must not be served another.

use std::ops::Range;

use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use memchr::memmem;

use crate::http::error::OpenAiError;

use nebula_dialect::Scan;

/// Most fields of a form.
const FIELDS_MAX: usize = 64;
/// Longest head of a field, in bytes.
const HEAD_MAX: usize = 8 * 1024;
/// Longest model name, in bytes.
const MODEL_MAX: usize = 512;
/// Longest boundary, in bytes, as RFC 2046 has it.
const BOUNDARY_MAX: usize = 70;

/// Reads a form: where its one `model` is.
pub(crate) fn scan(headers: &HeaderMap, body: &[u8]) -> Result<Scan, OpenAiError> {
    let at = model(headers, body).map_err(|why| OpenAiError::InvalidForm(why.to_owned()))?;
    let at = at.filter(|at| (1..=MODEL_MAX).contains(&at.len())).ok_or(OpenAiError::MissingModel)?;
    let text = body.get(at.clone()).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let text = text.filter(|text| !text.contains(char::is_control)).ok_or(OpenAiError::MissingModel)?;
    Ok(Scan::of_text(text, at))
}

/// Where the value of the field `model` stands, or why this is no form.
fn model(headers: &HeaderMap, body: &[u8]) -> Result<Option<Range<usize>>, &'static str> {
    let boundary = boundary(headers).ok_or("its content-type is not multipart/form-data with a boundary")?;
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    let next = memmem::Finder::new(&delimiter);
    let from = |at: usize| body.get(at..).unwrap_or_default();
    // The first boundary begins the body, so that the line end before it is missing.
    if !body.starts_with(delimiter.get(2..).unwrap_or_default()) {
        return Err("it does not begin with the boundary");
    }
    let mut at = delimiter.len() - 2;
    let mut model = None;
    for _ in 0..FIELDS_MAX {
        if from(at).starts_with(b"--") {
            return Ok(model);
        }
        if !from(at).starts_with(b"\r\n") {
            return Err("a boundary does not end its line");
        }
        let head = from(at + 2);
        let head = head.get(..head.len().min(HEAD_MAX)).unwrap_or_default();
        let head = head.get(..memmem::find(head, b"\r\n\r\n").ok_or("a field's head is too long or cut")?);
        let head = head.unwrap_or_default();
        let start = at + 2 + head.len() + 4;
        // The line end before the boundary may be the one that ends the head, where the value is empty.
        let end = start - 2 + next.find(from(start - 2)).ok_or("it broke off")?;
        if names_model(head)? && model.replace(start..end.max(start)).is_some() {
            return Err("\"model\" is given twice");
        }
        at = end + delimiter.len();
    }
    Err("it has too many fields")
}

fn boundary(headers: &HeaderMap) -> Option<String> {
    let mut kinds = headers.get_all(CONTENT_TYPE);
    let (kind, None) = (kinds.next()?.to_str().ok()?, kinds.next()) else { return None };
    let (kind, parameters) = kind.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameter(parameters, "boundary").ok()??;
    let legal = |c: char| c.is_ascii_alphanumeric() || "'()+_,-./:=? ".contains(c);
    let valid = (1..=BOUNDARY_MAX).contains(&boundary.len()) && boundary.chars().all(legal);
    (valid && !boundary.ends_with(' ')).then_some(boundary)
}

/// Whether a field with this head is a text named `model`.
fn names_model(head: &[u8]) -> Result<bool, &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "a field's head is not UTF-8")?;
    let mut disposition = None;
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(':').ok_or("a line of a field's head has no colon")?;
        if name.starts_with([' ', '\t']) || line.contains(['\r', '\n']) {
            return Err("a line of a field's head is folded");
        }
        if name.trim().eq_ignore_ascii_case("content-disposition") && disposition.replace(value).is_some() {
            return Err("a field has two content-dispositions");
        }
    }
    let value = disposition.ok_or("a field has no content-disposition")?;
    let (kind, parameters) = value.split_once(';').ok_or("a field has no name")?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err("a field's content-disposition is not form-data");
    }
    if parameter(parameters, "name*")?.is_some() {
        return Err("a field's name is encoded");
    }
    let name = parameter(parameters, "name")?.ok_or("a field has no name")?;
    if name == "model" && parameter(parameters, "filename")?.is_some() {
        return Err("\"model\" is a file");
    }
    Ok(name == "model")
}

/// The value of a parameter, unquoted, in `a=b; c="d"`.
fn parameter(parameters: &str, wanted: &str) -> Result<Option<String>, &'static str> {
    const MALFORMED: &str = "a parameter of a header is malformed";
    let mut found = None;
    let mut rest = parameters.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or(MALFORMED)?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or(MALFORMED)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                if value.contains('"') {
                    return Err(MALFORMED);
                }
                (value.trim().to_owned(), after)
            }
        };
        if name.contains(['"', ';']) {
            return Err(MALFORMED);
        }
        if name.trim().eq_ignore_ascii_case(wanted) && found.replace(value).is_some() {
            return Err("a parameter of a header is given twice");
        }
        let after = after.trim_start();
        rest = match after.strip_prefix(';') {
            Some(more) => more.trim_start(),
            None if after.is_empty() => after,
            None => return Err(MALFORMED),
        };
    }
    Ok(found)
}

/// A quoted string after its first quote: what it says, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use bytes::Bytes;

    use super::*;

    fn scanned(kind: &str, body: &[u8]) -> Result<Scan, OpenAiError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(kind).expect("a header"));
        scan(&headers, body)
    }

    fn form(fields: &[&str]) -> String {
        let fields: String = fields.iter().map(|field| format!("--b\r\n{field}\r\n")).collect();
        format!("{fields}--b--\r\n")
    }

    fn field(parameters: &str, value: &str) -> String {
        format!("Content-Disposition: form-data; {parameters}\r\n\r\n{value}")
    }

    const KIND: &str = "multipart/form-data; boundary=b";
    const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a; name=\\\"model\\\".wav\"\r\n\
                        Content-Type: audio/wav\r\n\r\nRIFF\r\n--a\r\n\r\nname=\"model\"\r\n";

    #[test]
    fn the_model_is_found_wherever_it_stands() {
        for kind in [KIND, "Multipart/Form-Data; charset=utf-8; boundary=\"b\""] {
            for name in ["name=\"model\"", "name=model", "NAME=\"mod\\el\" ; x=1"] {
                for fields in [[FILE, &field(name, "org/m")], [&field(name, "org/m"), FILE]] {
                    let body = form(&fields);
                    let scan = scanned(kind, body.as_bytes());
                    assert_eq!(scan.map(|scan| scan.model), Ok("org/m".to_owned()), "{body}");
                }
            }
        }
    }

    #[test]
    fn only_the_models_bytes_are_replaced() {
        let body = Bytes::from(form(&[&field("name=\"model\"", "org/m"), FILE]));
        let scan = scanned(KIND, &body).expect("a model");
        assert_eq!(scan.with_model(&body, "org/m"), body);
        assert_eq!(scan.with_model(&body, "a\"b"), form(&[&field("name=\"model\"", "a\"b"), FILE]));
    }

    #[test]
    fn a_form_without_a_sensible_model_is_refused() {
        for value in ["", "a\nb", &"x".repeat(MODEL_MAX + 1)] {
            let body = form(&[&field("name=\"model\"", value)]);
            assert_eq!(scanned(KIND, body.as_bytes()), Err(OpenAiError::MissingModel), "{value}");
        }
        assert_eq!(scanned(KIND, form(&[FILE]).as_bytes()), Err(OpenAiError::MissingModel));
        assert_eq!(scanned(KIND, b"--b--"), Err(OpenAiError::MissingModel));
        // The line end of an empty field's head is also the one before the boundary.
        let body = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n--b--\r\n";
        assert_eq!(scanned(KIND, body.as_bytes()), Err(OpenAiError::MissingModel));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let model = field("name=\"model\"", "a");
        for body in [
            String::new(),
            "x".to_owned(),
            format!("preamble\r\n{}", form(&[&model])),
            form(&[&model, &model]),
            form(&[&field("name*=utf-8''model", "a")]),
            form(&[&field("name=\"x\"; name=\"model\"", "a")]),
            form(&[&field("name=\"model", "a")]),
            form(&[&field("name=\"model\" x", "a")]),
            form(&[&field("name= \"model\"", "a")]),
            form(&[&field("x; name=\"model\"", "a")]),
            form(&[&field("name=\"model\"; filename=\"a\"", "a")]),
            form(&["Content-Type: text/plain\r\n\r\na"]),
            form(&["Content-Disposition: form-data;\r\n name=\"model\"\r\n\r\na"]),
            form(&[&format!("Content-Disposition: form-data; name=\"x\"\r\n{model}")]),
            form(&["x"]),
            form(&[&model]).replace("--b--", ""),
            form(&[&model]).replace("--b--", "--bx"),
            form(&vec![FILE; FIELDS_MAX + 1]),
            form(&[&format!("X: {}\r\n{model}", "x".repeat(HEAD_MAX))]),
        ] {
            let scan = scanned(KIND, body.as_bytes());
            assert!(matches!(scan, Err(OpenAiError::InvalidForm(_))), "{scan:?}: {body}");
        }
        for kind in [
            "application/json",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=a; boundary=b",
        ] {
            let scan = scanned(kind, form(&[&model]).as_bytes());
            assert!(matches!(scan, Err(OpenAiError::InvalidForm(_))), "{kind}");
        }
    }
}
