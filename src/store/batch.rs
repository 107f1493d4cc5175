//! The port's writes as one batch of the engine.

use std::collections::BTreeMap;

use nebula_core::ids::DeploymentId;
use nebula_store::Batch;

use super::{keys, records};
use crate::domain::command::Action;
use crate::domain::deployment::{Deployment, Desired};
use crate::domain::event::Ring;
use crate::ports::{StoreError, Write};

/// What a batch does to the space that is used, which decides whether a disk that fills up still takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// It begins something new.
    Growing,
    /// It keeps up with what happens.
    Keeping,
    /// It ends or stops something.
    Freeing,
}

/// All of `writes` or none; of two writes of the same thing the later one counts.
pub(super) fn of(writes: Vec<Write>) -> Result<Batch, StoreError> {
    let purpose = purpose(&writes);
    let batch = batch(writes)?;
    Ok(match purpose {
        Purpose::Growing => batch.growing(),
        Purpose::Keeping => batch,
        Purpose::Freeing => batch.freeing(),
    })
}

fn purpose(writes: &[Write]) -> Purpose {
    let deployments: BTreeMap<DeploymentId, &Deployment> = writes
        .iter()
        .filter_map(|write| match write {
            Write::PutDeployment(dep) => Some((dep.id, dep.as_ref())),
            _ => None,
        })
        .collect();
    // One that has no replica yet was not there before; scaled to none it wants none.
    let new = |dep: &&Deployment| {
        dep.desired == Desired::Running && dep.replicas.is_empty() && dep.spec.replicas > 0
    };
    if deployments.values().any(new) {
        return Purpose::Growing;
    }
    let ends = |write: &Write| match write {
        Write::DeleteNode(_)
        | Write::DeleteDeployment(_)
        | Write::DeleteReplica(..)
        | Write::DeleteCommand(..)
        | Write::DeleteUsedKey(_)
        | Write::DeleteKey(_)
        | Write::DeleteUsage(_)
        | Write::DeleteAlias(_)
        | Write::DeleteOperation(_) => true,
        Write::PutCommand(command) => matches!(command.action, Action::Stop | Action::Delete),
        Write::PutNode(_)
        | Write::PutDeployment(_)
        | Write::PutReplica(..)
        | Write::PutEvent(_)
        | Write::DeleteEvent(..)
        | Write::PutUsedKey(_)
        | Write::PutPoison(_)
        | Write::DeletePoison(..)
        | Write::PutKey(_)
        | Write::PutUsage(_)
        | Write::PutAlias(_)
        | Write::PutOperation(_) => false,
    };
    // What an operator does where no record changes with it, such as bringing an actor back.
    let audit = |write: &Write| match write {
        Write::PutEvent(event) => event.ring() == Ring::Audit,
        write => matches!(write, Write::DeleteEvent(Ring::Audit, _)),
    };
    if writes.iter().all(audit) {
        return Purpose::Freeing;
    }
    let running = deployments.values().any(|dep| dep.desired == Desired::Running);
    let stops = deployments.values().any(|dep| dep.desired != Desired::Running);
    if !running && (stops || writes.iter().any(ends)) { Purpose::Freeing } else { Purpose::Keeping }
}

fn batch(writes: Vec<Write>) -> Result<Batch, StoreError> {
    let mut batch = Batch::new();
    for write in writes {
        batch = match write {
            Write::PutNode(node) => batch.put(keys::node(&node.id), records::node(&node)?),
            Write::DeleteNode(id) => batch.delete(keys::node(&id)),
            Write::PutDeployment(dep) => batch.put(keys::deployment(dep.id), records::deployment(&dep)?),
            Write::DeleteDeployment(id) => batch.delete(keys::deployment(id)),
            Write::PutReplica(dep, replica) => {
                batch.put(keys::replica(dep, replica.id), records::replica(&replica)?)
            }
            Write::DeleteReplica(dep, id) => batch.delete(keys::replica(dep, id)),
            Write::PutCommand(command) => {
                batch.put(keys::command(&command.node_id, command.id), records::command(&command)?)
            }
            Write::DeleteCommand(node, id) => batch.delete(keys::command(&node, id)),
            Write::PutEvent(event) => {
                batch.put(keys::event(&event.ring(), event.seq), records::event(&event)?)
            }
            Write::DeleteEvent(ring, seq) => batch.delete(keys::event(&ring, seq)),
            Write::PutUsedKey(used) => batch.put(keys::used_key(&used.key), records::used_key(&used)?),
            Write::DeleteUsedKey(key) => batch.delete(keys::used_key(&key)),
            Write::PutPoison(poison) => {
                batch.put(keys::poison(&poison.path, poison.fingerprint), records::poison(&poison)?)
            }
            Write::DeletePoison(path, fingerprint) => batch.delete(keys::poison(&path, fingerprint)),
            Write::PutKey(key) => batch.put(keys::api_key(key.id), records::api_key(&key)?),
            Write::DeleteKey(id) => batch.delete(keys::api_key(id)),
            Write::PutUsage(row) => batch.put(keys::usage(&row.id()), records::usage(&row)?),
            Write::DeleteUsage(id) => batch.delete(keys::usage(&id)),
            Write::PutAlias(alias) => batch.put(keys::alias(&alias.name), records::alias(&alias)?),
            Write::DeleteAlias(name) => batch.delete(keys::alias(&name)),
            Write::PutOperation(operation) => {
                batch.put(keys::operation(operation.id), records::operation(&operation)?)
            }
            Write::DeleteOperation(id) => batch.delete(keys::operation(id)),
        };
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use nebula_core::clock::WallTime;
    use nebula_core::ids::{CommandId, Generation, ReplicaId};
    use nebula_core::token::{Secret, TokenHash};

    use super::*;
    use crate::domain::deployment::DeploymentSpec;

    fn deployment(desired: Desired, replicas: u32) -> Write {
        let spec =
            DeploymentSpec { replicas, ..DeploymentSpec::plain("llama", "sim".parse().expect("a runtime")) };
        Write::PutDeployment(Box::new(Deployment {
            revision: Generation::FIRST,
            previous: None,
            old_token: None,
            hint: None,
            id: DeploymentId::from_bytes([1; 16]),
            name: "llama".to_owned(),
            spec,
            desired,
            generation: Generation(1),
            token: TokenHash::of("nbtok_x"),
            gateway_token: Secret::from_text("nbgw_x"),
            created_at: WallTime(1),
            updated_at: WallTime(1),
            replicas: Vec::new(),
        }))
    }

    #[test]
    fn a_new_deployment_grows_and_what_stops_or_ends_frees() {
        let done = Write::DeleteCommand("node-1".parse().expect("an id"), CommandId::random());
        let gone = Write::DeleteReplica(DeploymentId::from_bytes([1; 16]), ReplicaId::random());
        for (writes, expected) in [
            (vec![deployment(Desired::Running, 1)], Purpose::Growing),
            (vec![deployment(Desired::Running, 0)], Purpose::Keeping),
            (vec![deployment(Desired::Stopped, 1)], Purpose::Freeing),
            (vec![deployment(Desired::Deleted, 1)], Purpose::Freeing),
            (vec![done], Purpose::Freeing),
            (vec![gone, deployment(Desired::Running, 0)], Purpose::Keeping),
            (vec![deployment(Desired::Running, 1), deployment(Desired::Deleted, 1)], Purpose::Freeing),
        ] {
            assert_eq!(purpose(&writes), expected, "{writes:?}");
        }
    }
}
