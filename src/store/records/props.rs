//! Whatever the domain holds comes back from its record, and no bytes make reading panic.

use std::time::Duration;

use nebula_core::ids::{CommandId, KeyId, OperationId};
use nebula_core::token::{Secret, TokenHash};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::deployment::DESIRES;
use super::*;
use crate::domain::alias::{Alias, Target};
use crate::domain::command::{Action, Command, StartSpec};
use crate::domain::deployment;
use crate::domain::deployment::{CpuNeed, Deployment, DeploymentSpec, GpuNeed, LostAfter};
use crate::domain::event::{JournalEvent, Line, Origin, Subject};
use crate::domain::key::{ApiKey, Budget, KeyLimits, KeySecret, Period};
use crate::domain::operation::{Blocked, Operation, OperationState};
use crate::domain::poison::Poison;
use crate::domain::route::Balance;
use crate::domain::usage::{Span, Sums, UsageRow};

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn map() -> impl Strategy<Value = Map> {
    btree_map(text(), text(), 0..3)
}

fn node_id() -> impl Strategy<Value = NodeId> {
    "[a-z0-9][A-Za-z0-9._-]{0,12}".prop_map(|id| id.parse().expect("an id"))
}

fn replica_id() -> impl Strategy<Value = ReplicaId> {
    any::<[u8; 16]>().prop_map(ReplicaId::from_bytes)
}

fn deployment_id() -> impl Strategy<Value = DeploymentId> {
    any::<[u8; 16]>().prop_map(DeploymentId::from_bytes)
}

fn address() -> impl Strategy<Value = nebula_core::address::HostPort> {
    ("[a-z]{1,8}", 1_u16..).prop_map(|(host, port)| format!("{host}:{port}").parse().expect("an address"))
}

fn source() -> impl Strategy<Value = Option<nebula_core::source::ModelSource>> {
    const SOURCES: &[&str] = &["hf://org/name", "ollama://llama3.2:1b", "fs:///m/x.gguf", "s3://bucket/key"];
    option::of(select(SOURCES).prop_map(|source| source.parse().expect("a source")))
}

fn driver() -> impl Strategy<Value = Option<nebula_core::runtime::Driver>> {
    option::of(select(&["docker", "process"][..]).prop_map(|driver| driver.parse().expect("a driver")))
}

fn runtime() -> impl Strategy<Value = nebula_core::runtime::RuntimeKind> {
    select(&nebula_core::runtime::RuntimeKind::ALL[..])
}

fn hash() -> impl Strategy<Value = TokenHash> {
    any::<[u8; 32]>().prop_map(TokenHash::from_bytes)
}

fn wall() -> impl Strategy<Value = WallTime> {
    any::<u64>().prop_map(WallTime)
}

prop_compose! {
    fn any_gpu()(uuid in text(), name in text(), memory_bytes: u64, index: u32, compute_capability in text(),
                 pci_bus_id in text()) -> Gpu {
        Gpu { uuid, name, memory_bytes, index, compute_capability, pci_bus_id }
    }
}

prop_compose! {
    fn any_capabilities()(gpus in vec(any_gpu(), 0..3), total_memory_bytes: u64, available_memory_bytes: u64,
                          os in text(), arch in text(), cpu_cores: u32, cuda_version in text(),
                          driver_version in text(), supported_runtimes in vec(text(), 0..3)) -> Capabilities {
        Capabilities { gpus, total_memory_bytes, available_memory_bytes, os, arch, cpu_cores, cuda_version,
                       driver_version, supported_runtimes }
    }
}

prop_compose! {
    fn any_node()(id in node_id(), names in (text(), text(), text(), text()), address in address(), proxy_port: u16,
                  labels in map(), capabilities in any_capabilities(),
                  scheduling in select(&Scheduling::ALL[..]), presence in select(&PRESENCES[..]),
                  created_at in wall()) -> Node {
        let (name, version, subdomain, boot_id) = names;
        Node { id, name, version, address, proxy_port, subdomain, labels, capabilities, boot_id, scheduling,
               presence, created_at }
    }
}

