//! The load client as a program: against the simulated runtime, and against servers that answer badly.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking too")]

mod holding;
mod program;
mod support;
