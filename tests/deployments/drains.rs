//! Nodes are emptied: what can move does, the new before the old, and who changes their mind finds all as it was.

use std::rc::Rc;
use std::time::Duration;

use nebula_core::ids::DeploymentId;
use nebulad::domain::deployment::DeploymentSpec;
use nebulad::domain::event::Origin;
use nebulad::domain::node::Scheduling;
use nebulad::domain::operation::OperationState;

use super::agents::LOADS_SECONDS;
use super::world::{SOON, World, simulated, spec};

const HOUR: Duration = Duration::from_secs(3_600);

async fn drain(world: &World, node: &str) -> String {
    let drained = world.system.drain_node(node, HOUR, Origin::nebulad()).await;
    let (picture, operation) = drained.expect("a drain begins");
    assert_eq!(picture.update.node.scheduling, Scheduling::Draining);
    operation.id.to_string()
}

fn state(world: &World, operation: &str) -> OperationState {
    world.system.operation(operation).expect("it is kept").state
}

async fn scheduling(world: &World, node: &str) -> Scheduling {
    world.system.node(node).await.expect("a node").update.node.scheduling
}

fn on(world: &World, id: DeploymentId, node: &str) -> usize {
    world.agents.living(id).iter().filter(|(at, _)| at.as_str() == node).count()
}

/// Requests that never end by themselves, at every replica.
fn occupy(world: &World, id: DeploymentId, requests: u32) {
    for replica in world.replicas(id) {
        let place = replica.placement.expect("placed");
        world.agents.occupy(&place.node_id, replica.id, requests);
    }
}

async fn three(world: &Rc<World>) -> Vec<DeploymentId> {
    let mut all = Vec::new();
    for (name, replicas) in [("one", 1), ("two", 2), ("three", 3)] {
        all.push(world.serve(name, spec(replicas, 1)).await);
    }
    all
}

#[test]
fn everything_leaves_a_drained_node_and_nobody_notices() {
    simulated(4, 4, |world| async move {
        let all = three(&world).await;
        let watches: Vec<_> = all.iter().map(|id| world.watch(*id)).collect();
        all.iter().for_each(|id| occupy(&world, *id, 1));
        let before: usize = all.iter().map(|id| on(&world, *id, "n1")).sum();
        assert!(before > 0);
        let operation = drain(&world, "n1").await;
        let again = world.system.drain_node("n1", HOUR, Origin::nebulad()).await.expect("it is under way");
        assert_eq!(again.1.id.to_string(), operation, "one at a time");
        world
            .until("it is done", SOON * 4, async |world| state(world, &operation) == OperationState::Done)
            .await;
        assert_eq!(scheduling(&world, "n1").await, Scheduling::Drained);
        for (id, (watch, wanted)) in all.iter().zip(watches.iter().zip([1, 2, 3])) {
            assert!(world.settled(*id, wanted));
            assert_eq!(on(&world, *id, "n1"), 0);
            assert!(watch.so_far().least >= wanted, "{:?}", watch.so_far());
        }
        let told = world.system.operation(&operation).expect("kept");
        assert_eq!((told.total as usize, told.left), (before, 0));
    });
}

#[test]
fn a_cancelled_drain_leaves_what_has_not_moved_yet() {
    simulated(2, 2, |world| async move {
        let slow = DeploymentSpec { args: vec![format!("{LOADS_SECONDS}30")], ..spec(1, 1) };
        let id = world.serve("demo", slow).await;
        let (node, old) = (world.places(id)[0].to_string(), world.ids(id));
        let watch = world.watch(id);
        let operation = drain(&world, &node).await;
        world.until("the new one loads", SOON, async |world| world.agents.living(id).len() == 2).await;
        world.system.cancel_operation(&operation, Origin::nebulad()).await.expect("cancelled");
        assert_eq!(state(&world, &operation), OperationState::Cancelled);
        world.until("the new one is gone", SOON, async |world| world.settled(id, 1)).await;
        assert_eq!((world.ids(id), watch.so_far().least), (old, 1));
        assert_eq!(scheduling(&world, &node).await, Scheduling::Cordoned);
        world.pass(SOON * 5).await;
        assert!(world.settled(id, 1));
    });
}

#[test]
fn what_cannot_move_is_named_and_moves_when_it_can() {
    simulated(2, 1, |world| async move {
        let id = world.serve("demo", spec(2, 1)).await;
        let watch = world.watch(id);
        let operation = drain(&world, "n1").await;
        world.pass(SOON * 10).await;
        let told = world.system.operation(&operation).expect("kept");
        assert_eq!((told.state, told.left), (OperationState::Running, 1));
        assert_eq!(told.blocked[0].deployment, "demo");
        assert!(!told.blocked[0].why.is_empty());
        assert_eq!(watch.so_far().least, 2, "it stays until there is room");
        world.want(id, nebulad::actors::deployment::machine::Intent::Scale(1)).await;
        world
            .until("it is done", SOON * 3, async |world| state(world, &operation) == OperationState::Done)
            .await;
        assert!(watch.so_far().least >= 1);
        assert_eq!(world.places(id)[0].as_str(), "n2");
    });
}

#[test]
fn a_node_that_is_lost_while_it_is_drained_and_comes_back_is_empty_in_the_end() {
    simulated(4, 4, |world| async move {
        let all = three(&world).await;
        let operation = drain(&world, "n1").await;
        world.agents.set_silent("n1", true);
        world.pass(HOUR / 6).await;
        for (id, wanted) in all.iter().zip([1, 2, 3]) {
            assert_eq!(world.endpoints(*id), (wanted, 0));
        }
        world.agents.set_silent("n1", false);
        world
            .until("it is done", SOON * 2, async |world| state(world, &operation) == OperationState::Done)
            .await;
        world.pass(SOON).await;
        for (id, wanted) in all.iter().zip([1, 2, 3]) {
            assert!(world.settled(*id, wanted));
            assert_eq!(on(&world, *id, "n1"), 0);
        }
    });
}
