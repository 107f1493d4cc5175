//! The stored form of commands.

use std::time::Duration;

use bincode::{Decode, Encode};
use nebula_core::clock::WallTime;
use nebula_core::ids::{CommandId, DeploymentId, Generation, ReplicaId};
use nebula_core::token::{Secret, TokenHash};
use nebula_store::Record;

use super::{Map, kind, parse, parse_some, read_either, write_as};
use crate::domain::command::{Action, Command, StartSpec};
use crate::ports::StoreError;

/// The schema in which commands are written. Older ones are read.
const SCHEMA: u16 = 2;

/// Commands before they said how long requests may take.
#[derive(Encode, Decode)]
struct CommandV1 {
    id: [u8; 16],
    node_id: String,
    deployment_id: [u8; 16],
    replica_id: [u8; 16],
    generation: u64,
    action: ActionV1,
    created_at: u64,
}

/// Variants are only ever added at the end.
#[derive(Encode, Decode)]
enum ActionV1 {
    Start(Box<StartV1>),
    Stop,
    Delete,
    Access { token: Option<[u8; 32]>, public: bool },
    AccessOf { tokens: Vec<[u8; 32]>, public: bool },
}

/// The first with what has been added since.
#[derive(Encode, Decode)]
struct CommandV2 {
    first: CommandV1,
    drain_secs: u64,
}

impl From<CommandV1> for CommandV2 {
    fn from(first: CommandV1) -> Self {
        Self { first, drain_secs: 0 }
    }
}

#[derive(Encode, Decode)]
struct StartV1 {
    runtime: String,
    driver: Option<String>,
    image: String,
    model: String,
    source: Option<String>,
    command: Vec<String>,
    args: Vec<String>,
    env: Map,
    gpu_devices: Vec<u32>,
    served_name: String,
    public: bool,
    token: Option<[u8; 32]>,
    gateway_token: String,
}

pub(in crate::store) fn command(command: &Command) -> Result<Record, StoreError> {
    let first = CommandV1 {
        id: *command.id.as_bytes(),
        node_id: command.node_id.to_string(),
        deployment_id: *command.deployment_id.as_bytes(),
        replica_id: *command.replica_id.as_bytes(),
        generation: command.generation.0,
        action: match &command.action {
            Action::Start(spec) => ActionV1::Start(Box::new(start(spec))),
            Action::Stop => ActionV1::Stop,
            Action::Delete => ActionV1::Delete,
            Action::Access { tokens, public } => ActionV1::AccessOf {
                tokens: tokens.iter().map(|token| *token.as_bytes()).collect(),
                public: *public,
            },
        },
        created_at: command.created_at.0,
    };
    let stored = CommandV2 { first, drain_secs: command.drain.as_secs() };
    write_as(kind::COMMAND, SCHEMA, &format!("command {}", command.id), &stored)
}

fn start(spec: &StartSpec) -> StartV1 {
    StartV1 {
        runtime: spec.runtime.to_string(),
        driver: spec.driver.map(|driver| driver.to_string()),
        image: spec.image.clone(),
        model: spec.model.clone(),
        source: spec.source.as_ref().map(ToString::to_string),
        command: spec.command.clone(),
        args: spec.args.clone(),
        env: spec.env.clone(),
        gpu_devices: spec.gpu_devices.clone(),
        served_name: spec.served_name.clone(),
        public: spec.public,
        token: spec.token.map(|token| *token.as_bytes()),
        gateway_token: spec.gateway_token.expose().to_owned(),
    }
}

fn read_start(stored: StartV1) -> Result<StartSpec, StoreError> {
    Ok(StartSpec {
        runtime: parse(&stored.runtime)?,
        driver: parse_some(stored.driver.as_ref())?,
        image: stored.image,
        model: stored.model,
        source: parse_some(stored.source.as_ref())?,
        command: stored.command,
        args: stored.args,
        env: stored.env,
        gpu_devices: stored.gpu_devices,
        served_name: stored.served_name,
        public: stored.public,
        token: stored.token.map(TokenHash::from_bytes),
        gateway_token: Secret::from_text(stored.gateway_token),
    })
}

pub(in crate::store) fn read_command(record: &Record) -> Result<Command, StoreError> {
    let CommandV2 { first: stored, drain_secs } =
        read_either::<CommandV1, CommandV2>(kind::COMMAND, SCHEMA, record, CommandV2::from)?;
    Ok(Command {
        id: CommandId::from_bytes(stored.id),
        node_id: parse(&stored.node_id)?,
        deployment_id: DeploymentId::from_bytes(stored.deployment_id),
        replica_id: ReplicaId::from_bytes(stored.replica_id),
        generation: Generation(stored.generation),
        action: match stored.action {
            ActionV1::Start(start) => Action::Start(Box::new(read_start(*start)?)),
            ActionV1::Stop => Action::Stop,
            ActionV1::Delete => Action::Delete,
            ActionV1::Access { token, public } => {
                Action::Access { tokens: token.into_iter().map(TokenHash::from_bytes).collect(), public }
            }
            ActionV1::AccessOf { tokens, public } => {
                Action::Access { tokens: tokens.into_iter().map(TokenHash::from_bytes).collect(), public }
            }
        },
        drain: Duration::from_secs(drain_secs),
        created_at: WallTime(stored.created_at),
    })
}
