//! Replicas: each has a pure machine that decides, and a task that does.

pub(crate) mod declined;
mod health;
mod look;
pub mod machine;
pub(crate) mod manager;
pub mod spec;
mod strays;
pub(crate) mod task;
