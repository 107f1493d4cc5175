//! Keys and usage on the real store: what was acknowledged is there after a restart, and what was used is counted on.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::ids::KeyId;
use nebula_core::token::Secret;

use super::world::{DEADLINE, World};
use crate::actors::failpoint::Failpoint;
use crate::actors::journal::Filter;
use crate::actors::tree::{Kind, Life};
use crate::actors::{keys, usage};
use crate::domain::error::ErrorClass;
use crate::domain::event::Origin;
use crate::domain::key::{ApiKey, Budget, KeyLimits, Limited, NewKey, Period};
use crate::domain::usage::{Span, Sums, UsageQuery};
use crate::ports::Store;

fn wanted(name: &str) -> NewKey {
    NewKey { name: name.to_owned(), models: None, expires_at: None, limits: KeyLimits::default() }
}

async fn made(world: &World, wanted: NewKey) -> (ApiKey, Secret) {
    world.system.create_key(wanted, Origin::nebulad()).await.expect("made")
}

fn known(world: &World, secret: &Secret) -> Option<KeyId> {
    let now = world.system.tree.clock().wall();
    world.system.keys().find(&secret.hash(), now).map(|live| live.key.id)
}

/// What a request under the key costs, as the gateway tells it.
fn used(world: &World, secret: &Secret, tokens: u64) -> Result<(), Limited> {
    let clock = world.system.tree.clock();
    let table = world.system.keys();
    let live = table.find(&secret.hash(), clock.wall()).expect("the key is known");
    let permit = live.admit(clock.now(), clock.wall())?;
    permit.spend(tokens, clock.now(), clock.wall());
    let sums = Sums { requests: 1, prompt_tokens: tokens, ..Sums::default() };
    world.system.usage.add(Some(live.key.id), "victim", clock.wall(), sums);
    Ok(())
}

async fn all_usage(world: &World) -> Vec<(Option<KeyId>, String, u64)> {
    let query = UsageQuery { from: WallTime(0), to: WallTime(u64::MAX), by_key: true, by_model: true };
    let rows = world.system.usage(query).await.expect("read");
    assert!(rows.iter().all(|row| row.from == Span::Hour.start(row.from) && row.span == Span::Hour));
    let mut sums = std::collections::BTreeMap::<_, u64>::new();
    // The hour may have changed in between.
    rows.into_iter().for_each(|row| *sums.entry((row.key, row.model)).or_default() += row.sums.prompt_tokens);
    sums.into_iter().map(|((key, model), tokens)| (key, model, tokens)).collect()
}

#[test]
fn keys_and_what_they_used_survive_a_restart() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let budget = Some(Budget { tokens: 100, period: Period::Total });
        let limits = KeyLimits { budget, max_concurrent: Some(4), ..KeyLimits::default() };
        let (one, first) = made(&world, NewKey { limits, ..wanted("one") }).await;
        let (two, gone) = made(&world, wanted("two")).await;
        let (one, second) = world
            .system
            .rotate_key(one.id, Duration::from_secs(3_600), Origin::nebulad())
            .await
            .expect("rotated");
        world.system.revoke_key(two.id, Origin::nebulad()).await.expect("revoked");
        assert_eq!(
            [&first, &second, &gone].map(|secret| known(&world, secret)),
            [Some(one.id), Some(one.id), None]
        );
        used(&world, &first, 40).expect("within the budget");
        used(&world, &second, 30).expect("within the budget");
        world.system.flush_usage().await;

        let world = world.started_again().await;
        assert_eq!(
            [&first, &second, &gone].map(|secret| known(&world, secret)),
            [Some(one.id), Some(one.id), None]
        );
        let table = world.system.keys();
        let live = table.get(one.id).expect("it is listed");
        assert_eq!((&live.key, live.spent(world.system.tree.clock().wall())), (&one, Some(70)));
        assert_eq!(all_usage(&world).await, [(Some(one.id), "victim".to_owned(), 70)]);
        used(&world, &first, 30).expect("the last of the budget");
        assert_eq!(used(&world, &second, 1), Err(Limited::Budget));
        assert_eq!(all_usage(&world).await, [(Some(one.id), "victim".to_owned(), 100)]);

        let (_, third) =
            world.system.rotate_key(one.id, Duration::ZERO, Origin::nebulad()).await.expect("rotated");
        let both = [&first, &second, &third].map(|secret| known(&world, secret));
        assert_eq!(both, [None, None, Some(one.id)], "without an overlap the old ones end at once");
        assert_eq!(used(&world, &third, 1), Err(Limited::Budget), "a rotation is no new budget");
    });
}

