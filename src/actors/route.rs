//! A route: watches over the replicas that answer for one model.
//!
//! * Owns: the breaker of each of its endpoints, whose gates it sets.
//! * Persists: nothing.
//! * Talks to: nobody; the gateway tells it how requests ended.
//! * Timers: one, for the earliest gate that opens by itself.
//! * On crash: asks the router for its endpoints; all gates are open then.

use std::sync::Arc;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, SpawnHandle};
use nebula_core::clock::{Clock, Tick};
use nebula_core::ids::ReplicaId;
use serde::Serialize;

use self::machine::{Machine, Outcome, SetGate};
use super::letter::{Member, opens_letters};
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::System;
use super::tree::Cell;
use crate::domain::error::Error;
use crate::domain::route::{Endpoint, GateState};

pub mod machine;

/// The supervisor of all routes.
pub const PARENT: &str = "/router/routes";

/// A route's path. Model names may hold slashes, paths of the tree may not.
#[must_use]
pub fn path(model: &str) -> String {
    format!("{PARENT}/{}", segment(model))
}

fn segment(model: &str) -> String {
    model.replace('/', "%2F")
}

#[derive(Debug, Serialize)]
struct RouteStatus {
    model: String,
    endpoints: Vec<EndpointStatus>,
}

#[derive(Debug, Serialize)]
struct EndpointStatus {
    replica_id: String,
    node_id: String,
    address: String,
    gate: &'static str,
    inflight: u32,
}

/// A route's actor.
pub struct RouteActor {
    model: String,
    machine: Machine,
    endpoints: Vec<Arc<Endpoint>>,
    system: System,
    clock: Clock,
    cell: Arc<Cell>,
    timer: Option<(Tick, SpawnHandle)>,
    watch: DeathWatch,
}

/// How a route is built.
pub(crate) fn spec(system: System, model: String) -> ChildSpec {
    ChildSpec::new(segment(&model), "route", Restart::Transient, move |birth| {
        let (system, model) = (system.clone(), model.clone());
        async move {
            RouteActor::begin(birth, system, model);
            Ok::<(), Error>(())
        }
    })
}

impl RouteActor {
    fn begin(birth: Birth, system: System, model: String) {
        let route = Self {
            model,
            machine: Machine::default(),
            endpoints: Vec::new(),
            clock: system.tree.clock(),
            system,
            cell: birth.cell.clone(),
            timer: None,
            watch: birth.watch,
        };
        birth.cell.running(route.start());
    }

    fn set(&mut self, gates: impl IntoIterator<Item = SetGate>, ctx: &mut Context<Self>) {
        for SetGate(replica, state) in gates {
            for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.replica_id == replica) {
                let (model, from) = (&self.model, endpoint.gate.state());
                if from == state {
                    continue;
                }
                endpoint.gate.set(state);
                // A doubt, and that it was none, change nothing for anybody.
                if passes(from) && passes(state) {
                    tracing::debug!(model, replica_id = %replica, ?from, to = ?state, "replica gate");
                } else {
                    tracing::info!(model, replica_id = %replica, ?from, to = ?state, "replica gate");
                }
            }
        }
        self.arm(ctx);
        self.publish();
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some(next) = self.machine.next_deadline() else { return };
        if self.timer.as_ref().is_some_and(|(at, _)| *at <= next) {
            return;
        }
        if let Some((_, old)) = self.timer.take() {
            ctx.cancel_future(old);
        }
        let handle = ctx.run_later(next.since(self.clock.now()), |route, ctx| {
            let _turn = route.cell.timer_turn("timer: a gate");
            route.timer = None;
            let gates = route.machine.timer(route.clock.now());
            route.set(gates, ctx);
        });
        self.timer = Some((next, handle));
    }

    fn publish(&self) {
        let endpoints = self.endpoints.iter().map(|endpoint| EndpointStatus {
            replica_id: endpoint.replica_id.to_string(),
            node_id: endpoint.node_id.to_string(),
            address: endpoint.address.to_string(),
            gate: match endpoint.gate.state() {
                GateState::Open | GateState::Doubted => "open",
                GateState::Limited => "limited",
                GateState::Shut => "shut",
            },
            inflight: endpoint.inflight(),
        });
        self.cell
            .publish(Arc::new(RouteStatus { model: self.model.clone(), endpoints: endpoints.collect() }));
    }
}

/// Whether requests pass a gate as if nothing were known.
fn passes(state: GateState) -> bool {
    matches!(state, GateState::Open | GateState::Doubted)
}

impl Actor for RouteActor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        self.system.router.tell(super::router::PATH, super::router::RouteUp(self.model.clone()));
        self.publish();
    }
}

impl Member for RouteActor {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }
}

opens_letters!(RouteActor);

/// From the router: the endpoints as they are now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Endpoints(pub Vec<Arc<Endpoint>>);

impl Handler<Endpoints> for RouteActor {
    type Result = ();

    fn handle(&mut self, Endpoints(endpoints): Endpoints, ctx: &mut Context<Self>) {
        let known = std::mem::replace(&mut self.endpoints, endpoints);
        let is_new = |endpoint: &&Arc<Endpoint>| known.iter().all(|old| !Arc::ptr_eq(old, endpoint));
        for endpoint in self.endpoints.iter().filter(is_new) {
            self.machine.forget(endpoint.replica_id);
        }
        let replicas: Vec<ReplicaId> = self.endpoints.iter().map(|endpoint| endpoint.replica_id).collect();
        self.machine.replicas(&replicas);
        let gates: Vec<SetGate> = self.machine.gates().collect();
        self.set(gates, ctx);
    }
}

/// From the gateway: how a request to a replica ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ended(pub ReplicaId, pub Outcome);

impl Handler<Ended> for RouteActor {
    type Result = ();

    fn handle(&mut self, Ended(replica, outcome): Ended, ctx: &mut Context<Self>) {
        let gate = self.machine.outcome(replica, outcome, self.clock.now());
        if gate.is_some() {
            self.set(gate, ctx);
        } else {
            self.arm(ctx);
        }
    }
}

/// From the router: the route is gone. If there is another of that name by now, it is this actor's.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Close;

impl Handler<Close> for RouteActor {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Context<Self>) {
        if self.system.routes.load().get(&self.model).is_some() {
            return;
        }
        self.watch.finishes();
        ctx.stop();
    }
}
