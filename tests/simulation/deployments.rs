//! The shell of deployments.

use std::time::Duration;

use std::collections::BTreeSet;

use nebula_core::clock::Tick;
use nebula_core::ids::CommandId;
use nebulad::actors::deployment::machine::{self as deployment, Effect, Event as Happens};
use nebulad::actors::scheduler::machine::{Hold, Request};
use nebulad::domain::command::Command;
use nebulad::domain::deployment::Replica;
use nebulad::domain::event::Happening;
use nebulad::domain::report::NodeFacts;

use super::agent::{node_id, node_index};
use super::control::{DeploymentActor, Do, Machine, Mail, Status, Who, deployment_id};
use super::sim::{Event, Sim};

impl Sim {
    pub(crate) fn build_deployment(&mut self, d: u32) {
        let Some(mut stored) = self.control.store.image.deployments.get(&deployment_id(d)).cloned() else {
            // It was deleted in the meantime.
            self.control.cells.remove(&Who::Deployment(d));
            self.control.names.remove(&d);
            self.oracle.finished(d);
            self.touch_nodes_of(d);
            self.mail(Who::Scheduler, Mail::Holds(d, Vec::new()));
            self.mail(Who::Router, Mail::Withdraw(deployment_id(d)));
            return;
        };
        stored.replicas.sort_by_key(|replica| (replica.index, replica.leaving));
        self.oracle.loaded(d, &stored).unwrap_or_else(|what| self.violated("I1", what));
        let machine = deployment::Machine::load(stored);
        let (followed, looking) = (BTreeSet::new(), BTreeSet::new());
        if let Some(cell) = self.cell(Who::Deployment(d)) {
            cell.machine = Some(Machine::Deployment(Box::new(DeploymentActor {
                machine,
                followed,
                looking,
                timer: None,
            })));
        }
        self.hold_places(d, |replica| replica.placement.is_some());
        self.drive_deployment(d, Happens::Started);
    }

    /// Says which replicas keep what the scheduler has reserved for them.
    fn hold_places(&mut self, d: u32, keeps: impl Fn(&Replica) -> bool) {
        let Some(actor) = self.deployment(d) else { return };
        let dep = actor.machine.deployment();
        let kept = dep.replicas.iter().filter(|replica| keeps(replica));
        let kept = kept.filter(|replica| replica.placement.is_none() || dep.holds_place(replica));
        let holds = kept.map(|replica| Hold::of(dep, replica)).collect();
        self.mail(Who::Scheduler, Mail::Holds(d, holds));
    }

    pub(crate) fn drive_deployment(&mut self, d: u32, event: Happens) {
        let now = self.now_for_machines();
        let Some(actor) = self.deployment(d) else { return };
        let effects = actor.machine.step(event, now);
        if !effects.is_empty() {
            let nodes: Vec<u16> = actor.followed.iter().copied().collect();
            nodes.into_iter().for_each(|n| self.touch(n));
        }
        self.act_on(Who::Deployment(d), effects.into_iter().map(Do::Deployment).collect());
        self.arm_deployment(d);
    }

    fn now_for_machines(&self) -> deployment::Now {
        deployment::Now { tick: Tick(self.now), wall: self.wall() }
    }

    /// Keeps one timer for what is due next. One that is early does no harm.
    fn arm_deployment(&mut self, d: u32) {
        let life = self.control.life;
        let Some(incarnation) = self.cell(Who::Deployment(d)).map(|cell| cell.incarnation) else { return };
        let Some(actor) = self.deployment(d) else { return };
        let Some(next) = actor.machine.next_timer() else { return };
        if actor.timer.is_some_and(|at| at <= next.0) {
            return;
        }
        actor.timer = Some(next.0);
        let at = next.0.max(self.now) + 1;
        self.at(at, Event::DeploymentTimer(life, d, incarnation));
    }

    pub(crate) fn deployment_timer(&mut self, d: u32, incarnation: u32) {
        if self.cell(Who::Deployment(d)).is_some_and(|cell| cell.incarnation == incarnation) {
            if let Some(actor) = self.deployment(d) {
                actor.timer = None;
            }
            self.drive_deployment(d, Happens::Timer);
        }
    }

