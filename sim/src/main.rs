//! The `nebula-sim` program: simulated parts of Nebula, one sub-command each.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nebula_core::exit::Exit;
use nebula_sim::runtime;

/// Simulated parts of Nebula, to try, measure and break it without a GPU.
#[derive(Parser)]
#[command(name = "nebula-sim", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves one made-up model over the OpenAI and the Ollama API.
    Runtime(runtime::Args),
}

fn main() -> ExitCode {
    let Command::Runtime(args) = Cli::parse().command;
    match actix_web::rt::System::new().block_on(runtime::run(args)) {
        Ok(()) => Exit::Done.code(),
        Err(fatal) => fatal.report(),
    }
}
