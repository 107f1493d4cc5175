//! An event stream on its way to the client: whole events only, so that one of ours can always follow.

use bytes::{Bytes, BytesMut};

use super::End;
use crate::error::Broken;
use crate::filter::{Filter, Unfinished};
use crate::sse::Tracker;

/// Most bytes of an unfinished event that are held back; a longer event passes in pieces.
const HELD_MAX: usize = 64 * 1024;

/// What an event stream needs to be watched.
pub(super) struct Events {
    tracker: Tracker,
    held: BytesMut,
    /// Part of an event has passed as it was too long to be held.
    torn: bool,
    line_limit: usize,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { tracker: Tracker::new(), held: BytesMut::new(), torn: false, line_limit: usize::MAX }
    }

    pub(super) fn limit_lines(&mut self, bytes: usize) {
        self.line_limit = bytes;
    }

    /// A line has become longer than it may be.
    pub(super) fn is_too_long(&self) -> bool {
        self.tracker.longest_line() > self.line_limit
    }

    /// An error event has passed.
    pub(super) fn told_error(&self) -> bool {
        self.tracker.told_error()
    }

    /// Whether a comment may stand where the client's stream is now: between two events, and not after the last.
    pub(super) fn takes_comment(&self) -> bool {
        self.held.is_empty() && !self.torn && self.tracker.is_between_events() && !self.tracker.is_done()
    }

    /// What may pass of the bytes held so far and these.
    pub(super) fn pass(&mut self, data: Bytes) -> Bytes {
        let complete = self.tracker.feed(&data);
        if complete == data.len() && self.held.is_empty() {
            self.torn &= data.is_empty();
            return data;
        }
        let mut data = data;
        let unfinished = data.split_off(complete);
        let mut out = Bytes::new();
        if complete > 0 {
            self.torn = false;
            out = if self.held.is_empty() {
                data
            } else {
                self.held.extend_from_slice(&data);
                self.held.split().freeze()
            };
        }
        self.held.extend_from_slice(&unfinished);
        if self.torn || self.held.len() > HELD_MAX {
            self.torn = true;
            let mut all = BytesMut::from(out);
            all.extend_from_slice(&self.held.split());
            out = all.freeze();
        }
        out
    }

    /// How the stream ended, and what the client still gets: `broken` says what ended it, nothing that its last byte
    /// came in order; `event` gives the event that tells the client.
    pub(super) fn last(
        &mut self,
        broken: Option<Broken>,
        filter: Option<&mut (dyn Filter + 'static)>,
        event: fn(Broken) -> Bytes,
    ) -> (End, Bytes) {
        let mut last = BytesMut::from(self.held.split().freeze());
        let verdict = match (filter, broken) {
            (Some(filter), broken) => {
                if !last.is_empty() {
                    last = BytesMut::from(filter.pass(last.freeze()));
                }
                if broken.is_none() { filter.finish() } else { Err(Unfinished { told: false }) }
            }
            (None, None) if self.tracker.is_done() => Ok(Bytes::new()),
            (None, _) => Err(Unfinished { told: false }),
        };
        let told = match verdict {
            Ok(rest) => {
                last.extend_from_slice(&rest);
                return (End::Whole, last.freeze());
            }
            // After `[DONE]` nothing is missing, whichever way the connection went.
            Err(_) if self.tracker.is_done() => return (End::Whole, last.freeze()),
            Err(Unfinished { told }) => told,
        };
        let in_order = broken.is_none();
        let broken = broken.unwrap_or(Broken::Unfinished);
        let told = told || self.tracker.told_error() || in_order && self.tracker.telling_error();
        let ours = if told { Bytes::new() } else { event(broken) };
        if ours.is_empty() {
            // Clients drop an event that no blank line ends, so the upstream's own error would be lost.
            if told && !last.is_empty() && (in_order || self.tracker.at_line_start()) {
                last.extend_from_slice(self.tracker.blank_line());
            }
        } else if self.torn {
            last.clear();
            last.extend_from_slice(b"\n\n");
        } else if !last.is_empty() && self.tracker.at_line_start() {
            last.extend_from_slice(self.tracker.blank_line());
        } else {
            last.clear();
        }
        last.extend_from_slice(&ours);
        (End::Broken(broken), last.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Events {
        Events::new()
    }

    fn event(broken: Broken) -> Bytes {
        format!("<{broken:?}>").into()
    }

    #[test]
    fn an_unfinished_event_waits_for_its_rest() {
        let mut events = events();
        assert_eq!(events.pass("data: a\n\nda".into()), "data: a\n\n");
        assert_eq!(events.pass("ta: b".into()), "");
        assert_eq!(events.pass("\n\ndata: c".into()), "data: b\n\n");
        assert_eq!(events.last(None, None, event), (End::Broken(Broken::Unfinished), "<Unfinished>".into()));
    }

    #[test]
    fn an_event_too_long_to_be_held_passes_in_pieces_and_is_closed_before_the_last() {
        let mut events = events();
        let long = format!("data: a\n\ndata: {}", "x".repeat(HELD_MAX));
        assert_eq!(events.pass(long.clone().into()), long);
        assert_eq!(events.pass("yy".into()), "yy");
        assert_eq!(events.last(Some(Broken::Upstream), None, event).1, "\n\n<Upstream>");
        assert_eq!(events.pass("\n\ndata: b".into()), "\n\n");
        assert_eq!(events.last(Some(Broken::Upstream), None, event).1, "<Upstream>");
    }

    #[test]
    fn an_event_without_its_blank_line_is_completed_before_ours_if_its_lines_are_whole() {
        for (arrived, last) in [
            ("data: a\n\ndata: b\n", "data: b\n\n<Upstream>"),
            ("data: a\r\n\r\ndata: b\r\n", "data: b\r\n\n<Upstream>"),
            ("data: a\r\rdata: b\r", "data: b\r\n\n<Upstream>"),
            ("data: a\n\nevent: x\ndata: {\"b", "<Upstream>"),
            ("data: a\n\ndata: {\"error\":{\"mess", "<Upstream>"),
        ] {
            let mut events = events();
            events.pass(arrived.into());
            assert_eq!(events.last(Some(Broken::Upstream), None, event).1, last, "{arrived:?}");
        }
    }

    #[test]
    fn what_is_held_passes_when_nothing_of_ours_follows() {
        let mut events = events();
        assert_eq!(events.pass("data: a\n\ndata: b".into()), "data: a\n\n");
        assert_eq!(events.last(None, None, |_| Bytes::new()).1, "data: b");
    }

    #[test]
    fn an_error_event_of_the_upstream_without_its_blank_line_is_not_lost() {
        for (arrived, broken, last) in [
            ("data: {\"error\":1}\n", Some(Broken::Upstream), "data: {\"error\":1}\n\n"),
            ("data: {\"error\":1}\r\n", None, "data: {\"error\":1}\r\n\n"),
            ("data: {\"error\":1}", None, "data: {\"error\":1}\n\n"),
            ("data: {\"error\":1}\n\ndata: b", Some(Broken::Upstream), "data: b"),
        ] {
            let mut events = events();
            events.pass(arrived.into());
            assert_eq!(events.last(broken, None, event).1, last, "{arrived:?}");
        }
    }

    #[test]
    fn a_comment_may_stand_only_between_events() {
        for (arrived, may) in [
            ("", true),
            ("data: a\n\n", true),
            ("data: a\r\n\r\n", true),
            ("data: a\r\n\r", false),
            ("data: a\r\r", false),
            ("data: a\n", false),
            ("data: a\n\nd", false),
            (": a\n", false),
            ("data: a\n\ndata: [DONE]\n\n", false),
        ] {
            let mut events = events();
            events.pass(arrived.into());
            assert_eq!(events.takes_comment(), may, "{arrived:?}");
        }
        let mut events = events();
        events.pass(format!("data: {}", "x".repeat(HELD_MAX)).into());
        assert!(!events.takes_comment());
        events.pass("\n\n".into());
        assert!(events.takes_comment());
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let line = format!("data: {}", "x".repeat(94));
        for (stream, too_long) in [
            (format!("{line}\n\n{line}\r\n\n{line}"), false),
            (format!("data: a\n\n{line}y\n\ndata: b\n\n"), true),
        ] {
            for step in [1, 7, 1_000] {
                let mut events = events();
                events.limit_lines(100);
                for piece in stream.as_bytes().chunks(step) {
                    events.pass(Bytes::copy_from_slice(piece));
                }
                assert_eq!(events.is_too_long(), too_long, "{stream} {step}");
            }
        }
    }

    #[test]
    fn what_follows_done_passes_even_unfinished() {
        let mut events = events();
        assert_eq!(events.pass("data: [DONE]\n".into()), "");
        assert_eq!(events.last(Some(Broken::Upstream), None, event), (End::Whole, "data: [DONE]\n".into()));
    }
}