    pub(crate) fn mail_to_deployment(&mut self, d: u32, mail: Mail) {
        match mail {
            Mail::Want(number, intent) => {
                let (to, reply) = self.open_reply();
                let now = self.now_for_machines();
                self.trace(|| format!("d{d} op {number} {intent:?}"));
                let Some(actor) = self.deployment(d) else { return };
                let effects = actor.machine.step(Happens::Intent(reply, *intent), now);
                let dep = actor.machine.deployment().clone();
                let nodes: Vec<u16> = actor.followed.iter().copied().collect();
                self.oracle.intended(d, to, number, &dep);
                nodes.into_iter().for_each(|n| self.touch(n));
                self.act_on(Who::Deployment(d), effects.into_iter().map(Do::Deployment).collect());
                self.arm_deployment(d);
            }
            Mail::Placed(incarnation, replica, generation, placed) => {
                if self.cell(Who::Deployment(d)).is_none_or(|cell| cell.incarnation != incarnation) {
                    return;
                }
                let event = match placed {
                    Ok(placement) => Happens::Placed(replica, generation, placement),
                    Err(why) => Happens::Unplaceable(replica, generation, why),
                };
                self.drive_deployment(d, event);
            }
            Mail::Look(n) => {
                if let Some(actor) = self.deployment(d) {
                    actor.looking.remove(&n);
                }
                if self.deployment(d).is_some_and(|actor| actor.followed.contains(&n)) {
                    self.look(d, n);
                }
            }
            Mail::Follow(incarnation, n) => {
                let same = self.cell(Who::Deployment(d)).is_some_and(|cell| cell.incarnation == incarnation);
                if same && self.deployment(d).is_some_and(|actor| actor.followed.contains(&n)) {
                    self.find_session(d, n);
                }
            }
            Mail::NodeGone(node) => self.drive_deployment(d, Happens::NodeGone(node)),
            Mail::MayMove(incarnation, node, may) => {
                if self.cell(Who::Deployment(d)).is_some_and(|cell| cell.incarnation == incarnation) {
                    self.drive_deployment(d, Happens::MayMove(node, may));
                }
            }
            Mail::Capacity => self.drive_deployment(d, Happens::Capacity),
            Mail::PublishAgain => {
                let spec = self.deployment(d).and_then(|actor| actor.machine.published().cloned());
                if let Some(spec) = spec {
                    self.mail(Who::Router, Mail::Publish(Box::new(spec)));
                }
            }
            Mail::PlacesAgain => self.hold_places(d, |_| true),
            Mail::Rejected(replica, generation, why) => {
                self.drive_deployment(d, Happens::Rejected(replica, generation, why));
            }
            other => panic!("no mail for a deployment: {other:?}"),
        }
    }

    pub(crate) fn perform_deployment(&mut self, d: u32, effect: Effect) {
        let Some(incarnation) = self.cell(Who::Deployment(d)).map(|cell| cell.incarnation) else { return };
        match effect {
            Effect::Persist(..) => {}
            Effect::Reply(to, result) => self.replied(d, to.0, result.is_ok()),
            Effect::Place(replica, generation) => {
                let Some(actor) = self.deployment(d) else { return };
                let dep = actor.machine.deployment();
                let request = Request::of(dep, replica);
                let mail = Mail::Place(d, incarnation, replica, generation, Box::new(request));
                self.mail(Who::Scheduler, mail);
            }
            Effect::Release(replica) => self.mail(Who::Scheduler, Mail::Release(replica)),
            Effect::Send(node_id, replica_id, generation, action) => {
                let n = node_index(&node_id);
                self.touch(n);
                let command = Command {
                    drain: Duration::ZERO,
                    id: CommandId::random(),
                    node_id,
                    deployment_id: deployment_id(d),
                    replica_id,
                    generation,
                    action,
                    created_at: self.wall(),
                };
                self.trace(|| {
                    let short = super::agent::short(replica_id);
                    format!("d{d} sends {} {short} g{generation} to n{n:02}", command.action.as_str())
                });
                self.count("commands sent", 1);
                let before = self.control.sending.entry(replica_id).or_default();
                before.push_back(Box::new(command.clone()));
                if before.len() == 1 {
                    self.try_send(0, Box::new(command));
                }
            }
            Effect::Watch(node) => {
                let n = node_index(&node);
                self.touch(n);
                if self.deployment(d).is_some_and(|actor| actor.followed.insert(n)) {
                    self.find_session(d, n);
                }
            }
            Effect::Unwatch(node) => {
                let n = node_index(&node);
                if let Some(actor) = self.deployment(d) {
                    actor.followed.remove(&n);
                }
            }
            Effect::Publish(spec) => self.mail(Who::Router, Mail::Publish(spec)),
            Effect::Withdraw => self.mail(Who::Router, Mail::Withdraw(deployment_id(d))),
            Effect::Hold => self.hold_places(d, |_| true),
            Effect::AskMove(node) => self.mail(Who::Scheduler, Mail::AskMove(d, incarnation, node)),
            Effect::Finished => {
                self.control.names.remove(&d);
                self.control.cells.remove(&Who::Deployment(d));
                self.oracle.finished(d);
                self.touch_nodes_of(d);
            }
        }
    }

