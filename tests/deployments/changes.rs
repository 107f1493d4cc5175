//! Changes of what runs: beside the old, with as many to answer as before, and back when the new does not come up.

use std::time::Duration;

use nebulad::actors::deployment::machine::Intent;
use nebulad::domain::deployment::{Phase, Strategy};

use super::agents::{FAILS, LOADS};
use super::world::{SOON, simulated, spec};

/// How long the route may name a replica that does not answer: until its agent's refusal and the next publication.
const PUBLISHED: Duration = Duration::from_secs(1);

#[test]
fn as_many_answer_during_a_change_as_before() {
    simulated(4, 2, |world| async move {
        let id = world.serve("demo", spec(4, 1)).await;
        let (old, watch) = (world.ids(id), world.watch(id));
        for place in world.replicas(id) {
            world.agents.occupy(&place.placement.expect("placed").node_id, place.id, 2);
        }
        world.want(id, world.changed(id, &["--new"])).await;
        // Old ones wait up to a minute for the requests that never end here.
        world.until("all are new", SOON * 8, async |world| world.settled(id, 4)).await;
        let seen = watch.so_far();
        assert!(world.ids(id).is_disjoint(&old));
        assert!(seen.least >= 4, "{seen:?}");
        assert!(seen.longest_dead <= PUBLISHED, "{seen:?}");
        let told = world.kinds(id);
        assert!(told.iter().any(|kind| kind == "change_done"), "{told:?}");
    });
}

#[test]
fn without_room_for_one_more_one_is_missing_and_no_more() {
    simulated(3, 1, |world| async move {
        let id = world.serve("demo", spec(3, 1)).await;
        let watch = world.watch(id);
        world.want(id, world.changed(id, &["--new"])).await;
        world.until("all are new", SOON * 5, async |world| world.settled(id, 3)).await;
        let seen = watch.so_far();
        assert!(seen.least >= 2 && seen.most_living <= 3, "{seen:?}");
    });
}

#[test]
fn a_change_that_fails_goes_back_and_the_old_never_stopped() {
    simulated(3, 2, |world| async move {
        let id = world.serve("demo", spec(3, 1)).await;
        let (old, before, watch) = (world.ids(id), world.dep(id), world.watch(id));
        world.want(id, world.changed(id, &[FAILS])).await;
        assert_eq!(world.dep(id).spec.args, [FAILS]);
        world.until("it goes back", SOON * 3, async |world| world.has_told(id, "rolled_back")).await;
        world.until("it is as before", SOON, async |world| world.settled(id, 3)).await;
        let (after, seen) = (world.dep(id), watch.so_far());
        assert_eq!((world.ids(id), &after.spec), (old, &before.spec));
        assert!(after.generation > before.generation && after.previous.is_none());
        assert!(seen.least >= 3, "{seen:?}");
        let told = world.kinds(id);
        assert!(told.iter().any(|kind| kind == "change_failed"), "{told:?}");
        assert!(!told.iter().any(|kind| kind == "change_done"), "{told:?}");
    });
}

#[test]
fn a_change_that_finds_no_room_for_its_only_replica_goes_back_after_ten_minutes() {
    simulated(1, 1, |world| async move {
        let id = world.serve("demo", spec(1, 1)).await;
        let (old, watch) = (world.ids(id), world.watch(id));
        world.want(id, world.changed(id, &["--new"])).await;
        let took =
            world.until("it goes back", SOON * 12, async |world| world.has_told(id, "rolled_back")).await;
        assert!(took >= Duration::from_secs(9 * 60), "{took:?}");
        world.until("it is as before", SOON, async |world| world.settled(id, 1)).await;
        assert_eq!((world.ids(id), watch.so_far().least), (old, 1));
    });
}

#[test]
fn who_changes_their_mind_gets_the_old_ones_back() {
    simulated(3, 2, |world| async move {
        let id = world.serve("demo", spec(3, 1)).await;
        let (old, watch) = (world.ids(id), world.watch(id));
        world.want(id, world.changed(id, &["--loads=600"])).await;
        world.pass(LOADS).await;
        world.want(id, world.changed(id, &[])).await;
        world.until("it is as before", SOON, async |world| world.settled(id, 3)).await;
        assert_eq!(world.ids(id), old);
        assert!(watch.so_far().least >= 3);
    });
}

#[test]
fn a_change_during_a_change_ends_in_the_last() {
    simulated(3, 2, |world| async move {
        let id = world.serve("demo", spec(3, 1)).await;
        let watch = world.watch(id);
        for args in [["--loads=600"], ["--loads=500"], ["--last"]] {
            world.want(id, world.changed(id, &args)).await;
            world.pass(LOADS / 2).await;
        }
        world.want(id, Intent::Scale(2)).await;
        world.until("two of the last run", SOON * 4, async |world| world.settled(id, 2)).await;
        assert_eq!(world.dep(id).spec.args, ["--last"]);
        assert!(watch.so_far().least >= 2, "{:?}", watch.so_far());
    });
}

#[test]
fn recreate_needs_no_room_and_never_runs_both() {
    simulated(2, 1, |world| async move {
        let id = world
            .serve(
                "demo",
                nebulad::domain::deployment::DeploymentSpec { strategy: Strategy::Recreate, ..spec(2, 1) },
            )
            .await;
        let watch = world.watch(id);
        world.want(id, world.changed(id, &["--new"])).await;
        world.until("all are new", SOON * 3, async |world| world.settled(id, 2)).await;
        assert_eq!((watch.so_far().least, watch.so_far().most_living), (0, 2));
    });
}

#[test]
fn a_restart_goes_from_one_to_the_next_in_place() {
    simulated(4, 1, |world| async move {
        let id = world.serve("demo", spec(4, 1)).await;
        let (before, watch) = (world.replicas(id), world.watch(id));
        world.want(id, Intent::Restart).await;
        let generation = world.dep(id).generation;
        world
            .until("all are restarted", SOON * 3, async |world| {
                world.settled(id, 4)
                    && world.replicas(id).iter().all(|replica| replica.generation == generation)
            })
            .await;
        assert_eq!(world.ids(id), before.iter().map(|replica| replica.id).collect());
        assert!(watch.so_far().least >= 3, "{:?}", watch.so_far());
    });
}

#[test]
fn what_is_stopped_during_a_change_stays_stopped_and_starts_as_the_last_wish() {
    simulated(3, 2, |world| async move {
        let id = world.serve("demo", spec(2, 1)).await;
        world.want(id, world.changed(id, &["--new"])).await;
        world.want(id, Intent::Stop).await;
        world.until("it is stopped", SOON * 2, async |world| world.dep(id).state() == Phase::Stopped).await;
        assert_eq!((world.agents.living(id).len(), world.endpoints(id)), (0, (0, 0)));
        // What is stopped holds no GPU.
        let other = world.serve("other", spec(6, 1)).await;
        world.want(other, Intent::Delete).await;
        world.want(id, Intent::Start).await;
        world.until("it runs", SOON * 2, async |world| world.settled(id, 2)).await;
        assert_eq!(world.dep(id).spec.args, ["--new"]);
    });
}
