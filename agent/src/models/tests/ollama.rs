//! Ollama fetches its models itself: what it says is passed on, and what it says wrong is an error.

use std::time::Duration;

use nebula_sim::runtime::{Args, start};

use super::stand_in::Fault;
use super::{World, within};
use crate::models::ollama::patience;
use crate::models::{FileStatus, Kind, Pull};
use crate::progress::Reporter;

const MANIFEST: &str = "{\"status\":\"pulling manifest\"}\n";

async fn load(world: &World, reporter: &Reporter) -> Result<(), crate::models::ModelError> {
    let loading = world.models.load_into_ollama(world.stand_in.port(), "llama3.2:1b", "chat", reporter);
    within("loading", loading).await
}

#[tokio::test]
async fn layers_are_told_and_lines_may_come_in_pieces() {
    let world = World::new().await;
    world.stand_in.state().pull = vec![
        MANIFEST,
        "{\"status\":\"pulling aa\",\"digest\":\"sha256:aa\",\"total\":100,\"comp",
        "leted\":40}\n{\"status\":\"pulling aa\",\"digest\":\"sha256:aa\",\"total\":100,\"completed\":100}\n",
        "\n{\"status\":\"verifying sha256 digest\"}\n{\"status\":\"success\"}",
    ];
    let pull = Pull { port: world.stand_in.port(), tag: "llama3.2:1b".to_owned() };
    let flight = world.models.ollama(pull).expect("begins");
    within("the pull", flight.outcome()).await.expect("pulled");
    let board = flight.board().borrow().clone();
    assert_eq!((&*board.stage, board.bytes()), ("success", (100, 100)));
    assert_eq!((&*board.files[0].name, board.files[0].status), ("sha256:aa", FileStatus::Done));
}

#[tokio::test]
async fn what_goes_wrong_is_a_clear_error() {
    let long: &'static str = Box::leak("x".repeat(70_000).into_boxed_str());
    for (pull, kind, part) in [
        (
            vec![MANIFEST, "{\"error\":\"pull model manifest: file does not exist\"}\n"],
            Kind::NotFound,
            "no such model",
        ),
        (vec!["{\"error\":\"write /x: no space left on device\"}"], Kind::NoRoom, "no space left"),
        (vec!["{\"error\":\"max retries exceeded: EOF\"}"], Kind::Network, "max retries"),
        (vec![MANIFEST], Kind::Network, "broke off"),
        (vec!["<html>"], Kind::Network, "not understood"),
        (vec![long], Kind::Network, "too much at once"),
        (vec![MANIFEST, "stall"], Kind::Network, "no byte came"),
    ] {
        let world = World::new().await;
        world.stand_in.state().pull = pull;
        let error = load(&world, &Reporter::default()).await.expect_err(part);
        assert_eq!(error.kind, kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(part) && text.contains("llama3.2:1b") && text.len() < 400, "{text}");
    }
}

#[test]
fn ollama_may_be_silent_while_it_reads_what_it_has_fetched() {
    let stall = Duration::from_secs(120);
    for said in ["", "pulling manifest", "pulling 6a0746a1ec1a"] {
        assert_eq!(patience(stall, said), stall, "{said}");
    }
    for said in ["verifying sha256 digest", "writing manifest", "removing any unused layers"] {
        assert!(patience(stall, said) >= Duration::from_secs(3_600), "{said}");
    }
}

#[tokio::test]
async fn progress_reaches_the_reporter() {
    let world = World::new().await;
    world.stand_in.state().pull = vec![
        "{\"status\":\"pulling aa\",\"digest\":\"sha256:aa\",\"total\":200,\"completed\":50}\n",
        "stall",
    ];
    let reporter = Reporter::default();
    let mut heard = reporter.subscribe();
    let (error, ()) = tokio::join!(load(&world, &reporter), async {
        let quarter = heard.wait_for(|progress| progress.percent == Some(25.0));
        let message = within("a quarter", quarter).await.expect("told").message.clone();
        assert!(message.starts_with("fetching ollama://llama3.2:1b: 50 B of 200 B"), "{message}");
    });
    assert!(error.expect_err("it stalls").is_retryable());
}

#[tokio::test]
async fn the_model_answers_to_the_name_that_clients_use() {
    let world = World::new().await;
    world.stand_in.state().pull = vec!["{\"status\":\"success\"}"];
    load(&world, &Reporter::default()).await.expect("loaded");
    assert_eq!(world.stand_in.asked("/api/copy").len(), 1);
    let reporter = Reporter::default();
    let mine = world.models.load_into_ollama(world.stand_in.port(), "chat", "chat", &reporter);
    within("loading", mine).await.expect("loaded");
    assert_eq!(world.stand_in.asked("/api/copy").len(), 1, "it has that name");
    world.stand_in.fault("/api/copy", Fault::Status(500));
    let error = load(&world, &Reporter::default()).await.expect_err("refused");
    assert!(error.is_retryable() && error.to_string().contains("is to be called chat"), "{error}");
}

#[tokio::test]
async fn what_ollama_has_is_not_fetched_again() {
    let world = World::new().await;
    let args = Args { port: Some(0), model: "llama3.2:1b".to_owned(), workers: 1, ..Args::default() };
    let (server, address) = start(args).expect("a runtime");
    let handle = server.handle();
    tokio::spawn(server);
    let reporter = Reporter::default();
    let has = world.models.load_into_ollama(address.port(), "llama3.2:1b", "llama3.2:1b", &reporter);
    within("a look", has).await.expect("it is there");
    // The simulated Ollama pulls what it serves, and knows no other.
    let pull =
        |tag: &str| world.models.ollama(Pull { port: address.port(), tag: tag.to_owned() }).expect("begins");
    let flight = pull("llama3.2:1b");
    within("a pull", flight.outcome()).await.expect("pulled");
    assert!(flight.board().borrow().bytes().0 > 0);
    let unknown = pull("other");
    let error = within("a pull", unknown.outcome()).await.expect_err("unknown");
    assert_eq!(error.kind, Kind::NotFound, "{error}");
    handle.stop(false).await;
    let away = world.models.load_into_ollama(address.port(), "llama3.2:1b", "llama3.2:1b", &reporter);
    let error = within("a look", away).await.expect_err("nobody is there");
    assert!(error.is_retryable() && error.to_string().contains("Ollama on port"), "{error}");
}
