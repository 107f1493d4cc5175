//! How a command can end badly.

use std::io;

use nebula_core::exit::{Exit, Fatal};

/// What commands return.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command ended before it was done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error that the user has to know of.
    Fatal(Fatal),
    /// A command that was run elsewhere ended with this code, which becomes ours. It has said why.
    Code(u8),
    /// The reader of standard output went away (`nebulactl list | head -1`): nobody is left to serve.
    ClosedPipe,
}

impl From<Fatal> for Failure {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

/// A failed write to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ClosedPipe
        } else {
            Self::Fatal(Fatal::new(Exit::Failed, format!("the output cannot be written: {error}")))
        }
    }
}

/// A failure with exit code 1.
pub(crate) fn failed(message: impl Into<String>) -> Fatal {
    Fatal::new(Exit::Failed, message)
}

/// `text` on one line, with nothing in it that a terminal would obey.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_becomes_one_harmless_line() {
        assert_eq!(one_line("a\n  b\u{1b}[31m\tc\r\n"), "a b [31m c");
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
        assert!(matches!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)), Failure::ClosedPipe));
        assert!(matches!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)), Failure::Fatal(_)));
    }
}
