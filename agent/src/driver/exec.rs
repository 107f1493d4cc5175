//! Running a command beside a replica: a session with its input, its outputs and its exit code, the same for both
//! drivers.
//!
//! A session is two bounded channels. Whoever does not read stops the command at its next word; whoever does not
//! write stops nobody. Dropping the session kills what it runs.

mod container;
mod mark;
mod process;
mod pump;

use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;

pub(crate) use self::container::run_in;
pub(crate) use self::process::{Beside, run};

/// Pieces of input, and of output, that may wait.
const INPUTS_WAITING: usize = 2;
const OUTPUTS_WAITING: usize = 8;
/// What ends the input of a terminal's line discipline.
const END_OF_TRANSMISSION: u8 = 4;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// The program and its arguments.
    pub(crate) words: Vec<String>,
    /// The window of the terminal that it gets; none: it gets pipes.
    pub(crate) tty: Option<Window>,
}

/// The size of a terminal's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

impl Default for Window {
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// What goes in.
#[derive(Debug)]
pub(crate) enum Input {
    Data(Bytes),
    /// Nothing more follows. On a terminal: what Ctrl-D says.
    Close,
    Resize(Window),
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last one: the exit code as shells count it.
    Exit(i32),
}

/// Why there is no exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// There is no such program.
    #[error("the program \"{0}\" is not there")]
    NoProgram(String),
    /// The replica ended meanwhile.
    #[error("nothing runs: the replica has just ended")]
    Gone,
    /// The Docker Engine did not do it.
    #[error("{0}")]
    Engine(String),
    /// It took too long and was killed.
    #[error("the command did not end within {0} s and was killed")]
    TimedOut(u64),
    /// The operating system refused.
    #[error("the command cannot be run: {0}")]
    Io(#[from] io::Error),
}

/// A command that runs.
pub(crate) struct Session {
    /// Closed by the session when the command takes no more.
    pub(crate) input: mpsc::Sender<Input>,
    /// Ends after [`Output::Exit`] or an error.
    pub(crate) output: mpsc::Receiver<Result<Output, ExecError>>,
}

/// The session's own ends of its channels.
struct Inside {
    input: mpsc::Receiver<Input>,
    output: mpsc::Sender<Result<Output, ExecError>>,
}

impl Session {
    fn new() -> (Self, Inside) {
        let (input_in, input_out) = mpsc::channel(INPUTS_WAITING);
        let (output_in, output_out) = mpsc::channel(OUTPUTS_WAITING);
        let inside = Inside { input: input_out, output: output_in };
        (Self { input: input_in, output: output_out }, inside)
    }
}

/// Marks the end of input on a terminal: a line that is not ended takes two.
fn end_of_input(last: Option<u8>) -> &'static [u8] {
    const TWICE: [u8; 2] = [END_OF_TRANSMISSION; 2];
    let at_line_start = matches!(last, None | Some(b'\n' | b'\r' | END_OF_TRANSMISSION));
    if at_line_start { TWICE.split_at(1).0 } else { &TWICE }
}
