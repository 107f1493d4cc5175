//! An engine's own words, as far as clients may read them.

use std::net::Ipv4Addr;

/// Longest piece of an engine's own words, in characters.
const CHARS_MAX: usize = 500;

/// The words, cut where they are long. None when there are none, or when they hold what looks like an address: where
/// engines run is nobody's business.
#[must_use]
pub fn presentable(words: &str) -> Option<String> {
    let words = words.trim();
    let is_separator = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '\'' | '"' | ',' | '=');
    if words.is_empty() || words.contains("://") || words.split(is_separator).any(looks_like_an_address) {
        return None;
    }
    Some(words.chars().take(CHARS_MAX).collect())
}

fn looks_like_an_address(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let host = word.split_once(':').map_or(word, |(host, _)| host);
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_passed_on_and_long_words_are_cut() {
        for words in
            ["", " ", "GET http://x/y failed", "dial tcp 127.0.0.1:11434: refused", "host='localhost'"]
        {
            assert_eq!(presentable(words), None, "{words}");
        }
        let words = "version 1.2.3 of the model: too long (max. 4096 tokens)";
        assert_eq!(presentable(words).as_deref(), Some(words));
        assert_eq!(presentable(&"é".repeat(1_000)).map(|words| words.chars().count()), Some(CHARS_MAX));
    }
}
