//! nebulad's flags and environment, checked once.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};
use nebula_core::address::{is_domain_name, is_loopback_host};
use nebula_core::duration;
use nebula_core::exit::{Exit, Fatal};
use nebula_core::telemetry::{LogFormat, LogLevel};
use nebula_core::token::Secret;

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
    /// The port on which Caddy serves; :443 means TLS by Caddy
    #[arg(long, env = "NEBULAD_CADDY_LISTEN", default_value = ":443", global = true)]
    pub caddy_listen: String,
    /// Nodes get their host names below this domain
    #[arg(long, env = "NEBULAD_GATEWAY_DOMAIN", default_value = "gateway.nebulactl.com", global = true)]
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
    #[arg(long, env = "NEBULAD_ROUTE53_REGION", default_value = "us-east-1", global = true)]
    pub route53_region: String,
    /// TTL of DNS records, in seconds
    #[arg(long, env = "NEBULAD_ROUTE53_TTL", default_value_t = 300, global = true)]
    pub route53_ttl: u32,
    /// Another Route 53 endpoint
    #[arg(long, env = "NEBULAD_ROUTE53_ENDPOINT_URL", global = true)]
    pub route53_endpoint_url: Option<String>,
    /// The address to which DNS records point
    #[arg(long, env = "NEBULAD_GATEWAY_IP", global = true)]
    pub gateway_ip: Option<IpAddr>,
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
    /// How long requests in flight may take when nebulad stops
    #[arg(long, env = "NEBULAD_SHUTDOWN_GRACE", default_value = "30", value_parser = duration::parse, global = true)]
    pub shutdown_grace: Duration,
}

impl Flags {
    /// An environment variable that is set to nothing is not set.
    fn drop_empty(&mut self) {
        let optional = [
            &mut self.caddy_admin_url,
            &mut self.route53_hosted_zone_id,
            &mut self.route53_access_key_id,
            &mut self.route53_secret_access_key,
            &mut self.route53_endpoint_url,
            &mut self.admin_token,
        ];
        for value in optional {
            value.take_if(|text| text.is_empty());
        }
        self.data_dir.take_if(|dir| dir.as_os_str().is_empty());
    }
}

/// A configuration that makes sense.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where durable state is kept.
    pub data_dir: PathBuf,
    /// The address to listen on.
    pub bind: IpAddr,
    /// For agents; 0: any free port.
    pub grpc_port: u16,
    /// For clients and operators; 0: any free port.
    pub http_port: u16,
    /// Begins with a slash and does not end with one; may be empty.
    pub api_prefix: String,
    /// Nodes get their host names below it.
    pub gateway_domain: String,
    /// A node that is silent for this long is offline.
    pub heartbeat_timeout: Duration,
    /// How often agents report.
    pub heartbeat_interval: Duration,
    /// How long known nodes are waited for after a start.
    pub restart_grace: Duration,
    /// The operator's token, if it was given.
    pub admin_token: Option<Secret>,
    /// Origins from which browsers may call the gateway.
    pub cors_allow_origins: Vec<String>,
    /// The largest request body that the gateway takes.
    pub max_body_bytes: usize,
    /// To the first byte of an answer.
    pub upstream_timeout: Duration,
    /// Between two bytes of an answer.
    pub upstream_idle_timeout: Duration,
    /// For requests in flight when nebulad stops.
    pub shutdown_grace: Duration,
    /// What the operator should know although it is allowed.
    pub warnings: Vec<String>,
}

impl Config {
    /// As operators see it: no secret in it.
    #[must_use]
    pub fn redacted(&self) -> serde_json::Value {
        serde_json::json!({
            "data_dir": self.data_dir,
            "bind": self.bind,
            "grpc_port": self.grpc_port,
            "http_port": self.http_port,
            "api_prefix": self.api_prefix,
            "gateway_domain": self.gateway_domain,
            "heartbeat_timeout_seconds": self.heartbeat_timeout.as_secs(),
            "default_heartbeat_interval_seconds": self.heartbeat_interval.as_secs(),
            "restart_grace_seconds": self.restart_grace.as_secs(),
            "admin_token": if self.admin_token.is_some() { "given" } else { "made at the first start" },
            "cors_allow_origin": self.cors_allow_origins,
            "max_body_bytes": self.max_body_bytes,
            "upstream_timeout_seconds": self.upstream_timeout.as_secs(),
            "upstream_idle_timeout_seconds": self.upstream_idle_timeout.as_secs(),
            "shutdown_grace_seconds": self.shutdown_grace.as_secs(),
            "warnings": self.warnings,
        })
    }
}

