//! The load as a judge: as many replicas as it needs, none when nobody asks, and never one that has a request.

use std::sync::Arc;
use std::time::Duration;

use nebula_core::ids::{DeploymentId, ReplicaId};
use nebulad::domain::deployment::{Autoscale, DeploymentSpec, Phase};
use nebulad::domain::route::{Endpoint, InflightGuard};

use super::world::{SOON, World, simulated, spec};

const COOLDOWN: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(300);
/// How often the load is looked at, and what a decision takes.
const SLACK: Duration = Duration::from_secs(15);

fn scaled(min: u32, max: u32) -> DeploymentSpec {
    let autoscale = Autoscale { min, max, target: 4, cooldown: COOLDOWN, idle_after: IDLE };
    DeploymentSpec { autoscale: Some(autoscale), ..spec(min.max(1), 1) }
}

fn endpoint(world: &World, id: DeploymentId, which: impl Fn(&ReplicaId) -> bool) -> Arc<Endpoint> {
    let route = world.route(id).expect("a route");
    route.endpoints.iter().find(|at| which(&at.replica_id)).cloned().expect("an endpoint")
}

/// So many requests that are being answered by one replica.
fn requests(at: &Arc<Endpoint>, count: usize) -> Vec<InflightGuard> {
    (0..count).map(|_| at.enter()).collect()
}

#[test]
fn as_many_as_the_load_needs_and_who_has_a_request_stays() {
    simulated(6, 1, |world| async move {
        let id = world.serve("demo", scaled(1, 4)).await;
        let first = endpoint(&world, id, |_| true);
        let watch = world.watch(id);
        let mut busy = requests(&first, 12);
        let up = world.until("there are three", SOON, async |world| world.settled(id, 3)).await;
        assert!(up <= Duration::from_secs(5) + SLACK, "{up:?}");

        // The last one has work, and the first has none any more.
        let last = endpoint(&world, id, |replica| *replica != first.replica_id);
        let kept = last.replica_id;
        busy.clear();
        let busy = requests(&last, 4);
        let down = world.until("there is one", COOLDOWN * 4, async |world| world.settled(id, 1)).await;
        assert!(down + SLACK >= COOLDOWN, "{down:?}");
        assert_eq!(world.ids(id).into_iter().collect::<Vec<_>>(), [kept], "who has requests stays");

        let mut all = requests(&last, 100);
        world.until("there are as many as may be", SOON, async |world| world.settled(id, 4)).await;
        world.pass(COOLDOWN * 2).await;
        assert_eq!(world.dep(id).spec.replicas, 4);
        all.clear();
        drop(busy);
        world.until("there is one", COOLDOWN * 6, async |world| world.settled(id, 1)).await;
        world.pass(IDLE * 2).await;
        assert!(world.settled(id, 1), "not below the least");
        assert!(watch.so_far().least >= 1);
        let scalings = world.kinds(id).iter().filter(|kind| *kind == "scaled").count();
        assert!(scalings <= 8, "{:?}", world.kinds(id));
    });
}

#[test]
fn to_zero_when_nobody_asks_and_back_when_somebody_does() {
    simulated(2, 1, |world| async move {
        let id = world.serve("demo", scaled(0, 2)).await;
        let stream = requests(&endpoint(&world, id, |_| true), 1);
        world.pass(IDLE * 4).await;
        assert!(world.settled(id, 1), "somebody reads");
        drop(stream);
        let took =
            world.until("nothing runs", IDLE * 2, async |world| world.agents.living(id).is_empty()).await;
        assert!(took + SLACK >= IDLE, "{took:?}");
        world.until("nothing is there", SOON, async |world| world.replicas(id).is_empty()).await;
        assert_eq!(world.dep(id).state(), Phase::Stopped);
        let route = world.route(id).expect("a route");
        assert!(route.wakes && route.is_awaited());

        world.pass(IDLE * 4).await;
        assert!(world.replicas(id).is_empty(), "nobody asks");
        // What the gateway does with a request that it holds.
        route.demand.ask();
        let waiting = route.demand.wait();
        world.system.wake(id);
        let took = world.until("it serves", SOON, async |world| world.settled(id, 1)).await;
        assert!(took <= SLACK, "{took:?}");
        drop(waiting);
        assert!(world.has_told(id, "scaled"), "{:?}", world.kinds(id));
        world.until("nothing runs again", IDLE * 2, async |world| world.replicas(id).is_empty()).await;
    });
}

#[test]
fn what_an_operator_stopped_no_request_wakes() {
    simulated(1, 1, |world| async move {
        let id = world.serve("demo", scaled(0, 2)).await;
        world.want(id, nebulad::actors::deployment::machine::Intent::Stop).await;
        world.until("it is stopped", SOON, async |world| world.agents.living(id).is_empty()).await;
        world.system.wake(id);
        world.pass(SOON * 5).await;
        assert_eq!(world.dep(id).state(), Phase::Stopped);
        assert!(world.route(id).is_none_or(|route| !route.is_awaited()));
    });
}
