//! Waiting for the requests in flight of a runtime that is to end.

use super::{News, Task};
use crate::replica::machine::Event;

impl Task {
    /// Tells when the last request is over, and meanwhile how many there are.
    pub(super) fn drain(&mut self, attempt: u32) {
        self.abort_drain();
        let (gate, reporter) = (self.gate.clone(), self.reporter.clone());
        self.drainer = Some(self.tell(async move {
            gate.emptied(|inflight| reporter.say(None, waits_for(inflight))).await;
            News::Event(Event::Drained { attempt })
        }));
    }

    pub(super) fn abort_drain(&mut self) {
        if let Some(drainer) = self.drainer.take() {
            drainer.abort();
        }
    }
}

/// What it waits for, for people.
fn waits_for(inflight: u32) -> String {
    let plural = if inflight == 1 { "" } else { "s" };
    format!("waits for {inflight} request{plural}")
}
