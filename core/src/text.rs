//! Small things about text.

/// At most `limit` bytes of a text, cut between characters.
#[must_use]
pub fn cut(mut text: String, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        for (text, limit, left) in
            [("short", 5, "short"), ("too long", 3, "too"), ("äöü", 5, "äö"), ("ä", 1, "")]
        {
            assert_eq!(cut(text.to_owned(), limit), left);
        }
    }
}
