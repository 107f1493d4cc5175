//! Exit codes of all programs, in one table.

/// How a program ended, as scripts and service managers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed in a way no other code names.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The server cannot be reached.
    Unreachable = 69,
    /// A port is taken.
    PortTaken = 71,
    /// The data directory cannot be used.
    DataDir = 73,
    /// Disk error or damaged data.
    Disk = 74,
    /// The data directory is in use by another process.
    InUse = 75,
    /// Not allowed.
    NotAllowed = 77,
    /// Configuration error.
    Config = 78,
}

impl Exit {
    /// The code as the operating system takes it.
    #[must_use]
    pub fn code(self) -> std::process::ExitCode {
        std::process::ExitCode::from(self as u8)
    }
}

/// An error that ends a program: one line that names the thing, what to do about it, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fatal {
    /// How the program ends.
    pub exit: Exit,
    /// One line, no full stop.
    pub message: String,
    /// What the reader can do, if anything.
    pub hint: Option<String>,
}

impl Fatal {
    /// An error without a hint.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// The same error with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints the error to standard error as people read it and returns the exit code.
    pub fn report(&self) -> std::process::ExitCode {
        eprintln!("error: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("\nhint: {hint}");
        }
        self.exit.code()
    }
}
