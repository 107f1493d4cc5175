//! What of each message is the same when it is sent again: a client's retry has new ids and tokens, an agent's next
//! report has other measurements, a command that is given again has another id. None of these count.

use std::fmt;

use super::Traced;
use crate::actors::catalog::AliasChange;
use crate::actors::keys::machine::Change;
use crate::actors::{
    catalog, deployment, drains, edge, keys, registry, route, router, scheduler, session, usage,
};
use crate::domain::node::Capabilities;
use crate::domain::report::ReplicaReport;

impl Traced for catalog::Create {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.deployment.name, self.deployment.spec)
    }
}

impl Traced for catalog::Gone {}

impl Traced for catalog::ChangeAlias {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            AliasChange::Create(alias) => write!(f, "create {:?} {alias}", alias.name),
            AliasChange::Patch(name, patch) => write!(f, "patch {name:?} {patch:?}"),
            AliasChange::Delete(name) => write!(f, "delete {name:?}"),
        }
    }
}

impl Traced for deployment::Want {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A token's hash does not show, so that every rotation looks the same.
        write!(f, "{:?}", self.intent)
    }
}

impl Traced for deployment::change::Change {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.wanted)
    }
}

impl Traced for deployment::Rejected {}

impl Traced for deployment::News {}

impl Traced for deployment::Look {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.0;
        write!(f, "{} {:?} {:?}", facts.node_id, facts.availability, facts.proxy)?;
        replicas(&facts.replicas, f)
    }
}

impl Traced for drains::Change {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain(wanted, _) => write!(f, "drain {}", wanted.node),
            Self::Schedule(node, scheduling) => write!(f, "schedule {node} {scheduling:?}"),
            Self::Cancel(id, _) => write!(f, "cancel {id}"),
        }
    }
}

impl Traced for edge::Plan {}

impl Traced for keys::ChangeKey {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::Create(key) => {
                write!(f, "create {:?} {:?} {:?}", key.name, key.models, key.limits)
            }
            Change::Revoke(id) => write!(f, "revoke {id}"),
            Change::Rotate { id, overlap, .. } => write!(f, "rotate {id} {overlap:?}"),
        }
    }
}

impl Traced for usage::WriteNow {
    // It is the same whatever is to be written, and without it nothing would be.
    const SET_ASIDE: bool = false;
}

impl Traced for usage::Read {}

impl Traced for registry::Look {
    // It is the same whatever is due, and without it no silent node would ever be offline.
    const SET_ASIDE: bool = false;
}

impl Traced for registry::Register {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An agent that has no id yet gets another one each time, and its free memory is never the same.
        let agent = &self.0;
        let capabilities = Capabilities { available_memory_bytes: 0, ..agent.capabilities.clone() };
        let known = (&agent.name, &agent.version, &agent.address, agent.proxy_port, &agent.labels);
        write!(f, "{known:?} {capabilities:?}")
    }
}

impl Traced for registry::Heartbeat {}

impl Traced for registry::Change {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deregister(id, ..) => write!(f, "deregister {id}"),
            Self::Schedule(id, scheduling, ..) => write!(f, "schedule {id} {scheduling:?}"),
            Self::Forget(id, ..) => write!(f, "forget {id}"),
            Self::ReleaseBrake(_) => f.write_str("release the brake"),
        }
    }
}

impl Traced for registry::GetNode {}

impl Traced for registry::GetNodes {}

impl Traced for registry::Tell {}

impl Traced for registry::drained::Become {}

impl Traced for registry::drained::GetWishes {}

impl Traced for route::Endpoints {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for endpoint in &self.0 {
            write!(f, "{} {} {:?} ", endpoint.replica_id, endpoint.generation, endpoint.address)?;
        }
        Ok(())
    }
}

impl Traced for route::Ended {}

impl Traced for route::Close {}

impl Traced for router::Publish {}

impl Traced for router::Aliases {}

impl Traced for router::Withdraw {}

impl Traced for router::RouteUp {}

impl Traced for scheduler::Place {}

impl Traced for scheduler::Explain {}

impl Traced for scheduler::MayMove {}

impl Traced for scheduler::Capacity {}

impl Traced for session::NotCalled {}

impl Traced for session::Report {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ", self.0.acked)?;
        replicas(&self.0.replicas, f)
    }
}

impl Traced for session::Enqueue {
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = &self.0;
        write!(f, "{} {} {:?}", command.replica_id, command.generation, command.action)
    }
}

impl Traced for session::Update {}

impl Traced for session::Close {}

/// Replicas without how often they were started again and what they are just doing.
fn replicas(reports: &[ReplicaReport], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for report in reports {
        write!(f, " {} {} {:?}", report.replica_id, report.generation, report.status)?;
        write!(f, " {:?} {}", report.container_id, report.port)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
