//! An edge: what is in front of the nodes, a reverse proxy or a DNS zone, made to be as it should and kept so.
//!
//! * Owns: when the edge is looked at and changed; which names are wanted is the registry's [`SiteBook`].
//! * Persists: nothing. What is wanted follows from the nodes, what is there is asked of the edge.
//! * Talks to: the edge, through its port, in futures beside the mailbox. Nobody waits for it: not the registry, no
//!   session, no deployment.
//! * Timers: one, for the next round or probe; another, once, for the moment from which all that is not wanted may go.
//! * On crash: begins anew, after a pause, with the book as it is; what it has changed is still there.
//!
//! Each call has a deadline of its own here, whatever the port promises. Rounds come one at a time; a few plans may be
//! made beside them.

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, SpawnHandle,
    WrapFuture,
};
use nebula_core::clock::{Clock, Tick};
use tokio::sync::watch;

use self::kind::Kind;
use self::machine::{Chance, Effect, Event, Machine, Notice};
use self::status::EdgeStatus;
use self::watched::watched;
use super::letter::{Member, opens_letters};
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{Edges, System};
use super::tree::Cell;
use crate::domain::edge::{Differences, EdgeError, Trouble};
use crate::domain::error::{Error, ErrorClass};
use crate::ports::Edge;

pub mod kind;
pub mod machine;
mod sites;
pub mod status;
mod watched;

pub use self::sites::SiteBook;

/// The supervisor of both edges.
pub const PARENT: &str = "/edge";

/// How long a round may take. What it asks of the edge has shorter deadlines, each by itself; but a large DNS zone is
/// read page by page, for some minutes when plans are made meanwhile.
pub const ROUND_DEADLINE: Duration = Duration::from_secs(300);
/// How long a probe may take.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a plan may take: a DNS zone with thousands of records is read page by page.
pub const PLAN_DEADLINE: Duration = Duration::from_secs(60);
/// How many plans may be made at a time.
const PLANS_MAX: usize = 4;
/// An actor that fell waits this long before its next round: one that falls in each round must not fall so often that it
/// stays down.
const AFTER_A_FALL: Duration = Duration::from_secs(20);
/// Timers fire this much late at least, so that what they are for is surely due.
const TIMER_SLACK: Duration = Duration::from_millis(1);

/// What would be changed at an edge.
#[derive(Clone, Debug)]
pub struct EdgePlan {
    /// `caddy` or `route53`.
    pub name: &'static str,
    /// What it is and where, for people.
    pub target: String,
    /// What would be changed, or why nobody can tell.
    pub outcome: Result<Differences, EdgeError>,
}

/// An edge's actor.
pub struct EdgeActor {
    kind: Kind,
    /// None: it is not used.
    port: Option<Arc<dyn Edge>>,
    machine: Machine,
    status: Arc<EdgeStatus>,
    plans: usize,
    system: System,
    clock: Clock,
    cell: Arc<Cell>,
    timer: Option<(Tick, SpawnHandle)>,
    watch: DeathWatch,
}

/// How both edges' actors are built.
pub(crate) fn specs(system: &System, edges: &Edges) -> [ChildSpec; 2] {
    Kind::ALL.map(|kind| {
        let port = match kind {
            Kind::Caddy => edges.caddy.clone(),
            Kind::Route53 => edges.route53.clone(),
        };
        let system = system.clone();
        ChildSpec::new(kind.name(), "edge", Restart::Permanent, move |birth| {
            let (system, port) = (system.clone(), port.clone());
            async move {
                EdgeActor::begin(birth, system, kind, port);
                Ok(())
            }
        })
    })
}

impl EdgeActor {
    fn begin(birth: Birth, system: System, kind: Kind, port: Option<Arc<dyn Edge>>) {
        let clock = system.tree.clock();
        let fell = birth.cell.incarnation() > 1;
        let not_before = if fell { clock.now().plus(AFTER_A_FALL) } else { clock.now() };
        let target = port.as_ref().map(|port| port.target()).unwrap_or_default();
        let mut edge = Self {
            kind,
            port,
            machine: Machine::new(kind.pace(), not_before),
            status: Arc::new(EdgeStatus::new(kind, target, clock)),
            plans: 0,
            system,
            clock,
            cell: birth.cell.clone(),
            timer: None,
            watch: birth.watch,
        };
        edge.cell.publish(edge.status.clone());
        edge.publish();
        birth.cell.running(edge.start());
    }

