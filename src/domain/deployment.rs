//! Deployments: what the user wants (spec and desired state) beside what is (replicas and their phases).

use std::collections::BTreeSet;
use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, Generation, NodeId, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::source::ModelSource;
use nebula_core::token::{Secret, TokenHash};
use serde::Serialize;

use super::command::Action;
use super::report::{Progress, Seen};

mod spec;

pub use self::spec::{
    Autoscale, CpuNeed, DRAIN_DEFAULT, DeploymentSpec, GpuNeed, LostAfter, Policy, Strategy,
};

/// What the user wants of a deployment as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Its replicas run.
    Running,
    /// Nothing runs; the deployment stays.
    Stopped,
    /// Nothing of it remains.
    Deleted,
}

/// A deployment: everything of it that must survive a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Unique among deployments; the public model name.
    pub name: String,
    /// What is wanted of each replica.
    pub spec: DeploymentSpec,
    /// What is wanted of the whole.
    pub desired: Desired,
    /// Grows with each change of what runs, each restart and each start.
    pub generation: Generation,
    /// The generation at which what runs was last changed: the version of the spec.
    pub revision: Generation,
    /// The spec that the present one replaces, until that runs; what a change that fails goes back to.
    pub previous: Option<Box<Previous>>,
    /// What the deployment token hashes to.
    pub token: TokenHash,
    /// The token before, as long as it is valid too.
    pub old_token: Option<OldToken>,
    /// How much GPU memory the model is thought to need, if that could be found out.
    pub hint: Option<MemoryHint>,
    /// What the gateway shows to agents' proxies.
    pub gateway_token: Secret,
    /// When it was created.
    pub created_at: WallTime,
    /// When its spec or desired state last changed.
    pub updated_at: WallTime,
    /// Its copies, by index.
    pub replicas: Vec<Replica>,
}

/// A spec that is being replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// It.
    pub spec: DeploymentSpec,
    /// Its version: replicas with it run it.
    pub revision: Generation,
}

/// A deployment token that was replaced and is valid for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldToken {
    /// What it hashes to.
    pub hash: TokenHash,
    /// When it ends.
    pub until: WallTime,
}

/// How much GPU memory a model is thought to need. A hint: nothing is refused for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryHint {
    /// In all, over all GPUs of one replica, in bytes.
    pub bytes: u64,
    /// The weights alone, as they are fetched, in bytes.
    pub weights_bytes: u64,
    /// The arithmetic, for people.
    pub how: String,
}

/// One copy of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its id; kept when it is restarted in place.
    pub id: ReplicaId,
    /// Its place among the copies.
    pub index: u32,
    /// What it was last told to run; commands and reports about it carry this.
    pub generation: Generation,
    /// The version of the spec that it is for.
    pub revision: Generation,
    /// Where it is; none while it waits for a place.
    pub placement: Option<Placement>,
    /// Where it stands.
    pub phase: Phase,
    /// It is surplus and on its way out.
    pub leaving: bool,
    /// Container or process id.
    pub container_id: String,
    /// The runtime's port on its node.
    pub port: u16,
    /// Why it waits or failed, or what it is doing.
    pub message: String,
    /// How often its agent started it again.
    pub restarts: u32,
    /// What its agent sees right now. Not stored: it says nothing that a restart of nebulad must know.
    pub seen: Seen,
}

impl Replica {
    /// The replica as it is stored.
    #[must_use]
    pub fn stored(&self) -> Self {
        Self { seen: Seen::default(), ..self.clone() }
    }

    /// Whether its place is on this node.
    #[must_use]
    pub fn is_on(&self, node: &NodeId) -> bool {
        self.placement.as_ref().is_some_and(|place| place.node_id == *node)
    }

    /// How far its preparation, its start or its end has got, as its agent last said.
    #[must_use]
    pub fn progress(&self) -> Option<&Progress> {
        let comes = matches!(self.phase, Phase::Preparing | Phase::Starting | Phase::Stopping);
        self.seen.progress.as_ref().filter(|_| comes)
    }

