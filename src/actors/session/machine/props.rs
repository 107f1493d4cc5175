//! The outbox against an agent that may be away, answer late, or have heard a command without saying so; and a session
//! that falls at any point.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const REPLICAS: u8 = 3;

/// What happens next.
#[derive(Clone, Debug)]
enum Act {
    /// A deployment wants something of a replica.
    Want(u8, Wish),
    /// The oldest call under way ends: whether the agent heard it, and whether nebulad hears that.
    CallEnds(bool, bool),
    /// A heartbeat, whose answer may be lost.
    Beat(bool),
    /// The node is back: everything that waits is called.
    Back,
    /// The session falls; the agent may have taken what was under way.
    Fall(bool),
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Start,
    Restart,
    Rotate,
    Stop,
}

fn act() -> impl Strategy<Value = Act> {
    let wish = prop_oneof![Just(Wish::Start), Just(Wish::Restart), Just(Wish::Rotate), Just(Wish::Stop)];
    prop_oneof![
        4 => (0..REPLICAS, wish).prop_map(|(replica, wish)| Act::Want(replica, wish)),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(heard, answered)| Act::CallEnds(heard, answered)),
        3 => any::<bool>().prop_map(Act::Beat),
        1 => Just(Act::Back),
        1 => any::<bool>().prop_map(Act::Fall),
    ]
}

/// What was wanted last of a replica, and what its agent last took in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stand {
    generation: u64,
    token: u8,
    stopped: bool,
}

struct World {
    machine: Machine,
    durable: Vec<Command>,
    calls: Vec<Command>,
    wanted: BTreeMap<u8, Stand>,
    agent: BTreeMap<u8, Stand>,
    acks: Vec<CommandId>,
    tokens: u8,
}

fn node() -> NodeId {
    "n".parse().expect("an id")
}

fn hash(token: u8) -> nebula_core::token::TokenHash {
    nebula_core::token::TokenHash::from_bytes([token; 32])
}

impl World {
    fn new() -> Self {
        Self {
            machine: Machine::load(node(), Vec::new()),
            durable: Vec::new(),
            calls: Vec::new(),
            wanted: BTreeMap::new(),
            agent: BTreeMap::new(),
            acks: Vec::new(),
            tokens: 0,
        }
    }

