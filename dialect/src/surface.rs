//! The paths of the gateway whose requests go to a runtime.

/// A path whose requests go to a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// `/chat/completions`.
    Chat,
    /// `/completions`.
    Completions,
    /// `/embeddings`.
    Embeddings,
    /// `/responses`.
    Responses,
    /// `/messages`.
    Messages,
    /// `/rerank`.
    Rerank,
    /// `/score`.
    Score,
    /// `/audio/transcriptions`.
    Transcriptions,
    /// `/images/generations`.
    Images,
    /// `/tokenize`.
    Tokenize,
}

impl Surface {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::Rerank,
        Self::Score,
        Self::Transcriptions,
        Self::Images,
        Self::Tokenize,
    ];

    /// The one at `path`, which is what follows the gateway's prefix.
    #[must_use]
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|surface| surface.path() == path)
    }

    /// After the prefix.
    #[must_use]
    pub fn path(self) -> &'static str {
        self.upstream().strip_prefix("/v1").unwrap_or(self.upstream())
    }

    /// At a runtime that speaks OpenAI's API, whatever our prefix is.
    #[must_use]
    pub fn upstream(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Rerank => "/v1/rerank",
            Self::Score => "/v1/score",
            Self::Transcriptions => "/v1/audio/transcriptions",
            Self::Images => "/v1/images/generations",
            // Runtimes have this one outside of /v1.
            Self::Tokenize => "/tokenize",
        }
    }

    /// Its bodies are forms rather than JSON.
    #[must_use]
    pub fn takes_form(self) -> bool {
        self == Self::Transcriptions
    }

    /// What it does takes long on a GPU and gives something else each time.
    #[must_use]
    pub fn generates(self) -> bool {
        !matches!(self, Self::Embeddings | Self::Rerank | Self::Score | Self::Tokenize)
    }

    /// Its streams end with `[DONE]`, so that one without it is broken.
    #[must_use]
    pub fn ends_with_done(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_surface_is_found_by_its_path_and_nothing_else_is() {
        for surface in Surface::ALL {
            assert_eq!(Surface::at(surface.path()), Some(surface));
        }
        for path in ["", "/", "/chat", "/v1/chat/completions", "/invocations", "/metrics", "/server_info"] {
            assert_eq!(Surface::at(path), None, "{path}");
        }
    }
}
