//! The `nebula-agent` program.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use nebula_agent::{Cli, Config};
use nebula_core::exit::{Exit, Fatal};
use nebula_core::telemetry;
use nebula_sim::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The sub-command with which the agent starts itself as the simulated runtime.
const SIM_RUNTIME: &str = "sim-runtime";

/// The agent of Nebula: runs models on this machine as nebulad tells it.
#[derive(Parser)]
#[command(name = "nebula-agent", version, about, args_conflicts_with_subcommands = true)]
struct Program {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    cli: Cli,
}

#[derive(Subcommand)]
enum Command {
    /// Serves a made-up model: what the agent starts for the runtime "sim"
    #[command(name = SIM_RUNTIME, hide = true)]
    SimRuntime(runtime::Args),
}

fn main() -> ExitCode {
    let matches = nebula_agent::ignore_empty_environment(Program::command()).get_matches();
    let program = Program::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let ended = match program.command {
        Some(Command::SimRuntime(args)) => actix_rt::System::new().block_on(runtime::run(args)),
        None => Config::new(program.cli, sim_command()).and_then(|config| {
            telemetry::init(config.log_level, config.log_format);
            actix_rt::System::new().block_on(run(config))
        }),
    };
    match ended {
        Ok(()) => Exit::Done.code(),
        Err(fatal) => fatal.report(),
    }
}

/// This very program, as the simulated runtime.
fn sim_command() -> Vec<String> {
    let program =
        std::env::current_exe().map_or_else(|_| "nebula-agent".to_owned(), |path| path.display().to_string());
    vec![program, SIM_RUNTIME.to_owned()]
}

async fn run(config: Config) -> Result<(), Fatal> {
    let mut signals = Signals::new()?;
    let control_plane = config.control_plane.clone();
    let running = nebula_agent::start(config).await?;
    tracing::info!(
        target: telemetry::READY_TARGET,
        grpc_addr = %running.grpc_addr, proxy_addr = %running.proxy_addr, metrics_addr = %running.metrics_addr,
        %control_plane, "nebula-agent is ready"
    );
    let failed = tokio::select! {
        () = signals.next() => None,
        fatal = running.failed() => Some(fatal),
    };
    let stopping = async {
        match failed {
            None => {
                running.stop().await;
                Ok(())
            }
            Some(fatal) => {
                running.stop_and_leave().await;
                Err(fatal)
            }
        }
    };
    tokio::select! {
        ended = stopping => ended,
        () = signals.next() => Err(Fatal::new(Exit::Failed, "stopped at once by a second signal")),
    }
}

/// SIGTERM, SIGINT, and SIGHUP, which comes when the terminal is closed.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Fatal> {
        let on = |kind| {
            signal(kind)
                .map_err(|error| Fatal::new(Exit::Failed, format!("signals cannot be caught: {error}")))
        };
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
            hup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
            _ = self.hup.recv() => {}
        }
    }
}
