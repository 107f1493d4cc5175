//! A message that makes its actor fall each time, from its first fall to its release.

use std::time::Duration;

use super::world::World;
use crate::actors::catalog;
use crate::actors::failpoint::Failpoint;
use crate::actors::journal::Filter;
use crate::actors::tree::{Kind, Life};
use crate::domain::error::ErrorClass;
use crate::domain::event::Origin;
use crate::ports::Store;

/// A client's create makes the catalog fall.
async fn poisonous_create(world: &World) {
    let cell = world.system.tree.cell(catalog::PATH).expect("there");
    world.until("the catalog runs", || cell.life() == Life::Running).await;
    let before = cell.incarnation();
    cell.set_failpoint(Failpoint::panic(Kind::Message));
    let fell = world.create("bad", 1).await.expect_err("it fell");
    assert_eq!(fell.class, ErrorClass::Restarting);
    world.until("the catalog is back", || cell.incarnation() > before && cell.life() == Life::Running).await;
}

#[test]
fn a_clients_poison_is_refused_kept_over_a_restart_and_released_by_an_operator() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        for _ in 0..3 {
            // The same request each time, with another id and other tokens.
            poisonous_create(&world).await;
        }
        let refused = world.create("bad", 1).await.expect_err("it is set aside");
        assert_eq!(refused.class, ErrorClass::Unprocessable);
        world.create("good", 1).await.expect("others are taken");
        let mut stored = world.store.poison().await.expect("read");
        while stored.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            stored = world.store.poison().await.expect("read");
        }
        assert_eq!((stored[0].path.as_str(), stored[0].kills), (catalog::PATH, 3));
        assert!(stored[0].text.contains("bad") && !stored[0].text.contains("nbgw_0"), "{}", stored[0].text);

        let world = world.started_again().await;
        assert_eq!(world.system.messages_set_aside().len(), 1);
        let refused = world.create("bad", 1).await.expect_err("it is still set aside");
        assert_eq!(refused.class, ErrorClass::Unprocessable);
        let cell = world.system.tree.cell(catalog::PATH).expect("there");
        let before = cell.incarnation();
        world.system.restart_actor(catalog::PATH, Origin::nebulad()).await.expect("restarted");
        world
            .until("the catalog is back", || cell.incarnation() > before && cell.life() == Life::Running)
            .await;
        world.create("bad", 1).await.expect("it is released");
        while !world.store.poison().await.expect("read").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let restarts = Filter { kind: "audit.actor.restart".to_owned(), ..Filter::default() };
        let again =
            world.system.restart_actor(catalog::PATH, Origin::nebulad()).await.expect_err("no reason");
        assert_eq!(again.class, ErrorClass::Conflict);
        let told = world.system.journal.page(0, 10, &restarts).await.expect("read");
        assert_eq!(told.events.len(), 1, "the one that was refused left no line: {told:?}");
    });
}
