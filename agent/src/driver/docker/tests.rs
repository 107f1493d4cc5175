//! The driver against a real Engine: the one that `DOCKER_HOST` names, else the usual one. Without any, and without
//! what else a test needs, it says so and checks nothing.

mod ending;
mod engine;
mod exec;
mod life;
mod output;
mod pull;
mod registry;
mod session;
mod support;
mod wire;
