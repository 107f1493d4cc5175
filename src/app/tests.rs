//! The actor system on the real store, with agents that are fakes.

mod doubtful;
mod falls;
mod keys;
mod poisoned;
mod stuck;
mod world;
