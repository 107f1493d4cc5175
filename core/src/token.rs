//! Credentials: typed by prefix, kept as SHA-256 hashes, compared in constant time, never printed.

use std::fmt;

use rand::TryRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a credential opens; its prefix tells people and secret scanners apart which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// The data plane of one deployment.
    Deployment,
    /// What nebulad's gateway shows to an agent's proxy.
    Gateway,
    /// The management API and `/admin`.
    Admin,
    /// An API key: the models that it lists, at the gateway.
    Key,
}

impl TokenKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Deployment => "nbtok_",
            Self::Gateway => "nbgw_",
            Self::Admin => "nbadm_",
            Self::Key => "nbkey_",
        }
    }
}

/// The system's random source failed: no token is made rather than a weak one.
#[derive(Debug, thiserror::Error)]
#[error("the system's random source failed, so no token was made")]
pub struct NoRandomness;

/// A secret that may be shown once or sent, but never printed by accident.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A new credential: the kind's prefix and 192 random bits in hex.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn generate(kind: TokenKind) -> Result<Self, NoRandomness> {
        let mut bytes = [0u8; 24];
        rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(format!("{}{}", kind.prefix(), hex(&bytes))))
    }

    /// A secret that came from outside.
    #[must_use]
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Whoever calls this decides that it may leave.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let visible = self.0.find('_').map_or(0, |at| at + 1);
        write!(f, "{}…", self.0.get(..visible).unwrap_or_default())
    }
}

/// The SHA-256 of a credential. The credentials have 192 bits of entropy, so a fast hash is right.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash([u8; 32]);

/// A text that is not 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token hash is 64 hex digits")]
pub struct InvalidHash;

impl TokenHash {
    /// The hash of a token's text.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self::of_bytes(token.as_bytes())
    }

    /// The hash of these bytes.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Whether `token` is the one that was hashed, in time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, token: &str) -> bool {
        self.same(&Self::of(token))
    }

    /// Whether two hashes are equal, in constant time.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The 32 bytes, for storage.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash with these 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// 64 lower-case hex digits, as the wire carries it.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// Reads 64 hex digits.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, InvalidHash> {
        let mut bytes = [0u8; 32];
        // A sign would be read as part of a number.
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidHash);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| InvalidHash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidHash)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for TokenHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::from_hex(&text)
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hash.to_hex()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// The token of an `Authorization` header: after `Bearer ` in any case, or the bare value.
#[must_use]
pub fn bearer(header: &str) -> Option<&str> {
    let value = header.trim();
    let token = match value.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
        Some(_) => return None,
        None => value,
    };
    (!token.is_empty()).then_some(token)
}

/// Lower-case hex digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_form_and_never_repeat() {
        let one = Secret::generate(TokenKind::Deployment).expect("randomness");
        let two = Secret::generate(TokenKind::Deployment).expect("randomness");
        assert_ne!(one.expose(), two.expose());
        assert_eq!(one.expose().len(), 54);
        assert!(one.expose().starts_with("nbtok_"));
        assert_eq!(format!("{one:?}"), "nbtok_…");
    }

    #[test]
    fn a_hash_knows_its_token_only() {
        let token = Secret::generate(TokenKind::Gateway).expect("randomness");
        let hash = TokenHash::from_hex(&token.hash().to_hex()).expect("hex");
        assert!(hash.matches(token.expose()));
        assert!(!hash.matches("nbgw_0"));
        assert!(!hash.matches(""));
        for text in [String::new(), "0".repeat(63), "+0".repeat(32), "g".repeat(64)] {
            assert_eq!(TokenHash::from_hex(&text), Err(InvalidHash), "{text}");
        }
    }

    #[test]
    fn authorization_headers_are_read_leniently_but_not_other_schemes() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("  "), None);
    }
}
