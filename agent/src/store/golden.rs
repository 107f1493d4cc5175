//! Golden bytes: one file for each kind and schema of record that was ever written. What they say must be read for
//! ever, and the newest schema must be written as it stands here. A file is only ever added; when a test here fails,
//! the code is wrong, not the file.

use std::collections::BTreeMap;

use nebula_core::ids::{DeploymentId, Generation, ReplicaId};
use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::token::TokenHash;
use nebula_store::Record;
use proptest::prelude::*;

use super::records::{
    COMMAND, FENCE, FenceRecord, JOURNAL, JournalLine, NODE, SPEC, STATE, SpecRecord, StateRecord, read_spec,
    read_state,
};
use super::{record, value};
use crate::replica::machine::{Desired, Failure, FailureReason, Phase, State};
use crate::replica::spec::{Access, ContainerRef, Instance, ProcessRef, Spec};

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

/// The value is written as the golden bytes, which are read as a value that `same` accepts.
fn stays<T: bincode::Encode + bincode::Decode<()>>(
    golden: &str,
    kind: u8,
    stored: &T,
    same: impl Fn(T) -> bool,
) {
    let written = print(&record(kind, stored).expect("small enough"));
    assert!(written == golden, "it is written as\n{written}and not as\n{golden}");
    assert!(same(value(&parse(golden), kind).expect("readable")), "{golden}");
}

fn spec() -> Spec {
    Spec {
        runtime: RuntimeKind::Llamacpp,
        model: "org/model".to_owned(),
        source: Some("fs:///models/x.gguf".parse().expect("a source")),
        served_name: "demo".to_owned(),
        command: vec!["serve".to_owned()],
        args: vec!["--x".to_owned(), String::new()],
        env: BTreeMap::from([("K".to_owned(), "V".to_owned())]),
        gpu_devices: vec![0, 300],
        image: None,
        driver: None,
    }
}

fn state(desired: Desired, phase: Phase) -> State {
    State {
        deployment: DeploymentId::from_bytes([1; 16]),
        replica: ReplicaId::from_bytes([2; 16]),
        generation: Generation(5),
        desired,
        phase,
        access: Access {
            public: true,
            tokens: vec![TokenHash::from_bytes([3; 32])],
            gateway: Some(TokenHash::from_bytes([4; 32])),
        },
        port: 30_000,
        attempt: 2,
        restarts: 1,
        ever_healthy: true,
        restarted: false,
        recent_crashes: 3,
        last_end: "exited with 1".to_owned(),
        out_of_memory: false,
    }
}

#[test]
fn ids_lines_and_fences() {
    let node = "node-1".to_owned();
    stays(golden!("node-1"), NODE, &node, |read| read == node);
    let command = "09090909-0909-0909-0909-090909090909".to_owned();
    stays(golden!("command-1"), COMMAND, &command, |read| read == command);
    let line = JournalLine { kind: "started".to_owned(), message: "pid 7".to_owned(), at: 1_702_400_000 };
    stays(golden!("journal-1"), JOURNAL, &line, |read| read == line);
    let fence = FenceRecord { replica: [2; 16], generation: 300 };
    stays(golden!("fence-1"), FENCE, &fence, |read| (read.replica, read.generation) == ([2; 16], 300));
}

#[test]
fn specs() {
    assert_eq!(read_spec(&parse(golden!("spec-1"))), Ok(spec()));
    let image = Some("registry:5000/a/b:1".to_owned());
    let spec = Spec { image, driver: Some(Driver::Docker), ..spec() };
    stays(golden!("spec-2"), SPEC, &SpecRecord::from(&spec), |read| read.into_spec() == Some(spec.clone()));
    assert_eq!(read_spec(&parse(golden!("spec-2"))), Ok(spec.clone()));
}

fn why(reason: FailureReason) -> Failure {
    Failure { reason, message: "no program".to_owned(), exit_code: -1 }
}

