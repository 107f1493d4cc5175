//! Which loopback port belongs to which replica. A port that a stranger listens on is passed over.
//!
//! Agents of one machine begin their search at different places, so that they do not try for the same port at once.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nebula_core::ids::ReplicaId;

use crate::driver::sockets::is_free;

/// Ports that are passed over although they look free.
const AVOIDED_MAX: usize = 64;

/// The ports that are given out.
#[derive(Debug)]
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    /// Where the search begins, within the range.
    begin: u16,
    owners: Mutex<BTreeMap<u16, ReplicaId>>,
    /// Ports that look free and are not, the oldest first: whoever has them does not listen here.
    avoided: Mutex<VecDeque<u16>>,
}

/// Every port is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no port from {first} to {last} is free; stop something or widen --port-range")]
pub(crate) struct NoPort {
    first: u16,
    last: u16,
}

impl Ports {
    /// Gives out ports of `range` for the agent whose data is in `data_dir`.
    pub(crate) fn new(range: RangeInclusive<u16>, data_dir: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned()).hash(&mut hasher);
        let count = u64::from(range.end().saturating_sub(*range.start())) + 1;
        let offset = u16::try_from(hasher.finish() % count).unwrap_or_default();
        let begin = range.start().saturating_add(offset);
        Self { range, begin, owners: Mutex::default(), avoided: Mutex::default() }
    }

    /// Notes that a replica has a port already, as an earlier agent wrote down.
    pub(crate) fn keep(&self, replica: ReplicaId, port: u16) {
        if port != 0 {
            self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(port, replica);
        }
    }

    /// A port for a replica on which nobody listens: the one it has, else `wanted` (0: none), else one of the
    /// range. It is the replica's only one from then on.
    ///
    /// # Errors
    /// When no port is free.
    pub(crate) fn claim(&self, replica: ReplicaId, wanted: u16) -> Result<u16, NoPort> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let had = owners.iter().find(|(_, owner)| **owner == replica).map(|(port, _)| *port);
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let usable = |port: u16| {
            let others = owners.get(&port).is_some_and(|owner| *owner != replica);
            !others && !avoided.contains(&port) && is_free(port)
        };
        let wanted = Some(wanted).filter(|port| *port != 0);
        let port = wanted
            .into_iter()
            .chain(had)
            .chain(self.begin..=*self.range.end())
            .chain(*self.range.start()..self.begin)
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

    /// Passes over a port for a while: until as many others were found to be taken.
    pub(crate) fn avoid(&self, port: u16) {
        let mut avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        avoided.retain(|other| *other != port);
        avoided.push_back(port);
        if avoided.len() > AVOIDED_MAX {
            avoided.pop_front();
        }
    }

    /// Gives a replica's port back.
    pub(crate) fn release(&self, replica: ReplicaId) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.retain(|_, owner| *owner != replica);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn ports(range: RangeInclusive<u16>) -> Ports {
        Ports::new(range, Path::new("/one"))
    }

    /// A range of some ports that are free now.
    fn range() -> RangeInclusive<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let first = listener.local_addr().expect("an address").port().min(60_000);
        first..=first + 200
    }

    #[test]
    fn a_replica_keeps_its_port_and_no_two_share_one() {
        let ports = ports(range());
        let (one, two) = (ReplicaId::random(), ReplicaId::random());
        let port = ports.claim(one, 0).expect("a port");
        assert_eq!(ports.claim(one, 0), Ok(port));
        let other = ports.claim(two, port).expect("a port");
        assert_ne!(other, port);
        ports.release(one);
        assert_eq!(ports.claim(two, port), Ok(port));
    }

    #[test]
    fn a_port_that_only_looks_free_is_avoided_for_a_while() {
        let ports = ports(range());
        let one = ReplicaId::random();
        let port = ports.claim(one, 0).expect("a port");
        ports.avoid(port);
        let other = ports.claim(one, port).expect("a port");
        assert_ne!(other, port);
        for number in 0..AVOIDED_MAX {
            ports.avoid(u16::try_from(number).expect("few"));
        }
        assert_eq!(ports.claim(one, port), Ok(port), "others are avoided since");
    }

    #[test]
    fn a_strangers_port_is_passed_over() {
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let taken = stranger.local_addr().expect("an address").port();
        let ports = ports(taken..=taken);
        assert_eq!(ports.claim(ReplicaId::random(), taken), Err(NoPort { first: taken, last: taken }));
        let owner = ReplicaId::random();
        ports.keep(owner, taken);
        assert_eq!(ports.reserve(owner, 0), Ok(taken), "what listens there is the replica's own");
    }

    #[test]
    fn agents_begin_at_different_ports_and_use_all() {
        let range = range();
        let begins: std::collections::BTreeSet<u16> =
            (0..50).map(|number| Ports::new(range.clone(), Path::new(&format!("/{number}"))).begin).collect();
        assert!(begins.len() > 25 && begins.iter().all(|begin| range.contains(begin)), "{begins:?}");
        let ports = ports(range.clone());
        let claimed = ports.claim(ReplicaId::random(), 0).expect("a port");
        assert!(claimed >= ports.begin);
        // What is at the end is taken: the search goes on from the first.
        let wrapped = Ports { begin: claimed, range: claimed - 1..=claimed, ..ports };
        wrapped.keep(ReplicaId::random(), claimed);
        if is_free(claimed - 1) {
            assert_eq!(wrapped.claim(ReplicaId::random(), 0), Ok(claimed - 1));
        }
    }
}
