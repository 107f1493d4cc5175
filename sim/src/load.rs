//! A load client: asks an OpenAI-compatible server for answers over many connections, reads every answer to its end,
//! checks it, and tells how many came, how fast, and what was wrong with the others.
//!
//! Closed loop: each connection sends its next request when the last answer is complete. With `--rate` requests are due
//! at fixed times, and what they wait for a free connection counts as latency; times are then exact to a millisecond.
//!
//! It runs on one thread and reads answers without building documents, so that on a small machine most of the
//! processor is left to what is measured. HTTP/1.1 without TLS.
//!
//! Each answer must have status 200 and be complete: all of its `Content-Length`, or its last chunk; JSON that ends as
//! it began; a stream's `[DONE]`, and no error event before. What is not so is counted by kind ([`failure`]), and the
//! program ends with 1.

mod answer;
mod args;
mod chunked;
mod connection;
mod events;
mod failure;
mod figures;
mod hold;
mod report;
mod request;
mod run;
mod target;

pub use args::Args;
pub use run::run;
