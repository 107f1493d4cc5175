use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::*;

/// A family as a world around the machine sees it: who lives, and in which incarnation.
struct World {
    machine: Machine,
    now: Tick,
    alive: BTreeMap<String, u64>,
    up: BTreeSet<String>,
    stopping: BTreeSet<String>,
    crashed: BTreeSet<String>,
    log: Vec<String>,
}

impl World {
    fn new(strategy: Strategy, children: &[(&str, Restart)]) -> Self {
        let mut world = Self {
            machine: Machine::new(strategy),
            now: Tick(0),
            alive: BTreeMap::new(),
            up: BTreeSet::new(),
            stopping: BTreeSet::new(),
            crashed: BTreeSet::new(),
            log: Vec::new(),
        };
        for (id, restart) in children {
            world.step(Event::Add((*id).to_owned(), *restart));
            world.run(id);
        }
        world.log.clear();
        world
    }

    fn step(&mut self, event: Event) {
        for effect in self.machine.step(event, self.now) {
            let word = match &effect {
                Effect::Build(id, incarnation) => {
                    assert!(self.alive.insert(id.clone(), *incarnation).is_none(), "{id} lives already");
                    self.crashed.remove(id);
                    format!("build {id}")
                }
                Effect::Stop(id) => {
                    assert!(self.alive.contains_key(id), "{id} does not live");
                    self.stopping.insert(id.clone());
                    format!("stop {id}")
                }
                Effect::Fell(id, _, pause) => format!("fell {id} {}", pause.as_millis()),
                Effect::Ended(id) => format!("ended {id}"),
                Effect::Crashed(id, _) => {
                    self.crashed.insert(id.clone());
                    format!("crashed {id}")
                }
                Effect::Forget(id) => format!("forget {id}"),
            };
            self.log.push(word);
        }
    }

    /// The child that is being built runs.
    fn run(&mut self, id: &str) {
        if let Some(incarnation) = self.alive.get(id).copied() {
            self.up.insert(id.to_owned());
            self.step(Event::Built { id: id.to_owned(), incarnation, result: Ok(()) });
        }
    }

    fn exit(&mut self, id: &str, exit: Exit) {
        self.stopping.remove(id);
        self.up.remove(id);
        if let Some(incarnation) = self.alive.remove(id) {
            self.step(Event::Exited { id: id.to_owned(), incarnation, exit });
        }
    }

    fn fall(&mut self, id: &str) {
        self.exit(id, Exit::Fell("test".to_owned()));
    }

    fn wait(&mut self, millis: u64) {
        self.now = self.now.plus(Duration::from_millis(millis));
        self.step(Event::Look);
    }

    fn log(&mut self) -> String {
        std::mem::take(&mut self.log).join(", ")
    }
}

const CORE: [(&str, Restart); 4] = [
    ("registry", Restart::Permanent),
    ("scheduler", Restart::Permanent),
    ("router", Restart::Permanent),
    ("catalog", Restart::Permanent),
];

#[test]
fn a_fall_takes_down_what_derives_from_it_and_nothing_else() {
    let mut core = World::new(Strategy::RestForOne, &CORE);
    core.fall("scheduler");
    assert_eq!(core.log(), "fell scheduler 100, stop catalog, stop router");
    core.exit("catalog", Exit::Stopped);
    core.wait(100);
    assert_eq!(core.log(), "ended catalog", "the router has not ended");
    core.exit("router", Exit::Stopped);
    assert_eq!(core.log(), "ended router, build scheduler");
    core.run("scheduler");
    assert_eq!(core.log(), "build router");
    core.run("router");
    core.run("catalog");
    assert_eq!(core.log(), "build catalog");
    assert_eq!(core.alive["registry"], 1);
    core.fall("catalog");
    assert_eq!(core.log(), "fell catalog 100", "it is the last");
}

#[test]
fn one_that_falls_while_it_ends_is_not_counted_and_one_that_is_built_ends_when_it_runs() {
    let mut core = World::new(Strategy::RestForOne, &CORE[..2]);
    core.fall("registry");
    core.fall("scheduler");
    core.wait(100);
    assert_eq!(core.log(), "fell registry 100, stop scheduler, ended scheduler, build registry");
    core.run("registry");
    assert_eq!(core.log(), "build scheduler");
    core.fall("registry");
    core.wait(200);
    assert_eq!(core.log(), "fell registry 200", "the scheduler is being built");
    core.run("scheduler");
    assert_eq!(core.log(), "stop scheduler");
    core.exit("scheduler", Exit::Stopped);
    assert_eq!(core.log(), "ended scheduler, build registry");
}