/// Where durable state is kept unless it is said.
const DATA_DIR: &str = "/var/lib/nebulad";

/// The shortest admin token that is taken.
const ADMIN_TOKEN_CHARS_MIN: usize = 16;

impl TryFrom<Flags> for Config {
    type Error = Fatal;

    /// Checks everything and reports all that is wrong in one error.
    fn try_from(mut flags: Flags) -> Result<Self, Fatal> {
        flags.drop_empty();
        let mut wrong = Vec::new();
        let mut warnings = Vec::new();
        let bind = bind_address(&flags, &mut wrong, &mut warnings);
        check_times(&flags, &mut wrong, &mut warnings);
        check_edge(&flags, &mut wrong, &mut warnings);
        let api_prefix = flags.api_prefix.trim_end_matches('/').to_owned();
        let prefix_is_path = api_prefix.is_empty()
            || (api_prefix.starts_with('/')
                && !api_prefix.contains("//")
                && api_prefix
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.')));
        if !prefix_is_path
            || api_prefix.starts_with("/api/")
            || matches!(api_prefix.as_str(), "" | "/api" | "/admin")
        {
            wrong.push(format!("--api-prefix \"{}\" is no path of its own such as /v1", flags.api_prefix));
        }
        if flags.max_body_bytes == 0 {
            wrong.push("--max-body-bytes is 0".to_owned());
        }
        let long_enough =
            |token: &String| token.len() >= ADMIN_TOKEN_CHARS_MIN && !token.contains(char::is_whitespace);
        if flags.admin_token.as_ref().is_some_and(|token| !long_enough(token)) {
            wrong.push(format!(
                "--admin-token is shorter than {ADMIN_TOKEN_CHARS_MIN} characters or holds spaces"
            ));
        }
        if !wrong.is_empty() {
            return Err(Fatal::new(Exit::Config, wrong.join("; "))
                .hint("nebulad --help lists the flags; nebulad check-config checks them without starting"));
        }
        Ok(Self {
            data_dir: flags.data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR)),
            bind,
            grpc_port: flags.grpc_port,
            http_port: flags.http_port,
            api_prefix,
            gateway_domain: flags.gateway_domain.to_ascii_lowercase(),
            heartbeat_timeout: flags.heartbeat_timeout,
            heartbeat_interval: flags.default_heartbeat_interval,
            restart_grace: flags.restart_grace,
            admin_token: flags.admin_token.map(Secret::from_text),
            cors_allow_origins: flags.cors_allow_origin,
            max_body_bytes: flags.max_body_bytes,
            upstream_timeout: flags.upstream_timeout,
            upstream_idle_timeout: flags.upstream_idle_timeout,
            shutdown_grace: flags.shutdown_grace,
            warnings,
        })
    }
}

fn bind_address(flags: &Flags, wrong: &mut Vec<String>, warnings: &mut Vec<String>) -> IpAddr {
    let address =
        if flags.bind == "localhost" { Ok(IpAddr::from([127, 0, 0, 1])) } else { flags.bind.parse() };
    let address = address.unwrap_or_else(|_| {
        wrong.push(format!("--bind \"{}\" is no IP address", flags.bind));
        IpAddr::from([127, 0, 0, 1])
    });
    if !is_loopback_host(&address.to_string()) {
        if flags.insecure {
            warnings.push("others can reach this address and nothing is encrypted (--insecure)".to_owned());
        } else {
            wrong.push(format!(
                "--bind {address} can be reached by others and TLS is not built yet; bind to 127.0.0.1 or add --insecure"
            ));
        }
    }
    address
}

