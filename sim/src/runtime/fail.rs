//! The ways in which the simulated runtime can fail on request.

use std::fmt;
use std::str::FromStr;

/// How the runtime fails. In streams, N counts what the client sees: SSE events or NDJSON lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fail {
    /// Not at all.
    #[default]
    None,
    /// It ends with an error before it listens.
    ExitAtStart,
    /// `/health` and the APIs say 503 for ever.
    NeverReady,
    /// It answers N requests and ends, with exit code 1 and without a word, when the next one comes.
    ExitAfter(u64),
    /// Every answer is a 500.
    Error500,
    /// Every answer is a 429 with `Retry-After`.
    Error429,
    /// It accepts and reads requests and sends nothing, not even a status.
    Hang,
    /// The connection breaks after N chunks; an answer in one piece breaks in its middle.
    DieMidStream(u64),
    /// The body ends cleanly after N chunks without any finish; an answer in one piece ends in its middle.
    CutShort(u64),
    /// An error is sent inside the stream after N chunks; an answer in one piece is a 500.
    ErrorMidStream(u64),
    /// The stream lacks its last line: `[DONE]`, or Ollama's `"done":true`.
    NoDone,
    /// A 200 whose body is no JSON.
    Garbage,
}

/// A text that names no failure mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidFail(String);

impl fmt::Display for InvalidFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown failure mode \"{}\"; known: {KNOWN}", self.0)
    }
}

impl std::error::Error for InvalidFail {}

const KNOWN: &str = "none, exit-at-start, never-ready, exit-after:N, error-500, error-429, hang, \
                     die-mid-stream:N, cut-short:N, error-mid-stream:N, no-done, garbage";

impl FromStr for Fail {
    type Err = InvalidFail;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || InvalidFail(text.chars().take(40).collect());
        let Some((mode, number)) = text.split_once(':') else {
            return match text {
                "none" => Ok(Self::None),
                "exit-at-start" => Ok(Self::ExitAtStart),
                "never-ready" => Ok(Self::NeverReady),
                "error-500" => Ok(Self::Error500),
                "error-429" => Ok(Self::Error429),
                "hang" => Ok(Self::Hang),
                "no-done" => Ok(Self::NoDone),
                "garbage" => Ok(Self::Garbage),
                _ => Err(fail()),
            };
        };
        let number = number.parse().map_err(|_| fail())?;
        match mode {
            "exit-after" => Ok(Self::ExitAfter(number)),
            "die-mid-stream" => Ok(Self::DieMidStream(number)),
            "cut-short" => Ok(Self::CutShort(number)),
            "error-mid-stream" => Ok(Self::ErrorMidStream(number)),
            _ => Err(fail()),
        }
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::ExitAtStart => f.write_str("exit-at-start"),
            Self::NeverReady => f.write_str("never-ready"),
            Self::ExitAfter(n) => write!(f, "exit-after:{n}"),
            Self::Error500 => f.write_str("error-500"),
            Self::Error429 => f.write_str("error-429"),
            Self::Hang => f.write_str("hang"),
            Self::DieMidStream(n) => write!(f, "die-mid-stream:{n}"),
            Self::CutShort(n) => write!(f, "cut-short:{n}"),
            Self::ErrorMidStream(n) => write!(f, "error-mid-stream:{n}"),
            Self::NoDone => f.write_str("no-done"),
            Self::Garbage => f.write_str("garbage"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_mode_is_read_and_printed_alike() {
        for name in KNOWN.split(", ") {
            let text = name.replace(":N", ":7");
            assert_eq!(text.parse::<Fail>().map(|fail| fail.to_string()), Ok(text.clone()), "{text}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "hang:1", "exit-after", "exit-after:", "exit-after:-1", "die-mid-stream:x", "None"] {
            assert!(text.parse::<Fail>().is_err(), "{text}");
        }
    }
}
