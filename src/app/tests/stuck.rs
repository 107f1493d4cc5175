//! An actor that stands still, and with it the thread of all actors.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use clap::Parser;
use nebula_core::token::Secret;
use serde_json::Value;

use crate::actors::failpoint::Failpoint;
use crate::actors::registry::{self, Tell};
use crate::actors::system::System;
use crate::actors::tree::Kind;
use crate::app::App;
use crate::config::{Cli, Config};

/// How soon operators get their answer.
const ANSWER_MAX: Duration = Duration::from_millis(50);
/// How often they ask.
const ASKED: usize = 21;
/// How long the watchdog may take to name the actor.
const NAMED_WITHIN: Duration = Duration::from_secs(20);

struct Running {
    system: System,
    url: String,
    token: Secret,
    stop: tokio::sync::oneshot::Sender<()>,
}

/// A whole nebulad on a thread of its own.
fn start(data: &std::path::Path, running: &Sender<Running>) {
    let dir = data.display().to_string();
    let arguments = ["nebulad", "--data-dir", &dir, "--http-port", "0", "--grpc-port", "0"];
    let cli = Cli::try_parse_from(arguments).expect("arguments");
    let config = Config::try_from(cli.flags).expect("a configuration");
    actix_rt::System::new().block_on(async {
        let app = App::start(config).await.expect("started");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let url = format!("http://{}", app.http_addr);
        let token = app.admin_token.clone();
        running.send(Running { system: app.system.clone(), url, token, stop }).expect("told");
        let _ = stopped.await;
        app.stop().await;
    });
}

async fn get(client: &reqwest::Client, running: &Running, path: &str) -> Value {
    let request = client.get(format!("{}{path}", running.url)).bearer_auth(running.token.expose());
    request.send().await.expect("an answer").json().await.expect("JSON")
}

#[test]
fn operators_see_everything_at_once_while_the_actors_thread_stands_still() {
    let data = tempfile::tempdir().expect("a directory");
    let (sender, receiver) = channel();
    let dir = data.path().to_owned();
    let nebulad = std::thread::spawn(move || start(&dir, &sender));
    let running = receiver.recv().expect("nebulad runs");
    let (release, blocked) = channel();
    let registry = running.system.tree.cell(registry::PATH).expect("there");
    registry.set_failpoint(Failpoint::block(Kind::Message, blocked));
    running.system.registry.tell(registry::PATH, Tell::Scheduler);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = reqwest::Client::new();
        let clock = nebula_core::clock::Clock::start();
        let began = clock.now();
        while registry.failpoint_is_set() {
            assert!(clock.now().since(began) < NAMED_WITHIN, "it never stands still");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut times = Vec::new();
        for _ in 0..ASKED {
            let asked = clock.now();
            let tree = get(&client, &running, "/admin/actors").await;
            times.push(clock.now().since(asked));
            assert_eq!(tree["path"], "/");
        }
        times.sort();
        // Other work on this machine may delay a few of them.
        assert!(times[ASKED / 2] <= ANSWER_MAX, "{times:?}");
        loop {
            let seen = get(&client, &running, "/admin/actors/registry").await;
            if seen["stuck_total"] == 1 {
                assert_eq!(seen["stuck_in"], "registry::Tell", "{seen}");
                assert!(seen["stuck_seconds"].as_u64().is_some_and(|seconds| seconds >= 5), "{seen}");
                break;
            }
            assert!(clock.now().since(began) < NAMED_WITHIN, "the watchdog does not name it: {seen}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let ready = get(&client, &running, "/ready").await;
        assert!(
            ready["reasons"].to_string().contains("actor /registry is stuck in registry::Tell"),
            "{ready}"
        );
        drop(release);
        let began = clock.now();
        while get(&client, &running, "/admin/actors/registry").await["stuck_seconds"] != 0 {
            assert!(clock.now().since(began) < NAMED_WITHIN, "it does not move");
        }
    });
    running.stop.send(()).expect("it runs");
    nebulad.join().expect("it ended in order");
}
