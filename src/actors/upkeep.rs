//! What operators and the API ask about the store, and what is taken on while it is in need.

use std::collections::BTreeMap;

use nebula_core::ids::NodeId;

use super::system::{System, store_error};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::Origin;
use crate::ports::{ExportReport, SetAsideReport, StoreReport};

/// What a mutation does to the space that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It begins something new.
    Growing,
    /// It changes what is there.
    Keeping,
    /// It ends or stops something.
    Freeing,
}

/// Why the store in this state would not take a mutation.
fn refusal(report: &StoreReport, need: Need) -> Option<&'static str> {
    match (report.state, report.disk.level, need) {
        ("reopening", _, _) => {
            Some("the store is being opened again, try again in a moment; nothing was changed")
        }
        (_, "full", Need::Growing | Need::Keeping) => Some(
            "the disk of nebulad's data directory is full: only stopping and deleting is possible; nothing was changed",
        ),
        (_, "scarce", Need::Growing) => Some(
            "the disk of nebulad's data directory is nearly full: nothing new is taken; nothing was changed",
        ),
        _ => None,
    }
}

impl System {
    /// Refuses at once what the store would not take, so that its caller need not wait to hear it.
    pub(crate) fn admit(&self, need: Need) -> Result<(), Error> {
        match refusal(&self.store.report(), need) {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorClass::Overloaded, why)),
        }
    }

    /// The newest records that the store set aside.
    ///
    /// # Errors
    /// What the store says.
    pub async fn set_aside(&self) -> Result<Vec<SetAsideReport>, Error> {
        self.store.set_aside().await.map_err(store_error)
    }

    /// Exports the store now.
    ///
    /// # Errors
    /// What the store says.
    pub async fn export_store(&self) -> Result<ExportReport, Error> {
        self.store.export().await.map_err(store_error)
    }

    /// How the store does; never waits.
    #[must_use]
    pub fn store_report(&self) -> StoreReport {
        self.store.report()
    }

    /// How many records of each kind the store holds.
    ///
    /// # Errors
    /// What the store says.
    pub async fn census(&self) -> Result<BTreeMap<&'static str, usize>, Error> {
        self.store.census().await.map_err(store_error)
    }

    /// Accepts that the store may lack what was acknowledged: commands go out again, and what nobody here knows goes.
    ///
    /// # Errors
    /// `Conflict` when nothing waits to be accepted, or what the store says.
    pub async fn accept_restored(&self, origin: Origin) -> Result<(), Error> {
        if !self.caution.holds() {
            return Err(Error::new(
                ErrorClass::Conflict,
                "the store was not rebuilt: nothing waits to be accepted",
            ));
        }
        self.audit(origin, "store.accept", "the gap of a rebuilt store is accepted".to_owned()).await?;
        self.store.accept_restored().await.map_err(store_error)?;
        self.caution.end();
        tracing::warn!("the store's gap is accepted");
        Ok(())
    }

    /// What operators should know although nebulad serves.
    #[must_use]
    pub fn concerns(&self) -> Vec<String> {
        let report = self.store.report();
        let disk = match report.disk.level {
            "scarce" => Some("the disk of the data directory is nearly full: no new deployments are taken"),
            "full" => Some("the disk of the data directory is full: only stopping and deleting is possible"),
            _ => None,
        };
        let restored = report.restored.filter(|_| self.caution.holds());
        let restored = restored.map(|restored| {
            format!("the store was rebuilt and may lack what was acknowledged ({}); nothing is placed or changed on nodes until POST /admin/store/accept", restored.why)
        });
        let registry = self.tree.cell(super::registry::PATH);
        let registry = registry.and_then(|cell| cell.status::<super::registry::RegistryStatus>());
        restored
            .into_iter()
            .chain(disk.map(str::to_owned))
            .chain(registry.and_then(|status| status.concern()))
            .collect()
    }

    /// A node has reported while the store's gap is not accepted.
    pub(crate) fn heard_in_caution(&self, node: &NodeId, strangers: bool) {
        let known = self.tree.children(super::session::PARENT, None, usize::MAX);
        let known = known.iter().filter_map(|cell| cell.path().rsplit('/').next()?.parse().ok());
        if self.caution.heard(node, strangers, known, self.tree.clock().now()) {
            let system = self.clone();
            actix_rt::spawn(async move {
                match system.accept_restored(Origin::nebulad()).await {
                    Ok(()) => tracing::warn!("every node has reported and none runs anything unknown"),
                    Err(error) => {
                        system.caution.goes_on();
                        tracing::error!(%error, "the store's gap stays");
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::DiskReport;

    #[test]
    fn a_full_disk_takes_only_what_makes_room() {
        let taken = |state, level| {
            let report = StoreReport {
                state,
                disk: DiskReport { level, ..DiskReport::default() },
                ..StoreReport::default()
            };
            [Need::Growing, Need::Keeping, Need::Freeing].map(|need| refusal(&report, need).is_none())
        };
        assert_eq!(taken("ok", "ample"), [true, true, true]);
        assert_eq!(taken("ok", "low"), [true, true, true]);
        assert_eq!(taken("ok", "scarce"), [false, true, true]);
        assert_eq!(taken("ok", "full"), [false, false, true]);
        assert_eq!(taken("reopening", "ample"), [false, false, false]);
    }
}
