//! Aliases on the real store: durable before they are acknowledged, in the gateway's table, and one name with the
//! deployments.

use nebula_core::clock::WallTime;
use std::sync::atomic::Ordering::Relaxed;

use super::world::World;
use crate::actors::deployment::machine::Intent;
use crate::actors::failpoint::Failpoint;
use crate::actors::journal::Filter;
use crate::actors::tree::{Kind, Life};
use crate::actors::{catalog, router};
use crate::domain::alias::{Alias, AliasPatch, Target};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::Origin;
use crate::ports::Store;

fn alias(name: &str, targets: &[(&str, u32)]) -> Alias {
    let target = |(name, weight): &(&str, u32)| Target { deployment: (*name).to_owned(), weight: *weight };
    let targets = targets.iter().map(target).collect();
    Alias { name: name.to_owned(), targets, fallback: None, created_at: WallTime(1), updated_at: WallTime(1) }
}

async fn made(world: &World, alias: Alias) -> Result<(), Error> {
    world.system.create_alias(alias, Origin::nebulad()).await.map(drop)
}

/// The weights of an alias in the gateway's table, by the names of the deployments.
fn weights(world: &World, name: &str) -> Option<Vec<(String, u32)>> {
    let table = world.system.routes.load_full();
    let route = table.alias(name)?;
    let named = |(id, weight): &(_, u32)| Some((table.by_id(*id)?.name.clone(), *weight));
    route.targets.iter().map(named).collect()
}

fn of(weights: &[(&str, u32)]) -> Option<Vec<(String, u32)>> {
    Some(weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect())
}

#[test]
fn an_alias_reaches_the_gateway_survives_a_restart_and_follows_its_deployments_by_name() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        made(&world, alias("chat", &[("victim", 90), ("neighbour", 10)])).await.expect("made");
        let both = of(&[("victim", 90), ("neighbour", 10)]);
        world.until("the gateway knows it", || weights(&world, "chat") == both).await;

        let world = world.started_again().await;
        assert_eq!(weights(&world, "chat"), both, "the first table has it");
        let patch = AliasPatch {
            targets: Some(vec![Target { deployment: "neighbour".to_owned(), weight: 1 }]),
            fallback: Some(Some("victim".to_owned())),
        };
        world.system.patch_alias("chat", patch, Origin::nebulad()).await.expect("changed");
        world.until("it goes to one", || weights(&world, "chat") == of(&[("neighbour", 1)])).await;
        world.system.want("neighbour", Intent::Delete, Origin::nebulad()).await.expect("deleted");
        world.until("its target is gone", || weights(&world, "chat") == of(&[])).await;
        world.until("the name is free", || world.system.deployment_named("neighbour") == Ok(None)).await;
        world.create("neighbour", 1).await.expect("made again");
        world.until("its target is back", || weights(&world, "chat") == of(&[("neighbour", 1)])).await;
        world.system.delete_alias("chat", Origin::nebulad()).await.expect("deleted");
        world.until("it is gone", || weights(&world, "chat").is_none()).await;
        assert_eq!(world.store.aliases().await, Ok(Vec::new()));
        assert!(world.system.deployment("victim").await.is_ok(), "its deployments stay");
    });
}

#[test]
fn a_name_belongs_to_one_deployment_or_one_alias() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let taken =
            made(&world, alias("victim", &[("neighbour", 1)])).await.expect_err("a deployment has it");
        assert_eq!(taken.class, ErrorClass::Conflict);
        made(&world, alias("chat", &[("victim", 1)])).await.expect("made");
        for refused in
            [made(&world, alias("chat", &[("victim", 1)])).await, world.create("chat", 1).await.map(drop)]
        {
            let error = refused.expect_err("the alias has it");
            assert_eq!(error.class, ErrorClass::Conflict);
            assert!(error.message.contains("\"chat\" is taken by an alias"), "{error}");
        }
        let nested = made(&world, alias("more", &[("chat", 1)])).await.expect_err("no alias of an alias");
        assert_eq!(nested.class, ErrorClass::Unprocessable);
        let id = world.system.find_deployment("victim").expect("there").to_string();
        made(&world, alias("by-id", &[(&id, 1)])).await.expect("an id means its deployment");
        assert_eq!(world.system.alias("by-id").expect("there").targets[0].deployment, "victim");
        world.system.delete_alias("chat", Origin::nebulad()).await.expect("deleted");
        world.create("chat", 0).await.expect("the name is free");
        let filter = Filter { kind: "audit.alias.".to_owned(), ..Filter::default() };
        let page = world.system.journal.page(0, 10, &filter).await.expect("read");
        let told: Vec<(&str, &str)> =
            page.events.iter().map(|event| (event.line.kind.as_str(), event.line.message.as_str())).collect();
        assert_eq!(
            told,
            [
                ("audit.alias.create", "alias \"chat\": victim 100 %"),
                ("audit.alias.create", "alias \"by-id\": victim 100 %"),
                ("audit.alias.delete", "alias \"chat\""),
            ]
        );
    });
}

#[test]
fn aliases_outlive_the_router_and_the_catalog_and_what_is_stored_counts() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        made(&world, alias("chat", &[("victim", 1)])).await.expect("made");
        for path in [router::PATH, catalog::PATH] {
            world.until("all is well", || world.system.not_ready().is_empty()).await;
            let cell = world.system.tree.cell(path).expect("there");
            let before = cell.incarnation();
            cell.set_failpoint(Failpoint::panic(Kind::Message));
            // Whichever of the two falls, this is a message to it, and then one that it may not have heard.
            let _ = made(&world, alias(&format!("x{path}").replace('/', "-"), &[("victim", 1)])).await;
            let back = || cell.incarnation() > before && cell.life() == Life::Running;
            world.until("it fell and is back", back).await;
            world.until("the alias is served", || weights(&world, "chat") == of(&[("victim", 1)])).await;
        }
        world.until("all is well", || world.system.not_ready().is_empty()).await;
        let cell = world.system.tree.cell(catalog::PATH).expect("there");
        let up = || cell.life() == Life::Running;
        let before = cell.incarnation();
        world.keys_in_doubt.store(true, Relaxed);
        let doubtful = made(&world, alias("doubt", &[("victim", 1)])).await.expect_err("unknown");
        assert_eq!(doubtful.class, ErrorClass::Restarting);
        world.until("the catalog is built again", || cell.incarnation() > before && up()).await;
        world.keys_in_doubt.store(false, Relaxed);
        assert!(world.system.alias("doubt").is_ok(), "it was stored");
        world.until("and it is served", || weights(&world, "doubt") == of(&[("victim", 1)])).await;
    });
}
