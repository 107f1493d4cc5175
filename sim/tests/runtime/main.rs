//! The simulated runtime over real sockets: in this process, and as a program.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail by panicking too"
)]

mod apis;
mod failures;
mod process;
mod streams;
mod support;
