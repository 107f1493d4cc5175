//! Decisions one by one.

use nebula_core::ids::ReplicaId;

use super::*;

fn scale(min: u32, max: u32) -> Autoscale {
    let (cooldown, idle_after) = (Duration::from_secs(60), Duration::from_secs(300));
    Autoscale { min, max, target: 8, cooldown, idle_after }
}

/// Replicas with so many requests each.
fn load(inflight: &[u32], waiting: u32) -> Load {
    let inflight = inflight.iter().zip(1..).map(|(count, n)| (ReplicaId::from_bytes([n; 16]), *count));
    Load { inflight: inflight.collect(), waiting, asked: 0 }
}

fn at(secs: u64) -> Tick {
    Tick(secs * 1_000)
}

/// What is decided when nothing is known of before.
fn first(scale: &Autoscale, wanted: u32, load: &Load) -> Option<u32> {
    let running = load.inflight.len() as u32;
    Autoscaler::default().decide(scale, wanted, running, load, at(0)).map(|decision| decision.to)
}

#[test]
fn it_grows_at_once_to_what_is_needed_and_never_beyond_the_most() {
    for (wanted, inflight, waiting, to) in [
        (1, &[8][..], 0, None),
        (1, &[9], 0, Some(2)),
        (1, &[33], 0, Some(5)),
        (1, &[1_000], 0, Some(6)),
        (6, &[100; 6], 0, None),
        (0, &[], 1, Some(1)),
        (0, &[], 17, Some(3)),
        (1, &[], 17, Some(3)),
        (2, &[8, 9], 0, Some(3)),
        (2, &[16, 0], 0, None),
    ] {
        assert_eq!(
            first(&scale(0, 6), wanted, &load(inflight, waiting)),
            to,
            "{wanted} {inflight:?} {waiting}"
        );
    }
    assert_eq!(first(&scale(2, 6), 0, &load(&[], 0)), Some(2), "at least two");
    assert_eq!(first(&scale(2, 6), 0, &load(&[], 24)), Some(3), "and more where more are needed");
}

#[test]
fn it_says_why() {
    let mut scaler = Autoscaler::default();
    let decision = scaler.decide(&scale(0, 6), 0, 0, &load(&[], 9), at(0)).expect("a decision");
    assert_eq!(decision.why, "9 in flight, 9 of them waiting, 8 for each replica");
    let decision = scaler.decide(&scale(2, 6), 1, 1, &load(&[8], 0), at(1)).expect("a decision");
    assert_eq!(decision.why, "at least 2 are to run");
    let decision = scaler.decide(&scale(0, 6), 2, 2, &load(&[17, 0], 0), at(2)).expect("a decision");
    assert_eq!(decision.why, "17 in flight, 8 for each replica");
}

/// Looks every two seconds from `from` to `to` and answers the first decision and its second.
fn look(
    scaler: &mut Autoscaler,
    scale: &Autoscale,
    wanted: u32,
    load: &Load,
    times: std::ops::RangeInclusive<u64>,
) -> Option<(u64, u32)> {
    let running = load.inflight.len() as u32;
    times.step_by(2).find_map(|secs| Some((secs, scaler.decide(scale, wanted, running, load, at(secs))?.to)))
}

#[test]
fn it_shrinks_one_by_one_after_the_cool_down_and_by_what_was_needed_during_it() {
    let (scale, mut scaler) = (scale(1, 6), Autoscaler::default());
    assert_eq!(look(&mut scaler, &scale, 4, &load(&[8; 4], 0), 0..=100), None);
    let quiet = load(&[1, 0, 0, 0], 0);
    // The last look at the full load was at 100.
    assert_eq!(look(&mut scaler, &scale, 4, &quiet, 102..=300), Some((162, 3)));
    assert_eq!(look(&mut scaler, &scale, 3, &load(&[1, 0, 0], 0), 164..=400), Some((224, 2)));
    assert_eq!(look(&mut scaler, &scale, 2, &load(&[1, 0], 0), 226..=400), Some((286, 1)));
    assert_eq!(look(&mut scaler, &scale, 1, &load(&[0], 0), 288..=2_000), None, "one stays");
}

#[test]
fn a_peak_within_the_cool_down_keeps_the_replicas() {
    let (scale, mut scaler) = (scale(1, 6), Autoscaler::default());
    for begin in (0..2_000).step_by(50) {
        assert_eq!(look(&mut scaler, &scale, 3, &load(&[1, 0, 0], 0), begin..=begin + 46), None);
        assert_eq!(look(&mut scaler, &scale, 3, &load(&[9, 8, 0], 0), begin + 48..=begin + 48), None);
    }
}

#[test]
fn no_replica_goes_while_all_have_requests_or_before_anything_is_known() {
    let (scale, mut scaler) = (scale(1, 6), Autoscaler::default());
    let busy = load(&[1, 1, 1], 0);
    assert_eq!(look(&mut scaler, &scale, 3, &busy, 0..=2_000), None, "each has a stream");
    assert_eq!(look(&mut scaler, &scale, 3, &load(&[1, 1, 0], 0), 2_002..=2_002), Some((2_002, 2)));
    let mut restarted = Autoscaler::default();
    assert_eq!(look(&mut restarted, &scale, 3, &load(&[0, 0, 0], 0), 5_000..=5_058), None, "knows nothing");
}

#[test]
fn more_than_the_most_go_one_by_one_as_soon_as_they_are_idle() {
    assert_eq!(first(&scale(1, 2), 4, &load(&[0, 1, 1, 1], 0)), Some(3));
    assert_eq!(first(&scale(1, 2), 4, &load(&[1, 1, 1, 1], 0)), None);
    assert_eq!(first(&scale(1, 2), 4, &load(&[1, 1, 1], 0)), Some(3), "one does not serve");
}

#[test]
fn the_last_one_goes_after_the_idle_time_and_a_request_between_two_looks_counts() {
    let (scale, mut scaler) = (scale(0, 6), Autoscaler::default());
    assert_eq!(look(&mut scaler, &scale, 1, &load(&[1], 0), 0..=1_000), None, "a stream");
    let idle = load(&[0], 0);
    assert_eq!(look(&mut scaler, &scale, 1, &idle, 1_002..=1_200), None);
    assert_eq!(scaler.sleeps_at(&scale), Some(at(1_300)));
    let asked = Load { asked: 7, ..idle };
    assert_eq!(look(&mut scaler, &scale, 1, &asked, 1_202..=2_000), Some((1_502, 0)));
    assert_eq!(look(&mut scaler, &scale, 0, &load(&[], 0), 2_002..=4_000), None);
    assert_eq!(scaler.sleeps_at(&scale), None, "it sleeps");
    let (least, mut scaler) = (self::scale(1, 6), Autoscaler::default());
    assert_eq!(look(&mut scaler, &least, 1, &asked, 0..=10_000), None, "one is wanted always");
}
