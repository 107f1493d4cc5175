//! The conversation that agents lead with nebulad: registrations and heartbeats, as the agent's registrar holds it.

use nebula_core::ids::CommandId;
use nebula_core::timing;
use nebulad::domain::command::Command;
use nebulad::domain::report::ReplicaReport;

use super::agent::{Answer, Speaking, remember};
use super::sim::{Event, Sim};
use nebula_agent::replica::machine::Refusal;

/// As in the agent's registrar: acknowledgements that may wait.
const ACKS_MAX: usize = 1_024;
/// After so many full reports in which nothing was new, only the sign of life is simulated; one in so many is full.
const SAME_MIN: u8 = 3;
const FULL_ONE_IN: u64 = 25;

/// What an agent says.
#[derive(Clone, Debug)]
pub(crate) enum Beat {
    Register { boot_id: String },
    Report { boot_id: String, replicas: Vec<ReplicaReport>, acked: Vec<CommandId> },
    Deregister,
}

/// What it hears.
#[derive(Clone, Debug)]
pub(crate) enum BeatAnswer {
    Registered,
    Heard {
        commands: Vec<Command>,
        reregister: bool,
        acked: usize,
    },
    /// nebulad does not know this node.
    Unknown,
    /// No answer within the deadline, or nobody there.
    Failed {
        spent: u64,
    },
}

impl Sim {
    pub(crate) fn speak_at(&mut self, n: u16, at: u64) {
        let agent = self.agent(n);
        agent.token += 1;
        let token = agent.token;
        self.at(at.max(self.now), Event::AgentSpeaks { node: n, token });
    }

    /// The agent makes a call.
    pub(crate) fn speak(&mut self, n: u16) {
        if self.speaks_lightly(n) {
            return;
        }
        let agent = self.agent(n);
        agent.speaking = Speaking::Calling;
        agent.call += 1;
        let (life, call) = (agent.life, agent.call);
        let boot_id = agent.boot_id();
        let beat = if agent.registered {
            let acked = agent.acks.iter().copied().collect();
            Beat::Report { boot_id, replicas: agent.replicas(), acked }
        } else {
            Beat::Register { boot_id }
        };
        if let Beat::Register { boot_id } = &beat {
            self.trace(|| format!("n{n:02} registers as {boot_id}"));
        }
        self.transmit(n, || Event::BeatArrives { node: n, life, call, beat: Box::new(beat.clone()) });
        let deadline = millis(timing::CALL_DEADLINE);
        let answer = Box::new(BeatAnswer::Failed { spent: deadline });
        self.after(deadline, Event::BeatAnswered { node: n, life, call, answer });
    }

    /// A sign of life of a node where nothing is new costs one event and no message: neither it nor its answer would
    /// say more than that.
    fn speaks_lightly(&mut self, n: u16) -> bool {
        let now = self.now;
        let quiet = {
            let link = self.links[usize::from(n)].is_good(now);
            let agent = self.agent(n);
            agent.registered && !agent.changed && agent.same >= SAME_MIN && agent.acks.is_empty() && link
        };
        if !quiet || self.rng.below(FULL_ONE_IN) == 0 || !self.control_hears_lightly(n) {
            return false;
        }
        self.count("quiet heartbeats", 1);
        let chance = self.rng.unit();
        let wait = millis(timing::heartbeat(timing::HEARTBEAT_INTERVAL, chance));
        let from = now + millis(timing::HEARTBEAT_GAP_MIN);
        self.agent(n).speaking = Speaking::Waiting(Some(from));
        self.speak_at(n, now + wait);
        true
    }

    /// nebulad answers a call, if the network lets it.
    pub(crate) fn answer_beat(&mut self, n: u16, life: u32, call: u64, answer: BeatAnswer) {
        let make = || Event::BeatAnswered { node: n, life, call, answer: Box::new(answer.clone()) };
        self.transmit(n, make);
    }

