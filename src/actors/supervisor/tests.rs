use std::sync::atomic::{AtomicU32, Ordering};

use nebula_core::clock::Clock;
use tokio::task::LocalSet;

use super::machine::{INTENSITY, INTENSITY_WINDOW};
use super::*;
use crate::actors::failpoint::Failpoint;
use crate::actors::handle::{ASK_TIMEOUT, Handle, TOLD_MAX, WAITING_MAX};
use crate::actors::tree::{Kind, Life};
use crate::domain::error::{Error, ErrorClass};

/// An actor that counts, keeps its count in a "store", and falls on demand.
struct Counter {
    count: u32,
    store: Arc<AtomicU32>,
    busy: bool,
    cell: Arc<Cell>,
    watch: DeathWatch,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Member for Counter {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }

    fn busy(&self) -> bool {
        self.busy
    }
}

opens_letters!(Counter);

/// The number tells one from another.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "u32")]
enum Do {
    Count,
    Panic(u32),
    PanicInATimer,
    Fail,
    Finish,
    /// Has something under way for so many milliseconds.
    Work(u64),
}

impl Traced for Do {}

impl Handler<Do> for Counter {
    type Result = u32;

    fn handle(&mut self, what: Do, ctx: &mut Context<Self>) -> u32 {
        use actix::ActorContext;
        match what {
            Do::Count => {
                self.count += 1;
                self.store.store(self.count, Ordering::SeqCst);
            }
            Do::Panic(n) => panic!("on purpose, {n}"),
            Do::PanicInATimer => {
                ctx.run_later(Duration::from_millis(1), |_, _| panic!("late on purpose"));
            }
            Do::Fail => {
                self.watch.ends_because("the store failed".to_owned());
                ctx.stop();
            }
            Do::Finish => {
                self.watch.finishes();
                ctx.stop();
            }
            Do::Work(millis) => {
                self.busy = true;
                ctx.run_later(Duration::from_millis(millis), |counter, _| {
                    counter.busy = false;
                    counter.count += 100;
                    counter.store.store(counter.count, Ordering::SeqCst);
                });
            }
        }
        self.count
    }
}

struct World {
    tree: Tree,
    family: Family,
    handle: Handle<Counter>,
    starts: Arc<AtomicU32>,
}

impl World {
    async fn new(strategy: Strategy) -> Self {
        let tree = Tree::new(Clock::start());
        let root = Family::vital("/", "", Strategy::OneForOne, tree.clone());
        Supervisor::start_root(&root);
        let family = Family::vital("/counters", "/counters", strategy, tree.clone());
        root.start(family.spec("counters")).await.expect("the supervisor starts");
        Self { handle: Handle::new(tree.clone()), tree, family, starts: Arc::default() }
    }

    async fn start(&self, id: &str) {
        let (store, starts) = (Arc::new(AtomicU32::new(0)), self.starts.clone());
        let spec = ChildSpec::new(id, "counter", Restart::Transient, move |birth: Birth| {
            let (store, starts) = (store.clone(), starts.clone());
            async move {
                starts.fetch_add(1, Ordering::SeqCst);
                let count = store.load(Ordering::SeqCst);
                let cell = birth.cell.clone();
                let counter = Counter { count, store, busy: false, cell: birth.cell, watch: birth.watch };
                cell.running(counter.start());
                Ok(())
            }
        });
        self.family.start(spec).await.expect("started");
    }

    async fn ask(&self, id: &str, what: Do) -> Result<u32, Error> {
        self.handle.ask(&format!("/counters/{id}"), what).await
    }

    fn cell(&self, id: &str) -> Arc<Cell> {
        self.tree.cell(&format!("/counters/{id}")).expect("it has a place")
    }

    fn life(&self, id: &str) -> Option<Life> {
        self.tree.cell(&format!("/counters/{id}")).map(|cell| cell.life())
    }

    async fn until(&self, id: &str, life: Option<Life>) -> Duration {
        let began = self.tree.clock().now();
        while self.life(id) != life {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(self.tree.clock().now().since(began) < Duration::from_secs(120), "never {life:?}");
        }
        self.tree.clock().now().since(began)
    }

    /// Lets it fall, and waits until it is back.
    async fn fall(&self, id: &str, what: Do) {
        let answer = self.ask(id, what).await;
        assert_eq!(answer.expect_err("it fell").class, ErrorClass::Restarting);
        self.until(id, Some(Life::Restarting)).await;
        self.until(id, Some(Life::Running)).await;
    }

