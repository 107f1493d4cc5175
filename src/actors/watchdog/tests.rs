use std::sync::{Arc, Mutex};

use nebula_core::clock::Clock;

use super::*;
use crate::actors::tree::{Cell, Life};

struct World {
    tree: Tree,
    cell: Arc<Cell>,
    machine: Machine,
    ended: Arc<Mutex<Vec<Fatal>>>,
    end: End,
}

impl World {
    fn new() -> Self {
        let tree = Tree::new(Clock::start());
        let cell = tree.plant("/a", "test");
        cell.set_life(Life::Running);
        let ended: Arc<Mutex<Vec<Fatal>>> = Arc::default();
        let told = ended.clone();
        let end: End = Box::new(move |fatal| told.lock().expect("a lock").push(fatal.clone()));
        Self { tree, cell, machine: Machine::default(), ended, end }
    }

    async fn look_for(&mut self, seconds: u64) {
        for _ in 0..seconds {
            tokio::time::advance(LOOK_EVERY).await;
            look(&mut self.machine, &self.tree, &self.end);
        }
    }

    fn view(&self) -> serde_json::Value {
        serde_json::to_value(self.cell.view()).expect("json")
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_stays_in_a_handler_is_shown_then_ends_the_process() {
    let mut world = World::new();
    let turn = world.cell.timer_turn("timer: a test");
    world.look_for(4).await;
    assert_eq!((&world.view()["stuck_seconds"], &world.view()["stuck_total"]), (&0.into(), &0.into()));
    world.look_for(2).await;
    let view = world.view();
    assert_eq!((&view["stuck_seconds"], &view["stuck_total"]), (&6.into(), &1.into()));
    assert_eq!(view["stuck_in"], "timer: a test");
    assert!(world.ended.lock().expect("a lock").is_empty());
    world.look_for(24).await;
    let ended = world.ended.lock().expect("a lock").pop().expect("it is over");
    assert_eq!(ended.message, "actor /a is stuck in timer: a test for 30 s");
    assert_eq!(ended.exit, Exit::Failed);
    drop(turn);
    world.look_for(1).await;
    assert_eq!(world.view()["stuck_seconds"], 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_stuck_because_the_process_stood_still() {
    let mut world = World::new();
    let _turn = world.cell.timer_turn("timer: a test");
    world.look_for(2).await;
    tokio::time::advance(Duration::from_secs(3_600)).await;
    world.look_for(5).await;
    assert!(world.ended.lock().expect("a lock").is_empty());
    assert_eq!(world.view()["stuck_total"], 0);
    world.look_for(1).await;
    assert_eq!(world.view()["stuck_total"], 1, "its clock began again, and goes on");
}
