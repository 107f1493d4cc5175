//! A seeded simulation of the pure machines: one nebulad, 50 agents, and everything that can go wrong between them.
//!
//! Every mix of faults plays seeds that stand here, so that the same commit gives the same verdict. `NEBULA_FULL=1`
//! takes a fresh one for each mix, and runs twenty times as long; `NEBULA_SIM_SEED=random` only takes a fresh one, and
//! `NEBULA_SIM_SEED=<number>` that one. Each is printed. A seed that found something is kept in `KNOWN_SEEDS`. Checked
//! are:
//!
//! * I1: what was acknowledged is durable, and there after any crash;
//! * I2: no published route goes back in generations, or names for longer than a message takes between actors that are
//!   up what is not to serve; and what was replaced while its node was silent is stopped there within 35 s of its return;
//! * I3: after healing, what runs is what is wanted, within the bound that `heal` says; then changes that run, changes
//!   that do not and drains all come to their end, and meanwhile every deployment that is well answers with as many
//!   replicas as it may;
//! * I4: no port, and no reserved GPU, belongs to two;
//! * I5: a command has an effect at most once, and a replica has at most one runtime in the whole fleet;
//! * what lost nodes had moves node by node, ten seconds apart, and not at all while the brake holds;
//! * the load never takes a replica that has a request;
//! * I8: outboxes, acknowledgements, memories, fences and the world's own queue have bounds, and no record is left of
//!   what is gone;
//! * I9: the journal tells only legal steps;
//! * I10: nobody is declared offline who was heard within the timeout;
//! * I11: no token and no gateway token in the journal.
//!
//! Not here: I6 (credentials at the edges), I7 (requests, which no machine sees) and I12 (the audit, which no machine
//! writes). Of I6 one part is: after healing every proxy lets in the newest token's holder and nobody else.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "that is how a test fails, and what it says"
)]

mod simulation {
    pub(crate) mod agent;
    pub(crate) mod chaos;
    pub(crate) mod control;
    pub(crate) mod deployments;
    pub(crate) mod drill;
    pub(crate) mod heal;
    pub(crate) mod journal;
    pub(crate) mod moves;
    pub(crate) mod net;
    pub(crate) mod oracle;
    pub(crate) mod placing;
    pub(crate) mod report;
    pub(crate) mod rng;
    pub(crate) mod scaling;
    pub(crate) mod shells;
    pub(crate) mod sim;
    pub(crate) mod store;
    pub(crate) mod talk;
}

use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

use simulation::chaos::Mix;
use simulation::sim::Sim;

/// Seeds that found something, with the mix in which they did.
const KNOWN_SEEDS: [(Mix, u64); 9] = [
    // Credentials that came before the start that they follow: the old ones stayed valid.
    (NETWORK, 2),
    // A start that came once more after the deletion.
    (NETWORK, 3),
    // Places of replicas that were gone, and whose deployment fell before it said so, stayed reserved.
    (CRASHES, 2),
    (EVERYTHING, 2),
    // Agents that know later generations than a store that was put back.
    (RESTORED, 2),
    // A stop that was done at a generation that another node had told of: its replica was stopping for ever.
    (RESTORED, 7_378_266_164_714_214_274),
    (RESTORED, 15),
    // The same for a stop that carried the generation of a changed spec.
    (CHANGED, 2),
    // Runtimes of replicas that had got another place since an older copy was made: they ran on where they were.
    (RESTORED, 16),
];

const CALM: Mix = Mix {
    name: "calm",
    wishes: 0,
    operators: 0,
    links: 0,
    partitions: 0,
    control: 0,
    actors: 0,
    agents: 0,
    machines: 0,
    pauses: 0,
    restores: 0,
    changes: 0,
    loads: 0,
    slow_commits: 20,
    prepare_fails: 0,
    exits: 0,
};
const NETWORK: Mix = Mix {
    name: "network",
    wishes: 50,
    operators: 8,
    changes: 6,
    loads: 10,
    links: 30,
    partitions: 8,
    pauses: 2,
    prepare_fails: 30,
    exits: 300,
    ..CALM
};
const CRASHES: Mix = Mix {
    name: "crashes",
    wishes: 50,
    operators: 6,
    changes: 6,
    loads: 10,
    control: 8,
    actors: 25,
    agents: 20,
    machines: 4,
    slow_commits: 80,
    prepare_fails: 30,
    exits: 300,
    ..CALM
};
const EVERYTHING: Mix = Mix {
    name: "everything",
    wishes: 60,
    operators: 8,
    changes: 8,
    loads: 10,
    links: 15,
    partitions: 6,
    control: 5,
    actors: 12,
    agents: 12,
    machines: 4,
    pauses: 3,
    slow_commits: 80,
    prepare_fails: 50,
    exits: 500,
    ..CALM
};
const RESTORED: Mix = Mix { name: "restored", restores: 8, ..EVERYTHING };
const CHANGED: Mix = Mix { name: "changed", changes: 40, ..EVERYTHING };

