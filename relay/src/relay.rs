//! The upstream's body as the body of our response.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};
use tokio::time::Sleep;

use crate::error::{Broken, Truncated};
use crate::sse::Tracker;
use crate::upstream::{Body, Upstream};

/// Most bytes of an unfinished event that are held back; a longer event passes in pieces.
const HELD_MAX: usize = 64 * 1024;

/// How a relayed body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is whole.
    Whole,
    /// The upstream broke it.
    Broken(Broken),
    /// The client left before the end.
    Abandoned,
}

/// A response body that reads from the upstream as the client takes it: one read, one write.
///
/// An event stream never ends with an error, which would lose what was written before: it ends in order after the
/// event that says what happened. The part of an event that has arrived is held back until the rest has, so that
/// this last event always stands between events. Any other body that breaks is cut, so that the client sees it.
pub struct RelayBody {
    upstream: Body,
    size: BodySize,
    events: Option<Events>,
    idle_timeout: Duration,
    idle: Option<Pin<Box<Sleep>>>,
    broken: fn(Broken) -> Bytes,
    over: bool,
    cut: bool,
    on_end: Option<Box<dyn FnOnce(End)>>,
}

/// What an event stream needs to be watched.
struct Events {
    tracker: Tracker,
    held: BytesMut,
    /// Part of an event has passed as it was too long to be held.
    torn: bool,
}

impl RelayBody {
    pub(crate) fn new(upstream: Upstream, idle_timeout: Duration, broken: fn(Broken) -> Bytes) -> Self {
        let events = upstream.is_event_stream().then(|| Events {
            tracker: Tracker::new(),
            held: BytesMut::new(),
            torn: false,
        });
        let size = match (upstream.size_of_head, upstream.body.length(), &events) {
            (Some(size), _, _) => size,
            (None, Some(length), None) => BodySize::Sized(length),
            _ => BodySize::Stream,
        };
        Self {
            upstream: upstream.body,
            size,
            events,
            idle_timeout,
            idle: None,
            broken,
            over: false,
            cut: false,
            on_end: None,
        }
    }

    /// Calls `hook` once when the body ends, whichever way. What it owns is held until then.
    #[must_use]
    pub fn on_end(mut self, hook: impl FnOnce(End) + 'static) -> Self {
        self.on_end = Some(Box::new(hook));
        self
    }

    fn end(&mut self, end: End) {
        self.over = true;
        if let Some(hook) = self.on_end.take() {
            hook(end);
        }
    }

    /// The last thing the client gets after the upstream has ended (`None`) or broken.
    fn finish(
        &mut self,
        broken: Option<Broken>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Truncated>>> {
        let last = self.events.as_mut().map(|events| events.last(broken, self.broken));
        match (last, broken) {
            (Some((end, bytes)), _) => {
                self.end(end);
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
            (None, None) => {
                self.end(End::Whole);
                Poll::Ready(None)
            }
            (None, Some(broken)) => {
                // An error makes the server drop what it has not written yet: let it write first.
                self.end(End::Broken(broken));
                self.cut = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout = self.idle_timeout;
        self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout))).as_mut().poll(cx)
    }
}

impl Events {
    /// How the stream ended, and what the client still gets.
    fn last(&mut self, broken: Option<Broken>, event: fn(Broken) -> Bytes) -> (End, Bytes) {
        let held = self.held.split();
        // After `[DONE]` nothing is missing, whichever way the connection went.
        if self.tracker.is_done() {
            return (End::Whole, held.freeze());
        }
        let in_order = broken.is_none();
        let broken = broken.unwrap_or(Broken::Unfinished);
        let told = self.tracker.told_error() || in_order && self.tracker.telling_error();
        let ours = if told { Bytes::new() } else { event(broken) };
        let mut last = BytesMut::new();
        if ours.is_empty() {
            last = held;
            // Clients drop an event that no blank line ends, so the upstream's own error would be lost.
            if told && !last.is_empty() && (in_order || self.tracker.at_line_start()) {
                last.extend_from_slice(self.tracker.blank_line());
            }
        } else if self.torn {
            last.extend_from_slice(b"\n\n");
        } else if !held.is_empty() && self.tracker.at_line_start() {
            last = held;
            last.extend_from_slice(self.tracker.blank_line());
        }
        last.extend_from_slice(&ours);
        (End::Broken(broken), last.freeze())
    }

    /// What may pass of the bytes held so far and these.
    fn pass(&mut self, data: Bytes) -> Bytes {
        let complete = self.tracker.feed(&data);
        if complete == data.len() && self.held.is_empty() {
            self.torn = false;
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
}

impl MessageBody for RelayBody {
    type Error = Truncated;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Truncated>>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.cut) {
            return Poll::Ready(Some(Err(Truncated)));
        }
        while !this.over {
            match this.upstream.poll_data(cx) {
                Poll::Ready(Ok(Some(data))) => {
                    this.idle = None;
                    let out = match &mut this.events {
                        Some(events) => events.pass(data),
                        None => data,
                    };
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(out)));
                    }
                }
                Poll::Ready(Ok(None)) => return this.finish(None, cx),
                Poll::Ready(Err(_)) => return this.finish(Some(Broken::Upstream), cx),
                Poll::Pending if this.poll_idle(cx).is_ready() => {
                    return this.finish(Some(Broken::Timeout), cx);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for RelayBody {
    fn drop(&mut self) {
        if !self.over {
            self.end(End::Abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Events {
        Events { tracker: Tracker::new(), held: BytesMut::new(), torn: false }
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
        assert_eq!(events.last(None, event), (End::Broken(Broken::Unfinished), "<Unfinished>".into()));
    }

    #[test]
    fn an_event_too_long_to_be_held_passes_in_pieces_and_is_closed_before_the_last() {
        let mut events = events();
        let long = format!("data: a\n\ndata: {}", "x".repeat(HELD_MAX));
        assert_eq!(events.pass(long.clone().into()), long);
        assert_eq!(events.pass("yy".into()), "yy");
        assert_eq!(events.last(Some(Broken::Upstream), event).1, "\n\n<Upstream>");
        assert_eq!(events.pass("\n\ndata: b".into()), "\n\n");
        assert_eq!(events.last(Some(Broken::Upstream), event).1, "<Upstream>");
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
            assert_eq!(events.last(Some(Broken::Upstream), event).1, last, "{arrived:?}");
        }
    }

    #[test]
    fn what_is_held_passes_when_nothing_of_ours_follows() {
        let mut events = events();
        assert_eq!(events.pass("data: a\n\ndata: b".into()), "data: a\n\n");
        assert_eq!(events.last(None, |_| Bytes::new()).1, "data: b");
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
            assert_eq!(events.last(broken, event).1, last, "{arrived:?}");
        }
    }

    #[test]
    fn what_follows_done_passes_even_unfinished() {
        let mut events = events();
        assert_eq!(events.pass("data: [DONE]\n".into()), "");
        assert_eq!(events.last(Some(Broken::Upstream), event), (End::Whole, "data: [DONE]\n".into()));
    }
}
