use std::collections::BTreeMap;

use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::ids::{CommandId, Generation, KeyId, ReplicaId};
use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::token::{Secret, TokenHash};
use nebula_store::Batch;

use super::*;
use crate::domain::command::{Action, StartSpec};
use crate::domain::deployment::{
    CpuNeed, DRAIN_DEFAULT, DeploymentSpec, Desired, GpuNeed, LostAfter, Phase, Placement, Policy, Replica,
    Strategy,
};
use crate::domain::event::{Happening, Line};
use crate::domain::key::{Budget, KeyLimits, KeySecret, Period};
use crate::domain::node::{Capabilities, Gpu, Presence, Scheduling};
use crate::domain::report::Seen;
use crate::domain::route::Balance;
use crate::domain::usage::{Span, Sums};

fn pairs(text: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(text.to_owned(), format!("{text}-value"))])
}

pub(super) fn node() -> Node {
    Node {
        id: "node-1".parse().expect("an id"),
        name: "gpu-server-1".to_owned(),
        version: "0.1.0".to_owned(),
        address: "10.0.0.1:9091".parse().expect("an address"),
        proxy_port: 8888,
        subdomain: "abc123de.example.com".to_owned(),
        labels: pairs("zone"),
        capabilities: Capabilities {
            gpus: vec![Gpu { uuid: "GPU-1".to_owned(), memory_bytes: 40 << 30, index: 3, ..Gpu::default() }],
            cpu_cores: 32,
            supported_runtimes: vec!["vllm".to_owned()],
            ..Capabilities::default()
        },
        boot_id: "boot".to_owned(),
        scheduling: Scheduling::Draining,
        presence: Presence::Offline,
        created_at: WallTime(7),
    }
}

pub(super) fn deployment() -> Deployment {
    let replica = Replica {
        revision: Generation::FIRST,
        id: ReplicaId::from_bytes([2; 16]),
        index: 0,
        generation: Generation(4),
        placement: Some(Placement {
            node_id: "node-1".parse().expect("an id"),
            node_name: "gpu-server-1".to_owned(),
            proxy: "10.0.0.1:8888".parse().expect("an address"),
            gpu_devices: vec![3],
        }),
        phase: Phase::Unreachable,
        leaving: false,
        container_id: "4711".to_owned(),
        port: 30_000,
        message: "node gpu-server-1 is offline".to_owned(),
        restarts: 2,
        seen: Seen::default(),
    };
    Deployment {
        revision: Generation::FIRST,
        previous: None,
        old_token: None,
        hint: None,
        id: DeploymentId::from_bytes([1; 16]),
        name: "org/model".to_owned(),
        spec: DeploymentSpec {
            placement: Policy::default(),
            strategy: Strategy::default(),
            drain: DRAIN_DEFAULT,
            autoscale: None,
            model: "org/model".to_owned(),
            runtime: RuntimeKind::Llamacpp,
            source: Some("fs:///models/x.gguf".parse().expect("a source")),
            image: Some("image:1".to_owned()),
            driver: Some(Driver::Process),
            command: vec!["serve".to_owned()],
            args: vec!["--x".to_owned()],
            env: pairs("env"),
            node: Some("gpu-server-1".to_owned()),
            labels: pairs("label"),
            replicas: 2,
            gpu: GpuNeed { count: 1, kind: Some("A100".to_owned()), memory_bytes: 1 << 30 },
            cpu: CpuNeed { cores: 4 },
            public: true,
            lost_after: LostAfter::Never,
            routing: Balance::Prefix,
        },
        desired: Desired::Stopped,
        generation: Generation(4),
        token: TokenHash::of("nbtok_x"),
        gateway_token: Secret::from_text("nbgw_x"),
        created_at: WallTime(1),
        updated_at: WallTime(2),
        replicas: vec![replica],
    }
}

pub(super) fn start() -> Command {
    let dep = deployment();
    Command {
        drain: Duration::ZERO,
        id: CommandId::from_bytes([9; 16]),
        node_id: node().id,
        deployment_id: dep.id,
        replica_id: dep.replicas[0].id,
        generation: Generation(4),
        action: Action::Start(Box::new(StartSpec {
            runtime: dep.spec.runtime,
            driver: dep.spec.driver,
            image: String::new(),
            model: dep.spec.model.clone(),
            source: dep.spec.source.clone(),
            command: Vec::new(),
            args: dep.spec.args.clone(),
            env: dep.spec.env.clone(),
            gpu_devices: vec![3],
            served_name: dep.name.clone(),
            public: false,
            token: Some(dep.token),
            gateway_token: dep.gateway_token,
        })),
        created_at: WallTime(3),
    }
}

