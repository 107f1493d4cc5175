//! The edges of a whole control plane: what is wanted gets there, and whatever an edge does hurts nobody else.

use std::collections::BTreeMap;
use std::time::Duration;

use nebula_core::timing::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, RESTART_GRACE};
use nebulad::actors::edge::ROUND_DEADLINE;
use nebulad::actors::edge::kind::Kind;
use nebulad::actors::edge::machine::State;
use nebulad::actors::registry::Change;
use nebulad::actors::tree::Life;
use nebulad::domain::edge::{Trouble, Verb};
use nebulad::domain::error::ErrorClass;
use nebulad::domain::event::Origin;
use serde_json::json;

use super::edge_world::{EdgeWorld, Mood, at_the_edge};

/// A change is at both edges after this long when nothing stands in its way: a gap and a round.
const SOON: Duration = Duration::from_secs(6);
/// What the edges have lost by themselves is there again after this long.
const REPAIRED: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3_600);
/// How long after its return an edge is as it should be.
const CADDY_BACK: Duration = Duration::from_secs(10);
const ROUTE53_BACK: Duration = Duration::from_secs(60);

/// Which incarnation each actor is in.
fn incarnations(world: &EdgeWorld) -> BTreeMap<String, u64> {
    fn add(actor: &serde_json::Value, all: &mut BTreeMap<String, u64>) {
        let path = actor["path"].as_str().unwrap_or_default().to_owned();
        all.insert(path, actor["incarnation"].as_u64().unwrap_or_default());
        actor["children"].as_array().into_iter().flatten().for_each(|child| add(child, all));
    }
    let mut all = BTreeMap::new();
    let view = serde_json::to_value(world.system.tree.view("/")).expect("json");
    add(&view[0], &mut all);
    all
}

fn in_sync(world: &EdgeWorld) -> bool {
    Kind::ALL.into_iter().all(|kind| world.state(kind) == State::InSync)
}

#[test]
fn a_node_has_its_name_from_its_registration_until_it_is_offline() {
    at_the_edge(true, |world| async move {
        world.until("both are in sync with nothing", SOON, in_sync).await;
        let (leaves, _) = world.live("leaves").await;
        let (stays, _) = world.live("stays").await;
        let (falls_silent, life) = world.live("falls-silent").await;
        let more = [world.live("d").await.0, world.live("e").await.0, world.live("f").await.0];
        let all = |names: &[&String]| -> Vec<String> {
            names.iter().map(|name| (*name).clone()).chain(more.clone()).collect()
        };
        let names = all(&[&leaves, &stays, &falls_silent]);
        world.until_there(&names, SOON).await;
        world.until("they are in sync", SOON, in_sync).await;
        let status = world.status(Kind::Caddy).to_json();
        assert_eq!((&status["wanted"], &status["observed"]), (&json!(6), &json!(6)), "{status}");
        assert_eq!((&status["state"], &status["lag_seconds"]), (&json!("in_sync"), &json!(0)), "{status}");
        assert_eq!(status["differences"]["first"], json!([]), "{status}");

        world.change(Change::Deregister("leaves".parse().expect("an id"))).await;
        let names = all(&[&stays, &falls_silent]);
        world.until_there(&names, SOON).await;

        life.abort();
        world.pass(HEARTBEAT_TIMEOUT * 3 / 4).await;
        world.until_there(&names, Duration::ZERO).await;
        world.until_there(&all(&[&stays]), HEARTBEAT_TIMEOUT / 2 + SOON).await;

        // It comes back with the name that it had.
        assert_eq!(world.register("falls-silent").await, falls_silent);
        world.until_there(&names, SOON).await;
    });
}

#[test]
fn a_restart_of_nebulad_takes_no_name_away() {
    at_the_edge(true, |world| async move {
        let mut names = Vec::new();
        for n in 0..4 {
            names.push(world.register(&format!("n{n}")).await);
        }
        world.until_there(&names, SOON).await;
        let again = world.started_again().await;
        for _ in 0..60 {
            again.pass(HEARTBEAT_INTERVAL).await;
            again.until_there(&names, Duration::ZERO).await;
        }
        for fake in [&again.fakes.caddy, &again.fakes.route53] {
            let seen = fake.seen();
            assert!(seen.rounds.len() > 10 && seen.rounds.iter().all(|(_, wanted)| *wanted == 4), "{seen:?}");
            assert!(seen.removed.is_empty(), "{seen:?}");
        }
    });
}

