//! Where a model's weights come from: `hf://`, `ollama://`, `s3://` or `fs://`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::runtime::RuntimeKind;

/// A model's source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ModelSource {
    /// A repository on the Hugging Face hub: `org/name`, with a revision if one was given.
    HuggingFace {
        /// `org/name`, or `org/name:Q8_0` for one quantization of several GGUF models.
        repo: String,
        /// Branch, tag or commit.
        revision: Option<String>,
    },
    /// A model of Ollama's library: `name:tag`.
    Ollama {
        /// `name`, `name:tag` or `namespace/name:tag`.
        tag: String,
    },
    /// An object or prefix in S3.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The key, without a leading slash; may be empty.
        key: String,
    },
    /// A file or directory on the node.
    File {
        /// An absolute path.
        path: String,
    },
}

/// Why a text is no model source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// The scheme is none of ours.
    #[error(
        "unknown model source \"{0}\"; known: hf://org/name, ollama://name:tag, s3://bucket/key, fs:///path"
    )]
    Scheme(String),
    /// The part after the scheme is wrong.
    #[error("model source \"{text}\" is incomplete: {reason}")]
    Incomplete {
        /// The text as given.
        text: String,
        /// What is missing.
        reason: &'static str,
    },
}

impl ModelSource {
    /// Finds the source of a model that was named without one: a path is a file, `llama3.2:1b` is Ollama's,
    /// `org/name` is Hugging Face's. With a known runtime its own library is preferred for plain names; the
    /// simulated runtime loads nothing, so it has no source.
    ///
    /// # Errors
    /// When what was found is no source: a relative path, say, or a tag without a name.
    pub fn detect(model: &str, runtime: Option<RuntimeKind>) -> Result<Option<Self>, InvalidSource> {
        if model.contains("://") {
            return model.parse().map(Some);
        }
        let is_path = model.starts_with('/') || model.starts_with("./") || model.starts_with("../");
        let found = match runtime {
            _ if is_path => Some(Self::File { path: model.to_owned() }),
            Some(RuntimeKind::Sim) => None,
            Some(RuntimeKind::Ollama) => Some(Self::Ollama { tag: model.to_owned() }),
            Some(_) if model.contains('/') => Some(Self::hugging_face(model)),
            Some(_) => None,
            None if model.contains(':') => Some(Self::Ollama { tag: model.to_owned() }),
            None if model.matches('/').count() == 1 => Some(Self::hugging_face(model)),
            None => None,
        };
        // What was found must be readable from its own text, as that is how it is kept and sent.
        found.map(|source| source.to_string().parse()).transpose()
    }

    /// The runtime that fits a source when the user names none.
    #[must_use]
    pub fn natural_runtime(&self) -> RuntimeKind {
        match self {
            Self::Ollama { .. } => RuntimeKind::Ollama,
            Self::File { path } if path.ends_with(".gguf") => RuntimeKind::Llamacpp,
            Self::HuggingFace { repo, .. } if repo.contains(':') => RuntimeKind::Llamacpp,
            Self::HuggingFace { .. } | Self::S3 { .. } | Self::File { .. } => RuntimeKind::Vllm,
        }
    }

    fn hugging_face(text: &str) -> Self {
        match text.split_once('@') {
            Some((repo, revision)) if !revision.is_empty() => {
                Self::HuggingFace { repo: repo.to_owned(), revision: Some(revision.to_owned()) }
            }
            _ => Self::HuggingFace { repo: text.to_owned(), revision: None },
        }
    }
}

