//! The process driver: runtimes as child processes of the agent.
//!
//! A process leads its own process group, writes its output straight into its log, and carries its replica's id in
//! its environment. So it outlives an agent that dies, and the next agent finds it.

pub(crate) mod exec;
pub(crate) mod logs;
pub(crate) mod process;
pub(crate) mod procfs;
pub(crate) mod programs;
pub(crate) mod sockets;
