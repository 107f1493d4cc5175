//! The events in a piece of an event stream.

use std::ops::Range;

/// One event, or the part of one that the piece has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    /// Where it stands in the piece, with the blank line that ends it.
    pub(super) at: Range<usize>,
    /// What its `event:` line says.
    pub(super) name: Option<&'a [u8]>,
    /// What its first `data:` line says.
    pub(super) data: Option<&'a [u8]>,
    /// The blank line is there.
    pub(super) is_whole: bool,
}

/// The events of a piece in order. Lines end with LF, CR or CRLF.
pub(super) struct Events<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Events<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next line without its end, and whether it has one.
    fn line(&mut self) -> (&'a [u8], bool) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = memchr::memchr2(b'\n', b'\r', rest);
        let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        let after = rest.get(line.len()..).unwrap_or_default();
        self.at += line.len() + if after.starts_with(b"\r\n") { 2 } else { usize::from(end.is_some()) };
        (line, end.is_some())
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let start = self.at;
        let (mut name, mut data) = (None, None);
        while self.at < self.bytes.len() {
            let (line, ended) = self.line();
            if line.is_empty() && ended {
                return Some(Event { at: start..self.at, name, data, is_whole: true });
            }
            if let Some(value) = line.strip_prefix(b"data:") {
                data = data.or(Some(value.trim_ascii()));
            } else if let Some(value) = line.strip_prefix(b"event:") {
                name = name.or(Some(value.trim_ascii()));
            }
        }
        (start < self.at).then_some(Event { at: start..self.at, name, data, is_whole: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_at_blank_lines_of_every_kind() {
        for end in ["\n", "\r\n", "\r"] {
            let text =
                ["event: a", "data: 1", "", ": note", "", "", "data:2", "data:3", "", "data: 4"].join(end);
            let found: Vec<_> = Events::new(text.as_bytes()).collect();
            let told: Vec<_> = found.iter().map(|event| (event.name, event.data, event.is_whole)).collect();
            assert_eq!(
                told,
                [
                    (Some(&b"a"[..]), Some(&b"1"[..]), true),
                    (None, None, true),
                    (None, None, true),
                    (None, Some(&b"2"[..]), true),
                    (None, Some(&b"4"[..]), false),
                ],
                "{text:?}"
            );
            let joined: Vec<u8> =
                found.iter().flat_map(|event| text.as_bytes()[event.at.clone()].to_vec()).collect();
            assert_eq!(joined, text.as_bytes());
        }
        assert_eq!(Events::new(b"").next(), None);
    }
}
