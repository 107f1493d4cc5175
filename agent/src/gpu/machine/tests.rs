//! What follows from what the driver says.

use std::collections::BTreeSet;
use std::time::Duration;

use nebula_core::clock::Tick;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A machine and its time, one second an event.
struct Driven {
    machine: Machine,
    now: Tick,
}

impl Driven {
    /// With so many GPUs, all of which are well.
    fn with(count: u32) -> Self {
        let mut driven = Self { machine: Machine::default(), now: Tick(0) };
        driven.open(&(0..count).collect::<Vec<_>>());
        for position in 0..count {
            driven.good(position);
        }
        driven
    }

    /// Opens the library; it lists these GPUs.
    fn open(&mut self, gpus: &[u32]) {
        self.say(Event::Opened { driver_version: "1".to_owned(), cuda_version: "12.4".to_owned() });
        for (position, gpu) in (0..).zip(gpus) {
            let facts = Ok(Facts { uuid: format!("GPU-{gpu}"), ..Facts::default() });
            self.say(Event::Found { position, facts });
        }
        self.say(Event::Listed);
    }

    fn say(&mut self, event: Event) -> Vec<Effect> {
        self.now = self.now.plus(SECOND);
        self.machine.step(event, self.now)
    }

    fn good(&mut self, position: u32) -> Vec<Effect> {
        self.say(Event::Sampled { position, sample: Ok(Sample::default()) })
    }

    fn bad(&mut self, position: u32) -> Vec<Effect> {
        self.say(Event::Sampled { position, sample: Err(Fault("fell off the bus".to_owned())) })
    }

    fn usable(&self) -> Vec<&str> {
        self.machine.inventory().usable().map(|gpu| gpu.uuid.as_str()).collect()
    }

    fn problem(&self, index: usize) -> &str {
        self.machine.inventory().gpus[index].problem.as_deref().unwrap_or_default()
    }

    fn is_lost(&self, index: usize) -> bool {
        self.machine.inventory().gpus[index].is_lost
    }
}

#[test]
fn a_gpu_is_used_from_its_first_good_sample_on() {
    let mut driven = Driven::with(0);
    driven.open(&[0]);
    assert_eq!(driven.problem(0), "was not read yet");
    assert!(!driven.is_lost(0), "what an earlier agent left running there goes on");
    assert_eq!(driven.good(0), [Effect::Changed]);
    assert_eq!(driven.good(0), []);
}

#[test]
fn trouble_is_over_after_three_good_samples_in_a_row() {
    let recover = Sample { action: RecoveryAction::Reset, ..Sample::default() };
    let troubles = [
        Event::Sampled { position: 0, sample: Err(Fault("fell off the bus".to_owned())) },
        Event::Overdue { position: Some(0) },
        Event::Sampled { position: 0, sample: Ok(recover) },
        Event::Xid { position: 0, xid: 154 },
    ];
    for trouble in troubles {
        let mut driven = Driven::with(2);
        let effects = driven.say(trouble.clone());
        assert!(effects.contains(&Effect::Changed), "{trouble:?}");
        assert_eq!(driven.usable(), ["GPU-1"], "{trouble:?}");
        driven.good(0);
        driven.good(0);
        driven.bad(0);
        driven.good(0);
        driven.good(0);
        assert_eq!(driven.usable(), ["GPU-1"], "{trouble:?}");
        assert_eq!(driven.good(0), [Effect::Usable { gpu: "gpu 0 (GPU-0)".to_owned() }, Effect::Changed]);
        assert_eq!(driven.usable(), ["GPU-0", "GPU-1"], "{trouble:?}");
    }
}

#[test]
fn what_runs_on_a_gpu_goes_on_unless_the_gpu_is_lost() {
    let drain = Sample { action: RecoveryAction::DrainAndReset, ..Sample::default() };
    for (event, is_lost) in [
        (Event::Sampled { position: 0, sample: Err(Fault("fell off the bus".to_owned())) }, true),
        (Event::Xid { position: 0, xid: 79 }, true),
        (Event::Closed { why: Closed::Absent, error: "the driver was unloaded".to_owned() }, true),
        (Event::Overdue { position: Some(0) }, false),
        (Event::Sampled { position: 0, sample: Ok(drain) }, false),
        (Event::Closed { why: Closed::Renew, error: String::new() }, false),
    ] {
        let mut driven = Driven::with(1);
        driven.say(event.clone());
        assert_eq!(driven.is_lost(0), is_lost, "{event:?}");
    }
}