    fn view(&self, id: &str) -> serde_json::Value {
        serde_json::to_value(self.cell(id).view()).expect("json")
    }
}

fn in_the_actors_world<F: Future<Output = ()>>(strategy: Strategy, test: impl FnOnce(World) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let world = async { test(World::new(strategy).await).await };
    LocalSet::new().block_on(&runtime.expect("a runtime"), world);
}

#[test]
fn a_fallen_actor_is_back_from_its_store_within_250_ms_and_its_neighbour_never_fell() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.start("a").await;
        world.start("b").await;
        for _ in 0..3 {
            world.ask("a", Do::Count).await.expect("counted");
            world.ask("b", Do::Count).await.expect("counted");
        }
        for fall in [Do::Panic(1), Do::Fail] {
            let answer = world.ask("a", fall).await;
            assert!(
                matches!(fall, Do::Fail) || answer.is_err_and(|error| error.class == ErrorClass::Restarting)
            );
            world.until("a", Some(Life::Restarting)).await;
            assert!(world.until("a", Some(Life::Running)).await <= Duration::from_millis(250));
            assert_eq!(world.ask("b", Do::Count).await, Ok(if matches!(fall, Do::Panic(_)) { 4 } else { 5 }));
        }
        assert_eq!(world.ask("a", Do::Count).await, Ok(4));
        assert_eq!(world.cell("b").incarnation(), 1);
    });
}

#[test]
fn a_panic_in_a_timer_is_a_fall_too_and_its_cause_is_shown() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        nebula_core::telemetry::init(nebula_core::telemetry::LogLevel::Error, Default::default());
        world.start("a").await;
        world.ask("a", Do::PanicInATimer).await.expect("handled");
        world.until("a", Some(Life::Restarting)).await;
        world.until("a", Some(Life::Running)).await;
        let view = world.view("a");
        let cause = view["last_exit"]["cause"].as_str().expect("a cause");
        assert!(cause.starts_with("panicked: late on purpose"), "{cause}");
        assert_eq!((&view["restarts"], &view["incarnation"]), (&1.into(), &2.into()));
    });
}

#[test]
fn one_that_falls_again_and_again_stays_down_until_an_operator_restarts_it() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.start("a").await;
        for n in 0..INTENSITY {
            world.fall("a", Do::Panic(n as u32)).await;
        }
        drop(world.ask("a", Do::Panic(100)).await);
        world.until("a", Some(Life::Crashed)).await;
        let refused = world.ask("a", Do::Count).await.expect_err("it is down");
        assert!(refused.message.contains("crashed"), "{}", refused.message);
        assert_eq!(world.starts.load(Ordering::SeqCst), 1 + INTENSITY as u32);
        let fallen = world.tree.fallen().await;
        assert!(fallen.starts_with("/counters/a crashed and stays down"), "the family is vital: {fallen}");
        assert_eq!(world.family.renew("a"), Some(true));
        world.until("a", Some(Life::Running)).await;
        assert_eq!(world.ask("a", Do::Count).await, Ok(1));
        assert_eq!(world.family.renew("a"), Some(false), "it runs");
    });
}

#[test]
fn falls_that_lie_far_apart_are_forgiven() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.start("a").await;
        for n in 0..3 * INTENSITY {
            world.fall("a", Do::Panic(n as u32)).await;
            tokio::time::sleep(INTENSITY_WINDOW).await;
        }
        assert_eq!(world.life("a"), Some(Life::Running));
    });
}

#[test]
fn an_actor_that_has_done_its_work_is_gone() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.start("a").await;
        world.ask("a", Do::Finish).await.expect("done");
        world.until("a", None).await;
        let gone = world.ask("a", Do::Count).await.expect_err("it is gone");
        assert_eq!(gone.class, ErrorClass::NotFound);
        assert_eq!(world.family.renew("a"), None);
    });
}

#[test]
fn one_that_finds_nothing_left_to_do_when_it_is_built_is_gone() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        let tries = Arc::new(AtomicU32::new(0));
        let counted = tries.clone();
        let spec = ChildSpec::new("a", "counter", Restart::Transient, move |birth: Birth| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                let Birth { mut watch, .. } = birth;
                watch.finishes();
                Ok(())
            }
        });
        let never_ran = world.family.start(spec).await;
        assert!(never_ran.is_err(), "it does not run");
        world.until("a", None).await;
        tokio::time::sleep(INTENSITY_WINDOW).await;
        assert_eq!((tries.load(Ordering::SeqCst), world.life("a")), (1, None));
    });
}

