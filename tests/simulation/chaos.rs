//! What users and operators do, and what the world does to them.

use std::time::Duration;

use nebula_core::clock::Tick;
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash};
use nebulad::actors::caution::Caution;
use nebulad::actors::deployment::machine::Intent;
use nebulad::domain::deployment::{Autoscale, Deployment, DeploymentSpec, GpuNeed, LostAfter, Strategy};
use nebulad::domain::node::Scheduling;
use nebulad::ports::Write;

use super::agent::{DECLINED, FLAKY, node_id};
use super::control::registry_op::Op;
use super::control::{Mail, Plan, Point, Who, deployment_id};
use super::sim::{Event, NODES, Sim};
use super::talk::Beat;

/// Deployments that live at once.
const DEPLOYMENTS_MAX: usize = 24;
/// How an argument begins that a change of a spec replaces.
const CHANGED: &str = "--changed-at=";
/// Copies of the store that are kept.
const EXPORTS_KEPT: usize = 3;

/// How often what happens while the world hurts: weights of the acts, and chances in a thousand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) name: &'static str,
    pub(crate) wishes: u64,
    pub(crate) operators: u64,
    pub(crate) links: u64,
    pub(crate) partitions: u64,
    pub(crate) control: u64,
    pub(crate) actors: u64,
    pub(crate) agents: u64,
    pub(crate) machines: u64,
    pub(crate) pauses: u64,
    pub(crate) restores: u64,
    pub(crate) changes: u64,
    pub(crate) loads: u64,
    pub(crate) slow_commits: u64,
    pub(crate) prepare_fails: u64,
    pub(crate) exits: u64,
}

/// What is planned for a moment.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Something happens, and then the next.
    Next,
    /// A deployment's first record is durable.
    Created(u32, u32, Box<Deployment>, u64),
}

impl Sim {
    pub(crate) fn act(&mut self, act: Act) {
        match act {
            Act::Next => {
                if self.hurting {
                    self.something();
                    let pause = self.rng.between(200, 9_000);
                    self.after(pause, Event::Act(Act::Next));
                }
            }
            Act::Created(life, d, dep, number) => self.created(life, d, *dep, number),
        }
    }

    fn something(&mut self) {
        let mix = self.mix;
        let weights = [
            mix.wishes,
            mix.operators,
            mix.links,
            mix.partitions,
            mix.control,
            mix.actors,
            mix.agents,
            mix.machines,
            mix.pauses,
            mix.restores,
            mix.changes,
            mix.loads,
        ];
        let mut at = self.rng.below(weights.iter().sum());
        let mut which = 0;
        for (index, weight) in weights.iter().enumerate() {
            if at < *weight {
                which = index;
                break;
            }
            at -= weight;
        }
        let n = self.any_node();
        match which {
            0 => self.wish(),
            1 => self.operate(),
            2 => self.spoil_link(n),
            3 => self.partition(),
            4 => self.hurt_control(),
            5 => self.hurt_actor(),
            6 => self.hurt_agent(n),
            7 => self.hurt_machine(n),
            8 => self.pause(),
            9 => self.restore(),
            10 => self.change(),
            _ => self.load(),
        }
    }

    pub(crate) fn any_node(&mut self) -> u16 {
        u16::try_from(self.rng.below(u64::from(NODES))).unwrap_or(0)
    }

    /// The number of the next thing that somebody asks for.
    fn number(&mut self) -> u64 {
        self.count("wishes", 1);
        self.counts["wishes"]
    }

    // Users.

    fn wish(&mut self) {
        let known: Vec<u32> = self.control.names.iter().copied().collect();
        let few = known.len() < DEPLOYMENTS_MAX;
        if known.is_empty() || (few && self.rng.chance(250)) {
            return self.create();
        }
        let Some(d) = self.rng.pick(&known) else { return };
        let intent = match self.rng.below(100) {
            0..18 => Intent::Start,
            18..34 => Intent::Stop,
            34..54 => Intent::Restart,
            54..72 => Intent::Scale(u32::try_from(self.rng.below(4)).unwrap_or(0)),
            72..86 => Intent::Rotate { token: self.token(), overlap: Duration::ZERO },
            _ => Intent::Delete,
        };
        self.want(d, intent);
    }

