//! Carrying out what nebulad sends with its answers: at least once delivered, at most once carried out.

use std::collections::HashMap;

use nebula_core::ids::Generation;
use nebula_proto::{PlatformCommand, StartRuntimeRequest};

use crate::replica::declined::Declined;
use crate::replica::machine::{Event, Refusal};
use crate::replica::manager::{Replicas, Selector};
use crate::replica::task::Refused;
use crate::request::{self, BadRequest};
use crate::store::commands::Done;
use crate::text;

/// What is told at most of each text of a start that is declined, in bytes.
const TOLD_MAX: usize = 1024;

/// What became of a command.
#[derive(Debug)]
enum Outcome {
    /// It took effect, or can never: nebulad need not send it again.
    Settled,
    /// It may work later.
    Later,
}

/// Carries out commands in their order.
pub(crate) struct Commands {
    replicas: Replicas,
    done: Done,
}

impl Commands {
    /// Takes the memory of earlier commands.
    pub(crate) fn new(replicas: Replicas, done: Done) -> Self {
        Self { replicas, done }
    }

    /// Carries out a command unless that was done before. Whether it is to be acknowledged.
    pub(crate) async fn obey(&mut self, command: PlatformCommand) -> bool {
        let id = command.id.clone();
        if id.is_empty() {
            tracing::warn!(kind = command.r#type, "command without an id is not carried out");
            return false;
        }
        if self.done.contains(&id) {
            return true;
        }
        let (kind, generation) = (command.r#type.clone(), command.generation);
        let deployment = command.target_id.clone();
        let result = self.carry_out(command).await;
        let outcome = match &result {
            Ok(()) => {
                tracing::info!(
                    command_id = id,
                    kind,
                    deployment_id = deployment,
                    generation,
                    "command carried out"
                );
                Outcome::Settled
            }
            Err(error) => {
                tracing::warn!(
                    command_id = id, kind, deployment_id = deployment, generation, %error,
                    "command not carried out"
                );
                outcome(error)
            }
        };
        if matches!(outcome, Outcome::Later) {
            return false;
        }
        // In memory it is remembered all the same, and generations make a repetition harmless.
        if let Err(error) = self.done.insert(&id).await {
            tracing::warn!(command_id = id, %error, "command not written down");
        }
        true
    }

    async fn carry_out(&self, command: PlatformCommand) -> Result<(), Refused> {
        let PlatformCommand { r#type, target_id, params, generation, replica_id, start, .. } = command;
        let number = generation;
        let generation = request::generation(number);
        let seconds = |name: &str| params.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let drain = request::drain(seconds("drain_seconds"));
        match r#type.as_str() {
            "start" => {
                let mut start = start.unwrap_or_default();
                for (field, given) in
                    [(&mut start.deployment_id, target_id), (&mut start.replica_id, replica_id)]
                {
                    if field.is_empty() {
                        *field = given;
                    }
                }
                if start.generation == 0 {
                    start.generation = number;
                }
                self.start(start).await
            }
            "stop" => {
                let grace = request::grace(seconds("timeout_seconds"));
                self.tell(&target_id, &replica_id, Event::Stop { generation, grace, drain }).await
            }
            "restart" => self.tell(&target_id, &replica_id, Event::Restart { generation }).await,
            "delete" => self.tell(&target_id, &replica_id, Event::Delete { generation, drain }).await,
            "access" => {
                let access = new_access(&params).map_err(refused)?;
                self.tell(&target_id, &replica_id, Event::SetAccess { access }).await
            }
            other => Err(Refused::Invalid(format!("unknown command \"{other}\""))),
        }
    }

    /// What can never be started is told as a replica that failed: nebulad waits for its report.
    async fn start(&self, start: StartRuntimeRequest) -> Result<(), Refused> {
        let ids = request::ids(&start);
        let (generation, model, runtime) =
            (Generation(start.generation), start.model.clone(), start.runtime.clone());
        let result = match request::start(start).map_err(refused) {
            Ok(start) => self.replicas.start(start).await.map(drop),
            Err(error) => Err(error),
        };
        if let (Err(Refused::Invalid(reason)), Ok((deployment, replica))) = (&result, ids) {
            let text = |text: String| text::clip(text, TOLD_MAX);
            let (model, runtime, reason) =
                (text(model), text(runtime), text(format!("cannot_start: {reason}")));
            self.replicas.decline(Declined { deployment, replica, generation, model, runtime, reason });
        }
        result
    }

    async fn tell(&self, deployment: &str, replica: &str, event: Event) -> Result<(), Refused> {
        let meant: Selector = request::selector(deployment, replica).map_err(refused)?;
        self.replicas.tell(meant, &event).await
    }
}

/// The parameters of "access": hashes separated by commas, and whether no token is needed.
fn new_access(params: &HashMap<String, String>) -> Result<crate::replica::spec::Access, BadRequest> {
    let text = |name: &str| params.get(name).map(String::as_str).unwrap_or_default();
    let hashes = request::hashes(text("access_token_sha256"));
    request::new_access(text("is_public") == "true", &hashes, text("gateway_token"))
}

fn refused(error: BadRequest) -> Refused {
    Refused::Invalid(error.to_string())
}

fn outcome(error: &Refused) -> Outcome {
    match error {
        Refused::Machine(Refusal::Stale { .. } | Refusal::Unknown) | Refused::Invalid(_) => Outcome::Settled,
        Refused::Machine(Refusal::Deleting | Refusal::Halting)
        | Refused::Exhausted(_)
        | Refused::Unavailable(_) => Outcome::Later,
    }
}