    pub(crate) fn beat_answered(&mut self, n: u16, answer: BeatAnswer) {
        let agent = self.agent(n);
        agent.call += 1;
        match answer {
            BeatAnswer::Registered => {
                agent.registered = true;
                agent.same = 0;
                self.wait(n, 0, false);
            }
            BeatAnswer::Heard { commands, reregister, acked } => self.heard(n, commands, reregister, acked),
            BeatAnswer::Unknown => {
                agent.same = 0;
                agent.registered = false;
                if std::mem::replace(&mut agent.unproven, true) {
                    self.failed(n, 0);
                } else {
                    self.wait(n, 0, false);
                }
            }
            BeatAnswer::Failed { spent } => {
                agent.same = 0;
                self.failed(n, spent);
            }
        }
    }

    fn heard(&mut self, n: u16, commands: Vec<Command>, reregister: bool, acked: usize) {
        let agent = self.agent(n);
        agent.acks.drain(..acked.min(agent.acks.len()));
        agent.same = if commands.is_empty() { agent.same.saturating_add(1) } else { 0 };
        for command in commands {
            self.obey(n, &command);
            if !self.agent(n).up {
                return;
            }
        }
        let agent = self.agent(n);
        if reregister {
            agent.registered = false;
            agent.same = 0;
            if std::mem::replace(&mut agent.unproven, true) {
                self.failed(n, 0);
            } else {
                self.wait(n, 0, false);
            }
            return;
        }
        agent.unproven = false;
        agent.failures = 0;
        if !agent.acks.is_empty() {
            return self.wait(n, millis(timing::HEARTBEAT_GAP_MIN), false);
        }
        let chance = self.rng.unit();
        self.wait(n, millis(timing::heartbeat(timing::HEARTBEAT_INTERVAL, chance)), true);
    }

    /// A command of a heartbeat's answer: carried out at most once, acknowledged with the next heartbeat.
    fn obey(&mut self, n: u16, command: &Command) {
        let settled = if self.agent(n).disk.done.contains(&command.id) {
            self.count("commands known already", 1);
            true
        } else {
            let answer = self.take_command(n, command);
            if !self.agent(n).up {
                return;
            }
            let settled = match answer {
                Answer::Done | Answer::Refused(Refusal::Stale { .. } | Refusal::Unknown) => true,
                Answer::Declined => {
                    let agent = self.agent(n);
                    let known = (command.deployment_id, command.replica_id, command.generation);
                    if !agent.declined.iter().any(|(_, id, newer)| *id == known.1 && *newer > known.2) {
                        agent.declined.retain(|(_, id, _)| *id != known.1);
                        agent.declined.push(known);
                        agent.same = 0;
                    }
                    true
                }
                Answer::Refused(Refusal::Deleting | Refusal::Halting) | Answer::Later => false,
            };
            if settled {
                remember(&mut self.agent(n).disk.done, command.id);
            }
            settled
        };
        let acks = &mut self.agent(n).acks;
        if settled && acks.len() < ACKS_MAX && !acks.contains(&command.id) {
            acks.push_back(command.id);
        }
    }

    fn failed(&mut self, n: u16, spent: u64) {
        self.count("calls of agents failed", 1);
        self.trace(|| format!("n{n:02} call failed"));
        let chance = self.rng.unit();
        let agent = self.agent(n);
        agent.failures = agent.failures.saturating_add(1);
        let spent = std::time::Duration::from_millis(spent);
        let wait = timing::retry(timing::HEARTBEAT_INTERVAL, agent.failures, spent, chance);
        self.wait(n, millis(wait), false);
    }

    /// Waits, and with `or_change` no longer than until something changes.
    fn wait(&mut self, n: u16, wait: u64, or_change: bool) {
        let from = self.now + millis(timing::HEARTBEAT_GAP_MIN).min(wait);
        let at = self.now + wait;
        let agent = self.agent(n);
        if or_change && std::mem::take(&mut agent.changed) {
            agent.speaking = Speaking::Waiting(None);
            return self.speak_at(n, from);
        }
        agent.speaking = Speaking::Waiting(or_change.then_some(from));
        self.speak_at(n, at);
    }
}

/// Whole milliseconds.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
