//! A deployment as it is published: what `/admin/actors` shows, and what the API makes its answers of.

use std::sync::Arc;

use serde::Serialize;

use super::machine::Next;
use crate::domain::deployment::{Deployment, Desired, Phase};

/// What a deployment publishes.
#[derive(Debug, Serialize)]
pub struct DeploymentStatus {
    /// Its name.
    pub name: String,
    /// The state of the whole.
    pub state: Phase,
    /// What is wanted.
    pub desired_state: Desired,
    /// Why it stands there.
    pub message: String,
    /// The spec's version.
    pub generation: u64,
    /// Copies that exist.
    pub replicas: usize,
    /// What happens next, as far as that is known.
    #[serde(skip)]
    pub next: Vec<Next>,
    /// Everything.
    #[serde(skip)]
    pub deployment: Arc<Deployment>,
}

impl DeploymentStatus {
    pub(super) fn of(dep: &Deployment, next: Vec<Next>) -> Self {
        Self {
            name: dep.name.clone(),
            state: dep.state(),
            desired_state: dep.desired,
            message: dep.message(),
            generation: dep.generation.0,
            replicas: dep.replicas.len(),
            next,
            deployment: Arc::new(dep.clone()),
        }
    }
}
