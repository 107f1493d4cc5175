//! Serving engines and how they are run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A serving engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// vLLM.
    Vllm,
    /// Hugging Face's Text Generation Inference.
    Tgi,
    /// Ollama, spoken to by its native API.
    Ollama,
    /// NVIDIA Triton with its OpenAI front end.
    Triton,
    /// llama.cpp's server.
    Llamacpp,
    /// The simulated runtime of `nebula-sim`.
    Sim,
}

/// How a runtime is run on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A container of a Docker Engine.
    Docker,
    /// A child process of the agent.
    Process,
}

/// A name that is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} \"{text}\"; known: {known}")]
pub struct UnknownName {
    what: &'static str,
    text: String,
    known: String,
}

impl UnknownName {
    fn new(what: &'static str, text: &str, known: &[&str]) -> Self {
        Self { what, text: text.chars().take(60).collect(), known: known.join(", ") }
    }
}

impl RuntimeKind {
    /// All of them, in the order in which they are listed to people.
    pub const ALL: [Self; 6] = [Self::Vllm, Self::Tgi, Self::Ollama, Self::Triton, Self::Llamacpp, Self::Sim];

    /// The name on the wire and in commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Tgi => "tgi",
            Self::Ollama => "ollama",
            Self::Triton => "triton",
            Self::Llamacpp => "llamacpp",
            Self::Sim => "sim",
        }
    }

    /// How many GPUs a replica wants when nothing is said.
    #[must_use]
    pub fn default_gpu_count(self) -> u32 {
        match self {
            Self::Vllm | Self::Tgi | Self::Triton => 1,
            Self::Ollama | Self::Llamacpp | Self::Sim => 0,
        }
    }
}

impl FromStr for RuntimeKind {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownName::new("runtime", text, &Self::ALL.map(Self::as_str)))
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Driver {
    /// The name on the wire and in commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
        }
    }
}

impl FromStr for Driver {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "docker" => Ok(Self::Docker),
            "process" => Ok(Self::Process),
            _ => Err(UnknownName::new("driver", text, &["docker", "process"])),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_runtime_is_read_back_from_its_name() {
        for kind in RuntimeKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        let error = "vlm".parse::<RuntimeKind>().expect_err("no such runtime");
        assert_eq!(
            error.to_string(),
            "unknown runtime \"vlm\"; known: vllm, tgi, ollama, triton, llamacpp, sim"
        );
    }
}
