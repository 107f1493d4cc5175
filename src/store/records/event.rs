//! The stored form of the journal's lines.

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, ReplicaId};
use nebula_store::{Record, codec};

use super::{damaged, kind, parse, parse_some};
use crate::domain::event::{JournalEvent, Line, Origin, Subject};
use crate::ports::StoreError;

/// The schema in which lines are written. Older ones are read.
const SCHEMA: u16 = 2;

/// Lines of deployments, before there were others.
#[derive(Encode, Decode)]
struct EventV1 {
    seq: u64,
    time: u64,
    deployment: [u8; 16],
    kind: String,
    message: String,
    replica: Option<[u8; 16]>,
    node: Option<String>,
}

#[derive(Encode, Decode)]
struct EventV2 {
    seq: u64,
    time: u64,
    subject: SubjectV2,
    kind: String,
    message: String,
    replica: Option<[u8; 16]>,
    node: Option<String>,
}

/// Variants are only ever added at the end.
#[derive(Encode, Decode)]
enum SubjectV2 {
    Deployment([u8; 16]),
    Node(String),
    Fleet,
    Audit { by: String, request_id: String, address: String, deployment: Option<[u8; 16]> },
}

impl From<EventV1> for EventV2 {
    fn from(old: EventV1) -> Self {
        Self {
            seq: old.seq,
            time: old.time,
            subject: SubjectV2::Deployment(old.deployment),
            kind: old.kind,
            message: old.message,
            replica: old.replica,
            node: old.node,
        }
    }
}

pub(in crate::store) fn event(event: &JournalEvent) -> Result<Record, StoreError> {
    let line = &event.line;
    let stored = EventV2 {
        seq: event.seq,
        time: line.time.0,
        subject: match &line.subject {
            Subject::Deployment(id) => SubjectV2::Deployment(*id.as_bytes()),
            Subject::Node(id) => SubjectV2::Node(id.to_string()),
            Subject::Fleet => SubjectV2::Fleet,
            Subject::Audit { origin, deployment } => SubjectV2::Audit {
                by: origin.by.clone(),
                request_id: origin.request_id.clone(),
                address: origin.address.clone(),
                deployment: deployment.map(|id| *id.as_bytes()),
            },
        },
        kind: line.kind.clone(),
        message: line.message.clone(),
        replica: line.replica.map(|id| *id.as_bytes()),
        node: line.node.as_ref().map(ToString::to_string),
    };
    super::write_as(kind::EVENT, SCHEMA, &format!("event {}", event.seq), &stored)
}

pub(in crate::store) fn read_event(record: &Record) -> Result<JournalEvent, StoreError> {
    let unreadable = |error: codec::CodecError| damaged(error.to_string());
    let stored: EventV2 = match (record.kind, record.schema) {
        (kind::EVENT, 1) => codec::decode::<EventV1>(&record.payload).map_err(unreadable)?.into(),
        (kind::EVENT, SCHEMA) => codec::decode(&record.payload).map_err(unreadable)?,
        _ => return Err(super::misplaced(kind::EVENT, record)),
    };
    let subject = match stored.subject {
        SubjectV2::Deployment(id) => Subject::Deployment(DeploymentId::from_bytes(id)),
        SubjectV2::Node(id) => Subject::Node(parse(&id)?),
        SubjectV2::Fleet => Subject::Fleet,
        SubjectV2::Audit { by, request_id, address, deployment } => Subject::Audit {
            origin: Origin { by, request_id, address },
            deployment: deployment.map(DeploymentId::from_bytes),
        },
    };
    Ok(JournalEvent {
        seq: stored.seq,
        line: Line {
            time: WallTime(stored.time),
            subject,
            kind: stored.kind,
            message: stored.message,
            replica: stored.replica.map(ReplicaId::from_bytes),
            node: parse_some(stored.node.as_ref())?,
        },
    })
}
