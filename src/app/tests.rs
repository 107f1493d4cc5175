//! The actor system on the real store, with agents that are fakes.

mod falls;
mod poisoned;
mod stuck;
mod world;