    /// Some deployment gets another spec, whether it runs, stops or is stopped.
    fn change(&mut self) {
        let known: Vec<u32> = self.control.names.iter().copied().collect();
        let Some(d) = self.rng.pick(&known) else { return };
        let Some(actor) = self.deployment(d) else { return };
        let mut spec = actor.machine.deployment().spec.clone();
        spec.args.retain(|arg| !arg.starts_with(CHANGED));
        match self.rng.below(10) {
            // What no agent starts, and back.
            0..3 => spec.args.push(DECLINED.to_owned()),
            3 => spec.args.retain(|arg| arg != DECLINED),
            4 => spec.strategy = Strategy::Recreate,
            5 => spec.public = !spec.public,
            _ => spec.args.push(format!("{CHANGED}{}", self.now)),
        }
        self.count("specs changed", 1);
        self.want(d, Intent::Change(Box::new(spec)));
    }

    fn token(&mut self) -> TokenHash {
        TokenHash::of(&format!("nbtok_{}", self.rng.next()))
    }

    pub(crate) fn want(&mut self, d: u32, intent: Intent) {
        let number = self.number();
        if self.is_up(Who::Deployment(d)) {
            self.mail(Who::Deployment(d), Mail::Want(number, Box::new(intent)));
        } else {
            self.count("wishes refused", 1);
        }
    }

    fn create(&mut self) {
        if !self.control.up || self.control.caution.holds() {
            return;
        }
        let number = self.number();
        let d = u32::try_from(number).unwrap_or(u32::MAX);
        let mut args = Vec::new();
        match self.rng.below(20) {
            0 => args.push(DECLINED.to_owned()),
            1..5 => args.push(FLAKY.to_owned()),
            _ => {}
        }
        let count = u32::try_from(self.rng.below(3)).unwrap_or(0);
        let lost_after = match self.rng.below(4) {
            0 => LostAfter::Never,
            1 => LostAfter::DEFAULT,
            _ => LostAfter::After(Duration::from_secs(20)),
        };
        let (cooldown, idle_after) = (Duration::from_secs(5), Duration::from_secs(20));
        let min = u32::try_from(self.rng.below(2)).unwrap_or(0);
        let autoscale = Autoscale { min, max: 4, target: 4, cooldown, idle_after };
        let spec = DeploymentSpec {
            replicas: u32::try_from(self.rng.between(1, 3)).unwrap_or(1),
            lost_after,
            autoscale: Some(autoscale).filter(|_| self.rng.chance(200)),
            gpu: GpuNeed { count, ..GpuNeed::default() },
            args,
            ..DeploymentSpec::plain("m", RuntimeKind::Sim)
        };
        let gateway_token = Secret::from_text(format!("nbgw_{d}"));
        let made = Deployment::new(format!("d{d}"), spec, self.token(), gateway_token, self.wall());
        let dep = Deployment { id: deployment_id(d), ..made };
        self.control.names.insert(d);
        let now = self.now;
        let writes = vec![Write::PutDeployment(Box::new(dep.clone()))];
        let takes = self.rng.between(1, 20);
        let at = self.control.store.submit(writes, Vec::new(), now, takes);
        self.at(at, Event::Act(Act::Created(self.control.life, d, Box::new(dep), number)));
    }

    fn created(&mut self, life: u32, d: u32, dep: Deployment, number: u64) {
        if !self.control.up || self.control.life != life {
            return;
        }
        self.store_advances();
        self.count("deployments created", 1);
        let now = self.now;
        self.oracle.created(d, number, &dep, now);
        self.open(Who::Deployment(d));
    }

    // Operators.

    fn operate(&mut self) {
        let n = self.any_node();
        let op = match self.rng.below(10) {
            0..3 => Op::Schedule(node_id(n), Scheduling::Cordoned),
            3..5 => Op::Schedule(node_id(n), Scheduling::Draining),
            5..8 => Op::Schedule(node_id(n), Scheduling::Schedulable),
            _ => Op::Forget(self.a_silent_node().unwrap_or_else(|| node_id(n))),
        };
        self.operator(op);
    }

    fn a_silent_node(&mut self) -> Option<nebula_core::ids::NodeId> {
        let machine = self.registry()?;
        let offline = nebulad::domain::node::Availability::Offline;
        machine.nodes().find(|update| update.availability == offline).map(|update| update.node.id)
    }

    pub(crate) fn operator(&mut self, op: Op) {
        let number = self.number();
        match op {
            Op::Schedule(..) => self.count("nodes cordoned or uncordoned", 1),
            Op::Forget(_) => self.count("nodes told to be forgotten", 1),
        }
        self.mail(Who::Registry, Mail::Operator(number, op));
    }

    // The network.

    fn spoil_link(&mut self, n: u16) {
        self.count("links spoiled", 1);
        let until = self.now + self.rng.between(5_000, 240_000);
        let (loss, late, twice) = (self.rng.below(500), self.rng.below(300), self.rng.below(200));
        let link = &mut self.links[usize::from(n)];
        (link.bad_until, link.loss, link.late, link.twice) = (until, loss, late, twice);
    }

