//! The simulated runtime: one made-up model behind the OpenAI and the Ollama API.
//!
//! What it says is computed before anything is sent (`script`), put into one API's bytes (`openai`,
//! `ollama`: a `Dialect`), spoiled if a failure is wanted (`playback`), and only then paced
//! onto a socket (`body`, `http`). Only those, `server` and `stats` are not pure.
//!
//! A request may overrule the command line by these headers:
//!
//! | header | value |
//! |---|---|
//! | `x-sim-ttft` | time to the first token, as `--ttft` |
//! | `x-sim-token-interval` | time between tokens, as `--token-interval` |
//! | `x-sim-tokens` | length of the answer in tokens, as `--tokens` |
//! | `x-sim-fail` | failure mode, as `--fail`, but for `exit-at-start` and `never-ready` |
//!
//! `GET /sim/stats` counts requests (`requests` = `inflight` + `finished` + `cancelled` + `failed`) and
//! tokens; `GET /sim/last` shows the last request as it was received.

mod args;
mod body;
mod conversation;
mod dialect;
mod embedding;
mod error;
mod fail;
mod http;
mod ollama;
mod openai;
mod plan;
mod playback;
mod request;
mod sample;
mod script;
mod server;
mod stats;

pub use args::Args;
pub use fail::{Fail, InvalidFail};
pub use server::{run, start};

/// What every answer carries as its `system_fingerprint`.
pub const FINGERPRINT: &str = concat!("nebula-sim-", env!("CARGO_PKG_VERSION"));
