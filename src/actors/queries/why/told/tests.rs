//! The words for each kind of trouble.

use nebula_core::clock::WallTime;
use nebula_core::ids::{Generation, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenKind};

use super::*;
use crate::domain::deployment::{GpuNeed, Placement, Previous};
use crate::domain::report::Seen;

fn deployment(wanted: u32, replicas: Vec<Replica>) -> Deployment {
    let gateway = Secret::generate(TokenKind::Gateway).expect("randomness");
    let spec = DeploymentSpec { replicas: wanted, ..DeploymentSpec::plain("demo", RuntimeKind::Sim) };
    let mut dep = Deployment::new("demo".to_owned(), spec, gateway.hash(), gateway, WallTime(1));
    dep.replicas = replicas;
    dep
}

fn replica(index: u32, phase: Phase, message: &str) -> Replica {
    let placement = Placement {
        node_id: "n1".parse().expect("an id"),
        node_name: "gpu-1".to_owned(),
        proxy: "127.0.0.1:8888".parse().expect("an address"),
        gpu_devices: Vec::new(),
    };
    Replica {
        id: ReplicaId::random(),
        index,
        generation: Generation::FIRST,
        revision: Generation::FIRST,
        placement: (phase != Phase::Pending).then_some(placement),
        phase,
        leaving: false,
        container_id: String::new(),
        port: 0,
        message: message.to_owned(),
        restarts: 0,
        seen: Seen::default(),
    }
}

#[test]
fn each_state_is_one_line() {
    let running = || replica(0, Phase::Running, "");
    let failed =
        || replica(1, Phase::Failed, "exited: the runtime exited with code 3; its last lines:\nTraceback");
    let stopped = |replicas| Deployment { desired: Desired::Stopped, ..deployment(1, replicas) };
    for (dep, line) in [
        (deployment(1, vec![running()]), "demo runs as wanted: 1 of 1 replica runs"),
        (
            deployment(2, vec![running(), failed()]),
            "demo runs in part: 1 of 2 replicas runs; replica 1 on gpu-1 has failed: exited: the runtime exited with \
             code 3",
        ),
        (
            deployment(2, vec![replica(0, Phase::Starting, ""), failed()]),
            "demo is starting: 0 of 2 replicas run; replica 1 on gpu-1 has failed: exited: the runtime exited with \
             code 3",
        ),
        (
            deployment(1, vec![replica(0, Phase::Pending, "no node fits: gpu-1: is cordoned")]),
            "demo waits for a place: no node fits: gpu-1: is cordoned",
        ),
        (
            deployment(1, vec![replica(0, Phase::Starting, "loading weights")]),
            "demo on gpu-1 is starting: loading weights",
        ),
        (deployment(0, vec![]), "demo has no replica because 0 are wanted"),
        (stopped(vec![replica(0, Phase::Stopped, "")]), "demo is stopped, as was wanted"),
        (stopped(vec![running()]), "demo is stopping, as was wanted: 1 replica to end"),
        (
            Deployment { desired: Desired::Deleted, ..deployment(1, vec![running(), failed()]) },
            "demo is being deleted: 2 replicas to end",
        ),
    ] {
        assert_eq!(summary(&dep, false), line);
    }
    let taken_back = "demo runs as wanted: 1 of 1 replica runs; its last change was taken back";
    assert_eq!(summary(&deployment(1, vec![running()]), true), taken_back);
}

#[test]
fn a_deployment_that_sleeps_says_what_wakes_it() {
    let mut dep = deployment(0, vec![]);
    dep.spec.autoscale = Some(Autoscale {
        min: 0,
        max: 3,
        target: 8,
        cooldown: std::time::Duration::ZERO,
        idle_after: std::time::Duration::ZERO,
    });
    assert_eq!(
        summary(&dep, false),
        "demo has no replica because nobody asks for it; the next request starts one"
    );
    assert_eq!(
        wanted(&dep).summary,
        "0 replicas of demo by sim; 0 to 3 by load, for 8 requests in flight each"
    );
}

#[test]
fn a_change_tells_how_far_it_has_got() {
    let new = Generation::FIRST.next();
    let mut dep = deployment(
        2,
        vec![
            Replica { revision: new, ..replica(0, Phase::Running, "") },
            Replica { revision: new, ..replica(1, Phase::Starting, "loading weights") },
            Replica { leaving: true, ..replica(0, Phase::Stopping, "waits for 3 requests") },
            replica(1, Phase::Running, ""),
        ],
    );
    dep.revision = new;
    dep.previous = Some(Box::new(Previous { spec: dep.spec.clone(), revision: Generation::FIRST }));
    assert_eq!(
        summary(&dep, false),
        "demo is being changed: 1 of 2 replicas run the new version; replica 1 on gpu-1 is starting: loading weights"
    );
    let now = is(&dep);
    assert_eq!((now.running, now.replicas, now.changing), (2, 4, true));
    assert_eq!(now.summary, "running: 2 of 2 replicas run, 1 on the way out");
}

#[test]
fn a_wish_names_what_each_replica_needs() {
    let mut dep = deployment(2, vec![]);
    dep.spec.gpu = GpuNeed { count: 2, kind: Some("H100".to_owned()), memory_bytes: 80_000_000_000 };
    dep.spec.cpu.cores = 4;
    dep.spec.node = Some("a".to_owned());
    dep.spec.labels.insert("zone".to_owned(), "b".to_owned());
    let line = "2 replicas of demo by sim, each with 2 GPUs of type H100 with 80.0 GB and 4 cores, on node \"a\", on \
                nodes with zone=b";
    assert_eq!(wanted(&dep).summary, line);
}

#[test]
fn exit_codes_are_found_in_what_agents_say() {
    for (message, code) in [
        ("attempt 2: the runtime exited with code 137; it starts again in 2 s", Some(137)),
        ("the runtime had no memory left and was killed (exit code 137)", Some(137)),
        ("exited with code -1", Some(-1)),
        ("the runtime was killed by signal 9", None),
        ("exit code unknown", None),
        ("exited with code 99999999999", None),
        ("", None),
    ] {
        assert_eq!(exit_code_in(message), code, "{message}");
    }
}