#[test]
fn a_store_that_may_lack_nodes_takes_no_name_away_until_that_is_accepted() {
    at_the_edge(true, |world| async move {
        let kept = world.register("kept").await;
        world.until_there(&[&kept], SOON).await;
        world.store.was_rebuilt();
        let again = world.started_again().await;
        let lost = "1057.example.com".to_owned();
        for fake in [&again.fakes.caddy, &again.fakes.route53] {
            fake.there.lock().expect("a lock").insert(lost.clone(), "10.0.0.1:8888".to_owned());
        }
        assert_eq!(again.live("kept").await.0, kept);
        let (new, _) = again.live("new").await;
        let names = [kept.clone(), new.clone(), lost];
        again.until_there(&names, SOON).await;
        again.pass(RESTART_GRACE + REPAIRED * 3).await;
        again.until_there(&names, Duration::ZERO).await;
        again.system.accept_restored(Origin::nebulad()).await.expect("accepted");
        again.until_there(&[&kept, &new], REPAIRED).await;
    });
}

#[test]
fn a_store_that_was_lost_takes_no_name_away_before_its_nodes_could_register_again() {
    at_the_edge(true, |world| async move {
        let [lives, gone] = ["1057.example.com", "6e0.example.com"].map(str::to_owned);
        for fake in [&world.fakes.caddy, &world.fakes.route53] {
            let mut there = fake.there.lock().expect("a lock");
            there.extend([&lives, &gone].map(|name| (name.clone(), "10.0.0.1:8888".to_owned())));
        }
        let leaves = world.register("leaves").await;
        world.until_there(&[&lives, &gone, &leaves], SOON).await;
        world.change(Change::Deregister("leaves".parse().expect("an id"))).await;
        world.until_there(&[&lives, &gone], SOON).await;
        world.pass(RESTART_GRACE - SOON * 3).await;
        world.until_there(&[&lives, &gone], Duration::ZERO).await;
        let (back, _) = world.live("back").await;
        world.until_there(&[&back], SOON * 3 + REPAIRED).await;
    });
}

#[test]
fn what_an_edge_loses_by_itself_is_put_back() {
    at_the_edge(true, |world| async move {
        let names = [world.live("a").await.0, world.live("b").await.0];
        world.until_there(&names, SOON).await;
        world.until("they are in sync", SOON, in_sync).await;
        world.pass(HOUR / 60).await;
        world.fakes.caddy.forgets();
        world.fakes.route53.forgets();
        world.until_there(&names, REPAIRED).await;
    });
}

#[test]
fn a_thousand_nodes_at_once_are_a_few_rounds() {
    at_the_edge(true, |world| async move {
        world.until("both are in sync with nothing", SOON, in_sync).await;
        let before = (world.fakes.caddy.rounds(), world.fakes.route53.rounds());
        let mut names = Vec::new();
        for n in 0..1_000 {
            names.push(world.register(&format!("node-{n}")).await);
        }
        world.until_there(&names, SOON * 2).await;
        let rounds = (world.fakes.caddy.rounds() - before.0, world.fakes.route53.rounds() - before.1);
        assert!(rounds.0 <= 3 && rounds.1 <= 2, "{rounds:?}");
        for fake in [&world.fakes.caddy, &world.fakes.route53] {
            assert_eq!(fake.seen().most_at_once, 1);
        }
    });
}