#[test]
fn states_of_the_first_schema_are_read() {
    let instance = Instance::Process(ProcessRef { pid: 7, started: 300, boot: [9; 16] });
    let killing = |failure| Phase::Killing { instance, failure };
    for (golden, desired, phase) in [
        (golden!("state-1-preparing"), Desired::Running, Phase::Preparing),
        (golden!("state-1-spawning"), Desired::Stopped, Phase::Spawning { stale: true }),
        (golden!("state-1-starting"), Desired::Running, Phase::Starting { instance }),
        (golden!("state-1-running"), Desired::Running, Phase::Running { instance }),
        (golden!("state-1-backing-off"), Desired::Running, Phase::BackingOff),
        (golden!("state-1-killing"), Desired::Deleted, killing(None)),
        (
            golden!("state-1-killing-failed"),
            Desired::Running,
            killing(Some(why(FailureReason::HealthDeadline))),
        ),
        (golden!("state-1-stopped"), Desired::Stopped, Phase::Stopped),
        (golden!("state-1-failed-prepare"), Desired::Running, Phase::Failed(why(FailureReason::Prepare))),
        (golden!("state-1-failed-spawn"), Desired::Running, Phase::Failed(why(FailureReason::Spawn))),
        (golden!("state-1-failed-exited"), Desired::Running, Phase::Failed(why(FailureReason::Exited))),
        (
            golden!("state-1-failed-crash-loop"),
            Desired::Running,
            Phase::Failed(why(FailureReason::CrashLoop)),
        ),
    ] {
        let state = state(desired, phase);
        assert_eq!(read_state(&parse(golden), state.replica), Ok(state));
    }
}

#[test]
fn states_in_every_stored_phase() {
    let process = Instance::Process(ProcessRef { pid: 7, started: 300, boot: [9; 16] });
    let container = Instance::Container(ContainerRef([8; 32]));
    for (golden, desired, phase) in [
        (golden!("state-2-preparing"), Desired::Running, Phase::Preparing),
        (golden!("state-2-spawning"), Desired::Stopped, Phase::Spawning { stale: true }),
        (golden!("state-2-starting-process"), Desired::Running, Phase::Starting { instance: process }),
        (golden!("state-2-starting"), Desired::Running, Phase::Starting { instance: container }),
        (golden!("state-2-running-process"), Desired::Running, Phase::Running { instance: process }),
        (golden!("state-2-running"), Desired::Running, Phase::Running { instance: container }),
        (golden!("state-2-backing-off"), Desired::Running, Phase::BackingOff),
        (golden!("state-2-killing"), Desired::Deleted, Phase::Killing { instance: container, failure: None }),
        (
            golden!("state-2-killing-unresponsive"),
            Desired::Running,
            Phase::Killing { instance: process, failure: Some(why(FailureReason::Unresponsive)) },
        ),
        (golden!("state-2-stopped"), Desired::Stopped, Phase::Stopped),
        (golden!("state-2-failed-image"), Desired::Running, Phase::Failed(why(FailureReason::ImagePull))),
        (golden!("state-2-failed-model"), Desired::Running, Phase::Failed(why(FailureReason::Model))),
        (golden!("state-2-failed-gpu"), Desired::Running, Phase::Failed(why(FailureReason::Gpu))),
    ] {
        let state = State { out_of_memory: true, ..state(desired, phase) };
        stays(golden, STATE, &StateRecord::from(&state), |read| read.into_state(state.replica) == state);
        assert_eq!(read_state(&parse(golden), state.replica), Ok(state));
    }
}

fn failure() -> impl Strategy<Value = Failure> {
    let reasons = [
        FailureReason::Prepare,
        FailureReason::Spawn,
        FailureReason::Exited,
        FailureReason::HealthDeadline,
        FailureReason::CrashLoop,
        FailureReason::ImagePull,
        FailureReason::Model,
        FailureReason::Gpu,
        FailureReason::Unresponsive,
    ];
    (prop::sample::select(reasons.to_vec()), ".{0,12}", any::<i32>())
        .prop_map(|(reason, message, exit_code)| Failure { reason, message, exit_code })
}

fn phase() -> impl Strategy<Value = Phase> {
    let process = (any::<u32>(), any::<u64>(), any::<[u8; 16]>())
        .prop_map(|(pid, started, boot)| Instance::Process(ProcessRef { pid, started, boot }));
    let container = any::<[u8; 32]>().prop_map(|id| Instance::Container(ContainerRef(id)));
    (0..8, prop_oneof![process, container], prop::option::of(failure()), failure(), any::<bool>()).prop_map(
        |(which, instance, maybe, failure, stale)| match which {
            0 => Phase::Preparing,
            1 => Phase::Spawning { stale },
            2 => Phase::Starting { instance },
            3 => Phase::Running { instance },
            4 => Phase::BackingOff,
            5 => Phase::Killing { instance, failure: maybe },
            6 => Phase::Stopped,
            _ => Phase::Failed(failure),
        },
    )
}

