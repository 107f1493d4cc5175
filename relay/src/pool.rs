//! Idle connections of one worker thread, the one used last first.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::clock::{Clock, Tick};

use crate::connection::Connection;

/// How long a connection is kept for the next request. uvicorn, under vLLM and others, closes after 5 s.
const IDLE: Duration = Duration::from_secs(4);
/// Most idle connections to one upstream and worker.
const IDLE_MAX: usize = 256;

pub(crate) struct Pool {
    clock: Clock,
    idle: RefCell<Idle>,
}

#[derive(Default)]
struct Idle {
    by_address: HashMap<HostPort, Vec<(Tick, Connection)>>,
    sweeper_runs: bool,
}

impl Pool {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { clock: Clock::start(), idle: RefCell::default() })
    }

    /// A connection that waits, if one does and has not been closed from the other side as far as can be seen.
    pub(crate) fn take(&self, address: &HostPort) -> Option<Connection> {
        let now = self.clock.now();
        let mut idle = self.idle.borrow_mut();
        let waiting = idle.by_address.get_mut(address)?;
        while let Some((since, connection)) = waiting.pop() {
            if now.since(since) < IDLE && connection.is_quiet() {
                return Some(connection);
            }
            connection.close();
        }
        None
    }

    /// Keeps a connection on which nothing is under way.
    pub(crate) fn put(self: &Rc<Self>, address: &HostPort, mut connection: Connection) {
        connection.rest();
        let mut idle = self.idle.borrow_mut();
        let entry = (self.clock.now(), connection);
        match idle.by_address.get_mut(address) {
            Some(waiting) if waiting.len() >= IDLE_MAX => return entry.1.close(),
            Some(waiting) => waiting.push(entry),
            None => {
                idle.by_address.insert(address.clone(), vec![entry]);
            }
        }
        if !std::mem::replace(&mut idle.sweeper_runs, true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// Closes what has waited too long; false when nothing is left.
    fn sweep(&self) -> bool {
        let now = self.clock.now();
        let mut idle = self.idle.borrow_mut();
        idle.by_address.retain(|_, waiting| {
            for (_, connection) in waiting.extract_if(.., |(since, _)| now.since(*since) >= IDLE) {
                connection.close();
            }
            !waiting.is_empty()
        });
        idle.sweeper_runs = !idle.by_address.is_empty();
        idle.sweeper_runs
    }
}

/// Runs while connections wait, so that none outlives the last request by more than two periods.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE).await;
        match pool.upgrade() {
            Some(pool) if pool.sweep() => {}
            _ => return,
        }
    }
}
