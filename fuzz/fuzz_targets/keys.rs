//! What a client shows as its credential, and the texts that name keys: never a panic, nothing but what was sent, and
//! what is read is written the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nebula_core::ids::{DeploymentId, KeyId, NodeId};
use nebula_core::token::{Secret, TokenHash, bearer};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(token) = bearer(text) {
        assert!(!token.is_empty() && token.trim() == token && text.contains(token));
        assert_eq!(bearer(&format!("Bearer {token}")), Some(token));
        let hash = TokenHash::of(token);
        assert!(hash.matches(token) && hash.same(&TokenHash::of(token)));
        assert!(!hash.matches(&format!("{token}x")));
        let hidden = format!("{:?}", Secret::from_text(token));
        assert!(hidden.len() < 20 || token.find('_').is_some_and(|at| at > 10));
    }
    if let Ok(hash) = TokenHash::from_hex(text) {
        assert_eq!(hash.to_hex(), text.to_ascii_lowercase());
    }
    if let Ok(id) = text.parse::<KeyId>() {
        assert_eq!(id.to_string().parse::<KeyId>(), Ok(id));
    }
    if let Ok(id) = text.parse::<DeploymentId>() {
        assert_eq!(id.to_string().parse::<DeploymentId>(), Ok(id));
    }
    if let Ok(id) = text.parse::<NodeId>() {
        assert_eq!(id.as_str(), text);
    }
});
