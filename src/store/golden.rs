//! Golden bytes: one file for each kind and schema of record that was ever written. What they say must be read for
//! ever, and the newest schema must be written as it stands here. A file is only ever added; when a test here fails,
//! the code is wrong, not the file.
use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::ids::{CommandId, DeploymentId, Generation, KeyId, OperationId, ReplicaId};
use nebula_core::token::TokenHash;
use nebula_store::Record;

use super::records;
use super::tests::{deployment, key, node, start, usage};
use crate::domain::alias::{Alias, Target};
use crate::domain::command::{Action, Command};
use crate::domain::deployment::{
    Autoscale, Deployment, DeploymentSpec, MemoryHint, OldToken, Policy, Previous, Replica, Strategy,
};
use crate::domain::event::{JournalEvent, Line, Origin, Subject};
use crate::domain::idempotency::UsedKey;
use crate::domain::key::{ApiKey, KeyLimits};
use crate::domain::node::Scheduling;
use crate::domain::operation::{Blocked, Operation, OperationState};
use crate::domain::poison::Poison;
use crate::domain::route::Balance;
use crate::domain::usage::{Span, UsageRow};
use crate::ports::StoreError;

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("golden/", $name, ".hex"))
    };
}

/// `kind K schema S`, then the payload in hexadecimal digits, in lines.
fn parse(text: &str) -> Record {
    let (head, digits) = text.split_once('\n').expect("a head");
    let mut words = head.split(' ').skip(1).step_by(2);
    let mut number = || words.next().and_then(|word| word.parse::<u16>().ok()).expect("a number");
    let (kind, schema) = (u8::try_from(number()).expect("a kind"), number());
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte =
        |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("a byte");
    Record { kind, schema, payload: digits.chunks(2).map(byte).collect() }
}

fn print(record: &Record) -> String {
    let mut text = format!("kind {} schema {}\n", record.kind, record.schema);
    for line in record.payload.chunks(32) {
        line.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
        text.push('\n');
    }
    text
}

fn reads<T: std::fmt::Debug + PartialEq>(
    golden: &str,
    read: impl Fn(&Record) -> Result<T, StoreError>,
    expected: &T,
) {
    assert_eq!(read(&parse(golden)).as_ref(), Ok(expected));
}

fn stays<T: std::fmt::Debug + PartialEq>(
    golden: &str,
    write: impl Fn(&T) -> Result<Record, StoreError>,
    read: impl Fn(&Record) -> Result<T, StoreError>,
    value: &T,
) {
    let written = print(&write(value).expect("small enough"));
    assert!(written == golden, "{value:?} is written as\n{written}and not as\n{golden}");
    reads(golden, read, value);
}

fn line(subject: Subject, kind: &str) -> JournalEvent {
    let replica = Some(ReplicaId::from_bytes([2; 16]));
    let line = Line {
        time: WallTime(1_702_400_000_000),
        subject,
        kind: kind.to_owned(),
        message: "replica 0 is running".to_owned(),
        replica,
        node: Some(node().id),
    };
    JournalEvent { seq: 300, line }
}

#[test]
fn nodes_deployments_and_replicas() {
    stays(golden!("node-1"), records::node, records::read_node, &node());
    let mut dep = deployment();
    let replica = dep.replicas.remove(0);
    stays(golden!("deployment-3"), records::deployment, records::read_deployment, &changing(&dep));
    reads(golden!("deployment-2"), records::read_deployment, &dep);
    dep.spec.routing = Balance::default();
    reads(golden!("deployment-1"), records::read_deployment, &dep);
    reads(golden!("replica-1"), records::read_replica, &replica);
    let newer = Replica { revision: Generation(7), ..replica };
    stays(golden!("replica-2"), records::replica, records::read_replica, &newer);
}

/// A deployment with all that the third schema has added.
fn changing(dep: &Deployment) -> Deployment {
    let spec = DeploymentSpec {
        placement: Policy::Binpack,
        strategy: Strategy::Recreate,
        drain: Duration::from_secs(90),
        autoscale: Some(Autoscale {
            min: 0,
            max: 4,
            target: 8,
            cooldown: Duration::from_secs(60),
            idle_after: Duration::from_secs(300),
        }),
        ..dep.spec.clone()
    };
    let previous = Previous { spec: dep.spec.clone(), revision: Generation(3) };
    let how = "8.0 B parameters x 2 bytes".to_owned();
    Deployment {
        spec,
        revision: Generation(5),
        previous: Some(Box::new(previous)),
        old_token: Some(OldToken { hash: TokenHash::of("nbtok_old"), until: WallTime(1_702_400_000_000) }),
        hint: Some(MemoryHint { bytes: 20 << 30, weights_bytes: 16 << 30, how }),
        ..dep.clone()
    }
}

