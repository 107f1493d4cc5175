//! What one simulated node runs: replicas that prepare for a while and then run. Pure: told the time, keeps what the
//! real agent keeps of commands (ids that were carried out, and the highest generation of each replica).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use nebula_core::clock::Tick;
use nebula_proto::{AgentDeploymentStatus, PlatformCommand, StartRuntimeRequest};

/// Ids of commands that are remembered.
const DONE_MAX: usize = 1_000;
/// Acknowledgements that wait for the next heartbeat.
const ACKS_MAX: usize = 1_024;
/// Replicas' first port; nothing listens there.
const FIRST_PORT: i32 = 30_000;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// Carried out.
    Carried(&'static str),
    /// It was carried out before.
    Repeated,
    /// A newer one was carried out, or there is no such replica.
    Stale,
    /// No such command.
    Unknown,
}

impl Done {
    /// The word under which it is counted.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Carried(kind) => kind,
            Self::Repeated => "repeated",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preparing(Tick),
    Running,
    Stopped,
}

#[derive(Clone, Debug)]
struct Replica {
    deployment: String,
    generation: u64,
    model: String,
    runtime: String,
    port: i32,
    restarts: i32,
    phase: Phase,
}

/// One node's replicas.
#[derive(Debug)]
pub(crate) struct Node {
    start_delay: Duration,
    replicas: BTreeMap<String, Replica>,
    /// The highest generation of replicas that are gone.
    fences: BTreeMap<String, u64>,
    done: VecDeque<String>,
    acks: VecDeque<String>,
}

impl Node {
    pub(crate) fn new(start_delay: Duration) -> Self {
        Self {
            start_delay,
            replicas: BTreeMap::new(),
            fences: BTreeMap::new(),
            done: VecDeque::new(),
            acks: VecDeque::new(),
        }
    }

    /// A command from a heartbeat's answer. It is acknowledged with the next heartbeat.
    pub(crate) fn obey(&mut self, command: PlatformCommand, now: Tick) -> Done {
        let id = command.id.clone();
        if !self.acks.contains(&id) && self.acks.len() < ACKS_MAX {
            self.acks.push_back(id.clone());
        }
        if self.done.contains(&id) {
            return Done::Repeated;
        }
        self.done.push_back(id);
        while self.done.len() > DONE_MAX {
            self.done.pop_front();
        }
        let PlatformCommand { r#type, target_id, replica_id, generation, start, .. } = command;
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
                start.generation = start.generation.max(generation);
                self.start(start, now)
            }
            "stop" => self.stop(&target_id, &replica_id, generation),
            "restart" => self.restart(&target_id, &replica_id, generation, now),
            "delete" => self.delete(&target_id, &replica_id, generation),
            "access" => self.access(&target_id, &replica_id),
            _ => Done::Unknown,
        }
    }

    /// Starts a replica, once for each generation.
    pub(crate) fn start(&mut self, start: StartRuntimeRequest, now: Tick) -> Done {
        let id = if start.replica_id.is_empty() { start.deployment_id.clone() } else { start.replica_id };
        let old = self.replicas.get(&id);
        let newest = old.map(|old| old.generation).max(self.fences.get(&id).copied());
        match newest {
            Some(newest) if start.generation < newest => return Done::Stale,
            Some(newest)
                if start.generation == newest && old.is_none_or(|old| old.phase != Phase::Stopped) =>
            {
                return if old.is_some() { Done::Repeated } else { Done::Stale };
            }
            Some(_) | None => {}
        }
        let port = old.map_or_else(|| self.free_port(), |old| old.port);
        let replica = Replica {
            deployment: start.deployment_id,
            generation: start.generation,
            model: start.model,
            runtime: start.runtime,
            port,
            restarts: 0,
            phase: Phase::Preparing(now.plus(self.start_delay)),
        };
        self.replicas.insert(id, replica);
        Done::Carried("start")
    }

    /// Stops replicas.
    pub(crate) fn stop(&mut self, deployment: &str, replica: &str, generation: u64) -> Done {
        self.each(deployment, replica, generation, "stop", |replica| replica.phase = Phase::Stopped)
    }

    /// Stops replicas and starts them again.
    pub(crate) fn restart(&mut self, deployment: &str, replica: &str, generation: u64, now: Tick) -> Done {
        let ready = now.plus(self.start_delay);
        self.each(deployment, replica, generation, "restart", |replica| {
            replica.phase = Phase::Preparing(ready);
            replica.restarts += 1;
        })
    }

    /// Removes replicas; what is older stays away.
    pub(crate) fn delete(&mut self, deployment: &str, replica: &str, generation: u64) -> Done {
        let ids = self.meant(deployment, replica);
        let allowed = |id: &String| self.replicas.get(id).is_some_and(|r| admits(r, generation));
        let gone: BTreeSet<String> = ids.into_iter().filter(allowed).collect();
        for id in &gone {
            if let Some(replica) = self.replicas.remove(id) {
                self.fences.insert(id.clone(), replica.generation.max(generation));
            }
        }
        if gone.is_empty() { Done::Stale } else { Done::Carried("delete") }
    }

    /// New credentials: nothing here needs them.
    pub(crate) fn access(&mut self, deployment: &str, replica: &str) -> Done {
        if self.meant(deployment, replica).is_empty() { Done::Stale } else { Done::Carried("access") }
    }

    /// When the next replica has prepared for long enough.
    pub(crate) fn next_change(&self) -> Option<Tick> {
        let ready = |replica: &Replica| match replica.phase {
            Phase::Preparing(at) => Some(at),
            Phase::Running | Phase::Stopped => None,
        };
        self.replicas.values().filter_map(ready).min()
    }

    /// Lets time pass. Whether anything changed.
    pub(crate) fn pass(&mut self, now: Tick) -> bool {
        let mut changed = false;
        for replica in self.replicas.values_mut() {
            if matches!(replica.phase, Phase::Preparing(at) if at <= now) {
                replica.phase = Phase::Running;
                changed = true;
            }
        }
        changed
    }

    /// How many replicas run.
    pub(crate) fn running(&self) -> u64 {
        self.replicas.values().filter(|replica| replica.phase == Phase::Running).count() as u64
    }

    /// The port that a replica was given; 0 when it is not here.
    pub(crate) fn port(&self, replica: &str) -> i32 {
        self.replicas.get(replica).map_or(0, |replica| replica.port)
    }

    /// The replicas as heartbeats report them.
    pub(crate) fn report(&self) -> Vec<AgentDeploymentStatus> {
        self.replicas.iter().map(|(id, replica)| status(id, replica)).collect()
    }

    /// The ids to acknowledge now.
    pub(crate) fn acks(&self) -> Vec<String> {
        self.acks.iter().cloned().collect()
    }

    /// So many of the oldest acknowledgements have arrived. Whether more wait.
    pub(crate) fn acknowledged(&mut self, count: usize) -> bool {
        self.acks.drain(..count.min(self.acks.len()));
        !self.acks.is_empty()
    }

    fn each(
        &mut self,
        deployment: &str,
        replica: &str,
        generation: u64,
        kind: &'static str,
        change: impl Fn(&mut Replica),
    ) -> Done {
        let mut done = Done::Stale;
        for id in self.meant(deployment, replica) {
            let found = self.replicas.get_mut(&id).filter(|replica| admits(replica, generation));
            if let Some(replica) = found {
                replica.generation = replica.generation.max(generation);
                change(replica);
                done = Done::Carried(kind);
            }
        }
        done
    }

    fn meant(&self, deployment: &str, replica: &str) -> Vec<String> {
        let meant = |(id, of): &(&String, &Replica)| {
            of.deployment == deployment && (replica.is_empty() || *id == replica)
        };
        self.replicas.iter().filter(meant).map(|(id, _)| id.clone()).collect()
    }

    fn free_port(&self) -> i32 {
        let taken: BTreeSet<i32> = self.replicas.values().map(|replica| replica.port).collect();
        (FIRST_PORT..).find(|port| !taken.contains(port)).unwrap_or(FIRST_PORT)
    }
}

