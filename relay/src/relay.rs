//! The upstream's body as the body of our response.

mod events;
mod silence;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use self::events::Events;
use self::silence::{Call, Silence};
use crate::error::{Broken, Truncated};
use crate::filter::{Filter, Incoming};
use crate::upstream::{Body, Upstream};

/// A comment, which clients of event streams skip.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

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
    incoming: Incoming,
    size: BodySize,
    /// What goes out is an event stream.
    events: Option<Events>,
    filter: Option<Box<dyn Filter>>,
    silence: Silence,
    broken: fn(Broken) -> Bytes,
    over: bool,
    cut: bool,
    on_end: Option<Box<dyn FnOnce(End)>>,
}

impl RelayBody {
    pub(crate) fn new(upstream: Upstream, idle_timeout: Duration, broken: fn(Broken) -> Bytes) -> Self {
        let incoming = upstream.incoming();
        let events = (incoming == Incoming::Events).then(Events::new);
        let size = match (upstream.size_of_head, upstream.body.length(), &events) {
            (Some(size), _, _) => size,
            (None, Some(length), None) => BodySize::Sized(length),
            _ => BodySize::Stream,
        };
        Self {
            upstream: upstream.body,
            incoming,
            size,
            events,
            filter: None,
            silence: Silence::new(idle_timeout),
            broken,
            over: false,
            cut: false,
            on_end: None,
        }
    }

    /// Lets the body pass through `filter`.
    #[must_use]
    pub fn filtered(mut self, mut filter: Box<dyn Filter>) -> Self {
        if filter.begin(self.incoming) && self.events.is_none() {
            self.events = Some(Events::new());
            self.size = BodySize::Stream;
        }
        self.filter = Some(filter);
        self
    }

    /// Sends a comment each time the client has got nothing for this long, if it gets an event stream and stands
    /// between two events. Zero: never. The upstream's idle timeout goes on meanwhile.
    #[must_use]
    pub fn keepalive(mut self, every: Duration) -> Self {
        self.silence.keep_alive_every(every);
        self
    }

    /// Breaks an event stream with a line longer than this ([`Broken::TooLong`]). Comes after [`Self::filtered`].
    #[must_use]
    pub fn line_limit(mut self, bytes: usize) -> Self {
        if let Some(events) = &mut self.events {
            events.limit_lines(bytes);
        }
        self
    }

    /// Calls `hook` once when the body ends, whichever way. What it owns is held until then.
    #[must_use]
    pub fn on_end(mut self, hook: impl FnOnce(End) + 'static) -> Self {
        self.on_end = Some(Box::new(hook));
        self
    }

    /// Whether the client gets an event stream, be it the upstream's or one that the filter makes.
    #[must_use]
    pub fn events_out(&self) -> bool {
        self.events.is_some()
    }

    fn end(&mut self, end: End) {
        self.over = true;
        if let Some(hook) = self.on_end.take() {
            hook(end);
        }
    }

    /// The filter has made an error event of what came: nothing after it is of use, so the upstream need not go on.
    fn has_failed(&self) -> bool {
        self.incoming != Incoming::Events && self.events.as_ref().is_some_and(Events::told_error)
    }

    /// What goes out for data that has come.
    fn pass(&mut self, data: Bytes) -> Bytes {
        match (&mut self.events, &mut self.filter) {
            (None, None) => data,
            (None, Some(filter)) => filter.pass(data),
            (Some(events), None) => events.pass(data),
            (Some(events), Some(filter)) if self.incoming == Incoming::Events => {
                let whole = events.pass(data);
                if whole.is_empty() { whole } else { filter.pass(whole) }
            }
            (Some(events), Some(filter)) => events.pass(filter.pass(data)),
        }
    }

    /// The last thing the client gets after the upstream has ended (`None`) or broken.
    fn finish(
        &mut self,
        broken: Option<Broken>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Truncated>>> {
        if let Some(events) = &mut self.events {
            let (end, last) = events.last(broken, self.filter.as_deref_mut(), self.broken);
            self.end(end);
            return Poll::Ready((!last.is_empty()).then_some(Ok(last)));
        }
        let Some(broken) = broken else {
            if let Some(filter) = &mut self.filter {
                // Such a body has no end that could be missing.
                let _ = filter.finish();
            }
            self.end(End::Whole);
            return Poll::Ready(None);
        };
        // An error makes the server drop what it has not written yet: let it write first.
        self.end(End::Broken(broken));
        self.cut = true;
        cx.waker().wake_by_ref();
        Poll::Pending
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
            if this.events.as_ref().is_some_and(Events::is_too_long) {
                return this.finish(Some(Broken::TooLong), cx);
            }
            if this.has_failed() {
                return this.finish(Some(Broken::Unfinished), cx);
            }
            match this.upstream.poll_data(cx) {
                Poll::Ready(Ok(Some(data))) => {
                    this.silence.heard();
                    let out = this.pass(data);
                    if !out.is_empty() {
                        this.silence.told();
                        return Poll::Ready(Some(Ok(out)));
                    }
                }
                Poll::Ready(Ok(None)) => return this.finish(None, cx),
                Poll::Ready(Err(_)) => return this.finish(Some(Broken::Upstream), cx),
                Poll::Pending => match ready!(this.silence.poll(cx)) {
                    Call::GiveUp => return this.finish(Some(Broken::Timeout), cx),
                    Call::KeepAlive if this.events.as_ref().is_some_and(Events::takes_comment) => {
                        return Poll::Ready(Some(Ok(Bytes::from_static(KEEP_ALIVE))));
                    }
                    // It would stand within an event.
                    Call::KeepAlive => {}
                },
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
