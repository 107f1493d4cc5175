//! A turn: the time an actor spends on one message, timer or future. Whoever looks from outside sees which it is and
//! since when; if the actor falls in it, that is what it fell over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nebula_core::clock::{Clock, Tick, WallTime};
use tokio::sync::Notify;

use super::cell::Cell;
use crate::actors::traced::Subject;
use crate::domain::poison::{KILLS_MAX, Poison};

/// How many different messages are remembered for having made an actor fall.
const SUSPECTS_MAX: usize = 8;

/// What begins a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A message is handled.
    Message,
    /// A timer has come.
    Timer,
    /// An attached future has ended.
    Future,
}

/// What an actor is at.
#[derive(Clone, Debug)]
pub(super) struct Handling {
    pub(super) what: &'static str,
    pub(super) fingerprint: Option<u64>,
    pub(super) text: Option<String>,
    pub(super) since: Tick,
}

/// Ends when it is dropped.
pub(crate) struct Turn(pub(super) Arc<Cell>);

impl Drop for Turn {
    fn drop(&mut self) {
        // What an actor falls over stays, for its death watch.
        if !std::thread::panicking() {
            self.0.end_turn();
        }
    }
}

/// The messages on their way to one incarnation.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waiting: AtomicUsize,
    /// When one was taken last, or began to wait where none had.
    moved: AtomicU64,
    /// Told whenever one is taken, for those who wait for room.
    room: Notify,
}

impl Mailbox {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Waits until a message has been taken since this was called last, by anybody.
    pub(super) async fn taken(&self) {
        self.room.notified().await;
    }

    pub(super) fn moved(&self) -> Tick {
        Tick(self.moved.load(Ordering::Acquire))
    }
}

/// A message's place in the mailbox, given back when it is taken or the mailbox is gone.
#[derive(Debug)]
pub(crate) struct Ticket {
    mailbox: Arc<Mailbox>,
    clock: Clock,
}

impl Ticket {
    pub(super) fn take(mailbox: Arc<Mailbox>, clock: Clock) -> Self {
        if mailbox.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            mailbox.moved.store(clock.now().0, Ordering::Release);
        }
        Self { mailbox, clock }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.mailbox.waiting.fetch_sub(1, Ordering::AcqRel);
        self.mailbox.moved.store(self.clock.now().0, Ordering::Release);
        self.mailbox.room.notify_one();
    }
}

/// An actor that does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// What it is at: a message's type, or its mailbox.
    pub what: &'static str,
    /// It is inside a handler, and not merely behind somebody who is.
    pub inside: bool,
    /// For how long.
    pub lasts: Duration,
}

/// The messages over which an actor has fallen, not often enough yet to be set aside. Oldest first, bounded.
#[derive(Debug, Default)]
pub(super) struct Suspects(Vec<Poison>);

impl Suspects {
    pub(super) fn knows(&self, fingerprint: u64) -> bool {
        self.0.iter().any(|suspect| suspect.fingerprint == fingerprint)
    }

    /// One more fall. Answers the message when it was one too many.
    pub(super) fn count(&mut self, path: &str, fallen: &Handling, now: WallTime) -> Option<Poison> {
        let fingerprint = fallen.fingerprint?;
        let at = self.0.iter().position(|suspect| suspect.fingerprint == fingerprint);
        let mut suspect = at.map(|at| self.0.remove(at)).unwrap_or_else(|| Poison {
            path: path.to_owned(),
            message: fallen.what.to_owned(),
            fingerprint,
            text: String::new(),
            kills: 0,
            first_at: now,
            last_at: now,
        });
        suspect.kills += 1;
        suspect.last_at = now;
        suspect.text = fallen.text.clone().unwrap_or(suspect.text);
        if suspect.kills >= KILLS_MAX {
            return Some(suspect);
        }
        if self.0.len() >= SUSPECTS_MAX {
            self.0.remove(0);
        }
        self.0.push(suspect);
        None
    }

    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

impl Cell {
    /// A message's turn.
    pub(crate) fn message_turn(self: &Arc<Self>, subject: Subject, text: Option<String>) -> Turn {
        self.begin_turn(Kind::Message, subject.message, subject.fingerprint, text)
    }

    /// A timer's turn.
    pub(crate) fn timer_turn(self: &Arc<Self>, what: &'static str) -> Turn {
        self.begin_turn(Kind::Timer, what, None, None)
    }

    /// The turn of an attached future that has ended.
    pub(crate) fn future_turn(self: &Arc<Self>, what: &'static str) -> Turn {
        self.begin_turn(Kind::Future, what, None, None)
    }

    fn begin_turn(
        self: &Arc<Self>,
        kind: Kind,
        what: &'static str,
        fingerprint: Option<u64>,
        text: Option<String>,
    ) -> Turn {
        self.set_handling(Some(Handling { what, fingerprint, text, since: self.clock().now() }));
        let turn = Turn(self.clone());
        self.at_failpoint(kind);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fallen(fingerprint: u64) -> Handling {
        Handling { what: "M", fingerprint: Some(fingerprint), text: None, since: Tick(0) }
    }

    #[test]
    fn the_third_fall_over_the_same_message_is_one_too_many() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.count("/a", &fallen(1), WallTime(1)), None);
        assert_eq!(suspects.count("/a", &fallen(2), WallTime(2)), None);
        assert!(suspects.knows(1) && !suspects.knows(3));
        let told = Handling { text: Some("words".to_owned()), ..fallen(1) };
        assert_eq!(suspects.count("/a", &told, WallTime(3)), None);
        let poison = suspects.count("/a", &fallen(1), WallTime(4)).expect("set aside");
        assert_eq!((poison.kills, poison.first_at, poison.last_at), (3, WallTime(1), WallTime(4)));
        assert_eq!(poison.text, "words");
        assert!(!suspects.knows(1));
        let in_a_timer = Handling { fingerprint: None, ..fallen(1) };
        assert_eq!(suspects.count("/a", &in_a_timer, WallTime(5)), None);
    }

    #[test]
    fn few_suspects_are_remembered() {
        let mut suspects = Suspects::default();
        for n in 0..=SUSPECTS_MAX as u64 {
            assert_eq!(suspects.count("/a", &fallen(n), WallTime(n)), None);
        }
        assert!(!suspects.knows(0) && suspects.knows(1));
    }
}
