//! Thousands of deployments at once: they wait their turn, and none is refused.

use std::time::Duration;

use futures_util::future::join_all;

use super::world::{DEADLINE, DEPLOYMENTS, World};
use crate::actors::handle::WAITING_MAX;
use crate::domain::deployment::Phase;

/// Enough that more wait for the catalog than its mailbox takes.
const MANY: usize = WAITING_MAX + 600;
/// How many of them have a replica.
const RUNNING: usize = 600;

#[test]
fn thousands_of_deployments_at_once_are_all_made_and_run() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let create = |n: usize| {
            let replicas = u32::from(n < RUNNING);
            world.system.create(World::create_message(&format!("many-{n}"), replicas))
        };
        for answer in join_all((0..MANY).map(create)).await {
            answer.expect("made, though it waited");
        }
        let began = world.system.tree.clock().now();
        loop {
            let all = world.system.deployments(None, usize::MAX);
            let of = |phase| all.iter().filter(|dep| dep.state() == phase).count();
            let (running, none) = (of(Phase::Running), of(Phase::Stopped));
            if running == RUNNING + DEPLOYMENTS.len() && none == MANY - RUNNING {
                break;
            }
            let waited = world.system.tree.clock().now().since(began);
            assert!(waited < DEADLINE, "{running} run and {none} have no replica after {waited:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let names = world.system.tree.cell(crate::actors::catalog::PATH).expect("there").view();
        let shown = serde_json::to_value(names).expect("json");
        assert_eq!(shown["status"]["deployments"], MANY + DEPLOYMENTS.len());
        assert_eq!(shown["status"]["creating"], 0);
        let refused = world.system.create(World::create_message("many-0", 0)).await.expect_err("taken");
        assert!(refused.message.contains("\"many-0\" is taken by a deployment"), "{refused}");
    });
}
