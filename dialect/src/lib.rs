//! What clients and engines say, without any I/O: finds what routing needs in a request, puts it into the words of
//! the engine that will answer, and turns the answer back.
//!
//! * [`Surface`]: the paths that requests come to.
//! * [`Scan`]: what a body says, found without building the document, and splices that leave every other byte alone.
//! * [`Adapter`]: how one kind of engine is spoken to. Most speak OpenAI's own words ([`passthrough`]), one has
//!   an API of its own ([`ollama`]).
//! * [`words`]: what clients may read of an engine's own words.

pub mod adapter;
pub mod ollama;
pub mod passthrough;
pub mod scan;
pub mod surface;
mod usage;
pub mod words;

pub use adapter::{
    Adapter, Answer, Asked, Incoming, Outgoing, Passing, Refusal, Tally, Told, Unfinished, Usage, Whole,
    adapter,
};
pub use scan::{Scan, ScanError};
pub use surface::Surface;
