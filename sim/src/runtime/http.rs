//! The HTTP side: routes, and the way of a request from its bytes to a paced answer.

mod control;
mod serve;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use actix_web::dev::ServerHandle;
use actix_web::{Resource, web};
use nebula_core::clock::{Clock, Tick, WallTime};

use super::args::Args;
use super::dialect::{Answer, Context};
use super::error::{Api, ApiError};
use super::fail::Fail;
use super::stats::Stats;
use super::{ollama, openai};

/// The largest request body, in bytes.
const BODY_MAX: usize = 64 << 20;

/// What all requests share.
pub(crate) struct State {
    pub(crate) args: Args,
    pub(crate) stats: Arc<Stats>,
    clock: Clock,
    started: WallTime,
    crashed: AtomicBool,
    server: OnceLock<ServerHandle>,
}

impl State {
    pub(crate) fn new(args: Args) -> Self {
        let clock = Clock::start();
        Self {
            args,
            stats: Arc::default(),
            started: clock.wall(),
            clock,
            crashed: AtomicBool::new(false),
            server: OnceLock::new(),
        }
    }

    /// Whether the model is "loaded".
    fn ready(&self) -> bool {
        self.args.fail != Fail::NeverReady && self.clock.now() >= Tick(0).plus(self.args.start_delay)
    }

    /// Lets the runtime know what it is to stop when it crashes.
    pub(crate) fn runs_on(&self, server: ServerHandle) {
        // Set once, right after the start.
        let _ = self.server.set(server);
    }

    /// Ends the server and all connections, without a word to anyone.
    fn crash(&self) {
        self.crashed.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.get() {
            // The command is sent at once; nobody is left to wait for its end.
            drop(server.stop(false));
        }
    }

    pub(crate) fn crashed(&self) -> bool {
        self.crashed.load(Ordering::Relaxed)
    }
}

/// Works an answer out from a request's body.
type Work = fn(&[u8], &Context<'_>) -> Result<Answer, ApiError>;

/// All routes of the runtime.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        // Looked for first, as it is asked most.
        .service(answers("/v1/chat/completions", Api::OpenAi, openai::chat))
        .route("/", web::get().to(control::root))
        .route("/health", web::get().to(control::health))
        .route("/sim/stats", web::get().to(control::stats))
        .route("/sim/last", web::get().to(control::last))
        .route("/v1/models", web::get().to(control::models))
        .route("/v1/models/{id:.+}", web::get().to(control::model))
        .service(answers("/v1/completions", Api::OpenAi, openai::completions))
        .service(answers("/v1/embeddings", Api::OpenAi, openai::embeddings))
        .route("/api/version", web::get().to(control::version))
        .route("/api/tags", web::get().to(control::tags))
        .route("/api/ps", web::get().to(control::ps))
        .route("/api/show", web::post().to(control::show))
        .route("/api/pull", web::post().to(control::pull))
        .service(answers("/api/chat", Api::Ollama, ollama::chat))
        .service(answers("/api/generate", Api::Ollama, ollama::generate))
        .service(answers("/api/embed", Api::Ollama, ollama::embed))
        .default_service(web::to(control::unknown));
}

/// A resource that only takes POST: other methods are a 405.
fn answers(path: &str, api: Api, work: Work) -> Resource {
    let route =
        web::post().to(move |request, payload, state| serve::serve(request, payload, state, api, work));
    web::resource(path).route(route)
}