prop_compose! {
    fn any_autoscale()(min: u32, max: u32, target: u32, cooldown: u64, idle: u64) -> deployment::Autoscale {
        let (cooldown, idle_after) = (Duration::from_secs(cooldown), Duration::from_secs(idle));
        deployment::Autoscale { min, max, target, cooldown, idle_after }
    }
}

prop_compose! {
    fn any_spec()(model in text(), runtime in runtime(), source in source(),
                  image in option::of(text()), driver in driver(),
                  words in (vec(text(), 0..3), vec(text(), 0..3)), maps in (map(), map()),
                  node in option::of(text()), replicas: u32,
                  gpu in (any::<u32>(), option::of(text()), any::<u64>()), cores: u32, public: bool,
                  lost_after in option::of(any::<u64>()), routing in select(&Balance::ALL[..]),
                  more in (select(deployment::Policy::ALL), select(deployment::Strategy::ALL), any::<u64>(),
                           option::of(any_autoscale()))) -> DeploymentSpec {
        let ((command, args), (env, labels)) = (words, maps);
        DeploymentSpec {
            placement: more.0, strategy: more.1, drain: Duration::from_secs(more.2), autoscale: more.3,
            model, runtime, source, image, driver, command, args, env, node, labels, replicas, public, routing,
            gpu: GpuNeed { count: gpu.0, kind: gpu.1, memory_bytes: gpu.2 },
            cpu: CpuNeed { cores },
            lost_after: lost_after.map_or(LostAfter::Never, |secs| LostAfter::After(Duration::from_secs(secs))),
        }
    }
}

prop_compose! {
    fn any_deployment()(id in deployment_id(), name in text(), spec in any_spec(),
                        desired in select(&DESIRES[..]), generation: u64, token in hash(), revision: u64,
                        previous in option::of((any_spec(), any::<u64>())), old in option::of((hash(), wall())),
                        hint in option::of((any::<u64>(), any::<u64>(), text())),
                        gateway_token in text(), created_at in wall(), updated_at in wall()) -> Deployment {
        let previous = previous.map(|(spec, revision)| {
            Box::new(deployment::Previous { spec, revision: Generation(revision) })
        });
        let old_token = old.map(|(hash, until)| deployment::OldToken { hash, until });
        let hint = hint.map(|(bytes, weights_bytes, how)| deployment::MemoryHint { bytes, weights_bytes, how });
        Deployment { revision: Generation(revision), previous, old_token, hint, id, name, spec, desired, generation: Generation(generation), token,
                     gateway_token: Secret::from_text(gateway_token), created_at, updated_at, replicas: Vec::new() }
    }
}

prop_compose! {
    fn any_placement()(node_id in node_id(), node_name in text(), proxy in address(),
                       gpu_devices in vec(any::<u32>(), 0..4)) -> Placement {
        Placement { node_id, node_name, proxy, gpu_devices }
    }
}

prop_compose! {
    fn any_replica()(id in replica_id(), index: u32, generation: u64, revision: u64, placement in option::of(any_placement()),
                     phase in select(&Phase::ALL[..]), leaving: bool, container_id in text(), port: u16,
                     message in text(), restarts: u32) -> Replica {
        Replica { revision: Generation(revision), id, index, generation: Generation(generation), placement, phase, leaving, container_id, port,
                  message, restarts, seen: Seen::default() }
    }
}

prop_compose! {
    fn any_start()(runtime in runtime(), driver in driver(), texts in (text(), text(), text(), text()),
                   source in source(), words in (vec(text(), 0..3), vec(text(), 0..3)), env in map(),
                   gpu_devices in vec(any::<u32>(), 0..4), public: bool, token in option::of(hash())) -> Action {
        let ((image, model, served_name, gateway_token), (command, args)) = (texts, words);
        Action::Start(Box::new(StartSpec {
            runtime, driver, image, model, source, command, args, env, gpu_devices, served_name, public, token,
            gateway_token: Secret::from_text(gateway_token),
        }))
    }
}

