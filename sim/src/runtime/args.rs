//! The command line of the simulated runtime.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nebula_core::duration;
use nebula_core::exit::{Exit, Fatal};

use super::fail::Fail;

/// The port where neither a flag nor the environment names one.
const DEFAULT_PORT: u16 = 8000;
/// The longest answer, in tokens: an answer is worked out in memory before it is sent.
pub(crate) const TOKENS_MAX: u32 = 100_000;
/// The longest embedding vector: 2048 of them fit in memory.
pub(crate) const DIMENSIONS_MAX: u32 = 4_096;

/// Settings of the simulated runtime. Each is also an environment variable `NEBULA_SIM_<NAME>`.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// Port to listen on; 0 takes a free one [default: the variable PORT, else 8000]
    #[arg(long, env = "NEBULA_SIM_PORT")]
    pub port: Option<u16>,
    /// Address to listen on
    #[arg(long, env = "NEBULA_SIM_BIND", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub bind: IpAddr,
    /// Name of the model that is served
    #[arg(long, env = "NEBULA_SIM_MODEL", default_value = "demo")]
    pub model: String,
    /// Time to the first token
    #[arg(long, env = "NEBULA_SIM_TTFT", default_value = "50ms", value_parser = duration::parse)]
    pub ttft: Duration,
    /// Time between two tokens
    #[arg(long, env = "NEBULA_SIM_TOKEN_INTERVAL", default_value = "10ms", value_parser = duration::parse)]
    pub token_interval: Duration,
    /// Length of an answer in tokens, unless the request wants fewer
    #[arg(long, env = "NEBULA_SIM_TOKENS", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(TOKENS_MAX)))]
    pub tokens: u32,
    /// Length of an embedding vector, unless the request says otherwise
    #[arg(long, env = "NEBULA_SIM_DIMENSIONS", default_value_t = 384,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(DIMENSIONS_MAX)))]
    pub dimensions: u32,
    /// How to fail: none, exit-at-start, never-ready, exit-after:N, error-500, error-429, hang,
    /// die-mid-stream:N, cut-short:N, error-mid-stream:N, no-done, garbage
    #[arg(long, env = "NEBULA_SIM_FAIL", default_value_t = Fail::None)]
    pub fail: Fail,
    /// How long the model takes to load: /health says 503 until then
    #[arg(long, env = "NEBULA_SIM_START_DELAY", default_value = "0", value_parser = duration::parse)]
    pub start_delay: Duration,
    /// Threads that serve requests
    #[arg(long, env = "NEBULA_SIM_WORKERS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Say in each event of an OpenAI stream when it was sent: `sim_sent_us`, microseconds since 1970
    #[arg(long, env = "NEBULA_SIM_STAMP")]
    pub stamp: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            port: None,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            model: "demo".to_owned(),
            ttft: Duration::from_millis(50),
            token_interval: Duration::from_millis(10),
            tokens: 32,
            dimensions: 384,
            fail: Fail::None,
            start_delay: Duration::ZERO,
            workers: 2,
            stamp: false,
        }
    }
}

impl Args {
    /// Where to listen: the flag, else `port_variable` (the value of `PORT`), else the default.
    pub(crate) fn address(&self, port_variable: Option<&str>) -> Result<SocketAddr, Fatal> {
        let port = match (self.port, port_variable) {
            (Some(port), _) => port,
            (None, Some(text)) => text.trim().parse().map_err(|_| {
                Fatal::new(Exit::Config, format!("the variable PORT is \"{text}\", which is no port"))
                    .hint("give a number from 0 to 65535, or --port")
            })?,
            (None, None) => DEFAULT_PORT,
        };
        Ok(SocketAddr::new(self.bind, port))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn defaults_in_code_and_on_the_command_line_agree() {
        assert_eq!(Cli::parse_from(["x"]).args, Args::default());
    }

    #[test]
    fn flags_are_read() {
        let args = Cli::parse_from(
            "x --port 0 --model a/b --ttft 1s --token-interval 0ms --tokens 7 --fail exit-after:3".split(' '),
        )
        .args;
        assert_eq!((args.port, args.model.as_str(), args.tokens), (Some(0), "a/b", 7));
        assert_eq!((args.ttft, args.token_interval), (Duration::from_secs(1), Duration::ZERO));
        assert_eq!(args.fail, Fail::ExitAfter(3));
    }

    #[test]
    fn impossible_flags_are_refused() {
        for flags in
            ["--tokens 0", "--tokens 100001", "--ttft soon", "--fail sometimes", "--bind here", "--workers 0"]
        {
            let line = std::iter::once("x").chain(flags.split(' '));
            assert!(Cli::try_parse_from(line).is_err(), "{flags}");
        }
    }

    #[test]
    fn the_flag_beats_the_variable_beats_the_default() {
        let port = |flag, variable| {
            Args { port: flag, ..Args::default() }.address(variable).map(|address| address.port())
        };
        assert_eq!(port(Some(1), Some("2")), Ok(1));
        assert_eq!(port(None, Some("2")), Ok(2));
        assert_eq!(port(None, None), Ok(8000));
        assert_eq!(port(None, Some("http")).map_err(|fatal| fatal.exit), Err(Exit::Config));
    }
}
