//! The command line of the agent.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Command};
use nebula_core::duration;
use nebula_core::telemetry::{LogFormat, LogLevel};

/// The agent's flags. Each is also an environment variable `NEBULA_AGENT_<NAME>`.
#[derive(Args, Clone, Debug)]
pub struct Cli {
    /// Where nebulad's gRPC listens; without a scheme plain text to a loopback address and TLS to any other
    #[arg(
        long,
        env = "NEBULA_AGENT_CONTROL_PLANE",
        default_value = "localhost:9090",
        value_name = "HOST:PORT"
    )]
    pub control_plane: String,
    /// This node's id; auto: nebulad assigns one, and it is kept
    #[arg(long, env = "NEBULA_AGENT_NODE_ID", default_value = "auto")]
    pub node_id: String,
    /// This node's name [default: the host name]
    #[arg(long, env = "NEBULA_AGENT_NODE_NAME")]
    pub node_name: Option<String>,
    /// Where the agent keeps its state and its runtimes' logs
    #[arg(long, env = "NEBULA_AGENT_DATA_DIR", default_value = "/var/lib/nebula")]
    pub data_dir: PathBuf,
    /// Address to listen on
    #[arg(long, env = "NEBULA_AGENT_BIND", default_value = "127.0.0.1")]
    pub bind: IpAddr,
    /// Port of the agent's gRPC; 0 takes a free one
    #[arg(long, env = "NEBULA_AGENT_GRPC_PORT", default_value_t = 9091)]
    pub grpc_port: u16,
    /// Port of the auth proxy; 0 takes a free one
    #[arg(long, env = "NEBULA_AGENT_PROXY_PORT", default_value_t = 8888)]
    pub proxy_port: u16,
    /// Port of the metrics; 0 takes a free one
    #[arg(long, env = "NEBULA_AGENT_METRICS_PORT", default_value_t = 9100)]
    pub metrics_port: u16,
    /// host:port where nebulad calls the agent back [default: from --bind]
    #[arg(long, env = "NEBULA_AGENT_ADVERTISE_ADDRESS", value_name = "HOST:PORT")]
    pub advertise_address: Option<String>,
    /// Loopback ports for runtimes
    #[arg(long, env = "NEBULA_AGENT_PORT_RANGE", default_value = "30000-31000", value_name = "FIRST-LAST")]
    pub port_range: String,
    /// How runtimes are run: auto, docker or process
    #[arg(long, env = "NEBULA_AGENT_DRIVER", default_value = "auto")]
    pub driver: String,
    /// Address of the Docker Engine: unix://, tcp:// or http:// [default: DOCKER_HOST, else unix:///var/run/docker.sock]
    #[arg(long, env = "NEBULA_AGENT_DOCKER_HOST", value_name = "URL")]
    pub docker_host: Option<String>,
    /// Memory that one container may take, such as 512m or 80g [default: the machine's, less a tenth]
    #[arg(long, env = "NEBULA_AGENT_CONTAINER_MEMORY", value_name = "SIZE")]
    pub container_memory: Option<String>,
    /// Where models are kept [default: models inside the data directory]
    #[arg(long, env = "NEBULA_AGENT_MODEL_DIR", value_name = "DIR")]
    pub model_dir: Option<PathBuf>,
    /// A directory from which fs:// may name models; repeat it for more [default: any]
    #[arg(long = "model-root", env = "NEBULA_AGENT_MODEL_ROOT", value_name = "DIR", value_delimiter = ',')]
    pub model_roots: Vec<PathBuf>,
    /// A label of this node; repeat it for more
    #[arg(long = "label", env = "NEBULA_AGENT_LABEL", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Token with which the node joins
    #[arg(long, env = "NEBULA_AGENT_JOIN_TOKEN", hide_env_values = true)]
    pub join_token: Option<String>,
    /// NVIDIA's management library
    #[arg(long, env = "NEBULA_AGENT_NVML_LIB", value_name = "FILE")]
    pub nvml_lib: Option<PathBuf>,
    /// Python that runs runtimes written in it [default: python3]
    #[arg(long, env = "NEBULA_AGENT_PYTHON", value_name = "FILE")]
    pub python: Option<PathBuf>,
    /// How long a runtime may take to become healthy
    #[arg(long, env = "NEBULA_AGENT_START_TIMEOUT", default_value = "15m", value_parser = duration::parse)]
    pub start_timeout: Duration,
    /// How long a runtime may take to end before it is killed
    #[arg(long, env = "NEBULA_AGENT_STOP_GRACE", default_value = "10s", value_parser = duration::parse)]
    pub stop_grace: Duration,
    /// Leave runtimes running when the agent stops; the next agent takes them up
    #[arg(long, env = "NEBULA_AGENT_LEAVE_RUNTIMES", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub leave_runtimes: bool,
    /// Withdraw the node when the agent stops
    #[arg(long, env = "NEBULA_AGENT_DEREGISTER_ON_STOP", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub deregister_on_stop: bool,
    /// Listen on other than loopback addresses without TLS
    #[arg(long, env = "NEBULA_AGENT_INSECURE", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub insecure: bool,
    /// The least severe level that is logged: debug, info, warn or error
    #[arg(long, env = "NEBULA_AGENT_LOG_LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// The form of the log: text or json
    #[arg(long, env = "NEBULA_AGENT_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The command whose environment variables count as unset when they are empty, as service managers leave them.
#[must_use]
pub fn ignore_empty_environment(command: Command) -> Command {
    command.mut_args(|arg| {
        let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if is_empty { arg.env(None::<&'static str>) } else { arg }
    })
}
