//! How fast replicas get their places: `cargo bench -p nebulad --bench scheduler`.
//!
//! For each case it prints decisions a second on one core at 100, 1,000 and 10,000 nodes with 8 GPUs each, and how much
//! dearer one gets with ten times the nodes. It fails below what is promised: 2,000 a second at 10,000 nodes.
#![allow(clippy::expect_used, reason = "a bench that cannot go on ends")]

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::clock::{Clock, WallTime};
use nebula_core::ids::{DeploymentId, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebulad::actors::registry::machine::NodeUpdate;
use nebulad::actors::scheduler::machine::{Hold, Machine, Need, Request};
use nebulad::domain::deployment::{DeploymentSpec, GpuNeed, MemoryHint, Placement, Policy};
use nebulad::domain::node::{Availability, Capabilities, Gpu, GpuUse, Node, Presence, Scheduling, Usage};

const SIZES: [u32; 3] = [100, 1_000, 10_000];
const GPUS: u32 = 8;
const GIB: u64 = 1 << 30;

/// What is promised at the largest size, in decisions a second.
const PROMISED: f64 = 2_000.0;

/// How long one figure is measured.
const MEASURED: Duration = Duration::from_millis(600);

/// How many of the replicas that are placed stay.
const HELD: usize = 30;

/// How many deployments wait in the last case.
const WAITING: u32 = 10_000;

fn node(number: u32) -> NodeUpdate {
    let (kind, gib) = [("NVIDIA A100", 80), ("NVIDIA H100", 80), ("NVIDIA L4", 24)]
        .into_iter()
        .cycle()
        .nth(number as usize % 3)
        .unwrap_or_default();
    let gpu = |index| Gpu {
        uuid: format!("GPU-{number}-{index}"),
        name: kind.to_owned(),
        memory_bytes: gib * GIB,
        index,
        ..Gpu::default()
    };
    let zone = format!("z{}", number % 10);
    NodeUpdate {
        node: Node {
            id: format!("node-{number:05}").parse().expect("an id"),
            name: format!("n{number}"),
            version: String::new(),
            address: "10.0.0.1:9091".parse().expect("an address"),
            proxy_port: 8888,
            subdomain: String::new(),
            labels: BTreeMap::from([("zone".to_owned(), zone), ("disk".to_owned(), "ssd".to_owned())]),
            capabilities: Capabilities {
                gpus: (0..GPUS).map(gpu).collect(),
                cpu_cores: 128,
                ..Capabilities::default()
            },
            boot_id: String::new(),
            scheduling: Scheduling::Schedulable,
            presence: Presence::Expected,
            created_at: WallTime(0),
        },
        availability: Availability::Online,
    }
}

/// Others use a little of some GPUs, the disk has room, and some models are there.
fn usage(number: u32) -> Usage {
    let gpu = |index| GpuUse {
        uuid: format!("GPU-{number}-{index}"),
        used_by_others_bytes: u64::from(number % 5) * GIB,
        problem: String::new(),
    };
    let models = (0..4).map(|model| format!("hf://org/model-{}", (number + model) % 50)).collect();
    let gpus = (0..GPUS).map(gpu).collect();
    Usage { gpus, disk_free_bytes: Some(500 * GIB), models, ..Usage::default() }
}

fn fleet(size: u32) -> Machine {
    let mut machine = Machine::default();
    for number in 0..size {
        let update = node(number);
        let id = update.node.id.clone();
        machine.node_changed(update);
        machine.usage_changed(&id, usage(number));
    }
    machine
}

/// What each request of a case asks for.
struct Case {
    name: &'static str,
    /// All replicas are of one deployment.
    one: bool,
    spec: fn(u32) -> DeploymentSpec,
    /// In GiB.
    hint: Option<u64>,
    fits: bool,
}

fn plain(gpus: u32) -> DeploymentSpec {
    let gpu = GpuNeed { count: gpus, ..GpuNeed::default() };
    DeploymentSpec { gpu, ..DeploymentSpec::plain("m", RuntimeKind::Sim) }
}

fn demanding(number: u32) -> DeploymentSpec {
    let zone = format!("z{}", number % 10);
    let source = format!("hf://org/model-{}", number % 60).parse().expect("a source");
    DeploymentSpec {
        gpu: GpuNeed { count: 2, kind: Some("a100".to_owned()), memory_bytes: 70 * GIB },
        labels: BTreeMap::from([("zone".to_owned(), zone), ("disk".to_owned(), "ssd".to_owned())]),
        source: Some(source),
        ..plain(2)
    }
}

fn cases() -> Vec<Case> {
    let case = |name, one, spec, hint| Case { name, one, spec, hint, fits: true };
    vec![
        case("one GPU, default", false, |_| plain(1), None),
        case("one GPU, binpack", false, |_| DeploymentSpec { placement: Policy::Binpack, ..plain(1) }, None),
        case("one GPU, spread", false, |_| DeploymentSpec { placement: Policy::Spread, ..plain(1) }, None),
        case("cores only", false, |_| plain(0), None),
        case("copies of one deployment", true, |_| plain(1), None),
        case("type, memory, labels, weights", false, demanding, None),
        case("a hint that speaks against all", false, |_| plain(1), Some(300)),
        Case { fits: false, ..case("nothing fits", false, |_| plain(16), None) },
    ]
}

fn request(case: &Case, deployment: DeploymentId, number: u32) -> Request {
    let hint = case.hint.map(|gib| MemoryHint {
        bytes: gib * GIB,
        weights_bytes: gib * GIB / 2,
        how: String::new(),
    });
    let deployment = if case.one { deployment } else { DeploymentId::random() };
    let need = Arc::new(Need::of(&(case.spec)(number), hint.as_ref()));
    Request { deployment, replica: ReplicaId::random(), need, going: Vec::new() }
}

/// Half of every node's GPUs are taken: by replicas of many deployments, or of the one.
fn fill(machine: &mut Machine, size: u32, one: Option<DeploymentId>) {
    let mut all: BTreeMap<DeploymentId, Vec<Hold>> = BTreeMap::new();
    for number in 0..size {
        let node = node(number).node;
        for device in 0..GPUS / 2 {
            let place = Placement {
                node_id: node.id.clone(),
                node_name: node.name.clone(),
                proxy: node.proxy_address(),
                gpu_devices: vec![device],
            };
            let hold = Hold { replica: ReplicaId::random(), place: Some(place), cores: 1 };
            all.entry(one.unwrap_or_else(DeploymentId::random)).or_default().push(hold);
        }
    }
    for (deployment, holds) in all {
        machine.holds(deployment, &holds);
    }
}

/// Microseconds that a decision takes in a fleet that is half full.
fn measure(case: &Case, size: u32) -> f64 {
    let mut machine = fleet(size);
    let deployment = DeploymentId::random();
    fill(&mut machine, size, case.one.then_some(deployment));
    let requests: Vec<Request> = (0..1_000).map(|number| request(case, deployment, number)).collect();
    let mut held = VecDeque::new();
    let (mut decisions, mut spent) = (0_u32, Duration::ZERO);
    let clock = Clock::start();
    for turn in requests.iter().cycle() {
        let request = Request { replica: ReplicaId::random(), ..turn.clone() };
        let began = clock.elapsed();
        let placed = machine.place(&request);
        spent += clock.elapsed() - began;
        decisions += 1;
        held.push_back(request.replica);
        if held.len() > HELD {
            held.pop_front().map(|gone| machine.release(gone));
        }
        assert_eq!(placed.is_ok(), case.fits, "{}: {placed:?}", case.name);
        if spent > MEASURED {
            break;
        }
    }
    spent.as_secs_f64() * 1e6 / f64::from(decisions)
}

/// Microseconds that a change of one node takes while many wait who do not fit.
fn changes_while_many_wait(size: u32) -> f64 {
    let mut machine = fleet(size);
    for number in 0..WAITING {
        let spec = DeploymentSpec { model: format!("m{number}"), ..plain(16) };
        let need = Arc::new(Need::of(&spec, None));
        let (deployment, replica) = (DeploymentId::random(), ReplicaId::random());
        let waits = Request { deployment, replica, need, going: Vec::new() };
        assert!(machine.place(&waits).is_err(), "nothing has 16 GPUs");
    }
    let (clock, mut changes) = (Clock::start(), 0_u32);
    while clock.elapsed() < MEASURED {
        let mut update = node(changes % size);
        update.node.capabilities.cpu_cores += changes;
        assert!(machine.node_changed(update).is_empty(), "nobody fits");
        changes += 1;
    }
    clock.elapsed().as_secs_f64() * 1e6 / f64::from(changes)
}

fn main() -> ExitCode {
    let mut slow = Vec::new();
    println!("{:32}{:>22}{:>22}{:>22}", "decisions a second", "100 nodes", "1,000 nodes", "10,000 nodes");
    for case in cases() {
        let mut line = format!("{:32}", case.name);
        let mut before = None;
        for size in SIZES {
            let micros = measure(&case, size);
            let ratio = before.map_or_else(String::new, |before| format!(" ({:.1}x)", micros / before));
            line.push_str(&format!("{:>22}", format!("{:.0}{ratio}", 1e6 / micros)));
            before = Some(micros);
        }
        println!("{line}");
        if before.is_some_and(|micros| 1e6 / micros < PROMISED) {
            slow.push(case.name);
        }
    }
    let waits: Vec<String> = [100, 1_000]
        .map(|size| format!("{:>22}", format!("{:.1} us", changes_while_many_wait(size))))
        .to_vec();
    println!("{:32}{}", "a change while 10,000 wait", waits.concat());
    println!("(in brackets: how much dearer a decision is than with a tenth of the nodes)");
    if !slow.is_empty() {
        eprintln!("error: fewer than {PROMISED} decisions a second at 10,000 nodes: {}", slow.join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