#[test]
fn an_edge_that_hangs_for_ever_hurts_nobody_and_can_be_planned() {
    at_the_edge(true, |world| async move {
        let (first, _) = world.live("first").await;
        world.until_there(&[&first], SOON).await;
        world.until("they are in sync", SOON, in_sync).await;
        let before = incarnations(&world);
        world.fakes.caddy.set(Mood::Hangs);
        let began = world.clock.now();
        let (second, _) = world.live("second").await;
        assert!(world.clock.now().since(began) < Duration::from_millis(100), "registrations wait for nobody");
        let other = &world.fakes.route53;
        world.until("the other edge has it", SOON, |_| other.names().contains(&second)).await;

        // A plan goes beside the round that hangs; so do a few, and no more.
        let plan = world.system.edge_plan("caddy").await.expect("planned");
        let changes = plan.outcome.expect("seen").changes;
        assert_eq!((plan.name, changes.len()), ("caddy", 1));
        assert_eq!((changes[0].verb, changes[0].name.as_str()), (Verb::Add, second.as_str()));
        let plans = futures_util::future::join_all((0..6).map(|_| world.system.edge_plan("caddy"))).await;
        let refused: Vec<ErrorClass> =
            plans.into_iter().filter_map(|plan| plan.err().map(|error| error.class)).collect();
        assert_eq!(refused, [ErrorClass::Overloaded; 2]);

        let failing = |world: &EdgeWorld| world.state(Kind::Caddy) == State::Failing;
        world.until("its rounds time out", ROUND_DEADLINE + SOON, failing).await;
        let open = |world: &EdgeWorld| world.status(Kind::Caddy).to_json()["circuit"] == "open";
        world.until("its circuit is open", ROUND_DEADLINE * 3, open).await;
        // The nodes beat on: one that is not heard ends its own life, and the test with it.
        world.pass(HOUR).await;
        let status = world.status(Kind::Caddy).to_json();
        assert!(status["last_error"]["message"].as_str().expect("told").contains("300 s"), "{status}");
        assert!(status["lag_seconds"].as_u64().expect("a number") >= 3_600, "{status}");
        assert_eq!(world.fakes.caddy.seen().most_at_once, 1);
        assert_eq!(world.state(Kind::Route53), State::InSync);
        let mut after = incarnations(&world);
        after.retain(|path, _| before.contains_key(path));
        assert_eq!(after, before, "nobody fell");

        world.fakes.caddy.set(Mood::Works);
        world.until_there(&[&first, &second], ROUND_DEADLINE + CADDY_BACK).await;
    });
}

#[test]
fn an_hour_of_trouble_is_over_soon_after_its_end() {
    for trouble in [Trouble::Unreachable, Trouble::Busy] {
        at_the_edge(true, |world| async move {
            let mut names = vec![world.live("first").await.0];
            world.until_there(&names, SOON).await;
            for fake in [&world.fakes.caddy, &world.fakes.route53] {
                fake.set(Mood::Fails(trouble));
            }
            let before = [world.fakes.caddy.rounds(), world.fakes.route53.rounds()];
            for n in 0..60 {
                names.push(world.live(&format!("n{n}")).await.0);
                world.pass(HOUR / 60).await;
            }
            for (kind, fake, before) in [
                (Kind::Caddy, &world.fakes.caddy, before[0]),
                (Kind::Route53, &world.fakes.route53, before[1]),
            ] {
                let status = world.status(kind).to_json();
                assert_eq!((&status["state"], &status["circuit"]), (&json!("failing"), &json!("open")));
                assert_eq!(status["last_error"]["trouble"], json!(trouble), "{status}");
                assert_eq!(status["last_error"]["hint"], "look at it", "{status}");
                let (rounds, probes) = (fake.rounds() - before, fake.seen().probes);
                match trouble {
                    Trouble::Unreachable => assert!(rounds <= 90 && probes > 150, "{rounds} {probes}"),
                    _ => assert!(rounds <= 600 && probes == 0, "{rounds} {probes}"),
                }
            }
            for fake in [&world.fakes.caddy, &world.fakes.route53] {
                fake.set(Mood::Works);
            }
            let back = |world: &EdgeWorld, kind| world.state(kind) == State::InSync;
            world.until("routes are right", CADDY_BACK, |world| back(world, Kind::Caddy)).await;
            world.until("records are right", ROUTE53_BACK, |world| back(world, Kind::Route53)).await;
            world.until_there(&names, Duration::ZERO).await;
        });
    }
}

