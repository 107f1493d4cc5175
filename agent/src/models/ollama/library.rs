//! How Ollama keeps its models, on its disk and in its registry:
//!
//! ```text
//! manifests/<registry>/<namespace>/<name>/<tag>   which layers a model has
//! blobs/sha256-<hex>                              the layers
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::models::paths;

/// The library's own registry, and what stands for what is not said.
const REGISTRY: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";
/// Layers that are loaded.
const LOADED: [&str; 3] = [
    "application/vnd.ollama.image.model",
    "application/vnd.ollama.image.projector",
    "application/vnd.ollama.image.adapter",
];

/// The name of a model, in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::models) struct Name {
    registry: String,
    namespace: String,
    name: String,
    tag: String,
}

impl Name {
    /// Reads `name`, `name:tag`, `namespace/name:tag` or `registry/namespace/name:tag`.
    pub(in crate::models) fn read(text: &str) -> Option<Self> {
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (registry, namespace, name) = match parts.as_slice() {
            [name] => (REGISTRY, NAMESPACE, *name),
            [namespace, name] => (REGISTRY, *namespace, *name),
            [registry, namespace, name] => (*registry, *namespace, *name),
            _ => return None,
        };
        let is_plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let own = |part: &str| is_plain(part).then(|| part.to_owned());
        Some(Self { registry: own(registry)?, namespace: own(namespace)?, name: own(name)?, tag: own(tag)? })
    }

    /// As deployments name it.
    pub(in crate::models) fn text(&self) -> String {
        let Self { registry, namespace, name, tag } = self;
        match (registry.as_str(), namespace.as_str()) {
            (REGISTRY, NAMESPACE) => format!("{name}:{tag}"),
            (REGISTRY, _) => format!("{namespace}/{name}:{tag}"),
            _ => format!("{registry}/{namespace}/{name}:{tag}"),
        }
    }

    /// Where its registry is; `own` is the library's.
    pub(in crate::models) fn registry(&self, own: &str) -> String {
        if self.registry == REGISTRY { own.to_owned() } else { format!("https://{}", self.registry) }
    }

    pub(in crate::models) fn manifest_url(&self, base: &str) -> String {
        format!("{base}/v2/{}/{}/manifests/{}", self.namespace, self.name, self.tag)
    }

    pub(in crate::models) fn blob_url(&self, base: &str, digest: &str) -> String {
        format!("{base}/v2/{}/{}/blobs/{digest}", self.namespace, self.name)
    }
}

/// Which layers a model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::models) struct Manifest {
    /// The layer with the model: `sha256:…`.
    pub(in crate::models) model: String,
    /// What is loaded, in bytes.
    pub(in crate::models) bytes: u64,
    /// All layers with their sizes.
    layers: Vec<(String, u64)>,
}

#[derive(Deserialize)]
struct Written {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
}

impl Manifest {
    /// Reads one. None: it is none, or has no model.
    pub(in crate::models) fn read(bytes: &[u8]) -> Option<Self> {
        let Written { layers } = serde_json::from_slice(bytes).ok()?;
        let is_digest = |digest: &str| {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if !layers.iter().all(|layer| is_digest(&layer.digest)) {
            return None;
        }
        let model = layers.iter().find(|layer| Some(layer.media_type.as_str()) == LOADED.first().copied())?;
        let loaded = layers.iter().filter(|layer| LOADED.contains(&layer.media_type.as_str()));
        Some(Self {
            model: model.digest.clone(),
            bytes: loaded.fold(0, |sum: u64, layer| sum.saturating_add(layer.size)),
            layers: layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect(),
        })
    }
}

/// Where this node's Ollama keeps its models.
#[derive(Clone, Debug)]
pub(in crate::models) struct Library(PathBuf);

impl Library {
    /// As the runtime is told, below the directory of models.
    pub(in crate::models) fn below(models: &Path) -> Self {
        Self(models.join("ollama"))
    }

    pub(in crate::models) fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    pub(in crate::models) fn manifest(&self, name: &Name) -> PathBuf {
        let Name { registry, namespace, name, tag } = name;
        self.manifests().join(registry).join(namespace).join(name).join(tag)
    }

    pub(in crate::models) fn blob(&self, digest: &str) -> PathBuf {
        let name = digest.replace(':', "-");
        // A digest is no path, so it is a name.
        self.0.join("blobs").join(paths::below(&name).unwrap_or_default())
    }

    /// Whether all layers are here. Blocks.
    pub(in crate::models) fn is_whole(&self, manifest: &Manifest) -> bool {
        manifest.layers.iter().all(|(digest, size)| {
            std::fs::metadata(self.blob(digest)).is_ok_and(|found| found.is_file() && found.len() == *size)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_ollama_does() {
        for (text, parts, written) in [
            ("llama3.2", ("registry.ollama.ai", "library", "llama3.2", "latest"), "llama3.2:latest"),
            ("llama3.2:1b", ("registry.ollama.ai", "library", "llama3.2", "1b"), "llama3.2:1b"),
            ("me/m:x", ("registry.ollama.ai", "me", "m", "x"), "me/m:x"),
            ("hf.co/org/m:Q4_K_M", ("hf.co", "org", "m", "Q4_K_M"), "hf.co/org/m:Q4_K_M"),
        ] {
            let name = Name::read(text).expect(text);
            let found = (&*name.registry, &*name.namespace, &*name.name, &*name.tag);
            assert_eq!((found, name.text().as_str()), (parts, written));
        }
        for bad in ["", ":x", "a:", "../x", "a/../b", "a/b/c/d", "a b", "x/.hidden"] {
            assert_eq!(Name::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_manifest_counts_what_is_loaded() {
        let digest = |c: &str| format!("sha256:{}", c.repeat(64));
        let layer = |kind: &str, c: &str, size: u64| {
            serde_json::json!({"mediaType": format!("application/vnd.ollama.image.{kind}"),
                               "digest": digest(c), "size": size})
        };
        let manifest = serde_json::json!({"layers": [layer("license", "a", 5), layer("model", "b", 100),
                                                     layer("projector", "c", 7)]});
        let manifest = Manifest::read(manifest.to_string().as_bytes()).expect("a manifest");
        assert_eq!((manifest.model, manifest.bytes), (digest("b"), 107));
        for bad in [
            serde_json::json!({"layers": []}),
            serde_json::json!({"layers": [{"mediaType": "application/vnd.ollama.image.model",
                                           "digest": "sha256:../../x", "size": 1}]}),
            serde_json::json!([]),
        ] {
            assert_eq!(Manifest::read(bad.to_string().as_bytes()), None);
        }
    }
}
