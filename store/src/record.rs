//! What the store keeps under a key, and how large it may be.

/// The most bytes a payload may have. Larger ones would leave the log for files that the engine never syncs.
pub const MAX_VALUE_BYTES: usize = 7 * 1024;

/// The most bytes a key may have.
pub const MAX_KEY_BYTES: usize = 512;

/// The most bytes one batch may have, keys and preconditions included.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// The kinds from here up are the store's own.
pub(crate) const OWN_KINDS: u8 = 0xF0;

/// One value: what it is, in which version, and its bytes as [`crate::codec::encode`] made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the payload is; each kind is given once and never reused. 0xF0 and above belong to the store.
    pub kind: u8,
    /// The version of the payload's layout within its kind.
    pub schema: u16,
    /// The encoded value, at most [`MAX_VALUE_BYTES`].
    pub payload: Vec<u8>,
}
