//! The shells of the scheduler and the router.

use std::collections::BTreeSet;

use nebulad::actors::deployment::route::RouteSpec;
use nebulad::actors::router::machine as router;
use nebulad::actors::scheduler::machine as scheduler;

use super::control::{Machine, Mail, Who, deployment_id, deployment_number};
use super::sim::Sim;

impl Sim {
    // The scheduler.

    pub(crate) fn build_scheduler(&mut self) {
        let mut machine = scheduler::Machine::default();
        for dep in self.control.store.image.deployments.values() {
            machine.restore(dep);
        }
        if let Some(cell) = self.cell(Who::Scheduler) {
            cell.machine = Some(Machine::Scheduler(Box::new(machine)));
        }
        self.mail(Who::Registry, Mail::TellScheduler);
        for who in self.deployment_cells() {
            self.mail(who, Mail::PlacesAgain);
        }
    }

    pub(crate) fn deployment_cells(&self) -> Vec<Who> {
        self.control.cells.keys().copied().filter(|who| matches!(who, Who::Deployment(_))).collect()
    }

    pub(crate) fn mail_to_scheduler(&mut self, mail: Mail) {
        let holds = self.control.caution.holds();
        let Some(machine) = self.scheduler() else { return };
        let mut waiting = BTreeSet::new();
        match mail {
            Mail::Nodes(updates) => {
                for update in updates {
                    waiting.extend(machine.node_changed(update));
                }
            }
            Mail::AskMove(d, incarnation, node) => return self.may_move(d, incarnation, node),
            Mail::NodeForgotten(node) => machine.node_gone(&node),
            Mail::Release(replica) => waiting = machine.release(replica),
            Mail::Holds(d, holds) => waiting = machine.holds(deployment_id(d), &holds),
            Mail::Place(d, incarnation, replica, generation, request) => {
                let placed = if holds { Err("frozen".to_owned()) } else { machine.place(&request) };
                waiting = machine.woken();
                let mail = Mail::Placed(incarnation, replica, generation, placed);
                self.mail(Who::Deployment(d), mail);
            }
            other => panic!("no mail for the scheduler: {other:?}"),
        }
        for id in waiting {
            self.mail(Who::Deployment(deployment_number(id)), Mail::Capacity);
        }
    }

    // The router.

    pub(crate) fn build_router(&mut self) {
        let specs = self.control.store.image.deployments.values().map(RouteSpec::of).collect();
        let machine = router::Machine::load(specs, &self.control.table);
        if let Some(cell) = self.cell(Who::Router) {
            cell.machine = Some(Machine::Router(Box::new(machine)));
        }
        self.publish_table();
        for who in self.deployment_cells() {
            self.mail(who, Mail::PublishAgain);
        }
    }

    pub(crate) fn mail_to_router(&mut self, mail: Mail) {
        let Some(machine) = self.router() else { return };
        let changed = match mail {
            Mail::Publish(spec) => machine.publish(*spec),
            Mail::Withdraw(id) => machine.withdraw(id).is_some(),
            other => panic!("no mail for the router: {other:?}"),
        };
        if changed {
            self.publish_table();
        }
    }

    fn publish_table(&mut self) {
        let Some(machine) = self.router() else { return };
        self.control.table = machine.publication().table;
        self.count("tables published", 1);
        self.check_table();
    }
}
