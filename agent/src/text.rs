//! Small things about text.

/// At most `limit` bytes of a text, cut between characters; what was cut is marked.
pub(crate) fn clip(mut text: String, limit: usize) -> String {
    const MARK: &str = "…";
    if text.len() > limit {
        let room = limit.saturating_sub(MARK.len());
        let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(MARK);
    }
    text
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
