//! What the journal says of nodes: found by comparing how a node stands with what was last said of it. Pure.

use std::collections::BTreeMap;

use nebula_core::duration;
use nebula_core::ids::NodeId;

use super::machine::brake::Share;
use super::machine::{Effect, NodeUpdate, Notice};
use crate::domain::event::Happening;
use crate::domain::node::{Availability, Node, Presence, Scheduling};
use crate::ports::Write;

/// What was last said of a node.
struct Told {
    name: String,
    /// Which start of its agent, and where it is.
    agent: (String, String),
    scheduling: Scheduling,
    presence: Presence,
    /// None after a start: that a node is heard again then is no news.
    availability: Option<Availability>,
}

impl Told {
    fn of(node: &Node, availability: Option<Availability>) -> Self {
        Self {
            name: node.name.clone(),
            agent: (node.boot_id.clone(), node.address.to_string()),
            scheduling: node.scheduling,
            presence: node.presence,
            availability,
        }
    }
}

/// What was last said of each node.
pub(super) struct Chronicle {
    told: BTreeMap<NodeId, Told>,
}

impl Chronicle {
    /// Of the nodes that the store remembers all has been said.
    pub(super) fn load(nodes: &[Node]) -> Self {
        let said = |node: &Node| match node.presence {
            Presence::Expected => None,
            Presence::Offline | Presence::Deregistered => Some(Availability::Offline),
        };
        Self { told: nodes.iter().map(|node| (node.id.clone(), Told::of(node, said(node)))).collect() }
    }

    /// What is to be said of what the registry has decided.
    pub(super) fn tell(&mut self, effects: &[Effect]) -> Vec<Happening> {
        effects.iter().flat_map(|effect| self.look(effect)).collect()
    }

    fn look(&mut self, effect: &Effect) -> Vec<Happening> {
        match effect {
            Effect::Announce(update) => self.announced(update),
            Effect::Persist(Write::DeleteNode(id)) => {
                let name = self.told.remove(id).map_or_else(|| id.to_string(), |told| told.name);
                // The node's own lines go with it; this one stays among those of all nodes.
                vec![fleet("forgotten", format!("node {name} ({id}) is forgotten"))]
            }
            Effect::Notice(notice) => vec![noticed(*notice)],
            Effect::Persist(_) | Effect::OpenSession(_) | Effect::CloseSession(_) | Effect::Reply(..) => {
                Vec::new()
            }
        }
    }

    fn announced(&mut self, update: &NodeUpdate) -> Vec<Happening> {
        let NodeUpdate { node, availability } = update;
        let now = Told::of(node, Some(*availability));
        let (agent, scheduling, presence) = (now.agent.clone(), now.scheduling, now.presence);
        let before = self.told.insert(node.id.clone(), now);
        let before = before.as_ref();
        let mut said = Vec::new();
        let mut say = |kind, message: String| {
            said.push(Happening { kind, message, replica: None, node: Some(node.id.clone()) });
        };
        if before.is_none_or(|told| told.agent != agent) {
            say("registered", format!("agent {} at {}", node.version, node.address));
        }
        if before.map_or(Scheduling::Schedulable, |told| told.scheduling) != scheduling {
            match scheduling {
                Scheduling::Schedulable => say("uncordoned", "new replicas may be placed".to_owned()),
                Scheduling::Cordoned => say("cordoned", "no new replicas are placed".to_owned()),
                // The drains tell when they begin and how they end.
                Scheduling::Draining | Scheduling::Drained => {}
            }
        }
        let leaves = |told: &Told| told.presence != Presence::Deregistered;
        if presence == Presence::Deregistered {
            if before.is_none_or(leaves) {
                say("deregistered", "its agent took its leave".to_owned());
            }
            return said;
        }
        let known = before.map_or(Some(Availability::Offline), |told| told.availability);
        if known != Some(*availability) && (known.is_some() || *availability == Availability::Offline) {
            match availability {
                Availability::Online => say("online", "it is heard".to_owned()),
                Availability::Suspect => say("suspect", "it has been silent for half the timeout".to_owned()),
                Availability::Offline => {
                    say("offline", "it has been silent for the whole timeout".to_owned())
                }
            }
        }
        said
    }
}

