//! Who listens on a loopback port, as `/proc` shows it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use nebula_core::ids::ReplicaId;

use super::{process, procfs};
use crate::replica::spec::ProcessRef;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// Whose a listening socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// One of the replica's own processes.
    Replica,
    /// Some other process.
    Stranger,
    /// Nobody listens, or we may not look.
    Unknown,
}

/// Whether nobody listens on a loopback port.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Whether somebody else listens on the port of a replica whose process has ended.
pub(crate) fn is_taken(port: u16, leader: ProcessRef, replica: ReplicaId) -> bool {
    !is_free(port) && owner(port, leader, replica) != Owner::Replica
}

/// Whose socket takes the connections to a loopback port: the replica's, when it is held by the process, by its
/// group, or by a process that carries the replica's mark.
pub(crate) fn owner(port: u16, leader: ProcessRef, replica: ReplicaId) -> Owner {
    let table = |name: &str| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    let mut open = listening(&table("tcp"), &table("tcp6"), port);
    let is_ours = |pid: u32| {
        pid == leader.pid || procfs::group(pid) == Some(leader.pid) || process::is_marked(pid, replica)
    };
    let (mut ours, mut strangers) = (false, BTreeSet::new());
    let others = procfs::numbers().into_iter().filter(|pid| *pid != leader.pid);
    for pid in std::iter::once(leader.pid).chain(others) {
        let held: Vec<u64> = procfs::sockets(pid).into_iter().filter(|inode| open.contains(inode)).collect();
        if held.is_empty() {
            continue;
        }
        if is_ours(pid) {
            ours = true;
            open.retain(|inode| !held.contains(inode));
            if open.is_empty() {
                break;
            }
        } else {
            strangers.extend(held);
        }
    }
    match (open.iter().any(|inode| strangers.contains(inode)), ours) {
        (true, _) => Owner::Stranger,
        (false, true) => Owner::Replica,
        (false, false) => Owner::Unknown,
    }
}

/// The sockets that take connections to 127.0.0.1: those that listen there, else those that listen everywhere.
fn listening(tcp: &str, tcp6: &str, port: u16) -> BTreeSet<u64> {
    let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
    let (loopback, mapped) = (word([127, 0, 0, 1]), word([0, 0, 0xff, 0xff]));
    let any6 = "0".repeat(32);
    let ranks = [
        vec![(tcp, loopback.clone()), (tcp6, format!("{}{mapped}{loopback}", "0".repeat(16)))],
        vec![(tcp, "0".repeat(8)), (tcp6, format!("{}{mapped}{}", "0".repeat(16), "0".repeat(8)))],
        vec![(tcp6, any6)],
    ];
    let found = ranks.iter().map(|rank| {
        rank.iter().flat_map(|(table, address)| inodes(table, &format!("{address}:{port:04X}"))).collect()
    });
    found.into_iter().find(|inodes: &BTreeSet<u64>| !inodes.is_empty()).unwrap_or_default()
}

/// The sockets of a table that listen on an address.
fn inodes<'a>(table: &'a str, address: &str) -> impl Iterator<Item = u64> + use<'a> {
    let address = address.to_owned();
    table.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        (local == address && state == LISTENING).then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn the_most_specific_listener_counts() {
        let head =
            "sl local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n";
        let line = |local: &str, state: &str, inode: u64| {
            format!(
                " 0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1 x\n"
            )
        };
        let loopback = format!("{:08X}:7530", u32::from_ne_bytes([127, 0, 0, 1]));
        let tcp = [head, &line("00000000:7530", "0A", 2), &line(&loopback, "01", 3)].concat();
        let tcp6 = [head, &line(&format!("{}:7530", "0".repeat(32)), "0A", 4)].concat();
        assert_eq!(listening(&tcp, &tcp6, 30_000), BTreeSet::from([2]));
        assert_eq!(listening("", &tcp6, 30_000), BTreeSet::from([4]));
        let tcp = [&tcp, &*line(&loopback, "0A", 1)].concat();
        assert_eq!(listening(&tcp, &tcp6, 30_000), BTreeSet::from([1]));
        assert_eq!(listening(&tcp, &tcp6, 30_001), BTreeSet::new());
    }

    /// A process in a group of its own that holds no socket of ours.
    struct Other(Child);

    impl Other {
        fn start() -> Self {
            Self(Command::new("sleep").arg("60").process_group(0).spawn().expect("it starts"))
        }
    }

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_stranger_on_the_port_is_told_from_the_replica() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let replica = ReplicaId::random();
        let own = procfs::process(std::process::id()).expect("this process");
        assert_eq!(owner(port, own, replica), Owner::Replica);
        let other = Other::start();
        let other = procfs::process(other.0.id()).expect("it runs");
        assert_eq!(owner(port, other, replica), Owner::Stranger);
        assert!(!is_free(port));
        drop(listener);
        assert_eq!(owner(port, own, replica), Owner::Unknown);
    }
}
