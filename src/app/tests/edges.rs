//! The edges' actors and the registry's book of names, when somebody falls.

use crate::actors::edge::Plan;
use crate::actors::edge::kind::Kind as EdgeKind;
use crate::actors::edge::machine::State;
use crate::actors::failpoint::Failpoint;
use crate::actors::registry::{self, Register, Tell};
use crate::actors::tree::{Kind, Life};
use crate::domain::error::ErrorClass;
use crate::domain::event::Origin;

use super::falls::{add_away, away};
use super::world::{NODES, World};

#[test]
fn a_registry_that_falls_leaves_no_moment_in_which_nothing_is_wanted() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let cell = world.system.tree.cell(registry::PATH).expect("there");
        let sites = || world.system.sites.len();
        assert_eq!(sites(), NODES.len());
        for kind in [Kind::Message, Kind::Timer] {
            let before = cell.incarnation();
            cell.set_failpoint(Failpoint::panic(kind));
            world.system.registry.tell(registry::PATH, Tell::Scheduler);
            world
                .until("the registry is back", || {
                    assert_eq!(sites(), NODES.len(), "all are wanted at every moment");
                    cell.incarnation() > before && cell.life() == Life::Running
                })
                .await;
        }
        assert_eq!(sites(), NODES.len());
        add_away(&world).await;
        assert_eq!(sites(), NODES.len(), "a node that has taken its leave is not wanted");
        let newcomer = away("newcomer");
        world
            .system
            .registry
            .ask(registry::PATH, Register(newcomer))
            .await
            .expect("heard")
            .expect("registered");
        assert_eq!(sites(), NODES.len() + 1, "the new registry writes it");
    });
}

#[test]
fn an_edges_actor_that_falls_is_built_again_and_restarted_like_any_other() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let before = world.incarnations();
        let path = EdgeKind::Caddy.path();
        let cell = world.system.tree.cell(path).expect("there");
        let back = async |incarnation| {
            let is = || cell.incarnation() == incarnation && cell.life() == Life::Running;
            world.until("it is back", is).await;
        };
        let running = world.system.restart_actor(path, Origin::nebulad()).await.expect_err("no reason");
        assert_eq!(running.class, ErrorClass::Conflict);
        for incarnation in 2..=4 {
            cell.set_failpoint(Failpoint::panic(Kind::Message));
            let fell = world.system.edge_plan("caddy").await.expect_err("it fell");
            assert_eq!(fell.class, ErrorClass::Restarting);
            back(incarnation).await;
            assert_eq!(world.system.edge_status().len(), 2, "its status is there");
        }
        let aside = world.system.edge_plan("caddy").await.expect_err("it is set aside");
        assert_eq!(aside.class, ErrorClass::Unprocessable);
        world.system.restart_actor(path, Origin::nebulad()).await.expect("restarted");
        back(5).await;
        let off = world.system.edge_plan("caddy").await.expect_err("it is not used");
        assert_eq!(off.class, ErrorClass::Conflict);
        assert!(world.system.edges.ask(path, Plan).await.expect("heard").is_err());
        assert!(world.system.edge_status().iter().all(|status| status.state() == State::Off));
        let mut expected = before;
        expected.insert(path.to_owned(), 5);
        assert_eq!(world.incarnations(), expected, "nobody else fell");
    });
}