fn fleet(kind: &'static str, message: String) -> Happening {
    Happening { kind, message, replica: None, node: None }
}

fn noticed(notice: Notice) -> Happening {
    let of = |share: Share| format!("{} of {} nodes are missing", share.missing, share.expected);
    match notice {
        Notice::BrakeClosed(share) => {
            fleet("brake_closed", format!("{}: nobody is declared offline", of(share)))
        }
        Notice::BrakeOpened(share) => fleet("brake_opened", format!("{}: enough are back", of(share))),
        Notice::BrakeReleased(share) => {
            fleet("brake_released", format!("{}: an operator says so", of(share)))
        }
        Notice::StoodStill(gap) => {
            let message =
                format!("this process stood still for {}: every deadline moves", duration::human(gap));
            fleet("stood_still", message)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nebula_core::clock::WallTime;

    use super::*;
    use crate::domain::node::Capabilities;

    fn node() -> Node {
        Node {
            id: "node-1".parse().expect("an id"),
            name: "gpu-1".to_owned(),
            version: "0.1.0".to_owned(),
            address: "10.0.0.1:9091".parse().expect("an address"),
            proxy_port: 8888,
            subdomain: "a.example.com".to_owned(),
            labels: BTreeMap::new(),
            capabilities: Capabilities::default(),
            boot_id: "a".to_owned(),
            scheduling: Scheduling::Schedulable,
            presence: Presence::Expected,
            created_at: WallTime(0),
        }
    }

    fn announce(node: Node, availability: Availability) -> Effect {
        Effect::Announce(Box::new(NodeUpdate { node, availability }))
    }

    fn kinds(chronicle: &mut Chronicle, effect: Effect) -> Vec<&'static str> {
        chronicle.tell(&[effect]).into_iter().map(|happening| happening.kind).collect()
    }

    #[test]
    fn each_change_is_told_once() {
        let mut chronicle = Chronicle::load(&[]);
        let rebooted = || Node { boot_id: "b".to_owned(), ..node() };
        let cordoned = || Node { scheduling: Scheduling::Cordoned, ..rebooted() };
        let drained = || Node { scheduling: Scheduling::Drained, ..rebooted() };
        let gone = || Node { presence: Presence::Deregistered, ..rebooted() };
        for (effect, told) in [
            (announce(node(), Availability::Online), &["registered", "online"][..]),
            (announce(node(), Availability::Online), &[]),
            (announce(node(), Availability::Suspect), &["suspect"]),
            (announce(node(), Availability::Offline), &["offline"]),
            (announce(rebooted(), Availability::Online), &["registered", "online"]),
            (announce(cordoned(), Availability::Online), &["cordoned"]),
            (announce(rebooted(), Availability::Online), &["uncordoned"]),
            (announce(drained(), Availability::Online), &[]),
            (announce(rebooted(), Availability::Online), &["uncordoned"]),
            (announce(gone(), Availability::Offline), &["deregistered"]),
            (announce(gone(), Availability::Offline), &[]),
            (announce(rebooted(), Availability::Online), &["online"]),
            (Effect::Persist(Write::DeleteNode(node().id)), &["forgotten"]),
            (announce(node(), Availability::Online), &["registered", "online"]),
            (Effect::Notice(Notice::StoodStill(Duration::from_secs(7))), &["stood_still"]),
        ] {
            let what = format!("{effect:?}");
            assert_eq!(kinds(&mut chronicle, effect), told, "{what}");
        }
    }

    #[test]
    fn after_a_start_it_is_no_news_that_a_node_is_heard_but_that_it_is_not() {
        let mut chronicle = Chronicle::load(&[node()]);
        assert!(kinds(&mut chronicle, announce(node(), Availability::Online)).is_empty());
        let mut chronicle = Chronicle::load(&[node()]);
        assert_eq!(kinds(&mut chronicle, announce(node(), Availability::Offline)), ["offline"]);
        let away = Node { presence: Presence::Offline, ..node() };
        let mut chronicle = Chronicle::load(&[away]);
        assert_eq!(kinds(&mut chronicle, announce(node(), Availability::Online)), ["online"]);
    }
}
