//! The head of a request, written as the bytes that go out.

use std::fmt::Write as _;

use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::{BufMut as _, Bytes, BytesMut};
use nebula_core::address::HostPort;

use crate::headers::passes_upstream;

/// Room for most heads, in bytes.
const ROOM: usize = 1024;

/// The head of a request to an upstream. `host`, `content-length` and `transfer-encoding` are added when it is sent
/// and must not be written here.
#[derive(Clone, Debug)]
pub struct RequestHead {
    bytes: BytesMut,
    is_head: bool,
}

/// Header lines that many requests have in common: written once, sent as a block.
#[derive(Clone, Debug, Default)]
pub struct HeaderLines(BytesMut);

/// A header's value has a control character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header's value has a control character")]
pub struct IllegalValue;

impl RequestHead {
    /// Of a request to a path with its query, both as they stand in a URI.
    #[must_use]
    pub fn new(method: &Method, path: &str, query: Option<&str>) -> Self {
        let mut bytes = BytesMut::with_capacity(ROOM);
        let (mark, query) = query.map_or(("", ""), |query| ("?", query));
        put(&mut bytes, &[method.as_str(), " ", path, mark, query, " HTTP/1.1\r\n"]);
        Self { bytes, is_head: *method == Method::HEAD }
    }

    /// Adds the headers of a client's request that an upstream gets: all but the hop-by-hop ones, `host`,
    /// `content-length`, `expect`, `x-nebula-*`, those that carry credentials, and those that `dropped` says.
    #[must_use]
    pub fn forward(mut self, headers: &HeaderMap, dropped: impl Fn(&HeaderName) -> bool) -> Self {
        let passes = passes_upstream(headers);
        for (name, value) in headers {
            if passes(name) && !dropped(name) {
                line(&mut self.bytes, name, value.as_bytes());
            }
        }
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &HeaderName, value: &HeaderValue) -> Self {
        line(&mut self.bytes, name, value.as_bytes());
        self
    }

    /// Adds a block of headers.
    #[must_use]
    pub fn lines(mut self, lines: &HeaderLines) -> Self {
        self.bytes.put_slice(&lines.0);
        self
    }

    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    /// The whole head, of a request with a body of this length, or a chunked one.
    pub(crate) fn finish(mut self, address: &HostPort, length: Option<u64>) -> Bytes {
        // Writing into memory does not fail.
        let _ = write!(self.bytes, "host: {address}\r\n");
        let _ = match length {
            Some(length) => write!(self.bytes, "content-length: {length}\r\n\r\n"),
            None => self.bytes.write_str("transfer-encoding: chunked\r\n\r\n"),
        };
        self.bytes.freeze()
    }
}

impl HeaderLines {
    /// Adds a header.
    ///
    /// # Errors
    /// When the value has a control character, such as a line end.
    pub fn text(mut self, name: &HeaderName, value: &str) -> Result<Self, IllegalValue> {
        if value.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(IllegalValue);
        }
        line(&mut self.0, name, value.as_bytes());
        Ok(self)
    }
}

fn line(bytes: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    bytes.put_slice(name.as_str().as_bytes());
    bytes.put_slice(b": ");
    bytes.put_slice(value);
    bytes.put_slice(b"\r\n");
}

fn put(bytes: &mut BytesMut, parts: &[&str]) {
    parts.iter().for_each(|part| bytes.put_slice(part.as_bytes()));
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION};

    use super::*;

    fn sent(head: RequestHead, length: Option<u64>) -> String {
        let address = "[::1]:80".parse().expect("an address");
        String::from_utf8(head.finish(&address, length).to_vec()).expect("a text")
    }

    #[test]
    fn a_head_is_written_in_one_go() {
        let lines = HeaderLines::default().text(&AUTHORIZATION, "Bearer x").expect("a value");
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT, HeaderValue::from_static("a"));
        headers.append(ACCEPT, HeaderValue::from_static("b"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer y"));
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let head = RequestHead::new(&Method::POST, "/v1/x", Some("y=1"))
            .lines(&lines)
            .forward(&headers, |name| *name == ACCEPT_ENCODING);
        assert_eq!(
            sent(head, Some(12)),
            "POST /v1/x?y=1 HTTP/1.1\r\nauthorization: Bearer x\r\naccept: a\r\naccept: b\r\nhost: [::1]:80\r\n\
             content-length: 12\r\n\r\n"
        );
        assert_eq!(
            sent(RequestHead::new(&Method::GET, "/", None), None),
            "GET / HTTP/1.1\r\nhost: [::1]:80\r\ntransfer-encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn a_value_cannot_end_its_line() {
        for value in ["a\r\nb: c", "a\n", "\0"] {
            assert_eq!(
                HeaderLines::default().text(&AUTHORIZATION, value).err(),
                Some(IllegalValue),
                "{value:?}"
            );
        }
    }
}
