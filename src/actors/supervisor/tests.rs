use std::sync::atomic::{AtomicU32, Ordering};

use nebula_core::clock::Clock;
use tokio::task::LocalSet;

use super::*;
use crate::actors::handle::Handle;
use crate::domain::error::ErrorClass;

/// An actor that counts, keeps its count in a "store", and falls on demand.
struct Counter {
    count: u32,
    store: Arc<AtomicU32>,
    cell: Arc<Cell>,
    watch: DeathWatch,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

#[derive(Message, Clone, Copy)]
#[rtype(result = "u32")]
enum Do {
    Count,
    Panic,
    PanicInATimer,
    Fail,
    Finish,
}

impl Handler<Do> for Counter {
    type Result = u32;

    fn handle(&mut self, what: Do, ctx: &mut Context<Self>) -> u32 {
        use actix::ActorContext;
        self.cell.received();
        match what {
            Do::Count => {
                self.count += 1;
                self.store.store(self.count, Ordering::SeqCst);
            }
            Do::Panic => panic!("on purpose"),
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
        }
        self.count
    }
}

struct World {
    tree: Tree,
    supervisor: Addr<Supervisor>,
    handle: Handle<Counter>,
    starts: Arc<AtomicU32>,
}

impl World {
    fn new() -> Self {
        let tree = Tree::new(Clock::start());
        let supervisor = Supervisor::start_at("/counters", tree.clone());
        Self { handle: Handle::new(tree.clone()), tree, supervisor, starts: Arc::default() }
    }

    async fn start(&self, id: &str) {
        let (store, starts) = (Arc::new(AtomicU32::new(0)), self.starts.clone());
        let spec = ChildSpec::new(id, "counter", Restart::Transient, move |birth: Birth| {
            let (store, starts) = (store.clone(), starts.clone());
            async move {
                starts.fetch_add(1, Ordering::SeqCst);
                let count = store.load(Ordering::SeqCst);
                let cell = birth.cell.clone();
                let counter = Counter { count, store, cell: birth.cell, watch: birth.watch };
                cell.running(counter.start());
                Ok(())
            }
        });
        self.supervisor.send(StartChild(spec)).await.expect("supervised").expect("started");
    }

    async fn ask(&self, id: &str, what: Do) -> Result<u32, Error> {
        self.handle.ask(&format!("/counters/{id}"), what).await
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
}

fn in_the_actors_world<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async { test(World::new()).await });
}

#[test]
fn a_fallen_actor_is_back_from_its_store_within_250_ms_and_its_neighbour_never_fell() {
    in_the_actors_world(|world| async move {
        world.start("a").await;
        world.start("b").await;
        for _ in 0..3 {
            world.ask("a", Do::Count).await.expect("counted");
            world.ask("b", Do::Count).await.expect("counted");
        }
        for fall in [Do::Panic, Do::Fail] {
            let answer = world.ask("a", fall).await;
            assert!(
                matches!(fall, Do::Fail) || answer.is_err_and(|error| error.class == ErrorClass::Restarting)
            );
            world.until("a", Some(Life::Restarting)).await;
            assert!(world.until("a", Some(Life::Running)).await <= Duration::from_millis(250));
            assert_eq!(world.ask("b", Do::Count).await, Ok(if matches!(fall, Do::Panic) { 4 } else { 5 }));
        }
        assert_eq!(world.ask("a", Do::Count).await, Ok(4));
        assert_eq!(world.tree.cell("/counters/b").expect("there").incarnation(), 1);
    });
}

#[test]
fn a_panic_in_a_timer_is_a_fall_too_and_its_cause_is_shown() {
    in_the_actors_world(|world| async move {
        nebula_core::telemetry::init(nebula_core::telemetry::LogLevel::Error, Default::default());
        world.start("a").await;
        world.ask("a", Do::PanicInATimer).await.expect("handled");
        world.until("a", Some(Life::Restarting)).await;
        world.until("a", Some(Life::Running)).await;
        let view = serde_json::to_value(world.tree.view("/counters/a")).expect("json");
        let cause = view[0]["last_exit"]["cause"].as_str().expect("a cause");
        assert!(cause.starts_with("panicked: late on purpose"), "{cause}");
        assert_eq!((view[0]["restarts"].as_u64(), view[0]["incarnation"].as_u64()), (Some(1), Some(2)));
    });
}

#[test]
fn an_actor_that_falls_again_and_again_stays_down_visibly_until_it_is_restarted() {
    in_the_actors_world(|world| async move {
        world.start("a").await;
        for _ in 0..INTENSITY {
            drop(world.ask("a", Do::Panic).await);
            world.until("a", Some(Life::Restarting)).await;
            world.until("a", Some(Life::Running)).await;
        }
        drop(world.ask("a", Do::Panic).await);
        world.until("a", Some(Life::Crashed)).await;
        let refused = world.ask("a", Do::Count).await.expect_err("it is down");
        assert!(refused.message.contains("crashed"), "{}", refused.message);
        assert_eq!(world.starts.load(Ordering::SeqCst), 1 + INTENSITY as u32);
        assert_eq!(world.supervisor.send(RestartChild("a".to_owned())).await, Ok(Some(true)));
        world.until("a", Some(Life::Running)).await;
        assert_eq!(world.ask("a", Do::Count).await, Ok(1));
    });
}

#[test]
fn falls_that_lie_far_apart_are_forgiven() {
    in_the_actors_world(|world| async move {
        world.start("a").await;
        for _ in 0..3 * INTENSITY {
            drop(world.ask("a", Do::Panic).await);
            world.until("a", Some(Life::Restarting)).await;
            world.until("a", Some(Life::Running)).await;
            tokio::time::sleep(INTENSITY_WINDOW).await;
        }
        assert_eq!(world.life("a"), Some(Life::Running));
    });
}

#[test]
fn an_actor_that_has_done_its_work_is_gone() {
    in_the_actors_world(|world| async move {
        world.start("a").await;
        world.ask("a", Do::Finish).await.expect("done");
        world.until("a", None).await;
        let gone = world.ask("a", Do::Count).await.expect_err("it is gone");
        assert_eq!(gone.class, ErrorClass::NotFound);
        assert_eq!(world.supervisor.send(RestartChild("a".to_owned())).await, Ok(None));
    });
}

#[test]
fn a_child_that_cannot_be_built_is_tried_again_and_ends_crashed() {
    in_the_actors_world(|world| async move {
        let tries = Arc::new(AtomicU32::new(0));
        let counted = tries.clone();
        let spec = ChildSpec::new("a", "counter", Restart::Permanent, move |_: Birth| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { if std::hint::black_box(true) { panic!("while being built") } else { Ok(()) } }
        });
        let answer = world.supervisor.send(StartChild(spec)).await.expect("supervised");
        assert!(answer.is_err());
        world.until("a", Some(Life::Crashed)).await;
        assert_eq!(tries.load(Ordering::SeqCst), 1 + INTENSITY as u32);
    });
}