#[test]
fn a_child_that_cannot_be_built_is_tried_again_and_ends_crashed() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        let tries = Arc::new(AtomicU32::new(0));
        let counted = tries.clone();
        let spec = ChildSpec::new("a", "counter", Restart::Permanent, move |_: Birth| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { if std::hint::black_box(true) { panic!("while being built") } else { Ok(()) } }
        });
        let answer = world.family.start(spec).await;
        assert!(answer.is_err_and(|error| error.message.contains("panicked")));
        world.until("a", Some(Life::Crashed)).await;
        assert_eq!(tries.load(Ordering::SeqCst), 1 + INTENSITY as u32);
    });
}

#[test]
fn a_message_that_kills_three_times_is_set_aside_until_an_operator_releases_it() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.start("a").await;
        world.start("b").await;
        for _ in 0..3 {
            world.fall("a", Do::Panic(7)).await;
        }
        let refused = world.ask("a", Do::Panic(7)).await.expect_err("it is set aside");
        assert_eq!(refused.class, ErrorClass::Unprocessable);
        assert!(refused.message.contains("/counters/a"), "{}", refused.message);
        assert_eq!(world.ask("a", Do::Count).await, Ok(1), "the actor lives and takes all others");
        assert_eq!((world.cell("a").incarnation(), world.life("a")), (4, Some(Life::Running)));
        world.fall("b", Do::Panic(7)).await;
        let shown = &world.view("a")["set_aside"];
        assert_eq!((&shown[0]["text"], &shown[0]["kills"]), (&"Panic(7)".into(), &3.into()), "{shown}");
        assert_eq!(world.tree.poison().list(None).len(), 1);
        assert_eq!(world.family.renew("a"), Some(true));
        while world.cell("a").incarnation() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.until("a", Some(Life::Running)).await;
        world.fall("a", Do::Panic(7)).await;
        assert_eq!(world.view("a")["set_aside"], serde_json::json!([]));
    });
}

#[test]
fn those_that_derive_from_a_fallen_one_finish_what_they_have_and_are_built_after_it() {
    in_the_actors_world(Strategy::RestForOne, |world| async move {
        for id in ["a", "b", "c"] {
            world.start(id).await;
        }
        world.ask("c", Do::Work(60)).await.expect("taken");
        drop(world.ask("b", Do::Panic(1)).await);
        world.until("b", Some(Life::Restarting)).await;
        assert_eq!(world.life("c"), Some(Life::Stopping));
        let refused = world.ask("c", Do::Count).await.expect_err("it takes nothing more");
        assert_eq!(refused.class, ErrorClass::Restarting);
        assert!(world.until("b", Some(Life::Running)).await <= Duration::from_millis(250));
        world.until("c", Some(Life::Running)).await;
        assert_eq!(world.ask("c", Do::Count).await, Ok(101), "its work was finished");
        let incarnations = ["a", "b", "c"].map(|id| world.cell(id).incarnation());
        assert_eq!(incarnations, [1, 2, 2]);
    });
}

#[test]
fn one_that_does_not_finish_in_time_is_dropped() {
    in_the_actors_world(Strategy::RestForOne, |world| async move {
        world.start("a").await;
        world.start("b").await;
        world.ask("b", Do::Work(3_600_000)).await.expect("taken");
        drop(world.ask("a", Do::Panic(1)).await);
        world.until("b", Some(Life::Stopping)).await;
        let took = world.until("b", Some(Life::Running)).await;
        assert!(took >= SHUTDOWN && took <= SHUTDOWN + Duration::from_millis(250), "{took:?}");
        assert_eq!(world.ask("b", Do::Count).await, Ok(1));
    });
}

#[test]
fn a_supervisor_that_falls_finds_its_living_children_and_what_it_missed() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.start("a").await;
        world.start("b").await;
        let supervisor = world.tree.cell("/counters").expect("there");
        supervisor.set_failpoint(Failpoint::panic(Kind::Message));
        // The news of this fall is what the supervisor falls over.
        drop(world.ask("a", Do::Panic(1)).await);
        while supervisor.incarnation() == 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.until("a", Some(Life::Restarting)).await;
        world.until("a", Some(Life::Running)).await;
        assert_eq!((world.cell("a").incarnation(), world.cell("b").incarnation()), (2, 1));
        // One that is started while nobody supervises is built when somebody does.
        supervisor.set_failpoint(Failpoint::panic(Kind::Message));
        world.start("c").await;
        assert_eq!(supervisor.incarnation(), 3);
        assert_eq!(world.ask("c", Do::Count).await, Ok(1));
        // A pause that was under way goes on.
        drop(world.ask("b", Do::Panic(2)).await);
        world.until("b", Some(Life::Restarting)).await;
        supervisor.set_failpoint(Failpoint::panic(Kind::Timer));
        world.until("b", Some(Life::Running)).await;
        assert_eq!(supervisor.incarnation(), 4);
        assert_eq!(world.tree.cell("/").expect("there").incarnation(), 1);
    });
}