fn any_action() -> impl Strategy<Value = Action> {
    let access =
        (vec(hash(), 0..3), any::<bool>()).prop_map(|(tokens, public)| Action::Access { tokens, public });
    prop_oneof![any_start(), Just(Action::Stop), Just(Action::Delete), access]
}

prop_compose! {
    fn any_command()(id: [u8; 16], node_id in node_id(), deployment_id in deployment_id(),
                     replica_id in replica_id(), generation: u64, action in any_action(), drain: u64,
                     created_at in wall()) -> Command {
        Command { drain: Duration::from_secs(drain), id: CommandId::from_bytes(id), node_id, deployment_id, replica_id,
                  generation: Generation(generation), action, created_at }
    }
}

fn any_subject() -> impl Strategy<Value = Subject> {
    let audit =
        (text(), text(), text(), option::of(deployment_id())).prop_map(|(by, request_id, address, of)| {
            Subject::Audit { origin: Origin { by, request_id, address }, deployment: of }
        });
    prop_oneof![
        deployment_id().prop_map(Subject::Deployment),
        node_id().prop_map(Subject::Node),
        Just(Subject::Fleet),
        audit,
    ]
}

prop_compose! {
    fn any_event()(seq: u64, time in wall(), subject in any_subject(), kind in text(), message in text(),
                   replica in option::of(replica_id()), node in option::of(node_id())) -> JournalEvent {
        JournalEvent { seq, line: Line { time, subject, kind, message, replica, node } }
    }
}

prop_compose! {
    fn any_used_key()(key in text(), body: [u8; 32], deployment in deployment_id(), at in wall()) -> UsedKey {
        UsedKey { key, body, deployment, at }
    }
}

prop_compose! {
    fn any_poison()(path in text(), message in text(), fingerprint: u64, text in text(), kills: u32,
                    first_at in wall(), last_at in wall()) -> Poison {
        Poison { path, message, fingerprint, text, kills, first_at, last_at }
    }
}

fn key_id() -> impl Strategy<Value = KeyId> {
    any::<[u8; 16]>().prop_map(KeyId::from_bytes)
}

prop_compose! {
    fn any_limits()(rpm: Option<u32>, tpm: Option<u64>, max_concurrent: Option<u32>,
                    budget in option::of((any::<u64>(), select(&Period::ALL[..])))) -> KeyLimits {
        let budget = budget.map(|(tokens, period)| Budget { tokens, period });
        KeyLimits { rpm, tpm, max_concurrent, budget }
    }
}

prop_compose! {
    fn any_key()(id in key_id(), name in text(), secrets in vec((hash(), option::of(wall())), 0..3),
                 models in option::of(prop::collection::btree_set(text(), 0..4)), expires_at in option::of(wall()),
                 limits in any_limits(), created_at in wall()) -> ApiKey {
        let secrets = secrets.into_iter().map(|(hash, until)| KeySecret { hash, until }).collect();
        ApiKey { id, name, secrets, models, expires_at, limits, created_at }
    }
}

prop_compose! {
    fn any_usage()(key in option::of(key_id()), model in text(), from in wall(), span in select(&Span::ALL[..]),
                   sums in any::<(u64, u64, u64, u64)>()) -> UsageRow {
        let (requests, prompt_tokens, completion_tokens, aborted) = sums;
        UsageRow { key, model, from, span, sums: Sums { requests, prompt_tokens, completion_tokens, aborted } }
    }
}

prop_compose! {
    fn any_alias()(name in text(), targets in vec((text(), any::<u32>()), 0..4), fallback in option::of(text()),
                   created_at in wall(), updated_at in wall()) -> Alias {
        let target = |(deployment, weight)| Target { deployment, weight };
        Alias { name, targets: targets.into_iter().map(target).collect(), fallback, created_at, updated_at }
    }
}

prop_compose! {
    fn any_blocked()(deployment in text(), deployment_id in deployment_id(), replica in option::of(replica_id()),
                     why in text()) -> Blocked {
        Blocked { deployment, deployment_id, replica, why }
    }
}