/// Minutes of each hour in which the world hurts.
const HURTING_MS: u64 = 4 * 60_000;

/// Lines of the trace that a failure shows, unless `NEBULA_SIM_TRACE` says otherwise.
const TRACE_LINES: usize = 200;

/// The number in an environment variable, if it is set.
fn number<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is \"{text}\", which is no such number")))
}

/// Whether this is the full form.
fn full() -> bool {
    number("NEBULA_FULL") == Some(1)
}

/// The only chance from outside: the keys that the standard library draws for a hash map.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// The seeds that a mix plays: those that stand here, unless somebody wants another one.
fn seeds(fixed: &[u64]) -> Vec<u64> {
    match std::env::var("NEBULA_SIM_SEED") {
        Ok(text) if text == "random" => vec![fresh_seed()],
        Ok(_) => number("NEBULA_SIM_SEED").into_iter().collect(),
        Err(_) if full() => vec![fresh_seed()],
        Err(_) => fixed.to_vec(),
    }
}

/// Plays a mix for so many simulated hours, shared out among its seeds.
fn play(mix: Mix, fixed: &[u64], hours: u64) {
    let seeds = seeds(fixed);
    let all = number("NEBULA_SIM_HOURS").unwrap_or(if full() { hours * 20 } else { hours });
    for seed in &seeds {
        check(mix, *seed, all.div_ceil(seeds.len() as u64));
    }
}

fn run(mix: Mix, seed: u64, hours: u64, trace_lines: usize) -> Sim {
    let mut sim = Sim::new(seed, mix, trace_lines);
    sim.run_until(60_000);
    for _ in 0..hours {
        if sim.violation.is_none() {
            sim.hour(HURTING_MS);
        }
    }
    sim
}

/// Runs a mix, and again with a trace when something is violated: the same seed does the same.
fn check(mix: Mix, seed: u64, hours: u64) {
    println!("mix {} seed {seed}: {hours} simulated hours", mix.name);
    let again = format!("NEBULA_SIM_SEED={seed} cargo test --test simulation {}", mix.name);
    let run_caught = |lines| std::panic::catch_unwind(move || run(mix, seed, hours, lines));
    let Ok(sim) = run_caught(0) else { panic!("a machine panicked; again with: {again}") };
    for (what, times) in &sim.counts {
        println!("{times:>10} {what}");
    }
    println!("{:>10} ms at most that two runtimes shared a GPU", sim.oracle.gpus_shared_longest);
    let Some(violation) = sim.violation else { return };
    let at = sim.now;
    if let Ok(traced) = run_caught(number("NEBULA_SIM_TRACE").unwrap_or(TRACE_LINES)) {
        traced.trace_lines().for_each(|line| println!("{line}"));
    }
    panic!("{violation}\nat {at} ms with mix {} and seed {seed}; again with: {again}", mix.name);
}

#[test]
fn network() {
    play(NETWORK, &[1, 2], 100);
}

#[test]
fn crashes() {
    play(CRASHES, &[1, 2], 100);
}

#[test]
fn everything() {
    play(EVERYTHING, &[1, 2], 100);
}

#[test]
fn restored() {
    play(RESTORED, &[1, 2], 80);
}

#[test]
fn changed() {
    play(CHANGED, &[1, 2], 80);
}

#[test]
fn known_seeds() {
    for (mix, seed) in KNOWN_SEEDS {
        check(mix, seed, 10);
    }
}

#[test]
fn the_same_seed_does_the_same() {
    let digest = |seed| run(EVERYTHING, seed, 2, 0).digest;
    for seed in seeds(&[1]) {
        assert_eq!(digest(seed), digest(seed));
        assert_ne!(digest(seed), digest(seed.wrapping_add(1)));
    }
}