#[test]
fn the_fall_of_the_root_ends_everything() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.tree.cell("/").expect("there").set_failpoint(Failpoint::panic(Kind::Message));
        world.tree.cell("/counters").expect("there").set_failpoint(Failpoint::panic(Kind::Message));
        // The news of the supervisor's fall is what the root falls over.
        let spec = ChildSpec::new("x", "counter", Restart::Temporary, |_| async { Ok(()) });
        world.family.start_later(spec);
        assert!(world.tree.fallen().await.contains("root"));
    });
}

#[test]
fn a_read_waits_for_the_next_incarnation_and_a_mutation_does_not() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.start("a").await;
        world.cell("a").set_failpoint(Failpoint::panic(Kind::Message));
        let asked = AtomicU32::new(0);
        let read = world.handle.read("/counters/a", || {
            asked.fetch_add(1, Ordering::SeqCst);
            Do::Count
        });
        assert_eq!((read.await, asked.load(Ordering::SeqCst)), (Ok(1), 2));
        assert_eq!(world.cell("a").incarnation(), 2);
        world.cell("a").set_failpoint(Failpoint::panic(Kind::Message));
        let told = world.ask("a", Do::Count).await.expect_err("nobody asks again");
        assert_eq!(told.class, ErrorClass::Restarting);
        world.until("a", Some(Life::Restarting)).await;
        let read = world.handle.read("/counters/a", || Do::Count);
        assert_eq!(read.await, Ok(2), "one that is down when it is asked is waited for as well");
    });
}

#[test]
fn a_read_of_one_that_stays_down_is_given_up() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        let spec = ChildSpec::new("a", "counter", Restart::Permanent, |birth: Birth| async move {
            let _birth = birth;
            std::future::pending().await
        });
        world.family.start_later(spec);
        world.until("a", Some(Life::Starting)).await;
        let began = world.tree.clock().now();
        let read = world.handle.read("/counters/a", || Do::Count).await;
        assert_eq!(read.expect_err("it is down").class, ErrorClass::Restarting);
        assert!(world.tree.clock().now().since(began) <= crate::actors::handle::READ_WAIT * 2);
    });
}

#[test]
fn a_caller_that_hangs_up_takes_nothing_back() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.start("a").await;
        let mut asks: Vec<_> = (0..100).map(|_| Box::pin(world.ask("a", Do::Count))).collect();
        for ask in &mut asks {
            // Polled once, so that it is on its way.
            assert!(futures_util::FutureExt::now_or_never(ask).is_none());
        }
        drop(asks);
        assert_eq!(world.ask("a", Do::Count).await, Ok(101));
    });
}

#[test]
fn so_many_messages_wait_and_no_more() {
    in_the_actors_world(Strategy::OneForOne, |world| async move {
        world.start("a").await;
        for _ in 0..TOLD_MAX + WAITING_MAX {
            world.handle.tell("/counters/a", Do::Count);
        }
        assert_eq!(world.cell("a").waiting(), TOLD_MAX, "none beyond that is kept");
        let refused = world.ask("a", Do::Count).await.expect_err("too many wait");
        assert_eq!(refused.class, ErrorClass::Overloaded);
        let in_turn = world.handle.ask_in_turn("/counters/a", Do::Count, ASK_TIMEOUT);
        assert_eq!(in_turn.await, Ok(TOLD_MAX as u32 + 1), "whoever waits for room is heard");
        assert_eq!(world.ask("a", Do::Count).await, Ok(TOLD_MAX as u32 + 2));
        // What waits for one that falls does not count against the next.
        world.cell("a").set_failpoint(Failpoint::panic(Kind::Message));
        (0..100).for_each(|_| world.handle.tell("/counters/a", Do::Count));
        world.until("a", Some(Life::Restarting)).await;
        world.until("a", Some(Life::Running)).await;
        assert_eq!(world.cell("a").waiting(), 0);
    });
}