prop_compose! {
    fn any_operation()(id: [u8; 16], node in node_id(), names in (text(), text()),
                       state in select(&OperationState::ALL[..]), makes in select(&Scheduling::ALL[..]),
                       started_at in wall(), until in wall(), ended_at in option::of(wall()),
                       total: u32, left: u32, blocked in vec(any_blocked(), 0..3)) -> Operation {
        let (node_name, message) = names;
        Operation { id: OperationId::from_bytes(id), node, node_name, state, makes, started_at, until, ended_at,
                    total, left, blocked, message }
    }
}

/// Reads the record as each of the nouns.
fn read_all(record: &Record) -> Vec<Result<(), StoreError>> {
    vec![
        read_node(record).map(drop),
        read_deployment(record).map(drop),
        read_replica(record).map(drop),
        read_command(record).map(drop),
        read_event(record).map(drop),
        read_used_key(record).map(drop),
        read_poison(record).map(drop),
        read_api_key(record).map(drop),
        read_usage(record).map(drop),
        read_alias(record).map(drop),
        read_operation(record).map(drop),
    ]
}

proptest! {
    #[test]
    fn every_noun_comes_back_from_its_record(
        given in (any_node(), any_deployment(), any_replica(), any_command(), any_event(), any_used_key(), any_poison()),
    ) {
        let (a_node, a_deployment, a_replica, a_command, an_event, a_used_key, a_poison) = given;
        prop_assert_eq!(node(&a_node).and_then(|record| read_node(&record)), Ok(a_node));
        prop_assert_eq!(deployment(&a_deployment).and_then(|record| read_deployment(&record)), Ok(a_deployment));
        prop_assert_eq!(replica(&a_replica).and_then(|record| read_replica(&record)), Ok(a_replica));
        prop_assert_eq!(command(&a_command).and_then(|record| read_command(&record)), Ok(a_command));
        prop_assert_eq!(event(&an_event).and_then(|record| read_event(&record)), Ok(an_event));
        prop_assert_eq!(used_key(&a_used_key).and_then(|record| read_used_key(&record)), Ok(a_used_key));
        prop_assert_eq!(poison(&a_poison).and_then(|record| read_poison(&record)), Ok(a_poison));
    }

    #[test]
    fn keys_usage_aliases_and_operations_come_back_from_their_records(
        a_key in any_key(), a_row in any_usage(), an_alias in any_alias(), an_operation in any_operation(),
    ) {
        prop_assert_eq!(operation(&an_operation).and_then(|record| read_operation(&record)), Ok(an_operation));
        prop_assert_eq!(alias(&an_alias).and_then(|record| read_alias(&record)), Ok(an_alias));
        prop_assert_eq!(api_key(&a_key).and_then(|record| read_api_key(&record)), Ok(a_key));
        prop_assert_eq!(usage(&a_row).and_then(|record| read_usage(&record)), Ok(a_row));
    }

    #[test]
    fn no_bytes_make_reading_panic(kind in 0_u8..14, schema in 0_u16..4, payload in vec(any::<u8>(), 0..400)) {
        let read = read_all(&Record { kind, schema, payload });
        prop_assert!(read.iter().filter(|result| result.is_ok()).count() <= 1, "a record is of one kind");
    }

    #[test]
    fn a_record_that_was_cut_or_changed_does_not_make_reading_panic(
        (a_node, a_command, an_event, a_key, a_row, an_alias, an_operation) in
            (any_node(), any_command(), any_event(), any_key(), any_usage(), any_alias(), any_operation()),
        which in 0_usize..7,
        cut in any::<prop::sample::Index>(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let written = [
            node(&a_node), command(&a_command), event(&an_event), api_key(&a_key), usage(&a_row), alias(&an_alias),
            operation(&an_operation),
        ];
        let record = written[which].clone().expect("small enough");
        let mut payload = record.payload.clone();
        for (at, bits) in flips {
            let at = at.index(payload.len());
            payload[at] ^= bits;
        }
        let _ = read_all(&Record { payload, ..record.clone() });
        let payload = record.payload[..cut.index(record.payload.len())].to_vec();
        let read = read_all(&Record { payload, ..record });
        prop_assert!(read.iter().all(Result::is_err), "a part is not taken for the whole");
    }
}
