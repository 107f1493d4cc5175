//! Small things about text.

use nebula_core::text::cut;

/// At most `limit` bytes of a text, cut between characters; what was cut is marked.
pub(crate) fn clip(text: String, limit: usize) -> String {
    const MARK: &str = "…";
    if text.len() > limit { cut(text, limit.saturating_sub(MARK.len())) + MARK } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(clip("short".to_owned(), 5), "short");
        assert_eq!(clip("too long".to_owned(), 6), "too…");
        assert_eq!(clip("äöü".to_owned(), 5), "ä…");
    }
}
