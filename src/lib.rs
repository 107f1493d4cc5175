//! nebulad, the control plane of Nebula.
//!
//! * [`domain`]: nodes, deployments, routes: nouns and what follows from their data.
//! * [`ports`]: what the actors need of the world.
//! * [`actors`]: who decides what; each a thin shell around a pure machine, supervised.
//! * [`store`], [`edge`], [`grpc`], [`http`]: the world.
//! * [`metrics`]: what is counted while it happens.
//! * [`app`]: joins them; [`dev`]: everything on one machine; [`config`]: flags.

pub mod actors;
pub mod app;
pub mod config;
pub mod dev;
pub mod domain;
pub mod edge;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod ports;
pub mod store;
