//! nebulad's command line: sub-commands, flags, and the environment variables that stand in for them.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};
use nebula_core::duration;
use nebula_core::telemetry::{LogFormat, LogLevel};

/// The control plane of Nebula.
#[derive(Parser, Debug)]
#[command(
    name = "nebulad",
    version,
    about = "The control plane of Nebula: serves language models from your GPU machines"
)]
pub struct Cli {
    /// What to do; serve unless it is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of the server; they may stand before or after the sub-command.
    #[command(flatten)]
    pub flags: Flags,
}

/// What nebulad can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Control plane and one agent in this process, with a model deployed: everything on this machine, to try it out
    Dev(DevArgs),
    /// Check the flags and say what is wrong
    CheckConfig,
    /// Copy, restore or check the store while nebulad is stopped
    #[command(subcommand)]
    Store(StoreCommand),
}

/// What can be done with the store while nebulad is stopped.
#[derive(Subcommand, Debug, Clone)]
pub enum StoreCommand {
    /// Write all that the store holds to FILE
    Export {
        /// Must not exist yet
        file: PathBuf,
    },
    /// Fill an empty data directory from FILE
    Import {
        /// As `store export` or nebulad itself wrote it
        file: PathBuf,
        /// Also when the data directory holds a store, which is set aside
        #[arg(long)]
        force: bool,
    },
    /// Check every record of the store, or of the export FILE
    Verify {
        /// An export; without it the store in the data directory
        file: Option<PathBuf>,
    },
}

/// Flags of `nebulad dev`.
#[derive(Args, Debug, Clone)]
pub struct DevArgs {
    /// End with exit code 0 after the first answer
    #[arg(long)]
    pub once: bool,
    /// The model: a name, hf://org/name, ollama://name:tag, or fs:///path/to/model.gguf
    #[arg(long)]
    pub model: Option<String>,
    /// The runtime: vllm, tgi, ollama, triton, llamacpp or sim
    #[arg(long)]
    pub runtime: Option<String>,
}

/// Nodes get their host names below this domain unless it is said.
pub(super) const GATEWAY_DOMAIN: &str = "gateway.nebulactl.com";
/// What Caddy's server listens on unless it is said.
pub(super) const CADDY_LISTEN: &str = ":443";
/// AWS region unless it is said.
pub(super) const ROUTE53_REGION: &str = "us-east-1";
/// TTL of DNS records unless it is said, in seconds.
pub(super) const ROUTE53_TTL: u32 = 300;

/// On or off.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// It is done.
    On,
    /// It is not done.
    Off,
}