pub(super) fn key() -> ApiKey {
    ApiKey {
        id: KeyId::from_bytes([6; 16]),
        name: "ci".to_owned(),
        secrets: vec![
            KeySecret { hash: TokenHash::of("nbkey_1"), until: Some(WallTime(1_702_400_600_000)) },
            KeySecret { hash: TokenHash::of("nbkey_2"), until: None },
        ],
        models: Some(["org/model".to_owned(), "other".to_owned()].into()),
        expires_at: Some(WallTime(1_702_500_000_000)),
        limits: KeyLimits {
            rpm: Some(60),
            tpm: Some(1 << 40),
            max_concurrent: Some(8),
            budget: Some(Budget { tokens: 1 << 50, period: Period::Month }),
        },
        created_at: WallTime(1_702_400_000_000),
    }
}

pub(super) fn usage(key: Option<KeyId>, span: Span) -> UsageRow {
    UsageRow {
        key,
        model: "org/model".to_owned(),
        from: span.start(WallTime(1_702_400_000_000)),
        span,
        sums: Sums { requests: 7, prompt_tokens: 1 << 40, completion_tokens: 300, aborted: 1 },
    }
}

fn event(seq: u64) -> JournalEvent {
    let happening = Happening {
        kind: "running",
        message: "replica 0 is running".to_owned(),
        replica: Some(ReplicaId::from_bytes([2; 16])),
        node: Some(node().id),
    };
    JournalEvent { seq, line: Line::of_deployment(deployment().id, happening, WallTime(5)) }
}

fn ring() -> Ring {
    Ring::Deployment(deployment().id)
}

fn sorted(mut events: Vec<JournalEvent>) -> Vec<JournalEvent> {
    events.sort_by_key(|event| event.seq);
    events
}

#[tokio::test]
async fn what_is_committed_is_there_after_the_store_was_opened_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let dep = deployment();
    let stop = Command { id: CommandId::random(), action: Action::Stop, created_at: WallTime(2), ..start() };
    {
        let store = EmbeddedStore::open(dir.path(), Options { ballast_bytes: 0, ..Options::default() })
            .expect("opened");
        let mut writes = vec![
            Write::PutNode(Box::new(node())),
            Write::PutDeployment(Box::new(dep.clone())),
            Write::PutReplica(dep.id, Box::new(dep.replicas[0].clone())),
            Write::PutCommand(Box::new(start())),
            Write::PutCommand(Box::new(stop.clone())),
        ];
        writes.extend([300, 2, 1].map(|seq| Write::PutEvent(Box::new(event(seq)))));
        store.commit(writes).await.expect("committed");
        store.close();
    }
    let store = EmbeddedStore::open(dir.path(), Options { ballast_bytes: 0, ..Options::default() })
        .expect("opened again");
    assert_eq!(store.nodes().await.expect("read"), [node()]);
    assert_eq!(store.deployment_names().await.expect("read"), [(dep.id, dep.name.clone())]);
    assert_eq!(store.deployment(dep.id).await.expect("read"), Some(dep.clone()));
    assert_eq!(store.commands(node().id).await.expect("read"), [stop.clone(), start()], "oldest first");
    assert_eq!(sorted(store.journal().await.expect("read")), [1, 2, 300].map(event));
    let wanted = [(ring(), 2), (ring(), 3), (Ring::Audit, 1)].to_vec();
    assert_eq!(store.lines(wanted).await.expect("read"), [event(2)]);
    let gone = vec![
        Write::DeleteNode(node().id),
        Write::DeleteReplica(dep.id, dep.replicas[0].id),
        Write::DeleteDeployment(dep.id),
        Write::DeleteCommand(node().id, stop.id),
        Write::DeleteEvent(ring(), 2),
    ];
    store.commit(gone).await.expect("committed");
    assert_eq!(store.nodes().await.expect("read"), []);
    assert_eq!(store.deployment(dep.id).await.expect("read"), None);
    assert_eq!(store.commands(node().id).await.expect("read"), [start()]);
    assert_eq!(sorted(store.journal().await.expect("read")), [1, 300].map(event));
}

#[tokio::test]
async fn a_node_whose_id_begins_like_anothers_has_its_own_commands() {
    let dir = tempfile::tempdir().expect("a directory");
    let store =
        EmbeddedStore::open(dir.path(), Options { ballast_bytes: 0, ..Options::default() }).expect("opened");
    let other = Command { node_id: "node-10".parse().expect("an id"), ..start() };
    store.commit(vec![Write::PutCommand(Box::new(other))]).await.expect("committed");
    assert_eq!(store.commands("node-1".parse().expect("an id")).await.expect("read"), []);
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let store =
        EmbeddedStore::open(dir.path(), Options { ballast_bytes: 0, ..Options::default() }).expect("opened");
    let mut dep = deployment();
    dep.spec.args = vec!["x".repeat(10_000)];
    let refused = store.commit(vec![Write::PutDeployment(Box::new(dep))]).await.expect_err("too large");
    assert!(refused.to_string().contains("deployment \"org/model\""), "{refused}");
}

