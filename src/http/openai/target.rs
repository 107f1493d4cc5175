//! What a path under the gateway's prefix means.

use actix_web::http::Method;
use nebula_dialect::Surface;

/// What a path means.
pub(super) enum Target<'a> {
    /// A request for a model.
    Surface(Surface),
    /// The list of models.
    Models,
    /// One model, by what follows `/models/`.
    Model(&'a str),
}

impl<'a> Target<'a> {
    /// What `path`, after the prefix, means.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        if let Some(surface) = Surface::at(path) {
            return Some(Self::Surface(surface));
        }
        match path.strip_prefix("/models")? {
            "" => Some(Self::Models),
            rest => rest.strip_prefix('/').filter(|model| !model.is_empty()).map(Self::Model),
        }
    }

    /// The path, without what a client chose of it.
    pub(super) fn path(&self) -> &'static str {
        match self {
            Self::Surface(surface) => surface.path(),
            Self::Models => "/models",
            Self::Model(_) => "/models/{id}",
        }
    }

    /// Its methods, as in `Allow`.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Self::Surface(_) => "POST, OPTIONS",
            Self::Models | Self::Model(_) => "GET, HEAD, OPTIONS",
        }
    }

    /// Whether it takes a method.
    pub(super) fn takes(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }
}
