//! The journal: what happened to deployments and nodes, and what operators did, in words.

use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};

/// How many lines of one deployment are kept.
pub const EVENTS_PER_DEPLOYMENT_MAX: usize = 200;
/// How many lines of one node are kept, and how many that concern all nodes.
pub const EVENTS_PER_NODE_MAX: usize = 200;
/// How many lines of the audit are kept.
pub const AUDIT_LINES_MAX: usize = 10_000;

/// The type of the last line about a deployment. It is a line of the audit, so that it stays.
pub const DEPLOYMENT_DELETED: &str = "audit.deployment.deleted";

/// Something that happened, before it has its place in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// A short word: `created`, `placed`, `running`, `failed` …
    pub kind: &'static str,
    /// One line.
    pub message: String,
    /// The replica concerned.
    pub replica: Option<ReplicaId>,
    /// The node concerned.
    pub node: Option<NodeId>,
}

/// Who asked for a change: what the audit says of it. Never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whose credential it was: `admin token`, or `nebulad` for what it does by itself.
    pub by: String,
    /// The request's id, as its answer carries it; empty when there was no request.
    pub request_id: String,
    /// The address it came from; empty when there was no request.
    pub address: String,
}

impl Origin {
    /// Nebula itself.
    #[must_use]
    pub fn nebulad() -> Self {
        Self { by: "nebulad".to_owned(), request_id: String::new(), address: String::new() }
    }
}

/// What a line of the journal is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A deployment.
    Deployment(DeploymentId),
    /// A node.
    Node(NodeId),
    /// All nodes, or the control plane.
    Fleet,
    /// What somebody did.
    Audit {
        /// Who did it.
        origin: Origin,
        /// To which deployment, if to one.
        deployment: Option<DeploymentId>,
    },
}

/// Lines that are kept together: when there are too many, the oldest of them goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ring {
    /// Those of a deployment.
    Deployment(DeploymentId),
    /// Those of a node.
    Node(NodeId),
    /// Those that concern all nodes, or the control plane.
    Fleet,
    /// Those of the audit.
    Audit,
}

impl Ring {
    /// How many lines are kept.
    #[must_use]
    pub fn lines_max(&self) -> usize {
        match self {
            Self::Deployment(_) => EVENTS_PER_DEPLOYMENT_MAX,
            Self::Node(_) | Self::Fleet => EVENTS_PER_NODE_MAX,
            Self::Audit => AUDIT_LINES_MAX,
        }
    }
}

/// A line that has no number yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it happened.
    pub time: WallTime,
    /// What it is about.
    pub subject: Subject,
    /// A short word; `audit.noun.verb` in the audit.
    pub kind: String,
    /// One line of text.
    pub message: String,
    /// The replica concerned.
    pub replica: Option<ReplicaId>,
    /// The node concerned.
    pub node: Option<NodeId>,
}

impl Line {
    /// What happened to a deployment.
    #[must_use]
    pub fn of_deployment(id: DeploymentId, happening: Happening, time: WallTime) -> Self {
        Self::new(Subject::Deployment(id), happening, time)
    }

    /// What happened to a node, or to all of them when the happening names none.
    #[must_use]
    pub fn of_node(happening: Happening, time: WallTime) -> Self {
        let subject = happening.node.clone().map_or(Subject::Fleet, Subject::Node);
        Self::new(subject, happening, time)
    }

    /// What somebody did.
    #[must_use]
    pub fn of_audit(origin: Origin, kind: &str, message: String, time: WallTime) -> Self {
        let subject = Subject::Audit { origin, deployment: None };
        Self { time, subject, kind: format!("audit.{kind}"), message, replica: None, node: None }
    }

    /// The same, done to this deployment.
    #[must_use]
    pub fn to_deployment(mut self, id: DeploymentId) -> Self {
        if let Subject::Audit { deployment, .. } = &mut self.subject {
            *deployment = Some(id);
        }
        self
    }

    /// The same, done to this node.
    #[must_use]
    pub fn to_node(mut self, id: NodeId) -> Self {
        self.node = Some(id);
        self
    }

    fn new(subject: Subject, happening: Happening, time: WallTime) -> Self {
        let Happening { kind, message, replica, node } = happening;
        Self { time, subject, kind: kind.to_owned(), message, replica, node }
    }
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEvent {
    /// Grows over the whole journal.
    pub seq: u64,
    /// What it says.
    pub line: Line,
}

impl JournalEvent {
    /// The lines with which it is kept.
    #[must_use]
    pub fn ring(&self) -> Ring {
        match &self.line.subject {
            Subject::Deployment(id) => Ring::Deployment(*id),
            Subject::Node(id) => Ring::Node(id.clone()),
            Subject::Fleet => Ring::Fleet,
            Subject::Audit { .. } => Ring::Audit,
        }
    }

    /// The deployment that it is about, or that somebody did something to.
    #[must_use]
    pub fn deployment(&self) -> Option<DeploymentId> {
        match &self.line.subject {
            Subject::Deployment(id) => Some(*id),
            Subject::Audit { deployment, .. } => *deployment,
            Subject::Node(_) | Subject::Fleet => None,
        }
    }
}
