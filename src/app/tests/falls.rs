//! A panic in each kind of actor, in a message, a timer and an attached future, while everybody is busy: exactly that
//! actor is built again (in the core also those that derive from it), within 250 ms, nobody else loses a message, what
//! was answered is durable, and afterwards everything is as before.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use nebula_core::ids::{DeploymentId, KeyId};
use tokio::time::sleep;

use super::world::{DEADLINE, DEPLOYMENTS, World};
use crate::actors::deployment::machine::Intent;
use crate::actors::drains::machine::Wanted;
use crate::actors::failpoint::Failpoint;
use crate::actors::registry::machine::Registration;
use crate::actors::registry::{self, Change, Register};
use crate::actors::route::machine::Outcome;
use crate::actors::route::{self, Ended};
use crate::actors::tree::{Kind, Life};
use crate::actors::{catalog, deployment, drains, edge, keys, router, scheduler, session, usage};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::Origin;
use crate::domain::key::{KeyLimits, NewKey};
use crate::domain::node::{Capabilities, Scheduling};
use crate::domain::operation::{Operation, OperationState};
use crate::ports::Store;

/// The core, in the order in which it is built.
const CORE: [&str; 4] = [registry::PATH, scheduler::PATH, router::PATH, catalog::PATH];
/// A fallen actor is back after this long.
const BACK_AFTER: Duration = Duration::from_millis(250);
/// How long after a request the next one of the same kind comes.
const PAUSE: Duration = Duration::from_millis(5);
/// How many requests of each kind are answered after the fall before the load ends.
const ROUNDS_AFTER: u32 = 10;
/// A node without an agent, which is drained again and again.
const AWAY: &str = "away";
/// The supervisor of the core.
const CORE_SUPERVISOR: &str = "/core";

/// What the load has in hand.
struct Load<'a> {
    world: &'a World,
    stop: Cell<bool>,
    rounds: Cell<u32>,
    saturated: bool,
    made: std::cell::RefCell<Vec<DeploymentId>>,
}

