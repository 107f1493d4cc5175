//! How far something that takes long has got: told by whoever does it, shown to people.

use tokio::sync::watch;

/// How far it has got.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// From 0 to 100, if that can be said.
    pub(crate) percent: Option<f32>,
    /// One line for people; empty: nothing is under way.
    pub(crate) message: String,
}

/// Where progress is told. Cheap; only the newest word counts. Cloned handles tell the same place.
#[derive(Clone, Debug)]
pub(crate) struct Reporter(watch::Sender<Progress>);

impl Default for Reporter {
    fn default() -> Self {
        Self(watch::Sender::new(Progress::default()))
    }
}

impl Reporter {
    /// Says how far it is. The same word twice wakes nobody.
    pub(crate) fn say(&self, percent: Option<f32>, message: impl Into<String>) {
        let next = Progress { percent, message: message.into() };
        self.0.send_if_modified(|now| {
            let differs = *now != next;
            *now = next;
            differs
        });
    }

    /// The share of `total` that is done, with a message.
    pub(crate) fn share(&self, done: u64, total: u64, message: impl Into<String>) {
        #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
        let percent = (total > 0).then(|| (done as f32 / total as f32 * 100.0).min(100.0));
        self.say(percent, message);
    }

    /// Nothing is under way any more.
    pub(crate) fn clear(&self) {
        self.say(None, "");
    }

    /// The newest word.
    pub(crate) fn newest(&self) -> Progress {
        self.0.borrow().clone()
    }

    /// For those who follow it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }
}
