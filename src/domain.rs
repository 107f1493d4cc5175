//! The control plane's nouns. No actor, no I/O, no wire format: only what is true of nodes, deployments and
//! routes, and the decisions that follow from their data alone.

pub mod alias;
pub mod command;
pub mod deployment;
pub mod edge;
pub mod error;
pub mod event;
pub mod idempotency;
pub mod image;
pub mod key;
pub mod limit;
pub mod node;
pub mod operation;
pub mod poison;
pub mod report;
pub mod route;
pub mod usage;
