//! A control plane, its nodes' heartbeats and an edge that is a fake, in paused time.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use nebula_core::clock::{Clock, Tick};
use nebula_core::ids::NodeId;
use nebula_core::timing::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, RESTART_GRACE};
use nebulad::actors::edge::kind::Kind;
use nebulad::actors::edge::machine::State;
use nebulad::actors::edge::status::EdgeStatus;
use nebulad::actors::registry::machine::{Registered, Timing, Verdict};
use nebulad::actors::registry::{self, Change, Heartbeat, Register};
use nebulad::actors::system::{Edges, Parts, System};
use nebulad::actors::tree::Tree;
use nebulad::domain::edge::{
    Blocked, Change as EdgeChange, Differences, EdgeError, Round, Trouble, Verb, Wanted,
};
use nebulad::domain::route::RouteTable;
use nebulad::ports::{BoxFuture, Edge};
use tokio::task::LocalSet;

use super::agents::Agents;
use super::memory::Memory;
use super::world::registration;

/// How often a state is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// What each call at a fake edge takes.
const TAKES: Duration = Duration::from_millis(20);

/// How a fake edge behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Works,
    Fails(Trouble),
    /// Nothing is ever answered.
    Hangs,
    /// The next round panics; then it works.
    PanicsOnce,
    /// Each round panics.
    Panics,
    /// Somebody else has this name.
    Blocks(String),
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When each round began, and how many names it wanted.
    pub(crate) rounds: Vec<(Tick, usize)>,
    /// How many probes began.
    pub(crate) probes: usize,
    /// How many rounds were under way at once at most.
    pub(crate) most_at_once: usize,
    /// Names that were taken away.
    pub(crate) removed: BTreeSet<String>,
    at_once: usize,
}

/// An edge in memory.
pub(crate) struct Fake {
    clock: Clock,
    mood: Mutex<Mood>,
    pub(crate) there: Mutex<BTreeMap<String, String>>,
    seen: Mutex<Seen>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Ends a round, however it ends.
struct UnderWay(Arc<Fake>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.seen().at_once -= 1;
    }
}

impl Fake {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            mood: Mutex::new(Mood::Works),
            there: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    pub(crate) fn set(&self, mood: Mood) {
        *lock(&self.mood) = mood;
    }

    pub(crate) fn mood(&self) -> Mood {
        lock(&self.mood).clone()
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    pub(crate) fn rounds(&self) -> usize {
        self.seen().rounds.len()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        lock(&self.there).keys().cloned().collect()
    }

    /// It loses everything, as a proxy that starts without its state.
    pub(crate) fn forgets(&self) {
        lock(&self.there).clear();
    }

    fn differences(&self, wanted: &Wanted) -> Differences {
        let there = lock(&self.there);
        let change =
            |verb, name: &String, to: String| EdgeChange { verb, kind: "route", name: name.clone(), to };
        let mut changes = Vec::new();
        for (name, to) in &wanted.sites {
            match there.get(name) {
                None => changes.push(change(Verb::Add, name, to.to_string())),
                Some(old) if *old != to.to_string() => {
                    changes.push(change(Verb::Change, name, to.to_string()))
                }
                Some(_) => {}
            }
        }
        let gone = there.keys().filter(|name| wanted.may_go(name) && !wanted.sites.contains_key(*name));
        changes.extend(gone.map(|name| change(Verb::Remove, name, String::new())));
        let mut differences = Differences { changes, blocked: Vec::new() };
        if let Mood::Blocks(name) = self.mood() {
            differences.changes.retain(|change| change.name != name);
            differences.blocked.push(Blocked { name, why: "somebody else has it".to_owned() });
        }
        differences
    }

    fn apply(&self, wanted: &Wanted) -> Round {
        let todo = self.differences(wanted);
        let mut there = lock(&self.there);
        for change in &todo.changes {
            if change.verb == Verb::Remove {
                there.remove(&change.name);
                self.seen().removed.insert(change.name.clone());
            } else {
                there.insert(change.name.clone(), change.to.clone());
            }
        }
        let observed = there.len();
        drop(there);
        Round { observed, changed: todo.changes.len(), left: self.differences(wanted) }
    }

    async fn answers(&self) -> Result<(), EdgeError> {
        tokio::time::sleep(TAKES).await;
        match self.mood() {
            Mood::Fails(trouble) => {
                Err(EdgeError { trouble, message: "no".to_owned(), hint: "look at it".to_owned() })
            }
            Mood::Hangs => std::future::pending().await,
            Mood::Works | Mood::Blocks(_) | Mood::Panics | Mood::PanicsOnce => Ok(()),
        }
    }
}

/// What an edge's actor holds of it.
struct Port(Arc<Fake>);

impl Edge for Port {
    fn target(&self) -> String {
        "a fake".to_owned()
    }

    fn probe(&self) -> BoxFuture<Result<(), EdgeError>> {
        let fake = Arc::clone(&self.0);
        Box::pin(async move {
            fake.seen().probes += 1;
            fake.answers().await
        })
    }

    fn plan(&self, wanted: Arc<Wanted>) -> BoxFuture<Result<Differences, EdgeError>> {
        let fake = Arc::clone(&self.0);
        Box::pin(async move {
            // A plan is asked for while a round hangs; it finds its way all the same.
            tokio::time::sleep(TAKES).await;
            assert_ne!(fake.mood(), Mood::Panics, "a plan panics");
            Ok(fake.differences(&wanted))
        })
    }