#[test]
fn commands() {
    let of = |action| Command { id: CommandId::from_bytes([9; 16]), action, ..start() };
    let access = || Action::Access { tokens: vec![TokenHash::of("nbtok_x")], public: false };
    let old = |golden, command: &Command| reads(golden, records::read_command, command);
    old(golden!("command-1-start"), &start());
    old(golden!("command-1-stop"), &of(Action::Stop));
    old(golden!("command-1-delete"), &of(Action::Delete));
    old(golden!("command-1-access"), &of(access()));
    let check = |golden, command: Command| {
        let command = Command { drain: Duration::from_secs(60), ..command };
        stays(golden, records::command, records::read_command, &command);
    };
    check(golden!("command-2-start"), start());
    check(golden!("command-2-stop"), of(Action::Stop));
    check(golden!("command-2-delete"), of(Action::Delete));
    check(golden!("command-2-access"), of(access()));
}

#[test]
fn lines_of_the_journal() {
    let id = DeploymentId::from_bytes([1; 16]);
    let of_deployment = line(Subject::Deployment(id), "running");
    reads(golden!("event-1"), records::read_event, &of_deployment);
    let check = |golden, event: &JournalEvent| stays(golden, records::event, records::read_event, event);
    check(golden!("event-2-deployment"), &of_deployment);
    check(golden!("event-2-node"), &line(Subject::Node(node().id), "online"));
    check(golden!("event-2-fleet"), &line(Subject::Fleet, "stood_still"));
    let origin = Origin {
        by: "admin token".to_owned(),
        request_id: "req-1".to_owned(),
        address: "127.0.0.1".to_owned(),
    };
    let audit = Subject::Audit { origin, deployment: Some(id) };
    check(golden!("event-2-audit"), &line(audit, "audit.deployment.scale"));
}

#[test]
fn used_keys_and_messages_set_aside() {
    let used = UsedKey {
        key: "key-1".to_owned(),
        body: [7; 32],
        deployment: DeploymentId::from_bytes([1; 16]),
        at: WallTime(1_702_400_000_000),
    };
    stays(golden!("used-key-1"), records::used_key, records::read_used_key, &used);
    let poison = Poison {
        path: "/deployments/x".to_owned(),
        message: "Want".to_owned(),
        fingerprint: u64::MAX,
        text: "stop".to_owned(),
        kills: 3,
        first_at: WallTime(1_702_400_000_000),
        last_at: WallTime(1_702_400_000_001),
    };
    stays(golden!("poison-1"), records::poison, records::read_poison, &poison);
}

#[test]
fn aliases() {
    let target = |name: &str, weight| Target { deployment: name.to_owned(), weight };
    let alias = Alias {
        name: "org/chat".to_owned(),
        targets: vec![target("old", 9_000), target("new", 1_000)],
        fallback: Some("spare".to_owned()),
        created_at: WallTime(1_702_400_000_000),
        updated_at: WallTime(1_702_400_000_001),
    };
    stays(golden!("alias-1"), records::alias, records::read_alias, &alias);
}

#[test]
fn operations() {
    let check =
        |golden, operation: &Operation| stays(golden, records::operation, records::read_operation, operation);
    let blocked = |replica| Blocked {
        deployment: "llama".to_owned(),
        deployment_id: DeploymentId::from_bytes([1; 16]),
        replica,
        why: "waits for 3 requests".to_owned(),
    };
    let running = Operation {
        id: OperationId::from_bytes([4; 16]),
        node: node().id,
        node_name: "gpu-1".to_owned(),
        state: OperationState::Running,
        makes: Scheduling::Draining,
        started_at: WallTime(1_702_400_000_000),
        until: WallTime(1_702_403_600_000),
        ended_at: None,
        total: 3,
        left: 2,
        blocked: vec![blocked(Some(ReplicaId::from_bytes([2; 16]))), blocked(None)],
        message: String::new(),
    };
    check(golden!("operation-1-running"), &running);
    let failed = Operation {
        state: OperationState::Failed,
        makes: Scheduling::Cordoned,
        ended_at: Some(WallTime(1_702_403_600_000)),
        message: "2 replicas are left".to_owned(),
        ..running
    };
    check(golden!("operation-1-failed"), &failed);
}

#[test]
fn api_keys_and_usage() {
    let check = |golden, key: &ApiKey| stays(golden, records::api_key, records::read_api_key, key);
    check(golden!("api-key-1"), &key());
    let plain = ApiKey { models: None, expires_at: None, limits: KeyLimits::default(), ..key() };
    check(golden!("api-key-1-unlimited"), &plain);
    let check = |golden, row: &UsageRow| stays(golden, records::usage, records::read_usage, row);
    check(golden!("usage-1"), &usage(Some(KeyId::from_bytes([6; 16])), Span::Hour));
    check(golden!("usage-1-year"), &usage(None, Span::Year));
}