    fn drive(&mut self, event: Event, ctx: &mut Context<Self>) {
        for effect in self.machine.step(event, self.clock.now()) {
            match effect {
                Effect::Reconcile => self.reconcile(ctx),
                Effect::Probe => self.probe(ctx),
                Effect::Notice(notice) => self.tell_operator(notice),
            }
        }
        self.publish();
        self.arm(ctx);
    }

    fn reconcile(&self, ctx: &mut Context<Self>) {
        let Some(port) = self.port.clone() else { return };
        let wanted = self.system.wanted();
        let round = async move { port.reconcile(wanted).await };
        let round =
            in_time(ROUND_DEADLINE, "a round", watched(&self.cell, "future: a round at the edge", round));
        ctx.spawn(round.into_actor(self).map(|result, edge: &mut Self, ctx| {
            let _turn = edge.cell.future_turn("future: a round has ended");
            if let Err(error) = &result {
                let edge = edge.kind.name();
                tracing::debug!(edge, %error, hint = error.hint, trouble = ?error.trouble, "edge: a round failed");
            }
            edge.drive(Event::Rounded(result, draw()), ctx);
        }));
    }

    fn probe(&self, ctx: &mut Context<Self>) {
        let Some(port) = self.port.clone() else { return };
        let probe = async move { port.probe().await };
        let probe =
            in_time(PROBE_DEADLINE, "a probe", watched(&self.cell, "future: a probe of the edge", probe));
        ctx.spawn(probe.into_actor(self).map(|result, edge: &mut Self, ctx| {
            let _turn = edge.cell.future_turn("future: a probe has ended");
            edge.drive(Event::Probed(result, draw()), ctx);
        }));
    }

    /// Hears of changes. Many that come together are one.
    fn follow(&self, mut news: watch::Receiver<u64>, ctx: &mut Context<Self>) {
        let changed = async move { news.changed().await.map(|()| news) };
        ctx.spawn(changed.into_actor(self).map(|news, edge: &mut Self, ctx| {
            let _turn = edge.cell.future_turn("future: other names are wanted");
            // The book's other end is the system's own.
            if let Ok(news) = news {
                edge.drive(Event::Changed, ctx);
                edge.follow(news, ctx);
            }
        }));
    }

    /// Some time after nebulad's start more may be removed than before, which is a change as well.
    fn follow_settling(&self, ctx: &mut Context<Self>) {
        let wait = self.system.sites.settles_in();
        if !wait.is_zero() {
            ctx.run_later(wait + TIMER_SLACK, |edge, ctx| {
                let _turn = edge.cell.timer_turn("timer: more names may be given up");
                if edge.system.sites.is_filled() {
                    edge.drive(Event::Changed, ctx);
                }
            });
        }
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        let next = self.machine.next_timer();
        if self.timer.as_ref().map(|(at, _)| *at) == next {
            return;
        }
        if let Some((_, old)) = self.timer.take() {
            ctx.cancel_future(old);
        }
        if let Some(at) = next {
            let wait = at.since(self.clock.now()) + TIMER_SLACK;
            let handle = ctx.run_later(wait, |edge, ctx| {
                let _turn = edge.cell.timer_turn("timer: the edge is due");
                edge.timer = None;
                edge.drive(Event::Timer, ctx);
            });
            self.timer = Some((at, handle));
        }
    }

    fn publish(&mut self) {
        if self.port.is_none() {
            return;
        }
        let (picture, wanted) = (self.machine.picture(), self.system.sites.len());
        if !self.status.shows(picture, wanted) {
            self.status = Arc::new(self.status.with(picture.clone(), wanted));
            self.cell.publish(self.status.clone());
        }
    }

    fn tell_operator(&self, notice: Notice) {
        let (edge, target) = (self.kind.name(), self.status.target.as_str());
        match notice {
            Notice::InSync(changed) => tracing::info!(edge, changed, "edge is as it should be"),
            Notice::Failing(error) => {
                tracing::warn!(edge, target, %error, hint = error.hint, "edge fails and is tried again");
            }
            Notice::Well(failures) => tracing::info!(edge, target, failures, "edge is well again"),
            Notice::Blocked(names, first, why) => {
                tracing::warn!(edge, target, names, first, why, "edge: something stands in the way of names");
            }
        }
    }
}

