//! The binary: arguments in, exit code out.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    nebulactl::run(std::env::args_os().collect()).await
}