    fn reconcile(&self, wanted: Arc<Wanted>) -> BoxFuture<Result<Round, EdgeError>> {
        let fake = Arc::clone(&self.0);
        Box::pin(async move {
            let _under_way = {
                let mut seen = fake.seen();
                seen.rounds.push((fake.clock.now(), wanted.sites.len()));
                seen.at_once += 1;
                seen.most_at_once = seen.most_at_once.max(seen.at_once);
                UnderWay(Arc::clone(&fake))
            };
            fake.answers().await?;
            let mood = fake.mood();
            if mood == Mood::PanicsOnce {
                fake.set(Mood::Works);
            }
            assert!(!matches!(mood, Mood::Panics | Mood::PanicsOnce), "a fault in the edge");
            Ok(fake.apply(&wanted))
        })
    }
}

/// Both edges.
pub(crate) struct Fakes {
    pub(crate) caddy: Arc<Fake>,
    pub(crate) route53: Arc<Fake>,
}

impl Fakes {
    fn new(clock: Clock) -> Self {
        Self { caddy: Fake::new(clock), route53: Fake::new(clock) }
    }

    fn ports(&self) -> Edges {
        let port = |fake: &Arc<Fake>| -> Option<Arc<dyn Edge>> { Some(Arc::new(Port(Arc::clone(fake)))) };
        Edges { caddy: port(&self.caddy), route53: port(&self.route53) }
    }
}

pub(crate) struct EdgeWorld {
    pub(crate) system: System,
    pub(crate) store: Arc<Memory>,
    pub(crate) clock: Clock,
    pub(crate) fakes: Fakes,
}

/// Runs a test in paused time on a control plane without nodes. `used`: whether there are edges at all.
pub(crate) fn at_the_edge<F: Future<Output = ()>>(used: bool, test: impl FnOnce(Rc<EdgeWorld>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    // Actors that are dropped at the end may still want to spawn.
    let _entered = runtime.enter();
    LocalSet::new().block_on(&runtime, async {
        let clock = Clock::start();
        let world = EdgeWorld::on(Arc::default(), clock, used).await;
        test(Rc::new(world)).await;
    });
}

impl EdgeWorld {
    async fn on(store: Arc<Memory>, clock: Clock, used: bool) -> Self {
        let fakes = Fakes::new(clock);
        let edges = if used { fakes.ports() } else { Edges::default() };
        let parts = Parts {
            tree: Tree::new(clock),
            store: store.clone(),
            agents: Arc::new(Agents::new(clock)),
            routes: Arc::new(ArcSwap::from_pointee(RouteTable::default())),
            timing: Timing {
                heartbeat_interval: HEARTBEAT_INTERVAL,
                heartbeat_timeout: HEARTBEAT_TIMEOUT,
                restart_grace: RESTART_GRACE,
            },
            gateway_domain: "example.com".to_owned(),
            edges,
        };
        Self { system: System::start(parts).await.expect("started"), store, clock, fakes }
    }

    /// Another control plane on the same store; what was at the edges is there.
    pub(crate) async fn started_again(&self) -> Self {
        let again = Self::on(self.store.clone(), self.clock, true).await;
        for (new, old) in
            [(&again.fakes.caddy, &self.fakes.caddy), (&again.fakes.route53, &self.fakes.route53)]
        {
            lock(&new.there).clone_from(&lock(&old.there));
        }
        again
    }

    /// A node registers. Answers its host name.
    pub(crate) async fn register(&self, name: &str) -> String {
        let id: NodeId = name.parse().expect("an id");
        let register = Register(registration(name, &id, 0));
        let answer = self.system.registry.ask(registry::PATH, register).await;
        let Registered { subdomain, .. } = answer.expect("heard").expect("registered");
        subdomain
    }

    /// A node registers and beats until the task that is answered is aborted.
    pub(crate) async fn live(&self, name: &str) -> (String, tokio::task::JoinHandle<()>) {
        let host = self.register(name).await;
        let (system, id) = (self.system.clone(), name.parse::<NodeId>().expect("an id"));
        let life = actix_rt::spawn(async move {
            loop {
                let heard = Heartbeat { node_id: id.clone(), boot_id: "boot".to_owned() };
                let verdict = system.registry.ask(registry::PATH, heard).await;
                assert!(matches!(verdict, Ok(Verdict::Known)), "{id} is not heard: {verdict:?}");
                tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            }
        });
        (host, life)
    }

    pub(crate) async fn change(&self, change: Change) {
        self.system.registry.ask(registry::PATH, change).await.expect("heard").expect("done");
    }

    pub(crate) fn status(&self, kind: Kind) -> Arc<EdgeStatus> {
        let all = self.system.edge_status();
        all.into_iter().find(|status| status.name == kind.name()).expect("it is there")
    }

    pub(crate) fn state(&self, kind: Kind) -> State {
        self.status(kind).state()
    }

    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits for a state, and says how long that took.
    pub(crate) async fn until(&self, what: &str, within: Duration, is: impl Fn(&Self) -> bool) -> Duration {
        let began = self.clock.now();
        loop {
            let waited = self.clock.now().since(began);
            if is(self) {
                return waited;
            }
            let shown = || self.system.edge_status().iter().map(|one| one.to_json()).collect::<Vec<_>>();
            assert!(waited < within, "{what}: not within {within:?}: {:#?}", shown());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until both edges have exactly these names.
    pub(crate) async fn until_there<N: AsRef<str>>(&self, names: &[N], within: Duration) -> Duration {
        let mut names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        names.sort_unstable();
        let all = |fake: &Fake| fake.names() == names;
        let is = |world: &Self| all(&world.fakes.caddy) && all(&world.fakes.route53);
        self.until(&format!("{names:?} are there"), within, is).await
    }
}
