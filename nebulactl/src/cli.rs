//! What can be typed: commands, flags and their help.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::quantity;

mod alias;
mod deployment;
mod edge;

pub(crate) use self::alias::{AliasCommand, SetAliasArgs};
pub(crate) use self::deployment::{DeployArgs, RotateArgs, SpecArgs, UpdateArgs};
pub(crate) use self::edge::{EdgeCommand, EdgeName};

/// The command line of Nebula: deploys models to your nodes and talks to them.
#[derive(Debug, Parser)]
#[command(name = "nebulactl", version, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 69 nebulad cannot be reached, 77 not allowed, \
                        78 configuration error"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Heading of the flags of every command in the help.
const GLOBAL: &str = "Global options";

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Address of nebulad [env: NEBULA_SERVER] [default: http://localhost:8080]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Admin token [env: NEBULA_TOKEN] [default: from ~/.config/nebula/config.toml or an admin.token file]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Form of the data on standard output
    #[arg(short, long, global = true, help_heading = GLOBAL, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// No colour, as with NO_COLOR in the environment
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) no_color: bool,
}

/// The form of data on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people
    Table,
    /// What the API said, for programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Deploy a model
    Deploy(Box<DeployArgs>),
    /// List the deployments
    #[command(visible_alias = "ls")]
    List,
    /// Show one deployment and its replicas
    Get {
        /// Name or id of the deployment
        name: String,
    },
    /// Explain why a deployment stands where it does, and what happens next
    Why {
        /// Name or id of the deployment
        name: String,
    },
    /// Change a deployment: new replicas answer before old ones go
    Update(Box<UpdateArgs>),
    /// Start a stopped deployment
    Start {
        /// Name or id of the deployment
        name: String,
    },
    /// Stop a deployment and keep it for later
    Stop {
        /// Name or id of the deployment
        name: String,
    },
    /// Stop and start a deployment's replicas
    Restart {
        /// Name or id of the deployment
        name: String,
    },
    /// Set the number of replicas
    Scale {
        /// Name or id of the deployment
        name: String,
        /// Number of replicas wanted
        replicas: u32,
    },
    /// Give a deployment a new access token and print it
    RotateToken(RotateArgs),
    /// Delete a deployment (asks first when standard input is a terminal)
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id of the deployment
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Print the log of a deployment's runtime
    Logs(LogsArgs),
    /// List what happened, newest last
    Events(EventsArgs),
    /// Run a command beside a deployment's runtime; ends with its exit code
    Exec(ExecArgs),
    /// List and manage nodes
    #[command(visible_alias = "node")]
    Nodes {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Let one model name stand for several deployments, by weight
    #[command(visible_alias = "alias")]
    Aliases {
        #[command(subcommand)]
        command: AliasCommand,
    },
    /// Show and cancel what takes its time, such as the drain of a node
    #[command(visible_alias = "operation")]
    Operations {
        #[command(subcommand)]
        command: OperationCommand,
    },
    /// Show how the reverse proxy and the DNS zone in front of the nodes stand
    Edge {
        #[command(subcommand)]
        command: EdgeCommand,
    },
    /// Make and manage API keys, with which clients use models at the gateway
    #[command(visible_alias = "key")]
    Keys {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Show how many requests and tokens were used
    Usage(UsageArgs),
    /// Send one message to a model and print its answer as it arrives
    Chat(ChatArgs),
    /// List the models that the gateway serves to you
    Models,
    /// Show nebulad's tree of actors
    Actors,
    /// Show whether nebulad is healthy and ready, and what it looks after
    Status,
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Name or id of the deployment
    pub(crate) name: String,
    /// Keep printing what is added
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u32>,
    /// Id or index of one replica
    #[arg(long)]
    pub(crate) replica: Option<String>,
    /// The log of the run before the last restart
    #[arg(short, long)]
    pub(crate) previous: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Name or id of the deployment
    pub(crate) name: String,
    /// Id or index of one replica [default: the first]
    #[arg(long)]
    pub(crate) replica: Option<String>,
    /// After this long the command is killed; at most 1h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = nebula_core::duration::parse)]
    pub(crate) timeout: Duration,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Name or id of a deployment [default: everything, with what was done by whom]
    pub(crate) name: Option<String>,
    /// Keep printing what happens
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the newest ones
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Name of the deployment
    pub(crate) model: String,
    /// The message [default: standard input]
    pub(crate) prompt: Option<String>,
    /// Print the answer when it is complete
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Credential for the model, such as its access token [default: the token]
    #[arg(long, visible_alias = "key", value_name = "KEY")]
    pub(crate) api_key: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "ls")]
    List,
    /// Show one node and its GPUs
    Get {
        /// Name or id of the node
        name: String,
    },
    /// Place nothing new on a node; what runs there stays
    Cordon {
        /// Name or id of the node
        name: String,
    },
    /// Empty a node for maintenance: its replicas are replaced elsewhere first
    Drain {
        /// Name or id of the node
        name: String,
        /// When the drain fails, with the node cordoned and what is left named; at most 7d [default: 1h]
        #[arg(long, value_name = "TIME", value_parser = nebula_core::duration::parse)]
        timeout: Option<Duration>,
        /// Wait until it is empty, telling what is left
        #[arg(long)]
        wait: bool,
    },
    /// Allow new replicas on a node again; cancels its drain
    Uncordon {
        /// Name or id of the node
        name: String,
    },
    /// Forget a node (asks first when standard input is a terminal)
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id of the node
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// List what runs and what has ended lately, the newest first
    #[command(visible_alias = "ls")]
    List,
    /// Show one operation and what it waits for
    Get {
        /// Id of the operation
        id: String,
    },
    /// End one that runs; a node that is being drained stays cordoned
    Cancel {
        /// Id of the operation
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and print its secret, which is shown once
    Create(CreateKeyArgs),
    /// List the keys
    #[command(visible_alias = "ls")]
    List,
    /// End a key (asks first when standard input is a terminal)
    #[command(visible_aliases = ["delete", "rm"])]
    Revoke {
        /// Id or name of the key
        key: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Give a key a new secret and print it
    Rotate {
        /// Id or name of the key
        key: String,
        /// How long the old secret stays valid, 0 for not at all [default: 24h]
        #[arg(long, value_name = "TIME", value_parser = nebula_core::duration::parse)]
        overlap: Option<Duration>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateKeyArgs {
    /// Name of the key, for people
    pub(crate) name: String,
    /// Name or id of a model that it may use (repeatable) [default: all]
    #[arg(long = "model", value_name = "MODEL")]
    pub(crate) models: Vec<String>,
    /// How long it is valid, such as 30d [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = nebula_core::duration::parse)]
    pub(crate) expires_in: Option<Duration>,
    /// Most requests a minute
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rpm: Option<u32>,
    /// Most tokens a minute, prompt and completion
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) tpm: Option<u64>,
    /// Most requests at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_concurrent: Option<u32>,
    /// Most tokens in each period
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..), requires = "budget_period")]
    pub(crate) budget: Option<u64>,
    /// When the budget begins anew (in UTC)
    #[arg(long, value_name = "PERIOD", value_parser = ["day", "month", "total"], requires = "budget")]
    pub(crate) budget_period: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// From when on: a time, a date, unix seconds, or how long ago, such as 7d [default: 24 hours before the end]
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_moment)]
    pub(crate) from: Option<String>,
    /// Until when [default: now]
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_moment)]
    pub(crate) to: Option<String>,
    /// What to tell apart: key, model, both with a comma, or none [default: key,model]
    #[arg(long, value_name = "WHAT", value_parser = ["key", "model", "key,model", "model,key", "none"])]
    pub(crate) by: Option<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn runtime_arguments_may_start_with_hyphens() {
        let line =
            ["nebulactl", "deploy", "--model", "m", "--arg", "--max-len", "--arg=-1", "--env", "A=b=c"];
        let Command::Deploy(args) = Cli::parse_from(line).command else { panic!("not a deploy") };
        assert_eq!(args.spec.args, ["--max-len", "-1"]);
        assert_eq!(args.spec.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(args.wait_timeout, Duration::from_secs(900));
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for wrong in [
            &["nebulactl", "deploy", "--model", "m", "--runtime", "vlm"][..],
            &["nebulactl", "deploy", "--model", "m", "--env", "A"],
            &["nebulactl", "deploy", "--model", "m", "--label", "=x"],
            &["nebulactl", "deploy"],
            &["nebulactl", "deploy", "--model", "m", "--autoscale", "2"],
            &["nebulactl", "deploy", "--model", "m", "--autoscale", "3..2"],
            &["nebulactl", "deploy", "--model", "m", "--strategy", "blue"],
            &["nebulactl", "deploy", "--model", "m", "--drain-timeout", "soon"],
            &["nebulactl", "update"],
            &["nebulactl", "update", "m", "--unset"],
            &["nebulactl", "why"],
            &["nebulactl", "edge"],
            &["nebulactl", "edge", "plan", "nginx"],
            &["nebulactl", "rotate-token", "m", "--overlap", "soon"],
            &["nebulactl", "scale", "m", "-1"],
            &["nebulactl", "list", "-o", "yaml"],
            &["nebulactl", "keys", "create"],
            &["nebulactl", "keys", "create", "k", "--rpm", "0"],
            &["nebulactl", "keys", "create", "k", "--budget", "5"],
            &["nebulactl", "keys", "create", "k", "--budget", "5", "--budget-period", "week"],
            &["nebulactl", "keys", "rotate", "k", "--overlap", "soon"],
            &["nebulactl", "usage", "--from", "yesterday"],
            &["nebulactl", "usage", "--by", "node"],
        ] {
            assert_eq!(Cli::try_parse_from(wrong).expect_err("refused").exit_code(), 2, "{wrong:?}");
        }
    }
}
