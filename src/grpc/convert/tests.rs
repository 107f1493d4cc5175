use nebula_core::clock::{Tick, WallTime};
use std::time::Duration;

use crate::domain::node::Scheduling;
use nebula_core::ids::{DeploymentId, ReplicaId};
use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::token::{Secret, TokenHash};

use super::*;
use crate::actors::deployment::machine::{Effect, Event, Intent, Machine, Now};
use crate::actors::reply::ReplyTo;
use crate::domain::deployment::{Deployment, DeploymentSpec, Desired, Placement};
use crate::domain::report::NodeFacts;

fn status() -> proto::AgentDeploymentStatus {
    proto::AgentDeploymentStatus {
        deployment_id: DeploymentId::random().to_string(),
        replica_id: ReplicaId::random().to_string(),
        status: "preparing".to_owned(),
        ..proto::AgentDeploymentStatus::default()
    }
}

#[test]
fn progress_is_apart_from_the_message_and_never_nonsense() {
    let said = |percent: f32, message: &str| {
        let status = proto::AgentDeploymentStatus {
            progress_percent: percent,
            progress_message: message.to_owned(),
            error_message: "exit code 1".to_owned(),
            ..status()
        };
        let report = replica(status).expect("a replica");
        assert_eq!(report.message, "exit code 1");
        report.seen.progress.map(|progress| (progress.percent, progress.message))
    };
    assert_eq!(said(0.0, ""), None);
    assert_eq!(said(0.0, "pulling"), Some((None, "pulling".to_owned())));
    assert_eq!(said(99.9, "pulling"), Some((Some(99), "pulling".to_owned())));
    assert_eq!(said(1e9, ""), Some((Some(100), String::new())));
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -5.0] {
        assert_eq!(said(odd, "pulling"), Some((None, "pulling".to_owned())), "{odd}");
    }
    assert_eq!(said(1.0, &"x".repeat(100_000)).map(|(_, message)| message.len()), Some(TEXT_BYTES_MAX));
}

#[test]
fn exit_codes_are_those_of_replicas_that_failed() {
    let told = |word: &str, exit_code| {
        let status = proto::AgentDeploymentStatus { status: word.to_owned(), exit_code, ..status() };
        replica(status).expect("a replica").exit_code
    };
    assert_eq!(told("failed", Some(137)), Some(137));
    assert_eq!(told("failed", Some(0)), Some(0));
    assert_eq!(told("failed", None), None);
    // Agents of before send a zero with everything.
    assert_eq!(told("running", Some(0)), None);
}

#[test]
fn disks_and_models_are_taken_within_bounds() {
    let of = |free, total, models: Vec<String>| {
        stats(proto::AgentNodeStats {
            disk_free_bytes: free,
            disk_total_bytes: total,
            models,
            ..proto::AgentNodeStats::default()
        })
    };
    let some = of(Some(5), Some(9), vec!["hf://a/b".to_owned(), "x".repeat(MODEL_BYTES_MAX + 1)]);
    assert_eq!((some.disk_free_bytes, some.disk_total_bytes), (Some(5), Some(9)));
    assert_eq!(some.models, ["hf://a/b"], "a name that is cut would name another model");
    let odd = of(Some(-1), None, vec!["m".to_owned(); MODELS_MAX + 5]);
    assert_eq!((odd.disk_free_bytes, odd.disk_total_bytes, odd.models.len()), (Some(0), None, MODELS_MAX));
}

#[test]
fn an_estimate_of_nothing_is_none() {
    let of = |bytes, weights_bytes, how: &str| {
        hint(proto::EstimateModelResponse { bytes, weights_bytes, how: how.to_owned() })
    };
    for (bytes, weights) in [(0, 0), (-1, 0), (5, 6)] {
        assert_eq!(of(bytes, weights, ""), None, "{bytes} {weights}");
    }
    let found = of(7, 5, &"é\n".repeat(1_000)).expect("an estimate");
    assert_eq!((found.bytes, found.weights_bytes), (7, 5));
    assert!(found.how.len() <= HOW_BYTES_MAX && !found.how.contains('\n'), "one line of bounded length");
}