    /// Carries out effects as a shell does: what is written first.
    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in &effects {
            if let Effect::Persist(write) = effect {
                match write.clone() {
                    Write::PutCommand(command) => self.durable.push(*command),
                    Write::DeleteCommand(_, id) => self.durable.retain(|command| command.id != id),
                    other => panic!("not a session's write: {other:?}"),
                }
            }
        }
        for effect in effects {
            match effect {
                Effect::Call(command) => {
                    assert!(self.durable.contains(&command), "called before it was durable");
                    let same = |other: &&Command| other.replica_id == command.replica_id;
                    assert_eq!(self.calls.iter().find(same), None, "two calls about one replica");
                    self.calls.push(*command);
                }
                Effect::Persist(_) | Effect::Reply(..) | Effect::Rejected(..) => {}
                Effect::Finished => panic!("nobody closed it"),
            }
        }
    }

    fn want(&mut self, number: u8, wish: Wish) {
        let stand = self.wanted.entry(number).or_default();
        let action = match wish {
            Wish::Rotate if stand.generation > 0 => {
                self.tokens = self.tokens.wrapping_add(1);
                stand.token = self.tokens;
                Action::Access { tokens: vec![hash(stand.token)], public: false }
            }
            Wish::Stop if stand.generation > 0 => {
                stand.stopped = true;
                Action::Stop
            }
            Wish::Start | Wish::Restart | Wish::Rotate | Wish::Stop => {
                let again = matches!(wish, Wish::Start) && stand.generation > 0 && !stand.stopped;
                stand.generation += u64::from(!again);
                stand.stopped = false;
                Action::Start(Box::new(start(stand.token)))
            }
        };
        let command = Command {
            drain: Duration::ZERO,
            id: CommandId::random(),
            node_id: node(),
            deployment_id: DeploymentId::from_bytes([1; 16]),
            replica_id: ReplicaId::from_bytes([number; 16]),
            generation: Generation(stand.generation),
            action,
            created_at: WallTime(0),
        };
        let effects = self.machine.step(Event::Enqueue(ReplyTo(0), Box::new(command)));
        self.perform(effects);
    }

    /// What an agent does: older generations are refused, a start that it had is none, credentials count at once.
    fn hear(&mut self, command: &Command) {
        let number = command.replica_id.as_bytes()[0];
        let given = command.generation.0;
        let Some(stand) = self.agent.get_mut(&number) else {
            if let Action::Start(spec) = &command.action {
                let token = spec.token.map_or(0, |token| token.as_bytes()[0]);
                self.agent.insert(number, Stand { generation: given, token, stopped: false });
            }
            return;
        };
        match &command.action {
            Action::Access { tokens, .. } => {
                stand.token = tokens.first().map_or(0, |token| token.as_bytes()[0])
            }
            Action::Start(spec) if given > stand.generation => {
                let token = spec.token.map_or(0, |token| token.as_bytes()[0]);
                *stand = Stand { generation: given, token, stopped: false };
            }
            Action::Stop if given >= stand.generation => {
                (stand.generation, stand.stopped) = (given, true);
            }
            Action::Start(_) | Action::Stop | Action::Delete => {}
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Want(number, wish) => self.want(number, wish),
            Act::CallEnds(heard, answered) => {
                if self.calls.is_empty() {
                    return;
                }
                let command = self.calls.remove(0);
                if heard {
                    self.hear(&command);
                }
                let result = if heard && answered {
                    Ok(())
                } else {
                    Err(AgentError::Unreachable("no answer".to_owned()))
                };
                let effects = self.machine.step(Event::Called(command.id, result));
                self.perform(effects);
            }
            Act::Beat(answered) => {
                let report = NodeReport { acked: self.acks.clone(), ..NodeReport::default() };
                let (commands, effects) = self.machine.report(report);
                self.perform(effects);
                if answered {
                    self.acks.clear();
                    for command in commands {
                        let held = self.calls.iter().any(|call| call.replica_id == command.replica_id);
                        assert!(!held, "said while a call about the same replica is under way");
                        self.hear(&command);
                        self.acks.push(command.id);
                    }
                }
            }
            Act::Back => {
                let effects = self.machine.call_all();
                self.perform(effects);
            }
            Act::Fall(heard) => {
                // Calls under way end unheard by anybody here; the agent may have taken them.
                for command in std::mem::take(&mut self.calls) {
                    if heard {
                        self.hear(&command);
                    }
                }
                self.machine = Machine::load(node(), self.durable.clone());
            }
        }
        assert_eq!(self.machine.waiting(), self.durable.len(), "what waits is what is durable");
    }

    /// Everything is heard and answered.
    fn heal(&mut self) {
        for _ in 0..20 {
            self.act(&Act::CallEnds(true, true));
            self.act(&Act::Beat(true));
            self.act(&Act::Back);
        }
    }
}

fn start(token: u8) -> crate::domain::command::StartSpec {
    crate::domain::command::StartSpec {
        runtime: nebula_core::runtime::RuntimeKind::Sim,
        driver: None,
        image: String::new(),
        model: "m".to_owned(),
        source: None,
        command: Vec::new(),
        args: Vec::new(),
        env: BTreeMap::new(),
        gpu_devices: Vec::new(),
        served_name: "m".to_owned(),
        public: false,
        token: Some(hash(token)),
        gateway_token: nebula_core::token::Secret::from_text("nbgw_x"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is lost, repeated or cut off by a fall, each agent ends with what was wanted last, the newest token
    /// among it, and nothing waits any more.
    #[test]
    fn what_was_wanted_last_is_heard_last(acts in proptest::collection::vec(act(), 1..60)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.heal();
        prop_assert_eq!(world.machine.waiting(), 0);
        for (number, wanted) in &world.wanted {
            let agent = world.agent.get(number);
            if wanted.stopped {
                prop_assert!(agent.is_none_or(|agent| agent.stopped), "{agent:?}, wanted {wanted:?}");
            } else {
                prop_assert_eq!(agent, Some(wanted));
            }
        }
    }
}
