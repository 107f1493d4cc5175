//! What a key has left, in the headers that clients of OpenAI read.

use std::fmt::Write as _;
use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::key::{Standing, Window};

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Puts what is left into a response's headers.
pub(crate) fn tell(standing: &Standing, headers: &mut HeaderMap) {
    let windows = [(REQUESTS, &standing.requests), (TOKENS, &standing.tokens)];
    for ([limit, remaining, reset], window) in
        windows.into_iter().filter_map(|(names, window)| Some((names, window.as_ref()?)))
    {
        let Window { limit: of, remaining: left, reset: full } = window;
        headers.insert(limit, HeaderValue::from(*of));
        headers.insert(remaining, HeaderValue::from(*left));
        if let Ok(full) = HeaderValue::from_str(&go_duration(*full)) {
            headers.insert(reset, full);
        }
    }
}

/// A duration as OpenAI writes it: `850ms`, `1.5s`, `6m0s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (seconds, millis) = (millis / 1_000, millis % 1_000);
    let mut text = String::new();
    if seconds == 0 {
        let _ = write!(text, "{millis}ms");
        return text;
    }
    if seconds >= 60 {
        let _ = write!(text, "{}m", seconds / 60);
    }
    let _ = write!(text, "{}", seconds % 60);
    if millis > 0 {
        let fraction = format!("{millis:03}");
        let _ = write!(text, ".{}", fraction.trim_end_matches('0'));
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_clients_read_them() {
        for (millis, text) in [
            (0, "0ms"),
            (850, "850ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (60_000, "1m0s"),
            (361_020, "6m1.02s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
