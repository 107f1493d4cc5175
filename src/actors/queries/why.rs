//! Why a deployment stands where it does, in one answer: what is wanted, what is, what its replicas went through and
//! said last, which nodes do not take it, and what happens next.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join_all, join3};
use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};
use serde::Serialize;

use self::told::exit_code_in;
use crate::actors::deployment::machine::Next;
use crate::actors::journal::Filter;
use crate::actors::scheduler::machine::{Explanation, Refusal};
use crate::actors::scheduler::{self, Explain};
use crate::actors::session::SessionStatus;
use crate::actors::system::System;
use crate::domain::deployment::{Autoscale, Deployment, Desired, MemoryHint, Phase, Replica};
use crate::domain::error::Error;
use crate::domain::event::{EVENTS_PER_DEPLOYMENT_MAX, JournalEvent};
use crate::ports::LogQuery;

mod told;

/// Lines of the journal that are told of each replica, the newest.
const ATTEMPTS_MAX: usize = 6;
/// Replicas whose logs are looked at.
const LOGS_MAX: usize = 8;
/// Lines of each of these logs, the last.
const LOG_LINES: usize = 20;
/// The most that is read of a log's last lines.
const LOG_BYTES_MAX: usize = 32 << 10;
/// How long an agent may take to send them.
const LOG_WAIT: Duration = Duration::from_secs(2);

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Why {
    /// All of it in one line.
    pub summary: String,
    /// The deployment's name.
    pub name: String,
    /// Its id.
    pub id: DeploymentId,
    /// Its state.
    pub state: Phase,
    /// What is wanted.
    pub wanted: Wanted,
    /// What is.
    pub is: Is,
    /// Each replica.
    pub replicas: Vec<WhyReplica>,
    /// The nodes that do not take a replica that waits for a place.
    pub refused: Vec<Refused>,
    /// How many more there are of these.
    pub refused_more: usize,
    /// Nodes that would take it, the best first.
    pub fits: Vec<String>,
    /// How much GPU memory the model is thought to need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<MemoryHint>,
    /// How far the last change of what runs has come, as far as that is remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_change: Option<Attempt>,
    /// What happens next by itself.
    pub next: Vec<NextStep>,
}

/// What is wanted.
#[derive(Clone, Debug, Serialize)]
pub struct Wanted {
    /// In one line.
    pub summary: String,
    /// Of the whole.
    pub desired_state: Desired,
    /// How many replicas.
    pub replicas: u32,
    /// Who says how many.
    pub autoscale: Option<Autoscale>,
    /// The version of it.
    pub generation: u64,
}

/// What is.
#[derive(Clone, Debug, Serialize)]
pub struct Is {
    /// In one line.
    pub summary: String,
    /// Replicas that answer.
    pub running: usize,
    /// Replicas there are, those on their way out included.
    pub replicas: usize,
    /// What runs is being replaced by another version.
    pub changing: bool,
}

/// One replica.
#[derive(Clone, Debug, Serialize)]
pub struct WhyReplica {
    /// Its place among the copies.
    pub index: u32,
    /// Its id.
    pub id: ReplicaId,
    /// Its state.
    pub state: Phase,
    /// The node's name; none while it waits for a place.
    pub node: Option<String>,
    /// How far it has got, or why it stands there.
    pub message: String,
    /// It is on its way out.
    pub leaving: bool,
    /// How often its agent started it again.
    pub restarts: u32,
    /// What it went through, the newest last.
    pub attempts: Vec<Attempt>,
    /// The last lines of its log, if it does not run and they can be had.
    pub log_tail: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// When, RFC 3339.
    pub time: String,
    /// `placed`, `starting`, `running`, `failed` …
    #[serde(rename = "type")]
    pub kind: String,
    /// One line.
    pub message: String,
    /// How the runtime ended, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// A node that does not take a replica.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    /// Its name.
    pub node: String,
    /// Its id.
    pub node_id: NodeId,
    /// Why.
    pub reason: String,
}

/// Something that happens by itself.
#[derive(Clone, Debug, Serialize)]
pub struct NextStep {
    /// In words.
    pub what: String,
    /// When, RFC 3339; none: when something else has happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The replica concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaId>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let Refusal { node_id, node_name, reason } = refusal;
        Self { node: node_name, node_id, reason }
    }
}

impl NextStep {
    fn of(next: &Next) -> Self {
        let Next { what, at, replica } = next;
        Self { what: what.clone(), at: at.map(WallTime::rfc3339), replica: *replica }
    }
}

impl Attempt {
    fn of(event: &JournalEvent) -> Self {
        let line = &event.line;
        Self {
            time: line.time.rfc3339(),
            kind: line.kind.clone(),
            message: line.message.clone(),
            exit_code: exit_code_in(&line.message),
        }
    }
}

/// How far the last change of what runs has come, and whether it had failed: of such a one also why.
fn last_change(lines: &[Arc<JournalEvent>]) -> Option<(Attempt, bool)> {
    let mut told = lines.iter().rev().filter(|event| told::tells_of_a_change(&event.line.kind));
    let mut last = Attempt::of(told.next()?);
    let before = told.next().filter(|event| event.line.kind == "change_failed");
    let failed = before.filter(|_| last.kind == "rolled_back");
    if let Some(failed) = failed {
        last.message = format!("{}; {}", failed.line.message, last.message);
    }
    Some((last, failed.is_some()))
}

fn waits_for_a_place(replica: &Replica) -> bool {
    replica.placement.is_none() && !replica.leaving
}

/// What the nodes say now counts, not what they said when a replica last asked.
fn as_of_now(dep: &Deployment, nodes: &Explanation) -> Deployment {
    let mut dep = dep.clone();
    if dep.desired == Desired::Running {
        let waiting = dep.replicas.iter_mut().filter(|replica| waits_for_a_place(replica));
        waiting.for_each(|replica| replica.message.clone_from(&nodes.said));
    }
    dep
}

