//! Which loopback port belongs to which replica. A port that a stranger listens on is passed over.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use nebula_core::ids::ReplicaId;

/// The ports that are given out.
#[derive(Debug)]
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    owners: Mutex<BTreeMap<u16, ReplicaId>>,
}

/// Every port is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no port from {first} to {last} is free; stop something or widen --port-range")]
pub(crate) struct NoPort {
    first: u16,
    last: u16,
}

impl Ports {
    /// Gives out ports of `range`.
    pub(crate) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, owners: Mutex::new(BTreeMap::new()) }
    }

    /// Notes that a replica has a port already, as an earlier agent wrote down.
    pub(crate) fn keep(&self, replica: ReplicaId, port: u16) {
        if port != 0 {
            self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(port, replica);
        }
    }

    /// A port for a replica on which nobody listens: the one it has, else `wanted` (0: none), else the lowest of
    /// the range. It is the replica's only one from then on.
    ///
    /// # Errors
    /// When no port is free.
    pub(crate) fn claim(&self, replica: ReplicaId, wanted: u16) -> Result<u16, NoPort> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let had = owners.iter().find(|(_, owner)| **owner == replica).map(|(port, _)| *port);
        let usable = |port: u16| owners.get(&port).is_none_or(|owner| *owner == replica) && is_free(port);
        let wanted = Some(wanted).filter(|port| *port != 0);
        let port = wanted
            .into_iter()
            .chain(had)
            .chain(self.range.clone())
            .find(|port| usable(*port))
            .ok_or(NoPort { first: *self.range.start(), last: *self.range.end() })?;
        owners.retain(|_, owner| *owner != replica);
        owners.insert(port, replica);
        Ok(port)
    }

    /// The port that a replica has, whether or not somebody listens on it; else one for it, `wanted` if that is free.
    ///
    /// # Errors
    /// When no port is free.
    pub(crate) fn reserve(&self, replica: ReplicaId, wanted: u16) -> Result<u16, NoPort> {
        let owned = {
            let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            owners.iter().find(|(_, owner)| **owner == replica).map(|(port, _)| *port)
        };
        owned.map_or_else(|| self.claim(replica, wanted), Ok)
    }

    /// Gives a replica's port back.
    pub(crate) fn release(&self, replica: ReplicaId) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.retain(|_, owner| *owner != replica);
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A range of some ports that are free now.
    fn range() -> RangeInclusive<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let first = listener.local_addr().expect("an address").port().min(60_000);
        first..=first + 200
    }

    #[test]
    fn a_replica_keeps_its_port_and_no_two_share_one() {
        let ports = Ports::new(range());
        let (one, two) = (ReplicaId::random(), ReplicaId::random());
        let port = ports.claim(one, 0).expect("a port");
        assert_eq!(ports.claim(one, 0), Ok(port));
        let other = ports.claim(two, port).expect("a port");
        assert_ne!(other, port);
        ports.release(one);
        assert_eq!(ports.claim(two, port), Ok(port));
    }

    #[test]
    fn a_strangers_port_is_passed_over() {
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let taken = stranger.local_addr().expect("an address").port();
        let ports = Ports::new(taken..=taken);
        assert_eq!(ports.claim(ReplicaId::random(), taken), Err(NoPort { first: taken, last: taken }));
        let owner = ReplicaId::random();
        ports.keep(owner, taken);
        assert_eq!(ports.reserve(owner, 0), Ok(taken), "what listens there is the replica's own");
    }
}
