//! Whose processes use the GPUs.

use std::collections::BTreeSet;
use std::fs;

use nebula_core::ids::ReplicaId;

use crate::driver::procfs;

/// The mark that the process driver leaves in the environment of what it starts.
const MARK: &str = "NEBULA_REPLICA";

/// Of some processes those that belong to one of these replicas or containers (by their whole ids).
///
/// A container is told by its control group, which can be read whatever the process does. The environment of a
/// process that hangs in the kernel may not be readable for long, so this must not be called where that matters.
pub(crate) fn ours(pids: &BTreeSet<u32>, replicas: &[ReplicaId], containers: &[String]) -> BTreeSet<u32> {
    let is_ours = |pid: &u32| is_in(*pid, containers) || is_of(*pid, replicas);
    pids.iter().copied().filter(is_ours).collect()
}

fn is_in(pid: u32, containers: &[String]) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    containers.iter().any(|container| groups.contains(container.as_str()))
}

fn is_of(pid: u32, replicas: &[ReplicaId]) -> bool {
    replicas.iter().any(|replica| procfs::carries(pid, &[(MARK, replica.to_string().as_str())]))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that ends with this value.
    struct Running(Child);

    impl Running {
        fn new(replica: Option<ReplicaId>) -> Self {
            let mut command = Command::new("sleep");
            command.arg("60").stdin(Stdio::null());
            if let Some(replica) = replica {
                command.env(MARK, replica.to_string());
            }
            Self(command.spawn().expect("sleep runs"))
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_is_ours_when_it_carries_the_mark_of_one_of_our_replicas() {
        let (one, other) = (ReplicaId::random(), ReplicaId::random());
        let (marked, stranger) = (Running::new(Some(one)), Running::new(None));
        let pids = BTreeSet::from([marked.0.id(), stranger.0.id(), u32::MAX]);
        assert_eq!(ours(&pids, &[other, one], &[]), BTreeSet::from([marked.0.id()]));
        assert_eq!(ours(&pids, &[other], &["0".repeat(64)]), BTreeSet::new());
    }

    #[test]
    fn a_process_is_ours_when_its_control_group_names_one_of_our_containers() {
        let running = Running::new(None);
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", running.0.id())).expect("control groups");
        let name = groups.lines().next().expect("a line").to_owned();
        let pids = BTreeSet::from([running.0.id()]);
        assert_eq!(ours(&pids, &[], &[name]), pids);
    }
}