impl Load<'_> {
    /// The operator changes where replicas may go, again and again.
    async fn cordon(&self) {
        let mut wanted = [Scheduling::Cordoned, Scheduling::Schedulable].into_iter().cycle();
        while let Some(scheduling) = wanted.next().filter(|_| !self.stop.get()) {
            let change = Change::Schedule("n3".parse().expect("an id"), scheduling, Origin::nebulad());
            let ask = async { self.world.system.registry.ask(registry::PATH, change).await? };
            if self.world.noted(registry::PATH, ask).await.is_some() {
                let nodes = self.world.store.nodes().await.expect("read");
                let node = nodes.iter().find(|node| node.id.as_str() == "n3").expect("stored");
                assert_eq!(node.scheduling, scheduling, "what was answered is durable");
            }
            sleep(PAUSE).await;
        }
    }

    /// A user changes how many copies there are, again and again.
    async fn scale(&self, name: &str, base: u32) {
        let path = deployment::path(self.world.system.find_deployment(name).expect("known"));
        let mut wanted = [base + 1, base].into_iter().cycle();
        while let Some(replicas) = wanted.next().filter(|_| !self.stop.get()) {
            if let Some(dep) = self.world.noted(&path, self.world.scale(name, replicas)).await {
                let stored = self.world.store.deployment(dep.id).await.expect("read").expect("stored");
                assert_eq!(stored.spec.replicas, replicas, "what was answered is durable");
                self.rounds.set(self.rounds.get() + 1);
            }
            sleep(PAUSE).await;
        }
    }

    /// Users make deployments and delete them.
    async fn create(&self) {
        for n in 0.. {
            if self.stop.get() {
                return;
            }
            let create = World::create_message(&format!("made-{n}"), 1);
            let id = create.deployment.id;
            // One that was not answered may have been made all the same.
            self.made.borrow_mut().push(id);
            let ask = async { self.world.system.catalog.ask(catalog::PATH, create).await? };
            if self.world.noted(catalog::PATH, ask).await.is_some() {
                let stored = self.world.store.deployment(id).await.expect("read");
                assert!(stored.is_some(), "what was answered is durable");
                self.delete(id).await;
            }
            sleep(PAUSE).await;
        }
    }

    async fn delete(&self, id: DeploymentId) -> bool {
        let (path, name) = (deployment::path(id), id.to_string());
        let delete = self.world.system.want(&name, Intent::Delete, Origin::nebulad());
        self.world.noted(&path, delete).await.is_some()
    }

    /// An operator makes keys and revokes them.
    async fn keys(&self) {
        let system = &self.world.system;
        for n in 0.. {
            if self.stop.get() {
                return;
            }
            let name = format!("key {n}");
            let wanted = NewKey { name, models: None, expires_at: None, limits: KeyLimits::default() };
            let made = system.create_key(wanted, Origin::nebulad());
            if let Some((key, secret)) = self.world.noted(keys::PATH, made).await {
                let found = system.keys().find(&secret.hash(), key.created_at).map(|live| live.key.id);
                assert_eq!(found, Some(key.id), "what was answered is known");
                assert!(self.stores(key.id).await, "what was answered is durable");
                if self.world.noted(keys::PATH, system.revoke_key(key.id, Origin::nebulad())).await.is_some()
                {
                    assert!(!self.stores(key.id).await, "what was answered is durable");
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn stores(&self, id: KeyId) -> bool {
        self.world.store.keys().await.expect("read").iter().any(|key| key.id == id)
    }

    /// An operator begins to drain a node and has another mind.
    async fn drain(&self) {
        let system = &self.world.system;
        while !self.stop.get() {
            let wanted = Wanted {
                node: AWAY.parse().expect("an id"),
                name: AWAY.to_owned(),
                scheduling: Scheduling::Schedulable,
                timeout: DEADLINE * 100,
            };
            let began = self.change_drain(drains::Change::Drain(wanted, Origin::nebulad())).await;
            sleep(PAUSE).await;
            let Some(id) = began.map(|operation| operation.id) else { continue };
            assert!(system.operation(&id.to_string()).is_ok(), "what was answered is known");
            self.change_drain(drains::Change::Cancel(id, Origin::nebulad())).await;
        }
    }

    async fn change_drain(&self, change: drains::Change) -> Option<std::sync::Arc<Operation>> {
        let ask = async { self.world.system.drains.ask(drains::PATH, change).await? };
        let answered = self.world.noted(drains::PATH, ask).await??;
        let stored = self.world.store.operations().await.expect("read");
        let stored = stored.iter().find(|operation| operation.id == answered.id).expect("stored");
        assert_eq!(stored.state, answered.state, "what was answered is durable");
        Some(answered)
    }

    /// The gateway tells how requests ended.
    async fn outcomes(&self) {
        while !self.stop.get() {
            let table = self.world.system.routes.load_full();
            for (name, _) in DEPLOYMENTS {
                let endpoint = table.get(name).and_then(|route| route.endpoints.first().cloned());
                let Some(endpoint) = endpoint else { continue };
                let outcome = if self.saturated { Outcome::Saturated } else { Outcome::Answered };
                self.world.system.route.tell(&route::path(name), Ended(endpoint.replica_id, outcome));
            }
            sleep(PAUSE).await;
        }
    }

    async fn all(&self) {
        let [(victim, of_victim), (neighbour, of_neighbour)] = DEPLOYMENTS;
        tokio::join!(
            self.cordon(),
            self.scale(victim, of_victim),
            self.scale(neighbour, of_neighbour),
            self.create(),
            self.keys(),
            self.drain(),
            self.outcomes(),
        );
    }

    /// Takes back what the load has changed.
    async fn settle(&self) {
        let began = self.world.system.tree.clock().now();
        let in_time = || self.world.system.tree.clock().now().since(began) < DEADLINE;
        for (name, replicas) in DEPLOYMENTS {
            while self.world.scale(name, replicas).await.is_err() {
                assert!(in_time(), "{name} is not scaled back");
            }
        }
        let change =
            || Change::Schedule("n3".parse().expect("an id"), Scheduling::Schedulable, Origin::nebulad());
        while !matches!(self.world.system.registry.ask(registry::PATH, change()).await, Ok(Ok(_))) {
            assert!(in_time(), "the node is not schedulable");
        }
        for operation in self.world.system.operations().expect("published") {
            let cancel = || drains::Change::Cancel(operation.id, Origin::nebulad());
            let ended = |answer: Result<drains::machine::Answer, Error>| match answer {
                Ok(Ok(_)) => true,
                Ok(Err(error)) => error.class == ErrorClass::Conflict,
                Err(_) => false,
            };
            while operation.state == OperationState::Running
                && !ended(self.world.system.drains.ask(drains::PATH, cancel()).await)
            {
                assert!(in_time(), "the drain is not cancelled");
            }
        }
        while self.world.system.schedule_node(AWAY, Scheduling::Schedulable, Origin::nebulad()).await.is_err()
        {
            assert!(in_time(), "the drained node is not schedulable");
        }
        let left: Vec<KeyId> = self.world.system.keys().iter().map(|live| live.key.id).collect();
        for id in left {
            while self.world.system.revoke_key(id, Origin::nebulad()).await.is_err() {
                assert!(in_time(), "the key is not revoked");
            }
        }
        for id in self.made.take() {
            let name = id.to_string();
            let gone = || self.world.system.want(&name, Intent::Delete, Origin::nebulad());
            while gone().await.is_err_and(|error| error.class != ErrorClass::NotFound) {
                assert!(in_time(), "{id} is not deleted");
            }
        }
    }
}

/// Lets the actor at `path` fall, and waits until it is back. Answers how long that took.
async fn fall(load: &Load<'_>, path: &str, kind: Kind) -> Duration {
    let (world, clock) = (load.world, load.world.system.tree.clock());
    let cell = world.system.tree.cell(path).expect("it is there");
    let before = cell.incarnation();
    cell.set_failpoint(Failpoint::panic(kind));
    world
        .until(&format!("{path} falls"), || {
            // A supervisor has nothing to do while nobody falls.
            let supervisors = &world.system.supervisors;
            match path {
                CORE_SUPERVISOR => supervisors.core.nudge(),
                session::PARENT => supervisors.sessions.nudge(),
                deployment::PARENT => supervisors.deployments.nudge(),
                route::PARENT => supervisors.routes.nudge(),
                edge::PARENT => supervisors.edges.nudge(),
                _ => {}
            }
            !cell.failpoint_is_set()
        })
        .await;
    let fell = clock.now();
    world
        .until(&format!("{path} is back"), || cell.incarnation() > before && cell.life() == Life::Running)
        .await;
    clock.now().since(fell)
}

/// The paths of those that are built again with the actor at `path`.
fn those_after(path: &str) -> Vec<String> {
    let from = CORE.iter().position(|core| *core == path);
    match from {
        Some(from) => CORE[from..].iter().map(|path| (*path).to_owned()).collect(),
        None => vec![path.to_owned()],
    }
}

/// What a node says that has no agent.
pub(super) fn away(name: &str) -> Registration {
    Registration {
        node_id: name.parse().expect("an id"),
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        address: "127.0.0.1:9091".parse().expect("an address"),
        proxy_port: 8888,
        capabilities: Capabilities::default(),
        labels: BTreeMap::new(),
        boot_id: "boot".to_owned(),
    }
}

/// Adds a node that has an agent no more.
pub(super) async fn add_away(world: &World) {
    let registry = &world.system.registry;
    registry.ask(registry::PATH, Register(away(AWAY))).await.expect("heard").expect("registered");
    let leave = Change::Deregister(AWAY.parse().expect("an id"));
    registry.ask(registry::PATH, leave).await.expect("heard").expect("deregistered");
    let path = session::path(&AWAY.parse().expect("an id"));
    let told = || {
        let cell = world.system.tree.cell(&path);
        let status = cell.and_then(|cell| cell.status::<session::SessionStatus>());
        status.is_some_and(|status| status.node().is_some())
    };
    world.until("its session knows it", told).await;
}

async fn a_fall_under_load(path: impl Fn(&World) -> String, kind: Kind) {
    let world = World::new().await;
    add_away(&world).await;
    let path = path(&world);
    let after = those_after(&path);
    let before = world.picture().await;
    let expected: BTreeMap<String, u64> = world
        .incarnations()
        .into_iter()
        .map(|(path, incarnation)| (path.clone(), incarnation + u64::from(after.contains(&path))))
        .collect();
    let load = Load {
        world: &world,
        stop: Cell::new(false),
        rounds: Cell::new(0),
        saturated: path.starts_with(route::PARENT) && kind == Kind::Timer,
        made: std::cell::RefCell::default(),
    };
    let falling = async {
        world.until("the load runs", || load.rounds.get() > ROUNDS_AFTER).await;
        let (took, noise) = tokio::join!(fall(&load, &path, kind), noise(&load));
        let rounds = load.rounds.get();
        world.until("the load goes on", || load.rounds.get() > rounds + ROUNDS_AFTER).await;
        load.stop.set(true);
        (took, noise)
    };
    let ((took, noise), ()) = tokio::join!(falling, load.all());
    load.settle().await;
    let mut last = serde_json::Value::Null;
    let began = world.system.tree.clock().now();
    while last != before {
        last = world.picture().await;
        let waited = world.system.tree.clock().now().since(began);
        assert!(waited < DEADLINE, "not as before:\n{last:#}\nbut it was\n{before:#}");
    }
    assert_eq!(world.incarnations(), expected, "exactly {after:?} are built again");
    let log = world.log.borrow();
    let others: Vec<_> = log.failed.iter().filter(|(of, _)| !after.contains(of)).collect();
    assert!(others.is_empty(), "of {:?}: {others:?}", log.asked);
    assert!(
        took <= BACK_AFTER + noise,
        "{path} was back after {took:?}, where this machine was late by {noise:?}"
    );
}

/// What this machine adds just now: by how much a few reads of the store come later than they should.
async fn noise(load: &Load<'_>) -> Duration {
    const READS: u32 = 4;
    const ROUNDS: u32 = 10;
    let clock = load.world.system.tree.clock();
    let mut worst = Duration::ZERO;
    for _ in 0..ROUNDS {
        let began = clock.now();
        for _ in 0..READS {
            sleep(PAUSE).await;
            load.world.store.nodes().await.expect("read");
        }
        worst = worst.max(clock.now().since(began).saturating_sub(PAUSE * READS));
    }
    worst
}

fn run(path: impl Fn(&World) -> String, kind: Kind) {
    actix_rt::System::new().block_on(a_fall_under_load(path, kind));
}

fn at(path: &'static str) -> impl Fn(&World) -> String {
    move |_| path.to_owned()
}

fn victim(world: &World) -> String {
    deployment::path(world.system.find_deployment("victim").expect("known"))
}

#[test]
fn a_deployment_that_falls_when_its_deletion_is_durable_is_gone_all_the_same() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let id = world.create("brief", 0).await.expect("created");
        let path = deployment::path(id);
        let there = || world.system.tree.cell(&path);
        world.until("it runs", || there().is_some_and(|cell| cell.life() == Life::Running)).await;
        let cell = there().expect("it runs");
        cell.set_failpoint(Failpoint::panic(Kind::Future));
        let fell = world.system.want("brief", Intent::Delete, Origin::nebulad()).await.expect_err("it fell");
        assert_eq!(fell.class, ErrorClass::Restarting);
        assert!(!cell.failpoint_is_set(), "it fell after the commit");
        assert_eq!(world.store.deployment(id).await.expect("read"), None, "the deletion is durable");
        world.until("it is gone", || there().is_none()).await;
    });
}

