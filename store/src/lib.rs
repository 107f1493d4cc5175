//! The embedded store that nebulad and nebula-agent share: keys, records, atomic batches; one directory, one process.
//!
//! **What is durable when.** [`Store::commit`] resolves to `Ok` after its batch was written and `fdatasync` returned on
//! the log file: from then on it survives the death of the process and of the power. A batch is applied as a whole or
//! not at all, also across a crash. `Conflict`, `TooLarge`, `Overloaded` and `Closed` mean that nothing was applied;
//! `Failed` means that it may have been: whoever gets it must load its state again after a restart. A read sees every
//! commit that was handed in before it, and only what is durable.
//!
//! **How.** One thread owns the engine and takes requests from a bounded queue. What is queued is committed as one
//! group: check each batch's preconditions, one atomic write, one sync, then all answers. The first error of a write,
//! a sync or a read, and any panic, ends the store: it answers `Failed` from then on, because a sync that failed once
//! can succeed falsely when it is tried again.
//!
//! **On disk.** `<dir>/lock` holds the pid of the owner, `<dir>/db/` the engine's files and `mark`, which tells
//! how far the log was durable: a log that ends earlier is damaged and is refused. Each value is a record in an
//! envelope with a checksum that covers its key. A record that does not check out is never returned: it is moved under
//! `q/` and counted. `m/schema` holds the version of all this (a newer one is refused), `m/seq` the number of the last
//! write; both prefixes are the store's own.
//!
//! The engine is sled, and no type of it leaves this crate.

mod batch;
pub mod codec;
mod engine;
mod envelope;
mod error;
mod handle;
mod lock;
mod mark;
mod open;
mod quarantine;
mod record;
mod schema;
mod sled_engine;
mod status;
mod writer;

pub use batch::Batch;
pub use error::{CommitError, OpenError, ReadError};
pub use handle::Store;
pub use open::Options;
pub use record::{MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Record};
pub use status::StoreStatus;