impl FromStr for ModelSource {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let incomplete =
            |reason| Err(InvalidSource::Incomplete { text: text.chars().take(200).collect(), reason });
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(InvalidSource::Scheme(text.chars().take(200).collect()));
        };
        match scheme {
            "hf" => {
                let source = Self::hugging_face(rest);
                match &source {
                    Self::HuggingFace { repo, .. } if is_repo(repo) => Ok(source),
                    _ => incomplete("hf:// takes org/name"),
                }
            }
            "ollama" if rest.is_empty() || rest.starts_with(['/', ':']) => {
                incomplete("ollama:// takes name:tag")
            }
            "ollama" => Ok(Self::Ollama { tag: rest.to_owned() }),
            "s3" => match rest.split_once('/').unwrap_or((rest, "")) {
                ("", _) => incomplete("s3:// takes bucket/key"),
                (bucket, key) => Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() }),
            },
            "fs" if rest.starts_with('/') && rest.len() > 1 => Ok(Self::File { path: rest.to_owned() }),
            "fs" => incomplete("fs:// takes an absolute path, so three slashes: fs:///models/x.gguf"),
            _ => Err(InvalidSource::Scheme(text.chars().take(200).collect())),
        }
    }
}

fn is_repo(repo: &str) -> bool {
    let legal = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let (repo, quantization) = repo.split_once(':').unwrap_or((repo, "any"));
    let is_name = match repo.split_once('/') {
        Some((org, name)) => legal(org) && legal(name),
        None => legal(repo),
    };
    is_name && legal(quantization)
}

impl TryFrom<String> for ModelSource {
    type Error = InvalidSource;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ModelSource> for String {
    fn from(source: ModelSource) -> Self {
        source.to_string()
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HuggingFace { repo, revision: Some(revision) } => write!(f, "hf://{repo}@{revision}"),
            Self::HuggingFace { repo, revision: None } => write!(f, "hf://{repo}"),
            Self::Ollama { tag } => write!(f, "ollama://{tag}"),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::File { path } => write!(f, "fs://{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_detected_as_the_field_writes_them() {
        for (model, runtime, source) in [
            ("llama3.2:1b", None, Some("ollama://llama3.2:1b")),
            ("meta-llama/Llama-3.1-8B", None, Some("hf://meta-llama/Llama-3.1-8B")),
            ("org/name@main", None, Some("hf://org/name@main")),
            ("/models/a.gguf", None, Some("fs:///models/a.gguf")),
            ("s3://bucket/key/a", None, Some("s3://bucket/key/a")),
            ("llama3", Some(RuntimeKind::Ollama), Some("ollama://llama3")),
            ("llama3.2:1b", Some(RuntimeKind::Sim), None),
            ("demo", None, None),
        ] {
            let found = ModelSource::detect(model, runtime).expect(model).map(|s| s.to_string());
            assert_eq!(found.as_deref(), source, "{model}");
        }
    }

    #[test]
    fn what_looks_like_a_source_and_is_none_is_refused() {
        for (model, runtime) in [
            ("./tiny.gguf", None),
            ("../tiny.gguf", Some(RuntimeKind::Llamacpp)),
            (":1b", None),
            ("org/na me", None),
            ("a/b/c", Some(RuntimeKind::Vllm)),
            ("org/name@", None),
            ("", Some(RuntimeKind::Ollama)),
        ] {
            assert!(ModelSource::detect(model, runtime).is_err(), "{model}");
        }
    }

    #[test]
    fn wrong_sources_are_refused_with_the_right_form() {
        for text in [
            "ftp://x/y",
            "hf://",
            "hf://a/b/c",
            "hf://a/b:",
            "hf://a/b:c:d",
            "ollama://",
            "s3:///key",
            "fs://relative",
            "fs:///",
        ] {
            assert!(text.parse::<ModelSource>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_source_is_read_back_from_its_text() {
        for text in [
            "hf://a/b",
            "hf://a/b:Q8_0",
            "hf://a/b:Q8_0@v1",
            "hf://a/b@v1",
            "ollama://x:1b",
            "s3://b/k",
            "fs:///m/x.gguf",
        ] {
            assert_eq!(text.parse::<ModelSource>().expect(text).to_string(), text);
        }
    }
}
