//! What the requests of this API have in common.

use serde::Deserialize;

use crate::runtime::error::ApiError;

#[derive(Deserialize)]
pub(crate) struct StreamOptions {
    include_usage: Option<bool>,
}

/// Whether usage is asked for; options without a stream are an error.
pub(crate) fn include_usage(stream: bool, options: Option<&StreamOptions>) -> Result<bool, ApiError> {
    match options {
        Some(_) if !stream => Err(ApiError::invalid(
            Some("stream_options"),
            "the stream_options parameter is only allowed when stream is enabled",
        )),
        options => Ok(options.and_then(|options| options.include_usage).unwrap_or(false)),
    }
}

/// Only one choice is made up.
pub(crate) fn one_choice(n: Option<u64>) -> Result<(), ApiError> {
    match n {
        None | Some(1) => Ok(()),
        Some(n) => Err(ApiError::invalid(Some("n"), format!("n is {n}, but only 1 is simulated"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_need_a_stream() {
        let options = |include_usage| StreamOptions { include_usage };
        assert_eq!(include_usage(true, Some(&options(Some(true)))), Ok(true));
        assert_eq!(include_usage(true, Some(&options(None))), Ok(false));
        assert_eq!(include_usage(false, None), Ok(false));
        assert!(include_usage(false, Some(&options(None))).is_err());
    }
}