prop_compose! {
    fn any_state()(ids in any::<([u8; 16], [u8; 16])>(), generation: u64, phase in phase(),
                   desired in prop::sample::select(vec![Desired::Running, Desired::Stopped, Desired::Deleted]),
                   public: bool, tokens in prop::collection::vec(any::<[u8; 32]>(), 0..3),
                   gateway: Option<[u8; 32]>, port: u16, counts in any::<(u32, u32, u8)>(),
                   flags in any::<(bool, bool, bool)>(), last_end in ".{0,12}") -> State {
        State {
            deployment: DeploymentId::from_bytes(ids.0),
            replica: ReplicaId::from_bytes(ids.1),
            generation: Generation(generation),
            desired,
            phase,
            access: Access {
                public,
                tokens: tokens.into_iter().map(TokenHash::from_bytes).collect(),
                gateway: gateway.map(TokenHash::from_bytes),
            },
            port,
            attempt: counts.0,
            restarts: counts.1,
            ever_healthy: flags.0,
            restarted: flags.1,
            recent_crashes: counts.2,
            last_end,
            out_of_memory: flags.2,
        }
    }
}

prop_compose! {
    fn any_spec()(runtime in prop::sample::select(RuntimeKind::ALL.to_vec()), model in ".{0,12}",
                  sourced: bool, served_name in ".{0,12}",
                  command in prop::collection::vec(".{0,8}", 0..3), args in prop::collection::vec(".{0,8}", 0..3),
                  env in prop::collection::btree_map(".{0,8}", ".{0,8}", 0..3),
                  gpu_devices in prop::collection::vec(any::<u32>(), 0..4), image in prop::option::of(".{0,12}"),
                  driver in prop::sample::select(vec![None, Some(Driver::Docker), Some(Driver::Process)])) -> Spec {
        let source = if sourced { spec().source } else { None };
        Spec { runtime, model, source, served_name, command, args, env, gpu_devices, image, driver }
    }
}

proptest! {
    #[test]
    fn every_state_and_spec_comes_back_from_its_record(state in any_state(), spec in any_spec()) {
        let stored = record(STATE, &StateRecord::from(&state)).expect("small enough");
        prop_assert_eq!(read_state(&stored, state.replica), Ok(state));
        let stored = record(SPEC, &SpecRecord::from(&spec)).expect("small enough");
        prop_assert_eq!(read_spec(&stored), Ok(spec));
    }

    #[test]
    fn every_line_fence_and_id_comes_back_from_its_record(
        kind in ".{0,12}", message in ".{0,40}", at: u64, replica: [u8; 16], generation: u64, id in ".{0,40}",
    ) {
        let line = JournalLine { kind, message, at };
        prop_assert_eq!(value(&record(JOURNAL, &line).expect("small enough"), JOURNAL), Ok(line));
        let stored = record(FENCE, &FenceRecord { replica, generation }).expect("small enough");
        let read: FenceRecord = value(&stored, FENCE).expect("readable");
        prop_assert_eq!((read.replica, read.generation), (replica, generation));
        for kind in [NODE, COMMAND] {
            prop_assert_eq!(value(&record(kind, &id).expect("small enough"), kind), Ok(id.clone()));
        }
    }

    #[test]
    fn no_bytes_make_reading_panic(
        kind in 0_u8..8,
        schema in 0_u16..3,
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let record = Record { kind, schema, payload };
        let spec = read_spec(&record);
        let state = read_state(&record, ReplicaId::random());
        let text = value::<String>(&record, NODE).or_else(|_| value::<String>(&record, COMMAND));
        let line = value::<JournalLine>(&record, JOURNAL);
        let fence = value::<FenceRecord>(&record, FENCE);
        let read = [spec.is_ok(), state.is_ok(), text.is_ok(), line.is_ok(), fence.is_ok()];
        prop_assert!(read.into_iter().filter(|read| *read).count() <= 1, "a record is of one kind");
    }

    #[test]
    fn a_part_of_a_record_is_not_taken_for_the_whole(state in any_state(), cut: prop::sample::Index) {
        let mut stored = record(STATE, &StateRecord::from(&state)).expect("small enough");
        stored.payload.truncate(cut.index(stored.payload.len()));
        prop_assert!(read_state(&stored, state.replica).is_err());
    }
}