#[test]
fn a_fatal_xid_counts_until_an_hour_was_quiet() {
    let mut driven = Driven::with(1);
    let effects = driven.say(Event::Xid { position: 0, xid: 48 });
    assert!(effects.contains(&Effect::SampleNow) && effects.contains(&Effect::Changed), "{effects:?}");
    assert_eq!(
        driven.problem(0),
        "has an uncorrectable memory error (XID 48); drain the node and reset or reboot it"
    );
    for _ in 0..1_800 {
        driven.good(0);
    }
    driven.say(Event::Xid { position: 0, xid: 95 });
    for _ in 0..3_599 {
        assert_eq!(driven.good(0), []);
    }
    assert!(driven.good(0).contains(&Effect::Changed));
    assert_eq!(driven.usable(), ["GPU-0"]);
}

#[test]
fn an_xid_that_is_not_fatal_is_noted_only() {
    for (xid, meaning) in [(13, Meaning::Application), (63, Meaning::Other)] {
        let mut driven = Driven::with(1);
        let effects = driven.say(Event::Xid { position: 0, xid });
        assert_eq!(effects, [Effect::Noted { gpu: "gpu 0 (GPU-0)".to_owned(), xid, meaning }]);
        assert_eq!(driven.usable(), ["GPU-0"]);
    }
}

#[test]
fn a_gpu_that_was_lost_from_the_start_is_listed_without_a_name() {
    let mut driven = Driven::with(0);
    driven.say(Event::Opened { driver_version: "1".to_owned(), cuda_version: String::new() });
    driven.say(Event::Found { position: 0, facts: Err(Fault("fell off the bus".to_owned())) });
    assert_eq!(
        driven.machine.inventory().issues(),
        ["gpu 0: fell off the bus; drain the node and reset or reboot it"]
    );
    for _ in 0..5 {
        driven.good(0);
    }
    assert_eq!(driven.usable(), [""; 0], "it has no UUID by which it could be used");
    driven.open(&[7]);
    driven.good(0);
    assert_eq!(driven.usable(), ["GPU-7"]);
    assert_eq!(driven.machine.inventory().gpus.len(), 1);
}

#[test]
fn an_index_never_comes_to_mean_another_gpu() {
    let mut driven = Driven::with(3);
    driven.say(Event::Closed { why: Closed::Renew, error: String::new() });
    // GPU 0 is gone, the driver counts the others from 0, and there is a new one.
    driven.open(&[1, 2, 9]);
    for position in 0..3 {
        driven.good(position);
    }
    let seen: Vec<_> =
        driven.machine.inventory().gpus.iter().map(|gpu| (gpu.index, gpu.uuid.as_str())).collect();
    assert_eq!(seen, [(0, "GPU-0"), (1, "GPU-1"), (2, "GPU-2"), (3, "GPU-9")]);
    assert_eq!(driven.usable(), ["GPU-1", "GPU-2", "GPU-9"]);
    assert!(driven.problem(0).starts_with("the driver does not list it any more"));
    driven.bad(0);
    assert_eq!(driven.usable(), ["GPU-2", "GPU-9"], "positions are the driver's new ones");
}

#[test]
fn only_a_driver_that_was_away_makes_an_xid_forgotten() {
    for (why, forgotten) in [(Closed::Absent, true), (Closed::Failed, false), (Closed::Renew, false)] {
        let mut driven = Driven::with(1);
        driven.say(Event::Xid { position: 0, xid: 79 });
        driven.say(Event::Closed { why, error: "why".to_owned() });
        assert_eq!(driven.machine.inventory().problem.is_some(), why == Closed::Failed);
        driven.open(&[0]);
        for _ in 0..3 {
            driven.good(0);
        }
        assert_eq!(driven.usable().len(), usize::from(forgotten), "{why:?}");
    }
}