impl System {
    /// Why a deployment stands where it does. Reserves and changes nothing.
    ///
    /// # Errors
    /// `NotFound`, `Restarting` while it is being built, or what the store says.
    pub async fn why(&self, name: &str) -> Result<Why, Error> {
        let status = self.deployment_status(name).await?;
        let filter = Filter::of_deployment(status.deployment.id);
        let journal = self.journal.page(0, EVENTS_PER_DEPLOYMENT_MAX, &filter);
        let (tails, nodes) = (self.log_tails(&status.deployment), self.explained(&status.deployment));
        let (page, tails, nodes) = join3(journal, tails, nodes).await;
        let (lines, nodes) = (page?.events, nodes?);
        let dep = &as_of_now(&status.deployment, &nodes);
        let (last_change, taken_back) = last_change(&lines).unzip();
        let replicas: Vec<WhyReplica> = dep
            .replicas
            .iter()
            .map(|replica| {
                let found = tails.iter().find(|(id, _)| *id == replica.id);
                let log_tail = found.map(|(_, tail)| tail.clone()).unwrap_or_default();
                self.why_replica(dep, replica, &lines, log_tail)
            })
            .collect();
        Ok(Why {
            summary: told::summary(dep, taken_back.unwrap_or_default()),
            name: dep.name.clone(),
            id: dep.id,
            state: dep.state(),
            wanted: told::wanted(dep),
            is: told::is(dep),
            replicas,
            refused: nodes.refused.into_iter().map(Refused::from).collect(),
            refused_more: nodes.more,
            fits: nodes.fits,
            hint: dep.hint.clone(),
            last_change,
            next: status.next.iter().map(NextStep::of).collect(),
        })
    }

    /// What the nodes say to the first replica that waits for a place; nothing when none does.
    async fn explained(&self, dep: &Deployment) -> Result<Explanation, Error> {
        let waiting = dep
            .replicas
            .iter()
            .find(|replica| waits_for_a_place(replica))
            .filter(|_| dep.desired == Desired::Running);
        let Some(replica) = waiting else { return Ok(Explanation::default()) };
        let request = scheduler::request(dep, replica.id);
        self.scheduler.ask(scheduler::PATH, Explain(request)).await
    }

    fn why_replica(
        &self,
        dep: &Deployment,
        replica: &Replica,
        lines: &[Arc<JournalEvent>],
        log_tail: Vec<String>,
    ) -> WhyReplica {
        let own: Vec<&Arc<JournalEvent>> =
            lines.iter().filter(|event| event.line.replica == Some(replica.id)).collect();
        let newest = own.iter().skip(own.len().saturating_sub(ATTEMPTS_MAX));
        let mut attempts: Vec<Attempt> = newest.map(|event| Attempt::of(event)).collect();
        let last = attempts.iter_mut().rfind(|attempt| attempt.kind == Phase::Failed.as_str());
        if let Some(last) = last.filter(|_| replica.phase == Phase::Failed) {
            last.exit_code = self.exit_code(dep, replica).or(last.exit_code);
        }
        WhyReplica {
            index: replica.index,
            id: replica.id,
            state: replica.phase,
            node: replica.placement.as_ref().map(|place| place.node_name.clone()),
            message: replica.told(),
            leaving: replica.leaving,
            restarts: replica.restarts,
            attempts,
            log_tail,
        }
    }

    /// How the runtime of a replica that failed ended, as its agent last said.
    fn exit_code(&self, dep: &Deployment, replica: &Replica) -> Option<i32> {
        let place = replica.placement.as_ref()?;
        let session = self.tree.cell(&crate::actors::session::path(&place.node_id))?;
        let facts = session.status::<SessionStatus>()?.facts_for(dep.id)?;
        facts.replicas.iter().find(|report| report.replica_id == replica.id)?.exit_code
    }

    /// The last lines of the logs of replicas that have a place and do not run.
    async fn log_tails(&self, dep: &Deployment) -> Vec<(ReplicaId, Vec<String>)> {
        let down = dep
            .replicas
            .iter()
            .filter(|replica| !matches!(replica.phase, Phase::Running | Phase::Unreachable | Phase::Stopped));
        let tails = down.filter_map(|replica| {
            let node = replica.placement.as_ref()?.node_id.clone();
            Some(async move {
                let tail = tokio::time::timeout(LOG_WAIT, self.log_tail(dep.id, replica, &node)).await;
                (replica.id, tail.ok().flatten().unwrap_or_default())
            })
        });
        join_all(tails.take(LOGS_MAX)).await
    }

    /// The last lines of one log: of one that starts again those of the attempt before.
    async fn log_tail(
        &self,
        deployment: DeploymentId,
        replica: &Replica,
        node: &NodeId,
    ) -> Option<Vec<String>> {
        let (update, _) = self.node_by_id(node).await.ok()?;
        let query = LogQuery {
            deployment,
            replica: replica.id,
            tail: u32::try_from(LOG_LINES).unwrap_or(u32::MAX),
            follow: false,
            previous: replica.restarts > 0 && replica.phase != Phase::Failed,
        };
        let mut pieces = self.agents.logs(&update.node.address, query).await.ok()?;
        let mut text = Vec::new();
        while let Some(Ok(piece)) = pieces.next().await {
            text.extend_from_slice(&piece);
            if text.len() > LOG_BYTES_MAX {
                text.drain(..text.len() - LOG_BYTES_MAX);
            }
        }
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(LOG_LINES));
        Some(last.map(|line| (*line).to_owned()).collect())
    }
}
