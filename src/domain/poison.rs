//! Messages that were set aside because they made their actor fall.

use nebula_core::clock::WallTime;

/// So many falls over the same message, and it is set aside.
pub const KILLS_MAX: u32 = 3;
/// How many messages are kept aside, over all actors; the oldest go first.
pub const SET_ASIDE_MAX: usize = 100;
/// How much of a message's text is kept, in bytes.
pub const TEXT_MAX: usize = 4_096;

/// A message that is not delivered to its actor any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    /// The actor's path.
    pub path: String,
    /// The message's type.
    pub message: String,
    /// What tells it from others: a hash of what is the same whenever it is sent again.
    pub fingerprint: u64,
    /// What it says, without secrets, cut to [`TEXT_MAX`].
    pub text: String,
    /// How often its actor fell over it.
    pub kills: u32,
    /// The first time.
    pub first_at: WallTime,
    /// The last time.
    pub last_at: WallTime,
}
