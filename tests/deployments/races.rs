//! Many at once: as many winners as there are GPUs, and the next one as soon as one is free.

use futures_util::future::join_all;
use nebula_core::ids::DeploymentId;
use nebulad::actors::deployment::machine::Intent;
use nebulad::domain::deployment::Phase;
use nebulad::domain::event::Origin;
use nebulad::domain::node::Scheduling;

use super::agents::LOADS;
use super::world::{SOON, World, simulated, spec};

const NODES: u32 = 10;
const GPUS: u32 = 4;
const RACERS: usize = 100;

fn in_phase(world: &World, all: &[DeploymentId], phase: Phase) -> Vec<DeploymentId> {
    all.iter().copied().filter(|id| world.dep(*id).state() == phase).collect()
}

#[test]
fn a_hundred_deployments_race_for_forty_gpus() {
    simulated(NODES, GPUS, |world| async move {
        let gpus = (NODES * GPUS) as usize;
        let names: Vec<String> = (0..RACERS).map(|n| format!("racer-{n}")).collect();
        let all = join_all(names.iter().map(|name| world.deploy(name, spec(1, 1)))).await;
        let fair = async |world: &World| {
            assert_eq!(world.agents.shared_gpus(), []);
            in_phase(world, &all, Phase::Running).len() == gpus
        };
        world.until("as many run as there are GPUs", SOON, fair).await;
        let waiting = in_phase(&world, &all, Phase::Pending);
        assert_eq!(waiting.len(), RACERS - gpus);
        for id in waiting {
            let message = world.dep(id).message();
            assert!(message.contains("GPU"), "{message:?}");
        }

        for id in in_phase(&world, &all, Phase::Running).into_iter().take(10) {
            world.want(id, Intent::Delete).await;
        }
        let took = world
            .until("what became free is used", SOON, async |world| {
                assert_eq!(world.agents.shared_gpus(), []);
                let left: Vec<_> = world.system.deployments(None, usize::MAX);
                left.iter().filter(|dep| dep.state() == Phase::Running).count() == gpus
                    && left.len() == RACERS - 10
            })
            .await;
        assert!(took <= LOADS * 2, "at once, not when they ask again: {took:?}");
    });
}

#[test]
fn who_waits_is_placed_the_moment_a_node_is_given_back() {
    simulated(2, 1, |world| async move {
        for name in ["n1", "n2"] {
            let cordoned = world.system.schedule_node(name, Scheduling::Cordoned, Origin::nebulad());
            cordoned.await.expect("cordoned");
        }
        let id = world.deploy("demo", spec(1, 1)).await;
        world.pass(SOON * 3).await;
        let told = world.dep(id).message();
        assert_eq!(world.dep(id).state(), Phase::Pending);
        assert!(told.contains("cordoned"), "{told}");
        let given = world.system.schedule_node("n2", Scheduling::Schedulable, Origin::nebulad());
        given.await.expect("given back");
        let took = world.until("it runs", SOON, async |world| world.settled(id, 1)).await;
        assert!(took <= LOADS * 2, "{took:?}");
        assert_eq!(world.places(id)[0].as_str(), "n2");
    });
}
