//! Pulling images: from a registry that is slow, refuses, lies or stops.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::credentials::Login;
use super::super::engine::Host;
use super::super::image::Reference;
use super::super::{Docker, Patience};
use super::registry::{Registry, login};
use super::support::{PATIENCE, World, driver, until};
use super::wire::{State, Wire};
use crate::progress::{Progress, Reporter};

const SOON: Patience = Patience { retry_after: Duration::from_millis(100), stall: Duration::from_secs(2) };

/// Pulls, and gives back what was told meanwhile too.
async fn pull(docker: &Docker, image: &str) -> (Result<(), String>, Vec<Progress>) {
    let reporter = Reporter::default();
    let mut told = reporter.subscribe();
    let words = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&words);
    let listening = async move {
        while told.changed().await.is_ok() {
            kept.lock().expect("a lock").push(told.borrow_and_update().clone());
        }
        std::future::pending::<()>().await;
    };
    let pulling = tokio::time::timeout(2 * PATIENCE, docker.ensure_image(image, &reporter));
    let result =
        tokio::select! { result = pulling => result.expect("it ends"), () = listening => unreachable!() };
    assert_eq!(reporter.newest(), Progress::default(), "nothing is under way any more");
    let words = words.lock().expect("a lock").clone();
    (result.map_err(|error| error.to_string()), words)
}

#[tokio::test]
async fn a_missing_image_is_pulled_once_and_its_progress_is_told() {
    let Some(world) = World::new().await else { return };
    let Some(registry) = Registry::new(&world, false).await else { return };
    registry.push(&world, "model", 8_000_000).await;
    let wire = Wire::to(Host::Tcp(registry.address.clone())).await;
    wire.set(State::Slow(1_000_000));
    let image = format!("{}/model:1", wire.address);
    let ((one, told), (two, also)) = tokio::join!(pull(&world.docker, &image), pull(&world.docker, &image));
    assert_eq!((one, two), (Ok(()), Ok(())));
    let passed = wire.passed();
    assert!((8_000_000..16_000_000).contains(&passed), "{passed} bytes for two who want the same");
    for told in [told, also] {
        let words: Vec<&str> = told.iter().map(|progress| progress.message.as_str()).collect();
        let begins = format!("pulling image {image}: 0 of 1 layers, ");
        let is_told = |end: &str| words.iter().any(|word| word.starts_with(&begins) && word.ends_with(end));
        assert!(is_told(" MB") && is_told(" MB, less than a minute left"), "{words:#?}");
        let shares: Vec<f32> = told.iter().filter_map(|progress| progress.percent).collect();
        assert!(shares.is_sorted() && shares.len() > 10, "{shares:?}");
    }
    // It is there now: nobody asks the registry.
    assert_eq!(pull(&world.docker, &image).await.0, Ok(()));
    assert_eq!(wire.passed(), passed);
    registry.forget(&world, &image).await;
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_not_asked_for_again() {
    let Some(world) = World::new().await else { return };
    let Some(registry) = Registry::new(&world, false).await else { return };
    // With the waits of real life: one that tries again does not end here in time.
    let image = format!("{}/nothing:1", registry.address);
    let (result, _) = pull(&world.docker, &image).await;
    let error = result.expect_err("it does not exist");
    assert!(error.starts_with(&format!("image_pull: there is no image {image} (")), "{error}");
    assert!(error.ends_with("): check its name") && !error.contains("tried"), "{error}");
    for name in ["no such name", "UPPER/case"] {
        let error = pull(&world.docker, name).await.0.expect_err("it is no name");
        assert!(error.starts_with(&format!("image_pull: \"{name}\" is no name of an image")), "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_wants_a_login_says_so() {
    let Some(world) = World::new().await else { return };
    let Some(registry) = Registry::new(&world, true).await else { return };
    registry.push(&world, "secret", 1000).await;
    let image = format!("{}/secret:1", registry.address);
    let error = pull(&world.docker, &image).await.0.expect_err("it wants a login");
    assert!(error.starts_with(&format!("image_pull: the registry refused {image} (")), "{error}");
    let hint = format!("log in with docker login {} as the agent's user", registry.address);
    assert!(error.ends_with(&hint), "{error}");
    let reference = Reference::parse(&image).expect("a name");
    let pulled = world.docker.pull(&reference, &Login::Known(login()), &Reporter::default()).await;
    assert_eq!(pulled, Ok(()));
    registry.forget(&world, &image).await;
}

#[tokio::test]
async fn an_image_that_is_not_what_was_named_is_refused() {
    let Some(world) = World::new().await else { return };
    let Some(registry) = Registry::new(&world, false).await else { return };
    registry.push(&world, "damaged", 300_000).await;
    registry.damage();
    let image = format!("{}/damaged:1", registry.address);
    let error = pull(&world.docker, &image).await.0.expect_err("it is damaged");
    assert!(error.starts_with(&format!("image_pull: what the registry sent as {image} is not")), "{error}");
}

#[tokio::test]
async fn a_pull_that_stalls_is_tried_again_and_given_up() {
    let Some(world) = World::new().await else { return };
    let Some(registry) = Registry::new(&world, false).await else { return };
    registry.push(&world, "slow", 3_000_000).await;
    let wire = Wire::to(Host::Tcp(registry.address.clone())).await;
    wire.set(State::Silent);
    let image = format!("{}/slow:1", wire.address);
    let docker = driver(&world.agent_id, None, SOON);
    let (result, told) = pull(&docker, &image).await;
    let error = result.expect_err("nothing comes");
    assert!(error.starts_with("image_pull: image ") && error.ends_with("; tried 3 times"), "{error}");
    let again = |text: &str| told.iter().any(|progress| progress.message.contains(text));
    assert!(again("trying again in"), "{told:?}");
    // In the middle of a layer.
    wire.set(State::Slow(200_000));
    let (docker, before) = (docker.clone(), wire.passed());
    let pulling = tokio::spawn({
        let image = image.clone();
        async move { pull(&docker, &image).await }
    });
    until("some bytes", async || (wire.passed() > before + 300_000).then_some(())).await;
    wire.set(State::Silent);
    let error = pulling.await.expect("no panic").0.expect_err("nothing comes");
    assert!(error.contains("stalled: nothing came for 2 s; tried 3 times"), "{error}");
    // And it is only a matter of trying.
    wire.set(State::Open);
    assert_eq!(pull(&world.docker, &image).await.0, Ok(()));
    registry.forget(&world, &image).await;
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_ends() {
    let Some(world) = World::new().await else { return };
    let Some(registry) = Registry::new(&world, false).await else { return };
    registry.push(&world, "unwanted", 8_000_000).await;
    let wire = Wire::to(Host::Tcp(registry.address.clone())).await;
    wire.set(State::Slow(400_000));
    let image = format!("{}/unwanted:1", wire.address);
    let docker = world.docker.clone();
    let pulling = tokio::spawn(async move { pull(&docker, &image).await });
    until("some bytes", async || (wire.passed() > 400_000).then_some(())).await;
    pulling.abort();
    until("it ends", async || {
        world
            .docker
            .0
            .flights
            .lock()
            .expect("a lock")
            .values()
            .all(|flight| !flight.is_wanted())
            .then_some(())
    })
    .await;
    let mut last = wire.passed();
    until("nothing comes any more", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = wire.passed();
        std::mem::replace(&mut last, now).eq(&now).then_some(())
    })
    .await;
}
