//! What supervision sees of a message: its type, and a fingerprint by which the same message is known when it comes
//! again.

use std::fmt::{self, Write as _};

use nebula_core::telemetry::redact;

use crate::domain::poison::TEXT_MAX;

mod gists;

/// A message that supervision can tell from others. Its `Debug` shows no secret: it is kept when the message is set
/// aside.
pub trait Traced: fmt::Debug {
    /// Whether it is set aside when its actor falls over it each time.
    const SET_ASIDE: bool = true;

    /// What is the same when the same thing is sent again: no id, time or measurement that is new each time.
    ///
    /// # Errors
    /// Those of the formatter.
    fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Its type, without the crate's name.
    pub(crate) message: &'static str,
    /// The hash of its gist; none for one that is never set aside.
    pub(crate) fingerprint: Option<u64>,
}

impl Subject {
    pub(crate) fn of<M: Traced>(message: &M) -> Self {
        let name = std::any::type_name::<M>();
        let name = name.split_once("actors::").map_or(name, |(_, rest)| rest);
        let fingerprint = M::SET_ASIDE.then(|| {
            let mut hash = Fnv::new();
            let _ = write!(hash, "{name} {:?}", Gist(message));
            hash.0
        });
        Self { message: name, fingerprint }
    }
}

/// What a message says, cut to [`TEXT_MAX`], without credentials.
pub(crate) fn text_of<M: fmt::Debug>(message: &M) -> String {
    let mut text = Clipped(String::new());
    let _ = write!(text, "{message:?}");
    redact(text.0)
}

struct Gist<'a, M>(&'a M);

impl<M: Traced> fmt::Debug for Gist<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.gist(f)
    }
}

/// FNV-1a. Fingerprints are stored, so the hash must stay the same over releases, which the standard library's does
/// not promise.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

struct Clipped(String);

impl fmt::Write for Clipped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_MAX - self.0.len().min(TEXT_MAX);
        let end = (0..=room.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        self.0.push_str(text.get(..end).unwrap_or_default());
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sent(u32, String);

    impl fmt::Debug for Sent {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Sent({}, {})", self.0, self.1)
        }
    }

    impl Traced for Sent {
        fn gist(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.1)
        }
    }

    struct Plain(u32);

    impl fmt::Debug for Plain {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Plain({})", self.0)
        }
    }

    impl Traced for Plain {}

    #[test]
    fn the_same_message_sent_again_has_the_same_fingerprint() {
        let of = |n, text: &str| Subject::of(&Sent(n, text.to_owned()));
        assert_eq!(of(1, "a"), of(2, "a"));
        assert_ne!(of(1, "a").fingerprint, of(1, "b").fingerprint);
        assert_ne!(Subject::of(&Plain(1)).fingerprint, Subject::of(&Plain(2)).fingerprint);
        assert_eq!(of(1, "a").message, "traced::tests::Sent");
        // Stored fingerprints must be found again by later releases.
        assert_eq!(Subject::of(&Plain(1)).fingerprint, Some(0xed16_b67a_7513_20ad));
    }

    #[test]
    fn texts_are_cut_at_a_character_and_hold_no_credential() {
        let long = text_of(&Sent(1, "é".repeat(TEXT_MAX)));
        assert!(long.len() <= TEXT_MAX && long.len() > TEXT_MAX - 4, "{}", long.len());
        assert!(!text_of(&Sent(1, "nbtok_0123".to_owned())).contains("0123"));
    }
}