    /// One line that explains its state, or nothing: how far it has got, else why it stands there.
    #[must_use]
    pub fn told(&self) -> String {
        match self.progress() {
            Some(progress) => progress.to_string(),
            None => self.message.clone(),
        }
    }
}

/// The place of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node_id: NodeId,
    /// For people.
    pub node_name: String,
    /// The agent's auth proxy, as last known.
    pub proxy: HostPort,
    /// Indices of the GPUs that are reserved for it.
    pub gpu_devices: Vec<u32>,
}

/// Where a replica, or a deployment as a whole, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It waits for a place.
    Pending,
    /// Model or image are being fetched.
    Preparing,
    /// The runtime loads.
    Starting,
    /// It answers.
    Running,
    /// Its node is offline.
    Unreachable,
    /// It is being stopped.
    Stopping,
    /// It was stopped on purpose.
    Stopped,
    /// It ended or never came up.
    Failed,
    /// The deployment is being deleted.
    Deleting,
}

impl Phase {
    /// All of them, in the order of their stored numbers.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Preparing,
        Self::Starting,
        Self::Running,
        Self::Unreachable,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Deleting,
    ];

    /// The word that people and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Unreachable => "unreachable",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }
}

impl Deployment {
    /// A deployment that is to run and has no replica yet.
    #[must_use]
    pub fn new(
        name: String,
        spec: DeploymentSpec,
        token: TokenHash,
        gateway_token: Secret,
        now: WallTime,
    ) -> Self {
        Self {
            id: DeploymentId::random(),
            name,
            spec,
            desired: Desired::Running,
            generation: Generation::FIRST,
            revision: Generation::FIRST,
            previous: None,
            token,
            old_token: None,
            hint: None,
            gateway_token,
            created_at: now,
            updated_at: now,
            replicas: Vec::new(),
        }
    }

    /// How long requests in flight may take before a runtime is stopped for this: what is deleted as a whole waits for
    /// nobody.
    #[must_use]
    pub fn drain(&self, action: &Action) -> Duration {
        match action {
            Action::Start(_) | Action::Stop => self.spec.drain,
            Action::Delete if self.desired != Desired::Deleted => self.spec.drain,
            Action::Delete | Action::Access { .. } => Duration::ZERO,
        }
    }

    /// What the deployment tokens that are valid hash to, the present one first.
    #[must_use]
    pub fn tokens(&self) -> Vec<TokenHash> {
        std::iter::once(self.token).chain(self.old_token.map(|old| old.hash)).collect()
    }

    /// Whether what the scheduler has reserved for a replica stays so: what was stopped keeps its record on its node and
    /// nothing else there.
    #[must_use]
    pub fn holds_place(&self, replica: &Replica) -> bool {
        replica.placement.is_some() && replica.phase != Phase::Stopped
    }

    /// The name under which the runtime serves the model: the deployment's, as each runtime is told, but for Ollama,
    /// whose models keep the name under which they were pulled.
    #[must_use]
    pub fn served_name(&self) -> &str {
        match (&self.spec.source, self.spec.runtime) {
            (Some(ModelSource::Ollama { tag }), RuntimeKind::Ollama) => tag,
            _ => &self.name,
        }
    }

    /// Whether a node that says it has this replica may have it: the replica has its place there, or is to get one.
    /// After an older copy of the store was put back, nodes may run a replica that was given another place since.
    #[must_use]
    pub fn expects(&self, replica: ReplicaId, node: &NodeId) -> bool {
        let here = |known: &Replica| match &known.placement {
            Some(place) => place.node_id == *node,
            None => self.desired == Desired::Running,
        };
        self.replicas.iter().any(|known| known.id == replica && here(known))
    }

