//! nebulad: parse, log, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use nebula_core::exit::{Exit, Fatal};
use nebula_core::telemetry::{self, LogLevel};
use nebulad::config::{Cli, Command, Config};
use nebulad::{app, dev};

/// Gives memory back that thousands of connections needed for a while, and is faster in what the gateway does most:
/// many short-lived small pieces. `docs/benchmarks.md` has the figures.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Runtimes of the `sim` kind are started from this same executable.
    if std::env::args().nth(1).as_deref() == Some(dev::SIM_RUNTIME) {
        return report(actix_rt::System::new().block_on(dev::sim_runtime()));
    }
    let cli = Cli::parse();
    let quiet = matches!(cli.command, Some(Command::Dev(_)));
    let level = cli.flags.log_level.unwrap_or(if quiet { LogLevel::Warn } else { LogLevel::Info });
    telemetry::init(level, cli.flags.log_format);
    report(run(cli))
}

fn run(cli: Cli) -> Result<(), Fatal> {
    match cli.command {
        None => {
            let config = Config::try_from(cli.flags)?;
            actix_rt::System::new().block_on(app::run(config))
        }
        Some(Command::CheckConfig) => {
            let config = Config::try_from(cli.flags)?;
            app::check(&config)?;
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            if let Some(caddy) = &config.caddy {
                println!("caddy: {caddy}");
            }
            if let Some(route53) = &config.route53 {
                println!("route 53: {route53}");
            }
            println!("the configuration is valid");
            Ok(())
        }
        Some(Command::Store(command)) => {
            let dir = Config::try_from(cli.flags)?.data_dir;
            println!("{}", app::maintain(&dir, command)?);
            Ok(())
        }
        Some(Command::Dev(args)) => actix_rt::System::new().block_on(dev::run(cli.flags, args)),
    }
}

fn report(result: Result<(), Fatal>) -> ExitCode {
    match result {
        Ok(()) => Exit::Done.code(),
        Err(fatal) => fatal.report(),
    }
}
