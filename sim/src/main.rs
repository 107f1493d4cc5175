//! The `nebula-sim` program: simulated parts of Nebula, one sub-command each.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nebula_core::exit::Exit;
use nebula_sim::{fleet, load, runtime};

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
    /// Lets many agents join a control plane, and tells what they saw as JSON.
    Fleet(fleet::Args),
    /// Asks an OpenAI-compatible server over many connections, checks the answers and tells how fast they came.
    Load(load::Args),
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Runtime(args) => actix_web::rt::System::new().block_on(runtime::run(args)),
        Command::Fleet(args) => fleet::run(args),
        Command::Load(args) => load::run(args),
    };
    match ended {
        Ok(()) => Exit::Done.code(),
        Err(fatal) => fatal.report(),
    }
}
