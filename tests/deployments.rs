//! A control plane against simulated agents, in paused time: changes, lost nodes, drains, the load as a judge, races,
//! and edges that are fakes.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "that is how a test fails")]

#[path = "deployments/agents.rs"]
mod agents;
#[path = "deployments/changes.rs"]
mod changes;
#[path = "deployments/drains.rs"]
mod drains;
#[path = "deployments/edge_world.rs"]
mod edge_world;
#[path = "deployments/edges.rs"]
mod edges;
#[path = "deployments/load.rs"]
mod load;
#[path = "deployments/losses.rs"]
mod losses;
#[path = "deployments/memory.rs"]
mod memory;
#[path = "deployments/races.rs"]
mod races;
#[path = "deployments/world.rs"]
mod world;