    /// Looks at a node's session, once it is open; a node that is not known is gone.
    fn find_session(&mut self, d: u32, n: u16) {
        if self.control.cells.contains_key(&Who::Session(n)) {
            return self.wake(d, n);
        }
        let known = self.registry().map(|machine| machine.node(&node_id(n)).is_some());
        if known == Some(false) {
            return self.mail(Who::Deployment(d), Mail::NodeGone(node_id(n)));
        }
        let Some(incarnation) = self.cell(Who::Deployment(d)).map(|cell| cell.incarnation) else { return };
        let life = self.control.life;
        self.after(100, Event::Mail(life, Who::Deployment(d), Mail::Follow(incarnation, n)));
    }

    pub(crate) fn wake_followers(&mut self, n: u16) {
        let follows = |(who, cell): (&Who, &super::control::Cell)| match (who, &cell.machine) {
            (Who::Deployment(d), Some(Machine::Deployment(actor))) if actor.followed.contains(&n) => Some(*d),
            _ => None,
        };
        let followers: Vec<u32> = self.control.cells.iter().filter_map(follows).collect();
        followers.into_iter().for_each(|d| self.wake(d, n));
    }

    fn wake(&mut self, d: u32, n: u16) {
        if self.deployment(d).is_some_and(|actor| actor.looking.insert(n)) {
            self.mail(Who::Deployment(d), Mail::Look(n));
        }
    }

    fn look(&mut self, d: u32, n: u16) {
        let id = deployment_id(d);
        let Some(Status::Session { update: Some(update), reports, reported }) =
            self.control.cells.get(&Who::Session(n)).and_then(|cell| cell.status.as_ref())
        else {
            return;
        };
        let facts = NodeFacts {
            scheduling: update.node.scheduling,
            node_id: update.node.id.clone(),
            node_name: update.node.name.clone(),
            availability: update.availability,
            proxy: update.node.proxy_address(),
            report_seq: *reports,
            replicas: reported.iter().filter(|report| report.deployment_id == id).cloned().collect(),
        };
        self.drive_deployment(d, Happens::Node(facts));
    }

    pub(crate) fn deployment_settled(&mut self, d: u32) {
        let Some(actor) = self.deployment(d) else { return };
        let dep = actor.machine.deployment().clone();
        if let Some(cell) = self.cell(Who::Deployment(d)) {
            let same = matches!(&cell.status, Some(Status::Deployment(known)) if **known == dep);
            if !same {
                cell.status = Some(Status::Deployment(Box::new(dep)));
                self.touch_nodes_of(d);
            }
        }
    }

    /// Lines of the journal, which become durable with the commit that they came with.
    pub(crate) fn journal(&mut self, who: Who, happenings: Vec<Happening>) -> Vec<(u32, Happening)> {
        let Who::Deployment(d) = who else { return Vec::new() };
        for happening in &happenings {
            self.count("lines of the journal", 1);
            self.trace(|| format!("d{d} journal {}: {}", happening.kind, happening.message));
        }
        happenings.into_iter().map(|happening| (d, happening)).collect()
    }
}
