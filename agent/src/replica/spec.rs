//! What a replica is: what to run, who may call it, and which process it is.

use std::collections::BTreeMap;
use std::fmt;

use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::source::ModelSource;
use nebula_core::token::TokenHash;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The engine.
    pub runtime: RuntimeKind,
    /// The model as the user named it.
    pub model: String,
    /// Where its weights come from; none: the runtime finds it by its name.
    pub source: Option<ModelSource>,
    /// The name under which the runtime serves it.
    pub served_name: String,
    /// Replaces the runtime's own command line.
    pub command: Vec<String>,
    /// Follows the command line.
    pub args: Vec<String>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// Indices of the GPUs it may use; empty: nothing is said to the runtime.
    pub gpu_devices: Vec<u32>,
    /// The container image; none: the runtime's usual one.
    pub image: Option<String>,
    /// How it is run; none: as the node does.
    pub driver: Option<Driver>,
}

/// Who may call a replica through the auth proxy. With no token and not public: nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// No token is needed.
    pub public: bool,
    /// Hashes of the deployment tokens that are valid.
    pub tokens: Vec<TokenHash>,
    /// Hash of what nebulad's gateway shows.
    pub gateway: Option<TokenHash>,
}

impl Access {
    /// Whether someone who shows `token` may call.
    pub fn admits(&self, token: Option<&str>) -> bool {
        if self.public {
            return true;
        }
        let Some(token) = token else { return false };
        let shown = TokenHash::of(token);
        self.tokens.iter().chain(&self.gateway).fold(false, |found, known| found | known.same(&shown))
    }
}

/// One process of this machine, told apart from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessRef {
    /// Its number, which is also that of its process group.
    pub pid: u32,
    /// When it started, in clock ticks since the machine booted.
    pub started: u64,
    /// Which boot of the machine.
    pub boot: [u8; 16],
}

/// One container of the Docker Engine, by its id, which is never given twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerRef(pub [u8; 32]);

impl fmt::Debug for ContainerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl ContainerRef {
    /// The id in hex, as the Engine takes it.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// An id as the Engine writes it: 64 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut id = [0; 32];
        if text.len() != 2 * id.len() || !text.is_ascii() {
            return None;
        }
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(id))
    }
}

/// What runs for a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    /// A child process of an agent.
    Process(ProcessRef),
    /// A container.
    Container(ContainerRef),
}

impl Instance {
    /// The process, if it is one.
    pub fn process(self) -> Option<ProcessRef> {
        match self {
            Self::Process(process) => Some(process),
            Self::Container(_) => None,
        }
    }

    /// The container, if it is one.
    pub fn container(self) -> Option<ContainerRef> {
        match self {
            Self::Process(_) => None,
            Self::Container(container) => Some(container),
        }
    }

    /// Its number or its whole id, as it is told to nebulad.
    pub fn id(self) -> String {
        match self {
            Self::Process(process) => process.pid.to_string(),
            Self::Container(container) => container.to_hex(),
        }
    }
}

impl fmt::Display for Instance {
    /// For people: `process 7`, or `container` and the first digits of its id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => write!(f, "process {}", process.pid),
            Self::Container(container) => write!(f, "container {:.12}", container.to_hex()),
        }
    }
}

/// How a process or a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code, if it exited by itself and somebody saw it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// It was killed because it had no memory left.
    pub out_of_memory: bool,
    /// It went with the Docker Engine, or the Engine lost it: that says nothing about the runtime.
    pub blameless: bool,
    /// The last lines that it wrote.
    pub output: String,
    /// By then somebody else listened on its port.
    pub port_taken: bool,
}

impl Ended {
    /// What happened, as a phrase after "the runtime".
    pub fn phrase(&self) -> String {
        if self.out_of_memory {
            return format!("had no memory left and was killed (exit code {})", self.exit_code());
        }
        // Whatever code the Engine gave it on the way down is not its own.
        if self.blameless {
            return "went with the Docker Engine".to_owned();
        }
        match (self.code, self.signal) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended while the agent was not watching".to_owned(),
        }
    }

    /// The exit code as shells count it; -1 when nobody knows.
    pub fn exit_code(&self) -> i32 {
        self.code.or(self.signal.map(|signal| 128 + signal)).unwrap_or(-1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_fails_closed() {
        let closed = Access::default();
        assert!(!closed.admits(None));
        assert!(!closed.admits(Some("")));
        assert!(!closed.admits(Some("nbtok_x")));
    }

    #[test]
    fn access_takes_any_valid_token_and_no_other() {
        let access = Access {
            public: false,
            tokens: vec![TokenHash::of("one"), TokenHash::of("two")],
            gateway: Some(TokenHash::of("three")),
        };
        for token in ["one", "two", "three"] {
            assert!(access.admits(Some(token)), "{token}");
        }
        assert!(!access.admits(Some("four")));
        assert!(!access.admits(None));
        assert!(Access { public: true, ..Access::default() }.admits(None));
    }
}
