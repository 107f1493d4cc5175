//! `nebulactl`, the command line of Nebula: a client of nebulad's management API and gateway.
//!
//! - `cli`: what can be typed. `settings`: which server and which token.
//! - `api`: requests, answers, and what went wrong, in words. `sse`: event streams.
//! - One file per noun or verb: `deploy`, `deployments`, `update`, `why`, `wait`, `logs`, `events`, `exec`, `nodes`, `operations`, `keys`, `aliases`,
//!   `edge`, `usage`, `chat`, `models`, `actors`, `status`.
//! - `output`: data on standard output as tables or JSON; everything else on standard error.

mod actors;
mod aliases;
mod api;
mod chat;
mod cli;
mod deploy;
mod deployments;
mod edge;
mod events;
mod exec;
mod failure;
mod keys;
mod logs;
mod models;
mod nodes;
mod operations;
mod output;
mod quantity;
mod settings;
mod sse;
mod status;
mod update;
mod usage;
mod wait;
mod why;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use nebula_core::exit::Exit;

use crate::api::Api;
use crate::cli::{Cli, Command};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::settings::Settings;

/// Runs one command line (the program's name first) and says how the process shall end.
pub async fn run(args: Vec<OsString>) -> ExitCode {
    let cli = match parse(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe under `--help` is no failure.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.code() } else { Exit::Done.code() };
        }
    };
    let output = Output::new(cli.global.output, cli.global.no_color);
    match execute(cli, &output).await {
        Ok(()) => Exit::Done.code(),
        Err(Failure::ClosedPipe) => Exit::Done.code(),
        Err(Failure::Code(code)) => ExitCode::from(code),
        Err(Failure::Fatal(fatal)) => fatal.report(),
    }
}

fn parse(args: &[OsString]) -> std::result::Result<Cli, clap::Error> {
    let mut command = Cli::command();
    // clap colours help and usage errors before it knows of our flag.
    if args.iter().any(|arg| arg == "--no-color") {
        command = command.color(clap::ColorChoice::Never);
    }
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

async fn execute(cli: Cli, output: &Output) -> Result<()> {
    let global = cli.global;
    let connect = || Settings::of_process(&global).and_then(Api::new);
    match cli.command {
        Command::Version => version(output),
        Command::Completion { shell } => completion(shell, output),
        Command::Deploy(args) => deploy::run(&connect()?, output, *args).await,
        Command::List => deployments::list(&connect()?, output).await,
        Command::Get { name } => deployments::get(&connect()?, output, &name).await,
        Command::Why { name } => why::run(&connect()?, output, &name).await,
        Command::Update(args) => update::run(&connect()?, output, *args).await,
        Command::RotateToken(args) => deployments::rotate_token(&connect()?, output, &args).await,
        Command::Start { name } => deployments::act(&connect()?, output, &name, "start").await,
        Command::Stop { name } => deployments::act(&connect()?, output, &name, "stop").await,
        Command::Restart { name } => deployments::act(&connect()?, output, &name, "restart").await,
        Command::Scale { name, replicas } => deployments::scale(&connect()?, output, &name, replicas).await,
        Command::Delete { name, yes } => deployments::delete(&connect()?, output, &name, yes).await,
        Command::Logs(args) => logs::run(&connect()?, output, &args).await,
        Command::Events(args) => events::run(&connect()?, output, &args).await,
        Command::Exec(args) => exec::run(&connect()?, output, &args).await,
        Command::Nodes { command } => nodes::run(&connect()?, output, command).await,
        Command::Aliases { command } => aliases::run(&connect()?, output, command).await,
        Command::Operations { command } => operations::run(&connect()?, output, command).await,
        Command::Edge { command } => edge::run(&connect()?, output, command).await,
        Command::Keys { command } => keys::run(&connect()?, output, command).await,
        Command::Usage(args) => usage::run(&connect()?, output, &args).await,
        Command::Chat(args) => {
            let api = Settings::of_process(&global)?.with_key(args.api_key.as_deref());
            chat::run(&Api::new(api)?, output, &args).await
        }
        Command::Models => models::run(&connect()?, output).await,
        Command::Actors => actors::run(&connect()?, output).await,
        Command::Status => status::run(&connect()?, output).await,
    }
}

fn version(output: &Output) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if output.is_json() {
        return output.json(&serde_json::json!({ "version": version }).to_string());
    }
    output.text(&format!("nebulactl {version}\n"))
}

fn completion(shell: clap_complete::Shell, output: &Output) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nebulactl", &mut script);
    output.bytes(&script)
}
