//! The simulated fleet as a program, against a control plane that the tests make up.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking too")]

mod platform;
mod program;