/// A command of an older generation is not carried out; one without a generation always is.
fn admits(replica: &Replica, generation: u64) -> bool {
    generation == 0 || generation >= replica.generation
}

fn status(id: &str, replica: &Replica) -> AgentDeploymentStatus {
    let status = match replica.phase {
        Phase::Preparing(_) => "preparing",
        Phase::Running => "running",
        Phase::Stopped => "stopped",
    };
    AgentDeploymentStatus {
        deployment_id: replica.deployment.clone(),
        status: status.to_owned(),
        container_id: format!("sim-{id}"),
        port: replica.port,
        model: replica.model.clone(),
        runtime: replica.runtime.clone(),
        generation: replica.generation,
        replica_id: id.to_owned(),
        restarts: replica.restarts,
        ..AgentDeploymentStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(generation: u64) -> StartRuntimeRequest {
        StartRuntimeRequest {
            deployment_id: "d".to_owned(),
            replica_id: "r".to_owned(),
            generation,
            ..StartRuntimeRequest::default()
        }
    }

    fn command(id: &str, kind: &str, generation: u64) -> PlatformCommand {
        PlatformCommand {
            id: id.to_owned(),
            r#type: kind.to_owned(),
            target_id: "d".to_owned(),
            replica_id: "r".to_owned(),
            generation,
            ..PlatformCommand::default()
        }
    }

    fn reported(node: &Node) -> Vec<String> {
        node.report().into_iter().map(|status| status.status).collect()
    }

    #[test]
    fn a_replica_prepares_runs_stops_and_goes() {
        let mut node = Node::new(Duration::from_secs(1));
        assert_eq!(node.obey(command("1", "start", 1), Tick(0)), Done::Carried("start"));
        assert_eq!((reported(&node), node.next_change()), (vec!["preparing".to_owned()], Some(Tick(1_000))));
        assert!(!node.pass(Tick(999)));
        assert!(node.pass(Tick(1_000)));
        assert_eq!((reported(&node), node.running()), (vec!["running".to_owned()], 1));
        assert_eq!(node.obey(command("2", "stop", 2), Tick(2_000)), Done::Carried("stop"));
        assert_eq!(reported(&node), ["stopped"]);
        assert_eq!(node.obey(command("3", "delete", 3), Tick(3_000)), Done::Carried("delete"));
        assert!(node.report().is_empty());
        assert_eq!(node.acks(), ["1", "2", "3"]);
        assert!(node.acknowledged(2));
        assert!(!node.acknowledged(1));
    }

    #[test]
    fn a_command_is_carried_out_once_and_older_ones_never() {
        let mut node = Node::new(Duration::ZERO);
        assert_eq!(node.obey(command("1", "start", 5), Tick(0)), Done::Carried("start"));
        assert_eq!(node.obey(command("1", "start", 5), Tick(0)), Done::Repeated);
        assert_eq!(node.start(start(5), Tick(0)), Done::Repeated, "by a call");
        assert_eq!(node.obey(command("2", "stop", 4), Tick(0)), Done::Stale);
        assert_eq!(node.obey(command("3", "delete", 6), Tick(0)), Done::Carried("delete"));
        assert_eq!(node.start(start(6), Tick(0)), Done::Stale, "it was deleted with this generation");
        assert_eq!(node.start(start(7), Tick(0)), Done::Carried("start"));
        assert_eq!(node.obey(command("4", "dance", 8), Tick(0)), Done::Unknown);
    }
}
