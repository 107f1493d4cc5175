//! The gate before one replica: whether requests may pass, and how many that did are not over.
//!
//! Both are one thing, so that no request slips in between the gate is shut and the last one is counted.

use std::sync::Arc;

use tokio::sync::watch;

/// The gate before one replica. Cloned handles are the same gate.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<watch::Sender<State>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    open: bool,
    inflight: u32,
}

/// Shut, and nobody is inside.
impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }
}

impl Gate {
    /// Lets requests pass from now on, or none; those that have passed are not touched.
    pub(crate) fn set(&self, open: bool) {
        self.0.send_if_modified(|state| std::mem::replace(&mut state.open, open) != open);
    }

    /// Whether requests may pass.
    pub(super) fn is_open(&self) -> bool {
        self.0.borrow().open
    }

    /// One request passes, until the pass is dropped. None: the gate is shut.
    pub(super) fn pass(&self) -> Option<Pass> {
        let mut passed = false;
        self.0.send_if_modified(|state| {
            passed = state.open;
            state.inflight += u32::from(passed);
            false
        });
        passed.then(|| Pass(self.clone()))
    }

    /// How many requests are in flight.
    pub(crate) fn inflight(&self) -> u32 {
        self.0.borrow().inflight
    }

    /// Waits until no request is in flight; tells how many there are now and whenever one is over. Of use while the
    /// gate is shut: while it is open nobody is told.
    pub(crate) async fn emptied(&self, tell: impl Fn(u32)) {
        let mut news = self.0.subscribe();
        loop {
            let inflight = news.borrow_and_update().inflight;
            if inflight == 0 {
                return;
            }
            tell(inflight);
            if news.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A request that has passed a gate.
#[derive(Debug)]
pub(super) struct Pass(Gate);

impl Drop for Pass {
    fn drop(&mut self) {
        // While the gate is open nobody waits for it.
        self.0.0.send_if_modified(|state| {
            state.inflight = state.inflight.saturating_sub(1);
            !state.open
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_gate_counts_who_passed_and_tells_when_the_last_one_left() {
        let gate = Gate::default();
        assert!(!gate.is_open() && gate.pass().is_none(), "shut at first");
        gate.set(true);
        let (one, two) = (gate.pass().expect("open"), gate.pass().expect("open"));
        gate.set(false);
        assert!(gate.pass().is_none());
        assert_eq!(gate.inflight(), 2);
        let told = Mutex::new(Vec::new());
        let emptied = gate.emptied(|inflight| told.lock().expect("a lock").push(inflight));
        let leaving = async {
            drop(one);
            while !told.lock().expect("a lock").contains(&1) {
                tokio::task::yield_now().await;
            }
            drop(two);
        };
        tokio::join!(emptied, leaving);
        assert_eq!(*told.lock().expect("a lock"), [2, 1]);
        gate.emptied(|_| panic!("nobody is inside")).await;
    }
}