#[test]
fn pauses_grow_and_the_sixth_fall_within_a_minute_is_the_last() {
    let mut family = World::new(Strategy::OneForOne, &[("a", Restart::Permanent), ("b", Restart::Permanent)]);
    for pause in [100, 200, 400, 800, 1_600] {
        family.fall("a");
        assert_eq!(family.log(), format!("fell a {pause}"));
        family.wait(pause - 1);
        assert_eq!(family.log(), "");
        assert_eq!(family.machine.next_deadline(family.now), Some(family.now.plus(Duration::from_millis(1))));
        family.wait(1);
        assert_eq!(family.log(), "build a");
        family.run("a");
    }
    family.fall("a");
    assert_eq!(family.log(), "crashed a");
    family.wait(100_000);
    assert_eq!((family.log().as_str(), family.machine.is_down("a")), ("", Some(true)));
    family.step(Event::Renew("a".to_owned()));
    assert_eq!(family.log(), "build a");
    family.run("a");
    family.fall("a");
    assert_eq!(family.log(), "fell a 100", "the operator's restart begins anew");
}

#[test]
fn old_falls_are_forgiven_and_old_exits_ignored() {
    let mut family = World::new(Strategy::OneForOne, &[("a", Restart::Permanent)]);
    for _ in 0..20 {
        family.fall("a");
        family.wait(100);
        assert_eq!(family.log(), "fell a 100, build a");
        family.step(Event::Exited { id: "a".to_owned(), incarnation: 1, exit: Exit::Finished });
        assert_eq!(family.log(), "", "that was another incarnation");
        family.run("a");
        family.wait(60_001);
    }
}

#[test]
fn what_is_built_again_depends_on_the_end() {
    let ends = |restart, exit: Exit| {
        let mut family = World::new(Strategy::OneForOne, &[("a", restart)]);
        family.exit("a", exit);
        family.log()
    };
    assert_eq!(ends(Restart::Permanent, Exit::Finished), "fell a 100");
    assert_eq!(ends(Restart::Transient, Exit::Finished), "forget a");
    assert_eq!(ends(Restart::Transient, Exit::Fell(String::new())), "fell a 100");
    assert_eq!(ends(Restart::Temporary, Exit::Fell(String::new())), "forget a");
    assert_eq!(ends(Restart::Temporary, Exit::Finished), "forget a");
}

#[test]
fn one_that_runs_is_renewed_in_order() {
    let mut core = World::new(Strategy::RestForOne, &CORE[..3]);
    core.step(Event::Renew("scheduler".to_owned()));
    assert_eq!(core.log(), "stop scheduler, stop router");
    core.exit("router", Exit::Stopped);
    core.exit("scheduler", Exit::Stopped);
    core.run("scheduler");
    assert_eq!(core.log(), "ended router, ended scheduler, build scheduler, build router");
    let mut family = World::new(Strategy::OneForOne, &CORE[..2]);
    family.step(Event::Renew("registry".to_owned()));
    family.exit("registry", Exit::Stopped);
    assert_eq!(family.log(), "stop registry, ended registry, build registry");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever falls when: nobody lives twice, nobody is built before those it derives from run or while those that
    /// derive from it live, and in the end everyone runs who has not crashed or derives from one that has.
    #[test]
    fn the_core_is_always_built_in_order(
        actions in proptest::collection::vec((0_u8..6, 0_usize..4, 0_u64..3_000), 1..120)
    ) {
        let mut core = World::new(Strategy::RestForOne, &CORE);
        for (what, child, millis) in actions {
            let id = CORE[child].0;
            match what {
                0 => core.fall(id),
                1 if core.stopping.contains(id) => core.exit(id, Exit::Stopped),
                2 => {
                    let refused = core.alive.get(id).copied().filter(|_| !core.up.contains(id));
                    if let Some(incarnation) = refused {
                        core.alive.remove(id);
                        let result = Err("test".to_owned());
                        core.step(Event::Built { id: id.to_owned(), incarnation, result });
                    }
                }
                3 => core.step(Event::Renew(id.to_owned())),
                4 => core.wait(millis),
                _ => core.run(id),
            }
            for built in core.log().split(", ").filter_map(|word| word.strip_prefix("build ")) {
                let at = CORE.iter().position(|(id, _)| *id == built).expect("of the core");
                prop_assert!(CORE[..at].iter().all(|(id, _)| core.up.contains(*id)), "{built} was built too early");
                prop_assert!(CORE[at + 1..].iter().all(|(id, _)| !core.alive.contains_key(*id)), "{built} too");
            }
        }
        for _ in 0..40 {
            let stopping: Vec<String> = core.stopping.iter().cloned().collect();
            stopping.iter().for_each(|id| core.exit(id, Exit::Stopped));
            CORE.iter().for_each(|(id, _)| core.run(id));
            core.wait(30_000);
        }
        let crashed = CORE.iter().position(|(id, _)| core.crashed.contains(*id)).unwrap_or(CORE.len());
        for (at, (id, _)) in CORE.iter().enumerate() {
            prop_assert_eq!(core.alive.contains_key(*id), at < crashed, "{}", id);
        }
    }
}
