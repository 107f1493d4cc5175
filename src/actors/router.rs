//! The router: publishes the table by which the gateway routes.
//!
//! * Owns: the routes of all deployments, and what aliases come to.
//! * Persists: nothing; routes follow from the records of deployments and aliases.
//! * Talks to: routes (hands them their endpoints).
//! * Timers: one, which gathers publications that come together into one table; one, which tries routes again whose
//!   actor was about to end.
//! * On crash: makes the routes from the records of deployments and aliases; the published table stays until then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message};
use nebula_core::ids::DeploymentId;
use serde::Serialize;

use self::machine::{Machine, Publication};
use super::deployment::News;
use super::deployment::route::RouteSpec;
use super::letter::{Member, opens_letters};
use super::route::RouteActor;
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::{Cell, Life};
use crate::domain::alias::Alias;
use crate::domain::error::Error;
use crate::domain::route::Route;

pub mod machine;

/// Where the router is in the tree.
pub const PATH: &str = "/router";

/// Publications within this time become one table.
const GATHER: Duration = Duration::from_millis(2);
/// When a route's actor is tried again that was about to end.
const AGAIN: Duration = Duration::from_millis(20);

/// What the router publishes of itself.
#[derive(Debug, Serialize)]
struct RouterStatus {
    routes: usize,
    aliases: usize,
    endpoints: usize,
    publications: u64,
}

/// The router's actor.
pub struct Router {
    machine: Machine,
    system: System,
    cell: Arc<Cell>,
    gathering: bool,
    behind: bool,
    publications: u64,
    /// Names whose deployments are gone; their actors end once the table says so.
    withdrawn: BTreeSet<String>,
    /// Names whose actors could not be given their endpoints.
    unreached: BTreeSet<String>,
    watch: DeathWatch,
}

/// How the router is built.
pub(crate) fn spec(system: System) -> ChildSpec {
    ChildSpec::new("router", "router", Restart::Permanent, move |birth| {
        let system = system.clone();
        async move { Router::load(birth, system).await }
    })
}

impl Router {
    async fn load(birth: Birth, system: System) -> Result<(), Error> {
        let mut specs = Vec::new();
        for (id, _) in patiently(|| system.store.deployment_names()).await.map_err(store_error)? {
            match patiently(|| system.store.deployment(id)).await {
                Ok(stored) => specs.extend(stored.iter().map(RouteSpec::of)),
                Err(error) => tracing::error!(deployment_id = %id, %error, "deployment left out"),
            }
        }
        let aliases = patiently(|| system.store.aliases()).await.map_err(store_error)?;
        let mut machine = Machine::load(specs, &system.routes.load());
        machine.set_aliases(aliases.into_iter().map(Arc::new).collect());
        let router = Self {
            machine,
            system,
            cell: birth.cell.clone(),
            gathering: false,
            behind: false,
            publications: 0,
            withdrawn: BTreeSet::new(),
            unreached: BTreeSet::new(),
            watch: birth.watch,
        };
        birth.cell.running(router.start());
        Ok(())
    }

    fn publish(&mut self, ctx: &mut Context<Self>) {
        let Publication { table, changed } = self.machine.publication();
        self.system.routes.store(Arc::new(table));
        self.publications += 1;
        self.system.routes_published.send_modify(|count| *count += 1);
        for name in std::mem::take(&mut self.withdrawn) {
            self.system.route.tell(&super::route::path(&name), super::route::Close);
        }
        for route in &changed {
            self.hand_over(route, ctx);
        }
        let (routes, endpoints) = self.machine.counts();
        let (aliases, publications) = (self.machine.alias_count(), self.publications);
        self.cell.publish(Arc::new(RouterStatus { routes, aliases, endpoints, publications }));
    }

    /// Gives a route's actor its endpoints; starts it when it is not there yet.
    fn hand_over(&mut self, route: &Route, ctx: &mut Context<Self>) {
        let path = super::route::path(&route.name);
        let Some(cell) = self.system.tree.cell(&path) else {
            self.system.tree.plant(&path, "route");
            let child = super::route::spec(self.system.clone(), route.name.clone());
            self.system.supervisors.routes.start_later(child);
            // It asks when it has started.
            return;
        };
        let ends = cell.addr::<RouteActor>().is_some_and(|addr| !addr.connected());
        if ends && cell.life() == Life::Running {
            // It belonged to a deployment of that name that is gone, and its cell goes in a moment.
            if self.unreached.is_empty() {
                ctx.run_later(AGAIN, |router, ctx| {
                    let _turn = router.cell.timer_turn("timer: routes are tried again");
                    router.hand_over_again(ctx);
                });
            }
            self.unreached.insert(route.name.clone());
        } else {
            self.system.route.tell(&path, super::route::Endpoints(route.endpoints.clone()));
        }
    }

    fn hand_over_again(&mut self, ctx: &mut Context<Self>) {
        let table = self.system.routes.load_full();
        for name in std::mem::take(&mut self.unreached) {
            if let Some(route) = table.get(&name) {
                self.hand_over(route, ctx);
            }
        }
    }

    /// Publishes at once, and what follows within the next moment together.
    fn gather(&mut self, ctx: &mut Context<Self>) {
        if self.gathering {
            self.behind = true;
            return;
        }
        self.publish(ctx);
        self.gathering = true;
        ctx.run_later(GATHER, |router, ctx| {
            let _turn = router.cell.timer_turn("timer: publications are gathered");
            router.gathering = false;
            if std::mem::take(&mut router.behind) {
                router.gather(ctx);
            }
        });
    }
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.publish(ctx);
        // A deployment may have decided something between its record and this start.
        for cell in self.system.tree.children(super::deployment::PARENT, None, usize::MAX) {
            self.system.deployments.tell(cell.path(), News::PublishAgain);
        }
    }
}

impl Member for Router {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }
}

opens_letters!(Router);

/// From a deployment: its route as it is now. Repeating it is harmless.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Publish(pub RouteSpec);

impl Handler<Publish> for Router {
    type Result = ();

    fn handle(&mut self, Publish(spec): Publish, ctx: &mut Context<Self>) {
        if self.machine.publish(spec) {
            self.gather(ctx);
        }
    }
}

/// From the catalog: all aliases as they are now. Repeating it is harmless.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Aliases(pub Vec<Arc<Alias>>);

impl Handler<Aliases> for Router {
    type Result = ();

    fn handle(&mut self, Aliases(all): Aliases, ctx: &mut Context<Self>) {
        if self.machine.set_aliases(all) {
            self.gather(ctx);
        }
    }
}

/// From a deployment that is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Withdraw(pub DeploymentId);

impl Handler<Withdraw> for Router {
    type Result = ();

    fn handle(&mut self, Withdraw(id): Withdraw, ctx: &mut Context<Self>) {
        if let Some(name) = self.machine.withdraw(id) {
            self.withdrawn.insert(name);
            self.gather(ctx);
        }
    }
}

/// From a route that has just started: it wants its endpoints.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RouteUp(pub String);

impl Handler<RouteUp> for Router {
    type Result = ();

    fn handle(&mut self, RouteUp(name): RouteUp, ctx: &mut Context<Self>) {
        match self.system.routes.load_full().get(&name) {
            Some(route) => self.hand_over(route, ctx),
            None => self.system.route.tell(&super::route::path(&name), super::route::Close),
        }
    }
}
