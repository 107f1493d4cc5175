//! The nouns that the control plane and the agent share: identifiers, runtimes, model sources, credentials,
//! addresses, durations, sizes, what a model needs of memory, the clock, the timing set, exit codes and the log format.
//!
//! Nothing here knows of actors, HTTP, gRPC or the store.

pub mod address;
pub mod bytes;
pub mod clock;
pub mod duration;
pub mod exit;
pub mod ids;
pub mod memory;
pub mod runtime;
pub mod source;
pub mod telemetry;
pub mod text;
pub mod timing;
pub mod token;