#[test]
fn the_audit_tells_who_made_and_ended_a_key_and_no_secret() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let (key, secret) = made(&world, wanted("ci")).await;
        world.system.rotate_key(key.id, Duration::ZERO, Origin::nebulad()).await.expect("rotated");
        world.system.revoke_key(key.id, Origin::nebulad()).await.expect("revoked");
        let filter = Filter { kind: "audit.key.".to_owned(), ..Filter::default() };
        let page = world.system.journal.page(0, 10, &filter).await.expect("read");
        let kinds: Vec<&str> = page.events.iter().map(|event| event.line.kind.as_str()).collect();
        assert_eq!(kinds, ["audit.key.create", "audit.key.rotate", "audit.key.revoke"]);
        for event in page.events {
            assert!(event.line.message.contains(&format!("key \"ci\" ({})", key.id)), "{event:?}");
            assert!(!event.line.message.contains(secret.expose()), "{event:?}");
        }
    });
}

#[test]
fn mistakes_are_told_by_their_class() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let (key, secret) = made(&world, wanted("one")).await;
        let create = |name| world.system.create_key(wanted(name), Origin::nebulad());
        assert_eq!(create("one").await.expect_err("taken").class, ErrorClass::Conflict);
        assert_eq!(create("").await.expect_err("no name").class, ErrorClass::Unprocessable);
        let nobody = KeyId::random();
        let revoked = world.system.revoke_key(nobody, Origin::nebulad()).await;
        assert_eq!(revoked.expect_err("unknown").class, ErrorClass::NotFound);
        let rotate = |id, days: u64| {
            world.system.rotate_key(id, Duration::from_secs(days * 24 * 3_600), Origin::nebulad())
        };
        assert_eq!(rotate(nobody, 1).await.expect_err("unknown").class, ErrorClass::NotFound);
        assert_eq!(rotate(key.id, 366).await.expect_err("too long").class, ErrorClass::Unprocessable);
        assert_eq!(known(&world, &secret), Some(key.id), "nothing was changed");
    });
}

#[test]
fn what_was_used_is_written_down_by_itself_also_when_the_actor_falls() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let (key, secret) = made(&world, wanted("one")).await;
        let cell = world.system.tree.cell(usage::PATH).expect("there");
        used(&world, &secret, 10).expect("no limits");
        for kind in [Kind::Timer, Kind::Future] {
            used(&world, &secret, 10).expect("no limits");
            let before = cell.incarnation();
            cell.set_failpoint(Failpoint::panic(kind));
            let back = || cell.incarnation() > before && cell.life() == Life::Running;
            world.until("it has fallen and is back", back).await;
        }
        let began = world.system.tree.clock().now();
        let mut written = 0;
        while written < 30 {
            let rows = world.store.usage(None).await.expect("read");
            written = rows.iter().map(|row| row.sums.prompt_tokens).sum();
            assert!(rows.iter().all(|row| row.key == Some(key.id)), "{rows:?}");
            assert!(world.system.tree.clock().now().since(began) < DEADLINE, "only {written} are written");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(written, 30, "nothing is counted twice");
    });
}

#[test]
fn what_is_stored_counts_when_nobody_knows_whether_a_key_was_changed() {
    actix_rt::System::new().block_on(async {
        let world = World::new().await;
        let budget = Some(Budget { tokens: 100, period: Period::Total });
        let (one, first) =
            made(&world, NewKey { limits: KeyLimits { budget, ..KeyLimits::default() }, ..wanted("one") })
                .await;
        let (two, gone) = made(&world, wanted("two")).await;
        used(&world, &first, 40).expect("within the budget");
        let cell = world.system.tree.cell(keys::PATH).expect("there");
        let (before, back) = (cell.incarnation(), || cell.life() == Life::Running);
        world.keys_in_doubt.store(true, Relaxed);
        let rotated = world.system.rotate_key(one.id, Duration::from_secs(60), Origin::nebulad()).await;
        assert_eq!(rotated.expect_err("unknown").class, ErrorClass::Restarting);
        world.until("the keys are loaded again", || cell.incarnation() > before && back()).await;
        let before = cell.incarnation();
        world.system.revoke_key(two.id, Origin::nebulad()).await.expect_err("unknown");
        world.until("the keys are loaded again", || cell.incarnation() > before && back()).await;
        world.keys_in_doubt.store(false, Relaxed);

        assert_eq!([&first, &gone].map(|secret| known(&world, secret)), [Some(one.id), None]);
        let table = world.system.keys();
        let live = table.get(one.id).expect("it is listed");
        assert_eq!(
            live.key.secrets.len(),
            2,
            "the new secret, which nobody knows, and the old one for a while"
        );
        assert_eq!(live.spent(world.system.tree.clock().wall()), Some(40), "what was used stays used");
        made(&world, wanted("two")).await;
    });
}
