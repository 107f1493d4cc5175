//! How one request is to be played: the command line's settings, overruled by the request's headers.

use std::time::Duration;

use nebula_core::duration;

use super::args::{Args, TOKENS_MAX};
use super::fail::Fail;

/// Pace, length and failure of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) ttft: Duration,
    pub(crate) token_interval: Duration,
    pub(crate) tokens: u32,
    pub(crate) fail: Fail,
}

impl Plan {
    /// Reads the `x-sim-*` headers through `header`; the error is one line that names the header.
    pub(crate) fn read<'h>(
        args: &Args,
        header: impl Fn(&'static str) -> Option<&'h str>,
    ) -> Result<Self, String> {
        let mut plan = Self {
            ttft: args.ttft,
            token_interval: args.token_interval,
            tokens: args.tokens,
            fail: args.fail,
        };
        if let Some(text) = header("x-sim-ttft") {
            plan.ttft = duration::parse(text).map_err(|error| format!("x-sim-ttft: {error}"))?;
        }
        if let Some(text) = header("x-sim-token-interval") {
            plan.token_interval =
                duration::parse(text).map_err(|error| format!("x-sim-token-interval: {error}"))?;
        }
        if let Some(text) = header("x-sim-tokens") {
            plan.tokens = text
                .parse()
                .ok()
                .filter(|tokens| (1..=TOKENS_MAX).contains(tokens))
                .ok_or_else(|| format!("x-sim-tokens: \"{text}\" is no number from 1 to {TOKENS_MAX}"))?;
        }
        if let Some(text) = header("x-sim-fail") {
            plan.fail = text.parse().map_err(|error| format!("x-sim-fail: {error}"))?;
            if matches!(plan.fail, Fail::ExitAtStart | Fail::NeverReady) {
                return Err(format!("x-sim-fail: \"{text}\" is for the command line only"));
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(headers: &[(&str, &'static str)]) -> Result<Plan, String> {
        Plan::read(&Args::default(), |name| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| *value))
    }

    #[test]
    fn headers_overrule_the_command_line() {
        let plan = plan(&[
            ("x-sim-ttft", "1s"),
            ("x-sim-token-interval", "3ms"),
            ("x-sim-tokens", "5"),
            ("x-sim-fail", "hang"),
        ]);
        let want = Plan {
            ttft: Duration::from_secs(1),
            token_interval: Duration::from_millis(3),
            tokens: 5,
            fail: Fail::Hang,
        };
        assert_eq!(plan, Ok(want));
    }

    #[test]
    fn a_bad_header_is_named() {
        for header in [
            ("x-sim-ttft", "soon"),
            ("x-sim-token-interval", ""),
            ("x-sim-tokens", "0"),
            ("x-sim-tokens", "100001"),
            ("x-sim-fail", "exit-at-start"),
            ("x-sim-fail", "what"),
        ] {
            let error = plan(&[header]).expect_err("refused");
            assert!(error.starts_with(header.0), "{error}");
        }
    }
}