/// Flags of the server.
#[derive(Args, Debug, Clone)]
pub struct Flags {
    /// Where durable state is kept [default: /var/lib/nebulad]
    #[arg(long, env = "NEBULAD_DATA_DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Port for agents; 0 takes a free one
    #[arg(long, env = "NEBULAD_GRPC_PORT", default_value_t = 9090, global = true)]
    pub grpc_port: u16,
    /// Port for clients and operators; 0 takes a free one
    #[arg(long, env = "NEBULAD_HTTP_PORT", default_value_t = 8080, global = true)]
    pub http_port: u16,
    /// Path prefix of the OpenAI-compatible API
    #[arg(long, env = "NEBULAD_API_PREFIX", default_value = "/v1", global = true)]
    pub api_prefix: String,
    /// Caddy's admin API; without it Caddy is not used
    #[arg(long, env = "NEBULAD_CADDY_ADMIN_URL", global = true)]
    pub caddy_admin_url: Option<String>,
    /// Where Caddy serves, :port or address:port; port 443 means TLS by Caddy, any other plain HTTP
    #[arg(long, env = "NEBULAD_CADDY_LISTEN", default_value = CADDY_LISTEN, global = true)]
    pub caddy_listen: String,
    /// Nodes get their host names below this domain
    #[arg(long, env = "NEBULAD_GATEWAY_DOMAIN", default_value = GATEWAY_DOMAIN, global = true)]
    pub gateway_domain: String,
    /// A node that is silent for this long is offline
    #[arg(long, env = "NEBULAD_HEARTBEAT_TIMEOUT", default_value = "90", value_parser = duration::parse, global = true)]
    pub heartbeat_timeout: Duration,
    /// How often agents report
    #[arg(long, env = "NEBULAD_DEFAULT_HEARTBEAT_INTERVAL", default_value = "30", value_parser = duration::parse, global = true)]
    pub default_heartbeat_interval: Duration,
    /// debug, info, warn or error [default: info]
    #[arg(long, env = "NEBULAD_LOG_LEVEL", global = true)]
    pub log_level: Option<LogLevel>,
    /// text or json
    #[arg(long, env = "NEBULAD_LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// Hosted zone for the nodes' DNS records; without it Route 53 is not used
    #[arg(long, env = "NEBULAD_ROUTE53_HOSTED_ZONE_ID", global = true)]
    pub route53_hosted_zone_id: Option<String>,
    /// AWS access key; without it the standard AWS chain is used
    #[arg(long, env = "NEBULAD_ROUTE53_ACCESS_KEY_ID", global = true, hide_env_values = true)]
    pub route53_access_key_id: Option<String>,
    /// AWS secret key
    #[arg(long, env = "NEBULAD_ROUTE53_SECRET_ACCESS_KEY", global = true, hide_env_values = true)]
    pub route53_secret_access_key: Option<String>,
    /// AWS region
    #[arg(long, env = "NEBULAD_ROUTE53_REGION", default_value = ROUTE53_REGION, global = true)]
    pub route53_region: String,
    /// TTL of DNS records
    #[arg(long, env = "NEBULAD_ROUTE53_TTL", default_value_t = ROUTE53_TTL, value_parser = whole_seconds, global = true)]
    pub route53_ttl: u32,
    /// Another Route 53 endpoint
    #[arg(long, env = "NEBULAD_ROUTE53_ENDPOINT_URL", global = true)]
    pub route53_endpoint_url: Option<String>,
    /// One DNS record for all names below the gateway domain instead of one per node
    #[arg(long, env = "NEBULAD_ROUTE53_WILDCARD", global = true, value_parser = BoolishValueParser::new())]
    pub route53_wildcard: bool,
    /// The IPv4 address to which DNS records point
    #[arg(long, env = "NEBULAD_GATEWAY_IP", global = true)]
    pub gateway_ip: Option<String>,
    /// The address to listen on
    #[arg(long, env = "NEBULAD_BIND", default_value = "127.0.0.1", global = true)]
    pub bind: String,
    /// Serve without TLS on an address that others can reach
    #[arg(long, env = "NEBULAD_INSECURE", global = true, value_parser = BoolishValueParser::new())]
    pub insecure: bool,
    /// The operator's token; made at the first start and kept in <data-dir>/admin.token unless it is given
    #[arg(long, env = "NEBULAD_ADMIN_TOKEN", global = true, hide_env_values = true)]
    pub admin_token: Option<String>,
    /// Origins from which browsers may call the gateway; repeatable
    #[arg(
        long,
        env = "NEBULAD_CORS_ALLOW_ORIGIN",
        default_value = "*",
        value_delimiter = ',',
        global = true
    )]
    pub cors_allow_origin: Vec<String>,
    /// How long known nodes are waited for after a start
    #[arg(long, env = "NEBULAD_RESTART_GRACE", default_value = "120", value_parser = duration::parse, global = true)]
    pub restart_grace: Duration,
    /// The largest request body that the gateway takes
    #[arg(long, env = "NEBULAD_MAX_BODY_BYTES", default_value_t = 33_554_432, global = true)]
    pub max_body_bytes: usize,
    /// How long a model may take to the first byte of its answer
    #[arg(long, env = "NEBULAD_UPSTREAM_TIMEOUT", default_value = "600", value_parser = duration::parse, global = true)]
    pub upstream_timeout: Duration,
    /// How long a model may pause within an answer
    #[arg(long, env = "NEBULAD_UPSTREAM_IDLE_TIMEOUT", default_value = "300", value_parser = duration::parse, global = true)]
    pub upstream_idle_timeout: Duration,
    /// How long a request for a model that is starting waits for it instead of hearing 503
    #[arg(long, env = "NEBULAD_HOLD_STARTING", default_value = "0", value_parser = duration::parse, global = true)]
    pub hold_starting: Duration,
    /// After so much silence in a stream the client gets a comment, so that nothing between takes it for dead; 0: never
    #[arg(long, env = "NEBULAD_SSE_KEEPALIVE", default_value = "15", value_parser = duration::parse, global = true)]
    pub sse_keepalive: Duration,
    /// Whether each request to the gateway is logged in a line of its own
    #[arg(long, env = "NEBULAD_ACCESS_LOG", value_enum, default_value_t = Switch::On, global = true)]
    pub access_log: Switch,
    /// How long requests in flight may take when nebulad stops
    #[arg(long, env = "NEBULAD_SHUTDOWN_GRACE", default_value = "30", value_parser = duration::parse, global = true)]
    pub shutdown_grace: Duration,
    /// Keep state on a network or user-space file system too, which may not hold what it promises
    #[arg(long, env = "NEBULAD_ALLOW_ANY_FILESYSTEM", global = true, value_parser = BoolishValueParser::new())]
    pub allow_any_filesystem: bool,
}

impl Flags {
    /// An environment variable that is set to nothing is not set.
    pub(super) fn drop_empty(&mut self) {
        let optional = [
            &mut self.caddy_admin_url,
            &mut self.route53_hosted_zone_id,
            &mut self.route53_access_key_id,
            &mut self.route53_secret_access_key,
            &mut self.route53_endpoint_url,
            &mut self.gateway_ip,
            &mut self.admin_token,
        ];
        for value in optional {
            value.take_if(|text| text.is_empty());
        }
        self.data_dir.take_if(|dir| dir.as_os_str().is_empty());
        let with_default =
            [(&mut self.caddy_listen, CADDY_LISTEN), (&mut self.route53_region, ROUTE53_REGION)];
        for (value, default) in with_default {
            if value.is_empty() {
                default.clone_into(value);
            }
        }
    }
}

/// A duration as all other flags take it, in whole seconds.
fn whole_seconds(text: &str) -> Result<u32, String> {
    let time = duration::parse(text).map_err(|error| error.to_string())?;
    let seconds = u32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
    seconds.ok_or_else(|| format!("\"{text}\" are no whole seconds, or too many"))
}