    /// The state of the whole, as the API shows it: the best that any replica that is to stay has reached.
    #[must_use]
    pub fn state(&self) -> Phase {
        let staying = || self.replicas.iter().filter(|replica| !replica.leaving);
        match self.desired {
            Desired::Deleted => Phase::Deleting,
            Desired::Stopped if self.replicas.iter().all(|r| r.phase == Phase::Stopped) => Phase::Stopped,
            Desired::Stopped => Phase::Stopping,
            Desired::Running if self.spec.replicas == 0 && self.replicas.is_empty() => Phase::Stopped,
            Desired::Running if self.spec.replicas == 0 => Phase::Stopping,
            Desired::Running => [
                Phase::Running,
                Phase::Starting,
                Phase::Preparing,
                Phase::Unreachable,
                Phase::Failed,
                Phase::Pending,
                Phase::Stopping,
            ]
            .into_iter()
            .find(|phase| staying().any(|replica| replica.phase == *phase))
            .unwrap_or(Phase::Pending),
        }
    }

    /// How many of the copies that are wanted have a replica that runs, of those that `counts` counts.
    fn running(&self, counts: impl Fn(&Replica) -> bool) -> usize {
        let staying = self.replicas.iter().filter(|replica| !replica.leaving && counts(replica));
        let running = staying.filter(|replica| replica.phase == Phase::Running);
        running.map(|replica| replica.index).collect::<BTreeSet<u32>>().len()
    }

    /// Whether it is to run without a replica until somebody asks.
    #[must_use]
    pub fn sleeps(&self) -> bool {
        let to_zero = self.spec.autoscale.is_some_and(|scale| scale.min == 0);
        self.desired == Desired::Running && self.spec.replicas == 0 && to_zero
    }

    /// One line that explains the state, or nothing.
    #[must_use]
    pub fn message(&self) -> String {
        let state = self.state();
        let staying = || self.replicas.iter().filter(|replica| !replica.leaving);
        match state {
            Phase::Running => {
                let wanted = self.spec.replicas;
                let other = staying().find(|r| r.phase != Phase::Running && !r.told().is_empty());
                let other = other.map(|other| format!("; {}", other.told())).unwrap_or_default();
                // Where one replica takes over from another there are two, and one is enough.
                let running = self.running(|_| true);
                let changed = self.running(|replica| replica.revision == self.revision);
                match &self.previous {
                    _ if running < wanted as usize => {
                        format!("{running} of {wanted} replicas running{other}")
                    }
                    Some(_) => {
                        format!("being changed: {changed} of {wanted} replicas run the new version{other}")
                    }
                    None => String::new(),
                }
            }
            Phase::Stopped if self.sleeps() => "no replica runs; a request starts one".to_owned(),
            _ => staying().find(|r| r.phase == state).map(Replica::told).unwrap_or_default(),
        }
    }
}

/// Whether `name` may name a deployment: 1 to 128 characters, letters and digits first, then also `._-/:@+`.
#[must_use]
pub fn is_deployment_name(name: &str) -> bool {
    let legal =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'@' | b'+');
    name.len() <= 128
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(legal)
        && name.parse::<DeploymentId>().is_err()
}

