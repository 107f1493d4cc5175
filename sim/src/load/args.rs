//! The command line of the load client.

use std::time::Duration;

use nebula_core::duration;

use super::target::Target;

/// Most connections of each kind: a process rarely gets more open files.
const CONNECTIONS_MAX: i64 = 50_000;
/// The largest prompt, in bytes.
const PROMPT_BYTES_MAX: u64 = 64 << 20;
/// Without `--requests` and `--duration`.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// What is asked, how often, and for how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The API's address, up to and with its prefix
    #[arg(long, default_value = "http://127.0.0.1:8080/v1")]
    pub url: Target,
    /// What is asked below that address
    #[arg(long, default_value = "/chat/completions", value_parser = path)]
    pub path: String,
    /// The model's name
    #[arg(long, default_value = "demo")]
    pub model: String,
    /// Sent as bearer token
    #[arg(long, env = "NEBULA_SIM_TOKEN", hide_env_values = true, value_parser = header_value)]
    pub token: Option<String>,
    /// A further header, `name: value`; repeatable
    #[arg(long = "header", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// How many connections ask at the same time; 0 to only hold some open
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(0..=CONNECTIONS_MAX))]
    pub connections: u32,
    /// End after so many requests
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// End after this time [default: 10s, unless --requests is given]
    #[arg(long, value_parser = duration::parse)]
    pub duration: Option<Duration>,
    /// What begins within this time is not counted
    #[arg(long, default_value = "0", value_parser = duration::parse)]
    pub warmup: Duration,
    /// So many requests each second, however long answers take; otherwise as fast as answers come
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
    /// Ask for streams
    #[arg(long)]
    pub stream: bool,
    /// Ask for this many tokens at most
    #[arg(long)]
    pub max_tokens: Option<u32>,
    /// Size of the prompt
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(0..=PROMPT_BYTES_MAX))]
    pub prompt_bytes: u64,
    /// How long one answer may take to its end
    #[arg(long, default_value = "60s", value_parser = duration::parse)]
    pub timeout: Duration,
    /// Hold this many connections open besides, each idle after one answer
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=CONNECTIONS_MAX))]
    pub idle: u32,
    /// Hold this many streams open besides; the model should be slow (x-sim-token-interval)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=CONNECTIONS_MAX))]
    pub hold_streams: u32,
    /// Tell the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// How long requests are begun; none: until there were enough.
    pub(crate) fn over_after(&self) -> Option<Duration> {
        match (self.duration, self.requests) {
            (Some(duration), _) => Some(self.warmup + duration),
            (None, Some(_)) => None,
            (None, None) => Some(self.warmup + DEFAULT_DURATION),
        }
    }
}

fn path(text: &str) -> Result<String, String> {
    let fits = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("write a path such as /chat/completions".to_owned()) }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write `name: value`")?;
    let name = name.trim();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(legal) {
        return Err("a header's name has letters, digits and hyphens".to_owned());
    }
    Ok((name.to_owned(), header_value(value.trim())?))
}

fn header_value(text: &str) -> Result<String, String> {
    let fits = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if fits { Ok(text.to_owned()) } else { Err("a header's value is one line of ASCII".to_owned()) }
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

    fn args(flags: &str) -> Args {
        Cli::parse_from(std::iter::once("x").chain(flags.split_whitespace())).args
    }

    #[test]
    fn it_ends_after_ten_seconds_unless_something_else_ends_it() {
        assert_eq!(args("").over_after(), Some(DEFAULT_DURATION));
        assert_eq!(args("--requests 5").over_after(), None);
        assert_eq!(args("--requests 5 --duration 3s --warmup 1s").over_after(), Some(Duration::from_secs(4)));
    }

    #[test]
    fn impossible_flags_are_refused() {
        for flags in [
            "--url ftp://x",
            "--url https://x",
            "--path chat",
            "--header nothing",
            "--header a/b:c",
            "--requests 0",
            "--rate 0",
            "--token a\nb",
        ] {
            let line = std::iter::once("x").chain(flags.split(' '));
            assert!(Cli::try_parse_from(line).is_err(), "{flags}");
        }
    }
}
