//! Waiting for an upstream's next bytes: when it has been silent for too long, and when to tell the client that we are
//! still there.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nebula_core::clock::{Clock, Tick};
use tokio::time::Sleep;

/// What a silence calls for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Give up.
    GiveUp,
    /// Tell the client that we are still there.
    KeepAlive,
}

/// The silence of an upstream, and ours towards the client. Each is counted from where we began to wait, as a client
/// that reads slowly keeps us from listening.
pub(super) struct Silence {
    clock: Clock,
    give_up_after: Duration,
    keepalive: Option<Duration>,
    /// Since when the upstream has been silent; nothing when it has just been heard.
    heard: Option<Tick>,
    /// Since when the client has got nothing.
    told: Option<Tick>,
    /// Never set for later than what comes first, and left alone when that moves on: most events come long before.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    pub(super) fn new(give_up_after: Duration) -> Self {
        Self { clock: Clock::start(), give_up_after, keepalive: None, heard: None, told: None, timer: None }
    }

    /// To be called before the first wait; zero means never.
    pub(super) fn keep_alive_every(&mut self, every: Duration) {
        self.keepalive = (!every.is_zero()).then_some(every);
    }

    /// The upstream has sent something.
    pub(super) fn heard(&mut self) {
        self.heard = None;
    }

    /// The client has got something.
    pub(super) fn told(&mut self) {
        self.told = None;
    }

    /// Ready when the silence calls for something.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Call> {
        loop {
            let now = self.clock.now();
            let give_up = self.heard.get_or_insert(now).plus(self.give_up_after);
            let told = *self.told.get_or_insert(now);
            if now >= give_up {
                return Poll::Ready(Call::GiveUp);
            }
            let speak = self.keepalive.map(|every| told.plus(every));
            if speak.is_some_and(|speak| now >= speak) {
                self.told = Some(now);
                return Poll::Ready(Call::KeepAlive);
            }
            let wait = speak.unwrap_or(give_up).min(give_up).since(now);
            let timer = match &mut self.timer {
                Some(timer) => timer,
                none => none.insert(Box::pin(tokio::time::sleep(wait))),
            };
            if timer.is_elapsed() {
                timer.set(tokio::time::sleep(wait));
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn next(silence: &mut Silence) -> (u64, Call) {
        let call = poll_fn(|cx| silence.poll(cx)).await;
        (silence.clock.now().0 / 1_000, call)
    }

    /// Lets `time` pass while the body waits.
    async fn wait(silence: &mut Silence, time: Duration) {
        let waited = tokio::time::timeout(time, poll_fn(|cx| silence.poll(cx))).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn keepalives_come_in_a_silence_and_do_not_lengthen_it() {
        let mut silence = Silence::new(10 * SECOND);
        silence.keep_alive_every(4 * SECOND);
        wait(&mut silence, 3 * SECOND).await;
        silence.heard();
        silence.told();
        assert_eq!(next(&mut silence).await, (7, Call::KeepAlive));
        assert_eq!(next(&mut silence).await, (11, Call::KeepAlive));
        assert_eq!(next(&mut silence).await, (13, Call::GiveUp));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_client_does_not_get_is_no_sign_of_life_to_it() {
        let mut silence = Silence::new(10 * SECOND);
        silence.keep_alive_every(4 * SECOND);
        wait(&mut silence, 3 * SECOND).await;
        silence.heard();
        assert_eq!(next(&mut silence).await, (4, Call::KeepAlive));
        assert_eq!(next(&mut silence).await, (8, Call::KeepAlive));
        assert_eq!(next(&mut silence).await, (12, Call::KeepAlive));
        assert_eq!(next(&mut silence).await, (13, Call::GiveUp));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_never_and_time_without_waiting_does_not_count() {
        let mut silence = Silence::new(10 * SECOND);
        silence.keep_alive_every(Duration::ZERO);
        wait(&mut silence, 9 * SECOND).await;
        silence.heard();
        silence.told();
        tokio::time::advance(60 * SECOND).await;
        assert_eq!(next(&mut silence).await, (79, Call::GiveUp));
    }
}