#[tokio::test]
async fn one_record_that_cannot_be_read_keeps_no_other_from_being_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let store =
        EmbeddedStore::open(dir.path(), Options { ballast_bytes: 0, ..Options::default() }).expect("opened");
    let good = deployment();
    let bad = DeploymentId::from_bytes([7; 16]);
    store.commit(vec![Write::PutDeployment(Box::new(good.clone()))]).await.expect("committed");
    let newer = Record { kind: 2, schema: 999, payload: b"from the future".to_vec() };
    store.engine.commit(Batch::new().put(keys::deployment(bad), newer)).await.expect("committed");
    let names = store.deployment_names().await.expect("read");
    assert_eq!(names, [(good.id, good.name), (bad, bad.to_string())]);
    assert!(store.deployment(bad).await.is_err());
    assert!(store.deployment(good.id).await.expect("read").is_some());
}

#[tokio::test]
async fn keys_and_usage_are_there_again_and_rows_are_read_by_block_and_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = || Options { ballast_bytes: 0, ..Options::default() };
    let (of_key, of_nobody) = (usage(Some(key().id), Span::Hour), usage(None, Span::Hour));
    let folded = usage(Some(key().id), Span::Day);
    let tomorrow = UsageRow { from: WallTime(of_key.from.0 + 24 * 3_600_000), ..of_key.clone() };
    let rows = [of_key.clone(), of_nobody.clone(), folded.clone(), tomorrow.clone()];
    {
        let store = EmbeddedStore::open(dir.path(), options()).expect("opened");
        let mut writes = vec![Write::PutKey(Box::new(key()))];
        writes.extend(rows.iter().map(|row| Write::PutUsage(Box::new(row.clone()))));
        store.commit(writes).await.expect("committed");
        store.close();
    }
    let store = EmbeddedStore::open(dir.path(), options()).expect("opened again");
    assert_eq!(store.keys().await.expect("read"), [key()]);
    assert_eq!(store.usage(None).await.expect("read").len(), 4);
    let today = store.usage(Some(of_key.id().block())).await.expect("read");
    assert!(today.len() == 2 && today.contains(&of_key) && today.contains(&of_nobody), "{today:?}");
    let absent = usage(None, Span::Month).id();
    let asked = vec![folded.id(), absent, tomorrow.id()];
    assert_eq!(store.usage_rows(asked).await.expect("read"), [folded.clone(), tomorrow]);
    store.commit(vec![Write::PutUsage(Box::new(folded.clone()))]).await.expect("repeated");
    assert_eq!(store.usage(Some(folded.id().block())).await.expect("read"), vec![folded.clone()]);
    let census = store.census().await.expect("read");
    assert_eq!((census["api_keys"], census["usage"]), (1, 4));
    let gone = vec![Write::DeleteKey(key().id), Write::DeleteUsage(Box::new(folded.id()))];
    store.commit(gone).await.expect("committed");
    assert_eq!(store.keys().await.expect("read"), []);
    assert_eq!(store.usage(None).await.expect("read").len(), 3);
}

#[tokio::test]
async fn the_largest_key_that_is_allowed_fits_into_its_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let store =
        EmbeddedStore::open(dir.path(), Options { ballast_bytes: 0, ..Options::default() }).expect("opened");
    let names = (0..64_u8).map(|n| format!("{n:02}{}", "x".repeat(62)));
    let large = ApiKey { name: "\u{1F600}".repeat(128), models: Some(names.collect()), ..key() };
    store.commit(vec![Write::PutKey(Box::new(large.clone()))]).await.expect("committed");
    assert_eq!(store.keys().await.expect("read"), [large]);
}

#[tokio::test]
async fn a_row_of_usage_that_cannot_be_read_is_set_aside_and_counted_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let store =
        EmbeddedStore::open(dir.path(), Options { ballast_bytes: 0, ..Options::default() }).expect("opened");
    let row = usage(None, Span::Hour);
    let newer = Record { kind: 11, schema: 999, payload: b"from the future".to_vec() };
    store.engine.commit(Batch::new().put(keys::usage(&row.id()), newer)).await.expect("committed");
    assert_eq!(store.usage_rows(vec![row.id()]).await, Ok(Vec::new()));
    assert_eq!(store.set_aside().await.expect("read").len(), 1);
    store.commit(vec![Write::PutUsage(Box::new(row.clone()))]).await.expect("committed");
    assert_eq!(store.usage_rows(vec![row.id()]).await, Ok(vec![row]));
}
