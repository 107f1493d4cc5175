//! Whom an answer is for.

/// A caller who waits for a reply; the machine names it, the shell knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplyTo(pub u64);
