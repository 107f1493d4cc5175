//! Idle connections of one worker thread, the one used last first.

use std::cell::{Cell, RefCell};
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
    lanes: RefCell<HashMap<HostPort, Rc<Lane>>>,
    sweeper_runs: Cell<bool>,
}

/// The idle connections to one upstream. A body holds it to bring its connection back.
pub(crate) struct Lane {
    pool: Weak<Pool>,
    idle: RefCell<Vec<(Tick, Connection)>>,
}

impl Pool {
    pub(crate) fn new() -> Rc<Self> {
        let (lanes, sweeper_runs) = (RefCell::default(), Cell::new(false));
        Rc::new(Self { clock: Clock::start(), lanes, sweeper_runs })
    }

    /// The lane to an upstream.
    pub(crate) fn lane(self: &Rc<Self>, address: &HostPort) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        if let Some(lane) = lanes.get(address) {
            return Rc::clone(lane);
        }
        let lane = Rc::new(Lane { pool: Rc::downgrade(self), idle: RefCell::default() });
        lanes.insert(address.clone(), Rc::clone(&lane));
        if !self.sweeper_runs.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
        lane
    }

    /// Closes what has waited too long and forgets lanes that nobody uses; false when none is left.
    fn sweep(&self) -> bool {
        let now = self.clock.now();
        let mut lanes = self.lanes.borrow_mut();
        lanes.retain(|_, lane| {
            let mut idle = lane.idle.borrow_mut();
            for (_, connection) in idle.extract_if(.., |(since, _)| now.since(*since) >= IDLE) {
                connection.close();
            }
            !idle.is_empty() || Rc::strong_count(lane) > 1
        });
        self.sweeper_runs.set(!lanes.is_empty());
        self.sweeper_runs.get()
    }
}

impl Lane {
    /// A connection that waits, if one does and has not been closed from the other side as far as can be seen.
    pub(crate) fn take(&self) -> Option<Connection> {
        let now = self.pool.upgrade()?.clock.now();
        let mut idle = self.idle.borrow_mut();
        while let Some((since, connection)) = idle.pop() {
            if now.since(since) < IDLE && connection.is_quiet() {
                return Some(connection);
            }
            connection.close();
        }
        None
    }

    /// Keeps a connection on which nothing is under way.
    pub(crate) fn put(&self, mut connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        match self.pool.upgrade() {
            Some(pool) if idle.len() < IDLE_MAX => {
                connection.rest();
                idle.push((pool.clock.now(), connection));
            }
            _ => connection.close(),
        }
    }
}

/// Runs while there are lanes, so that no connection outlives the last request by more than two periods.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE).await;
        match pool.upgrade() {
            Some(pool) if pool.sweep() => {}
            _ => return,
        }
    }
}
