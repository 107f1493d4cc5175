//! One HTTP answer, read as its bytes come.

use super::chunked::Chunked;
use super::failure::Failure;

/// The longest head of an answer, in bytes.
const HEAD_MAX: usize = 64 << 10;
/// Most headers of an answer.
const HEADERS_MAX: usize = 100;

/// How the body ends.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Chunked),
    /// With the connection.
    Close,
}

#[derive(Debug)]
enum State {
    /// What has come of the head, if it did not come at once.
    Head(Vec<u8>),
    Body(Body),
    Over,
}

/// Reads one answer.
#[derive(Debug)]
pub(crate) struct Answer {
    state: State,
    /// 0 before the head has come.
    pub(crate) status: u16,
    /// Whether the body is a stream of events.
    pub(crate) events: bool,
    /// Whether the connection can be used again.
    pub(crate) keep: bool,
}

/// What the head says.
struct Head {
    length: usize,
    status: u16,
    events: bool,
    keep: bool,
    body: Body,
}

impl Answer {
    pub(crate) fn new() -> Self {
        Self { state: State::Head(Vec::new()), status: 0, events: false, keep: true }
    }

    /// Takes bytes as they come and hands out the body's, with whether they are of a stream. Whether the answer is
    /// complete; bytes after its end are an error.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(bool, &[u8]) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let State::Head(before) = &mut self.state else { return self.feed_body(bytes, data) };
        if !before.is_empty() {
            before.extend_from_slice(bytes);
            let joined = std::mem::take(before);
            return self.feed_head(&joined, &mut data);
        }
        self.feed_head(bytes, &mut data)
    }

    /// The connection ended. Whether the answer is complete by that.
    pub(crate) fn closed(&mut self) -> bool {
        let complete = matches!(self.state, State::Over | State::Body(Body::Close));
        self.state = State::Over;
        complete
    }

    fn feed_head(
        &mut self,
        mut bytes: &[u8],
        data: &mut impl FnMut(bool, &[u8]) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        loop {
            let Some(head) = read_head(bytes)? else {
                if bytes.len() > HEAD_MAX {
                    return Err(Failure::Malformed);
                }
                self.state = State::Head(bytes.to_vec());
                return Ok(false);
            };
            bytes = bytes.get(head.length..).unwrap_or_default();
            // "100 Continue" and the like come before the answer.
            if head.status >= 200 {
                (self.status, self.events, self.keep) = (head.status, head.events, head.keep);
                self.state = State::Body(head.body);
                return self.feed_body(bytes, data);
            }
        }
    }

    fn feed_body(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(bool, &[u8]) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let events = self.events;
        let State::Body(body) = &mut self.state else { return Err(Failure::Malformed) };
        let rest = match body {
            Body::Close => {
                data(events, bytes)?;
                None
            }
            Body::Length(left) => {
                let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                let (body, rest) = bytes.split_at(now);
                data(events, body)?;
                *left -= now as u64;
                (*left == 0).then_some(rest)
            }
            Body::Chunked(chunked) => chunked.feed(bytes, |bytes| data(events, bytes))?,
        };
        match rest {
            None => Ok(false),
            Some([]) => {
                self.state = State::Over;
                Ok(true)
            }
            Some(_) => Err(Failure::Malformed),
        }
    }
}

/// None: there is more to come.
fn read_head(bytes: &[u8]) -> Result<Option<Head>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(|_| Failure::Malformed)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.unwrap_or_default();
    let mut head =
        Head { length, status, events: false, keep: response.version == Some(1), body: Body::Close };
    for header in response.headers.iter() {
        let has = |word: &[u8]| memchr::memmem::find(&header.value.to_ascii_lowercase(), word).is_some();
        if header.name.eq_ignore_ascii_case("content-length") && !matches!(head.body, Body::Chunked(_)) {
            let text = std::str::from_utf8(header.value).unwrap_or_default().trim();
            head.body = Body::Length(text.parse().map_err(|_| Failure::Malformed)?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") && has(b"chunked") {
            head.body = Body::Chunked(Chunked::new());
        } else if header.name.eq_ignore_ascii_case("connection") && has(b"close") {
            head.keep = false;
        } else if header.name.eq_ignore_ascii_case("content-type") {
            head.events = has(b"text/event-stream");
        }
    }
    if matches!(status, 204 | 304) {
        head.body = Body::Length(0);
    }
    head.keep &= !matches!(head.body, Body::Close);
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&[u8]]) -> Result<(Answer, Vec<u8>, bool), Failure> {
        let (mut answer, mut body, mut over) = (Answer::new(), Vec::new(), false);
        for part in parts {
            over = answer.feed(part, |_, data| {
                body.extend_from_slice(data);
                Ok(())
            })?;
        }
        Ok((answer, body, over))
    }

    #[test]
    fn answers_are_read_wherever_they_are_cut() {
        for whole in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ] {
            for cut in 0..=whole.len() {
                let (one, two) = whole.split_at(cut);
                let parts: Vec<&[u8]> = [one, two].into_iter().filter(|part| !part.is_empty()).collect();
                let (answer, body, over) = read(&parts).expect("an answer");
                assert_eq!((answer.status, answer.keep, body.as_slice(), over), (200, true, &b"hello"[..], true));
            }
        }
    }

    #[test]
    fn the_head_says_what_comes_and_whether_the_connection_stays() {
        let (answer, _, over) =
            read(&[b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: Close\r\nTransfer-Encoding: chunked\r\n\r\n"])
                .expect("a head");
        assert!(answer.events && !answer.keep && !over);
        let (mut answer, body, over) = read(&[b"HTTP/1.0 200 OK\r\n\r\nabc"]).expect("a head");
        assert_eq!((body.as_slice(), over, answer.keep, answer.closed()), (&b"abc"[..], false, false, true));
        let (mut short, _, _) = read(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"]).expect("a head");
        assert!(!short.closed(), "one byte is missing");
    }

    #[test]
    fn what_is_no_answer_or_more_than_one_is_malformed() {
        for bytes in [
            &b"hello\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        ] {
            assert_eq!(read(&[bytes]).err(), Some(Failure::Malformed));
        }
    }
}