#[test]
fn a_library_that_hangs_is_told_until_it_answers() {
    let mut driven = Driven::with(1);
    driven.say(Event::Overdue { position: None });
    assert_eq!(driven.machine.inventory().issues(), ["the NVIDIA driver does not answer"]);
    assert_eq!(driven.usable(), ["GPU-0"]);
    driven.good(0);
    assert_eq!(driven.machine.inventory().issues(), [""; 0]);
}

#[test]
fn memory_of_others_is_nothing_when_it_cannot_be_told() {
    let mut driven = Driven::with(1);
    let process = |pid, bytes| Process { pid, bytes };
    for (processes, others) in [
        (vec![process(1, Some(30)), process(2, Some(60))], 70),
        (vec![process(1, None), process(2, Some(60))], 0),
        (vec![process(2, None)], 100),
        (vec![process(1, Some(300))], 0),
    ] {
        let stats = Stats { memory_used_bytes: 100, ..Stats::default() };
        driven.say(Event::Sampled {
            position: 0,
            sample: Ok(Sample { stats, processes, ..Sample::default() }),
        });
        driven.say(Event::Ours(BTreeSet::from([1])));
        assert_eq!(driven.machine.inventory().gpus[0].stats.memory_used_by_others_bytes, others);
    }
}

fn facts() -> impl Strategy<Value = Result<Facts, Fault>> {
    let known = (0..6_u32).prop_map(|gpu| Ok(Facts { uuid: format!("GPU-{gpu}"), ..Facts::default() }));
    prop_oneof![4 => known, 1 => Just(Err(Fault("lost".to_owned())))]
}

fn sample() -> impl Strategy<Value = Result<Sample, Fault>> {
    let action = prop_oneof![5 => Just(RecoveryAction::None), 1 => Just(RecoveryAction::Reboot)];
    let good = action.prop_map(|action| Ok(Sample { action, ..Sample::default() }));
    prop_oneof![4 => good, 1 => Just(Err(Fault("lost".to_owned())))]
}

fn event() -> impl Strategy<Value = Event> {
    let position = 0..GPUS_MAX + 2;
    let few = 0..6_u32;
    prop_oneof![
        1 => Just(Event::Opened { driver_version: "1".to_owned(), cuda_version: "12.4".to_owned() }),
        6 => (position, facts()).prop_map(|(position, facts)| Event::Found { position, facts }),
        1 => Just(Event::Listed),
        9 => (few.clone(), sample()).prop_map(|(position, sample)| Event::Sampled { position, sample }),
        2 => (few.clone(), prop_oneof![Just(13_u64), Just(79), Just(154)])
            .prop_map(|(position, xid)| Event::Xid { position, xid }),
        1 => proptest::option::of(few).prop_map(|position| Event::Overdue { position }),
        1 => prop_oneof![Just(Closed::Absent), Just(Closed::Failed), Just(Closed::Renew)]
            .prop_map(|why| Event::Closed { why, error: "why".to_owned() }),
    ]
}

proptest! {
    #[test]
    fn whatever_is_said_the_inventory_makes_sense(events in proptest::collection::vec(event(), 0..60)) {
        let mut driven = Driven::with(0);
        let mut uuids = std::collections::BTreeMap::new();
        for event in events {
            let before = driven.machine.inventory().clone();
            let effects = driven.say(event);
            let after = driven.machine.inventory();
            let indices: BTreeSet<u32> = after.gpus.iter().map(|gpu| gpu.index).collect();
            prop_assert_eq!(indices.len(), after.gpus.len(), "an index is one GPU's");
            prop_assert!(after.gpus.len() <= GPUS_MAX as usize);
            let named: Vec<_> = after.gpus.iter().filter(|gpu| !gpu.uuid.is_empty()).collect();
            let different: BTreeSet<&str> = named.iter().map(|gpu| gpu.uuid.as_str()).collect();
            prop_assert_eq!(different.len(), named.len(), "a GPU is there once");
            for gpu in named {
                let first = uuids.entry(gpu.index).or_insert_with(|| gpu.uuid.clone());
                prop_assert_eq!(&*first, &gpu.uuid, "an index stays with its GPU");
            }
            prop_assert!(after.usable().all(|gpu| !gpu.uuid.is_empty()));
            let differs = before.without_stats() != after.without_stats();
            prop_assert_eq!(effects.contains(&Effect::Changed), differs);
        }
    }
}