/// A name made from a model's: `meta-llama/Llama-3.1-8B` becomes `llama-3.1-8b`, `fs:///m/tiny.gguf` `tiny`.
#[must_use]
pub fn slug(model: &str) -> String {
    let path = model.split_once("://").map_or(model, |(_, rest)| rest);
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    let stem = last.strip_suffix(".gguf").unwrap_or(last);
    let mut slug = String::new();
    for c in stem.chars() {
        match c {
            'A'..='Z' => slug.push(c.to_ascii_lowercase()),
            'a'..='z' | '0'..='9' | '.' | '_' => slug.push(c),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    let slug = slug.trim_matches(['-', '.', '_']);
    let cut = slug.get(..64).unwrap_or(slug);
    match cut {
        "" => "model".to_owned(),
        // It would be taken for an id.
        _ if cut.parse::<DeploymentId>().is_ok() => format!("model-{cut}"),
        _ => cut.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_made_of_a_models_last_part() {
        for (model, name) in [
            ("llama3.2:1b", "llama3.2-1b"),
            ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
            ("fs:///models/tiny.gguf", "tiny"),
            ("/models/dir/", "dir"),
            ("***", "model"),
            ("demo", "demo"),
            ("550e8400e29b41d4a716446655440000", "model-550e8400e29b41d4a716446655440000"),
        ] {
            assert_eq!(slug(model), name, "{model}");
            assert!(is_deployment_name(&slug(model)));
        }
    }

    #[test]
    fn names_that_could_be_ids_or_break_a_line_are_refused() {
        for name in ["", "-a", "a b", "a\nb", "550e8400-e29b-41d4-a716-446655440000", &"x".repeat(129)] {
            assert!(!is_deployment_name(name), "{name}");
        }
        assert!(is_deployment_name("meta-llama/Llama-3.1-8B"));
    }

    fn replica(n: u8, index: u32, phase: Phase, revision: u64) -> Replica {
        Replica {
            id: ReplicaId::from_bytes([n; 16]),
            index,
            generation: Generation(revision),
            revision: Generation(revision),
            placement: None,
            phase,
            leaving: false,
            container_id: String::new(),
            port: 0,
            message: if phase == Phase::Pending { "no room".to_owned() } else { String::new() },
            restarts: 0,
            seen: Seen::default(),
        }
    }

    fn deployment(wanted: u32, replicas: Vec<Replica>) -> Deployment {
        let spec = DeploymentSpec { replicas: wanted, ..DeploymentSpec::plain("m", RuntimeKind::Sim) };
        let (token, gateway) = (TokenHash::of("nbtok_x"), Secret::from_text("nbgw_x"));
        Deployment { replicas, ..Deployment::new("m".to_owned(), spec, token, gateway, WallTime(1)) }
    }

    #[test]
    fn a_successor_is_not_one_more_and_a_change_says_how_far_it_is() {
        let run = |n, index, revision| replica(n, index, Phase::Running, revision);
        let wait = |n, index, revision| replica(n, index, Phase::Pending, revision);
        let changing = |dep: Deployment| {
            let previous = Previous { spec: dep.spec.clone(), revision: Generation(1) };
            Deployment { revision: Generation(2), previous: Some(Box::new(previous)), ..dep }
        };
        for (what, dep, message) in [
            ("all run", deployment(2, vec![run(1, 0, 1), run(2, 1, 1)]), ""),
            (
                "one waits",
                deployment(2, vec![run(1, 0, 1), wait(2, 1, 1)]),
                "1 of 2 replicas running; no room",
            ),
            ("one moves", deployment(1, vec![run(1, 0, 1), wait(2, 0, 1)]), ""),
            (
                "both of one index run, the other waits",
                deployment(2, vec![run(1, 0, 1), run(2, 0, 1), wait(3, 1, 1)]),
                "1 of 2 replicas running; no room",
            ),
            (
                "a change",
                changing(deployment(2, vec![run(1, 0, 2), run(2, 1, 1), wait(3, 1, 2)])),
                "being changed: 1 of 2 replicas run the new version; no room",
            ),
        ] {
            assert_eq!((dep.state(), dep.message().as_str()), (Phase::Running, message), "{what}");
        }
    }

    #[test]
    fn what_runs_is_kept_on_other_terms() {
        let old =
            DeploymentSpec { args: vec!["--a".to_owned()], ..DeploymentSpec::plain("m", RuntimeKind::Sim) };
        let new =
            DeploymentSpec { public: true, replicas: 7, ..DeploymentSpec::plain("n", RuntimeKind::Vllm) };
        let kept = old.on_terms_of(&new);
        assert!(kept.runs_as(&old) && !kept.runs_as(&new));
        assert_eq!((kept.public, kept.replicas), (true, 7));
    }
}
