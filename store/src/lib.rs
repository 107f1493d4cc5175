//! The embedded store that nebulad and nebula-agent share: keys, records, atomic batches; one directory, one process.
//!
//! **What is durable when.** [`Store::commit`] resolves to `Ok` after its batch was written and `fdatasync` returned for
//! the engine's log and for our own log of batches: from then on it survives the death of the process and of the power.
//! A batch is applied as a whole or not at all, also across a crash. `Conflict`, `TooLarge`, `Overloaded`, `DiskFull`,
//! `Unavailable` and `Closed` mean that nothing was applied; `Failed` means that it may have been: whoever gets it must
//! load its state again. A read sees every commit that was handed in before it, and only what is durable.
//!
//! **What is only in memory.** The queue of requests that were not answered yet, and what [`Store::status`] counts:
//! commits, latencies, the level of the disk, how the last export went. All of it starts anew with the process; the number
//! of records set aside, the newest export and [`StoreStatus::restored`] are read back from the disk.
//!
//! **How.** One thread owns the engine and takes requests from a bounded queue. What is queued is committed as one
//! group: check each batch's preconditions, one atomic write, one sync, then all answers.
//!
//! **When the engine fails.** No space left: whoever was in the middle of a commit gets `Failed`, the reserve of space is
//! given back, and the engine is given up and opened again, at once and then every 5 s; meanwhile everything is answered
//! `Unavailable`. A panic: the same, once; a second one within 60 s ends the store. Any other error of a read, a write or
//! a sync ends it: it answers `Failed` from then on, because a sync that failed once can succeed falsely when it is tried
//! again, and so does an engine that has not come back for 30 s. The process should then end, and its next start opens
//! what is durable.
//!
//! **When the disk fills up.** Free space is looked at once a second. When it is scarce, batches marked
//! [`Batch::growing`] are refused with `DiskFull`; when there is next to none, all are but those marked
//! [`Batch::freeing`]. Reads go on. It passes without a restart.
//!
//! **On disk.** `<dir>/lock` holds the pid of the owner, `<dir>/ballast` the space in reserve, `<dir>/db/` the engine's
//! files and `mark`, which tells how far they were durable, `<dir>/redo/` our own log of the batches since the last
//! exports, `<dir>/exports/` those. An engine that lost something or cannot be read is set aside as
//! `<dir>/db.corrupt-<time>` and rebuilt from the newest good export and the log of batches; if that leaves a gap, or
//! nothing is left that tells which write was the last, the store says so ([`StoreStatus::restored`]) until
//! [`Store::accept_restored`]. Each value is a record in an envelope with
//! a checksum that covers its key. A record that does not check out is never returned: it is moved under `q/` and
//! counted, as is one that its reader gives to [`Store::set_aside`]. `m/schema` holds the version of all this (a newer one
//! is refused), `m/seq` the number of the last write, `m/restored` that there may be a gap; both prefixes are the
//! store's own.
//!
//! The engine is sled, and no type of it leaves this crate.

mod ballast;
mod batch;
pub mod codec;
mod disk;
mod durable;
mod engine;
mod entry;
mod envelope;
mod error;
mod exports;
mod filesystem;
mod handle;
mod history;
mod import;
mod info;
mod inspect;
mod latency;
mod layout;
mod lock;
mod machine;
mod mark;
mod open;
mod options;
mod quarantine;
mod rebuild;
mod record;
mod redo;
mod restored;
mod schema;
mod seq;
mod sled_engine;
mod stall;
mod start;
mod status;
mod verify;
mod writer;

pub use batch::Batch;
pub use disk::{DiskLevel, DiskStatus};
pub use error::{CommitError, ExportFailed, OpenError, ReadError};
pub use exports::file::{ExportError, verify_export};
pub use handle::Store;
pub use import::{ImportError, import};
pub use info::{ExportInfo, Restored, StoreInfo};
pub use latency::Latency;
pub use options::{OnDamage, Options};
pub use quarantine::{SetAside, Unreadable};
pub use record::{MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Record};
pub use status::{StoreState, StoreStatus};
pub use verify::{export_dir, verify_store};
