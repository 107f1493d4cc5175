//! How the agent feels: what its parts say is wrong with them or with this machine.

use nebula_store::Store;

use crate::agent::Agent;
use crate::driver::docker::EngineStatus;

/// How much is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Something does not work, the rest goes on.
    Degraded,
    /// The agent cannot do its work.
    Unhealthy,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) severity: Severity,
    /// One line that names the thing.
    pub(crate) text: String,
}

/// All that is wrong, from everyone who may have something to say.
pub(crate) fn issues(agent: &Agent) -> Vec<Issue> {
    let has_containers = || {
        let list = agent.replicas.list();
        list.iter()
            .any(|replica| replica.view.instance.is_some_and(|instance| instance.container().is_some()))
    };
    let gpus = agent.gpus.inventory().issues();
    [
        of_store(&agent.store),
        gpus.into_iter().map(degraded).collect(),
        of_engine(&agent.docker.status(), has_containers),
    ]
    .concat()
}

/// The word for it on the wire: that of the gravest issue.
pub(crate) fn status(issues: &[Issue]) -> &'static str {
    match issues.iter().map(|issue| issue.severity).max() {
        None => "healthy",
        Some(Severity::Degraded) => "degraded",
        Some(Severity::Unhealthy) => "unhealthy",
    }
}

fn degraded(text: String) -> Issue {
    Issue { severity: Severity::Degraded, text }
}

fn of_store(store: &Store) -> Vec<Issue> {
    let status = store.status();
    let lost = (status.set_aside > 0)
        .then(|| degraded(format!("{} damaged records were set aside", status.set_aside)));
    let failed = status.failed.map(|reason| Issue {
        severity: Severity::Unhealthy,
        text: format!("the store has failed: {reason}"),
    });
    lost.into_iter().chain(failed).collect()
}

/// A machine without an Engine is well, unless containers ran there.
fn of_engine(status: &EngineStatus, has_containers: impl FnOnce() -> bool) -> Vec<Issue> {
    match status {
        EngineStatus::Unresponsive { error, .. } => {
            vec![degraded(format!("runtime: the Docker Engine does not work: {error}"))]
        }
        EngineStatus::Absent { error } if has_containers() => {
            vec![degraded(format!("runtime: the Docker Engine is away: {error}"))]
        }
        EngineStatus::Unknown | EngineStatus::Absent { .. } | EngineStatus::Ready { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use nebula_core::clock::Tick;

    use super::*;

    #[test]
    fn the_gravest_issue_gives_the_word() {
        let grave = Issue { severity: Severity::Unhealthy, text: String::new() };
        let light = degraded(String::new());
        assert_eq!(status(&[]), "healthy");
        assert_eq!(status(std::slice::from_ref(&light)), "degraded");
        assert_eq!(status(&[grave, light]), "unhealthy");
    }

    #[test]
    fn an_engine_is_missed_where_it_was_used() {
        let error = || "nobody listens".to_owned();
        let hangs = EngineStatus::Unresponsive { since: Tick(0), error: error() };
        let absent = EngineStatus::Absent { error: error() };
        assert_eq!(of_engine(&hangs, || false).len(), 1);
        assert_eq!(of_engine(&absent, || false), []);
        assert_eq!(
            of_engine(&absent, || true),
            [degraded("runtime: the Docker Engine is away: nobody listens".to_owned())]
        );
        assert_eq!(of_engine(&EngineStatus::Unknown, || true), []);
    }
}
