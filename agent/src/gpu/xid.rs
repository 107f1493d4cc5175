//! What XIDs mean: the numbers under which NVIDIA's driver reports errors of a GPU.
//!
//! The catalogue is at <https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>. Fatal here is what it
//! answers with a reset of the GPU or a restart of the machine, and every uncorrectable error of memory. What NVIDIA's
//! device plugin for Kubernetes takes for an application's own fault
//! (<https://github.com/NVIDIA/k8s-device-plugin/blob/main/internal/rm/health.go>) is one here as well: among it is 109,
//! for which the catalogue wants a reset. Should it be needed, the driver says so itself: with 154, and in the recovery
//! action that is read with each sample. The same goes for the link errors 144 to 150 and for 155 to 157, of which
//! only some call for one.

/// What an XID means for its GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The GPU is not to be used until it was reset or looked after; what happened.
    Fatal(&'static str),
    /// The driver wants something done: what, is in the recovery action.
    RecoveryAction,
    /// An application's own fault; the GPU is well.
    Application,
    /// Neither: it is noted and the GPU is used on.
    Other,
}

/// The driver's recovery action has changed.
const RECOVERY_ACTION_CHANGED: u64 = 154;

/// What makes a GPU unusable.
const FATAL: [(u64, &str); 17] = [
    (46, "stopped processing"),
    (48, "has an uncorrectable memory error"),
    (62, "its controller has halted"),
    (64, "could not retire bad memory"),
    (74, "has an NVLink error"),
    (79, "fell off the bus"),
    (94, "has a contained memory error"),
    (95, "has an uncontained memory error"),
    (110, "has a security fault"),
    (119, "its firmware does not answer"),
    (120, "its firmware has failed"),
    (136, "could not train its NVLink"),
    (140, "has an unrecovered memory error"),
    (143, "could not be initialised"),
    (158, "has timed out"),
    (167, "has timed out on PCIe"),
    (169, "its controller has halted"),
];

/// What an application does to itself.
const APPLICATION: [u64; 13] = [8, 11, 13, 25, 31, 32, 43, 44, 45, 68, 69, 80, 109];

/// What an XID means.
pub(crate) fn meaning(xid: u64) -> Meaning {
    if xid == RECOVERY_ACTION_CHANGED {
        return Meaning::RecoveryAction;
    }
    if let Some((_, what)) = FATAL.iter().find(|(code, _)| *code == xid) {
        return Meaning::Fatal(what);
    }
    if APPLICATION.contains(&xid) { Meaning::Application } else { Meaning::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xid_means_one_thing() {
        for (xid, _) in FATAL {
            assert!(matches!(meaning(xid), Meaning::Fatal(_)) && !APPLICATION.contains(&xid), "{xid}");
        }
        for xid in [48, 62, 64, 74, 79, 94, 95, 119, 120, 140, 143] {
            assert!(matches!(meaning(xid), Meaning::Fatal(_)), "{xid}");
        }
        for xid in [13, 31, 43, 45, 68, 109] {
            assert_eq!(meaning(xid), Meaning::Application, "{xid}");
        }
        for xid in [0, 63, 92, 121, 145, 999, u64::MAX] {
            assert_eq!(meaning(xid), Meaning::Other, "{xid}");
        }
        assert_eq!(meaning(154), Meaning::RecoveryAction);
    }
}
