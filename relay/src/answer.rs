//! The head of an answer: parsed straight into what the client gets, and into how the body ends.

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use bytes::Bytes;

use crate::framing::{Chunk, Framing};
use crate::headers::{PROXY_ERROR, options, passes};

/// Most headers of an answer.
const HEADERS_MAX: usize = 128;

/// Headers that whoever passes the answer on may add without making the map anew.
const ROOM: usize = 12;

const NO_HTTP: &str = "what it sent is no HTTP/1.1";

/// The head of an answer.
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    /// Those that the client gets: none that ends at this hop, `content-length` or `x-nebula-*`.
    pub(crate) headers: HeaderMap,
    pub(crate) proxy_error: Option<HeaderValue>,
    pub(crate) framing: Framing,
    /// What `content-length` says, also where no body follows.
    pub(crate) length: Option<u64>,
    /// Whether the connection can carry another request after the body.
    pub(crate) reusable: bool,
}

/// What the headers say to us alone.
#[derive(Default)]
struct Hop {
    length: Option<u64>,
    /// Whether the last transfer coding is `chunked`; nothing when there is none at all.
    chunked: Option<bool>,
    close: bool,
    keep_alive: bool,
}

/// The head at the beginning of `buffer` and how long it is, if it is there as a whole. `to_head`: it answers a HEAD
/// request.
pub(crate) fn parse_head(buffer: &[u8], to_head: bool) -> Result<Option<(Head, usize)>, &'static str> {
    let mut parsed = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut parsed);
    let size = match response.parse(buffer) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(NO_HTTP),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(NO_HTTP)?;
    // All values share one copy of the head, as the buffer is wanted for the body.
    let copy = Bytes::copy_from_slice(buffer.get(..size).unwrap_or_default());
    let mut hop = Hop::default();
    let mut proxy_error = None;
    let mut named: Vec<HeaderName> = Vec::new();
    let mut headers = HeaderMap::with_capacity(response.headers.len() + ROOM);
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| NO_HTTP)?;
        if passes(&name) {
            headers.append(name, value(buffer, &copy, header.value)?);
        } else if name == PROXY_ERROR {
            proxy_error = Some(value(buffer, &copy, header.value)?);
        } else if [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&name) {
            let text = std::str::from_utf8(header.value).map_err(|_| NO_HTTP)?;
            hop.hear(&name, text)?;
            if name == CONNECTION {
                named.extend(options(text).filter_map(|option| option.parse().ok()));
            }
        }
    }
    for name in named {
        headers.remove(name);
    }
    let bodyless = to_head
        || status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    let framing = hop.framing(bodyless);
    let reusable = hop.lasts(response.version == Some(1)) && framing != Framing::UntilClose;
    Ok(Some((Head { status, headers, proxy_error, framing, length: hop.length, reusable }, size)))
}

/// A value that stands in `buffer`, as a part of the copy.
fn value(buffer: &[u8], copy: &Bytes, value: &[u8]) -> Result<HeaderValue, &'static str> {
    let start = value.as_ptr().addr().saturating_sub(buffer.as_ptr().addr());
    let end = start + value.len();
    // An empty one need not stand anywhere.
    let part = if end <= copy.len() { copy.slice(start..end) } else { Bytes::copy_from_slice(value) };
    HeaderValue::from_maybe_shared(part).map_err(|_| NO_HTTP)
}

impl Hop {
    fn hear(&mut self, name: &HeaderName, value: &str) -> Result<(), &'static str> {
        if *name == CONTENT_LENGTH {
            let digits = value.trim();
            let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let length = if valid { digits.parse().ok() } else { None };
            let length = length.ok_or("its content-length is no number")?;
            if self.length.is_some_and(|other: u64| other != length) {
                return Err("it declares two lengths");
            }
            self.length = Some(length);
        } else if *name == TRANSFER_ENCODING {
            let last = value.rsplit(',').next().unwrap_or_default();
            self.chunked = Some(last.trim().eq_ignore_ascii_case("chunked"));
        } else {
            let says = |word| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
            self.close |= says("close");
            self.keep_alive |= says("keep-alive");
        }
        Ok(())
    }

    fn framing(&self, bodyless: bool) -> Framing {
        match (bodyless, self.chunked, self.length) {
            (true, _, _) => Framing::Length(0),
            (false, Some(true), _) => Framing::Chunked(Chunk::Size),
            (false, None, Some(length)) => Framing::Length(length),
            (false, Some(false), _) | (false, None, None) => Framing::UntilClose,
        }
    }

    /// Whether the connection stays open after the answer. Where two headers disagree about the body's end, nobody
    /// else's answer must come after it.
    fn lasts(&self, is_1_1: bool) -> bool {
        let persistent = if is_1_1 { !self.close } else { self.keep_alive && !self.close };
        persistent && !(self.chunked.is_some() && self.length.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, to_head: bool) -> Head {
        parse_head(text.as_bytes(), to_head).expect("valid").expect("whole").0
    }

    #[test]
    fn the_framing_follows_the_head() {
        let cases = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Framing::Chunked(Chunk::Size), true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n",
                Framing::Chunked(Chunk::Size),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
                Framing::Chunked(Chunk::Size),
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: Close\r\n\r\n", Framing::Length(5), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), false),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n",
                Framing::Length(5),
                true,
            ),
        ];
        for (text, framing, reusable) in cases {
            let head = parse(text, false);
            assert_eq!((&head.framing, head.reusable), (&framing, reusable), "{text}");
        }
        let head = parse("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true);
        assert_eq!((head.framing, head.length), (Framing::Length(0), Some(5)));
    }

    #[test]
    fn a_contradictory_or_foreign_head_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        ] {
            assert!(parse_head(text.as_bytes(), false).is_err(), "{text}");
        }
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-le", false).expect("so far valid").is_none());
    }

    #[test]
    fn the_client_gets_repeated_headers_and_none_that_is_ours_or_the_hops() {
        let head = parse(
            "HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Type: text/plain\r\nContent-Length: 9\r\nx-empty:\r\n\
             Connection: keep-alive, X-Hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nx-nebula-proxy-error: a\r\n\
             x-nebula-deployment: b\r\n\r\n",
            false,
        );
        let mut kept: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("a text")))
            .collect();
        kept.sort_unstable();
        assert_eq!(kept, [("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2"), ("x-empty", "")]);
        assert_eq!(head.proxy_error, Some(HeaderValue::from_static("a")));
    }
}
