//! The edge: what of the fleet the outside world should reach by name, and how far it does.
//!
//! Wanted is a host name per node, which leads to the agent's proxy. What is at the edge already (routes of a reverse
//! proxy, DNS records) is compared with that; [`Differences`] is what is still to be done.

use std::collections::{BTreeMap, BTreeSet};

use nebula_core::address::HostPort;
use serde::Serialize;

/// What the edge should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By full host name, in lower case, without a dot at the end: where the agent's proxy listens.
    pub sites: BTreeMap<String, HostPort>,
    /// Whether everything of ours that is at the edge and not wanted may be removed. Not while the store may have
    /// forgotten nodes.
    pub may_remove: bool,
    /// Names that may be removed all the same: their nodes are known to be gone.
    pub gone: BTreeSet<String>,
}

impl Wanted {
    /// Whether the name of a node may be removed that is at the edge and not wanted.
    #[must_use]
    pub fn may_go(&self, host: &str) -> bool {
        self.may_remove || self.gone.contains(host)
    }
}

/// What is done to one object at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// It is missing.
    Add,
    /// It is there and not as it should be.
    Change,
    /// It is there and should not be.
    Remove,
}

/// One object at the edge that is to be changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// What is done.
    pub verb: Verb,
    /// The kind of object: `server`, `route`, `A`, `TXT`.
    pub kind: &'static str,
    /// The object's name: a host name, a server's name.
    pub name: String,
    /// What it becomes, for people, such as `10.0.0.7:8888`; empty for what is removed.
    pub to: String,
}

/// A name at the edge that cannot be as it should be until a person does something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// The name.
    pub name: String,
    /// What stands in the way, in one line.
    pub why: String,
}

/// What is still to be done at the edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// What a reconciler will change, in the order of names.
    pub changes: Vec<Change>,
    /// What it will not touch.
    pub blocked: Vec<Blocked>,
}

impl Differences {
    /// Nothing is to be done and nothing stands in the way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.blocked.is_empty()
    }
}

/// How a round of reconciling ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// How many objects of ours are at the edge now.
    pub observed: usize,
    /// How many were changed.
    pub changed: usize,
    /// What is left; as it was seen after the changes, not as it was hoped for.
    pub left: Differences,
}

/// What kind of trouble the edge is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// It could not even be read: it is away, hangs, or something else answers there. A cheap probe tells when it is
    /// back.
    Unreachable,
    /// It can be read; a change failed, was throttled, or somebody else changed it at the same time. Time may cure it.
    Busy,
    /// It refuses us (credentials, a zone that does not exist, a foreign server on our port): somebody must do
    /// something.
    Refused,
}

/// Why a round failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EdgeError {
    /// What kind of trouble it is.
    pub trouble: Trouble,
    /// One line that names the thing, in lower case, without secrets.
    pub message: String,
    /// What to do about it; empty when nobody need do anything.
    pub hint: String,
}
