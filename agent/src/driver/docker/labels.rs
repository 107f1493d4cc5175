//! What a container says of itself: its labels and its name.

use std::collections::HashMap;

use nebula_core::ids::{DeploymentId, Generation, ReplicaId};

/// The agent that made it. Whatever has another value here, or none, is not ours.
pub(super) const AGENT: &str = "nebula.agent";
pub(super) const REPLICA: &str = "nebula.replica";
const ATTEMPT: &str = "nebula.attempt";
const NODE: &str = "nebula.node";
const DEPLOYMENT: &str = "nebula.deployment";
const GENERATION: &str = "nebula.generation";
const CONFIG_HASH: &str = "nebula.config_hash";

/// What of the ids stands in a container's name.
const NAME_REPLICA: usize = 12;
const NAME_AGENT: usize = 6;

/// Which container it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerName {
    /// Whose replica.
    pub(crate) deployment: DeploymentId,
    /// Which replica.
    pub(crate) replica: ReplicaId,
    /// Of what was wanted.
    pub(crate) generation: Generation,
    /// The replica's attempts to run, counted from 1.
    pub(crate) attempt: u32,
    /// Tells what it was made from.
    pub(crate) config_hash: String,
}

impl ContainerName {
    /// Its labels.
    pub(super) fn labels(&self, node_id: &str, agent_id: &str) -> HashMap<String, String> {
        let labels = [
            (NODE, node_id.to_owned()),
            (AGENT, agent_id.to_owned()),
            (DEPLOYMENT, self.deployment.to_string()),
            (REPLICA, self.replica.to_string()),
            (GENERATION, self.generation.to_string()),
            (ATTEMPT, self.attempt.to_string()),
            (CONFIG_HASH, self.config_hash.clone()),
        ];
        labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Whether these labels are those of a container of the same replica, made from the same; and of the same attempt.
    pub(super) fn is_said_by(&self, labels: &HashMap<String, String>, same_attempt: bool) -> bool {
        let says = |name: &str, value: &str| labels.get(name).is_some_and(|label| label == value);
        says(REPLICA, &self.replica.to_string())
            && says(GENERATION, &self.generation.to_string())
            && says(CONFIG_HASH, &self.config_hash)
            && (!same_attempt || says(ATTEMPT, &self.attempt.to_string()))
    }

    /// Its name as people see it in `docker ps`.
    pub(super) fn text(&self, agent_id: &str) -> String {
        let replica: String =
            self.replica.to_string().chars().filter(char::is_ascii_hexdigit).take(NAME_REPLICA).collect();
        let agent: String = agent_id.chars().filter(char::is_ascii_alphanumeric).take(NAME_AGENT).collect();
        format!("nebula-{replica}-{}-{agent}", self.attempt)
    }
}

/// A filter for those that carry all of some labels.
pub(super) fn filter(labels: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    let wanted = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    HashMap::from([("label".to_owned(), wanted)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_says_whose_it_is() {
        let name = ContainerName {
            deployment: DeploymentId::from_bytes([1; 16]),
            replica: ReplicaId::from_bytes([0xab; 16]),
            generation: Generation(7),
            attempt: 3,
            config_hash: "beef".to_owned(),
        };
        assert_eq!(name.text("0f1e2d3c4b5a"), "nebula-abababababab-3-0f1e2d");
        let labels = name.labels("node-1", "0f1e2d3c4b5a");
        let mut lines: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "nebula.agent=0f1e2d3c4b5a",
                "nebula.attempt=3",
                "nebula.config_hash=beef",
                "nebula.deployment=01010101-0101-0101-0101-010101010101",
                "nebula.generation=7",
                "nebula.node=node-1",
                "nebula.replica=abababab-abab-abab-abab-abababababab",
            ]
        );
        assert!(name.is_said_by(&labels, true));
        let later = ContainerName { attempt: 4, ..name.clone() };
        assert!(later.is_said_by(&labels, false) && !later.is_said_by(&labels, true));
        for other in [
            ContainerName { replica: ReplicaId::from_bytes([1; 16]), ..name.clone() },
            ContainerName { generation: Generation(8), ..name.clone() },
            ContainerName { config_hash: "dead".to_owned(), ..name.clone() },
        ] {
            assert!(!other.is_said_by(&labels, false), "{other:?}");
        }
        assert_eq!(filter(&[(AGENT, "a"), (ATTEMPT, "3")])["label"], ["nebula.agent=a", "nebula.attempt=3"]);
    }
}
