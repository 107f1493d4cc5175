//! nebula-agent: runs on each node, registers it with nebulad, runs the runtimes that it is told to, and guards them
//! with its auth proxy.
//!
//! * `app` joins the parts and is the only file that knows all of them.
//! * `registrar` speaks to nebulad; `grpc` is spoken to by it.
//! * `replica` decides what becomes of each replica (a pure machine) and does it (a task); `runtimes` says how a
//!   runtime is run; `driver` runs processes, keeps their logs and finds them again.
//! * `proxy` lets clients through to runtimes; `store` keeps what must survive; `ports` gives out loopback ports.
//!
//! `replica::machine` is public, and hidden, for the simulation of the whole in nebulad's tests and for nothing else.
//!
//! A runtime outlives an agent that dies: the next one takes it up and never starts it twice.

mod agent;
mod agent_id;
mod app;
mod cli;
mod config;
mod driver;
mod gpu;
mod grpc;
mod health;
mod host;
mod metrics;
mod models;
mod offers;
mod ports;
mod progress;
mod proxy;
mod registrar;
#[doc(hidden)]
pub mod replica;
mod request;
mod runtimes;
mod store;
mod text;

pub use app::{Killer, Running, start};
pub use cli::{Cli, ignore_empty_environment};
pub use config::Config;