macro_rules! falls {
    ($($name:ident: $path:expr, $kind:ident;)*) => {
        $(#[test]
        fn $name() {
            run($path, Kind::$kind);
        })*
    };
}

falls! {
    the_registry_falls_over_a_message: at(registry::PATH), Message;
    the_registry_falls_in_a_timer: at(registry::PATH), Timer;
    the_registry_falls_in_a_future: at(registry::PATH), Future;
    the_scheduler_falls_over_a_message: at(scheduler::PATH), Message;
    the_router_falls_over_a_message: at(router::PATH), Message;
    the_router_falls_in_a_timer: at(router::PATH), Timer;
    the_catalog_falls_over_a_message: at(catalog::PATH), Message;
    the_catalog_falls_in_a_future: at(catalog::PATH), Future;
    the_keys_fall_over_a_message: at(keys::PATH), Message;
    the_keys_fall_in_a_future: at(keys::PATH), Future;
    the_usage_falls_in_a_timer: at(usage::PATH), Timer;
    the_usage_falls_in_a_future: at(usage::PATH), Future;
    the_drains_fall_over_a_message: at(drains::PATH), Message;
    the_drains_fall_in_a_timer: at(drains::PATH), Timer;
    the_drains_fall_in_a_future: at(drains::PATH), Future;
    a_session_falls_over_a_message: at("/registry/sessions/n1"), Message;
    a_session_falls_in_a_future: at("/registry/sessions/n1"), Future;
    a_deployment_falls_over_a_message: victim, Message;
    a_deployment_falls_in_a_future: victim, Future;
    a_route_falls_over_a_message: at("/router/routes/victim"), Message;
    a_route_falls_in_a_timer: at("/router/routes/victim"), Timer;
    the_supervisor_of_the_core_falls: at(CORE_SUPERVISOR), Message;
    the_supervisor_of_the_sessions_falls: at(session::PARENT), Message;
    the_supervisor_of_the_deployments_falls: at(deployment::PARENT), Message;
    the_supervisor_of_the_routes_falls: at(route::PARENT), Message;
    the_supervisor_of_the_edges_falls: at(edge::PARENT), Message;
}
