//! Deployment tokens: which are valid when, at the gateway and at the agents.

use super::fixtures::*;
use super::*;

/// What the agents are told is valid, in the order in which they are told.
fn told_access(effects: &[Effect]) -> Vec<Vec<TokenHash>> {
    let tokens = |effect: &Effect| match effect {
        Effect::Send(_, _, _, Action::Access { tokens, .. }) => Some(tokens.clone()),
        _ => None,
    };
    effects.iter().filter_map(tokens).collect()
}

fn at(secs: u64) -> Now {
    Now { tick: NOW.tick.plus(Duration::from_secs(secs)), wall: WallTime(UPDATED.0 + secs * 1_000) }
}

fn rotate(machine: &mut Machine, token: &str, overlap: u64, now: Now) -> Vec<Effect> {
    let overlap = Duration::from_secs(overlap);
    machine.step(Event::Intent(ReplyTo(1), Intent::Rotate { token: TokenHash::of(token), overlap }), now)
}

fn valid(machine: &Machine) -> Vec<TokenHash> {
    machine.published().expect("a route").tokens.clone()
}

fn hashes(tokens: &[&str]) -> Vec<TokenHash> {
    tokens.iter().map(|token| TokenHash::of(token)).collect()
}

#[test]
fn without_an_overlap_the_old_token_ends_at_once() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    let effects = rotate(&mut machine, "new", 0, at(0));
    assert_eq!((told_access(&effects), valid(&machine)), (vec![hashes(&["new"])], hashes(&["new"])));
    assert_eq!(machine.next_timer(), None);
}

#[test]
fn during_an_overlap_both_are_valid_and_then_one() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    let effects = rotate(&mut machine, "new", 60, at(0));
    let both = hashes(&["new", "nbtok_x"]);
    assert_eq!((told_access(&effects), valid(&machine)), (vec![both.clone()], both.clone()));
    assert_eq!(machine.next_timer(), Some(at(60).tick));
    assert_eq!(machine.step(Event::Timer, at(59)), []);
    let effects = machine.step(Event::Timer, at(60));
    assert_eq!((told_access(&effects), valid(&machine)), (vec![hashes(&["new"])], hashes(&["new"])));
    assert_eq!(machine.next_timer(), None);
}

#[test]
fn a_wall_clock_that_jumps_ends_nothing_early() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    rotate(&mut machine, "new", 60, at(0));
    let jumped = Now { tick: at(1).tick, wall: WallTime(u64::MAX) };
    assert_eq!(machine.step(Event::Timer, jumped), []);
}

#[test]
fn another_rotation_ends_the_oldest_and_one_without_overlap_all_but_the_newest() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    rotate(&mut machine, "b", 60, at(0));
    rotate(&mut machine, "c", 60, at(10));
    assert_eq!((valid(&machine), machine.next_timer()), (hashes(&["c", "b"]), Some(at(70).tick)));
    rotate(&mut machine, "d", 0, at(20));
    assert_eq!((valid(&machine), machine.next_timer()), (hashes(&["d"]), None));
}

#[test]
fn a_rotation_that_is_told_twice_is_done_once() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    rotate(&mut machine, "new", 60, at(0));
    rotate(&mut machine, "new", 60, at(5));
    assert_eq!(valid(&machine), hashes(&["new", "nbtok_x"]));
    assert_eq!(machine.next_timer(), Some(at(60).tick));
}

#[test]
fn a_replica_that_is_started_meanwhile_hears_of_both() {
    let mut machine = started(deployment(vec![pending(0)]));
    rotate(&mut machine, "new", 60, at(0));
    let effects = machine.step(Event::Placed(replica_id(0), Generation(1), placement("a")), at(1));
    assert_eq!(told(&effects), ["start", "access"]);
    assert_eq!(told_access(&effects), [hashes(&["new", "nbtok_x"])]);
}

#[test]
fn an_overlap_outlives_a_restart_and_one_that_ended_meanwhile_is_ended_then() {
    let mut machine = started(deployment(vec![running(0, "a")]));
    rotate(&mut machine, "new", 60, at(0));
    let stored = machine.deployment().clone();
    // The monotonic clock begins anew.
    let restarted = |secs| Now { tick: Tick(7), wall: at(secs).wall };
    let mut machine = Machine::load(stored.clone());
    machine.step(Event::Started, restarted(40));
    assert_eq!(valid(&machine), hashes(&["new", "nbtok_x"]));
    assert_eq!(machine.next_timer(), Some(Tick(7).plus(Duration::from_secs(20))));
    let mut machine = Machine::load(stored);
    let effects = machine.step(Event::Started, restarted(100));
    assert_eq!(valid(&machine), hashes(&["new"]));
    assert_eq!(told_access(&effects).last(), Some(&hashes(&["new"])));
}
