//! Nodes fall silent and come back: what they had is replaced in time and no faster, and lives once.

use std::time::Duration;

use nebula_core::ids::DeploymentId;
use nebula_core::timing::HEARTBEAT_TIMEOUT;
use nebulad::domain::deployment::{DeploymentSpec, LostAfter, Phase, Policy};

use super::world::{SOON, World, simulated, spec};

const LOST: Duration = Duration::from_secs(120);
/// One node's worth of replicas is moved in this time.
const MOVE_EVERY: Duration = Duration::from_secs(10);
/// From the return of a node until nothing of it runs that was replaced.
const STOPPED: Duration = Duration::from_secs(35);

fn lost_after(lost_after: LostAfter, replicas: u32) -> DeploymentSpec {
    DeploymentSpec { lost_after, placement: Policy::Spread, ..spec(replicas, 1) }
}

/// Its only replica's node.
fn place(world: &World, id: DeploymentId) -> String {
    world.places(id).first().expect("it is placed").to_string()
}

#[test]
fn what_is_lost_is_replaced_when_its_time_has_come_and_lives_once_when_it_returns() {
    simulated(5, 2, |world| async move {
        let id = world.serve("demo", lost_after(LostAfter::After(LOST), 1)).await;
        let patient = world.serve("patient", lost_after(LostAfter::Never, 5)).await;
        let (node, old, patients) = (place(&world, id), world.ids(id), world.ids(patient));
        world.agents.set_silent(&node, true);
        let offline = world
            .until("its route is withdrawn", SOON * 3, async |world| world.endpoints(id) == (0, 0))
            .await;
        assert!(offline + Duration::from_secs(31) >= HEARTBEAT_TIMEOUT, "{offline:?}");
        assert_eq!(world.dep(id).state(), Phase::Unreachable);
        let took =
            world.until("it runs elsewhere", LOST + SOON, async |world| world.endpoints(id) == (1, 0)).await;
        assert!(took >= LOST && took <= LOST + MOVE_EVERY * 2 + Duration::from_secs(20), "{took:?}");
        assert_ne!(place(&world, id), node);
        let new = world.ids(id);
        assert!(new.is_disjoint(&old));
        assert_eq!(world.agents.living(id).len(), 2, "the old one does not know");

        let watch = world.watch(id);
        world.agents.set_silent(&node, false);
        let took = world
            .until("the old one is gone", STOPPED, async |world| world.agents.living(id).len() == 1)
            .await;
        assert!(took <= STOPPED, "{took:?}");
        world.pass(SOON).await;
        assert!(world.settled(id, 1));
        assert_eq!((world.ids(id), watch.so_far().least), (new, 1), "nothing moves back");
        world.until("who waited is whole", SOON, async |world| world.settled(patient, 5)).await;
        assert_eq!(world.ids(patient), patients, "who is to be waited for was waited for");
    });
}

#[test]
fn a_node_that_is_back_before_its_time_keeps_what_it_had() {
    simulated(5, 1, |world| async move {
        let id = world.serve("demo", lost_after(LostAfter::After(LOST), 2)).await;
        let (node, old) = (place(&world, id), world.ids(id));
        world.agents.set_silent(&node, true);
        world.pass(HEARTBEAT_TIMEOUT + LOST - Duration::from_secs(35)).await;
        assert_eq!(world.endpoints(id).0, 1);
        world.agents.set_silent(&node, false);
        world.until("both serve again", SOON, async |world| world.settled(id, 2)).await;
        world.pass(LOST * 2).await;
        assert_eq!(world.ids(id), old);
        assert!(world.settled(id, 2));
    });
}

#[test]
fn nodes_that_are_lost_together_are_replaced_one_after_the_other() {
    simulated(9, 2, |world| async move {
        let mut all = Vec::new();
        for n in 0..9 {
            all.push(world.serve(&format!("d{n}"), lost_after(LostAfter::After(LOST), 1)).await);
        }
        let gone: Vec<String> = all.iter().take(3).map(|id| place(&world, *id)).collect();
        gone.iter().for_each(|node| world.agents.set_silent(node, true));
        let lost: Vec<DeploymentId> =
            all.iter().copied().filter(|id| gone.contains(&place(&world, *id))).collect();
        world.pass(HEARTBEAT_TIMEOUT).await;
        // When the replicas of each node got another place.
        let mut moved: Vec<(String, Duration)> = Vec::new();
        let began = world.clock.now();
        while moved.len() < gone.len() {
            for (id, node) in lost.iter().zip(&gone) {
                let is_new = world.replicas(*id).iter().any(|replica| {
                    replica.placement.as_ref().is_some_and(|place| !gone.contains(&place.node_id.to_string()))
                });
                if is_new && !moved.iter().any(|(known, _)| known == node) {
                    moved.push((node.clone(), world.clock.now().since(began)));
                }
            }
            assert!(world.clock.now().since(began) < LOST + SOON * 3, "{moved:?}");
            world.pass(Duration::from_millis(100)).await;
        }
        for pair in moved.windows(2) {
            let apart = pair[1].1 - pair[0].1;
            assert!(apart >= MOVE_EVERY - Duration::from_millis(500), "{moved:?}");
        }
    });
}

#[test]
fn when_most_nodes_vanish_nothing_moves_and_routes_stay() {
    simulated(6, 1, |world| async move {
        let id = world.serve("demo", lost_after(LostAfter::After(LOST), 6)).await;
        let old = world.ids(id);
        let gone: Vec<String> = world.places(id).iter().take(4).map(ToString::to_string).collect();
        gone.iter().for_each(|node| world.agents.set_silent(node, true));
        world.pass(LOST * 10).await;
        assert_eq!(world.ids(id), old);
        assert_eq!(world.route(id).expect("a route").endpoints.len(), 6);
        gone.iter().for_each(|node| world.agents.set_silent(node, false));
        world.until("all serve", SOON, async |world| world.settled(id, 6)).await;
        assert_eq!(world.ids(id), old);
    });
}

#[test]
fn a_replacement_without_a_place_gives_way_to_the_one_that_comes_back() {
    simulated(3, 1, |world| async move {
        let id = world.serve("demo", lost_after(LostAfter::After(LOST), 3)).await;
        let (node, old) = (place(&world, id), world.ids(id));
        world.agents.set_silent(&node, true);
        world.pass(HEARTBEAT_TIMEOUT + LOST + SOON).await;
        assert_eq!(world.endpoints(id), (2, 0));
        world.agents.set_silent(&node, false);
        world.until("all three serve", SOON, async |world| world.settled(id, 3)).await;
        assert_eq!(world.ids(id), old);
    });
}
