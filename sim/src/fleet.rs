//! A simulated fleet: many agents in one process against a real control plane, over real gRPC, without a GPU, a model
//! or a process to start.
//!
//! Each agent registers, reports and retries by the times that the real agent keeps ([`nebula_core::timing`]), takes
//! commands from its heartbeats' answers and on a gRPC port of its own, and reports replicas that prepare for a while
//! and then run. Nothing listens where these replicas would serve: requests through the gateway fail, unless
//! `--proxy-port` names a port on which something else answers for all of them.
//!
//! What the fleet saw is printed as JSON, one line each second on request and one at the end ([`figures`]).
//!
//! Agents share connections to the control plane (`--agents-per-connection`); each has a listener of its own. Ten
//! thousand of them take two cores and some hundred megabytes.

mod agent;
mod args;
mod chance;
mod endpoint;
mod figures;
mod links;
mod node;
mod run;
mod windows;

pub use args::Args;
pub use run::run;