/// What the spec says reaches the agent whole, at the first start and at each that follows.
#[test]
fn what_is_to_be_run_reaches_the_agent_at_every_start() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let spec = DeploymentSpec {
        image: Some("localhost:5000/team/image:1".to_owned()),
        driver: Some(Driver::Docker),
        command: words("serve {model}"),
        args: words("--port {port}"),
        env: [("A".to_owned(), "1".to_owned())].into(),
        source: Some("hf://org/m".parse().expect("a source")),
        ..DeploymentSpec::plain("org/m", RuntimeKind::Vllm)
    };
    let mut machine = Machine::load(Deployment {
        revision: Generation::FIRST,
        previous: None,
        old_token: None,
        hint: None,
        id: DeploymentId::random(),
        name: "demo".to_owned(),
        spec,
        desired: Desired::Running,
        generation: Generation::FIRST,
        token: TokenHash::of("nbtok_x"),
        gateway_token: Secret::from_text("nbgw_x"),
        created_at: WallTime(1),
        updated_at: WallTime(1),
        replicas: Vec::new(),
    });
    let node: NodeId = "a".parse().expect("an id");
    let facts = |report_seq| NodeFacts {
        scheduling: Scheduling::Schedulable,
        node_id: node.clone(),
        node_name: "a".to_owned(),
        availability: crate::domain::node::Availability::Online,
        proxy: "a:8888".parse().expect("an address"),
        report_seq,
        replicas: Vec::new(),
    };
    let now = Now { tick: Tick(0), wall: WallTime(u64::MAX) };
    let sought = machine.step(Event::Started, now);
    let (replica, generation) = sought
        .iter()
        .find_map(|effect| match effect {
            Effect::Place(replica, generation) => Some((*replica, *generation)),
            _ => None,
        })
        .expect("a place is sought");
    let placement = Placement {
        node_id: node.clone(),
        node_name: "a".to_owned(),
        proxy: "a:8888".parse().expect("an address"),
        gpu_devices: vec![2, 3],
    };
    let mut effects = machine.step(Event::Placed(replica, generation, placement), now);
    effects.extend(machine.step(Event::Node(facts(1)), now));
    let first = start_of(&effects);
    assert_eq!(first.generation, 1);
    assert_eq!((first.image.as_str(), first.driver.as_str()), ("localhost:5000/team/image:1", "docker"));
    assert_eq!((first.command.clone(), first.args.clone()), (words("serve {model}"), words("--port {port}")));
    assert_eq!(first.env, HashMap::from([("A".to_owned(), "1".to_owned())]));
    assert_eq!((first.model.as_str(), first.model_path.as_str()), ("org/m", "hf://org/m"));
    assert_eq!((first.gpu_devices.clone(), first.served_model_name.as_str()), (vec![2, 3], "demo"));
    assert_eq!(first.replica_id, replica.to_string());

    let effects = machine.step(Event::Intent(ReplyTo(1), Intent::Restart), now);
    let again = start_of(&effects);
    assert_eq!(again, proto::StartRuntimeRequest { generation: 2, ..first });
}

/// The start that a node is told, as its agent gets it.
fn start_of(effects: &[Effect]) -> proto::StartRuntimeRequest {
    let sent = effects.iter().find_map(|effect| match effect {
        Effect::Send(node_id, replica_id, generation, Action::Start(spec)) => {
            let command = Command {
                drain: Duration::ZERO,
                id: CommandId::random(),
                node_id: node_id.clone(),
                deployment_id: DeploymentId::from_bytes([1; 16]),
                replica_id: *replica_id,
                generation: *generation,
                action: Action::Start(spec.clone()),
                created_at: WallTime(1),
            };
            Some(start_request(&command, spec))
        }
        _ => None,
    });
    sent.unwrap_or_else(|| panic!("no start in {effects:?}"))
}
