//! What the API shows of deployments, nodes and events.

use nebula_core::ids::OperationId;
use serde_json::{Value, json};

use crate::actors::queries::{DeploymentRow, NodePicture};
use crate::actors::tree::Life;
use crate::domain::deployment::{Deployment, Phase, Replica};
use crate::domain::event::{JournalEvent, Subject};
use crate::domain::operation::Operation;

/// A deployment.
pub(super) fn deployment(dep: &Deployment, gateway_url: &str) -> Value {
    let spec = &dep.spec;
    json!({
        "id": dep.id,
        "name": dep.name,
        "model": spec.model,
        "source": spec.source,
        "runtime": spec.runtime,
        "driver": spec.driver,
        "image": spec.image,
        "state": dep.state(),
        "desired_state": dep.desired,
        "message": dep.message(),
        "generation": dep.generation,
        "revision": dep.revision,
        "changing": dep.previous.is_some(),
        "public": spec.public,
        "endpoint": gateway_url,
        "replicas": dep.replicas.iter().map(|each| replica(dep, each)).collect::<Vec<_>>(),
        "spec": spec,
        "hint": dep.hint,
        "old_token_until": dep.old_token.map(|old| old.until.rfc3339()),
        "created_at": dep.created_at.rfc3339(),
        "updated_at": dep.updated_at.rfc3339(),
    })
}

/// A deployment whose actor has not said anything yet.
pub(super) fn unseen_deployment(row: &DeploymentRow) -> Value {
    let (state, message) = match row.life {
        Life::Crashed => (Phase::Failed, "its actor has crashed; GET /admin/actors says why"),
        Life::Starting | Life::Running | Life::Stopping | Life::Restarting => {
            (Phase::Pending, "its actor is starting")
        }
    };
    json!({"id": row.id, "name": row.name, "state": state, "message": message, "replicas": []})
}

fn replica(dep: &Deployment, replica: &Replica) -> Value {
    let place = replica.placement.as_ref();
    json!({
        "id": replica.id,
        "index": replica.index,
        "node_id": place.map(|place| &place.node_id),
        "node_name": place.map(|place| &place.node_name),
        "state": replica.phase,
        "generation": replica.generation,
        "revision": replica.revision,
        "leaving": replica.leaving,
        "endpoint": place.map(|place| format!("http://{}/d/{}", place.proxy, dep.id)),
        "container_id": replica.container_id,
        "port": replica.port,
        "gpu_devices": place.map(|place| place.gpu_devices.as_slice()).unwrap_or_default(),
        "message": replica.message,
        "progress": replica.progress(),
        "restarts": replica.restarts,
        "out_of_memory": replica.seen.out_of_memory,
    })
}

/// A node with the replicas that have their place on it, and the drain that empties it.
pub(super) fn node(picture: &NodePicture, replicas: &[Value], operation: Option<OperationId>) -> Value {
    let node = &picture.update.node;
    json!({
        "id": node.id,
        "name": node.name,
        "address": node.address,
        "state": picture.update.availability,
        "scheduling": node.scheduling,
        "operation": operation,
        "version": node.version,
        "gateway_subdomain": node.subdomain,
        "labels": node.labels,
        "capabilities": node.capabilities,
        "stats": picture.stats,
        "health": picture.health,
        "last_heartbeat_age_seconds": picture.heard_ago.map(|ago| ago.as_secs()),
        "created_at": node.created_at.rfc3339(),
        "replicas": replicas,
    })
}

/// A drain of a node.
pub(super) fn operation(operation: &Operation) -> Value {
    json!({
        "id": operation.id,
        "kind": "drain",
        "node": operation.node,
        "node_name": operation.node_name,
        "state": operation.state,
        "started_at": operation.started_at.rfc3339(),
        "until": operation.until.rfc3339(),
        "ended_at": operation.ended_at.map(|at| at.rfc3339()),
        "total": operation.total,
        "left": operation.left,
        "blocked": operation.blocked,
        "message": operation.message,
    })
}

/// A replica as its node's entry lists it.
pub(super) fn replica_on_node(dep: &Deployment, at: usize) -> Value {
    let replica = dep.replicas.get(at);
    json!({
        "id": replica.map(|replica| replica.id),
        "deployment_id": dep.id,
        "deployment": dep.name,
        "state": replica.map(|replica| replica.phase),
    })
}

/// A line of the journal.
pub(super) fn event(event: &JournalEvent) -> Value {
    let line = &event.line;
    let mut shown = json!({
        "seq": event.seq,
        "time": line.time.rfc3339(),
        "type": line.kind,
        "message": line.message,
    });
    let Some(fields) = shown.as_object_mut() else { return shown };
    let mut add = |name: &str, value: Option<Value>| {
        fields.extend(value.map(|value| (name.to_owned(), value)));
    };
    add("deployment", event.deployment().map(|id| json!(id)));
    add("replica", line.replica.map(|id| json!(id)));
    add("node", line.node.as_ref().map(|id| json!(id)));
    if let Subject::Audit { origin, .. } = &line.subject {
        let known = |text: &str| (!text.is_empty()).then(|| json!(text));
        add("by", known(&origin.by));
        add("request_id", known(&origin.request_id));
        add("address", known(&origin.address));
    }
    shown
}
