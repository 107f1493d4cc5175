//! Bodies that take their time: a thin shell that waits and writes what [`Playback`] says.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use nebula_core::clock::wall_micros;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::playback::{Beat, Playback};
use super::stats::Ticket;

/// Before a connection breaks, what was written goes out.
const BREAK_PAUSE: Duration = Duration::from_millis(5);

/// Tells the server to break the connection.
#[derive(Debug)]
pub(crate) struct SimulatedBreak;

impl fmt::Display for SimulatedBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated failure: die-mid-stream")
    }
}

impl std::error::Error for SimulatedBreak {}

/// Each chunk when its time has come; with `stamp` events say when that was. Dropped before its end, the request counts as cancelled.
pub(crate) fn paced(
    playback: Playback,
    token_interval: Duration,
    ticket: Ticket,
    stamp: bool,
) -> impl Stream<Item = Result<Bytes, SimulatedBreak>> {
    let live = Live { stamp, playback, ticks: Ticks { token_interval, running: None }, ticket: Some(ticket) };
    stream::unfold(live, |mut live| async { live.next().await.map(|chunk| (chunk, live)) })
}

/// The first half of an answer, then a break.
pub(crate) fn broken(half: Bytes, ticket: Ticket) -> impl Stream<Item = Result<Bytes, SimulatedBreak>> {
    stream::unfold((Some(half), Some(ticket)), |(half, ticket)| async {
        if half.is_some() {
            return half.map(|half| (Ok(half), (None, ticket)));
        }
        let ticket = ticket?;
        sleep(BREAK_PAUSE).await;
        ticket.fail();
        Some((Err(SimulatedBreak), (None, None)))
    })
}

struct Live {
    stamp: bool,
    playback: Playback,
    ticks: Ticks,
    ticket: Option<Ticket>,
}

impl Live {
    async fn next(&mut self) -> Option<Result<Bytes, SimulatedBreak>> {
        loop {
            match self.playback.next() {
                Some(Beat::Send(chunk)) => return Some(Ok(self.stamped(chunk))),
                Some(Beat::Token { first, chunk }) => {
                    self.ticks.wait(first).await;
                    if let Some(ticket) = &self.ticket {
                        ticket.token();
                    }
                    if let Some(chunk) = chunk {
                        return Some(Ok(self.stamped(chunk)));
                    }
                }
                Some(Beat::Break) => {
                    sleep(BREAK_PAUSE).await;
                    self.ticket.take().into_iter().for_each(Ticket::fail);
                    return Some(Err(SimulatedBreak));
                }
                None => {
                    self.ticket.take().into_iter().for_each(Ticket::finish);
                    return None;
                }
            }
        }
    }
}

impl Live {
    fn stamped(&self, event: Bytes) -> Bytes {
        if self.stamp { stamped(event, wall_micros()) } else { event }
    }
}

/// An event with an object as data, that says first when it was sent; others stay as they are.
fn stamped(event: Bytes, micros: u64) -> Bytes {
    const OBJECT: &[u8] = b"data: {";
    match event.strip_prefix(OBJECT) {
        Some(rest) => [OBJECT, format!("\"sim_sent_us\":{micros},").as_bytes(), rest].concat().into(),
        None => event,
    }
}

/// The beat of the tokens: steady, but never faster than one interval after a stall.
struct Ticks {
    token_interval: Duration,
    running: Option<Interval>,
}

impl Ticks {
    async fn wait(&mut self, first: bool) {
        if self.token_interval.is_zero() {
            return;
        }
        if first {
            let mut ticks = interval(self.token_interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick of an interval is at once.
            ticks.tick().await;
            self.running = Some(ticks);
        } else if let Some(ticks) = &mut self.running {
            ticks.tick().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_are_stamped() {
        let stamp = |event: &'static str| stamped(Bytes::from_static(event.as_bytes()), 42);
        assert_eq!(stamp("data: {\"id\":1}\n\n"), "data: {\"sim_sent_us\":42,\"id\":1}\n\n");
        assert_eq!(stamp("data: [DONE]\n\n"), "data: [DONE]\n\n");
    }
}
