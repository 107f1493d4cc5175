//! Watches an event stream pass: where events end, and whether the stream said that it is over.

/// How much of a line is kept to recognise it.
const PREFIX: usize = 32;

/// Follows a stream of server-sent events byte by byte in constant memory. Lines may end with LF, CR or CRLF and may
/// be split anywhere.
pub(crate) struct Tracker {
    prefix: [u8; PREFIX],
    kept: usize,
    line_is_empty: bool,
    /// How long the line that has begun is.
    line_length: usize,
    longest_line: usize,
    after_cr: bool,
    at_boundary: bool,
    done: bool,
    told_error: bool,
}

impl Tracker {
    pub(crate) fn new() -> Self {
        Self {
            prefix: [0; PREFIX],
            kept: 0,
            line_is_empty: true,
            line_length: 0,
            longest_line: 0,
            after_cr: false,
            at_boundary: true,
            done: false,
            told_error: false,
        }
    }

    /// Looks at the next bytes and returns how many of them belong to events that are complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> usize {
        let mut complete = 0;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if std::mem::take(&mut self.after_cr) && rest.starts_with(b"\n") {
                at += 1;
                if self.at_boundary {
                    complete = at;
                }
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', rest);
            let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            self.push(line);
            let Some(end) = end else { break };
            at += end + 1;
            self.after_cr = rest.get(end) == Some(&b'\r');
            self.end_line();
            if self.at_boundary {
                complete = at;
            }
        }
        complete
    }

    /// Whether the stream has said `[DONE]`.
    pub(crate) fn is_done(&self) -> bool {
        self.done || says_done(self.line())
    }

    /// Whether the stream has sent an error event of its own.
    pub(crate) fn told_error(&self) -> bool {
        self.told_error
    }

    /// Whether the line that has begun is the one of an error event.
    pub(crate) fn telling_error(&self) -> bool {
        says_error(self.line())
    }

    /// The longest line so far, in bytes without its end.
    pub(crate) fn longest_line(&self) -> usize {
        self.longest_line
    }

    /// Whether an event has ended, its last line's end included, and none has begun.
    pub(crate) fn is_between_events(&self) -> bool {
        // After a CR the LF may still come.
        self.at_boundary && !self.after_cr
    }

    /// Whether the line before has ended and none has begun.
    pub(crate) fn at_line_start(&self) -> bool {
        self.line_is_empty
    }

    /// What ends the event that has begun: the rest of its line's end and an empty line.
    pub(crate) fn blank_line(&self) -> &'static [u8] {
        // After a CR the first LF would only belong to the same line's end.
        if self.line_is_empty && !self.after_cr { b"\n" } else { b"\n\n" }
    }

    fn line(&self) -> &[u8] {
        self.prefix.get(..self.kept).unwrap_or_default()
    }

    fn push(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        self.line_is_empty = false;
        self.at_boundary = false;
        self.line_length = self.line_length.saturating_add(line.len());
        self.longest_line = self.longest_line.max(self.line_length);
        let room = self.prefix.get_mut(self.kept..).unwrap_or_default();
        for (slot, byte) in room.iter_mut().zip(line) {
            *slot = *byte;
            self.kept += 1;
        }
    }

    fn end_line(&mut self) {
        if self.line_is_empty {
            self.at_boundary = true;
        } else {
            self.done |= says_done(self.line());
            self.told_error |= says_error(self.line());
        }
        self.kept = 0;
        self.line_length = 0;
        self.line_is_empty = true;
    }
}

fn data_of(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(b"data:").map(<[u8]>::trim_ascii_start)
}

fn says_done(line: &[u8]) -> bool {
    data_of(line).is_some_and(|data| data.starts_with(b"[DONE]"))
}

fn says_error(line: &[u8]) -> bool {
    data_of(line)
        .and_then(|data| data.strip_prefix(b"{"))
        .is_some_and(|object| object.trim_ascii_start().starts_with(b"\"error\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_at_blank_lines_of_every_kind() {
        for stream in ["data: a\n\ndata: b\n\n", "data: a\r\n\r\ndata: b\r\n\r\n", "data: a\r\rdata: b\r\r"] {
            for step in 1..=stream.len() {
                let mut tracker = Tracker::new();
                let mut passed = 0;
                let mut fed = 0;
                for piece in stream.as_bytes().chunks(step) {
                    let complete = tracker.feed(piece);
                    if complete > 0 {
                        passed = fed + complete;
                    }
                    fed += piece.len();
                }
                assert_eq!(passed, stream.len(), "{stream:?} step {step}");
                assert!(!tracker.is_done());
            }
        }
    }

    #[test]
    fn an_unfinished_event_is_not_complete() {
        let mut tracker = Tracker::new();
        assert_eq!(tracker.feed(b"data: a\n\ndata: b\n"), 9);
        assert_eq!(tracker.feed(b"data: c"), 0);
        assert_eq!(tracker.feed(b"\n\n: comment\n"), 2);
    }

    #[test]
    fn done_is_recognised_in_every_split_and_nowhere_else() {
        for stream in ["data: [DONE]\n\n", "data:[DONE]\r\n\r\n", "data: {}\n\ndata: [DONE]"] {
            for step in 1..=stream.len() {
                let mut tracker = Tracker::new();
                for piece in stream.as_bytes().chunks(step) {
                    tracker.feed(piece);
                }
                assert!(tracker.is_done(), "{stream:?} step {step}");
            }
        }
        let mut tracker = Tracker::new();
        tracker.feed(b"data: {\"content\":\"data: [DONE]\"}\n\n: data: [DONE]\n\n");
        assert!(!tracker.is_done());
    }

    #[test]
    fn an_error_event_of_the_upstream_is_noticed() {
        let mut tracker = Tracker::new();
        tracker.feed(b"data: {\"choices\":[]}\n\n");
        assert!(!tracker.told_error());
        tracker.feed(b"data: { \"error\": {}}\n\n");
        assert!(tracker.told_error());
    }
}
