//! What the Engine tells of this agent's containers: as it happens, and all of it every half minute.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt as _;
use tokio::time::MissedTickBehavior;

use super::containers::{id_of, runs};
use super::engine::CALL_LIMIT;
use super::{Docker, labels};
use crate::replica::spec::ContainerRef;

/// Between two looks at everything.
const RESYNC_EVERY: Duration = Duration::from_secs(30);
/// Before the events are asked for again.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// How far back events are asked for, so that none is missed between two streams.
const OVERLAP: Duration = Duration::from_secs(10);
/// A container has ended, or is gone.
const ENDINGS: [&str; 2] = ["die", "destroy"];

/// Something that watchers of containers want to know.
#[derive(Clone, Debug)]
pub(super) enum Notice {
    /// A container has ended or is gone.
    Ended { container: ContainerRef, code: Option<i32> },
    /// The containers that run, at some moment of the last seconds.
    Running(Arc<BTreeSet<ContainerRef>>),
}

impl Docker {
    /// Follows for ever.
    pub(super) async fn follow_events(&self) {
        loop {
            if self.follow_once().await {
                self.count_outage();
            }
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    /// Follows one stream to its end. Whether it had begun: then its end says that the Engine went away.
    async fn follow_once(&self) -> bool {
        let Ok(client) = self.0.engine.client(CALL_LIMIT) else { return false };
        let since = self.0.clock.wall().unix_secs().saturating_sub(OVERLAP.as_secs());
        let mut filters = labels::filter(&[(labels::AGENT, &self.0.agent_id)]);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        filters.insert("event".to_owned(), ENDINGS.map(str::to_owned).to_vec());
        let options = EventsOptionsBuilder::default().since(&since.to_string()).filters(&filters).build();
        let mut events = client.events(Some(options));
        let mut resync = tokio::time::interval(RESYNC_EVERY);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut begun = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        if let Some(notice) = notice(&event) {
                            self.tell(notice);
                        }
                    }
                    Some(Err(_)) | None => return begun,
                },
                _ = resync.tick() => begun |= self.resync().await,
            }
        }
    }

    /// Lists everything. Whether the Engine answered.
    async fn resync(&self) -> bool {
        match self.list(&[]).await {
            Ok(all) => {
                let running = all.iter().filter(|summary| runs(summary)).filter_map(id_of).collect();
                self.tell(Notice::Running(Arc::new(running)));
                true
            }
            // Whether the Engine answers is said elsewhere.
            Err(error) => {
                tracing::debug!(%error, "containers not listed");
                false
            }
        }
    }

    fn tell(&self, notice: Notice) {
        // Nobody listens while no container is watched.
        let _ = self.0.notices.send(notice);
    }
}

/// What an event says to watchers.
fn notice(event: &EventMessage) -> Option<Notice> {
    let actor = event.actor.as_ref()?;
    let container = ContainerRef::from_hex(actor.id.as_deref()?)?;
    let none = HashMap::new();
    let code = actor.attributes.as_ref().unwrap_or(&none).get("exitCode").and_then(|code| code.parse().ok());
    event
        .action
        .as_deref()
        .filter(|action| ENDINGS.contains(action))
        .map(|_| Notice::Ended { container, code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_say_something() {
        let id = "ab".repeat(32);
        let event = |action: &str, id: &str, attributes: &str| -> EventMessage {
            let text = format!(
                r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{attributes}}}}}"#
            );
            serde_json::from_str(&text).expect("an event")
        };
        let said = |event: &EventMessage| match notice(event) {
            Some(Notice::Ended { container, code }) => Some((container.to_hex(), code)),
            _ => None,
        };
        assert_eq!(said(&event("die", &id, r#"{"exitCode":"137"}"#)), Some((id.clone(), Some(137))));
        assert_eq!(said(&event("destroy", &id, "{}")), Some((id.clone(), None)));
        assert_eq!(said(&event("start", &id, "{}")), None);
        assert_eq!(said(&event("die", "short", "{}")), None);
    }
}