#[test]
fn an_edge_that_panics_is_built_again_and_nobody_else_notices() {
    at_the_edge(true, |world| async move {
        let (first, _) = world.live("first").await;
        world.until_there(&[&first], SOON).await;
        let mut expected = incarnations(&world);
        world.fakes.caddy.set(Mood::PanicsOnce);
        let (second, _) = world.live("second").await;
        world.until("it fell", SOON, |world| world.fakes.caddy.mood() == Mood::Works).await;
        world.until_there(&[&first, &second], REPAIRED * 2).await;
        *expected.get_mut("/edge/caddy").expect("there") += 1;
        let mut after = incarnations(&world);
        after.retain(|path, _| expected.contains_key(path));
        assert_eq!(after, expected, "nobody else fell");
        let cell = world.system.tree.cell("/edge/caddy").expect("there");
        let told = serde_json::to_value(cell.view()).expect("json")["last_exit"]["cause"].to_string();
        assert!(told.contains("panicked in future: a round at the edge"), "{told}");
    });
}

#[test]
fn an_edge_that_always_panics_never_stays_down() {
    at_the_edge(true, |world| async move {
        let (first, _) = world.live("first").await;
        world.until_there(&[&first], SOON).await;
        world.until("it is in sync", SOON, in_sync).await;
        world.fakes.caddy.set(Mood::Panics);
        let failed = world.system.edge_plan("caddy").await.expect_err("it panics, too");
        assert_eq!(failed.class, ErrorClass::Internal);
        let (second, _) = world.live("second").await;
        let cell = world.system.tree.cell("/edge/caddy").expect("there");
        for _ in 0..600 {
            world.pass(HOUR / 600).await;
            assert_ne!(cell.life(), Life::Crashed);
        }
        assert!(cell.incarnation() > 100, "{}", cell.incarnation());
        assert_eq!(world.state(Kind::Route53), State::InSync);
        world.fakes.caddy.set(Mood::Works);
        world.until_there(&[&first, &second], REPAIRED * 2).await;
        world.until("it is in sync", SOON, in_sync).await;
    });
}

#[test]
fn a_name_that_somebody_else_has_is_shown_and_stands_in_nobodys_way() {
    at_the_edge(true, |world| async move {
        let (taken, _) = world.live("taken").await;
        world.fakes.route53.set(Mood::Blocks(taken.clone()));
        world.fakes.route53.forgets();
        let (other, _) = world.live("other").await;
        let is_there = |world: &EdgeWorld| world.fakes.route53.names().contains(&other);
        world.until("the other one is there", REPAIRED, is_there).await;
        let blocked = |world: &EdgeWorld| world.state(Kind::Route53) == State::Blocked;
        world.until("it is shown", SOON, blocked).await;
        let status = world.status(Kind::Route53).to_json();
        assert_eq!(status["blocked"], json!([{"name": taken, "why": "somebody else has it"}]), "{status}");
        assert_eq!(world.state(Kind::Caddy), State::InSync);
        world.fakes.route53.set(Mood::Works);
        world.until_there(&[&taken, &other], REPAIRED).await;
    });
}

#[test]
fn edges_that_are_not_used_say_so_and_do_nothing() {
    at_the_edge(false, |world| async move {
        world.live("first").await;
        world.pass(HOUR / 60).await;
        let all: Vec<_> = world.system.edge_status().iter().map(|status| status.to_json()).collect();
        assert_eq!(all.len(), 2);
        for (status, kind) in all.iter().zip(Kind::ALL) {
            assert_eq!(status["name"], kind.name());
            assert_eq!((&status["configured"], &status["state"]), (&json!(false), &json!("off")), "{status}");
            assert_eq!((&status["last_error"], &status["rounds_total"]), (&json!(null), &json!(0)));
            let refused = world.system.edge_plan(kind.name()).await.expect_err("it is not used");
            assert_eq!(refused.class, ErrorClass::Conflict);
            assert!(refused.message.contains(kind.flag()), "{refused}");
        }
        let unknown = world.system.edge_plan("nginx").await.expect_err("there is none");
        assert_eq!(unknown.class, ErrorClass::NotFound);
    });
}