fn check_times(flags: &Flags, wrong: &mut Vec<String>, warnings: &mut Vec<String>) {
    let interval = flags.default_heartbeat_interval;
    if interval < Duration::from_secs(1) || interval.subsec_nanos() != 0 {
        wrong.push("--default-heartbeat-interval is not a whole number of seconds from 1".to_owned());
    }
    if flags.heartbeat_timeout < interval * 2 {
        wrong.push(format!(
            "--heartbeat-timeout {} is below twice the heartbeat interval {}",
            duration::human(flags.heartbeat_timeout),
            duration::human(interval)
        ));
    }
    let grace_min = interval * 2 + Duration::from_secs(30);
    if flags.restart_grace < grace_min {
        warnings.push(format!(
            "--restart-grace {} is short: nodes may be declared offline after a restart; {} would do",
            duration::human(flags.restart_grace),
            duration::human(grace_min)
        ));
    }
    for (name, value) in [
        ("--upstream-timeout", flags.upstream_timeout),
        ("--upstream-idle-timeout", flags.upstream_idle_timeout),
    ] {
        if value.is_zero() {
            wrong.push(format!("{name} is 0"));
        }
    }
}

fn check_edge(flags: &Flags, wrong: &mut Vec<String>, warnings: &mut Vec<String>) {
    let domain = &flags.gateway_domain;
    if !is_domain_name(domain) || !domain.contains('.') || domain.parse::<IpAddr>().is_ok() {
        wrong.push(format!("--gateway-domain \"{domain}\" is no domain name"));
    }
    let urls = [
        ("--caddy-admin-url", flags.caddy_admin_url.as_ref()),
        ("--route53-endpoint-url", flags.route53_endpoint_url.as_ref()),
    ];
    for (name, url) in urls.into_iter().filter_map(|(name, url)| Some((name, url?))) {
        let valid = url
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
        if !valid {
            wrong.push(format!("{name} \"{url}\" is no http:// or https:// address"));
        }
    }
    if !flags
        .caddy_listen
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        wrong.push(format!("--caddy-listen \"{}\" is no :port", flags.caddy_listen));
    }
    if flags.route53_access_key_id.is_some() != flags.route53_secret_access_key.is_some() {
        wrong.push("--route53-access-key-id and --route53-secret-access-key belong together".to_owned());
    }
    if flags.route53_ttl == 0 {
        wrong.push("--route53-ttl is 0".to_owned());
    }
    if flags.route53_hosted_zone_id.is_some() && flags.gateway_ip.is_none() {
        wrong.push(
            "--route53-hosted-zone-id needs --gateway-ip, the address that records point to".to_owned(),
        );
    }
    if flags.caddy_admin_url.is_some() || flags.route53_hosted_zone_id.is_some() {
        warnings.push(
            "this version does not manage Caddy or Route 53 yet; their flags are checked only".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, Fatal> {
        let cli =
            Cli::try_parse_from(std::iter::once("nebulad").chain(args.iter().copied())).expect("parsed");
        Config::try_from(cli.flags)
    }

    #[test]
    fn the_defaults_make_sense() {
        let config = config(&[]).expect("valid");
        assert_eq!(config.heartbeat_timeout, Duration::from_secs(90));
        assert_eq!((config.grpc_port, config.http_port), (9090, 8080));
        assert_eq!(config.warnings, Vec::<String>::new());
    }

    #[test]
    fn flags_stand_before_or_after_the_sub_command() {
        for args in [["nebulad", "--http-port", "1", "dev"], ["nebulad", "dev", "--http-port", "1"]] {
            assert_eq!(Cli::try_parse_from(args).expect("parsed").flags.http_port, 1);
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let error = config(&[
            "--heartbeat-timeout",
            "59",
            "--gateway-domain",
            "not a domain",
            "--bind",
            "0.0.0.0",
            "--api-prefix",
            "/admin",
        ])
        .expect_err("wrong");
        assert_eq!(error.exit, Exit::Config);
        for part in ["--heartbeat-timeout 59.0 s", "--gateway-domain", "--bind 0.0.0.0", "--api-prefix"] {
            assert!(error.message.contains(part), "{part} in {}", error.message);
        }
    }

    #[test]
    fn an_open_address_without_tls_must_be_wanted() {
        let config = config(&["--bind", "0.0.0.0", "--insecure"]).expect("allowed");
        assert_eq!(config.warnings.len(), 1);
    }
}
