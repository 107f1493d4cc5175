//! An engine that never comes back: nothing on its own thread can notice, so another thread looks on.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use crate::status::Shared;

/// How often the step that is under way is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A step that is still the same after so many looks has stalled. Looks are counted rather than time, so that a process
/// that was stopped for a while does not blame its disk.
const LOOKS_MAX: u32 = 30;

/// The step that was seen last, and how often.
#[derive(Debug, Default)]
struct Stall {
    step: u64,
    looks: u32,
}

impl Stall {
    /// Whether `step` has stalled. Steps under way have odd numbers, and none is used twice.
    fn look(&mut self, step: u64) -> bool {
        if step.is_multiple_of(2) || step != self.step {
            *self = Self { step, looks: 0 };
            return false;
        }
        self.looks = self.looks.saturating_add(1);
        self.looks >= LOOKS_MAX
    }
}

/// Ends the looking on when it is dropped.
pub(crate) type Watched = SyncSender<()>;

/// Starts the thread that looks on; a stalled step is the end of the store.
pub(crate) fn watch(shared: Arc<Shared>) -> io::Result<Watched> {
    let (watched, ended) = sync_channel::<()>(1);
    let mut stall = Stall::default();
    let look = move || {
        while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            if stall.look(shared.step()) {
                shared.stalled(format!("the engine has not come back for {LOOKS_MAX} s"));
                break;
            }
        }
    };
    std::thread::Builder::new().name("store-watch".to_owned()).spawn(look)?;
    Ok(watched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_and_the_same_step_stalls() {
        let mut stall = Stall::default();
        let looks = |stall: &mut Stall, step, times: u32| (0..times).any(|_| stall.look(step));
        assert!(!looks(&mut stall, 0, 1000), "idle");
        assert!((1..1000).step_by(2).all(|step| !stall.look(step)), "busy");
        assert!(!looks(&mut stall, 1001, LOOKS_MAX));
        assert!(!looks(&mut stall, 1003, LOOKS_MAX), "another one");
        assert!(stall.look(1003));
    }
}