/// Ends what takes too long, as if the edge were away.
async fn in_time<T>(
    deadline: Duration,
    what: &str,
    call: impl Future<Output = Result<T, EdgeError>>,
) -> Result<T, EdgeError> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(EdgeError {
            trouble: Trouble::Unreachable,
            message: format!("{what} has not ended within {} s", deadline.as_secs()),
            hint: String::new(),
        })
    })
}

fn draw() -> Chance {
    Chance(rand::random())
}

impl Actor for EdgeActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if self.port.is_none() {
            return;
        }
        let mut news = self.system.sites.watch();
        let known = *news.borrow_and_update() > 0;
        self.follow(news, ctx);
        if known {
            self.drive(Event::Changed, ctx);
        }
        self.follow_settling(ctx);
    }
}

impl Member for EdgeActor {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }
}

opens_letters!(EdgeActor);

/// From the API: what would be changed now. Changes nothing.
#[derive(Debug, Message)]
#[rtype(result = "Result<EdgePlan, Error>")]
pub struct Plan;

impl Handler<Plan> for EdgeActor {
    type Result = ResponseActFuture<Self, Result<EdgePlan, Error>>;

    fn handle(&mut self, _: Plan, _: &mut Context<Self>) -> Self::Result {
        let refusal = match &self.port {
            None => Some(not_used(self.kind)),
            Some(_) if self.plans >= PLANS_MAX => Some(Error::overloaded()),
            Some(_) if !self.system.sites.is_filled() => Some(Error::restarting()),
            Some(_) => None,
        };
        let (Some(port), None) = (self.port.clone(), &refusal) else {
            let refusal = refusal.unwrap_or_else(Error::restarting);
            return Box::pin(async move { Err(refusal) }.into_actor(self));
        };
        self.plans += 1;
        let wanted = self.system.wanted();
        // In a task of its own: a plan that panics takes no round with it.
        let plan = actix_rt::spawn(in_time(PLAN_DEADLINE, "a plan", async move { port.plan(wanted).await }));
        Box::pin(plan.into_actor(self).map(|planned, edge: &mut Self, _| {
            let _turn = edge.cell.future_turn("future: a plan is made");
            edge.plans -= 1;
            let failed = |_| Error::new(ErrorClass::Internal, "the plan could not be made: it panicked");
            let outcome = planned.map_err(failed)?;
            Ok(EdgePlan { name: edge.kind.name(), target: edge.status.target.clone(), outcome })
        }))
    }
}

fn not_used(kind: Kind) -> Error {
    let (name, flag) = (kind.name(), kind.flag());
    Error::new(ErrorClass::Conflict, format!("nebulad manages no {name}; start it with {flag}"))
}

impl System {
    /// What the edges should be now. What is there and not wanted stays while the store is known to have a gap.
    fn wanted(&self) -> Arc<crate::domain::edge::Wanted> {
        self.sites.wanted(!self.caution.holds())
    }

    /// How both edges stand: the reverse proxy, then the DNS zone. One that is not used says so.
    #[must_use]
    pub fn edge_status(&self) -> Vec<Arc<EdgeStatus>> {
        let status = |kind: Kind| self.tree.cell(kind.path())?.status::<EdgeStatus>();
        Kind::ALL.into_iter().filter_map(status).collect()
    }

    /// What would be changed at the edge `name`, seen afresh; nothing is changed. Takes up to [`PLAN_DEADLINE`].
    ///
    /// # Errors
    /// `NotFound` when there is no such edge, `Conflict` when it is not used, `Overloaded` when too many plans are being
    /// made. What the edge itself says is in the plan.
    pub async fn edge_plan(&self, name: &str) -> Result<EdgePlan, Error> {
        let unknown = || {
            let message = format!("there is no edge \"{name}\"; there are caddy and route53");
            Error::new(ErrorClass::NotFound, message)
        };
        let kind = Kind::named(name).ok_or_else(unknown)?;
        self.edges.ask_in_turn(kind.path(), Plan, PLAN_DEADLINE + PROBE_DEADLINE).await?
    }
}