    fn partition(&mut self) {
        let (many, longest) = match self.rng.below(20) {
            0 => (self.rng.between(26, u64::from(NODES)), 300_000),
            1..6 => (self.rng.between(2, 12), 200_000),
            _ => (1, 400_000),
        };
        self.count(if many > 25 { "mass partitions" } else { "partitions" }, 1);
        let until = self.now + self.rng.between(2_000, longest);
        for _ in 0..many {
            let n = self.any_node();
            self.links[usize::from(n)].cut_until = until;
        }
        self.trace(|| format!("{many} nodes are cut off until {}", until / 1_000));
    }

    // nebulad.

    fn hurt_control(&mut self) {
        let whole = true;
        match self.rng.below(4) {
            0 => {
                let down = self.rng.between(100, 150_000);
                self.control_dies(down);
            }
            _ => self.plan_crash(whole),
        }
    }

    fn plan_crash(&mut self, whole: bool) {
        let point = self.rng.pick(&[Point::BeforeCommit, Point::AfterCommit, Point::Between]);
        let after = u32::try_from(self.rng.below(12)).unwrap_or(0);
        self.control.plan = point.map(|point| Plan { point, after, whole });
    }

    fn hurt_actor(&mut self) {
        if self.rng.chance(400) {
            return self.plan_crash(false);
        }
        let all: Vec<Who> = self.control.cells.keys().copied().collect();
        let often = [Who::Registry, Who::Scheduler, Who::Router];
        let from = if self.rng.chance(300) { &often[..] } else { &all[..] };
        let Some(who) = self.rng.pick(from) else { return };
        // Now and then one falls so often that it stays down.
        let times = if self.rng.chance(40) { 7 } else { 1 };
        for _ in 0..times {
            self.actor_falls(who);
            // What it reads waits for what is on its way to the disk.
            if times == 1 || self.control.store.quiet_at() > self.now {
                break;
            }
            self.rebuild(who);
        }
    }

    fn pause(&mut self) {
        if self.control.up {
            self.count("nebulad stopped and continued", 1);
            let until = self.now + self.rng.between(1_000, 200_000);
            self.control.paused_until = until;
            self.at(until, Event::ControlContinues(self.control.life));
        }
    }

    /// The store is lost, and what comes back is an older copy of it.
    fn restore(&mut self) {
        if self.exports.len() < EXPORTS_KEPT || self.rng.chance(500) || !self.control.up {
            self.store_advances();
            if self.exports.len() >= EXPORTS_KEPT {
                self.exports.remove(0);
            }
            let image = self.control.store.image.clone();
            return self.exports.push(image);
        }
        let Some(image) = self.rng.pick(&self.exports) else { return };
        self.count("stores restored", 1);
        let down = self.rng.between(1_000, 20_000);
        self.control_dies(down);
        self.trace(|| "the store is replaced by an older copy".to_owned());
        let now = self.now;
        self.control.store.image = image;
        // As long as two heartbeats.
        self.control.caution = Caution::new(true, Some(Tick(now + down + 60_000)));
        let image = &self.control.store.image;
        self.oracle.restored(image, now);
        self.restored = true;
    }

    // Nodes.

    fn hurt_agent(&mut self, n: u16) {
        if self.rng.chance(500) {
            let effects = u32::try_from(self.rng.below(8)).unwrap_or(0);
            self.agent(n).die_in = Some(effects);
            return;
        }
        self.count("agents died", 1);
        let down = if self.rng.chance(200) { 250_000 } else { 20_000 };
        let down = self.rng.between(200, down);
        self.agent_dies(n, down);
    }

    fn hurt_machine(&mut self, n: u16) {
        let loses_disk = self.rng.chance(400);
        let leaves = self.rng.chance(200);
        if leaves {
            // It takes its leave, which the network may repeat, and comes back.
            self.count("nodes deregistered", 1);
            let (life, call) = (self.agent(n).life, 0);
            let make = || Event::BeatArrives { node: n, life, call, beat: Box::new(Beat::Deregister) };
            self.transmit(n, make);
        }
        self.count("machines booted", 1);
        let down = self.rng.between(20_000, 120_000);
        self.agent_dies(n, down);
        let agent = self.agent(n);
        agent.processes.clear();
        agent.boots = agent.boots.wrapping_add(1);
        if loses_disk {
            self.count("disks of nodes lost", 1);
            self.agent(n).disk = super::agent::Disk::default();
            self.oracle.disk_lost(n);
        }
    }
}
