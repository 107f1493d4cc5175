//! The actor system on the real store, with agents that are fakes.

mod aliases;
mod doubtful;
mod edges;
mod falls;
mod keys;
mod many;
mod poisoned;
mod stuck;
mod world;
